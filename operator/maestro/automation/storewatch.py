"""The run store as the Automations' reconciler sees it: registrations written, counts looked up once for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from maestro.automation.world import StoreView
from maestro.resources import Automation
from maestro.runs.errors import StoreUnavailable
from maestro.runs.model import Counts, Registration, Summary
from maestro.runs.registration import registration_of
from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, utcnow

log = logging.getLogger(__name__)


class CountingStore(Protocol):
    """What of the run store is used."""

    async def register(self, registration: Registration) -> int: ...
    async def counts(self) -> dict[int, Counts]: ...
    async def summary(self, automation: int) -> Summary: ...
    async def unpause(self, automation: int, *, epoch: int | None = None) -> None: ...


class StoreWatch:
    """Registers Automations and keeps their counts, at most `max_age` seconds old.

    Parameters
    ----------
    epoch
        Of the leadership that writes; None: not fenced.
    """

    def __init__(
        self,
        store: CountingStore,
        *,
        clock: Clock = utcnow,
        max_age: float = 5.0,
        epoch: Callable[[], int | None] = lambda: None,
        on_recovery: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._max_age = timedelta(seconds=max_age)
        self._epoch = epoch
        self._on_recovery = on_recovery
        self._backoff = backoff or Backoff(initial=1.0, maximum=15.0)
        self._lock = asyncio.Lock()
        self._counts: dict[int, Counts] = {}
        self._counted_at: datetime | None = None
        self._keys: dict[str, int] = {}
        self._summaries: dict[str, Summary] = {}
        self._down_since: datetime | None = None
        self._problem = ""
        self._failures = 0
        self._not_before: datetime | None = None

    async def look(self, automation: Automation, *, fresh: bool = False) -> StoreView:
        """Register the Automation as it is, and say what the store counts. Never raises for an outage.

        `fresh`: counted after the registration, however young the last count is.
        """
        uid = automation.metadata.uid
        if self._not_before is None or self._clock() >= self._not_before:
            try:
                key = self._keys[uid] = await self._store.register(registration_of(automation))
                await self._count(fresh)
                await self._summarize(uid, key)
            except StoreUnavailable as error:
                self._down(error)
            else:
                self._up()
        return StoreView(self._summaries.get(uid), self._down_since, self._problem)

    async def unpause(self, uid: str) -> None:
        """Let a paused Automation go on. Raises StoreUnavailable."""
        await self._store.unpause(self._keys[uid], epoch=self._epoch())
        if (known := self._summaries.get(uid)) is not None:
            counts = replace(known.counts, paused=False, failures_in_row=0)
            self._summaries[uid] = replace(known, counts=counts)
            self._counts[self._keys[uid]] = counts

    def key(self, uid: str) -> int | None:
        """The Automation's key in the store, once it was registered."""
        return self._keys.get(uid)

    def forget(self, uid: str) -> None:
        """The Automation is gone."""
        self._keys.pop(uid, None)
        self._summaries.pop(uid, None)

    async def _count(self, fresh: bool) -> None:
        async with self._lock:
            now = self._clock()
            if fresh or self._counted_at is None or now - self._counted_at >= self._max_age:
                self._counts = await self._store.counts()
                self._counted_at = now

    async def _summarize(self, uid: str, key: int) -> None:
        """Ask for the rest only where the counts moved: no Run begins or ends without one."""
        counts = self._counts.get(key, Counts())
        known = self._summaries.get(uid)
        if known is None or known.counts != counts:
            self._summaries[uid] = replace(await self._store.summary(key), counts=counts)

    def _down(self, error: StoreUnavailable) -> None:
        now = self._clock()
        self._failures += 1
        self._not_before = now + timedelta(seconds=self._backoff.delay(self._failures))
        self._problem = str(error)
        if self._down_since is None:
            self._down_since = now
            log.warning("the run store doesn't work: %s", error)
            metrics.UP.labels(dependency="store").set(0)

    def _up(self) -> None:
        if self._down_since is None:
            return
        self._down_since, self._problem, self._failures, self._not_before = None, "", 0, None
        log.info("the run store works again")
        metrics.UP.labels(dependency="store").set(1)
        self._on_recovery()
