"""Time zones by name, and the instants at which their clocks change."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

# Files of the time zone database that name no place, or a different one on each machine.
_NO_PLACES = frozenset({"localtime", "Factory", "posixrules"})
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


class UnknownTimeZone(ValueError):  # noqa: N818
    """A name that the IANA time zone database doesn't have.

    Attributes
    ----------
    name
        The name.
    """

    def __init__(self, name: str) -> None:
        near = difflib.get_close_matches(name, _known(), n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]}?" if near else ""
        shown = name if len(name) <= 64 else f"{name[:61]}..."
        super().__init__(f"timeZone: there is no time zone '{shown}' in the IANA time zone database{hint}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Change:
    """The clocks change.

    Attributes
    ----------
    at
        When, in UTC, without tzinfo.
    before, after
        What is added to UTC up to then, and from then on.
    """

    at: datetime
    before: timedelta
    after: timedelta


@cache
def _known() -> frozenset[str]:
    return frozenset(available_timezones()) - _NO_PLACES


def zone_named(name: str) -> ZoneInfo:
    """The time zone of this IANA name.

    Raises
    ------
    UnknownTimeZone
        There is none.
    """
    if name not in _known():
        raise UnknownTimeZone(name)
    return ZoneInfo(name)


def offset_at(zone: ZoneInfo, at: datetime) -> timedelta:
    """What is added to UTC at this instant (UTC, without tzinfo)."""
    offset = at.replace(tzinfo=UTC).astimezone(zone).utcoffset()
    assert offset is not None, "a ZoneInfo always has one"
    return offset


@lru_cache(maxsize=16_384)
def changes_in(zone: ZoneInfo, year: int) -> tuple[Change, ...]:
    """The changes in a year of UTC, ascending.

    zoneinfo doesn't tell them, so they are looked for: days at whose ends the offset differs, then halving.
    """
    found = []
    start = datetime(year, 1, 1)
    end = datetime(year + 1, 1, 1)
    before = offset_at(zone, start - _SECOND)
    low = start - _SECOND
    while low < end - _SECOND:
        high = min(low + _DAY, end - _SECOND)
        after = offset_at(zone, high)
        if after != before:
            change = _between(zone, low, high, before)
            found.append(change)
            before, low = change.after, change.at
            continue
        low = high
    return tuple(found)


def _between(zone: ZoneInfo, low: datetime, high: datetime, before: timedelta) -> Change:
    """The first change after `low`, at or before `high`, where the offset differs."""
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if offset_at(zone, middle) == before:
            low = middle
        else:
            high = middle
    return Change(high, before, offset_at(zone, high))
