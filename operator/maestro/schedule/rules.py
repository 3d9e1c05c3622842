"""Reads cron rules: a strict validator, which says where a rule is wrong, and croniter, which then reads the fields.

croniter alone won't do: it takes `5-1`, `R`, `15W`, six fields and other things that aren't cron, and reads `5-5` as
the whole field.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from croniter import croniter

MAX_LENGTH = 256

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LONGEST_MONTH = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LAST_YEAR = 9998
_STRANGE = re.compile(r"[^ \t\r\n\x21-\x7e]")
_TERM = re.compile(r"(?P<low>\*|[0-9A-Za-z]+)(?:-(?P<high>[0-9A-Za-z]+))?(?:/(?P<step>[0-9A-Za-z]+))?")


class InvalidRule(ValueError):  # noqa: N818
    """A rule that isn't cron, or that never fires.

    Attributes
    ----------
    rule
        The whole rule.
    field
        The field that is wrong, such as `day of month`; None where it is the rule as a whole.
    position
        The character of the rule at which the mistake begins, counted from 1.
    reason
        What is wrong with it.
    """

    def __init__(self, rule: str, reason: str, field: str | None = None, position: int = 1) -> None:
        where = f"{field} at character {position}" if field else f"character {position}"
        super().__init__(f"{where} of {_shown(rule)}: {reason}")
        self.rule = rule
        self.field = field
        self.position = position
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field may hold: numbers from low to high, and names for those from `first` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0
    last_day: bool = False

    @property
    def allowed(self) -> str:
        words = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.low} to {self.high}{words}{' or L' if self.last_day else ''}"


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31, last_day=True),
    _Field("month", 1, 12, _MONTHS, first=1),
    _Field("day of week", 0, 7, _WEEKDAYS),
)
_NAMES = ", ".join(field.name for field in _FIELDS)


@dataclass(frozen=True, slots=True)
class Rule:
    """A cron rule.

    Attributes
    ----------
    text
        As it was given.
    minutes, hours
        When in a day, ascending.
    days
        Days of the month; None where the field is `*`.
    last_day
        Whether the last day of the month is one of them.
    months
        Months from 1.
    weekdays
        Days of the week, Monday 0 as in `date.weekday`; None where the field is `*`.
    follows_real_time
        Whether the rule speaks of intervals (its hours are every hour, or its minutes `*` or `*/n`) and not of times
        of day: where the clocks change its ticks stay as far apart as ever.
    """

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int] | None
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int] | None
    follows_real_time: bool

    @staticmethod
    def parse(text: str) -> Rule:
        """Read a rule: five fields, or a word such as `@daily`.

        Raises
        ------
        InvalidRule
            It isn't cron, or never fires.
        """
        return _parse(text)

    def matches_day(self, day: date) -> bool:
        """Whether the rule has ticks on this day."""
        return day.day in self._days_of(day.year, day.month)

    def days_from(self, first: date) -> Iterator[date]:
        """The days that have ticks, from `first` on, to the end of the calendar."""
        year, month, day = first.year, first.month, first.day
        while year <= _LAST_YEAR:
            if month in self.months:
                for found in self._days_of(year, month):
                    if found >= day:
                        yield date(year, month, found)
            day = 1
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)

    def _days_of(self, year: int, month: int) -> tuple[int, ...] | range:
        if month not in self.months:
            return ()
        weekday, last = calendar.monthrange(year, month)
        everything = range(1, last + 1)
        days, weekdays = self.days, self.weekdays
        if days is None:
            if weekdays is None:
                return everything
            return tuple(day for day in everything if (weekday + day - 1) % 7 in weekdays)
        # Both given: either matches.
        return tuple(
            day
            for day in everything
            if day in days
            or (self.last_day and day == last)
            or (weekdays is not None and (weekday + day - 1) % 7 in weekdays)
        )


_Wrong = Callable[[str, int], InvalidRule]


@lru_cache(maxsize=4096)
def _parse(text: str) -> Rule:
    if len(text) > MAX_LENGTH:
        raise InvalidRule(text, f"is longer than {MAX_LENGTH} characters", position=MAX_LENGTH + 1)
    if strange := _STRANGE.search(text):
        # A no-break space, say, which looks like any other.
        number = f"U+{ord(strange[0]):04X}"
        raise InvalidRule(text, f"the character {number} doesn't belong in a rule", position=strange.start() + 1)
    fields = _fields(text)
    plain = [_checked(text, kind, word, position) for kind, (word, position) in zip(_FIELDS, fields, strict=True)]
    minutes, hours, days, months, weekdays = croniter.expand(" ".join(plain))[0]
    rule = Rule(
        text=text,
        minutes=_numbers(minutes, range(60)),
        hours=_numbers(hours, range(24)),
        days=None if plain[2] == "*" else frozenset(_numbers(days, range(1, 32))),
        last_day="l" in days,
        months=frozenset(_numbers(months, range(1, 13))),
        # Cron counts from Sunday.
        weekdays=None if plain[4] == "*" else frozenset((day - 1) % 7 for day in _numbers(weekdays, range(7))),
        follows_real_time=len(_numbers(hours, range(24))) == 24 or plain[0].startswith(("*", "0/")),
    )
    _check_fires(rule, fields[2][1])
    return rule


def _fields(text: str) -> list[tuple[str, int]]:
    """The five fields, each with its position."""
    stripped = text.strip(" \t\r\n")
    if not stripped:
        raise InvalidRule(text, f"is empty; five fields are needed: {_NAMES}")
    if stripped.startswith("@"):
        return [(word, 1) for word in _word(text, stripped).split()]
    if stripped.upper().startswith(("TZ=", "CRON_TZ=")):
        raise InvalidRule(text, "a rule may not name a time zone; use timeZone")
    found = [(match.group(), match.start() + 1) for match in re.finditer(r"[^ \t\r\n]+", text)]
    if len(found) > len(_FIELDS):
        raise InvalidRule(
            text,
            f"has {len(found)} fields; five are needed: {_NAMES} (there is none for seconds or years)",
            position=found[len(_FIELDS)][1],
        )
    if len(found) < len(_FIELDS):
        names = ", ".join(field.name for field in _FIELDS[len(found) :])
        raise InvalidRule(
            text, f"has {_count(found)}; missing: {names}", field=_FIELDS[len(found)].name, position=len(text) + 1
        )
    return found


def _count(found: list[tuple[str, int]]) -> str:
    return "1 field of five" if len(found) == 1 else f"{len(found)} fields of five"


def _word(text: str, word: str) -> str:
    meaning = _WORDS.get(word.lower())
    if meaning is None:
        known = ", ".join(_WORDS)
        hint = " (for an interval write a step, as in */15 * * * *)" if word.lower().startswith("@every") else ""
        raise InvalidRule(text, f"{_shown(word)} is not one of {known}{hint}")
    return meaning


def _checked(rule: str, kind: _Field, word: str, position: int) -> str:
    """One field as croniter is to read it."""
    plain = []
    for term in word.split(","):
        plain.append(_term(rule, kind, term, position))
        position += len(term) + 1
    return "*" if "*" in plain else ",".join(plain)


def _term(rule: str, kind: _Field, term: str, position: int) -> str:
    def wrong(reason: str, offset: int = 0) -> InvalidRule:
        return InvalidRule(rule, reason, kind.name, position + offset)

    if not term:
        raise wrong("there is nothing between two commas, or before or after one")
    if term in ("L", "l") and kind.last_day:
        return "l"
    match = _TERM.fullmatch(term)
    if match is None:
        hint = " (write *)" if term == "?" else ""
        raise wrong(f"{_shown(term)} is not a number, *, a range such as 1-5, or a step such as */15{hint}")
    low = match["low"]
    high = match["high"]
    step = None if match["step"] is None else _step(kind, match["step"], wrong, match.start("step"))
    if low == "*":
        if high is not None:
            raise wrong(f"{_shown(term)}: a range goes from a number to a number")
        return "*" if step in (None, 1) else f"*/{step}"
    first = _value(kind, low, wrong, 0)
    if high is None:
        if first == kind.high:
            return str(first)
        return str(first) if step is None else f"{first}/{step}"
    last = _value(kind, high, wrong, match.start("high"))
    if last < first:
        raise wrong(f"the range {_shown(term)} runs backwards; write two, as in {_split(kind, first, last)}")
    if first == last:
        return str(first)
    return f"{first}-{last}" if step is None else f"{first}-{last}/{step}"


def _split(kind: _Field, first: int, last: int) -> str:
    """A range that runs backwards, as two."""
    end = min(kind.high, 6) if kind.names is _WEEKDAYS else kind.high
    pairs = ((first, end), (kind.low, last))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def _value(kind: _Field, word: str, wrong: _Wrong, offset: int) -> int:
    if word.isdigit():
        value = int(word)
        if kind.low <= value <= kind.high:
            return value
    elif word.upper() in kind.names:
        return kind.names.index(word.upper()) + kind.first
    raise wrong(f"{_shown(word)} is not {kind.allowed}{_value_hint(kind, word)}", offset)


def _value_hint(kind: _Field, word: str) -> str:
    if word.upper() == "L" and kind.last_day:
        return " (L stands alone or in a list, as in 15,L)"
    if "L" in word.upper() and kind.names is _WEEKDAYS:
        return " (L is for the day of the month)"
    return ""


def _step(kind: _Field, word: str, wrong: _Wrong, offset: int) -> int:
    # More than this leaves one value: */90 isn't every 90 minutes.
    most = min(kind.high, 6) - kind.low if kind.names is _WEEKDAYS else kind.high - kind.low
    if not word.isdigit() or not 1 <= int(word) <= most:
        raise wrong(f"the step {_shown(word)} is not 1 to {most}; it counts within the {kind.name} field only", offset)
    return int(word)


def _numbers(values: Sequence[int | str], everything: range) -> tuple[int, ...]:
    if "*" in values:
        return tuple(everything)
    return tuple(sorted({value for value in values if isinstance(value, int)}))


def _check_fires(rule: Rule, position: int) -> None:
    if rule.days is None or rule.last_day or rule.weekdays is not None:
        return
    if not any(day <= _LONGEST_MONTH[month] for day in rule.days for month in rule.months):
        days = ", ".join(map(str, sorted(rule.days)))
        months = ", ".join(_MONTHS[month - 1] for month in sorted(rule.months))
        raise InvalidRule(rule.text, f"never fires: there is no day {days} in {months}", _FIELDS[2].name, position)


def _shown(text: str) -> str:
    short = text if len(text) <= 80 else f"{text[:77]}..."
    return "'" + "".join(char if char.isprintable() else "?" for char in short) + "'"
