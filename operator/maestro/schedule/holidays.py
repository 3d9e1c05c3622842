"""Reads the days of a calendar file (iCalendar, RFC 5545), recurring events unrolled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from dateutil.rrule import rrulestr
from icalendar import Calendar, Event
from icalendar.error import InvalidCalendar as UnusableEvent

# Bounds on what somebody else's file may cost; each is far above what a calendar of holidays has.
MAX_CHARACTERS = 512 * 1024
MAX_EVENTS = 5_000
MAX_DAYS = 50_000
MAX_STEPS = 250_000
# Recurring events are followed up to here.
HORIZON = datetime(2100, 1, 1)
EARLIEST = date(1900, 1, 1)

_DAY = timedelta(days=1)
_STEP_DAYS = {"DAILY": 1, "WEEKLY": 7, "MONTHLY": 28, "YEARLY": 365}
# Where days are counted off one by one, a part that only filters could let the search run on for thousands of years.
_ALWAYS = frozenset({"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY"})
_WITH_MONTHS = frozenset({"BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS"})
_PARTS = {"DAILY": frozenset[str](), "WEEKLY": frozenset[str](), "MONTHLY": _WITH_MONTHS, "YEARLY": _WITH_MONTHS}
_READ = ("DTSTART", "DTEND", "DURATION", "RRULE", "RDATE", "EXDATE", "RECURRENCE-ID")


class InvalidCalendar(ValueError):  # noqa: N818
    """A text that isn't a calendar, or one that can't be followed.

    Attributes
    ----------
    event
        The summary, else the uid, of the event that is wrong; None where it is the file as a whole.
    reason
        What is wrong with it.
    """

    def __init__(self, reason: str, event: str | None = None) -> None:
        super().__init__(f"the event '{event}': {reason}" if event else reason)
        self.event = event
        self.reason = reason


def read_calendar(text: str) -> frozenset[date]:
    """Every day that an event of the calendar touches, in the event's own time; canceled events don't count.

    Takes a second or two for the largest files, so not in an event loop. The answer is remembered.

    Raises
    ------
    InvalidCalendar
        It isn't iCalendar, an event lacks its start or has a rule that can't be followed, or it is too large.
    """
    found = _remembered(text)
    if isinstance(found, InvalidCalendar):
        raise InvalidCalendar(found.reason, found.event)
    return found


@lru_cache(maxsize=64)
def _remembered(text: str) -> frozenset[date] | InvalidCalendar:
    """Refusals are remembered too: they may be as dear."""
    try:
        return _read(text)
    except InvalidCalendar as error:
        return error


def _read(text: str) -> frozenset[date]:
    if len(text) > MAX_CHARACTERS:
        raise InvalidCalendar(f"is longer than {MAX_CHARACTERS} characters")
    events = _events(text)
    moved = _moved(events)
    days: set[date] = set()
    steps = 0
    for event in events:
        steps += _steps(event)
        if steps > MAX_STEPS:
            raise InvalidCalendar(f"its events recur too often to be followed to {HORIZON.year}", _name(event))
        days.update(_days(event, moved.get(_uid(event), frozenset())))
        if len(days) > MAX_DAYS:
            raise InvalidCalendar(f"has more than {MAX_DAYS} days up to {HORIZON.year}")
    return frozenset(days)


@dataclass(frozen=True, slots=True)
class _Span:
    """An event's first occurrence: its start as local time, and how many days it touches."""

    start: datetime
    days: int


def _events(text: str) -> list[Event]:
    try:
        calendars: Sequence[Any] = Calendar.from_ical(text, multiple=True)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InvalidCalendar(f"is not iCalendar: {_short(str(error))}") from error
    if not calendars or any(calendar.name != "VCALENDAR" for calendar in calendars):
        raise InvalidCalendar("is not iCalendar: BEGIN:VCALENDAR is missing")
    events = [event for calendar in calendars for event in calendar.walk("VEVENT")]
    if len(events) > MAX_EVENTS:
        raise InvalidCalendar(f"has more than {MAX_EVENTS} events")
    for event in events:
        for name, reason in event.errors:
            if name in _READ:
                raise InvalidCalendar(f"{name} can't be read: {_short(str(reason))}", _name(event))
    return events


def _moved(events: Sequence[Event]) -> dict[str, frozenset[datetime]]:
    """By uid, the occurrences in whose place another event stands."""
    found: dict[str, set[datetime]] = {}
    for event in events:
        replaced = event.get("RECURRENCE-ID")
        if replaced is None:
            continue
        if "RANGE" in replaced.params:
            raise InvalidCalendar("RECURRENCE-ID with RANGE isn't supported; write a second event", _name(event))
        found.setdefault(_uid(event), set()).add(_local(replaced.dt))
    return {uid: frozenset(starts) for uid, starts in found.items()}


def _days(event: Event, moved: frozenset[datetime]) -> Iterator[date]:
    if str(event.get("STATUS", "")).upper() == "CANCELLED":
        return
    span = _span(event)
    left_out = {_local(excluded) for excluded in _listed(event, "EXDATE")}
    if event.get("RECURRENCE-ID") is None:
        left_out |= moved
    for start in _starts(event, span):
        if start not in left_out:
            for number in range(span.days):
                yield start.date() + number * _DAY


def _span(event: Event) -> _Span:
    try:
        first, end = event.start, event.end
    except (UnusableEvent, ValueError, TypeError, AttributeError) as error:
        raise InvalidCalendar(_short(str(error)), _name(event)) from error
    start, last = _local(first), _local(end)
    if start.date() < EARLIEST or last > HORIZON:
        raise InvalidCalendar(f"is not between {EARLIEST.year} and {HORIZON.year}", _name(event))
    if last < start:
        raise InvalidCalendar("ends before it begins", _name(event))
    # The end itself isn't part of it: one at midnight doesn't touch the day that begins then.
    touched = (last.date() - start.date()).days + (last.time() != time.min)
    return _Span(start, max(1, touched))


def _starts(event: Event, span: _Span) -> Iterator[datetime]:
    yield span.start
    for extra in _listed(event, "RDATE"):
        yield _local(extra[0] if isinstance(extra, tuple) else extra)
    for rule in _rules(event):
        yield from _recurrences(event, rule, span.start)


def _recurrences(event: Event, rule: Any, start: datetime) -> Iterator[datetime]:
    # COUNT is counted here, so that there is always an UNTIL, in local time and no later than the horizon.
    parts = {name: values for name, values in rule.items() if name not in ("UNTIL", "COUNT")}
    until = min(_until(rule, event.start), HORIZON - _DAY)
    text = f"{type(rule)(parts).to_ical().decode()};UNTIL={until:%Y%m%dT%H%M%S}"
    try:
        found = iter(rrulestr(text, dtstart=start, ignoretz=True))
        first = next(found, None)
    except (ValueError, TypeError) as error:
        raise InvalidCalendar(f"RRULE: {_short(str(error))}", _name(event)) from error
    if first is None:
        # Not even once, which took dateutil to the year 9999 to find out: one such event must be the last.
        raise InvalidCalendar(f"RRULE: matches no day up to {HORIZON.year}", _name(event))
    yield from islice(chain([first], found), next(iter(rule.get("COUNT", [])), None))


def _rules(event: Event) -> list[Any]:
    found = event.get("RRULE", [])
    return found if isinstance(found, list) else [found]


def _listed(event: Event, name: str) -> Iterator[Any]:
    found = event.get(name, [])
    for values in found if isinstance(found, list) else [found]:
        for value in values.dts:
            yield value.dt


def _until(rule: Any, start: date) -> datetime:
    given = next(iter(rule.get("UNTIL", [])), None)
    if given is None:
        return HORIZON
    if not isinstance(given, datetime):
        return datetime.combine(given, time.max)
    if given.tzinfo is not None and isinstance(start, datetime) and start.tzinfo is not None:
        given = given.astimezone(start.tzinfo)
    return given.replace(tzinfo=None)


def _steps(event: Event) -> int:
    """At most so many steps are taken to unroll the event, provided that it is one that steps lead through."""
    steps = 0
    for rule in _rules(event):
        frequency = str(next(iter(rule.get("FREQ", [])), "")).upper()
        if frequency not in _PARTS:
            raise InvalidCalendar(f"RRULE: FREQ is one of {', '.join(_PARTS)}", _name(event))
        for part in rule:
            if part.upper() not in _ALWAYS | _PARTS[frequency]:
                raise InvalidCalendar(f"RRULE: {part} isn't supported with FREQ={frequency}", _name(event))
        start = _span(event).start
        reach = (min(_until(rule, event.start), HORIZON) - start).days
        interval = next(iter(rule.get("INTERVAL", [])), 1)
        if interval < 1 or (frequency == "DAILY" and interval > 1 and "BYDAY" in rule):
            raise InvalidCalendar(f"RRULE: INTERVAL={interval} isn't supported here", _name(event))
        steps += max(0, reach) // (_STEP_DAYS[frequency] * interval) + 1
    return steps


def _local(value: date) -> datetime:
    """A day or an instant as local time, in whatever zone it was written."""
    return value.replace(tzinfo=None) if isinstance(value, datetime) else datetime.combine(value, time.min)


def _uid(event: Event) -> str:
    return str(event.get("UID", ""))


def _name(event: Event) -> str:
    return _short(str(event.get("SUMMARY") or event.get("UID") or "without a name"))


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 120 else f"{plain[:117]}..."
