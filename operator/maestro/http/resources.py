"""What the endpoints of custom resources share: which the caller may see, which they may write, under which name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from maestro.http import body
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.errors import HttpError, invalid, invalid_model
from maestro.kube.kinds import Kind
from maestro.resources.model import Resource

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Resource)

BODY_LIMIT = body.PARAMETERS_LIMIT


class ResourceAccess:
    """Who may see and write the objects of one kind."""

    def __init__(self, kind: Kind, directory: Directory, authenticator: Authenticator) -> None:
        self._kind = kind
        self._directory = directory
        self._authenticator = authenticator

    async def named(self, request: Request, verb: str) -> tuple[Person, str, str]:
        """The caller, and the namespace and the name of the object in the path; 401, 403 or 404 else."""
        person = await self._authenticator.person(request)
        namespace, name = split_id(self._directory.full_id(request.path_params["id"], self._kind.kind))
        await self._authenticator.require(person, Permission(verb, self._kind.plural, "", namespace, name))
        return person, namespace, name

    async def visible(self, person: Person, namespace: str | None, objects: Iterable[R]) -> list[R]:
        """Those that the caller may list: everywhere, in the one namespace, or in each namespace that they may.

        Raises
        ------
        HttpError
            403 for a namespace that they ask for and may not.
        """
        found = [obj for obj in objects if namespace in (None, obj.metadata.namespace)]
        if await self._may_list(person, namespace or ""):
            return found
        if namespace is not None:
            permission = Permission("list", self._kind.plural, "", namespace)
            raise HttpError(403, f"{person.username} may not {permission}")
        allowed = {ns for ns in {obj.metadata.namespace for obj in found} if await self._may_list(person, ns)}
        return [obj for obj in found if obj.metadata.namespace in allowed]

    async def may_create(self, person: Person, namespace: str) -> None:
        """403 unless the caller may make objects there."""
        await self._authenticator.require(person, Permission("create", self._kind.plural, "", namespace))

    async def _may_list(self, person: Person, namespace: str) -> bool:
        return await self._authenticator.allowed(person, Permission("list", self._kind.plural, "", namespace))


async def given(request: Request, model: type[M], limit: int = BODY_LIMIT, *, optional: bool = False) -> M:
    """The body as its model; 422 with path and rule. `optional`: it may be absent, which is an empty object."""
    parse = body.optional_object if optional else body.parse_object
    raw = parse(await body.read(request, limit))
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise invalid_model(error, model) from None


def one_of(ours: str, theirs: str, values: Mapping[str, Any]) -> Any:
    """The value of a field that goes by two names; 422 where both are given and differ."""
    first, second = values.get(ours), values.get(theirs)
    if first is not None and second is not None and first != second:
        raise invalid(theirs, f"differs from {ours}, which is the same field; give one of them")
    return second if first is None else first


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
