"""Strategic merge of a partial pod template, by Kubernetes' own merge keys. Pure: no input or output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

POD_TEMPLATE = "PodTemplateSpec"


class InvalidTemplate(ValueError):  # noqa: N818 - the word of the condition
    """A template that can't be merged; the message names the path and the rule."""


@dataclass(frozen=True, slots=True)
class Field:
    """How a field of a type is merged.

    Attributes
    ----------
    type
        The type of the object, or of the list's items; None where nothing in it has rules of its own.
    key
        The field that tells a list's items apart; None: the field isn't a list, or the list is replaced as a whole.
    retain
        Items are unions (a volume is of one kind): what the base says of an item goes when the overlay names another.
    """

    type: str | None = None
    key: str | None = None
    retain: bool = False


MergeTable = Mapping[str, Mapping[str, Field]]
"""Types by name, and of each the fields that aren't simply replaced or merged key by key."""

_META = {"metadata": Field("ObjectMeta")}
_CONTAINER = {
    "env": Field(key="name"),
    "ports": Field(key="containerPort"),
    "resources": Field("ResourceRequirements"),
    "volumeDevices": Field(key="devicePath"),
    "volumeMounts": Field(key="mountPath"),
}

BUILT_IN: MergeTable = {
    POD_TEMPLATE: _META | {"spec": Field("PodSpec")},
    "ObjectMeta": {"ownerReferences": Field(key="uid")},
    "PodSpec": {
        "containers": Field("Container", "name"),
        "ephemeralContainers": Field("EphemeralContainer", "name"),
        "hostAliases": Field(key="ip"),
        "imagePullSecrets": Field(key="name"),
        "initContainers": Field("Container", "name"),
        "resourceClaims": Field(key="name", retain=True),
        "resources": Field("ResourceRequirements"),
        "schedulingGates": Field(key="name"),
        "topologySpreadConstraints": Field(key="topologyKey"),
        "volumes": Field("Volume", "name", retain=True),
    },
    "Container": _CONTAINER,
    "EphemeralContainer": _CONTAINER,
    "ResourceRequirements": {"claims": Field(key="name")},
    "Volume": {"ephemeral": Field("EphemeralVolumeSource")},
    "EphemeralVolumeSource": {"volumeClaimTemplate": Field("PersistentVolumeClaimTemplate")},
    "PersistentVolumeClaimTemplate": _META,
}
"""The rules of Kubernetes 1.36, for when the API server's own can't be read."""


# --- the table -------------------------------------------------------------------------------------------------------


def table_of(document: Object, root: str = POD_TEMPLATE) -> MergeTable:
    """The merge rules of the types below `root`, from an OpenAPI v3 document of the API server (`apps/v1`).

    Raises
    ------
    ValueError
        The document has no such type.
    """
    schemas: Object = (document.get("components") or {}).get("schemas") or {}
    names = {name.rpartition(".")[2]: name for name in schemas if name.startswith("io.k8s.")}
    if root not in names:
        raise ValueError(f"the OpenAPI document has no type {root}")
    found: dict[str, dict[str, Field]] = {}
    _read_type(names[root], schemas, found)
    return _pruned(found, root)


def _read_type(name: str, schemas: Object, found: dict[str, dict[str, Field]]) -> None:
    short = name.rpartition(".")[2]
    if short in found or name not in schemas:
        return
    fields = found[short] = {}
    for field, schema in (schemas[name].get("properties") or {}).items():
        items = schema.get("items")
        target = _reference(schema if items is None else items)
        strategy = schema.get("x-kubernetes-patch-strategy", "").split(",")
        key = schema.get("x-kubernetes-patch-merge-key")
        keys: list[str] = schema.get("x-kubernetes-list-map-keys") or []
        if key is None and len(keys) == 1:
            key = keys[0]
        if target is not None:
            _read_type(target, schemas, found)
        fields[field] = Field(
            type=target.rpartition(".")[2] if target else None,
            key=key if items is not None else None,
            retain="retainKeys" in strategy,
        )


def _reference(schema: Object) -> str | None:
    parts: list[Object] = [schema, *(schema.get("allOf") or [])]
    for part in parts:
        if "$ref" in part:
            return str(part["$ref"]).rpartition("/")[2]
    return None


def _pruned(found: Mapping[str, Mapping[str, Field]], root: str) -> MergeTable:
    """The part of a table that says anything: types without a merge key below them go."""
    telling: set[str] = set()
    while True:
        more = {
            name
            for name, fields in found.items()
            if name not in telling and any(field.key or field.type in telling for field in fields.values())
        }
        if not more:
            break
        telling |= more
    return {
        name: {
            field: Field(rule.type if rule.type in telling else None, rule.key, rule.retain)
            for field, rule in found[name].items()
            # A list without a key is replaced as a whole: what its items' type says doesn't matter.
            if rule.key or rule.type in telling
        }
        for name in {root, *telling}
        if name in found
    }


# --- merging ---------------------------------------------------------------------------------------------------------


def merge(base: Object, overlay: Object, table: MergeTable = BUILT_IN, root: str = POD_TEMPLATE) -> dict[str, Any]:
    """`base` with `overlay` merged over it; neither is changed.

    Objects are merged key by key, null removes; lists whose items have a merge key are merged item by item (new items
    go to the end), other lists are replaced. `$patch: replace` or `delete` in an object or an item does what it says.

    Raises
    ------
    InvalidTemplate
        An object stands where a list should, or the reverse, or an item lacks its merge key.
    """
    return _merge_object(base, overlay, root, table, "")


def _merge_object(base: Object, overlay: Object, type_: str | None, table: MergeTable, path: str) -> dict[str, Any]:
    directive = overlay.get("$patch")
    if directive not in (None, "replace", "merge"):
        raise InvalidTemplate(f"{path or '.'}: $patch {directive!r} isn't known here; use replace or merge")
    merged = {} if directive == "replace" else dict(base)
    rules = table.get(type_ or "", {})
    for key, value in overlay.items():
        if key == "$patch":
            continue
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(merged.get(key), value, rules.get(key, Field()), table, f"{path}.{key}")
    return merged


def _merge_value(base: Any, value: Any, rule: Field, table: MergeTable, path: str) -> Any:
    if base is not None and isinstance(base, list | Mapping) and _shape(base) != _shape(value):
        raise InvalidTemplate(f"{path.removeprefix('.')}: must be {_shape(base)}, not {_shape(value)}")
    if isinstance(value, Mapping):
        return _merge_object(base or {}, value, rule.type, table, path)
    if isinstance(value, list) and rule.key is not None:
        return _merge_items(base or [], value, rule, table, path)
    return value


def _merge_items(base: list[Any], overlay: list[Any], rule: Field, table: MergeTable, path: str) -> list[Any]:
    assert rule.key is not None
    whole = {"$patch": "replace"} in overlay
    items = {} if whole else {item[rule.key]: item for item in base}
    for index, item in enumerate(overlay):
        if item == {"$patch": "replace"}:
            continue
        here = f"{path}[{index}]"
        if not isinstance(item, Mapping) or item.get(rule.key) in (None, ""):
            raise InvalidTemplate(f"{here.removeprefix('.')}.{rule.key}: is required, the items are merged by it")
        key = item[rule.key]
        if item.get("$patch") == "delete":
            items.pop(key, None)
            continue
        before = items.get(key, {})
        if rule.retain:
            before = {name: value for name, value in before.items() if name in item or name == rule.key}
        items[key] = _merge_object(before, item, rule.type, table, f"{path}[{rule.key}={key}]")
    return list(items.values())


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list) else "a single value"


# --- comparing -------------------------------------------------------------------------------------------------------


def uncovered(
    live: Object, wanted: Object, table: MergeTable = BUILT_IN, root: str = POD_TEMPLATE, path: str = ""
) -> Iterator[str]:
    """The paths at which `live` doesn't say what `wanted` says; what it says beyond that (defaults) doesn't count.

    Empty values and absent ones are the same, and so are two spellings of one quantity.
    """
    rules = table.get(root, {})
    for key, value in wanted.items():
        here = f"{path}.{key}" if path else key
        yield from _uncovered_value(live.get(key), value, rules.get(key, Field()), table, here)


def _uncovered_value(live: Any, wanted: Any, rule: Field, table: MergeTable, path: str) -> Iterator[str]:
    if _empty(wanted) and _empty(live):
        return
    if isinstance(wanted, Mapping):
        if isinstance(live, Mapping):
            yield from uncovered(live, wanted, table, rule.type or "", path)
        else:
            yield path
    elif isinstance(wanted, list):
        yield from _uncovered_items(live, wanted, rule, table, path)
    elif live != wanted and not _same_quantity(live, wanted, path):
        yield path


def _uncovered_items(live: Any, wanted: list[Any], rule: Field, table: MergeTable, path: str) -> Iterator[str]:
    there: list[Any] = live if isinstance(live, list) else []
    if rule.key is None:
        if len(there) != len(wanted):
            yield path
            return
        for index, (have, want) in enumerate(zip(there, wanted, strict=True)):
            yield from _uncovered_value(have, want, Field(rule.type), table, f"{path}[{index}]")
        return
    by_key = {item.get(rule.key): item for item in there}
    for item in wanted:
        here = f"{path}[{item[rule.key]}]"
        if item[rule.key] not in by_key:
            yield here
        else:
            yield from uncovered(by_key[item[rule.key]], item, table, rule.type or "", here)


def _empty(value: Any) -> bool:
    return value is None or value is False or value == 0 or value in ("", [], {})


_SUFFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3}
_SUFFIXES |= {letter: 10.0 ** (3 * power) for power, letter in enumerate("MGTPE", start=2)}
_SUFFIXES |= {f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTPE", start=1)}
_QUANTITIES = ("requests", "limits", "sizeLimit", "divisor", "storage")


def _same_quantity(live: Any, wanted: Any, path: str) -> bool:
    if not any(f".{word}" in path for word in _QUANTITIES):
        return False
    here, there = _quantity(live), _quantity(wanted)
    return here is not None and here == there


def _quantity(value: Any) -> float | None:
    text = str(value)
    number = text.rstrip("numkKMGTPEi")
    try:
        return round(float(number) * _SUFFIXES[text[len(number) :]], 9)
    except (ValueError, KeyError):
        return None
