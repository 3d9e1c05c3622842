"""The ticks of a Schedule: what became of them; one more now; those of a past range once again."""

from __future__ import annotations

import json
import logging
import uuid
from datetime import datetime
from itertools import islice, takewhile
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, not_found, unavailable
from maestro.http.models import Instant, Model
from maestro.http.query import query
from maestro.http.resources import BODY_LIMIT, ResourceAccess, given
from maestro.http.views import moment
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import SCHEDULE
from maestro.resources import Schedule
from maestro.runs.store import RunStore
from maestro.runs.ticks import Outcome, TickLedger, TickView
from maestro.runtime.clock import Clock
from maestro.schedule import armed
from maestro.schedule.armed import Problem
from maestro.schedule.cron import Timetable
from maestro.schedule.plan import BACKFILL, RUN_NOW
from maestro.schedule.starts import mark_of

log = logging.getLogger(__name__)

MOST_TICKS = 1000
"""Ticks of one backfill."""
OutcomeWord = Literal["Started", "Skipped", "Missed", "Waiting"]


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class TicksQuery(Model):
    """Which records."""

    outcome: Annotated[list[OutcomeWord], BeforeValidator(_split), Field(max_length=4)] | None = Field(
        None, description="Only these, separated by commas: Started, Skipped, Missed, Waiting."
    )
    limit: Annotated[int, Field(ge=1, le=500)] = Field(50, description="How many at most.")
    before: Instant | None = Field(None, description="Only ticks before this instant; `next` of the page before.")


class TickRecord(Model):
    """A tick and what became of it."""

    time: str
    outcome: OutcomeWord
    reason: str | None
    run: str | None
    job: str | None
    origin: Literal["Timetable", "RunNow", "Backfill"]
    late_seconds: float
    recorded_at: str
    ended: str | None
    user: str | None


class TickRecords(Model):
    """A page of the ledger, newest first; `next` is `before` of the next one."""

    items: list[TickRecord]
    next: str | None


class BackfillRequest(Model):
    """A range of the past whose ticks are started."""

    from_: Instant = Field(alias="from", description="The first instant.")
    to: Instant = Field(description="The last instant; not in the future.")
    again: bool = Field(False, description="Whether ticks that have started a Run are started once more.")
    preview: bool = Field(False, description="Whether it is only shown what would be started.")


class AskedTicks(Model):
    """What was asked for: each of these ticks starts as soon as the Schedule's concurrencyPolicy lets it."""

    times: list[str]
    skipped: list[str]
    preview: bool


class TickRoutes:
    """The endpoints below a Schedule.

    Looking needs `get schedules`; starting needs `create automations/execute` on the Schedule's Automation too.
    """

    def __init__(
        self, cache: ObjectCache, store: RunStore, directory: Directory, authenticator: Authenticator, clock: Clock
    ) -> None:
        self._cache = cache
        self._ledger = TickLedger(store, clock)
        self._access = ResourceAccess(SCHEDULE, directory, authenticator)
        self._authenticator = authenticator
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path = "/api/v1/schedules/{id}"
        asked = Answer("The ticks that will start", AskedTicks)
        return [
            Endpoint(
                "GET", f"{path}/ticks", self.list_ticks, "listTicks", "What became of a Schedule's ticks, newest first",
                "person", {200: Answer("A page", TickRecords)}, "schedules", (404, 422), query=TicksQuery,
            ),
            Endpoint(
                "POST", f"{path}/run", self.run_now, "runScheduleNow",
                "Start a Run now; with an `Idempotency-Key` once for each of its values",
                "person", {202: asked}, "schedules", (404, 409, 422),
            ),
            Endpoint(
                "POST", f"{path}/backfill", self.backfill, "backfillSchedule",
                "Start the ticks of a past range, oldest first; or only show them",
                "person", {200: asked, 202: asked}, "schedules", (404, 409, 422),
                Body(BackfillRequest, BODY_LIMIT),
            ),
        ]  # fmt: skip

    async def list_ticks(self, request: Request) -> Response:
        """A page of the ledger."""
        _, schedule = await self._schedule(request)
        wanted = query(request, TicksQuery)
        words = wanted.outcome if wanted.outcome is not None else ["Started", "Skipped", "Missed", "Waiting"]
        outcomes = [Outcome[word.upper()] for word in words]
        found = await self._ledger.page(schedule.metadata.uid, outcomes, wanted.limit + 1, wanted.before)
        items = found[: wanted.limit]
        following = moment(items[-1].at) if len(found) > wanted.limit else None
        return json_answer({"items": [_shown(tick) for tick in items], "next": following})

    async def run_now(self, request: Request) -> Response:
        """One more tick, of this moment."""
        person, schedule = await self._starting(request)
        key = request.headers.get("idempotency-key")
        now = self._clock().replace(microsecond=0)
        asked = await self._ask(
            person, schedule, [now], reason=RUN_NOW, mark=mark_of("now", key or str(uuid.uuid4())), once=True
        )
        return _answer(schedule, asked, [at for at in [now] if at not in asked], 202)

    async def backfill(self, request: Request) -> Response:
        """The ticks of a range."""
        person, schedule = await self._starting(request)
        wanted = await given(request, BackfillRequest)
        if wanted.from_ > wanted.to:
            raise invalid("from", "must not be later than to")
        if wanted.to > self._clock():
            raise invalid("to", "must not lie in the future")
        ticks = self._ticks(schedule, wanted)
        done = frozenset() if wanted.again else await self._started(schedule, wanted)
        starting = [at for at in ticks if at not in done]
        skipped = [at for at in ticks if at in done]
        if wanted.preview:
            return _answer(schedule, starting, skipped, 200, preview=True)
        name = request.headers.get("idempotency-key") or (
            str(uuid.uuid4()) if wanted.again else json.dumps([moment(wanted.from_), moment(wanted.to)])
        )
        asked = await self._ask(person, schedule, starting, reason=BACKFILL, mark=mark_of("backfill", name), once=False)
        return _answer(schedule, asked, skipped, 202)

    # -- parts

    def _ticks(self, schedule: Schedule, wanted: BackfillRequest) -> list[datetime]:
        timetable = _timetable(schedule)
        found = list(
            islice(
                (
                    tick.at
                    for tick in takewhile(
                        lambda tick: tick.at <= wanted.to, timetable.ticks_after(_just_before(wanted.from_))
                    )
                    if tick.skip is None
                ),
                MOST_TICKS + 1,
            )
        )
        if len(found) > MOST_TICKS:
            raise invalid("to", f"the range has more than {MOST_TICKS} ticks; ask for a shorter one")
        return found

    async def _started(self, schedule: Schedule, wanted: BackfillRequest) -> frozenset[datetime]:
        return await self._ledger.started(schedule.metadata.uid, wanted.from_, wanted.to)

    async def _ask(
        self, person: Person, schedule: Schedule, ticks: list[datetime], *, reason: str, mark: str, once: bool
    ) -> list[datetime]:
        asked = await self._ledger.ask(
            schedule.metadata.uid,
            schedule.id,
            schedule.metadata.creation_timestamp or self._clock(),
            ticks,
            reason=reason,
            mark=mark,
            user=person.username,
            once=once,
        )
        log.info("ticks asked for", extra={"schedule": schedule.id, "by": person.username, "n": len(asked)})
        return sorted(asked)

    async def _schedule(self, request: Request) -> tuple[Person, Schedule]:
        person, namespace, name = await self._access.named(request, "get")
        found = self._cache.get(namespace, name)
        if found is None:
            if not self._cache.synced:
                raise unavailable("the list of Schedules")
            raise not_found(f"there is no Schedule {namespace}.{name}")
        try:
            return person, Schedule.model_validate(found)
        except ValueError as error:
            raise HttpError(409, f"the Schedule {namespace}.{name} breaks its schema") from error

    async def _starting(self, request: Request) -> tuple[Person, Schedule]:
        person, schedule = await self._schedule(request)
        namespace, automation = schedule.metadata.namespace, schedule.spec.automation
        await self._authenticator.require(person, Permission("create", "automations", "execute", namespace, automation))
        return person, schedule


def _timetable(schedule: Schedule) -> Timetable:
    found = armed.read(schedule.spec)
    if isinstance(found, Problem):
        raise HttpError(409, f"the Schedule {schedule.id} isn't armed: {found.message}")
    return found


def _just_before(instant: datetime) -> datetime:
    return datetime.fromtimestamp(instant.timestamp() - 1, instant.tzinfo)


def _answer(
    schedule: Schedule, asked: list[datetime], skipped: list[datetime], status: int, *, preview: bool = False
) -> Response:
    shown: dict[str, Any] = {
        "times": [moment(at) for at in asked],
        "skipped": [moment(at) for at in skipped],
        "preview": preview,
    }
    return json_answer(shown, status, {"Location": f"/api/v1/schedules/{schedule.id}/ticks"})


def _shown(tick: TickView) -> dict[str, Any]:
    return {
        "time": moment(tick.at),
        "outcome": tick.outcome.word,
        "reason": tick.reason,
        "run": str(tick.run) if tick.run is not None else None,
        "job": tick.job,
        "origin": {"": "Timetable", "n": "RunNow", "b": "Backfill"}[tick.mark[1:2]],
        "lateSeconds": round(tick.late, 3),
        "recordedAt": moment(tick.recorded_at),
        "ended": tick.ended,
        "user": tick.user,
    }
