"""Specs that come over HTTP, checked against the schema of their kind before the API server sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from maestro.http.errors import invalid_parameters
from maestro.resources.crds import object_schema
from maestro.resources.kinds import Definition
from maestro.runs.parameters import InvalidParameters, ParameterValidator

Json = dict[str, Any]
_FREE = "x-kubernetes-preserve-unknown-fields"
_OURS = frozenset({"default", "description"})


class SpecChecker:
    """Checks the `spec` of one kind: types, bounds, patterns, unknown fields.

    The API server would refuse most of it too, but an apply with a wrong type is a 500 there, and an unknown field is
    dropped in silence. Rules over several fields (CEL) are left to it.
    """

    def __init__(self, definition: Definition) -> None:
        self._schema: Json = object_schema(definition)["properties"]["spec"]
        self._validator = ParameterValidator(_strict(self._schema))

    def check(self, spec: Json, *, names: Mapping[str, str] | None = None) -> Json:
        """The spec with snake_case names of fields turned into camelCase.

        Parameters
        ----------
        names
            Paths in the spec that the caller knows by another name: `{"queue.name": "queueName"}`.

        Raises
        ------
        HttpError
            422 with the path and the rule of each field that is wrong.
        """
        named: Json = _camel(self._schema, spec)
        try:
            self._validator.merge_and_check(named)
        except InvalidParameters as error:
            details = [{**detail, "path": renamed(detail["path"], names or {})} for detail in error.details]
            raise invalid_parameters(InvalidParameters(details)) from None
        return named


def renamed(path: str, names: Mapping[str, str]) -> str:
    """A path in the spec by the name that the caller gave it."""
    for ours, theirs in names.items():
        if path == ours or path.startswith(f"{ours}."):
            return theirs + path[len(ours) :]
    return path


def _strict(schema: Any) -> Any:
    """The structural schema as JSON Schema: no CEL, no defaults, and nothing unknown where fields are listed."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: Json = {}
    for word, value in schema.items():
        if word == "properties":
            made[word] = {name: _strict(field) for name, field in value.items()}
        elif word not in _OURS and not word.startswith("x-"):
            made[word] = _strict(value)
    if "properties" in made and "additionalProperties" not in made and not schema.get(_FREE):
        made["additionalProperties"] = False
    return made


def _camel(schema: Any, value: Any) -> Any:
    """Turn snake_case keys into camelCase, only where the schema has a field of that name."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, list):
        return [_camel(schema.get("items"), item) for item in value]
    if not isinstance(value, Mapping):
        return value
    fields: Mapping[str, Any] = schema.get("properties") or {}
    made: Json = {}
    for given, item in value.items():
        name = given if given in fields or to_camel(given) not in fields else to_camel(given)
        made[name] = _camel(fields.get(name, schema.get("additionalProperties")), item)
    return made
