"""Timetables: several rules, their bounds, excluded days, the tick before."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from maestro.resources.schedule import Exclude, ScheduleSpec
from maestro.schedule.cron import InvalidRule, Tick, UnknownTimeZone, timetable_of


def ticks(count: int, after: str, **spec: Any) -> list[str]:
    """The next ticks as local times, with a `!` and the reason where they are skipped."""
    timetable = timetable_of(ScheduleSpec.model_validate({"automation": "a", **spec}))
    found = islice(timetable.ticks_after(datetime.fromisoformat(after)), count)
    return [
        tick.at.astimezone(timetable.zone).strftime("%a %d %b %Y %H:%M") + (f" !{tick.skip}" if tick.skip else "")
        for tick in found
    ]


def test_strictly_after_and_on_whole_minutes() -> None:
    """A tick isn't after itself; any part of a minute before it is."""
    rule = {"schedule": "*/5 * * * *"}
    assert ticks(1, "2026-05-01T10:05:00Z", **rule) == ["Fri 01 May 2026 10:10"]
    assert ticks(1, "2026-05-01T10:04:59.999999Z", **rule) == ["Fri 01 May 2026 10:05"]
    assert ticks(1, "2026-05-01T12:05:00+02:00", **rule) == ["Fri 01 May 2026 10:10"]


def test_several_rules_are_one_timetable() -> None:
    """An instant that two rules match is one tick."""
    assert ticks(4, "2026-05-01T00:00:00Z", schedules=["0 */6 * * *", "0 12 * * *", "30 12 * * *"]) == [
        "Fri 01 May 2026 06:00",
        "Fri 01 May 2026 12:00",
        "Fri 01 May 2026 12:30",
        "Fri 01 May 2026 18:00",
    ]


def test_day_of_month_and_day_of_week_either() -> None:
    """Both given: either matches; a field that is `*` gives nothing."""
    assert ticks(4, "2026-05-01T00:00:00Z", schedule="0 0 13 * FRI") == [
        "Fri 08 May 2026 00:00",
        "Wed 13 May 2026 00:00",
        "Fri 15 May 2026 00:00",
        "Fri 22 May 2026 00:00",
    ]
    assert ticks(2, "2026-05-01T00:00:00Z", schedule="0 0 */10 * MON")[:2] == [
        "Mon 04 May 2026 00:00",
        "Mon 11 May 2026 00:00",
    ]


def test_last_day_of_the_month() -> None:
    """`L`, alone and in a list."""
    assert ticks(3, "2028-01-01T00:00:00Z", schedule="0 8 L 1-3 *") == [
        "Mon 31 Jan 2028 08:00",
        "Tue 29 Feb 2028 08:00",
        "Fri 31 Mar 2028 08:00",
    ]
    assert ticks(2, "2026-02-01T00:00:00Z", schedule="0 8 15,L * *") == [
        "Sun 15 Feb 2026 08:00",
        "Sat 28 Feb 2026 08:00",
    ]


def test_rules_that_hardly_ever_fire() -> None:
    """29 February over a century that isn't a leap year."""
    assert ticks(2, "2096-03-01T00:00:00Z", schedule="0 0 29 2 *") == ["Fri 29 Feb 2104 00:00", "Wed 29 Feb 2108 00:00"]


def test_start_and_end_are_ticks_themselves() -> None:
    """Both bounds are included."""
    spec = {"schedule": "@hourly", "startAt": "2026-05-01T10:00:00Z", "endAt": "2026-05-01T14:00:00+02:00"}
    expected = ["Fri 01 May 2026 10:00", "Fri 01 May 2026 11:00", "Fri 01 May 2026 12:00"]
    assert ticks(9, "2020-01-01T00:00:00Z", **spec) == expected
    assert ticks(9, "2026-05-01T10:00:00Z", **spec) == expected[1:]
    assert ticks(9, "2026-05-01T12:00:00Z", **spec) == []


WEEKEND = ["Saturday", "Sunday"]


def test_excluded_days_are_skipped_and_told() -> None:
    """Every kind of day that can be left out."""
    exclude = {"weekdays": WEEKEND, "dates": ["2026-05-01"], "ranges": [{"from": "2026-05-05", "to": "2026-05-06"}]}
    assert ticks(7, "2026-05-01T00:00:00Z", schedule="0 8 * * *", exclude=exclude) == [
        "Fri 01 May 2026 08:00 !Excluded",
        "Sat 02 May 2026 08:00 !Excluded",
        "Sun 03 May 2026 08:00 !Excluded",
        "Mon 04 May 2026 08:00",
        "Tue 05 May 2026 08:00 !Excluded",
        "Wed 06 May 2026 08:00 !Excluded",
        "Thu 07 May 2026 08:00",
    ]


def test_last_business_day_of_the_month() -> None:
    """31 January 2026 is a Saturday, 31 May a Sunday with a holiday before the weekend."""
    exclude = {"weekdays": WEEKEND, "dates": ["2026-05-29"], "onExcluded": "Previous"}
    assert ticks(5, "2026-01-01T00:00:00Z", schedule="0 8 L * *", exclude=exclude) == [
        "Fri 30 Jan 2026 08:00",
        "Fri 27 Feb 2026 08:00",
        "Tue 31 Mar 2026 08:00",
        "Thu 30 Apr 2026 08:00",
        "Thu 28 May 2026 08:00",
    ]
    # From Saturday on the tick of January has been.
    assert ticks(1, "2026-01-30T08:00:00Z", schedule="0 8 L * *", exclude=exclude) == ["Fri 27 Feb 2026 08:00"]


def test_first_business_day_after() -> None:
    """`Next`, also where one begins to ask in the middle of the days that are left out."""
    exclude = {"weekdays": WEEKEND, "dates": ["2026-08-03"], "onExcluded": "Next"}
    for after in ("2026-07-31T00:00:00Z", "2026-08-02T00:00:00Z", "2026-08-04T00:00:00Z"):
        assert ticks(1, after, schedule="0 8 1 * *", exclude=exclude) == ["Tue 04 Aug 2026 08:00"]


def test_ticks_that_move_to_one_day_are_one_tick() -> None:
    """Saturday's and Sunday's go to Monday, which has its own."""
    exclude = {"weekdays": WEEKEND, "onExcluded": "Next"}
    assert ticks(3, "2026-05-01T08:00:00Z", schedule="0 8 * * *", exclude=exclude) == [
        "Mon 04 May 2026 08:00",
        "Tue 05 May 2026 08:00",
        "Wed 06 May 2026 08:00",
    ]


def test_moving_over_the_turn_of_the_year() -> None:
    """The day may lie in another month or year."""
    exclude = {"ranges": [{"from": "2026-12-24", "to": "2027-01-03"}], "onExcluded": "Previous"}
    assert ticks(2, "2026-12-01T00:00:00Z", schedule="0 8 1 1 *", exclude=exclude) == [
        "Wed 23 Dec 2026 08:00",
        "Sat 01 Jan 2028 08:00",
    ]


@pytest.mark.parametrize("on_excluded", ["Skip", "Previous", "Next"])
def test_where_no_day_is_left(on_excluded: str) -> None:
    """With every day excluded nothing moves without end: the tick is skipped where it stands."""
    exclude = {
        "weekdays": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", *WEEKEND],
        "onExcluded": on_excluded,
    }
    assert ticks(2, "2026-05-01T00:00:00Z", schedule="0 8 1 * *", exclude=exclude) == [
        "Fri 01 May 2026 08:00 !Excluded",
        "Mon 01 Jun 2026 08:00 !Excluded",
    ]


def test_moved_into_a_gap_and_told() -> None:
    """Saturday 02:30 goes to Sunday, when 02:30 doesn't exist in Berlin."""
    exclude = {"dates": ["2026-03-28"], "onExcluded": "Next"}
    spec = {"automation": "a", "schedule": "30 2 28 3 *", "timeZone": "Europe/Berlin", "exclude": exclude}
    (tick,) = islice(timetable_of(ScheduleSpec.model_validate(spec)).ticks_after(datetime(2026, 1, 1)), 1)
    assert tick == Tick(datetime(2026, 3, 29, 1, 0, tzinfo=UTC))
    assert (tick.meets, tick.moved_from, tick.local) == ("Gap", date(2026, 3, 28), datetime(2026, 3, 29, 2, 30))


@pytest.mark.parametrize(
    ("rule", "at", "before"),
    [
        ("*/15 * * * *", "2026-05-01T00:00:00Z", "2026-04-30T23:45:00Z"),
        ("0 8 L * *", "2026-03-31T08:00:00Z", "2026-02-28T08:00:00Z"),
        ("0 0 29 2 *", "2104-02-29T00:00:00Z", "2096-02-29T00:00:00Z"),
        ("0 8 * * 1-5", "2026-05-04T08:00:00Z", "2026-05-01T08:00:00Z"),
        ("0 0 1 1 *", "2026-12-31T00:00:00Z", "2026-01-01T00:00:00Z"),
    ],
)
def test_the_tick_before(rule: str, at: str, before: str) -> None:
    """Also before startAt."""
    spec = ScheduleSpec.model_validate({"automation": "a", "schedule": rule, "startAt": at})
    found = timetable_of(spec).tick_before(datetime.fromisoformat(at))
    assert found == Tick(datetime.fromisoformat(before))


def test_the_tick_before_is_one_that_fires() -> None:
    """An excluded day's isn't meant."""
    spec = ScheduleSpec.model_validate(
        {"automation": "a", "schedule": "0 8 * * *", "exclude": Exclude(weekdays=["Saturday", "Sunday"])}
    )
    monday = datetime(2026, 5, 4, 8, tzinfo=UTC)
    assert timetable_of(spec).tick_before(monday) == Tick(monday - timedelta(days=3))


def test_what_cannot_be_a_timetable() -> None:
    """Rule and zone are named."""
    with pytest.raises(InvalidRule, match="minute at character 1"):
        timetable_of(ScheduleSpec.model_validate({"automation": "a", "schedule": "61 * * * *"}))
    with pytest.raises(UnknownTimeZone, match=r"timeZone: there is no time zone 'Europe/Lisbonn'.*Europe/Lisbon\?"):
        timetable_of(
            ScheduleSpec.model_validate({"automation": "a", "schedule": "@daily", "timeZone": "Europe/Lisbonn"})
        )
