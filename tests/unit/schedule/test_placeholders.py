"""Placeholders: what each becomes, and what is said about those that aren't one."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from maestro.schedule import placeholders
from maestro.schedule.placeholders import InvalidPlaceholder

LISBON = ZoneInfo("Europe/Lisbon")
# A Saturday, 06:00 in Lisbon; in UTC it is 05:00.
TICK = datetime(2026, 8, 1, 5, 0, tzinfo=UTC)
BEFORE = datetime(2026, 7, 28, 5, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(today)", "2026-08-01"),
        ("$(yesterday)", "2026-07-31"),
        ("$(tomorrow)", "2026-08-02"),
        ("$(today-2)", "2026-07-30"),
        ("$(today+31)", "2026-09-01"),
        ("$( today - 2 )", "2026-07-30"),
        ("$(yesterday-1)", "2026-07-30"),
        ("$(prev_tick)", "2026-07-28"),
        ("$(prev_tick+1)", "2026-07-29"),
        ("$(first_of_month)", "2026-08-01"),
        ("$(last_of_month)", "2026-08-31"),
        ("$(first_of_last_month)", "2026-07-01"),
        ("$(last_of_last_month)", "2026-07-31"),
        ("$(first_of_month+4)", "2026-08-05"),
        ("$(scheduled_time)", "2026-08-01T06:00:00+01:00"),
        ("$(scheduled_time-1)", "2026-07-31T06:00:00+01:00"),
        ("$(scheduled_time|%Y%m%dT%H%M%S)", "20260801T060000"),
        ("$(scheduled_time|%H:%M %Z %z)", "06:00 WEST +0100"),
        ("$(today|%d/%m/%Y)", "01/08/2026"),
        ("$(today-2|%d/%m/%Y)", "30/07/2026"),
        ("$(today|%G-W%V, day %u)", "2026-W31, day 6"),
        ("$(today|%d%%)", "01%"),
        ("$(today|dia %d às %m)", "dia 01 às 08"),
        ("{{today}}", "2026-08-01"),
        ("{{ yesterday }}", "2026-07-31"),
        ("{{today-2|%d/%m/%Y}}", "30/07/2026"),
        ("{{prev_run+1}}", "2026-07-29"),
        ("{{prev_tick}}", "2026-07-28"),
        ("$(prev_run)", "2026-07-28"),
        ("from $(first_of_last_month) to {{last_of_last_month}}.", "from 2026-07-01 to 2026-07-31."),
        ("$(today)$(today)", "2026-08-012026-08-01"),
        ("", ""),
        ("costs 5 $ (or so) {a} }} )", "costs 5 $ (or so) {a} }} )"),
        ("$$(today)", "$(today)"),
        ("$$(PARAM_X) on $(today)", "$(PARAM_X) on 2026-08-01"),
        ("${{name}}", "{{name}}"),
        ("$$", "$$"),
    ],
)
def test_what_each_becomes(text: str, expected: str) -> None:
    """Every name, offset, format and older form."""
    placeholders.check({"x": text})
    assert placeholders.resolve({"x": text}, TICK, LISBON, BEFORE) == {"x": expected}


def test_the_day_is_that_of_the_time_zone() -> None:
    """One instant, two days."""
    late = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    given = {"x": "$(today)", "y": "$(first_of_month)"}
    assert placeholders.resolve(given, late, ZoneInfo("UTC")) == {"x": "2026-12-31", "y": "2026-12-01"}
    assert placeholders.resolve(given, late, ZoneInfo("Asia/Tokyo")) == {"x": "2027-01-01", "y": "2027-01-01"}


@pytest.mark.parametrize(
    ("at", "name", "expected"),
    [
        ((2024, 2, 29), "last_of_month", "2024-02-29"),
        ((2026, 2, 1), "last_of_month", "2026-02-28"),
        ((2026, 3, 31), "last_of_last_month", "2026-02-28"),
        ((2026, 1, 15), "first_of_last_month", "2025-12-01"),
        ((2026, 12, 31), "last_of_month", "2026-12-31"),
        ((2026, 12, 31), "tomorrow", "2027-01-01"),
    ],
)
def test_ends_of_months_and_years(at: tuple[int, int, int], name: str, expected: str) -> None:
    """Short months, leap years, turns of the year."""
    tick = datetime(*at, 12, tzinfo=UTC)
    assert placeholders.resolve({"x": f"$({name})"}, tick, ZoneInfo("UTC")) == {"x": expected}


def test_without_a_tick_before() -> None:
    """The first tick of all counts from the day before."""
    assert placeholders.resolve({"x": "$(prev_tick)"}, TICK, LISBON) == {"x": "2026-07-31"}


def test_values_inside_of_values() -> None:
    """Lists and objects are gone through; keys and what isn't text stay; the given parameters aren't changed."""
    given = {
        "period": {"from": "$(first_of_month)", "days": [1, "$(today)", None, {"at": "{{today|%d}}"}]},
        "$(today)": True,
        "count": 3,
        "ratio": 0.5,
    }
    copy = {**given, "period": {**given["period"]}}  # type: ignore[dict-item]
    assert placeholders.resolve(given, TICK, LISBON, BEFORE) == {
        "period": {"from": "2026-08-01", "days": [1, "2026-08-01", None, {"at": "01"}]},
        "$(today)": True,
        "count": 3,
        "ratio": 0.5,
    }
    assert given == copy


@pytest.mark.parametrize(
    ("text", "placeholder", "position", "reason"),
    [
        ("$(todya)", "$(todya)", 1, "is not known; there are today, yesterday"),
        ("until $(now)", "$(now)", 7, "is not known"),
        ("{{now}}", "{{now}}", 1, "is not known"),
        ("$(Today)", "$(Today)", 1, "is not known"),
        ("$()", "$()", 1, "is not known"),
        ("$(today-)", "$(today-)", 1, "is not known"),
        ("$(today-2h)", "$(today-2h)", 1, "is not known"),
        ("$(PARAM_X)", "$(PARAM_X)", 1, "a $ before it leaves it as it stands"),
        ("$(today-10000)", "$(today-10000)", 1, "moves by more than 9999 days"),
        ("x $(today", "$(today", 3, "has no ) after it"),
        ("{{today}", "{{today}", 1, "has no }} after it"),
        ("$(today|)", "$(today|)", 1, "has nothing after the |"),
        ("$(today|%H)", "$(today|%H)", 1, "the format has %H, but today is a date without a time; use scheduled_time"),
        ("$(today|%Q)", "$(today|%Q)", 1, "the format has %Q, which isn't one of"),
        ("$(scheduled_time|%-d)", "$(scheduled_time|%-d)", 1, "the format has %-, which isn't one of"),
        ("$(today|%)", "$(today|%)", 1, "the format has %, which isn't one of"),
    ],
)
def test_bad_placeholders(text: str, placeholder: str, position: int, reason: str) -> None:
    """The error names the path, the placeholder, the character and what is wrong; `resolve` refuses it too."""
    given = {"period": {"days": ["$(today)", text]}}
    with pytest.raises(InvalidPlaceholder) as refused:
        placeholders.check(given)
    error = refused.value
    assert (error.path, error.placeholder, error.position) == ("parameters.period.days.1", placeholder, position)
    assert reason in error.reason
    assert str(error) == f"parameters.period.days.1: {placeholder} at character {position}: {error.reason}"
    with pytest.raises(InvalidPlaceholder):
        placeholders.resolve(given, TICK, LISBON)


def test_a_long_text_is_not_repeated() -> None:
    """What follows an opening that isn't closed may be anything."""
    with pytest.raises(InvalidPlaceholder) as refused:
        placeholders.check({"x": "$(" + "s" * 5000})
    assert len(str(refused.value)) < 250
