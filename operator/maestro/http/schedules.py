"""Schedules: the custom resources themselves, read from memory and written through the API server."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator
from maestro.http.directory import Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, not_found, unavailable
from maestro.http.objects import Objects
from maestro.http.older_schema import slug
from maestro.http.query import query
from maestro.http.resource_models import ResourcesQuery, ScheduleBody, ScheduleView, ScheduleViews
from maestro.http.resources import BODY_LIMIT, ResourceAccess, given, one_of, present
from maestro.http.schedule_rules import check_schedule
from maestro.http.specs import SpecChecker
from maestro.http.views import moment
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import SCHEDULE
from maestro.resources import kinds
from maestro.resources.names import ANNOTATION_DISPLAY_NAME, MAX_SCHEDULE_NAME
from maestro.resources.schedule import Schedule

log = logging.getLogger(__name__)

_SAME = (
    *("schedule", "schedules", "timeZone", "dst", "startAt", "endAt", "exclude", "launch", "concurrencyPolicy"),
    *("startingDeadlineSeconds", "missed", "jitter", "parameters"),
    *("successfulJobsHistoryLimit", "failedJobsHistoryLimit"),
)


class ScheduleRoutes:
    """The endpoints that read and write Schedules, without their ticks."""

    def __init__(
        self, cache: ObjectCache, directory: Directory, authenticator: Authenticator, objects: Objects, namespace: str
    ) -> None:
        self._cache = cache
        self._authenticator = authenticator
        self._objects = objects
        self._namespace = namespace
        self._access = ResourceAccess(SCHEDULE, directory, authenticator)
        self._specs = SpecChecker(kinds.SCHEDULE)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path, shown = "/api/v1/schedules", Answer("The Schedule", ScheduleView)
        written = Body(ScheduleBody, BODY_LIMIT)
        return [
            Endpoint(
                "GET", path, self.list_schedules, "listSchedules", "Schedules, by namespace and name",
                "person", {200: Answer("The Schedules", ScheduleViews)}, "schedules", (422,), query=ResourcesQuery,
            ),
            Endpoint(
                "POST", path, self.create, "createSchedule", "Make a Schedule: the custom resource itself",
                "person", {201: shown}, "schedules", (404, 409, 422), written,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.one, "getSchedule", "One Schedule",
                "person", {200: shown}, "schedules", (404, 409),
            ),
            Endpoint(
                "PUT", f"{path}/{{id}}", self.replace, "replaceSchedule",
                "Make what HTTP wrote of a Schedule what the body says; fields that others wrote stay",
                "person", {200: shown}, "schedules", (404, 409, 422), written,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, "deleteSchedule", "Delete a Schedule",
                "person", {204: Answer("Deleted")}, "schedules", (404, 409),
            ),
        ]  # fmt: skip

    async def list_schedules(self, request: Request) -> Response:
        """All that the caller may list."""
        person = await self._authenticator.person(request)
        namespace = query(request, ResourcesQuery).namespace
        if not self._cache.synced:
            raise unavailable("the list of Schedules")
        objects = [found for found in map(_parsed, self._cache.values(namespace)) if found is not None]
        found = await self._access.visible(person, namespace, objects)
        found.sort(key=lambda schedule: (schedule.metadata.namespace, schedule.metadata.name))
        return json_answer({"items": [_shown(schedule) for schedule in found]})

    async def one(self, request: Request) -> Response:
        """One Schedule."""
        _, namespace, name = await self._access.named(request, "get")
        found = self._cache.get(namespace, name)
        if found is None:
            if not self._cache.synced:
                raise unavailable("the list of Schedules")
            raise not_found(f"there is no Schedule {namespace}.{name}")
        schedule = _parsed(found)
        if schedule is None:
            raise HttpError(409, f"the Schedule {namespace}.{name} breaks its schema and can't be shown")
        return json_answer(_shown(schedule))

    async def create(self, request: Request) -> Response:
        """Make the custom resource."""
        person = await self._authenticator.person(request)
        wanted = await given(request, ScheduleBody)
        if wanted.name is None:
            raise invalid("name", "is required")
        automation, automations_namespace = _automation(wanted)
        namespace = wanted.namespace or automations_namespace or self._namespace
        await self._access.may_create(person, namespace)
        name = slug(wanted.name, MAX_SCHEDULE_NAME, "schedule")
        spec = self._spec(wanted, namespace, automation, automations_namespace)
        # The spec has no place for it, and whoever gave a name wants to see it again.
        given_name = None if name == wanted.name else {ANNOTATION_DISPLAY_NAME: wanted.name}
        made = Schedule.model_validate(
            await self._objects.create(SCHEDULE, namespace, name, spec, annotations=given_name)
        )
        return json_answer(_shown(made), 201, {"Location": f"/api/v1/schedules/{made.id}"})

    async def replace(self, request: Request) -> Response:
        """Write the spec of the custom resource."""
        _, namespace, name = await self._access.named(request, "update")
        wanted = await given(request, ScheduleBody)
        if wanted.namespace not in (None, namespace):
            raise invalid("namespace", f"is {namespace} and can't be changed")
        if wanted.name is not None and slug(wanted.name, MAX_SCHEDULE_NAME, "schedule") != name:
            raise invalid("name", f"is {name} and can't be changed")
        spec = self._spec(wanted, namespace, *_automation(wanted))
        made = await self._objects.replace(SCHEDULE, namespace, name, spec, uid=wanted.uid)
        return json_answer(_shown(Schedule.model_validate(made)))

    async def delete(self, request: Request) -> Response:
        """Delete the custom resource."""
        _, namespace, name = await self._access.named(request, "delete")
        await self._objects.delete(SCHEDULE, namespace, name)
        return Response(status_code=204)

    def _spec(
        self, wanted: ScheduleBody, namespace: str, automation: str | None, automations_namespace: str | None
    ) -> dict[str, Any]:
        """The spec that a body stands for, checked."""
        if automations_namespace not in (None, namespace):
            raise invalid("automation", f"must be in the Schedule's own namespace, {namespace}")
        fields = wanted.model_dump(by_alias=True)
        spec = {
            "automation": automation,
            "suspend": one_of("suspend", "suspended", fields),
            **{name: fields[name] for name in _SAME},
        }
        checked = self._specs.check(present(spec))
        check_schedule(checked)
        return checked


def _automation(wanted: ScheduleBody) -> tuple[str | None, str | None]:
    """The Automation's name, and its namespace where the body gives its id."""
    names = {value.rpartition(".")[2] for value in (wanted.automation, wanted.automation_id) if value is not None}
    if len(names) > 1:
        raise invalid("automationId", "names another Automation than automation; give one of them")
    given_id = wanted.automation_id or wanted.automation
    if given_id is None:
        return None, None
    namespace, _, name = given_id.rpartition(".")
    return name, namespace or None


def _parsed(found: dict[str, Any]) -> Schedule | None:
    try:
        return Schedule.model_validate(found)
    except ValidationError as error:
        meta = found["metadata"]
        name = f"{meta.get('namespace')}.{meta.get('name')}"
        log.warning("Schedule %s can't be read: %d fields break the schema", name, error.error_count())
        return None


def _shown(schedule: Schedule) -> dict[str, Any]:
    metadata, spec = schedule.metadata, schedule.spec
    dumped = spec.dump()
    return {
        "id": schedule.id,
        "namespace": metadata.namespace,
        "name": metadata.name,
        "displayName": metadata.annotations.get(ANNOTATION_DISPLAY_NAME),
        "uid": metadata.uid,
        "generation": metadata.generation,
        "createdAt": moment(metadata.creation_timestamp),
        "automation": spec.automation,
        "automationId": f"{metadata.namespace}.{spec.automation}",
        "suspended": spec.suspend,
        **{name: dumped.get(name) for name in _SAME},
        "parameters": spec.parameters or {},
        "nextScheduleTime": moment(schedule.status.next_schedule_time),
        "status": schedule.status.dump(),
    }
