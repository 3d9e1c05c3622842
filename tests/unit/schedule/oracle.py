"""What cron means, told by looking at every single minute. Slow, plain, and nothing of the product in it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_MINUTE = timedelta(minutes=1)
_NAMES = {
    name: number
    for names, first in (
        ("jan feb mar apr may jun jul aug sep oct nov dec", 1),
        ("sun mon tue wed thu fri sat", 0),
    )
    for number, name in enumerate(names.split(), first)
}
_WORDS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
_WHOLE = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


class Cron:
    """A rule as sets of numbers; Sunday is 0."""

    def __init__(self, text: str) -> None:
        self._fields = _WORDS.get(text, text).lower().split()
        self._minutes, self._hours, self._days, self._months, self._weekdays = (
            {number for term in field.split(",") if term != "l" for number in _term(term, *whole)}
            for field, whole in zip(self._fields, _WHOLE, strict=True)
        )
        minute = self._fields[0]
        # Whether the rule goes by real time where the clocks change.
        self.interval = len(self._hours) == 24 or minute == "*" or minute.startswith(("*/", "0/"))

    def matches(self, local: datetime) -> bool:
        """Whether a local time, existing or not, is one of the rule's."""
        return local.minute in self._minutes and self.matches_hour(local)

    def matches_hour(self, local: datetime) -> bool:
        """Whether the rule has the hour, minutes aside."""
        return local.hour in self._hours and local.month in self._months and self._matches_day(local.date())

    def _matches_day(self, day: date) -> bool:
        _, _, of_month, _, of_week = self._fields
        is_last = (day + timedelta(days=1)).day == 1
        by_day = day.day in self._days or ("l" in of_month.split(",") and is_last)
        by_weekday = day.isoweekday() % 7 in self._weekdays
        if of_month == "*" or of_week == "*":
            return by_day and by_weekday
        return by_day or by_weekday


def _term(term: str, low: int, high: int) -> Iterator[int]:
    span, _, step = term.partition("/")
    first, _, last = span.partition("-")
    if first == "*":
        start, end = low, high
    else:
        start = _number(first)
        end = _number(last) if last else (high if step else start)
    for number in range(start, max(start, end) + 1, int(step or 1)):
        yield number % 7 if high == 6 else number


def _number(word: str) -> int:
    return _NAMES[word] if word in _NAMES else int(word)


def ticks(
    rules: list[str], zone: ZoneInfo, gap: str, overlap: str, start: datetime, end: datetime
) -> list[tuple[datetime, str | None]]:
    """The ticks after `start`, up to and with `end`: instants in UTC, and `Gap` where they are skipped."""
    crons = [Cron(rule) for rule in rules]
    found: dict[datetime, str | None] = {}
    at = start
    expected = at.astimezone(zone).replace(tzinfo=None) + _MINUTE
    while at < end:
        at += _MINUTE
        local = at.astimezone(zone)
        wall = local.replace(tzinfo=None)
        for cron in crons:
            for skip in _at(cron, local, wall, expected, gap, overlap):
                if found.get(at, "") is not None:
                    found[at] = skip
        expected = wall + _MINUTE
    return sorted(found.items(), key=lambda pair: pair[0])


def _at(
    cron: Cron, local: datetime, wall: datetime, expected: datetime, gap: str, overlap: str
) -> Iterator[str | None]:
    """What a rule has at one minute: a tick, one that stands for a gap right before it, both, nothing."""
    if wall > expected and _missing(cron, expected, wall):
        yield "Gap" if gap == "Skip" else None
    if cron.matches(wall) and (cron.interval or _in_pass(local, overlap)):
        yield None


def _missing(cron: Cron, expected: datetime, wall: datetime) -> bool:
    """Whether the clocks went past a tick from one minute to the next."""
    if cron.interval and cron.matches_hour(wall):
        return False
    minutes = int((wall - expected) / _MINUTE)
    return any(cron.matches(expected + n * _MINUTE) for n in range(minutes))


def _in_pass(local: datetime, overlap: str) -> bool:
    twin = local.replace(fold=1 - local.fold)
    # Twice there is a local time whose two readings both lead back to it.
    twice = all(
        reading.astimezone(UTC).astimezone(reading.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None, fold=0)
        for reading in (local, twin)
    ) and local.astimezone(UTC) != twin.astimezone(UTC)
    return not twice or overlap == "Both" or (overlap == "First") == (local.fold == 0)
