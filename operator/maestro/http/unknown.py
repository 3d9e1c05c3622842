"""Runs that a restored store doesn't know: what workers said of them, and how a person accepts them again."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maestro.http import body
from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import invalid, invalid_model, invalid_parameters, not_found
from maestro.http.models import AcceptedRun, UnknownAccept, UnknownQuery, UnknownRuns
from maestro.http.query import query, run_id
from maestro.http.views import moment
from maestro.runs.model import NewRun, older_status
from maestro.runs.parameters import InvalidParameters
from maestro.runs.store import RunStore
from maestro.runs.unknown import UnknownRun


class UnknownRoutes:
    """The endpoints under /api/v1/unknown-runs."""

    def __init__(self, store: RunStore, directory: Directory, authenticator: Authenticator) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path = "/api/v1/unknown-runs"
        return [
            Endpoint(
                "GET", path, self.list_unknown, "listUnknownRuns",
                "Runs that workers speak of and the store doesn't know (it was restored from a backup)",
                "person", {200: Answer("What is known of them", UnknownRuns)}, "runs", (404, 422),
                query=UnknownQuery,
            ),
            Endpoint(
                "POST", f"{path}/{{id}}/accept", self.accept, "acceptUnknownRun",
                "Accept such a Run again, under its id, with the parameters that are given",
                "person", {202: Answer("Accepted", AcceptedRun)}, "runs", (404, 409, 422, 429),
                Body(UnknownAccept, body.PARAMETERS_LIMIT, required=False),
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.discard, "discardUnknownRun", "Forget what was said of such a Run",
                "person", {204: Answer("Forgotten")}, "runs", (404,),
            ),
        ]  # fmt: skip

    async def list_unknown(self, request: Request) -> Response:
        """Those of one Automation, or all."""
        person = await self._authenticator.person(request)
        wanted = query(request, UnknownQuery)
        automations, automation_id = None, None
        if wanted.automation is not None:
            automation_id = self._directory.full_id(wanted.automation)
            automations = await self._directory.keys_named(automation_id)
        await self._require(person, "list", automation_id)
        found = await self._store.unknown_runs.list(automations, wanted.limit)
        return json_answer({"items": [self._shown(run) for run in found]})

    async def accept(self, request: Request) -> Response:
        """Accept it again: a second time it is the same Run."""
        person, unknown = await self._open(request, "update")
        given = body.optional_object(await body.read(request, body.PARAMETERS_LIMIT))
        try:
            wanted = UnknownAccept.model_validate(given)
        except ValidationError as error:
            raise invalid_model(error, UnknownAccept) from None
        key, parameters = await self._target(person, unknown, wanted)
        known = await self._store.get(unknown.id)
        if known is None:
            run = NewRun(key, parameters, idempotency_key=f"unknown-run/{unknown.id}", user=person.username)
            run.run_id = unknown.id
            (accepted,) = await self._store.accept([run])
            status = older_status(accepted.state)
        else:
            status = known.status
        await self._store.unknown_runs.discard(unknown.id)
        shown = {"job_id": str(unknown.id), "status": status}
        return json_answer(shown, 202, {"Location": f"/api/v1/jobs/{unknown.id}"})

    async def discard(self, request: Request) -> Response:
        """Forget the record."""
        _, unknown = await self._open(request, "update")
        await self._store.unknown_runs.discard(unknown.id)
        return Response(status_code=204)

    async def _open(self, request: Request, verb: str) -> tuple[Person, UnknownRun]:
        person = await self._authenticator.person(request)
        unknown = await self._store.unknown_runs.get(run_id(request))
        if unknown is None:
            # who may not look at all of them isn't told either which there are
            await self._require(person, verb, None)
            raise not_found("no worker has spoken of such an unknown Run")
        await self._require(person, verb, self._automation_id(unknown))
        return person, unknown

    async def _target(
        self, person: Person, unknown: UnknownRun, wanted: UnknownAccept
    ) -> tuple[int, dict[str, object]]:
        """The Automation's key, and the parameters merged and checked."""
        whose = self._automation_id(unknown)
        named = None if wanted.automation is None else self._directory.full_id(wanted.automation)
        automation_id = whose or named
        if automation_id is None:
            raise invalid("automation", "is required: it isn't known whose Run this is")
        if named is not None and named != automation_id:
            raise invalid("automation", f"the worker that spoke of this Run belongs to {automation_id}")
        namespace, name = split_id(automation_id)
        await self._authenticator.require(person, Permission("create", "automations", "execute", namespace, name))
        key, registration = await self._directory.find(automation_id)
        try:
            return key, self._directory.validator(registration).merge_and_check(wanted.parameters)
        except InvalidParameters as error:
            raise invalid_parameters(error, "parameters.") from None

    async def _require(self, person: Person, verb: str, automation_id: str | None) -> None:
        namespace, name = ("", "") if automation_id is None else split_id(automation_id)
        await self._authenticator.require(person, Permission(verb, "automations", "runs", namespace, name))

    def _automation_id(self, unknown: UnknownRun) -> str | None:
        registration = None if unknown.automation is None else self._store.registration(unknown.automation)
        return None if registration is None else registration.id

    def _shown(self, run: UnknownRun) -> dict[str, object]:
        return {
            "id": str(run.id),
            "automationId": self._automation_id(run),
            "firstSeenAt": moment(run.first_at),
            "lastSeenAt": moment(run.last_at),
            "lastOperation": run.op,
            "worker": run.worker,
            "saidStatus": run.said,
            "store": run.store,
            "publication": run.pub,
            "parameters": None,
        }
