"""Puts the Reprocessings' controller together."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.errors import KubeError
from maestro.kube.kinds import ObjectKey
from maestro.reprocessing.reconciler import GatewaySeen, ReprocessingReconciler
from maestro.runs.errors import StoreUnavailable
from maestro.runs.replays import Replays
from maestro.runtime import metrics
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.controller import Controller
from maestro.runtime.tasks import run_until, sleep_unless
from maestro.runtime.workqueue import WorkQueue
from maestro.workload.gateways import Gateways

log = logging.getLogger(__name__)

_SYNC_POLL = 0.05
_GATHER = 0.1
"""Seconds in which ends of Runs gather where many are in flight; a replay in strict order goes on at once."""
_METRICS_SECONDS = 5.0
_PRUNE_EVERY = 12
_TIMEOUT = 3600.0
"""Seconds for one look: planning a million Runs takes a while."""


class Feed(Protocol):
    """Where the Reprocessings come from: a cache that somebody feeds, and the keys of what changed."""

    @property
    def cache(self) -> ObjectCache: ...
    @property
    def queue(self) -> WorkQueue[ObjectKey]: ...


class Reprocessings:
    """The controller of Reprocessings; `run` it while this process leads.

    Parameters
    ----------
    area
        Reprocessings in the run store, with the epoch of this leadership.
    automations
        The cache of the Automations.
    dispatcher
        Says when a gateway's shutting has reached it.
    """

    def __init__(
        self,
        *,
        kube: KubeClient,
        area: Replays,
        feed: Feed,
        automations: ObjectCache,
        gateways: Gateways,
        dispatcher: GatewaySeen,
        leads: Callable[[], bool],
        clock: Clock = utcnow,
        workers: int = 4,
    ) -> None:
        self._feed, self._automations, self._gateways = feed, automations, gateways
        self._leads = leads
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reconciler = ReprocessingReconciler(
            kube,
            feed.cache,
            automations,
            area,
            dispatcher,
            leads=leads,
            wake=feed.queue.add,
            clock=clock,
        )
        self._controller = Controller(
            "reprocessing",
            feed.queue,
            self.reconciler.reconcile,
            workers=workers,
            timeout=_TIMEOUT,
            expected=(KubeError,),
        )
        area.store.on_replay_end(self._replay_ended)

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until `stop` is set; begins when everything that decisions rest on was listed once."""
        self._loop = asyncio.get_running_loop()
        while not (self._feed.cache.synced and self._automations.synced and self._leads()):
            if await sleep_unless(stop, _SYNC_POLL):
                return
        await run_until(stop, self._controller.run(stop), self._look_around(stop), grace=10.0)

    async def _look_around(self, stop: asyncio.Event) -> None:
        """From time to time: what nobody announced."""
        turn = 0
        while True:
            if turn % _PRUNE_EVERY == 0:
                try:
                    await self.reconciler.prune()
                except StoreUnavailable as error:
                    log.warning("what belongs to deleted Reprocessings stays for now: %s", error)
            self._show_metrics()
            turn += 1
            if await sleep_unless(stop, _METRICS_SECONDS):
                return

    def _show_metrics(self) -> None:
        phases = Counter(str((obj.get("status") or {}).get("phase") or "Planning") for obj in self._feed.cache.values())
        for phase in metrics.REPROCESSING_PHASES:
            metrics.REPROCESSINGS.labels(phase=phase).set(phases[phase])
        metrics.GATEWAYS_SHUT.set(len(self._gateways.shut_solutions()))

    def _replay_ended(self) -> None:
        """On the store's thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake_stepping)

    def _wake_stepping(self) -> None:
        for key, parallelism in self.reconciler.stepping.items():
            if parallelism == 1:
                self._feed.queue.add(key)
            else:
                self._feed.queue.add_after(key, _GATHER)
