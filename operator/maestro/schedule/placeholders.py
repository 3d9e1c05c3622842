"""Placeholders in a Schedule's parameters: dates counted from the tick, never from the clock.

`$(name)`, `$(name+2)`, `$(name|%d/%m/%Y)`, `$(name-1|%d/%m/%Y)`, and the same between `{{` and `}}`; a `$` before one
(`$$(name)`, `${{name}}` with two) leaves it as it stands, without that `$`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

MAX_OFFSET_DAYS = 9999

_DAY = timedelta(days=1)
_ROOT = "parameters"
# What opens a placeholder, with the mark before it that says it is none.
_OPENING = re.compile(r"(?P<escape>\$(?=\$\(|\{\{))?(?P<opening>\$\(|\{\{)")
_CLOSING = {"$(": ")", "{{": "}}"}
_INSIDE = re.compile(
    r"\s*(?P<name>[A-Za-z_]+)\s*(?:(?P<sign>[+-])\s*(?P<days>[0-9]+)\s*)?(?:\|(?P<format>.*))?", re.DOTALL
)
_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)
_OF_DATES = frozenset("aAbBdeFGjmuUVwWyY%")
_OF_TIMES = _OF_DATES | frozenset("HIMpSTzZ")


class InvalidPlaceholder(ValueError):  # noqa: N818
    """A placeholder that isn't known, or isn't written as one.

    Attributes
    ----------
    path
        Where it stands, such as `parameters.period.from`.
    placeholder
        The placeholder as it was written, shortened.
    position
        The character of the text at which it begins, counted from 1.
    reason
        What is wrong with it.
    """

    def __init__(self, path: str, placeholder: str, position: int, reason: str) -> None:
        shown = placeholder if len(placeholder) <= 64 else f"{placeholder[:61]}..."
        super().__init__(f"{path}: {shown} at character {position}: {reason}")
        self.path = path
        self.placeholder = shown
        self.position = position
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Tick:
    """What placeholders are counted from, in the Schedule's time zone."""

    local: datetime
    previous: date

    @property
    def day(self) -> date:
        return self.local.date()

    @property
    def first_of_month(self) -> date:
        return self.day.replace(day=1)

    @property
    def last_of_month(self) -> date:
        return (self.first_of_month + 31 * _DAY).replace(day=1) - _DAY

    @property
    def last_of_last_month(self) -> date:
        return self.first_of_month - _DAY


_DATES: dict[str, Callable[[_Tick], date]] = {
    "today": lambda tick: tick.day,
    "yesterday": lambda tick: tick.day - _DAY,
    "tomorrow": lambda tick: tick.day + _DAY,
    "prev_tick": lambda tick: tick.previous,
    "first_of_month": lambda tick: tick.first_of_month,
    "last_of_month": lambda tick: tick.last_of_month,
    "first_of_last_month": lambda tick: tick.last_of_last_month.replace(day=1),
    "last_of_last_month": lambda tick: tick.last_of_last_month,
}
_TIMES: dict[str, Callable[[_Tick], datetime]] = {"scheduled_time": lambda tick: tick.local}
_OLDER_NAMES = {"prev_run": "prev_tick"}
_KNOWN = ", ".join([*_DATES, *_TIMES])


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """A placeholder that was understood: what, how many days from it, and how it is written."""

    name: str
    offset: timedelta
    format: str | None

    def value(self, tick: _Tick) -> str:
        found = (_DATES.get(self.name) or _TIMES[self.name])(tick) + self.offset
        if self.format is None:
            return found.isoformat()
        # Each directive by itself: what stands between them is nothing that the C library should see.
        return _DIRECTIVE.sub(lambda match: found.strftime(match[0]), self.format)


def check(parameters: Mapping[str, Any]) -> None:
    """Look at every placeholder of a Schedule's parameters.

    Raises
    ------
    InvalidPlaceholder
        One isn't known, isn't closed, or has a format that isn't one.
    """
    _walk(parameters, _ROOT, lambda placeholder: "")


def resolve(
    parameters: Mapping[str, Any], tick: datetime, zone: ZoneInfo, previous: datetime | None = None
) -> dict[str, Any]:
    """The parameters of a tick's Run: a copy with texts in place of placeholders; a text stays a text.

    Parameters
    ----------
    tick
        The scheduled instant.
    zone
        The Schedule's time zone: dates are those of the tick there.
    previous
        The tick before (`Timetable.tick_before`), for `prev_tick`; None counts as the day before.

    Raises
    ------
    InvalidPlaceholder
        As `check` does.
    """
    local = tick.astimezone(zone)
    before = local.date() - _DAY if previous is None else previous.astimezone(zone).date()
    counted = _Tick(local, before)
    made: dict[str, Any] = _walk(parameters, _ROOT, lambda placeholder: placeholder.value(counted))
    return made


def _walk(value: Any, path: str, put: Callable[[_Placeholder], str]) -> Any:
    match value:
        case str():
            return _text(value, path, put)
        case Mapping():
            return {key: _walk(item, f"{path}.{key}", put) for key, item in value.items()}
        case list():
            return [_walk(item, f"{path}.{index}", put) for index, item in enumerate(value)]
        case _:
            return value


def _text(text: str, path: str, put: Callable[[_Placeholder], str]) -> str:
    made: list[str] = []
    done = 0
    while match := _OPENING.search(text, done):
        made.append(text[done : match.start()])
        if match["escape"]:
            made.append(match["opening"])
            done = match.end()
            continue
        closing = _CLOSING[match["opening"]]
        end = text.find(closing, match.end())
        whole = text[match.start() :] if end < 0 else text[match.start() : end + len(closing)]

        def wrong(reason: str, whole: str = whole, start: int = match.start()) -> InvalidPlaceholder:
            return InvalidPlaceholder(path, whole, start + 1, reason)

        if end < 0:
            raise wrong(f"has no {closing} after it; for the characters themselves write ${match['opening']}")
        made.append(put(_understood(text[match.end() : end], wrong)))
        done = end + len(closing)
    made.append(text[done:])
    return "".join(made)


def _understood(inside: str, wrong: Callable[[str], InvalidPlaceholder]) -> _Placeholder:
    match = _INSIDE.fullmatch(inside)
    name = "" if match is None else _OLDER_NAMES.get(match["name"], match["name"])
    if match is None or (name not in _DATES and name not in _TIMES):
        raise wrong(
            f"is not known; there are {_KNOWN}, with days added or taken away as in today-2 and a format as in "
            "today|%d/%m/%Y; a $ before it leaves it as it stands"
        )
    days = 0
    if match["days"] is not None:
        if len(match["days"]) > 4 or int(match["days"]) > MAX_OFFSET_DAYS:
            raise wrong(f"moves by more than {MAX_OFFSET_DAYS} days")
        days = int(match["sign"] + match["days"])
    written = match["format"]
    if written is not None:
        _check_format(written, name, wrong)
    return _Placeholder(name, timedelta(days=days), written)


def _check_format(written: str, name: str, wrong: Callable[[str], InvalidPlaceholder]) -> None:
    if not written:
        raise wrong("has nothing after the |, where a format such as %d/%m/%Y is expected")
    for match in _DIRECTIVE.finditer(written):
        directive = match[1]
        if directive in _OF_DATES or (name in _TIMES and directive in _OF_TIMES):
            continue
        if directive in _OF_TIMES:
            raise wrong(f"the format has %{directive}, but {name} is a date without a time; use scheduled_time")
        known = " ".join(f"%{known}" for known in sorted(_OF_TIMES if name in _TIMES else _OF_DATES))
        raise wrong(f"the format has %{directive}, which isn't one of {known}")
