"""What is wrong with a Schedule's times and parameters, as an answer that names field, position and rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from maestro.http.errors import invalid, invalid_model
from maestro.resources.schedule import ScheduleSpec
from maestro.schedule import placeholders
from maestro.schedule.cron import InvalidRule, Rule, UnknownTimeZone
from maestro.schedule.placeholders import InvalidPlaceholder
from maestro.schedule.zones import zone_named


def check_schedule(spec: Mapping[str, Any]) -> None:
    """Check what of a Schedule's spec no schema can say.

    Raises
    ------
    HttpError
        422 with the path and what is wrong with it.
    """
    try:
        parsed = ScheduleSpec.model_validate(spec)
    except ValidationError as error:
        raise invalid_model(error, ScheduleSpec) from None
    if parsed.schedule is not None:
        rule_of("schedule", parsed.schedule)
    for number, text in enumerate(parsed.schedules or ()):
        rule_of(f"schedules.{number}", text)
    check_zone(parsed.time_zone)
    try:
        placeholders.check(parsed.parameters or {})
    except InvalidPlaceholder as error:
        raise invalid(error.path, f"{error.placeholder} at character {error.position} {error.reason}") from None


def rule_of(path: str, text: str) -> Rule:
    """The rule that a field holds; 422 where it is none."""
    try:
        return Rule.parse(text)
    except InvalidRule as error:
        raise invalid(path, str(error)) from None


def check_zone(name: str) -> None:
    """422 where there is no such time zone."""
    try:
        zone_named(name)
    except UnknownTimeZone as error:
        raise invalid("timeZone", str(error).removeprefix("timeZone: ")) from None
