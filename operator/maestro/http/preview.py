"""The next ticks of a rule that need not belong to any Schedule yet."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.errors import invalid
from maestro.http.models import Instant, Model, Text
from maestro.http.query import query
from maestro.http.schedule_rules import check_zone, rule_of
from maestro.http.views import moment
from maestro.resources.schedule import DateRange, DaylightSaving, Exclude
from maestro.runtime.clock import Clock
from maestro.schedule.calendars import Calendar
from maestro.schedule.cron import Rule, Tick, Timetable
from maestro.schedule.explain import explained
from maestro.schedule.zones import zone_named

MAX_RULES = 16
# How far one looks ahead: a rule may have a tick in eight years, or only skipped ones.
_REACH = timedelta(days=50 * 366)
_SEPARATOR = ";"

Weekday = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class PreviewQuery(Model):
    """A rule and what a Schedule says beside it."""

    schedule: Annotated[Text, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="A cron rule, such as `30 2 * * *`; several with `;` in between."
    )
    time_zone: Annotated[Text, StringConstraints(min_length=1, max_length=64)] = Field(
        "UTC", description="The time zone that the rules are read in."
    )
    count: Annotated[int, Field(ge=1, le=100)] = Field(10, description="How many ticks at most.")
    after: Instant | None = Field(None, description="Only ticks after this instant; now where it is absent.")
    gap: Literal["RunAfter", "Skip"] = Field("RunAfter", description="As `dst.gap` of a Schedule.")
    overlap: Literal["First", "Second", "Both"] = Field("First", description="As `dst.overlap` of a Schedule.")
    dates: Annotated[list[date], BeforeValidator(_split), Field(max_length=1000)] | None = Field(
        None, description="Excluded days, separated by commas."
    )
    ranges: (
        Annotated[
            list[Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}/\d{4}-\d{2}-\d{2}$")]],
            BeforeValidator(_split),
            Field(max_length=250),
        ]
        | None
    ) = Field(None, description="Excluded ranges of days such as `2026-12-24/2026-12-31`, separated by commas.")
    weekdays: Annotated[list[Weekday], BeforeValidator(_split), Field(max_length=7)] | None = Field(
        None, description="Excluded days of the week, separated by commas."
    )
    on_excluded: Literal["Skip", "Previous", "Next"] = Field(
        "Skip", description="As `exclude.onExcluded` of a Schedule."
    )


class PreviewedTick(Model):
    """A tick to come."""

    at: str = Field(description="The instant, in UTC.")
    local: str = Field(description="The same as the clocks of the time zone show it, with their offset from UTC.")
    fires: bool = Field(description="False: it is recorded as skipped.")
    reason: Literal["Gap", "Excluded"] | None = Field(description="Why it doesn't fire.")
    change: Literal["Gap", "First", "Second"] | None = Field(
        description="Where the clocks change: its time of day doesn't exist, or exists twice and this is one of them."
    )
    moved_from: date | None = Field(description="The excluded day that it was moved from.")
    explanation: str | None = Field(description="The same in words.")


class Preview(Model):
    """The next ticks, fewer where there are no more in fifty years."""

    time_zone: str
    after: str
    items: list[PreviewedTick]


class PreviewRoutes:
    """The endpoint that shows when a rule fires; it looks at nothing that belongs to anybody."""

    def __init__(self, authenticator: Authenticator, clock: Clock) -> None:
        self._authenticator = authenticator
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        return [
            Endpoint(
                "GET", "/api/v1/schedules/preview", self.preview, "previewSchedule",
                "The next ticks of a rule, with what changes of the clocks and excluded days do to them",
                "person", {200: Answer("The ticks", Preview)}, "schedules", (422,), query=PreviewQuery,
            )
        ]  # fmt: skip

    async def preview(self, request: Request) -> Response:
        """The next ticks."""
        await self._authenticator.person(request)
        asked = query(request, PreviewQuery)
        timetable = _timetable(asked)
        after = (asked.after or self._clock()).astimezone(UTC)
        ticks = takewhile(lambda tick: tick.at < after + _REACH, timetable.ticks_after(after))
        items = [_shown(tick, timetable) for tick in islice(ticks, asked.count)]
        return json_answer({"timeZone": asked.time_zone, "after": moment(after), "items": items})


def _timetable(asked: PreviewQuery) -> Timetable:
    check_zone(asked.time_zone)
    exclude = Exclude(
        dates=asked.dates, ranges=list(_ranges(asked)), weekdays=asked.weekdays, on_excluded=asked.on_excluded
    )
    return Timetable(
        list(_rules(asked.schedule)),
        zone_named(asked.time_zone),
        DaylightSaving(gap=asked.gap, overlap=asked.overlap),
        calendar=Calendar(exclude) if asked.dates or asked.ranges or asked.weekdays else None,
    )


def _rules(text: str) -> Iterator[Rule]:
    texts = text.split(_SEPARATOR)
    if len(texts) > MAX_RULES:
        raise invalid("schedule", f"has {len(texts)} rules; at most {MAX_RULES} are allowed")
    for number, one in enumerate(texts):
        yield rule_of("schedule" if len(texts) == 1 else f"schedule.{number}", one.strip())


def _ranges(asked: PreviewQuery) -> Iterator[DateRange]:
    for number, text in enumerate(asked.ranges or ()):
        first, _, last = text.partition("/")
        try:
            span = DateRange(from_=date.fromisoformat(first), to=date.fromisoformat(last))
        except ValueError:
            raise invalid(f"ranges.{number}", "is not two days of the calendar, as 2026-12-24/2026-12-31") from None
        if span.to < span.from_:
            raise invalid(f"ranges.{number}", "the first day must not be later than the last")
        yield span


def _shown(tick: Tick, timetable: Timetable) -> dict[str, Any]:
    local: datetime = tick.at.astimezone(timetable.zone)
    return {
        "at": moment(tick.at),
        "local": local.isoformat(),
        "fires": tick.skip is None,
        "reason": tick.skip,
        "change": tick.meets,
        "movedFrom": None if tick.moved_from is None else tick.moved_from.isoformat(),
        "explanation": explained(tick, timetable.zone),
    }
