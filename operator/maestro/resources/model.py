"""What all models of the custom resources have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from maestro.resources.group import API_VERSION


class Model(BaseModel):
    """A part of a custom resource: snake_case attributes, camelCase in JSON, unknown keys ignored, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def dump(self) -> dict[str, Any]:
        """Return the part as JSON with camelCase keys, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(Model):
    """The object that this one belongs to and goes with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class Metadata(Model):
    """The part of an object's metadata that Maestro reads. What the API server fills in is empty before it did."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: list[OwnerReference] = Field(default_factory=list)
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Resource(Model):
    """A whole object; the kinds add `spec` and `status`."""

    api_version: str = API_VERSION
    kind: str
    metadata: Metadata

    @property
    def id(self) -> str:
        """`<namespace>.<name>`: how HTTP, messages and the store name the object."""
        return f"{self.metadata.namespace}.{self.metadata.name}"
