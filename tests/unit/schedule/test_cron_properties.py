"""Random rules around every kind of change of the clocks, held against the oracle that looks at every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from tests.unit.schedule import oracle, tzif

from maestro.resources.schedule import DaylightSaving
from maestro.schedule.cron import InvalidRule, Rule, Timetable
from maestro.schedule.zones import Change, changes_in, offset_at

YEARS = range(1990, 2041)
# Where the clocks do something out of the ordinary.
ODD = (
    "Africa/Cairo",  # changes at midnight; some years with four of them
    "Africa/Casablanca",  # Ramadan: four changes a year, and standard time is the one in summer
    "Africa/El_Aaiun",
    "America/Asuncion",  # the gap begins at midnight
    "America/Caracas",  # moved by half an hour, twice
    "America/Godthab",  # the gap ends at midnight: 22:00 to 23:00, later 00:00
    "America/Havana",  # the gap begins at midnight
    "America/Nuuk",
    "America/Santiago",  # the gap begins at midnight, and ends a Saturday
    "America/Sao_Paulo",  # the gap begins at midnight
    "America/Scoresbysund",  # changed its offset and its rule at the same moment
    "America/St_Johns",  # changed at 00:01: the overlap goes back over midnight; two hours in 1988
    "America/Toronto",
    "Antarctica/Casey",  # jumps of two and of three hours
    "Antarctica/Troll",  # two hours, between UTC and summer time
    "Antarctica/Macquarie",
    "Antarctica/Vostok",  # from seven hours ahead to five
    "Asia/Amman",
    "Asia/Beirut",  # the gap begins at midnight
    "Asia/Gaza",  # changes on days that nobody foresees; four a year around Ramadan
    "Asia/Kathmandu",  # a quarter of an hour off, and none
    "Asia/Kolkata",
    "Asia/Pyongyang",  # moved by half an hour, twice
    "Asia/Tehran",  # the gap begins at midnight, half-hour offset
    "Australia/Eucla",  # a quarter of an hour off
    "Australia/Lord_Howe",  # changes by half an hour
    "Europe/Dublin",  # standard time is the one in summer
    "Europe/Lisbon",
    "Europe/Moscow",
    "Europe/Volgograd",
    "Pacific/Apia",  # 30 December 2011 doesn't exist
    "Pacific/Chatham",  # changes at 02:45
    "Pacific/Easter",
    "Pacific/Enderbury",  # a day is missing at the end of 1994
    "Pacific/Fakaofo",  # 30 December 2011 doesn't exist
    "Pacific/Kiritimati",  # 31 December 1994 doesn't exist
    "Pacific/Kwajalein",  # 21 August 1993 doesn't exist
    "Pacific/Norfolk",
    "UTC",
)


@cache
def changes(name: str) -> list[Change]:
    """The changes of a zone in the years that are looked at."""
    zone = ZoneInfo(name)
    return [change for year in YEARS for change in changes_in(zone, year)]


def number(low: int, high: int) -> st.SearchStrategy[str]:
    """A number of a field."""
    return st.integers(low, high).map(str)


def a_range(low: int, high: int) -> st.SearchStrategy[str]:
    """A range of a field."""
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: f"{min(pair)}-{max(pair)}")


def term(low: int, high: int) -> st.SearchStrategy[str]:
    """One of the things that a field's list may hold."""
    most = min(high, 6) - low if high == 7 else high - low
    step = st.integers(1, most)
    return st.one_of(
        number(low, high),
        a_range(low, high),
        st.tuples(a_range(low, high), step).map(lambda pair: f"{pair[0]}/{pair[1]}"),
        st.tuples(number(low, high), step).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    )


def field(low: int, high: int, *others: str) -> st.SearchStrategy[str]:
    """A field: a wildcard, a step, a list."""
    most = min(high, 6) - low if high == 7 else high - low
    return st.one_of(
        st.just("*"),
        st.integers(2, most).map(lambda step: f"*/{step}"),
        term(low, high),
        st.lists(term(low, high), min_size=2, max_size=3).map(",".join),
        *(st.just(other) for other in others),
    )


MINUTES = field(0, 59, "0", "30")
HOURS = field(0, 23, "0", "1", "2", "3", "0-3", "1,2", "22-23")
DAYS = st.one_of(st.just("*"), st.just("*"), field(1, 31, "L", "15,L", "L,1-7/2"))
MONTHS = st.one_of(st.just("*"), st.just("*"), field(1, 12, "MAR", "oct-NOV", "jan,dec/1"))
WEEKDAYS = st.one_of(st.just("*"), st.just("*"), field(0, 7, "SUN", "7", "mon-fri", "5-7", "SAT,sun"))
RULES = st.one_of(
    st.tuples(MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS).map(" ".join),
    st.tuples(MINUTES, HOURS, st.just("* * *")).map(" ".join),
    st.sampled_from(["@hourly", "@daily", "@weekly", "@monthly"]),
)
GAPS = st.sampled_from(["RunAfter", "Skip"])
OVERLAPS = st.sampled_from(["First", "Second", "Both"])


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, mostly an odd one, and an instant within two days of one of its changes."""
    name = draw(st.one_of(st.sampled_from(ODD), st.sampled_from(ODD), st.sampled_from(sorted(available_timezones()))))
    assume(name not in ("localtime", "Factory"))
    known = changes(name)
    if known:
        around = draw(st.sampled_from(known)).at
        back = draw(st.integers(-30, 60 * 26))
        return name, around.replace(second=0) - timedelta(minutes=back)
    return name, draw(st.datetimes(datetime(1990, 1, 1), datetime(2040, 12, 31))).replace(second=0, microsecond=0)


def assert_as_the_oracle(rules: list[str], name: str, gap: str, overlap: str, start: datetime, hours: int) -> None:
    """Both say the same ticks for the hours after an instant."""
    try:
        parsed = [Rule.parse(rule) for rule in rules]
    except InvalidRule as error:
        if "never fires" not in error.reason:
            raise
        return
    zone = ZoneInfo(name)
    start = start.replace(tzinfo=UTC)
    end = start + timedelta(hours=hours)
    dst = DaylightSaving(gap=gap, overlap=overlap)  # type: ignore[arg-type]
    ticks = Timetable(parsed, zone, dst).ticks_after(start)
    found = [(tick.at, tick.skip) for tick in takewhile(lambda tick: tick.at <= end, ticks)]
    assert found == oracle.ticks(rules, zone, gap, overlap, start, end)


# Without shrinking: it would take minutes, and an example is small as it is.
COMMON = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),
}


@settings(max_examples=400, **COMMON)  # type: ignore[arg-type]
@given(rules=st.lists(RULES, min_size=1, max_size=2), moment=moments(), gap=GAPS, overlap=OVERLAPS)
@example(["*/15 2 * * *"], ("Europe/Berlin", datetime(2026, 3, 28, 12)), "RunAfter", "First")
@example(["*/15 * 30 12 *"], ("Pacific/Apia", datetime(2011, 12, 29)), "RunAfter", "First")
@example(["0 12 30 12 *"], ("Pacific/Apia", datetime(2011, 12, 29)), "RunAfter", "First")
@example(["59 23 * * *"], ("America/St_Johns", datetime(2006, 10, 29)), "Skip", "Second")
def test_random_rules_around_changes(rules: list[str], moment: tuple[str, datetime], gap: str, overlap: str) -> None:
    """Two days around a change, any rules, any policy."""
    name, start = moment
    assert_as_the_oracle(rules, name, gap, overlap, start, 48)


TYPICAL = ("*/15 * * * *", "30 2 * * *", "0 */2 * * *", "*/20 0-4 * * *", "0 0 * * *", "45 23,0,1 * * *")


@pytest.mark.parametrize("name", ODD)
def test_each_odd_zone(name: str) -> None:
    """Every distinct kind of change of each odd zone: offset, jump and time of day."""
    kinds = {(change.before, change.after, change.at.time()): change for change in changes(name)}
    for index, change in enumerate(kinds.values()):
        start = change.at.replace(second=0) - timedelta(hours=4)
        gap, overlap = ("RunAfter", "Skip")[index % 2], ("First", "Second", "Both")[index % 3]
        for rule in TYPICAL:
            assert_as_the_oracle([rule], name, gap, overlap, start, 9)


@settings(max_examples=200, **COMMON)  # type: ignore[arg-type]
@given(rule=RULES, moment=moments(), minutes=st.integers(0, 60 * 48))
def test_any_place_to_begin(rule: str, moment: tuple[str, datetime], minutes: int) -> None:
    """What comes after an instant doesn't depend on where one began to ask."""
    name, start = moment
    try:
        timetable = Timetable([Rule.parse(rule)], ZoneInfo(name))
    except InvalidRule:
        return
    start = start.replace(tzinfo=UTC)
    middle = start + timedelta(minutes=minutes)
    end = start + timedelta(hours=72)
    whole = list(takewhile(lambda tick: tick.at <= end, timetable.ticks_after(start)))
    later = list(takewhile(lambda tick: tick.at <= end, timetable.ticks_after(middle)))
    assert later == [tick for tick in whole if tick.at > middle]
    assert all(earlier.at < after.at for earlier, after in pairwise(whole))


@settings(max_examples=200, **COMMON)  # type: ignore[arg-type]
@given(rule=RULES, year=st.integers(1990, 2040))
def test_days_of_a_year(rule: str, year: int) -> None:
    """The days that a rule has, all over a year."""
    try:
        parsed = Rule.parse(rule)
    except InvalidRule:
        return
    cron = oracle.Cron(rule)
    every = [datetime(year, 1, 1) + timedelta(days=n) for n in range(365)]
    expected = [day.date() for day in every if any(cron.matches_hour(day.replace(hour=hour)) for hour in range(24))]
    found = list(takewhile(lambda day: day <= every[-1].date(), parsed.days_from(every[0].date())))
    assert found == expected


def test_no_change_is_overlooked() -> None:
    """A zone's changes are those that its file has, 1990 to where the file's list ends."""
    for name in (*ODD, *sorted(available_timezones() - {"localtime", "Factory"})[::20]):
        zone = ZoneInfo(name)
        listed = [at for at in tzif.transitions(name) if at.year in YEARS]
        moved = [at for at in listed if offset_at(zone, at) != offset_at(zone, at - timedelta(seconds=1))]
        years = range(YEARS[0], max((at.year for at in listed), default=YEARS[0]))
        found = [change.at for year in years for change in changes_in(zone, year)]
        assert found == [at for at in moved if at.year in years], name
