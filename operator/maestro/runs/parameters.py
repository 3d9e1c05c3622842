"""Checks the parameters of Runs against an Automation's `parameterSchema` (JSON Schema 2020-12). No I/O."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import jsonschema_rs

from maestro.runs.model import Parameters

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SHORTEST_SECRET = 4
REDACTED = "***"
MAX_DETAILS = 20
"""So many complaints are listed; one more says that there are others."""
_MAX_KNOWN = 200
"""So many characters of known names are put beside an unknown one; more would bury the complaint."""
_PATTERN_BYTES = 1 << 20
_MAX_REFERENCES = 32
_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose value is data: nothing in it is a schema."""
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose value has names for keys, so that a `$ref` among them is a property and not a reference."""
_BESIDE = ("allOf", "anyOf", "oneOf")
_BRANCHES = ("if", "then", "else", "not")

Schema = Mapping[str, Any]
Detail = dict[str, str]


class InvalidSchema(ValueError):  # noqa: N818 - the word of the HTTP API
    """An Automation's `parameterSchema` can't be used; the message names the place."""


class InvalidParameters(ValueError):  # noqa: N818 - the word of the HTTP API
    """Parameters don't match. `details`: [{path, rule, message}], never with a value in it."""

    def __init__(self, details: Sequence[Detail]) -> None:
        self.details = tuple(details)
        super().__init__("; ".join(f"{detail['path'] or 'parameters'}: {detail['message']}" for detail in details))


class ParameterValidator:
    """A compiled schema with an Automation's default parameters. Making one is costly, using it isn't: keep it.

    Raises InvalidSchema.
    """

    def __init__(self, schema: Schema | None, defaults: Mapping[str, Any] | None = None) -> None:
        self._schema: Schema = schema or {}
        self._defaults = dict(defaults or {})
        _check_references(self._schema, "parameterSchema")
        self._validator = _compile(self._schema)
        self._secret = any(_mentions(self._schema, "writeOnly"))
        self._has_defaults = any(_mentions(self._schema, "default"))

    def merge_and_check(self, parameters: Mapping[str, Any]) -> Parameters:
        """The given parameters over the Automation's defaults, the schema's `default`s where nothing is given.

        Raises InvalidParameters.
        """
        merged: Parameters = {**self._defaults, **parameters}
        try:
            if self._has_defaults:
                merged = copy.deepcopy(merged)
                self._fill(self._schema, merged)
            if self._validator.is_valid(merged):
                return merged
            details = _details(self._schema, self._validator.iter_errors(merged))
        except RecursionError as error:
            raise InvalidParameters([_detail("", "depth", "nested too deeply")]) from error
        except ValueError as error:
            raise InvalidParameters([_detail("", "json", str(error))]) from error
        raise InvalidParameters(details)

    def redact(self, parameters: Mapping[str, Any]) -> Parameters:
        """A copy in which every `writeOnly` value is replaced."""
        if not self._secret:
            return dict(parameters)
        redacted = self._redacted([self._schema], parameters)
        return redacted if isinstance(redacted, dict) else {}

    def scrub(self, text: str, parameters: Mapping[str, Any]) -> str:
        """`text` without the `writeOnly` values of these parameters (those of fewer than four characters stay)."""
        hidden = {str(leaf) for leaf in _hidden_leaves(parameters, self.redact(parameters))}
        for secret in sorted(hidden, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, REDACTED)
        return text

    @property
    def has_secrets(self) -> bool:
        """The schema has `writeOnly` parameters."""
        return self._secret

    def _fill(self, schema: Any, value: Any) -> None:
        """Puts in defaults; only where a place is described unconditionally."""
        for part in self._unconditional(schema):
            if isinstance(value, dict):
                for name, sub in _mapping(part.get("properties")).items():
                    described = _mapping(sub)
                    if name not in value and "default" in described:
                        value[name] = copy.deepcopy(described["default"])
                    if name in value:
                        self._fill(sub, value[name])
            elif isinstance(value, list) and isinstance(part.get("items"), dict):
                for item in value:
                    self._fill(part["items"], item)

    def _redacted(self, schemas: Sequence[Any], value: Any) -> Any:
        """`schemas`: all that may describe the value, whichever branch holds: rather too much than too little."""
        parts = [part for schema in schemas for part in self._all_parts(schema)]
        if any(part.get("writeOnly") is True for part in parts):
            return REDACTED
        if isinstance(value, Mapping):
            return {name: self._redacted(_for_property(parts, name), item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._redacted(_for_item(parts, index), item) for index, item in enumerate(value)]
        return value

    def _unconditional(self, schema: Any) -> Iterator[Schema]:
        yield from self._parts(schema, ("allOf",), ())

    def _all_parts(self, schema: Any) -> Iterator[Schema]:
        yield from self._parts(schema, _BESIDE, _BRANCHES)

    def _parts(self, schema: Any, lists: Sequence[str], singles: Sequence[str]) -> Iterator[Schema]:
        """The schema itself and what applies at the same place, references followed."""
        pending, seen = [schema], 0
        while pending and seen < _MAX_REFERENCES * 8:
            part = pending.pop()
            seen += 1
            if not isinstance(part, Mapping):
                continue
            yield part
            if isinstance(part.get("$ref"), str):
                pending.append(self._resolve(part["$ref"]))
            for keyword in lists:
                found = part.get(keyword)
                pending.extend(found if isinstance(found, list) else ())
            pending.extend(part[keyword] for keyword in singles if keyword in part)

    def _resolve(self, reference: str) -> Any:
        """What a `#/…` reference points at; None where it names an anchor."""
        target: Any = self._schema
        for step in reference.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                target = target.get(key) if isinstance(target, Mapping) else None
        return target


def _hidden_leaves(value: Any, redacted: Any) -> Iterator[Any]:
    """The scalars in `value` that are replaced in `redacted`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _hidden_leaves(item, redacted[name] if isinstance(redacted, Mapping) else redacted)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _hidden_leaves(item, redacted[index] if isinstance(redacted, list) else redacted)
    elif value != redacted and not isinstance(value, bool) and value is not None:
        yield value


def _compile(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    if not isinstance(schema, Mapping):
        raise InvalidSchema("parameterSchema: must be an object")
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        raise InvalidSchema(f"parameterSchema.$schema: must be {DIALECT}")
    try:
        return jsonschema_rs.Draft202012Validator(
            dict(schema),
            validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
            offline=True,
            mask="the value",
        )
    except jsonschema_rs.ValidationError as error:
        place = ".".join(["parameterSchema", *(str(step) for step in error.instance_path)])
        raise InvalidSchema(f"{place}: {error.message}") from error
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise InvalidSchema(f"parameterSchema: {error}") from error


def _check_references(schema: Any, place: str) -> None:
    """Refuses references that lead outside. Raises InvalidSchema."""
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            _check_references(item, f"{place}.{index}")
    if not isinstance(schema, Mapping):
        return
    for keyword in ("$ref", "$dynamicRef"):
        reference = schema.get(keyword)
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InvalidSchema(f"{place}.{keyword}: only references within the schema (#…) are followed")
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, Mapping):
            for name, sub in value.items():
                _check_references(sub, f"{place}.{keyword}.{name}")
        elif keyword not in _DATA:
            _check_references(value, f"{place}.{keyword}")


def _mentions(schema: Any, word: str) -> Iterator[bool]:
    if isinstance(schema, Mapping):
        yield word in schema
        for value in schema.values():
            yield from _mentions(value, word)
    elif isinstance(schema, list):
        for item in schema:
            yield from _mentions(item, word)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _for_property(parts: Sequence[Schema], name: str) -> list[Any]:
    found: list[Any] = []
    for part in parts:
        properties = _mapping(part.get("properties"))
        if name in properties:
            found.append(properties[name])
        # which pattern matches isn't asked: Python's own engine isn't linear
        found += _mapping(part.get("patternProperties")).values()
        if name not in properties:
            found += [part[word] for word in ("additionalProperties", "unevaluatedProperties") if word in part]
        dependent = _mapping(part.get("dependentSchemas"))
        found += [
            sub["properties"][name] for sub in dependent.values() if name in _mapping(_mapping(sub).get("properties"))
        ]
    return found


def _for_item(parts: Sequence[Schema], index: int) -> list[Any]:
    found: list[Any] = []
    for part in parts:
        first = part.get("prefixItems")
        if isinstance(first, list) and index < len(first):
            found.append(first[index])
        found += [part[word] for word in ("items", "contains", "unevaluatedItems") if word in part]
    return found


def is_unknown(known: Iterable[str]) -> str:
    """What to say of a field that isn't among the known ones; those are listed where the list is short."""
    names = ", ".join(known)
    return f"unknown field; known are: {names}" if names and len(names) <= _MAX_KNOWN else "unknown field"


def _details(schema: Schema, errors: Iterator[Any]) -> list[Detail]:
    found = (detail for error in errors for detail in _complaints(schema, error))
    details = list(islice(found, MAX_DETAILS))
    if next(found, None) is not None:
        details.append(_detail("", "more", "there are further errors"))
    return details


def _complaints(schema: Schema, error: Any) -> Iterator[Detail]:
    """One error in words; one for each property that is too much."""
    rule = error.kind.name
    place = [str(step) for step in error.instance_path]
    if rule == "required":
        yield _detail(_path(place, error.kind.property), rule, "is required")
    elif rule in ("additionalProperties", "unevaluatedProperties"):
        # what `unevaluatedProperties` knows is spread over the branches of the schema
        known = _described_beside(schema, error.schema_path) if rule == "additionalProperties" else ()
        for name in error.kind.unexpected:
            yield _detail(_path(place, name), rule, is_unknown(known))
    else:
        yield _detail(_path(place), rule, error.message)


def _described_beside(schema: Schema, path: Sequence[str | int]) -> Iterable[str]:
    """The properties that the schema describes where the keyword at `path` stands."""
    part: Any = schema
    for step in path[:-1]:
        part = part[step]
    return _mapping(_mapping(part).get("properties"))


def _detail(path: str, rule: str, message: str) -> Detail:
    return {"path": path, "rule": rule, "message": message}


def _path(place: Sequence[str], *more: str) -> str:
    """Where it is, down to the property that is missing or too much."""
    return ".".join([*place, *map(str, more)])
