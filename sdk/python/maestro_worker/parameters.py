"""A function's typed parameters as a JSON Schema, and a Run's parameters as arguments of the function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from maestro_worker.errors import InvalidParameters, ParameterProblem

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RUN = "run"
"""A parameter of this name receives the Run; so does one that is annotated with it."""


class ParameterSet:
    """The parameters of one function.

    Parameters
    ----------
    function
        Every parameter can be given by name: no `*args`, nothing positional-only. `**kwargs` takes what isn't named.
    run_types
        The classes that mark the parameter which receives the Run.

    Raises
    ------
    TypeError
        The signature can't be turned into a schema; the message names the parameter.
    """

    def __init__(self, function: Callable[..., Any], run_types: tuple[type, ...]) -> None:
        name = getattr(function, "__qualname__", repr(function))
        hints = _hints(function, name)
        self.run_parameter: str | None = None
        self._open: str | None = None
        self._names: dict[str, str] = {}
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            annotation = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_KEYWORD:
                self._open = parameter.name
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"{name}: parameter {parameter.name!r} can't be given by name; Runs have named parameters"
                )
            elif parameter.name == RUN or _is_run(annotation, run_types):
                self.run_parameter = parameter.name
            else:
                # The model's own names can't collide with the attributes of BaseModel (`schema`, `copy`, …).
                field = f"p{len(fields)}"
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[field] = (Annotated[annotation, Field(alias=parameter.name)], default)
                self._names[field] = parameter.name
        self._model = _model(name, fields, extra="allow" if self._open else "forbid")
        self._description = inspect.getdoc(function)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of the parameters, for `spec.parameterSchema`."""
        schema = self._model.model_json_schema(by_alias=True, schema_generator=_Plain)
        schema.pop("title", None)
        head: dict[str, Any] = {"$schema": DIALECT}
        if self._description:
            head["description"] = self._description
        return head | {"type": "object"} | schema | ({} if "properties" in schema else {"properties": {}})

    def arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for the function: checked and converted, defaults filled in.

        Raises
        ------
        InvalidParameters
            Names each path and rule.
        """
        try:
            model = self._model.__pydantic_validator__.validate_python(dict(parameters))
        except ValidationError as error:
            raise InvalidParameters([_problem(item) for item in error.errors(include_url=False)]) from None
        names = self._names
        arguments = {names[field]: value for field, value in model.__dict__.items()}
        if self._open:
            arguments |= model.__pydantic_extra__ or {}
        return arguments


class _Plain(GenerateJsonSchema):
    """Without titles made from the names: they say nothing that the name doesn't."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate(self, schema: Any, mode: Any = "validation") -> JsonSchemaValue:
        return super().generate(schema, mode=mode)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: the annotations can't be read: {error}; define the types at module level") from error


def _is_run(annotation: Any, run_types: tuple[type, ...]) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, run_types)


def _model(name: str, fields: dict[str, Any], extra: str) -> type[BaseModel]:
    for field, (annotation, default) in fields.items():
        if isinstance(default, FieldInfo):  # `width: int = Field(320, ge=1)`
            fields[field] = (Annotated[annotation, default], ... if default.is_required() else default.get_default())
    config = ConfigDict(extra=cast(Any, extra), arbitrary_types_allowed=False, protected_namespaces=())
    try:
        model = create_model("Parameters", __config__=config, **fields)
        model.model_json_schema()
        return model
    except Exception as error:
        raise TypeError(f"{name}: a parameter's type can't be described by a JSON Schema: {error}") from error


def _problem(item: Mapping[str, Any]) -> ParameterProblem:
    location = [str(part) for part in item["loc"]]
    path = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in location) or "/"
    if item["type"] == "extra_forbidden":
        return ParameterProblem(path, "additionalProperties", "is not a parameter of this worker")
    if item["type"] == "missing":
        return ParameterProblem(path, "required", "is required")
    return ParameterProblem(path, str(item["type"]), str(item["msg"]))
