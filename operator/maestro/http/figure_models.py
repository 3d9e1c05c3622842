"""Figures about Runs as HTTP shows them."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from maestro.http.models import Model, RunStatus


class Stats(Model):
    """Runs by where they stand now and how they ended."""

    running: int
    pending: int
    completed_today: int
    succeeded_last24h: int
    failed_last24h: int
    canceled_last24h: int
    total_last24h: int
    success_rate24h: float | None


class HoursQuery(Model):
    """Which hours, of which Automation."""

    hours: int = Field(24, ge=1, le=168, description="How many hours, the present one included.")
    automation: str | None = Field(None, max_length=128, description="`<name>` or `<namespace>.<name>`; else all.")


class AutomationQuery(Model):
    """Of which Automation."""

    automation: str | None = Field(None, max_length=128, description="`<name>` or `<namespace>.<name>`; else all.")


class Hour(Model):
    """Runs that ended in one hour."""

    hour: datetime
    total: int
    succeeded: int
    failed: int
    canceled: int


class Hours(Model):
    """Runs by hour, the oldest first, hours without any included."""

    items: list[Hour]


class AutomationFigures(Model):
    """An Automation's Runs of the last 24 hours, and what its last ended Runs (`sampled`, at most 200) say."""

    automation_id: str
    name: str
    total: int
    succeeded: int
    failed: int
    canceled: int
    success_rate: float | None
    sampled: int
    manual: int
    scheduled: int
    duration_p50_s: float | None = Field(alias="durationP50S")
    duration_p95_s: float | None = Field(alias="durationP95S")
    last_status: RunStatus | None
    last_run_at: datetime | None
    recent: list[RunStatus] = Field(description="How the last ones ended, the newest first.")


class AutomationsFigures(Model):
    """Figures by Automation."""

    items: list[AutomationFigures]


class ErrorClass(Model):
    """Failed Runs of one class of error."""

    error_class: str
    count: int


class ErrorClasses(Model):
    """Runs that failed in the last 24 hours, by class of error, the most frequent first."""

    items: list[ErrorClass]
