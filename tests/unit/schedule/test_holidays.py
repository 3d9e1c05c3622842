"""Calendar files: which days they have, and what is said of those that can't be read."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from maestro.resources.schedule import Exclude
from maestro.schedule.calendars import Calendar
from maestro.schedule.holidays import InvalidCalendar, read_calendar


def calendar(*events: str) -> str:
    """A calendar file; the lines of an event are parted by spaces, and a `_` stands for a space."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Example//Holidays//EN"]
    for event in events:
        lines += ["BEGIN:VEVENT", *(line.replace("_", " ") for line in event.split()), "END:VEVENT"]
    return "\r\n".join([*lines, "END:VCALENDAR", ""])


def days(*events: str) -> list[str]:
    """The days of a calendar, up to 2030."""
    return [str(day) for day in sorted(read_calendar(calendar(*events))) if day.year < 2030]


def test_days_and_stretches() -> None:
    """An event's end isn't part of it; an event with hours excludes each day that it touches."""
    assert days("UID:a DTSTART;VALUE=DATE:20261225") == ["2026-12-25"]
    assert days("UID:a DTSTART;VALUE=DATE:20261225 DTEND;VALUE=DATE:20261227") == ["2026-12-25", "2026-12-26"]
    assert days("UID:a DTSTART;VALUE=DATE:20261230 DURATION:P3D") == ["2026-12-30", "2026-12-31", "2027-01-01"]
    assert days("UID:a DTSTART:20261224T120000Z DTEND:20261224T180000Z") == ["2026-12-24"]
    assert days("UID:a DTSTART:20261224T220000Z DTEND:20261225T020000Z") == ["2026-12-24", "2026-12-25"]
    assert days("UID:a DTSTART:20261224T220000Z DTEND:20261225T000000Z") == ["2026-12-24"]
    assert days("UID:a DTSTART;TZID=Asia/Tokyo:20261224T010000 DURATION:PT1H") == ["2026-12-24"]


def test_holidays_that_come_again() -> None:
    """Yearly on a day, yearly on the fourth Thursday, with an end, with a count, with days taken out and put in."""
    christmas = "UID:a DTSTART;VALUE=DATE:20261225 RRULE:FREQ=YEARLY"
    assert days(christmas) == ["2026-12-25", "2027-12-25", "2028-12-25", "2029-12-25"]
    thanksgiving = "UID:a DTSTART;VALUE=DATE:20261126 RRULE:FREQ=YEARLY;BYMONTH=11;BYDAY=4TH;COUNT=3"
    assert days(thanksgiving) == ["2026-11-26", "2027-11-25", "2028-11-23"]
    assert days(f"{christmas};UNTIL=20271225") == ["2026-12-25", "2027-12-25"]
    assert days(f"{christmas} EXDATE;VALUE=DATE:20271225,20281225 RDATE;VALUE=DATE:20260101") == [
        "2026-01-01",
        "2026-12-25",
        "2029-12-25",
    ]
    last_friday = "UID:a DTSTART;VALUE=DATE:20261030 RRULE:FREQ=MONTHLY;BYDAY=-1FR;COUNT=3"
    assert days(last_friday) == ["2026-10-30", "2026-11-27", "2026-12-25"]


def test_the_end_of_a_rule_is_in_the_events_own_time() -> None:
    """09:00 UTC is 10:00 in Berlin: the last one counts."""
    text = "UID:a DTSTART;TZID=Europe/Berlin:20261126T100000 DURATION:PT1H RRULE:FREQ=DAILY;UNTIL=20261128T090000Z"
    assert days(text) == ["2026-11-26", "2026-11-27", "2026-11-28"]
    assert days(f"{text} EXDATE;TZID=Europe/Berlin:20261127T100000") == ["2026-11-26", "2026-11-28"]


def test_an_occurrence_that_was_moved_or_canceled() -> None:
    """RECURRENCE-ID takes the place of one occurrence."""
    weekly = "UID:a DTSTART;VALUE=DATE:20261126 RRULE:FREQ=WEEKLY;COUNT=3"
    moved = "UID:a RECURRENCE-ID;VALUE=DATE:20261203 DTSTART;VALUE=DATE:20261204"
    assert days(weekly, moved) == ["2026-11-26", "2026-12-04", "2026-12-10"]
    assert days(weekly, f"{moved} STATUS:CANCELLED") == ["2026-11-26", "2026-12-10"]
    assert days("UID:a DTSTART;VALUE=DATE:20261126 STATUS:CANCELLED") == []


def test_a_calendar_without_events_excludes_nothing() -> None:
    """As well as one whose other parts aren't events."""
    assert read_calendar(calendar()) == frozenset()
    todo = "BEGIN:VTODO\r\nUID:t\r\nDUE;VALUE=DATE:20261126\r\nEND:VTODO\r\nEND:VCALENDAR"
    assert read_calendar(calendar().replace("END:VCALENDAR", todo)) == frozenset()


def test_rules_that_go_on_end_at_the_horizon() -> None:
    """A weekday for ever is some thousand days."""
    found = read_calendar(calendar("UID:a DTSTART;VALUE=DATE:20260105 RRULE:FREQ=WEEKLY;BYDAY=MO"))
    assert max(found) == date(2099, 12, 28)
    assert all(day.weekday() == 0 for day in found)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("SUMMARY:New_Year", "No DTSTART given"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:2026-01-01", "DTSTART can't be read"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20261301", "DTSTART can't be read"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:18991231", "is not between 1900 and 2100"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 DTEND;VALUE=DATE:99991231", "is not between 1900 and 2100"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260102 DTEND;VALUE=DATE:20260101", "ends before it begins"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=HOURLY", "RRULE: FREQ is one of DAILY, WEEKLY"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=YEARLY;BYDAY=XX", "RRULE can't be read"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=YEARLY;BYHOUR=3", "RRULE: BYHOUR isn't supported"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=DAILY;BYMONTH=1", "RRULE: BYMONTH isn't supported"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=DAILY;INTERVAL=7;BYDAY=MO", "RRULE: INTERVAL=7"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=YEARLY;INTERVAL=0", "RRULE: INTERVAL=0"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "matches no day"),
        ("SUMMARY:New_Year DTSTART;VALUE=DATE:20260101 EXDATE;VALUE=DATE:tomorrow", "EXDATE can't be read"),
        (
            "SUMMARY:New_Year UID:a DTSTART;VALUE=DATE:20260101 RECURRENCE-ID;VALUE=DATE;RANGE=THISANDFUTURE:20260101",
            "RECURRENCE-ID with RANGE isn't supported",
        ),
    ],
)
def test_bad_events(event: str, reason: str) -> None:
    """The error names the event and what is wrong, each time that it is read."""
    for _ in range(2):
        with pytest.raises(InvalidCalendar) as refused:
            read_calendar(calendar("UID:good DTSTART;VALUE=DATE:20260501", event))
        assert refused.value.event == "New Year"
        assert reason in refused.value.reason
        assert str(refused.value) == f"the event 'New Year': {refused.value.reason}"


@pytest.mark.parametrize("text", ["", "hello", "BEGIN:VCALENDAR", "BEGIN:VEVENT\nUID:a\nEND:VEVENT", "\0", "{}"])
def test_bad_files(text: str) -> None:
    """What isn't a calendar at all."""
    with pytest.raises(InvalidCalendar, match="is not iCalendar"):
        read_calendar(text)


def test_files_that_cost_too_much() -> None:
    """Bounds on size, events and recurrences."""
    with pytest.raises(InvalidCalendar, match="is longer than"):
        read_calendar("x" * 600_000)
    with pytest.raises(InvalidCalendar, match="recur too often"):
        read_calendar(calendar(*(f"UID:{n} DTSTART;VALUE=DATE:19700101 RRULE:FREQ=DAILY" for n in range(6))))
    with pytest.raises(InvalidCalendar, match="more than 50000 days"):
        read_calendar(calendar("UID:a DTSTART;VALUE=DATE:19010101 DTEND;VALUE=DATE:20991231"))


def test_holidays_are_excluded_days() -> None:
    """Together with the Schedule's own."""
    holidays = read_calendar(calendar("UID:a DTSTART;VALUE=DATE:20261225 RRULE:FREQ=YEARLY"))
    days = Calendar(Exclude(weekdays=["Saturday", "Sunday"], on_excluded="Next"), holidays)
    friday = date(2026, 12, 25)
    assert days.excludes(friday)
    assert days.target(friday) == friday + timedelta(days=3)
