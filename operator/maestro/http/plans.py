"""Plans of Reprocessings over HTTP: of a selection before anything exists, and the Runs of one that does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator
from maestro.http.directory import Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, invalid_model, not_found, unavailable
from maestro.http.query import query
from maestro.http.reprocessing_models import ItemsQuery, ItemViews, PlanView, ReprocessingBody
from maestro.http.reprocessings import PATH, ReprocessingSpecs
from maestro.http.resources import BODY_LIMIT, ResourceAccess, given
from maestro.http.views import moment
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import REPROCESSING
from maestro.reprocessing.plan import InvalidPlan
from maestro.reprocessing.planner import preview_of
from maestro.resources import API_VERSION
from maestro.resources.reprocessing import CRITERIA, Reprocessing, ReprocessingSpec
from maestro.runs.model import from_micros
from maestro.runs.replays import ItemView, Replays
from maestro.runs.store import RunStore

# Each walks over the store, and where Runs can become stale it writes as much as a plan does.
_PREVIEWS_AT_ONCE = 2
_CURSOR = re.compile(r"(-?\d{1,18})\.([0-9a-f]{32})")


class PlanRoutes:
    """The endpoints that show which Runs are run again."""

    def __init__(
        self,
        store: RunStore,
        automations: ObjectCache,
        cache: ObjectCache,
        directory: Directory,
        authenticator: Authenticator,
        namespace: str,
    ) -> None:
        self._store = store
        self._automations = automations
        self._cache = cache
        self._authenticator = authenticator
        self._access = ResourceAccess(REPROCESSING, directory, authenticator)
        self._specs = ReprocessingSpecs(namespace)
        self._replays = Replays(store)
        self._gate = asyncio.Semaphore(_PREVIEWS_AT_ONCE)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        return [
            Endpoint(
                "POST", f"{PATH}/preview", self.preview, "previewReprocessing",
                "Which Runs a Reprocessing would run again if it were made now; nothing is made",
                "person", {200: Answer("The plan", PlanView)}, "reprocessings", (422,),
                Body(ReprocessingBody, BODY_LIMIT),
            ),
            Endpoint(
                "GET", f"{PATH}/{{id}}/items", self.items, "listReprocessingItems",
                "The Runs of a plan, in the order in which they are run again, and what became of each",
                "person", {200: Answer("The items", ItemViews)}, "reprocessings", (404, 422), query=ItemsQuery,
            ),
        ]  # fmt: skip

    async def preview(self, request: Request) -> Response:
        """Plan a selection. `hash` is the one that the Reprocessing would have if the same caller made it now."""
        person = await self._authenticator.person(request)
        wanted = await given(request, ReprocessingBody)
        namespace, spec = self._specs.of(wanted)
        await self._access.may_create(person, namespace)
        reprocessing = _imagined(namespace, {**spec, "requestedBy": person.username})
        if not self._automations.synced:
            raise unavailable("the list of Automations")
        async with self._gate:
            try:
                plan = await preview_of(self._store, self._automations, reprocessing)
            except InvalidPlan as error:
                raise _refused(error) from None
        return json_answer({"predictedAdditions": 0, "preview": [], **plan.dump()})

    async def items(self, request: Request) -> Response:
        """A page of the plan of one that exists; empty until it is made."""
        _, namespace, name = await self._access.named(request, "get")
        wanted = query(request, ItemsQuery)
        after = _place(wanted.cursor)
        found = self._cache.get(namespace, name)
        if found is None:
            if not self._cache.synced:
                raise unavailable("the list of Reprocessings")
            raise not_found(f"there is no Reprocessing {namespace}.{name}")
        page = await self._replays.items(found["metadata"]["uid"], after, wanted.limit + 1) or []
        shown = page[: wanted.limit]
        more = len(page) > len(shown)
        return json_answer({"items": [_item(each) for each in shown], "next": _cursor(shown[-1]) if more else None})


def _imagined(namespace: str, spec: dict[str, Any]) -> Reprocessing:
    """A Reprocessing that doesn't exist; what the API server checks over several fields is checked here."""
    select = spec["select"]
    if not any(criterion in select for criterion in CRITERIA):
        raise invalid("select", f"at least one of {', '.join(CRITERIA)} must be given")
    body = {"apiVersion": API_VERSION, "metadata": {"name": "preview", "namespace": namespace}, "spec": spec}
    try:
        reprocessing = Reprocessing.model_validate(body)
    except ValidationError as error:
        raise invalid_model(error, ReprocessingSpec) from None
    since, until = reprocessing.spec.select.from_, reprocessing.spec.select.to
    if since is not None and until is not None and since > until:
        raise invalid("select.from", "from must not be later than to")
    return reprocessing


def _refused(error: InvalidPlan) -> HttpError:
    """`spec.select.runs: there are no …` as path and rule."""
    path, _, rule = str(error).partition(": ")
    field = path.removeprefix("spec.")
    details = [{"path": field, "rule": rule}]
    return HttpError(422, f"{field}: {rule}", details=details, reason=error.reason)


def _item(item: ItemView) -> Mapping[str, Any]:
    return {
        "run": str(item.run),
        "automationId": item.automation_id,
        "runState": None if item.run_state is None else item.run_state.value,
        "scheduledTime": moment(_time(item.tick)),
        "startedAt": moment(_time(item.started_at)),
        "state": item.state,
        "replayedBy": None if item.replayed_by is None else str(item.replayed_by),
        "reason": item.reason,
        "added": item.added,
    }


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _cursor(item: ItemView) -> str:
    at, run = item.position
    return f"{at}.{run.hex}"


def _place(cursor: str | None) -> tuple[int, UUID] | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise invalid("cursor", "isn't one that this list gave")
    return int(match[1]), UUID(hex=match[2])
