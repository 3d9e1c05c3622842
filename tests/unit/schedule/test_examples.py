"""The examples are what they say they are."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import yaml
from tests.cluster.paths import REPOSITORY

from maestro.resources import Schedule
from maestro.schedule import armed
from maestro.schedule.cron import Timetable

EXAMPLES = REPOSITORY / "manifests" / "examples" / "schedule" / "schedules.yaml"


def _ticks(name: str, after: datetime, n: int) -> list[str]:
    found = {obj["metadata"]["name"]: obj for obj in yaml.safe_load_all(EXAMPLES.read_text())}
    obj = found[name]
    schedule = Schedule.model_validate({**obj, "metadata": {**obj["metadata"], "namespace": "default"}})
    timetable = armed.read(schedule.spec)
    assert isinstance(timetable, Timetable), timetable
    return [tick.at.strftime("%Y-%m-%dT%H:%MZ") for tick in islice(timetable.ticks_after(after), n)]


def test_the_monthly_close_is_on_the_last_business_day() -> None:
    # 31 January 2026 is a Saturday, 28 February too.
    assert _ticks("monthly-close", datetime(2026, 1, 1, tzinfo=UTC), 3) == [
        "2026-01-30T23:00Z",
        "2026-02-27T23:00Z",
        "2026-03-31T23:00Z",
    ]


def test_the_nightly_import_runs_once_each_night_whatever_the_clocks_do() -> None:
    # 4 October 2026, 02:00 +10:30 is followed by 02:30 +11: 01:45 is 15:15Z, and the missing 02:15 runs at 15:30Z.
    assert _ticks("nightly-import", datetime(2026, 10, 3, 12, tzinfo=UTC), 4) == [
        "2026-10-03T15:15Z",
        "2026-10-03T15:30Z",
        "2026-10-04T14:45Z",
        "2026-10-04T15:15Z",
    ]


def test_every_minute() -> None:
    assert _ticks("every-minute", datetime(2026, 1, 1, tzinfo=UTC), 2) == ["2026-01-01T00:01Z", "2026-01-01T00:02Z"]
