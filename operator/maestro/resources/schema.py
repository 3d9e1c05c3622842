"""From a pydantic model to the structural schema that a CustomResourceDefinition takes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from maestro.resources.rules import VALIDATIONS

Schema = dict[str, Any]

_MAX_INT32 = 2**31 - 1
_FIRST = ("description", "type", "format", "default")
_LAST = ("required", "properties", "items", "additionalProperties", VALIDATIONS)


def structural(model: type[BaseModel]) -> Schema:
    """Return a model's schema without references, unions or anything else that the API server doesn't take.

    Keys come in a fixed order, properties as the model declares them. An optional field is one without `default` that
    isn't `required`; `null` is no value of any field.
    """
    document = model.model_json_schema(by_alias=True, ref_template="{model}")
    return _convert(document, document.get("$defs", {}))


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _resolve(node, definitions)
    for word in ("title", "$defs"):
        node.pop(word, None)
    if node.get("default", ...) is None:
        del node["default"]
    if node.get("additionalProperties") in (True, False):
        del node["additionalProperties"]
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if node.get("type") == "integer":
        node["format"] = "int32" if node.get("maximum", _MAX_INT32 + 1) <= _MAX_INT32 else "int64"
    if "properties" in node:
        node["properties"] = {name: _convert(field, definitions) for name, field in node["properties"].items()}
    for word in ("items", "additionalProperties"):
        if isinstance(node.get(word), dict):
            node[word] = _convert(node[word], definitions)
    middle = [word for word in node if word not in _FIRST and word not in _LAST]
    return {word: node[word] for word in (*_FIRST, *middle, *_LAST) if word in node}


def _resolve(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Put a referenced model, or the only type of an optional field, in the place of the reference."""
    node = dict(node)
    while True:
        if "$ref" in node:
            target = definitions[node.pop("$ref")]
        elif "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
            (target,) = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        else:
            return node
        rules = [*target.get(VALIDATIONS, []), *node.get(VALIDATIONS, [])]
        node = {**target, **node, **({VALIDATIONS: rules} if rules else {})}
