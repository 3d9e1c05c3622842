"""The reference of the custom resources (`docs/resources.md`), rendered from their schemas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from maestro.resources.kinds import Definition
from maestro.resources.rules import VALIDATIONS
from maestro.resources.schema import Schema

_HEADER = """<!-- Generated from operator/maestro/resources by 'maestro crds'; do not edit. -->

# The custom resources

Group `maestro-operator.io`, version `v1alpha1`, namespaced, category `maestro` (`kubectl get maestro`). What stands
here is also in `kubectl explain automation.spec`, `kubectl explain sched.spec.missed` and so on.

Durations are written `90s`, `15m`, `1h30m` (units `ms`, `s`, `m`, `h`) and are at least one second long. A field that
is required is marked with *; a field without a default is absent unless it is given.
"""


def render(kinds: Iterable[tuple[Definition, Schema]]) -> str:
    """Return the reference as Markdown; takes each kind with the schema of a whole object."""
    return "\n".join([_HEADER, *(_kind(kind, schema) for kind, schema in kinds)])


def _kind(kind: Definition, schema: Schema) -> str:
    properties = schema["properties"]
    parts = [
        f"## {kind.kind}",
        f"{schema['description']} `kubectl get {kind.plural}`, short `{kind.short_name}`.",
        *([kind.note] if kind.note else []),
        "\n".join(f"- {_cell(rule['message'])}." for rule in schema.get(VALIDATIONS, ())),
        "### Spec",
        _table("spec", properties["spec"]),
        _rules_below(properties["spec"]),
        "### Status",
        _table("status", properties["status"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(path: str, schema: Schema) -> str:
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field, node, required in _fields(schema, path):
        default = f"`{json.dumps(node['default'])}`" if node.get("default", {}) != {} else ""
        name = f"`{field.removeprefix(path + '.')}`{'*' if required else ''}"
        lines.append(f"| {name} | {_cell(_type(node))} | {_cell(default)} | {_cell(node['description'])} |")
    return "\n".join(lines)


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Every field below a schema with its path; those that mean what they mean in a Pod aren't entered."""
    for name, node in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, node, name in schema.get("required", ())
        if below.startswith(
            ("spec.worker.env", "spec.worker.resources", "spec.worker.imagePull", "spec.worker.template")
        ):
            continue
        if below.endswith(".conditions"):
            continue
        inner = node.get("items", node)
        yield from _fields(inner, below + ("[]" if "items" in node else ""))


def _type(node: Schema) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    if "duration(self)" in str(node.get(VALIDATIONS, "")) and node["type"] == "string":
        return "duration"
    if node.get("format") in ("date", "date-time"):
        return {"date": "date", "date-time": "timestamp"}[node["format"]]
    bounds = [f"{word} {node[key]}" for word, key in (("≥", "minimum"), ("≤", "maximum")) if key in node]
    return ", ".join([node["type"], *bounds])


def _rules_below(schema: Schema) -> str:
    rules = list(dict.fromkeys(_messages(schema, "")))
    return "\n".join(["The API server refuses what breaks one of these rules:", "", *(f"- {rule}." for rule in rules)])


def _messages(schema: Schema, path: str) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, ()):
        if "duration(self) >=" not in rule["rule"]:
            field = f"{path}{rule.get('fieldPath', '')}".removeprefix(".")
            yield f"`{field}`: {_cell(rule['message'])}" if field else _cell(rule["message"])
    for name, node in schema.get("properties", {}).items():
        yield from _messages(node, f"{path}.{name}" if path else name)
        if "items" in node:
            yield from _messages(node["items"], f"{path}.{name}[]" if path else f"{name}[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\\\\|", "\\|").replace("<", "\\<")
