"""Publishing again what the broker lost, without an age rule that would flood a mere backlog with copies.

A Queued Run is published again when its copy is *overtaken*: a later publication was started on its queue, which is
first in, first out. Where nothing is started at all, one *canary*, the oldest Run, is published again; when it starts,
everything older is overtaken. *Known losses* (a queue declared anew) are published again at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from maestro.runs.model import Claimed, Counts, QueuedRun, Registration
from maestro.runtime import metrics
from maestro.runtime.clock import Clock

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
MAX_SECONDS = 3600.0
_PAGE = 500

Again = Callable[[Sequence[QueuedRun]], Awaitable[None]]
"""Gives Runs new publication numbers and publishes them, paced by the room there is."""


class RepairStore(Protocol):
    """What of the run store the repair uses; see `RunStore`."""

    def registrations(self) -> Mapping[int, Registration]: ...
    async def counts(self) -> dict[int, Counts]: ...
    async def queued_runs(self, automation: int, limit: int, *, below: int | None = None) -> list[QueuedRun]: ...
    async def started_pub(self, epoch: int, automation: int) -> int: ...
    async def republish(self, epoch: int, items: Sequence[QueuedRun]) -> list[Claimed]: ...


@dataclass(slots=True)
class _Watched:
    """What is remembered of one queue.

    Attributes
    ----------
    started
        The highest publication number that was seen to start.
    since
        When it was last seen to move, or a canary was last sent.
    canaries
        How many were sent since it moved.
    repeats
        How often each Run that is Queued now was published again.
    """

    started: int
    since: datetime
    canaries: int = 0
    repeats: dict[int, int] = field(default_factory=dict)


class Repair:
    """One leadership's repair; `step` looks at every queue once."""

    def __init__(
        self,
        store: RepairStore,
        again: Again,
        in_flight: Callable[[int], bool],
        clock: Clock,
        *,
        grace_seconds: float = GRACE_SECONDS,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self._store = store
        self._again = again
        self._in_flight = in_flight
        self._clock = clock
        self._grace = grace_seconds
        self._max = max_seconds
        self._watched: dict[int, _Watched] = {}
        self._lost_before: dict[int, int] = {}

    def lost(self, automation: int, before: int) -> None:
        """Every publication below `before` on the Automation's queue is lost; the next step publishes them again."""
        self._lost_before[automation] = max(before, self._lost_before.get(automation, 0))

    async def step(self, epoch: int) -> None:
        """Publish again what is known or seen to be lost. Raises what the store raises; the next step goes on."""
        await self._known_losses()
        registrations = self._store.registrations()
        queued = {
            key
            for key, count in (await self._store.counts()).items()
            if count.queued and key in registrations and registrations[key].launch == "Queue"
        }
        for gone in self._watched.keys() - queued:
            del self._watched[gone]
        for key in queued:
            await self._look_at(epoch, key)

    async def _known_losses(self) -> None:
        for key, before in list(self._lost_before.items()):
            total = 0
            while page := await self._store.queued_runs(key, _PAGE, below=before):
                await self._again(page)
                total += len(page)
            log.info("%d Runs that a queue had lost are published again", total)
            metrics.REPUBLISHED.labels("lost").inc(total)
            if self._lost_before.get(key) == before:
                del self._lost_before[key]

    async def _look_at(self, epoch: int, key: int) -> None:
        now = self._clock()
        oldest = await self._store.queued_runs(key, _PAGE)
        started = await self._store.started_pub(epoch, key)
        watched = self._watched.get(key)
        if watched is None or watched.started != started:
            watched = self._watched[key] = _Watched(started, now, 0, watched.repeats if watched else {})
        watched.repeats = {run.seq: watched.repeats[run.seq] for run in oldest if run.seq in watched.repeats}
        due = [run for run in oldest if self._due(run, watched, now)]
        overtaken = [run for run in due if run.pub < started]
        if overtaken:
            log.warning("%d Queued Runs were overtaken on their queue and are published again", len(overtaken))
            await self._publish(overtaken, watched)
            metrics.REPUBLISHED.labels("overtaken").inc(len(overtaken))
        elif due and now - watched.since >= self._wait(watched.canaries):
            log.info("nothing was started for %s: one Run is published again", now - watched.since)
            watched.since = now
            watched.canaries += 1
            await self._publish(due[:1], watched)
            metrics.REPUBLISHED.labels("canary").inc()

    def _due(self, run: QueuedRun, watched: _Watched, now: datetime) -> bool:
        waited = now - run.queued_at
        return waited >= self._wait(watched.repeats.get(run.seq, 0)) and not self._in_flight(run.pub)

    def _wait(self, times: int) -> timedelta:
        return timedelta(seconds=min(self._grace * 2.0 ** min(times, 32), self._max))

    async def _publish(self, runs: Sequence[QueuedRun], watched: _Watched) -> None:
        for run in runs:
            watched.repeats[run.seq] = watched.repeats.get(run.seq, 0) + 1
        await self._again(runs)
