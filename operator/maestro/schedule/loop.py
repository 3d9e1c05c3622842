"""When the next tick of every Schedule is: one heap, one sleeper, and an eye on the clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from maestro.kube.kinds import ObjectKey
from maestro.runtime.clock import Clock, Monotonic, monotonic, utcnow

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""The clock is looked at so often: the loop's own timers stand still while the machine is suspended, and know nothing
of a clock that was set."""
_STEP = timedelta(seconds=5)


class TickLoop:
    """Calls `due(key)` when a Schedule's time has come, once for each time that it is armed for.

    Parameters
    ----------
    due
        Must not block.
    clock, steady
        The wall's clock, which ticks go by and which may be set; and one that never is.
    """

    def __init__(
        self,
        due: Callable[[ObjectKey], None],
        *,
        clock: Clock = utcnow,
        steady: Monotonic = monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._due = due
        self._clock = clock
        self._steady = steady
        self._look = look_seconds
        self._heap: list[tuple[datetime, int, ObjectKey]] = []
        self._armed: dict[ObjectKey, datetime] = {}
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._seen: tuple[datetime, float] | None = None

    def __len__(self) -> int:
        """How many Schedules are armed."""
        return len(self._armed)

    def arm(self, key: ObjectKey, at: datetime) -> None:
        """Have the Schedule looked at then, and not at another time that was said before."""
        if self._armed.get(key) == at:
            return
        self._armed[key] = at
        heapq.heappush(self._heap, (at, next(self._order), key))
        if self._heap[0][2] == key:
            self._changed.set()
        if len(self._heap) > 2 * len(self._armed) + 64:
            self._heap = [(at, next(self._order), key) for key, at in self._armed.items()]
            heapq.heapify(self._heap)

    def disarm(self, key: ObjectKey) -> None:
        """Forget the Schedule."""
        self._armed.pop(key, None)

    def armed_for(self, key: ObjectKey) -> datetime | None:
        """When the Schedule will be looked at."""
        return self._armed.get(key)

    async def run(self, stop: asyncio.Event) -> None:
        """Tell of what comes due until `stop` is set."""
        while not stop.is_set():
            self._changed.clear()
            await self._wait(stop, self.turn())

    def turn(self) -> float:
        """Tell of what is due now. Returns the seconds until this must be done again."""
        now = self._clock()
        self._note_steps(now)
        while self._heap:
            at, _, key = self._heap[0]
            if self._armed.get(key) != at:
                heapq.heappop(self._heap)  # armed for another time since
            elif at <= now:
                heapq.heappop(self._heap)
                del self._armed[key]
                self._due(key)
            else:
                return min((at - now).total_seconds(), self._look)
        return self._look

    def _note_steps(self, now: datetime) -> None:
        """A clock that was set, forward or back, is worth a line. What it does to ticks follows from the ledger: those
        that were jumped over are late, as after an outage; those that are behind a Schedule's cursor are over."""
        steady = self._steady()
        if self._seen is not None:
            step = (now - self._seen[0]) - timedelta(seconds=steady - self._seen[1])
            if abs(step) > _STEP:
                log.warning("the clock was set %s by %s", "forward" if step > timedelta() else "back", abs(step))
        self._seen = now, steady

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._changed)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
