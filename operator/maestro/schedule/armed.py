"""What of a Schedule's spec can be wrong, found out when it is applied and not when it fires. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maestro.resources.schedule import ScheduleSpec
from maestro.runs.model import Registration
from maestro.schedule import placeholders
from maestro.schedule.calendars import Holidays
from maestro.schedule.cron import InvalidRule, Timetable, UnknownTimeZone, timetable_of
from maestro.schedule.placeholders import InvalidPlaceholder


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a Schedule isn't armed. `waits`: for something that may come by itself; else somebody must change it."""

    reason: str
    message: str
    waits: bool = False


def read(spec: ScheduleSpec, holidays: Holidays | None = None) -> Timetable | Problem:
    """The timetable, or the first thing that is wrong with the spec itself."""
    try:
        timetable = timetable_of(spec, holidays)
        placeholders.check(spec.parameters or {})
    except InvalidRule as error:
        return Problem("InvalidRule", str(error))
    except UnknownTimeZone as error:
        return Problem("UnknownTimeZone", f"spec.timeZone: {error}")
    except InvalidPlaceholder as error:
        return Problem("InvalidPlaceholder", f"spec.{error}")
    return timetable


def mismatch(spec: ScheduleSpec, automation: dict[str, Any], registration: Registration) -> Problem | None:
    """What keeps the Schedule from starting anything of its Automation."""
    if spec.launch == "Queue" and registration.launch == "Job":
        return Problem(
            "LaunchMismatch",
            f"spec.launch: Queue needs a queue, and Automation {spec.automation} has launch: Job; say launch: Job",
        )
    worker = automation["spec"].get("worker") or {}
    if spec.launch == "Job" and not worker.get("image"):
        return Problem(
            "NoWorkerImage",
            f"spec.launch: Job needs an image, and Automation {spec.automation} has no worker.image; "
            "give it one, or say launch: Queue",
        )
    return None
