"""Says in words what became of a tick where the clocks change or days are excluded."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from maestro.schedule.cron import Tick

_INSTANT = timedelta(microseconds=1)


def explained(tick: Tick, zone: ZoneInfo) -> str | None:
    """A sentence about the tick; None where there is nothing to explain."""
    parts = [part for part in (_moved(tick), _changed(tick, zone)) if part]
    if tick.skip == "Excluded" and tick.local is not None:
        parts = [f"{_day(tick.local.date())} is excluded"]
    return "; ".join(parts) or None


def _moved(tick: Tick) -> str | None:
    return None if tick.moved_from is None else f"moved from {_day(tick.moved_from)}, which is excluded"


def _changed(tick: Tick, zone: ZoneInfo) -> str | None:
    if tick.local is None or tick.meets is None:
        return None
    asked = f"{tick.local:%H:%M} on {_day(tick.local.date())}"
    if tick.meets != "Gap":
        return f"{asked} comes twice in {zone.key}; this is the {tick.meets.lower()} time"
    stopped = (tick.at - _INSTANT).astimezone(zone).replace(tzinfo=None) + _INSTANT
    went_on = tick.at.astimezone(zone).replace(tzinfo=None)
    end = "it is skipped" if tick.skip else f"it runs at {_moment(went_on, stopped)}"
    return f"{asked} doesn't exist in {zone.key}: {stopped:%H:%M} is followed by {_moment(went_on, stopped)}; {end}"


def _moment(local: datetime, beside: datetime) -> str:
    """The time of day, with the day where it is another one."""
    return f"{local:%H:%M}" if local.date() == beside.date() else f"{local:%H:%M} on {_day(local.date())}"


def _day(day: date) -> str:
    return f"{day:%A} {day.isoformat()}"
