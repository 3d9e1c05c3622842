"""The version 1.0.0 paths of Reprocessings, for clients of the older system: other paths, the same rules."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission
from maestro.http.decisions import Decision, Decisions
from maestro.http.directory import Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import not_found
from maestro.http.objects import Objects
from maestro.http.query import query
from maestro.http.reprocessing_models import (
    SOLUTION_ID,
    DecisionBody,
    FailureBody,
    OlderDecisionBody,
    OlderFindQuery,
    ReprocessingView,
)
from maestro.http.reprocessings import ReprocessingList, phases, shown
from maestro.http.resources import BODY_LIMIT, ResourceAccess, given
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import REPROCESSING
from maestro.resources.reprocessing import Phase

PATH = "/v1.0.0/reprocessing"
_RUNNING: tuple[Phase, ...] = ("Running", "RunningWithoutLock", "Stopped")
_LIST = {"type": "array", "items": {"$ref": f"#/components/schemas/{ReprocessingView.__name__}"}}


class OlderReprocessingRoutes:
    """The endpoints under /v1.0.0/reprocessing; lists are plain arrays here."""

    def __init__(
        self, cache: ObjectCache, directory: Directory, authenticator: Authenticator, objects: Objects, namespace: str
    ) -> None:
        self._authenticator = authenticator
        self._namespace = namespace
        self._access = ResourceAccess(REPROCESSING, directory, authenticator)
        self._list = ReprocessingList(cache, self._access, authenticator)
        self._decisions = Decisions(objects)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        found, one = Answer("The Reprocessings, oldest first", _LIST), Answer("Decided", ReprocessingView)
        return [
            Endpoint(
                "GET", f"{PATH}/{{solution}}/pending", self.pending, "pendingReprocessings",
                "Reprocessings of a Solution that await approval", "person", {200: found}, "version 1.0.0", (404,),
            ),
            Endpoint(
                "GET", f"{PATH}/{{solution}}/find", self.find, "findReprocessings",
                "Reprocessings of a Solution, by status", "person", {200: found}, "version 1.0.0", (400, 404, 422),
                query=OlderFindQuery,
            ),
            self._deciding("approve", "Approved"),
            self._deciding("skip", "Skipped"),
            Endpoint(
                "POST", f"{PATH}/failure", self.failure, "failRunningReprocessing",
                "End the running Reprocessing of a Solution as Failure; the gateway opens",
                "person", {202: one}, "version 1.0.0", (404, 409, 422), Body(FailureBody, BODY_LIMIT),
            ),
        ]  # fmt: skip

    def _deciding(self, verb: str, decision: Decision) -> Endpoint:
        async def handle(request: Request) -> Response:
            return await self.decide(request, decision)

        return Endpoint(
            "POST", f"{PATH}/{{id}}/{verb}", handle, f"{verb}OlderReprocessing", f"{verb.capitalize()} a plan",
            "person", {202: Answer("Decided", ReprocessingView)}, "version 1.0.0", (404, 409, 422),
            Body(OlderDecisionBody, BODY_LIMIT, required=False),
        )  # fmt: skip

    async def pending(self, request: Request) -> Response:
        """Those that await approval."""
        return await self._found(request, ["PendingApproval"])

    async def find(self, request: Request) -> Response:
        """Those in the given phases."""
        return await self._found(request, phases(query(request, OlderFindQuery).status, "status", status=400))

    async def decide(self, request: Request, decision: Decision) -> Response:
        """Approve or skip; refused unless it is pending."""
        person, namespace, name = await self._access.named(request, "approve")
        label = (await given(request, OlderDecisionBody, optional=True)).user
        said = DecisionBody(user=label)
        return json_answer(shown(await self._decisions.decide(person, namespace, name, decision, said)), 202)

    async def failure(self, request: Request) -> Response:
        """Set `fail` on the running one."""
        person = await self._authenticator.person(request)
        namespace, solution = self._solution((await given(request, FailureBody)).system_id)
        running = await self._list.of(request, namespace, solution, _RUNNING)
        if not running:
            raise not_found(f"no Reprocessing of the Solution {namespace}.{solution} is running")
        name = running[0].metadata.name
        await self._authenticator.require(person, Permission("approve", "reprocessings", "", namespace, name))
        return json_answer(shown(await self._decisions.order(person, namespace, name, "fail")), 202)

    async def _found(self, request: Request, wanted: list[Phase] | None) -> Response:
        given_id = request.path_params["solution"]
        await self._authenticator.person(request)
        if not re.fullmatch(SOLUTION_ID, given_id):
            raise not_found("no such Solution: an id is <name> or <namespace>.<name>")
        namespace, solution = self._solution(given_id)
        found = await self._list.of(request, namespace, solution, wanted)
        return json_answer([shown(each) for each in found])

    def _solution(self, given_id: str) -> tuple[str, str]:
        namespace, _, name = given_id.rpartition(".")
        return namespace or self._namespace, name
