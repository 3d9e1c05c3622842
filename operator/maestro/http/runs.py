"""Runs (older name: jobs): list, one, cancel, retry."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maestro.http import body
from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, invalid_model, invalid_parameters
from maestro.http.models import AcceptedRun, Canceled, CancelQuery, RetryRequest, Run, Runs, RunsQuery
from maestro.http.query import query, run_id
from maestro.http.runfilter import RunFilters
from maestro.http.views import RunViews
from maestro.runs.errors import NotEnded, UnknownRun
from maestro.runs.model import RunView, older_status
from maestro.runs.parameters import InvalidParameters
from maestro.runs.store import RunStore


class RunAccess:
    """Which Run a person asks for, and whether they may: their own always, others by RBAC."""

    def __init__(self, store: RunStore, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator

    async def open(self, request: Request, verb: str) -> tuple[Person, RunView]:
        """The caller and the Run of the path.

        Raises
        ------
        HttpError
            401, 403, 404 or 503.
        """
        person = await self._authenticator.person(request)
        wanted = run_id(request)
        run = await self._store.get(wanted)
        if run is None:
            raise UnknownRun(wanted)
        if run.user != person.username:
            namespace, name = split_id(run.automation_id)
            await self._authenticator.require(person, Permission(verb, "automations", "runs", namespace, name))
        return person, run


class RunRoutes:
    """The endpoints under /api/v1/jobs, without the logs."""

    def __init__(
        self, store: RunStore, directory: Directory, authenticator: Authenticator, access: RunAccess, views: RunViews
    ) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator
        self._access = access
        self._views = views
        self._filters = RunFilters(directory, authenticator)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        canceled = {200: Answer("Canceled", Canceled), 202: Answer("Asked for; the worker sees it next", Canceled)}
        return [
            Endpoint(
                "GET", "/api/v1/jobs/{id}", self.one, "getRun", "A Run with its attempts",
                "person", {200: Answer("The Run", Run)}, "runs", (404,),
            ),
            Endpoint(
                "GET", "/api/v1/jobs", self.list_runs, "listRuns",
                "Runs, newest first; who may not list all of them sees their own",
                "person", {200: Answer("A page", Runs)}, "runs", (404, 422), query=RunsQuery,
            ),
            Endpoint(
                "POST", "/api/v1/jobs/{id}/cancel", self.cancel, "cancelRun", "Cancel a Run",
                "person", canceled, "runs", (404, 409, 422), query=CancelQuery,
            ),
            Endpoint(
                "POST", "/api/v1/jobs/{id}/retry", self.retry, "retryRun", "Run an ended Run again, as a linked copy",
                "person", {202: Answer("The copy", AcceptedRun)}, "runs", (404, 409, 422, 429),
                Body(RetryRequest, body.PARAMETERS_LIMIT, required=False),
            ),
        ]  # fmt: skip

    async def one(self, request: Request) -> Response:
        """One Run."""
        _, run = await self._access.open(request, "get")
        return json_answer(self._views.run(run))

    async def list_runs(self, request: Request) -> Response:
        """A page of Runs."""
        person = await self._authenticator.person(request)
        wanted = query(request, RunsQuery)
        try:
            page = await self._store.list_runs(
                await self._filters.made(person, wanted, "list"), wanted.limit, wanted.cursor
            )
        except ValueError:
            raise invalid("cursor", "isn't a cursor that a page of Runs gave") from None
        return json_answer({"items": [self._views.listed(run) for run in page.items], "next": page.cursor})

    async def cancel(self, request: Request) -> Response:
        """Cancel what waits; ask what runs to stop."""
        person, run = await self._access.open(request, "update")
        force = query(request, CancelQuery).force
        answer = await self._store.cancel(run.id, by=person.username, force=force)
        if answer.status == 404:
            raise UnknownRun(run.id)
        if answer.status == 409:
            state = answer.state or run.state
            raise HttpError(409, f"the Run has ended already: {state}")
        status = older_status(answer.state or run.state)
        shown = {"job_id": str(run.id), "status": status, "cancellation_requested": True}
        return json_answer(shown, answer.status)

    async def retry(self, request: Request) -> Response:
        """Make a linked copy of an ended Run."""
        person, run = await self._access.open(request, "get")
        namespace, name = split_id(run.automation_id)
        await self._authenticator.require(person, Permission("create", "automations", "execute", namespace, name))
        given = body.optional_object(await body.read(request, body.PARAMETERS_LIMIT))
        try:
            wanted = RetryRequest.model_validate(given)
        except ValidationError as error:
            raise invalid_model(error, RetryRequest) from None
        parameters = wanted.parameters
        if parameters is not None:
            _, registration = await self._directory.find(run.automation_id)
            try:
                parameters = self._directory.validator(registration).merge_and_check(parameters)
            except InvalidParameters as error:
                raise invalid_parameters(error, "parameters.") from None
        try:
            accepted = await self._store.retry(run.id, by=person.username, parameters=parameters)
        except NotEnded as error:
            raise HttpError(409, str(error)) from None
        shown = {"job_id": str(accepted.id), "status": older_status(accepted.state)}
        return json_answer(shown, 202, {"Location": f"/api/v1/jobs/{accepted.id}"})
