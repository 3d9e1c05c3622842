"""Cron rules: what is read out of them, and what is said about those that aren't any."""

from __future__ import annotations

import pytest

from maestro.schedule.cron import InvalidRule, Rule, UnknownTimeZone
from maestro.schedule.zones import zone_named

FIELDS = ("minute", "hour", "day of month", "month", "day of week")


@pytest.mark.parametrize(
    ("text", "minutes", "hours", "days", "months", "weekdays"),
    [
        # Days of the week from Monday 0, as Python counts them.
        ("0 6 * * 1-5", {0}, {6}, None, 12, {0, 1, 2, 3, 4}),
        ("5-7,10 1,2 1 JAN mon", {5, 6, 7, 10}, {1, 2}, {1}, {1}, {0}),
        ("*/20 */6 */10 */4 */3", {0, 20, 40}, {0, 6, 12, 18}, {1, 11, 21, 31}, {1, 5, 9}, {6, 2, 5}),
        ("10-40/15 0 1 1 *", {10, 25, 40}, {0}, {1}, {1}, None),
        ("50/4 22/1 28/2 11/1 5/1", {50, 54, 58}, {22, 23}, {28, 30}, {11, 12}, {4, 5}),
        ("59/15 23/5 31/3 12/2 7/2", {59}, {23}, {31}, {12}, {6}),
        ("5-5 3-3 2-2 MAY-MAY 7-7", {5}, {3}, {2}, {5}, {6}),
        ("0 0 * * 5-7", {0}, {0}, None, 12, {4, 5, 6}),
        ("0 0 * * 0-7/2", {0}, {0}, None, 12, {6, 1, 3, 5}),
        ("0 0 * * SUN,7,0", {0}, {0}, None, 12, {6}),
        ("0 0 * * Sun-Tue", {0}, {0}, None, 12, {6, 0, 1}),
        ("0 0 1-31 * 1", {0}, {0}, set(range(1, 32)), 12, {0}),
        ("0 0 */1 * 1", {0}, {0}, None, 12, {0}),
        ("3,*,5 * * * *", set(range(60)), set(range(24)), None, 12, None),
        ("@hourly", {0}, set(range(24)), None, 12, None),
        ("@Daily", {0}, {0}, None, 12, None),
        ("@midnight", {0}, {0}, None, 12, None),
        ("@weekly", {0}, {0}, None, 12, {6}),
        ("@monthly", {0}, {0}, {1}, 12, None),
        ("@yearly", {0}, {0}, {1}, {1}, None),
        ("@annually", {0}, {0}, {1}, {1}, None),
        ("  0\t0  1 1   * \n", {0}, {0}, {1}, {1}, None),
        ("00 007 01 01 *", {0}, {7}, {1}, {1}, None),
    ],
)
def test_fields(
    text: str, minutes: set[int], hours: set[int], days: set[int] | None, months: int | set[int], weekdays: set[int]
) -> None:
    """Numbers, names, ranges, steps, lists, words."""
    rule = Rule.parse(text)
    assert set(rule.minutes) == minutes
    assert set(rule.hours) == hours
    assert rule.days == days
    assert rule.months == (set(range(1, 13)) if months == 12 else months)
    assert rule.weekdays == weekdays
    assert not rule.last_day
    assert rule.minutes == tuple(sorted(rule.minutes))


def test_last_day() -> None:
    """`L` alone and in a list."""
    assert (Rule.parse("0 0 L * *").days, Rule.parse("0 0 L * *").last_day) == (frozenset(), True)
    assert (Rule.parse("0 0 1,l * *").days, Rule.parse("0 0 1,l * *").last_day) == (frozenset({1}), True)


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("*/15 * * * *", True),
        ("* * * * *", True),
        ("30 * * * *", True),
        ("@hourly", True),
        ("30 0-23 * * *", True),
        ("15 */1 * * *", True),
        ("* 2 * * *", True),
        ("*/15 0-5 * * *", True),
        ("0/15 2 * * *", True),
        ("30 2 * * *", False),
        ("0 */2 * * *", False),
        ("0,15,30,45 2 * * *", False),
        ("0-59 2 * * *", False),
        ("0 0-22 * * *", False),
        ("@daily", False),
    ],
)
def test_which_rules_follow_real_time(text: str, follows: bool) -> None:
    """Every hour, or minutes written as `*` or `*/n`; all others are times of day."""
    assert Rule.parse(text).follows_real_time is follows


BAD = [
    # As a whole
    ("", None, 1, "is empty; five fields are needed: minute, hour, day of month, month, day of week"),
    ("   ", None, 1, "is empty"),
    ("0 6 * *", "day of week", 8, "has 4 fields of five; missing: day of week"),
    ("5", "hour", 2, "has 1 field of five; missing: hour, day of month, month, day of week"),
    ("0 0 6 * * *", None, 11, "has 6 fields; five are needed"),
    ("0 0 12 1 1 ? 2026", None, 12, "there is none for seconds or years"),
    ("@reboot", None, 1, "'@reboot' is not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly"),
    ("@every 5m", None, 1, "for an interval write a step, as in */15 * * * *"),
    ("@", None, 1, "'@' is not one of"),
    ("TZ=Europe/Lisbon 0 6 * * *", None, 1, "a rule may not name a time zone; use timeZone"),
    ("CRON_TZ=UTC 0 6 * * *", None, 1, "use timeZone"),
    ("* " * 200, None, 257, "is longer than 256 characters"),
    # Numbers out of their range
    ("60 * * * *", "minute", 1, "'60' is not 0 to 59"),
    ("0 24 * * *", "hour", 3, "'24' is not 0 to 23"),
    ("0 0 0 * *", "day of month", 5, "'0' is not 1 to 31 or L"),
    ("0 0 32 * *", "day of month", 5, "'32' is not 1 to 31 or L"),
    ("0 0 1 0 *", "month", 7, "'0' is not 1 to 12 or JAN to DEC"),
    ("0 0 1 13 *", "month", 7, "'13' is not 1 to 12 or JAN to DEC"),
    ("0 0 * * 8", "day of week", 9, "'8' is not 0 to 7 or SUN to SAT"),
    ("0 6 1,40,3 * *", "day of month", 7, "'40' is not 1 to 31"),
    ("99999999999999999999 * * * *", "minute", 1, "is not 0 to 59"),
    ("-5 * * * *", "minute", 1, "'-5' is not a number"),
    ("1.5 * * * *", "minute", 1, "'1.5' is not a number"),
    ("٣ * * * *", None, 1, "the character U+0663 doesn't belong in a rule"),
    ("1² * * * *", None, 2, "the character U+00B2"),
    # Names
    ("0 0 * FOO *", "month", 7, "'FOO' is not 1 to 12 or JAN to DEC"),
    ("0 0 * JANUARY *", "month", 7, "'JANUARY' is not"),
    ("0 0 * * MONDAY", "day of week", 9, "'MONDAY' is not"),
    ("0 0 MON * *", "day of month", 5, "'MON' is not 1 to 31 or L"),
    ("0 JAN * * *", "hour", 3, "'JAN' is not 0 to 23"),
    # Ranges
    ("5-1 * * * *", "minute", 1, "the range '5-1' runs backwards; write two, as in 5-59,0-1"),
    ("0 22-2 * * *", "hour", 3, "write two, as in 22-23,0-2"),
    ("0 0 * * FRI-MON", "day of week", 9, "write two, as in 5-6,0-1"),
    ("0 0 * * FRI-SUN", "day of week", 9, "write two, as in 5-6,0"),
    ("0 0 * OCT-MAR *", "month", 7, "write two, as in 10-12,1-3"),
    ("0 9-25 * * *", "hour", 5, "'25' is not 0 to 23"),
    ("1-2-3 * * * *", "minute", 1, "'1-2-3' is not a number"),
    ("*-5 * * * *", "minute", 1, "a range goes from a number to a number"),
    ("5- * * * *", "minute", 1, "'5-' is not a number"),
    ("0 0 1-L * *", "day of month", 7, "L stands alone or in a list, as in 15,L"),
    # Steps
    ("*/0 * * * *", "minute", 3, "the step '0' is not 1 to 59"),
    ("*/90 * * * *", "minute", 3, "the step '90' is not 1 to 59; it counts within the minute field only"),
    ("0 */24 * * *", "hour", 5, "the step '24' is not 1 to 23"),
    ("0 0 * * */7", "day of week", 11, "the step '7' is not 1 to 6"),
    ("*/x * * * *", "minute", 3, "the step 'x' is not 1 to 59"),
    ("*/ * * * *", "minute", 1, "'*/' is not a number"),
    ("*/5/5 * * * *", "minute", 1, "'*/5/5' is not a number"),
    ("/5 * * * *", "minute", 1, "'/5' is not a number"),
    # Lists
    ("1,,2 * * * *", "minute", 3, "there is nothing between two commas, or before or after one"),
    (",1 * * * *", "minute", 1, "there is nothing"),
    ("0 1, * * *", "hour", 5, "there is nothing"),
    # What other programs take for cron
    ("R * * * *", "minute", 1, "'R' is not 0 to 59"),
    ("H/15 * * * *", "minute", 1, "'H' is not 0 to 59"),
    ("H(0-29) * * * *", "minute", 1, "'H(0-29)' is not a number"),
    ("0 0 15W * *", "day of month", 5, "'15W' is not 1 to 31 or L"),
    ("0 0 LW * *", "day of month", 5, "'LW' is not 1 to 31 or L"),
    ("0 0 L-3 * *", "day of month", 5, "L stands alone or in a list"),
    ("0 0 ? * 1", "day of month", 5, "'?' is not a number, *, a range such as 1-5, or a step such as */15 (write *)"),
    ("0 0 * * 1#2", "day of week", 9, "'1#2' is not a number"),
    ("0 0 * * 5L", "day of week", 9, "L is for the day of the month"),
    ("0 0 * * L", "day of week", 9, "L is for the day of the month"),
    ("L * * * *", "minute", 1, "'L' is not 0 to 59"),
    ("~ * * * *", "minute", 1, "'~' is not a number"),
    ("0\u00a06 * * * *", None, 2, "the character U+00A0"),
    ("0\x006 * * * *", None, 2, "the character U+0000"),
    # Never fires
    ("0 0 30 2 *", "day of month", 5, "never fires: there is no day 30 in FEB"),
    ("0 0 31 4,6,9,11 *", "day of month", 5, "never fires: there is no day 31 in APR, JUN, SEP, NOV"),
    ("0 0 30,31 FEB *", "day of month", 5, "never fires: there is no day 30, 31 in FEB"),
]


@pytest.mark.parametrize(("text", "field", "position", "reason"), BAD, ids=[repr(bad[0])[:30] for bad in BAD])
def test_bad_rules(text: str, field: str | None, position: int, reason: str) -> None:
    """The error names the field, the character at which the mistake begins, and what the rule is."""
    with pytest.raises(InvalidRule) as refused:
        Rule.parse(text)
    error = refused.value
    assert (error.field, error.position) == (field, position)
    assert reason in error.reason
    assert str(error).startswith(f"{field} at character {position} of '" if field else f"character {position} of '")
    assert len(str(error)) < 400


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 31 2,3 *", "0 0 30 2 MON", "0 0 L 2 *", "0 0 30,L 2 *"])
def test_rules_that_do_fire(text: str) -> None:
    """In leap years, in another month, by the day of the week, by the last day."""
    Rule.parse(text)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Lisboa", "did you mean Europe/Lisbon?"),
        ("America/SaoPaulo", "did you mean America/Sao_Paulo?"),
        ("europe/lisbon", "did you mean Europe/Lisbon?"),
        ("Mars/Olympus", ""),
        ("", ""),
        ("localtime", ""),
        ("Factory", ""),
        ("posixrules", ""),
        ("../../etc/passwd", ""),
        ("/etc/localtime", ""),
        ("right/Europe/Lisbon", ""),
        ("UTC+3", ""),
        ("x" * 5000, ""),
    ],
)
def test_bad_zones(name: str, hint: str) -> None:
    """The error names the zone, and the one that was perhaps meant."""
    with pytest.raises(UnknownTimeZone) as refused:
        zone_named(name)
    assert str(refused.value).startswith("timeZone: there is no time zone '")
    assert hint in str(refused.value)
    assert len(str(refused.value)) < 200
