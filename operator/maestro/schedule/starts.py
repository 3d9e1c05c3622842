"""The Run that a tick starts. Pure."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal

from maestro.resources import Schedule, names
from maestro.runs.model import NewRun, Registration, TickJob
from maestro.runs.parameters import ParameterValidator
from maestro.schedule import placeholders
from maestro.schedule.cron import Timetable


def run_of(
    schedule: Schedule,
    automation: int,
    registration: Registration,
    validator: ParameterValidator,
    timetable: Timetable,
    at: datetime,
    mark: str = "",
) -> NewRun:
    """The Run of a tick; what it is depends on the tick alone, and never on when this is asked.

    Raises
    ------
    InvalidParameters
        The resolved parameters break the Automation's schema.
    """
    before = timetable.tick_before(at) if "prev_" in repr(schedule.spec.parameters) else None
    given = placeholders.resolve(
        schedule.spec.parameters or {}, at, timetable.zone, None if before is None else before.at
    )
    job = None
    if schedule.spec.launch == "Job":
        name = schedule.metadata.name
        job = TickJob(name, schedule.metadata.uid, names.tick_job(name, int(at.timestamp()) // 60, mark))
    return NewRun(
        automation=automation,
        parameters=validator.merge_and_check(given),
        schedule=schedule.id,
        tick=at,
        launch="Job" if job is not None and registration.launch == "Queue" else None,
        job=job,
    )


def mark_of(kind: Literal["now", "backfill"], value: str) -> str:
    """The mark of a tick that somebody asked for, made of what names the wish; it is a part of its Job's name."""
    return f"-{kind[0]}{hashlib.blake2b(value.encode(), digest_size=3).hexdigest()}"
