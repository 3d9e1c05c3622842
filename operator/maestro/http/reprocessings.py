"""Reprocessings: made, looked at and decided about over HTTP; the custom resources themselves are what is written."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission
from maestro.http.decisions import Decision, Decisions, Order, parsed
from maestro.http.directory import Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, not_found, unavailable
from maestro.http.objects import Objects
from maestro.http.older_schema import slug
from maestro.http.query import query
from maestro.http.reprocessing_models import (
    DecisionBody,
    ReprocessingBody,
    ReprocessingsQuery,
    ReprocessingView,
    ReprocessingViews,
)
from maestro.http.resources import BODY_LIMIT, ResourceAccess, given, present
from maestro.http.specs import SpecChecker
from maestro.http.views import moment
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import REPROCESSING
from maestro.resources import kinds
from maestro.resources.names import MAX_NAME
from maestro.resources.reprocessing import Phase, Reprocessing
from maestro.runtime.clock import Clock

PATH = "/api/v1/reprocessings"
_PHASES: dict[str, Phase] = {phase.lower(): phase for phase in Phase.__args__}  # type: ignore[attr-defined]
_ASKED = (
    *("reason", "select", "parameters", "origin", "parallelism", "block", "maxBlock", "drainTimeout", "cascade"),
    *("onFailure", "autoApprove", "suspend"),
)
_ORDERS: dict[Order, str] = {
    "suspend": "Pause it after the Runs in flight; the gateway stays as it is",
    "resume": "Let it go on: where it is suspended, and where it stopped",
    "cancel": "End it as Canceled, with what is done kept; the gateway opens",
    "fail": "End it as Failure, with what is done kept; the gateway opens",
}


class ReprocessingList:
    """The Reprocessings that a caller may see, from memory."""

    def __init__(self, cache: ObjectCache, access: ResourceAccess, authenticator: Authenticator) -> None:
        self._cache = cache
        self._access = access
        self._authenticator = authenticator

    async def of(
        self, request: Request, namespace: str | None, solution: str | None, phases: Iterable[Phase] | None
    ) -> list[Reprocessing]:
        """Those of a namespace (None: of each that the caller may list), a Solution, in some phases; oldest first."""
        person = await self._authenticator.person(request)
        if not self._cache.synced:
            raise unavailable("the list of Reprocessings")
        objects = [found for found in map(parsed, self._cache.values(namespace)) if found is not None]
        visible = await self._access.visible(person, namespace, objects)
        wanted = None if phases is None else set(phases)
        found = [
            each
            for each in visible
            if solution in (None, each.spec.solution) and (wanted is None or each.status.phase in wanted)
        ]
        return sorted(found, key=lambda each: (moment(each.metadata.creation_timestamp) or "", each.id))


class ReprocessingSpecs:
    """From a body to the custom resource that it stands for."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._checker = SpecChecker(kinds.REPROCESSING)

    def of(self, wanted: ReprocessingBody) -> tuple[str, dict[str, Any]]:
        """The namespace and the spec, checked; 422 with path and rule."""
        if wanted.solution is None:
            raise invalid("solution", "is required")
        namespace, solution = self.solution(wanted.solution, wanted.namespace)
        fields = wanted.model_dump(by_alias=True)
        spec = present({"solution": solution, **{name: fields[name] for name in _ASKED}})
        return namespace, self._checker.check(spec)

    def solution(self, given_id: str, namespace: str | None) -> tuple[str, str]:
        """Namespace and name of a Solution's id; 422 where another namespace is named beside it."""
        own, _, name = given_id.rpartition(".")
        if own and namespace not in (None, own):
            raise invalid("namespace", f"is {own} by the Solution's id; give one of them")
        return own or namespace or self._namespace, name


class ReprocessingRoutes:
    """The endpoints under /api/v1/reprocessings that read and write the custom resources."""

    def __init__(
        self,
        cache: ObjectCache,
        directory: Directory,
        authenticator: Authenticator,
        objects: Objects,
        namespace: str,
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._authenticator = authenticator
        self._objects = objects
        self._clock = clock
        self._access = ResourceAccess(REPROCESSING, directory, authenticator)
        self._list = ReprocessingList(cache, self._access, authenticator)
        self._decisions = Decisions(objects)
        self._specs = ReprocessingSpecs(namespace)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        shown = Answer("The Reprocessing", ReprocessingView)
        return [
            Endpoint(
                "GET", PATH, self.list_reprocessings, "listReprocessings", "Reprocessings, oldest first",
                "person", {200: Answer("The Reprocessings", ReprocessingViews)}, "reprocessings", (422,),
                query=ReprocessingsQuery,
            ),
            Endpoint(
                "POST", PATH, self.create, "createReprocessing",
                "Make a Reprocessing: the custom resource itself. It is planned, and then awaits approval",
                "person", {201: shown}, "reprocessings", (404, 409, 422), Body(ReprocessingBody, BODY_LIMIT),
            ),
            Endpoint(
                "GET", f"{PATH}/{{id}}", self.one, "getReprocessing", "One Reprocessing",
                "person", {200: shown}, "reprocessings", (404, 409),
            ),
            self._deciding("approve", "Approved", "Approve the plan: its Runs are run again"),
            self._deciding("skip", "Skipped", "Drop the plan: nothing is run again"),
            *(self._ordering(order, summary) for order, summary in _ORDERS.items()),
        ]  # fmt: skip

    def _deciding(self, verb: str, decision: Decision, summary: str) -> Endpoint:
        async def handle(request: Request) -> Response:
            return await self.decide(request, decision)

        return Endpoint(
            "POST", f"{PATH}/{{id}}/{verb}", handle, f"{verb}Reprocessing", summary,
            "person", {202: Answer("Decided", ReprocessingView)}, "reprocessings", (404, 409, 422),
            Body(DecisionBody, BODY_LIMIT, required=False),
        )  # fmt: skip

    def _ordering(self, order: Order, summary: str) -> Endpoint:
        async def handle(request: Request) -> Response:
            return await self.order(request, order)

        return Endpoint(
            "POST", f"{PATH}/{{id}}/{order}", handle, f"{order}Reprocessing", summary,
            "person", {202: Answer("Ordered", ReprocessingView)}, "reprocessings", (404, 409, 422),
        )  # fmt: skip

    async def list_reprocessings(self, request: Request) -> Response:
        """All that the caller may list."""
        wanted = query(request, ReprocessingsQuery)
        namespace, solution = wanted.namespace, wanted.solution
        if solution is not None:
            namespace, solution = self._specs.solution(solution, namespace)
        found = await self._list.of(request, namespace, solution, phases(wanted.phase, "phase"))
        return json_answer({"items": [shown(each) for each in found]})

    async def one(self, request: Request) -> Response:
        """One Reprocessing, from memory."""
        _, namespace, name = await self._access.named(request, "get")
        found = self._cache.get(namespace, name)
        if found is None:
            if not self._cache.synced:
                raise unavailable("the list of Reprocessings")
            raise not_found(f"there is no Reprocessing {namespace}.{name}")
        reprocessing = parsed(found)
        if reprocessing is None:
            raise HttpError(409, f"the Reprocessing {namespace}.{name} breaks its schema and can't be shown")
        return json_answer(shown(reprocessing))

    async def create(self, request: Request) -> Response:
        """Make the custom resource; who asks for it stands in `requestedBy`."""
        person = await self._authenticator.person(request)
        wanted = await given(request, ReprocessingBody)
        namespace, spec = self._specs.of(wanted)
        await self._access.may_create(person, namespace)
        name = slug(wanted.name, MAX_NAME, "reprocessing") if wanted.name else self._name_for(spec["solution"])
        if wanted.auto_approve:
            # The API's own account may approve: whether the caller may is for the API to ask.
            await self._authenticator.require(person, Permission("approve", "reprocessings", "", namespace, name))
        made = await self._objects.create(REPROCESSING, namespace, name, {**spec, "requestedBy": person.username})
        reprocessing = Reprocessing.model_validate(made)
        return json_answer(shown(reprocessing), 201, {"Location": f"{PATH}/{reprocessing.id}"})

    async def decide(self, request: Request, decision: Decision) -> Response:
        """Approve or skip; the first decision wins, and the second caller is told who decided."""
        person, namespace, name = await self._access.named(request, "approve")
        said = await given(request, DecisionBody, optional=True)
        return json_answer(shown(await self._decisions.decide(person, namespace, name, decision, said)), 202)

    async def order(self, request: Request, order: Order) -> Response:
        """Suspend, resume, cancel or fail."""
        person, namespace, name = await self._access.named(request, "approve")
        return json_answer(shown(await self._decisions.order(person, namespace, name, order)), 202)

    def _name_for(self, solution: str) -> str:
        at = f"{self._clock():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        return f"{slug(solution, MAX_NAME - len(at) - 1, 'r')}-{at}"


def phases(given_phases: str | None, field: str, *, status: int = 422) -> list[Phase] | None:
    """Phases by name, separated by commas, in any case; `status` is that of the answer where one isn't known."""
    if not given_phases:
        return None
    found = []
    for word in re.split(r"[,\s]+", given_phases.strip(", ")):
        phase = _PHASES.get(word.lower())
        if phase is None:
            raise invalid(field, f"must be of: {', '.join(_PHASES.values())}", status=status)
        found.append(phase)
    return found


def shown(reprocessing: Reprocessing) -> dict[str, Any]:
    """A Reprocessing as HTTP shows it."""
    metadata, spec = reprocessing.metadata, reprocessing.spec
    dumped = spec.dump()
    same = ("reason", "select", "origin", "parallelism", "block", "maxBlock", "drainTimeout", "cascade", "onFailure",
            "autoApprove", "requestedBy", "decision", "decidedBy", "decisionReason", "planHash")  # fmt: skip
    return {
        "id": reprocessing.id,
        "namespace": metadata.namespace,
        "name": metadata.name,
        "uid": metadata.uid,
        "generation": metadata.generation,
        "createdAt": moment(metadata.creation_timestamp),
        "solution": spec.solution,
        "solutionId": reprocessing.solution_id,
        "phase": reprocessing.status.phase,
        **{name: dumped.get(name) for name in same},
        "parameters": spec.parameters or {},
        "suspended": spec.suspend,
        "resume": spec.resume or 0,
        "cancel": bool(spec.cancel),
        "fail": bool(spec.fail),
        "status": reprocessing.status.dump(),
    }
