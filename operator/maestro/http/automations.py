"""Automations: the custom resources themselves, read from memory and written through the API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator
from maestro.http.directory import Catalog, Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, not_found, unavailable
from maestro.http.objects import Objects
from maestro.http.older_schema import json_schema, slug
from maestro.http.query import query
from maestro.http.resource_models import AutomationBody, AutomationView, AutomationViews, ResourcesQuery
from maestro.http.resources import BODY_LIMIT, ResourceAccess, given, one_of, present
from maestro.http.specs import SpecChecker
from maestro.http.views import moment
from maestro.kube.kinds import AUTOMATION
from maestro.resources import Automation, kinds, names
from maestro.runs.parameters import InvalidSchema, ParameterValidator

_NAMES = {"queue.name": "queueName", "defaultParameters": "defaultParams"}
"""Fields of the spec that have another name here."""
_SAME = (
    *("solution", "description", "scriptPath", "launch", "worker", "run", "reads", "writes"),
    *("history", "notifications"),
)


class AutomationRoutes:
    """The endpoints of Automations, without those that start Runs."""

    def __init__(
        self, catalog: Catalog, directory: Directory, authenticator: Authenticator, objects: Objects, namespace: str
    ) -> None:
        self._catalog = catalog
        self._directory = directory
        self._authenticator = authenticator
        self._objects = objects
        self._namespace = namespace
        self._access = ResourceAccess(AUTOMATION, directory, authenticator)
        self._specs = SpecChecker(kinds.AUTOMATION)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path, shown = "/api/v1/automations", Answer("The Automation", AutomationView)
        written = Body(AutomationBody, BODY_LIMIT)
        return [
            Endpoint(
                "GET", path, self.list_automations, "listAutomations", "Automations, by namespace and name",
                "person", {200: Answer("The Automations", AutomationViews)}, "automations", (422,),
                query=ResourcesQuery,
            ),
            Endpoint(
                "POST", path, self.create, "createAutomation", "Make an Automation: the custom resource itself",
                "person", {201: shown}, "automations", (404, 409, 422), written,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.one, "getAutomation", "One Automation",
                "person", {200: shown}, "automations", (404, 409),
            ),
            Endpoint(
                "PUT", f"{path}/{{id}}", self.replace, "replaceAutomation",
                "Make what HTTP wrote of an Automation what the body says; fields that others wrote stay",
                "person", {200: shown}, "automations", (404, 409, 422), written,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, "deleteAutomation", "Delete an Automation",
                "person", {204: Answer("Deleted")}, "automations", (404, 409),
            ),
        ]  # fmt: skip

    async def list_automations(self, request: Request) -> Response:
        """All that the caller may list."""
        person = await self._authenticator.person(request)
        namespace = query(request, ResourcesQuery).namespace
        if not self._catalog.synced:
            raise unavailable("the list of Automations")
        found = await self._access.visible(person, namespace, self._catalog.all())
        return json_answer({"items": [_shown(automation) for automation in found]})

    async def one(self, request: Request) -> Response:
        """One Automation."""
        _, namespace, name = await self._access.named(request, "get")
        automation_id = f"{namespace}.{name}"
        automation = self._catalog.get(automation_id)
        if automation is None:
            if not self._catalog.synced:
                raise unavailable("the list of Automations")
            if self._catalog.version(automation_id) is not None:
                raise HttpError(409, f"the Automation {automation_id} breaks its schema and can't be shown")
            raise not_found(f"there is no Automation {automation_id}")
        return json_answer(_shown(automation))

    async def create(self, request: Request) -> Response:
        """Make the custom resource."""
        person = await self._authenticator.person(request)
        wanted = await given(request, AutomationBody)
        if wanted.name is None:
            raise invalid("name", "is required")
        namespace = wanted.namespace or self._namespace
        await self._access.may_create(person, namespace)
        name = slug(wanted.name, names.MAX_NAME, "automation")
        spec = self._spec(wanted, namespace, name)
        made = Automation.model_validate(
            await self._objects.create(AUTOMATION, namespace, name, spec, names=_names(wanted))
        )
        return json_answer(_shown(made), 201, {"Location": f"/api/v1/automations/{made.id}"})

    async def replace(self, request: Request) -> Response:
        """Write the spec of the custom resource."""
        _, namespace, name = await self._access.named(request, "update")
        wanted = await given(request, AutomationBody)
        if wanted.namespace not in (None, namespace):
            raise invalid("namespace", f"is {namespace} and can't be changed")
        spec = self._spec(wanted, namespace, name)
        made = await self._objects.replace(AUTOMATION, namespace, name, spec, uid=wanted.uid, names=_names(wanted))
        return json_answer(_shown(Automation.model_validate(made)))

    async def delete(self, request: Request) -> Response:
        """Delete the custom resource."""
        _, namespace, name = await self._access.named(request, "delete")
        await self._objects.delete(AUTOMATION, namespace, name)
        return Response(status_code=204)

    def _spec(self, wanted: AutomationBody, namespace: str, name: str) -> dict[str, Any]:
        """The spec that a body stands for, checked."""
        fields = wanted.model_dump(by_alias=True)
        queue = dict(fields["queue"] or {})
        # A view shows a queue's name where the spec gives none, too; sent back it means the same.
        named = None if wanted.queue_name == names.queue(namespace, name) else wanted.queue_name
        if named is not None and queue.setdefault("name", named) != named:
            raise invalid("queueName", "differs from queue.name, which is the same field; give one of them")
        spec = {
            # The object's name is for good: another one in the body is the name for people.
            "displayName": wanted.display_name or (None if wanted.name == name else wanted.name),
            "suspend": one_of("suspend", "suspended", fields),
            "defaultParameters": one_of("defaultParameters", "defaultParams", fields),
            "parameterSchema": _schema(wanted),
            "queue": queue or None,
            **{name: fields[name] for name in _SAME},
        }
        checked = self._specs.check(present(spec), names=_names(wanted))
        _check_schema(checked)
        return checked


def _names(wanted: AutomationBody) -> dict[str, str]:
    """By which names the body gave the spec's fields."""
    given_as = {"queue.name": wanted.queue_name, "defaultParameters": wanted.default_params}
    return {ours: theirs for ours, theirs in _NAMES.items() if given_as[ours] is not None}


def _schema(wanted: AutomationBody) -> Mapping[str, Any] | None:
    given_schema = wanted.parameter_schema
    return json_schema(given_schema) if isinstance(given_schema, list) else given_schema


def _check_schema(spec: Mapping[str, Any]) -> None:
    """The API server takes any object for a schema; here its writer is there to be told."""
    try:
        ParameterValidator(spec.get("parameterSchema"), spec.get("defaultParameters"))
    except InvalidSchema as error:
        path, _, rule = str(error).partition(": ")
        raise invalid(path, rule) from None


def _shown(automation: Automation) -> dict[str, Any]:
    metadata, spec = automation.metadata, automation.spec
    dumped = spec.dump()
    return {
        "id": automation.id,
        "namespace": metadata.namespace,
        "name": metadata.name,
        "uid": metadata.uid,
        "generation": metadata.generation,
        "createdAt": moment(metadata.creation_timestamp),
        "solution": automation.solution,
        "displayName": spec.display_name,
        "description": spec.description,
        "scriptPath": spec.script_path,
        "queueName": automation.queue_name,
        "launch": spec.launch,
        "suspended": spec.suspend,
        "defaultParams": spec.default_parameters or {},
        "parameterSchema": spec.parameter_schema,
        **{name: dumped.get(name, {}) for name in ("queue", "worker", "run", "history")},
        **{name: dumped.get(name, []) for name in ("reads", "writes", "notifications")},
        "status": automation.status.dump(),
    }
