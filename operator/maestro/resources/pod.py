"""Fields that mean what they mean in a Pod. The models give their schema; values stay raw, as Kubernetes takes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from maestro.resources.fields import FREE_OBJECT, ObjectName, ShortText
from maestro.resources.model import Model
from maestro.resources.rules import extra
from maestro.resources.schema import Schema, structural

_ENV_NAME = r"^[^=]+$"
_QUANTITY: Schema = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "maxLength": 64,
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
    "x-kubernetes-int-or-string": True,
}
_QUANTITIES: Schema = {"type": "object", "maxProperties": 32, "additionalProperties": _QUANTITY}
_TEXTS: Schema = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {"type": "string", "maxLength": 65536},
}


class _KeySelector(Model):
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="The key whose value is taken.")
    name: ObjectName = Field(description="The object's name, in the Automation's namespace.")
    optional: bool | None = Field(None, description="Whether the object or its key may be absent. Defaults to false.")


class _FieldSelector(Model):
    api_version: ShortText | None = Field(
        None, description="The version that fieldPath is written for. Defaults to v1."
    )
    field_path: ShortText = Field(description="The field of the pod, such as metadata.name or status.podIP.")


class _ResourceFieldSelector(Model):
    container_name: ShortText | None = Field(
        None, description="The container; defaults to the one that has the variable."
    )
    resource: ShortText = Field(description="The resource, such as limits.memory.")
    divisor: Annotated[int | str, WithJsonSchema(_QUANTITY)] | None = Field(
        None, description="The unit that the value is given in. Defaults to 1."
    )


class _EnvSource(Model):
    secret_key_ref: _KeySelector | None = Field(None, description="The value is that of a Secret's key.")
    config_map_key_ref: _KeySelector | None = Field(None, description="The value is that of a ConfigMap's key.")
    field_ref: _FieldSelector | None = Field(None, description="The value is that of a field of the pod.")
    resource_field_ref: _ResourceFieldSelector | None = Field(
        None, description="The value is a resource request or limit of a container of the pod."
    )


class _EnvVar(Model):
    """One environment variable."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=_ENV_NAME)] = Field(
        description="The variable's name. Names that begin with MAESTRO_ are Maestro's own."
    )
    value: Annotated[str, Field(max_length=65536)] | None = Field(
        None, description="The value; $(OTHER) stands for the value of another variable. Defaults to the empty string."
    )
    value_from: _EnvSource | None = Field(
        None, description="Where the value comes from; exactly one of its fields, and not together with value."
    )


class _ObjectSelector(Model):
    name: ObjectName = Field(description="The object's name, in the Automation's namespace.")
    optional: bool | None = Field(None, description="Whether the object may be absent. Defaults to false.")


class _EnvFrom(Model):
    """A ConfigMap or a Secret whose keys all become variables."""

    prefix: ShortText | None = Field(None, description="Text put before each key. Defaults to none.")
    config_map_ref: _ObjectSelector | None = Field(None, description="The ConfigMap.")
    secret_ref: _ObjectSelector | None = Field(None, description="The Secret.")


class _ResourceClaim(Model):
    """A claim that the container uses."""

    name: ShortText = Field(description="The name of an entry in the pod's resourceClaims.")
    request: ShortText | None = Field(None, description="The request in that claim. Defaults to all of them.")


class _Resources(Model):
    requests: Annotated[dict[str, Any], WithJsonSchema(_QUANTITIES)] | None = Field(
        None, description="What the container needs at least, such as cpu: 100m and memory: 64Mi. Defaults to limits."
    )
    limits: Annotated[dict[str, Any], WithJsonSchema(_QUANTITIES)] | None = Field(
        None, description="The most that the container may use. Past its memory limit the container is killed."
    )
    claims: (
        Annotated[
            list[_ResourceClaim],
            Field(
                max_length=32,
                json_schema_extra=extra(list_type="map", list_map_keys=["name"]),
            ),
        ]
        | None
    ) = Field(None, description="The resource claims that the container uses.")


class _LocalReference(Model):
    """A Secret with the password of a registry."""

    name: ObjectName = Field(description="The Secret's name, in the Automation's namespace.")


class _TemplateMetadata(Model):
    labels: Annotated[dict[str, str], WithJsonSchema(_TEXTS)] | None = Field(
        None, description="Labels of the pods. The one that the Deployment selects by is Maestro's and is refused here."
    )
    annotations: Annotated[dict[str, str], WithJsonSchema({**_TEXTS, "maxProperties": 256})] | None = Field(
        None, description="Annotations of the pods."
    )


class _PodTemplate(Model):
    metadata: _TemplateMetadata | None = Field(None, description="Labels and annotations of the pods.")
    spec: Annotated[dict[str, Any], WithJsonSchema(FREE_OBJECT)] | None = Field(
        None, description="A partial PodSpec (kubectl explain pod.spec); the worker's container is called worker."
    )


def _list(item: type[Model], size: int, *, key: str | None = None) -> WithJsonSchema:
    kind = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]} if key else {}
    return WithJsonSchema(
        {"type": "array", "maxItems": size, "items": structural(item), **(kind or {"x-kubernetes-list-type": "atomic"})}
    )


def _object(model: type[Model], **extra: Any) -> WithJsonSchema:
    return WithJsonSchema({**_without_description(structural(model)), **extra})


def _without_description(schema: Schema) -> Schema:
    return {word: value for word, value in schema.items() if word != "description"}


Env = Annotated[list[dict[str, Any]], _list(_EnvVar, 512, key="name")]
EnvFrom = Annotated[list[dict[str, Any]], _list(_EnvFrom, 64)]
ImagePullSecrets = Annotated[list[dict[str, Any]], _list(_LocalReference, 32, key="name")]
Resources = Annotated[dict[str, Any], _object(_Resources)]
PodTemplate = Annotated[dict[str, Any], _object(_PodTemplate, **{"x-kubernetes-preserve-unknown-fields": True})]
