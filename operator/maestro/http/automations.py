"""Automations as the API server holds them; they are written with kubectl or Git."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Catalog, Directory, split_id
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.errors import HttpError, not_found, unavailable
from maestro.http.models import AutomationsQuery, AutomationView, AutomationViews
from maestro.http.query import query
from maestro.resources import Automation


class AutomationRoutes:
    """The endpoints that read Automations, from memory."""

    def __init__(self, catalog: Catalog, directory: Directory, authenticator: Authenticator) -> None:
        self._catalog = catalog
        self._directory = directory
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        return [
            Endpoint(
                "GET", "/api/v1/automations", self.list_automations, "listAutomations",
                "Automations, by namespace and name",
                "person", {200: Answer("The Automations", AutomationViews)}, "automations", (422,),
                query=AutomationsQuery,
            ),
            Endpoint(
                "GET", "/api/v1/automations/{id}", self.one, "getAutomation", "One Automation",
                "person", {200: Answer("The Automation", AutomationView)}, "automations", (404, 409),
            ),
        ]  # fmt: skip

    async def list_automations(self, request: Request) -> Response:
        """All that the caller may list: everywhere, in one namespace, or in each namespace that they may."""
        person = await self._authenticator.person(request)
        namespace = query(request, AutomationsQuery).namespace
        if not self._catalog.synced:
            raise unavailable("the list of Automations")
        found = [a for a in self._catalog.all() if namespace in (None, a.metadata.namespace)]
        if not await self._may_list(person, namespace or ""):
            if namespace is not None:
                raise _forbidden(person, namespace)
            allowed = {ns for ns in {a.metadata.namespace for a in found} if await self._may_list(person, ns)}
            found = [a for a in found if a.metadata.namespace in allowed]
        return json_answer({"items": [_shown(automation) for automation in found]})

    async def one(self, request: Request) -> Response:
        """One Automation."""
        person = await self._authenticator.person(request)
        automation_id = self._directory.full_id(request.path_params["id"])
        namespace, name = split_id(automation_id)
        await self._authenticator.require(person, Permission("get", "automations", "", namespace, name))
        automation = self._catalog.get(automation_id)
        if automation is None:
            if not self._catalog.synced:
                raise unavailable("the list of Automations")
            if self._catalog.version(automation_id) is not None:
                raise HttpError(409, f"the Automation {automation_id} breaks its schema and can't be shown")
            raise not_found(f"there is no Automation {automation_id}")
        return json_answer(_shown(automation))

    async def _may_list(self, person: Person, namespace: str) -> bool:
        return await self._authenticator.allowed(person, Permission("list", "automations", "", namespace))


def _forbidden(person: Person, namespace: str) -> HttpError:
    return HttpError(403, f"{person.username} may not {Permission('list', 'automations', '', namespace)}")


def _shown(automation: Automation) -> dict[str, Any]:
    metadata, spec = automation.metadata, automation.spec
    return {
        "id": automation.id,
        "namespace": metadata.namespace,
        "name": metadata.name,
        "uid": metadata.uid,
        "generation": metadata.generation,
        "solution": automation.solution,
        "displayName": spec.display_name,
        "description": spec.description,
        "scriptPath": spec.script_path,
        "queueName": automation.queue_name,
        "launch": spec.launch,
        "suspended": spec.suspend,
        "defaultParams": spec.default_parameters or {},
        "parameterSchema": spec.parameter_schema,
        "status": automation.status.dump(),
    }
