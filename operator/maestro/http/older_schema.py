"""The parameter lists of older systems, translated to JSON Schema; and names that become slugs."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maestro.http.errors import invalid

Json = dict[str, Any]

_FIELDS = frozenset({"name", "label", "type", "itemType", "required", "options", "default", "description"})
_FORMS: dict[str, Callable[[], Json]] = {
    "text": lambda: {"type": "string"},
    "date": lambda: {"type": "string", "format": "date"},
    "number": lambda: {"type": "number"},
    "boolean": lambda: {"type": "boolean"},
}
_TYPES = (*_FORMS, "select", "list")


def json_schema(parameters: Sequence[Mapping[str, Any]], path: str = "parameterSchema") -> Json:
    """The JSON Schema of an older list of `{name, label, type, itemType, required, options}`.

    Raises
    ------
    HttpError
        422 with the place in the list.
    """
    properties: dict[str, Json] = {}
    required: list[str] = []
    for number, given in enumerate(parameters):
        place = f"{path}.{number}"
        parameter = {"itemType" if key == "item_type" else key: value for key, value in given.items()}
        unknown = sorted(map(str, parameter.keys() - _FIELDS))
        if unknown:
            raise invalid(f"{place}.{unknown[0]}", f"unknown field; known are: {', '.join(sorted(_FIELDS))}")
        name = parameter.get("name")
        if not isinstance(name, str) or not name:
            raise invalid(f"{place}.name", "is required, a text")
        if name in properties:
            raise invalid(f"{place}.name", "is the name of another parameter too")
        properties[name] = _property(parameter, place)
        if _flag(parameter, place):
            required.append(name)
    schema: Json = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def _property(parameter: Mapping[str, Any], place: str) -> Json:
    made = _form(parameter.get("type", "text"), parameter, place)
    for word, field in (("title", "label"), ("description", "description")):
        text = parameter.get(field)
        if text is not None and not isinstance(text, str):
            raise invalid(f"{place}.{field}", "must be a text")
        if text:
            made[word] = text
    if "default" in parameter:
        made["default"] = parameter["default"]
    return made


def _form(type_: Any, parameter: Mapping[str, Any], place: str) -> Json:
    if type_ == "list":
        item = parameter.get("itemType") or "text"
        if item == "list":
            raise invalid(f"{place}.itemType", "may not be list")
        return {"type": "array", "items": _form(item, parameter, f"{place}.itemType" if item not in _TYPES else place)}
    if type_ == "select":
        return {"enum": _options(parameter.get("options"), place)}
    if not isinstance(type_, str) or type_ not in _FORMS:
        field = place if place.endswith("itemType") else f"{place}.type"
        raise invalid(field, f"must be one of: {', '.join(_TYPES)}")
    return _FORMS[type_]()


def _options(options: Any, place: str) -> list[Any]:
    """The values of a select: plain ones, or the `value` of `{value, label}`."""
    if not isinstance(options, list) or not options:
        raise invalid(f"{place}.options", "is required for a select: a list that isn't empty")
    values = [option.get("value") if isinstance(option, Mapping) else option for option in options]
    for number, value in enumerate(values):
        if not isinstance(value, str | int | float):
            raise invalid(f"{place}.options.{number}", "must be a text, a number, or {value, label}")
    return list(dict.fromkeys(values))


def _flag(parameter: Mapping[str, Any], place: str) -> bool:
    required = parameter.get("required", False)
    if not isinstance(required, bool):
        raise invalid(f"{place}.required", "must be true or false")
    return required


def slug(name: str, longest: int, prefix: str) -> str:
    """A name that Kubernetes takes, made of any name: letters without accents, digits, and dashes for the rest.

    Parameters
    ----------
    longest
        The most characters.
    prefix
        What stands before a name that doesn't begin with a letter, or for one that has no Latin letter or digit.
    """
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not words:
        # The same name gives the same object, as with every other.
        words = f"{prefix}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    elif not words[0].isalpha():
        words = f"{prefix}-{words}"
    return words[:longest].strip("-")
