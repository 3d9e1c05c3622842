"""Puts the Schedules' controller together: the loop, the reconciler, and what no event tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from maestro.kube.cache import ObjectCache, key_of
from maestro.kube.client import KubeClient
from maestro.kube.errors import KubeError, NotFound
from maestro.kube.kinds import SCHEDULE, ObjectKey
from maestro.runs.dispatcher import Gateway, always_open
from maestro.runs.errors import StoreUnavailable
from maestro.runs.lifecycle import SCHEDULE_DELETED
from maestro.runs.store import RunStore
from maestro.runs.ticks import OpenTick, TickLedger
from maestro.runtime import metrics
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.controller import Controller
from maestro.runtime.tasks import run_until, sleep_unless
from maestro.runtime.workqueue import WorkQueue
from maestro.schedule.calendarwatch import Calendars
from maestro.schedule.jobs import JobIndex
from maestro.schedule.loop import TickLoop
from maestro.schedule.reconciler import ScheduleReconciler

log = logging.getLogger(__name__)

"""Reason of a Run whose Job went with its Schedule."""
_POLL_SECONDS = 1.0
_GONE_EVERY = 60
_SYNC_POLL = 0.05

Object = dict[str, Any]


class Feed(Protocol):
    """Where the Schedules come from: a cache that somebody feeds, and the keys of what changed."""

    @property
    def cache(self) -> ObjectCache: ...
    @property
    def queue(self) -> WorkQueue[ObjectKey]: ...


class Schedules:
    """The controller of Schedules; `run` it while this process leads.

    Parameters
    ----------
    automations, jobs
        Caches that somebody else feeds: the Automations, and the Jobs of Runs.
    gateway
        Whether a Solution's gateway is shut.
    epoch
        Of this leadership; None while it isn't won.
    busy
        How many Runs are on their way out.
    """

    def __init__(
        self,
        *,
        kube: KubeClient,
        store: RunStore,
        feed: Feed,
        automations: ObjectCache,
        jobs: ObjectCache,
        epoch: Callable[[], int | None],
        gateway: Gateway = always_open,
        busy: Callable[[], int] = lambda: 0,
        clock: Clock = utcnow,
        workers: int = 16,
    ) -> None:
        self._kube, self._feed, self._store = kube, feed, store
        self._automations, self._jobs = automations, jobs
        self._epoch = epoch
        self.ledger = TickLedger(store, clock)
        self.loop = TickLoop(feed.queue.add, clock=clock)
        self.reconciler = ScheduleReconciler(
            kube,
            feed.cache,
            automations,
            store,
            self.ledger,
            self.loop,
            jobs=JobIndex(jobs, feed.queue.add),
            calendars=Calendars(kube),
            blocked=gateway,
            epoch=epoch,
            busy=busy,
            clock=clock,
        )
        self._controller = Controller(
            "schedule",
            feed.queue,
            self.reconciler.reconcile,
            workers=workers,
            expected=(KubeError, StoreUnavailable),
        )
        self._gateway = gateway
        self._shut: dict[str, bool] = {}
        self._open: dict[str, frozenset[OpenTick]] = {}
        self._gone = asyncio.Event()
        self._of_automation: dict[ObjectKey, set[ObjectKey]] = {}
        feed.cache.observe(self._schedule_changed)
        for obj in feed.cache.values():
            self._schedule_changed(key_of(obj), None, obj)
        automations.observe(self._automation_changed)

    @property
    def synced(self) -> bool:
        """Whether everything that a decision rests on was listed once."""
        return self._feed.cache.synced and self._automations.synced and self._jobs.synced

    async def run(self, stop: asyncio.Event) -> None:
        """Begin when everything was listed once and the leadership is won; work until `stop` is set."""
        while not self.synced or self._epoch() is None:
            if await sleep_unless(stop, _SYNC_POLL):
                return
        await run_until(stop, self.loop.run(stop), self._controller.run(stop), self._poll(stop), grace=10.0)

    # -- what wakes a Schedule

    def gateway_moved(self, solution_id: str) -> None:
        """Look at the Schedules of a Solution whose gateway was shut or opened."""
        for obj in self._automations.values(solution_id.partition(".")[0]):
            if (obj["spec"].get("solution") or obj["metadata"]["namespace"]) == solution_id.partition(".")[2]:
                self._wake_of(key_of(obj))

    def _schedule_changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        if new is None:
            self._gone.set()
        for obj, present in ((old, False), (new, True)):
            if obj is None:
                continue
            automation = ObjectKey(key.namespace, str(obj["spec"].get("automation")))
            mine = self._of_automation.setdefault(automation, set())
            (mine.add if present else mine.discard)(key)
            if not mine:
                del self._of_automation[automation]

    def _automation_changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        if old is None or new is None or _identity(old) != _identity(new):
            self._wake_of(key)

    def _wake_of(self, automation: ObjectKey) -> None:
        for key in self._of_automation.get(automation, ()):
            self._feed.queue.add(key)

    # -- what no event tells

    async def _poll(self, stop: asyncio.Event) -> None:
        """Runs that ended, ticks that people asked for over HTTP, gateways that opened by time, Schedules that went."""
        turn = 0
        while True:
            try:
                await self.look()
                if turn % _GONE_EVERY == 0 or self._gone.is_set():
                    self._gone.clear()
                    await self.clear_away()
            except StoreUnavailable as error:
                log.warning("ticks that ended are looked for later: %s", error)
            except KubeError as error:
                log.warning("Schedules that are gone are looked for later: %s", error)
            turn += 1
            # At once: the garbage collector is after the Jobs of a Schedule that is gone, and their Runs are canceled
            # rather than lost.
            if await self._pause(stop):
                return

    async def _pause(self, stop: asyncio.Event) -> bool:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._gone)]
        try:
            await asyncio.wait(waits, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return stop.is_set()

    async def look(self) -> None:
        """Settle what has ended, and wake every Schedule of which something open has changed."""
        metrics.SCHEDULES_ARMED.set(len(self.loop))
        for solution_id in {registration.solution_id for registration in self._store.registrations().values()}:
            if self._shut.get(solution_id, False) != (shut := self._gateway(solution_id)):
                self._shut[solution_id] = shut
                self.gateway_moved(solution_id)
        ticks = await self.ledger.open()
        if ended := [tick for tick in ticks if tick.ended]:
            await self.ledger.settle(ended, epoch=self._epoch())
        news: dict[str, set[OpenTick]] = {}
        for tick in ticks:
            # What this process recorded itself it knows; not what others asked for, nor that a Job is tried again.
            if (tick.waiting and tick.mark) or (tick.attempt or 0) > 1:
                news.setdefault(tick.uid, set()).add(tick._replace(state=None, ended_at=None))
        now = {uid: frozenset(of_uid) for uid, of_uid in news.items()}
        changed = {tick.uid for tick in ended}
        changed |= {uid for uid in now.keys() | self._open.keys() if now.get(uid) != self._open.get(uid)}
        self._open = now
        if not changed:
            return
        for obj in self._feed.cache.values():
            if obj["metadata"]["uid"] in changed:
                self.reconciler.reread(obj["metadata"]["uid"])
                self._feed.queue.add(key_of(obj))

    async def clear_away(self) -> None:
        """What belongs to Schedules that are gone: their Jobs went with them, so those Runs end; the ledger forgets."""
        there = {obj["metadata"]["uid"] for obj in self._feed.cache.values()}
        for uid, schedule_id in (await self.ledger.known()).items():
            if uid in there or await self._still_there(uid, schedule_id):
                continue
            account = await self.ledger.account(uid)
            for tick in account.running if account is not None else ():
                if tick.job is not None and tick.run is not None:
                    await self._store.cancel(tick.run, why=SCHEDULE_DELETED, by=f"Schedule {schedule_id}")
            log.info("Schedule %s is gone", schedule_id)
            await self.ledger.forget(uid, epoch=self._epoch())
            self.reconciler.forget(uid)
            metrics.forget_schedule(schedule_id)

    async def _still_there(self, uid: str, schedule_id: str) -> bool:
        namespace, _, name = schedule_id.partition(".")
        try:
            return bool((await self._kube.get(SCHEDULE, namespace, name))["metadata"]["uid"] == uid)
        except NotFound:
            return False


def _identity(obj: Object) -> tuple[Any, ...]:
    meta = obj["metadata"]
    return meta["uid"], meta.get("generation"), meta.get("deletionTimestamp")
