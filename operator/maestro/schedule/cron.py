"""When a Schedule's ticks are. Pure: the time is handed in.

Time is cut into stretches without a change of the clocks. In a stretch local time runs evenly, so a rule's local times
there are its instants, moved by the offset; what is left to decide stands at the borders: local times that the new
stretch left out (the gap), and those that it repeats (the overlap).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, takewhile
from operator import attrgetter
from typing import Literal
from zoneinfo import ZoneInfo

from maestro.resources.schedule import DaylightSaving, ScheduleSpec
from maestro.schedule.calendars import Calendar, Holidays
from maestro.schedule.rules import InvalidRule, Rule
from maestro.schedule.zones import Change, UnknownTimeZone, changes_in, offset_at, zone_named

__all__ = ["InvalidRule", "Rule", "Tick", "Timetable", "UnknownTimeZone", "timetable_of"]

Skip = Literal["Gap", "Excluded"]
Meets = Literal["Gap", "First", "Second"]

_MINUTE = timedelta(minutes=1)
# How far back a tick before is looked for, step by step: 29 February comes after eight years at most.
_REACHES = tuple(timedelta(days=days) for days in (0.1, 2, 32, 367, 8 * 366 + 1))
_EARLIEST = datetime(1900, 1, 1)
_LATEST = datetime(9000, 1, 1)
_at = attrgetter("at")


@dataclass(frozen=True, slots=True)
class Tick:
    """One scheduled instant.

    Attributes
    ----------
    at
        When, in UTC.
    skip
        None where it fires; else why it is recorded as skipped: `Gap`, its local time doesn't exist on that day and
        `dst.gap` is Skip; `Excluded`, its day is excluded.
    local
        The local time that the rule asked for, without tzinfo; it isn't `at` in the zone where the tick was in a gap.
        What the tick is doesn't depend on it, nor on the two below.
    meets
        What the change of the clocks did to it: `Gap`, the local time doesn't exist; `First` and `Second`, it exists
        twice, and this is the one.
    moved_from
        The excluded day that the tick was moved from.
    """

    at: datetime
    skip: Skip | None = None
    local: datetime | None = field(default=None, compare=False)
    meets: Meets | None = field(default=None, compare=False)
    moved_from: date | None = field(default=None, compare=False)


class Timetable:
    """The ticks of a Schedule.

    Parameters
    ----------
    rules
        What they follow; an instant that several match is one tick.
    zone
        The time zone in which the rules are read.
    dst
        What happens where the clocks change.
    start_at, end_at
        No tick before and none after these instants.
    calendar
        Days that are left out.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        zone: ZoneInfo,
        dst: DaylightSaving | None = None,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        calendar: Calendar | None = None,
    ) -> None:
        self.zone = zone
        self.rules = tuple(rules)
        self._dst = dst or DaylightSaving()
        self._start_at = start_at
        self._end_at = end_at
        self._calendar = calendar

    def ticks_after(self, instant: datetime) -> Iterator[Tick]:
        """The ticks strictly after an instant, ascending, computed as they are asked for."""
        after = _naive_utc(instant)
        if self._start_at is not None:
            after = max(after, _naive_utc(self._start_at) - timedelta(microseconds=1))
        end = None if self._end_at is None else _aware(_naive_utc(self._end_at))
        for tick in self._merged(after):
            if end is not None and tick.at > end:
                return
            yield tick

    def tick_before(self, instant: datetime) -> Tick | None:
        """The last tick strictly before an instant that fires by its rules: where `prev_tick` points to.

        `startAt` and `endAt` don't count, so that the first tick of all has one before it, a period earlier.
        """
        limit = _naive_utc(instant)
        for reach in _REACHES:
            ticks = takewhile(lambda tick: tick.at < _aware(limit), self._merged(_naive_utc(limit - reach)))
            firing = [tick for tick in ticks if tick.skip is None]
            if firing:
                return firing[-1]
        return None

    def _merged(self, after: datetime) -> Iterator[Tick]:
        """The ticks of all rules, each instant once, without regard to `startAt` and `endAt`."""
        streams = [self._ticks_of(rule, after) for rule in self.rules]
        merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_at)
        for _, same in groupby(merged, key=_at):
            yield min(same, key=_weight)

    def _ticks_of(self, rule: Rule, after: datetime) -> Iterator[Tick]:
        for stretch in _stretches(self.zone, after):
            if stretch.came is not None and stretch.came.at == stretch.start and not stretch.open:
                yield from self._gap(rule, stretch.came)
            yield from self._in_stretch(rule, stretch)

    def _in_stretch(self, rule: Rule, stretch: _Stretch) -> Iterator[Tick]:
        first, second = stretch.repeated_later, stretch.repeats
        policy = "Both" if rule.follows_real_time else self._dst.overlap
        for wish in self._wishes(rule, stretch.first_minute, stretch.end + stretch.offset):
            local = wish.local
            meets: Meets | None = None
            if second is not None and second[0] <= local < second[1]:
                if policy == "First":
                    continue
                meets = "Second"
            elif first is not None and first[0] <= local < first[1]:
                if policy == "Second":
                    continue
                meets = "First"
            yield wish.tick(local - stretch.offset, meets)

    def _gap(self, rule: Rule, change: Change) -> Iterator[Tick]:
        """The tick that stands for those whose local time a change leaves out."""
        start, end = change.at + change.before, change.at + change.after
        # An interval that goes on right after the gap misses nothing.
        if rule.follows_real_time and end.hour in rule.hours and rule.matches_day(end.date()):
            return
        skip: Skip | None = "Gap" if self._dst.gap == "Skip" else None
        ticks = [wish.tick(change.at, "Gap", skip) for wish in self._wishes(rule, start, end)]
        if ticks:
            yield min(ticks, key=_weight)

    def _wishes(self, rule: Rule, start: datetime, end: datetime) -> Iterator[_Wish]:
        """The rule's local times from `start` to before `end`, whether they exist or not."""
        for day, source, skip in self._days(rule, start.date(), end.date()):
            moved_from = None if source == day else source
            hours = rule.hours if day > start.date() else rule.hours[bisect_left(rule.hours, start.hour) :]
            for hour in hours:
                for minute in rule.minutes:
                    local = datetime(day.year, day.month, day.day, hour, minute)
                    if local >= end:
                        return
                    if local >= start:
                        yield _Wish(local, skip, moved_from)

    def _days(self, rule: Rule, first: date, last: date) -> Iterator[tuple[date, date, Skip | None]]:
        """Days with ticks, each once: the day, the day they were asked for, and why they are skipped."""
        calendar = self._calendar
        if calendar is None:
            for day in rule.days_from(first):
                if day > last:
                    return
                yield day, day, None
            return
        # Where days go ascends as they do, so those that go to the same day are neighbours.
        before = None
        for source in rule.days_from(calendar.first_source(first)):
            target = calendar.target(source)
            day = source if target is None else target
            if day > last:
                return
            if day >= first and day != before:
                before = day
                yield day, source, "Excluded" if target is None else None


def timetable_of(spec: ScheduleSpec, holidays: Holidays | None = None) -> Timetable:
    """The timetable of a Schedule.

    Parameters
    ----------
    holidays
        The days of the calendar that `exclude.configMap` names (`holidays.read_calendar`), where it names one.

    Raises
    ------
    InvalidRule
        A rule isn't cron, or never fires.
    UnknownTimeZone
        There is no such time zone.
    """
    texts = spec.schedules if spec.schedules is not None else [spec.schedule or ""]
    return Timetable(
        [Rule.parse(text) for text in texts],
        zone_named(spec.time_zone),
        spec.dst,
        spec.start_at,
        spec.end_at,
        None if spec.exclude is None else Calendar(spec.exclude, holidays),
    )


@dataclass(frozen=True, slots=True)
class _Wish:
    """A local time that a rule asks for."""

    local: datetime
    skip: Skip | None
    moved_from: date | None

    def tick(self, at: datetime, meets: Meets | None, skip: Skip | None = None) -> Tick:
        return Tick(_aware(at), self.skip or skip, self.local, meets, self.moved_from)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A time without a change of the clocks: from `start` to before `end`, in UTC without tzinfo.

    `came` and `goes` are the changes before and after it; `open` says that `start` itself isn't part of it.
    """

    start: datetime
    end: datetime
    offset: timedelta
    came: Change | None
    goes: Change | None
    open: bool

    @property
    def first_minute(self) -> datetime:
        """The first whole minute, as local time."""
        local = self.start + self.offset
        whole = local.replace(second=0, microsecond=0)
        return whole if whole == local and not self.open else whole + _MINUTE

    @property
    def repeats(self) -> tuple[datetime, datetime] | None:
        """The local times that were there once already, before the change that led here."""
        change = self.came
        if change is None or change.after >= change.before:
            return None
        return change.at + change.after, change.at + change.before

    @property
    def repeated_later(self) -> tuple[datetime, datetime] | None:
        """The local times that come again, after the change that ends this stretch."""
        change = self.goes
        if change is None or change.after >= change.before:
            return None
        return change.at + change.after, change.at + change.before


def _stretches(zone: ZoneInfo, after: datetime) -> Iterator[_Stretch]:
    """What lies after an instant; a stretch ends with the year too, so that nobody looks for changes far ahead."""
    came = next((change for change in reversed(_around(zone, after.year)) if change.at <= after), None)
    start, is_open = after, True
    for year in range(after.year, _LATEST.year):
        for change in changes_in(zone, year):
            if change.at > start or (change.at == start and not is_open):
                yield _Stretch(start, change.at, change.before, came, change, is_open)
                came, start, is_open = change, change.at, False
        end = datetime(year + 1, 1, 1)
        goes = next(iter(changes_in(zone, year + 1)), None)
        if start < end:
            yield _Stretch(start, end, offset_at(zone, start), came, goes, is_open)
            start, is_open = end, False


def _around(zone: ZoneInfo, year: int) -> tuple[Change, ...]:
    return (*changes_in(zone, year - 1), *changes_in(zone, year))


def _weight(tick: Tick) -> tuple[bool, bool]:
    """Of several at one instant: one that fires, and rather one whose own time it is."""
    return tick.skip is not None, tick.meets == "Gap"


def _naive_utc(instant: datetime) -> datetime:
    """An instant in UTC without tzinfo, which is what the arithmetic is done in; one without tzinfo is UTC."""
    naive = instant if instant.tzinfo is None else instant.astimezone(UTC).replace(tzinfo=None)
    return min(max(naive, _EARLIEST), _LATEST)


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC)
