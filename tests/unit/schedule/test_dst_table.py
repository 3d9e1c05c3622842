"""The table of `dst_table.txt`: twelve rules, eight zones, both changes, every policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

import pytest

from maestro.resources.schedule import DaylightSaving
from maestro.schedule.cron import Rule, Timetable
from maestro.schedule.zones import zone_named

_TABLE = Path(__file__).with_name("dst_table.txt")
_POLICIES = {"gap": ("RunAfter", "Skip"), "overlap": ("First", "Second", "Both")}
_OFFSET = re.compile(r"([+-])(\d\d)(?::(\d\d))?")

Ticks = list[tuple[datetime, str | None]]


@dataclass(frozen=True)
class Change:
    """A change of the clocks and the time around it that is looked at."""

    zone: str
    kind: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Row:
    """One rule under one policy."""

    change: Change
    rule: str
    policy: str
    ticks: str
    why: str

    def __str__(self) -> str:
        return f"{self.change.zone} {self.change.kind} {self.policy} {self.rule}"


def rows() -> Iterator[Row]:
    """The lines of the table, `any` as one for each policy."""
    change: Change | None = None
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.removeprefix("==").split("|")]
        if line.startswith("=="):
            zone, text, start, end = cells
            kind = text.partition(" ")[0].rstrip(":")
            change = Change(zone, kind, datetime.fromisoformat(start), datetime.fromisoformat(end))
        elif line and not line.startswith("#"):
            assert change is not None
            rule, policy, ticks, why = cells
            for one in _POLICIES[change.kind] if policy == "any" else (policy,):
                yield Row(change, rule, one, ticks, why)


ROWS = list(rows())


def expected(row: Row) -> Ticks:
    """The cell's ticks as instants."""
    found: Ticks = []
    offset = ""
    for word in row.ticks.split():
        if _OFFSET.fullmatch(word):
            offset = word
        elif word != "-":
            found.extend(_written(word, offset, row.change))
    return found


def _written(word: str, offset: str, change: Change) -> Ticks:
    times, _, step = word.partition("/")
    first, _, last = times.partition("..")
    at = _instant(first.rstrip("!"), offset, change)
    end = _instant(last, offset, change) if last else at
    skip = "Gap" if word.endswith("!") else None
    minutes = range(0, int((end - at) / timedelta(minutes=1)) + 1, int(step or 1))
    return [(at + timedelta(minutes=minute), skip) for minute in minutes]


def _instant(time: str, offset: str, change: Change) -> datetime:
    """The one instant of the time that is looked at when clocks with this offset show this time."""
    sign, hours, minutes = _OFFSET.fullmatch(offset).groups()  # type: ignore[union-attr]
    ahead = timedelta(hours=int(hours), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    hour, minute = map(int, time.split(":"))
    midnight = (change.start.astimezone(UTC) + ahead).replace(hour=0, minute=0)
    for days in range(3):
        at = midnight + timedelta(days=days, hours=hour, minutes=minute) - ahead
        if change.start <= at <= change.end:
            return at
    raise AssertionError(f"{time}{offset} is not between {change.start} and {change.end}")


def test_the_table_is_whole() -> None:
    """Twelve rules, eight zones, a gap and an overlap each, every policy, each explained."""
    cells = {(row.change.zone, row.change.kind, row.policy, row.rule) for row in ROWS}
    assert len(cells) == len(ROWS) == 12 * 8 * (2 + 3)
    assert len({row.rule for row in ROWS}) == 12
    assert len({row.change.zone for row in ROWS}) == 8
    assert all(row.why for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    """The ticks of a rule are those that were written down."""
    dst = DaylightSaving.model_validate({row.change.kind: row.policy})
    timetable = Timetable([Rule.parse(row.rule)], zone_named(row.change.zone), dst)
    ticks = timetable.ticks_after(row.change.start - timedelta(seconds=1))
    found: Ticks = [(tick.at, tick.skip) for tick in takewhile(lambda tick: tick.at <= row.change.end, ticks)]
    assert found == expected(row), row.why
