"""Which days a Schedule leaves out, and where the ticks of such a day go."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal, Protocol

from maestro.resources.schedule import Exclude

OnExcluded = Literal["Skip", "Previous", "Next"]

# How far a tick may move. Past that it stays where it is, and is skipped.
MAX_MOVE_DAYS = 366

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAY = timedelta(days=1)


class Holidays(Protocol):
    """The days of a calendar file."""

    def __contains__(self, day: object) -> bool:
        """Whether the day is one of them."""


class Calendar:
    """The days that a Schedule leaves out.

    Parameters
    ----------
    exclude
        `spec.exclude`.
    holidays
        The days of the calendar that `exclude.configMap` names.
    """

    def __init__(self, exclude: Exclude, holidays: Holidays | None = None) -> None:
        self.on_excluded: OnExcluded = exclude.on_excluded
        self._dates = frozenset(exclude.dates or ())
        self._ranges = tuple((span.from_, span.to) for span in exclude.ranges or ())
        self._weekdays = frozenset(_WEEKDAYS.index(name) for name in exclude.weekdays or ())
        self._holidays: Holidays = holidays if holidays is not None else frozenset()

    def excludes(self, day: date) -> bool:
        """Whether the day is left out."""
        return (
            day.weekday() in self._weekdays
            or day in self._dates
            or any(first <= day <= last for first, last in self._ranges)
            or day in self._holidays
        )

    def target(self, day: date) -> date | None:
        """The day on which this day's ticks run: itself, or the nearest one that isn't excluded; None: on none."""
        if not self.excludes(day):
            return day
        if self.on_excluded == "Skip":
            return None
        step = _DAY if self.on_excluded == "Next" else -_DAY
        for distance in range(1, MAX_MOVE_DAYS + 1):
            other = day + step * distance
            if not self.excludes(other):
                return other
        return None

    def first_source(self, day: date) -> date:
        """The first day whose ticks can run on `day` or later."""
        if self.on_excluded != "Next":
            return day
        for _ in range(MAX_MOVE_DAYS):
            if not self.excludes(day - _DAY):
                break
            day -= _DAY
        return day
