"""The calendars that Schedules exclude days by: read from their ConfigMap now and then."""

from __future__ import annotations

import asyncio
from datetime import date

from maestro.kube.client import KubeClient
from maestro.kube.errors import NotFound
from maestro.kube.kinds import CONFIG_MAP
from maestro.resources import Schedule
from maestro.resources.schedule import CalendarKey
from maestro.runtime.clock import Monotonic, monotonic
from maestro.schedule.armed import Problem
from maestro.schedule.holidays import InvalidCalendar, read_calendar

FRESH_SECONDS = 300.0
"""A calendar that was found is read again after so long: it changes a few times a year, and a watch over all ConfigMaps
would show Maestro what isn't its business."""

Days = frozenset[date]
Read = tuple[Days | None, Problem | None]


class Calendars:
    """Reads each calendar once for all Schedules that name it."""

    def __init__(self, kube: KubeClient, *, clock: Monotonic = monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._known: dict[tuple[str, str, str], tuple[float, Read]] = {}

    async def of(self, schedule: Schedule) -> Read:
        """The days of the Schedule's calendar (None: it has none), or what is wrong with it. Raises KubeError."""
        exclude = schedule.spec.exclude
        if exclude is None or exclude.config_map is None:
            return None, None
        named = exclude.config_map
        key = (schedule.metadata.namespace, named.name, named.key)
        known = self._known.get(key)
        if known is not None and self._clock() - known[0] < FRESH_SECONDS and known[1][1] is None:
            return known[1]
        found = await self._read(schedule.metadata.namespace, named)
        if known is not None and known[1] == found:
            found = known[1]  # the same object, so that nothing is computed anew
        self._known[key] = self._clock(), found
        return found

    async def _read(self, namespace: str, named: CalendarKey) -> Read:
        path = "spec.exclude.configMap"
        try:
            text = ((await self._kube.get(CONFIG_MAP, namespace, named.name)).get("data") or {}).get(named.key)
        except NotFound:
            return None, Problem("CalendarNotFound", f"{path}: there is no ConfigMap {named.name}", waits=True)
        if text is None:
            text = f"{path}: ConfigMap {named.name} has no key {named.key}"
            return None, Problem("CalendarNotFound", text, waits=True)
        try:
            return await asyncio.to_thread(read_calendar, text), None
        except InvalidCalendar as error:
            return None, Problem("InvalidCalendar", f"{path}: {named.name}/{named.key}: {error}", waits=True)
