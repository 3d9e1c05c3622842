"""A process that is killed between any two writes of a tick: its successor finishes what it began, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.automation.world import RATE, automation
from tests.integration.schedule.world import schedule

from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.kinds import AUTOMATION, JOB, SCHEDULE, ObjectKey
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.errors import StaleEpoch
from maestro.runs.messages import Message
from maestro.runs.model import Registration, RunFilter
from maestro.runs.store import RunStore
from maestro.runs.ticks import Outcome, TickLedger
from maestro.schedule.calendarwatch import Calendars
from maestro.schedule.jobs import JobIndex
from maestro.schedule.loop import TickLoop
from maestro.schedule.reconciler import ScheduleReconciler
from maestro.workload.launcher import KubeJobLauncher
from maestro.workload.merge import BUILT_IN
from maestro.workload.pod import Installation


class NoQueue:
    """A transport that nothing is sent by."""

    room = 1000

    def listen(self, **_listeners: Callable[[Any], None]) -> None:
        """Nothing comes back."""

    def publish(self, batch: Sequence[Message]) -> None:
        raise AssertionError(f"{len(batch)} messages for a Schedule that makes Jobs")


class Death:
    """Lets the process hang for ever at its n-th moment before or after a write; then it is taken down."""

    def __init__(self, at: int | None) -> None:
        self.at, self.count, self.struck = at, 0, asyncio.Event()

    async def moment(self) -> None:
        self.count += 1
        if self.at is not None and self.count >= self.at:
            self.struck.set()
            await asyncio.Future()

    def around(self, call: Callable[..., Awaitable[Any]], when: Callable[..., bool]) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **more: Any) -> Any:
            if not when(*args, **more):
                return await call(*args, **more)
            await self.moment()
            answer = await call(*args, **more)
            await self.moment()
            return answer

        return guarded


class Process:
    """One life of the controller: leadership, dispatcher, reconciler; caches as they are listed at its start."""

    def __init__(self, url: str, kube: KubeClient, namespace: str, key: ObjectKey, now: datetime, death: Death) -> None:
        self.kube, self.key, self.death = kube, key, death
        self.store = RunStore.open(url)
        self.store.write = death.around(self.store.write, lambda *_args, **_more: True)  # type: ignore[method-assign]
        self.caches = {kind: ObjectCache(kind, namespaces=[namespace]) for kind in (SCHEDULE, AUTOMATION, JOB)}
        installation = Installation("http://maestro", "maestro", "maestro:test")
        launcher = KubeJobLauncher(kube, self.caches[AUTOMATION], installation, lambda: BUILT_IN)
        self.dispatcher = Dispatcher(self.store, NoQueue(), launcher)
        self.ledger = TickLedger(self.store, lambda: now)
        self.reconciler = ScheduleReconciler(
            kube,
            self.caches[SCHEDULE],
            self.caches[AUTOMATION],
            self.store,
            self.ledger,
            TickLoop(lambda _key: None, clock=lambda: now),
            jobs=JobIndex(self.caches[JOB], lambda _key: None),
            calendars=Calendars(kube),
            blocked=lambda _solution: False,
            epoch=self.epoch,
            clock=lambda: now,
        )

    def epoch(self) -> int | None:
        leadership = self.dispatcher.leadership
        return leadership.epoch if leadership is not None else None

    async def live(self) -> bool:
        """Live until the tick is done with, or death strikes. Whether it lived."""
        stop = asyncio.Event()
        for kind, cache in self.caches.items():
            objects, version = await self.kube.list(kind, self.key.namespace)
            cache.replace(objects, resource_version=version, namespace=self.key.namespace)
        tasks = [asyncio.create_task(self.dispatcher.run(stop)), asyncio.create_task(self._work())]
        struck = asyncio.create_task(self.death.struck.wait())
        done, _ = await asyncio.wait([tasks[1], struck], return_when=asyncio.FIRST_COMPLETED)
        lived = tasks[1] in done
        if lived:
            tasks[1].result()
        for task in (*tasks, struck):
            task.cancel()
        await asyncio.gather(*tasks, struck, return_exceptions=True)
        await self.store.close()
        return lived

    async def _work(self) -> None:
        while self.epoch() is None:
            await asyncio.sleep(0.005)
        while await self.reconciler.reconcile(self.key) is not None:
            pass
        while not (await self.kube.list(JOB, self.key.namespace, label_selector=_of(self.key)))[0]:
            await asyncio.sleep(0.005)
        while self.dispatcher.in_flight:
            await asyncio.sleep(0.005)
        while await self.reconciler.reconcile(self.key) is not None:
            pass


def _of(key: ObjectKey) -> str:
    return f"maestro-operator.io/schedule={key.name}"


def test_killed_between_any_two_writes(apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        kube = await KubeClient.connect(apiserver.kubeconfig, rate=RATE)
        await _registered(kube, url, namespace)
        moment = 0
        while True:
            moment += 1
            lived = await _one_tick(kube, url, namespace, moment)
            if lived:
                break
        assert moment > 12, "so many moments there are at least: leadership, account, record, claim, Job, status"
        await kube.close()

    asyncio.run(asyncio.wait_for(scenario(), 300))


async def _one_tick(kube: KubeClient, url: str, namespace: str, moment: int) -> bool:
    """One tick of a Schedule of its own, with a death at that moment; whether the first life got through."""
    key = ObjectKey(namespace, f"s{moment}")
    made = await kube.create(SCHEDULE, namespace, schedule(key.name))
    # A second past the full hour after it was made: one tick is due.
    created = datetime.fromisoformat(made["metadata"]["creationTimestamp"])
    now = created.replace(minute=0, second=1) + timedelta(hours=1)
    lived = await Process(url, kube, namespace, key, now, Death(moment)).live()
    last = Process(url, kube, namespace, key, now, Death(None))
    assert await last.live()
    store = RunStore.open(url)
    uid = made["metadata"]["uid"]
    records = await TickLedger(store).page(uid, list(Outcome), 10)
    assert [(record.outcome, record.at) for record in records] == [(Outcome.STARTED, now.replace(second=0))]
    runs = (await store.list_runs(RunFilter(schedule=f"{namespace}.{key.name}"))).items
    assert [run.id for run in runs] == [records[0].run], f"moment {moment}"
    jobs, _ = await kube.list(JOB, namespace, label_selector=_of(key))
    assert [job["metadata"]["labels"]["maestro-operator.io/run"] for job in jobs] == [str(runs[0].id)]
    status = (await kube.get(SCHEDULE, namespace, key.name))["status"]
    assert status["ticks"] == {"started": 1, "skipped": 0, "missed": 0}
    await store.close()
    return lived


async def _registered(kube: KubeClient, url: str, namespace: str) -> None:
    made = await kube.create(AUTOMATION, namespace, automation())
    store = RunStore.open(url)
    await store.register(Registration(uid=made["metadata"]["uid"], namespace=namespace, name="orders"))
    await store.close()


def test_two_leaders_with_one_schedule(apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    """The Lease was stolen: who was overtaken writes nothing more, whatever it believes."""

    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        kube = await KubeClient.connect(apiserver.kubeconfig, rate=RATE)
        await _registered(kube, url, namespace)
        key = ObjectKey(namespace, "s")
        made = await kube.create(SCHEDULE, namespace, schedule("s"))
        created = datetime.fromisoformat(made["metadata"]["creationTimestamp"])
        now = created.replace(minute=0, second=1) + timedelta(hours=1)
        old = Process(url, kube, namespace, key, now, Death(None))
        overtaken = await old.store.win_leadership()
        old.reconciler._epoch = lambda: overtaken.epoch
        for kind, cache in old.caches.items():
            objects, version = await kube.list(kind, namespace)
            cache.replace(objects, resource_version=version, namespace=namespace)
        new = Process(url, kube, namespace, key, now, Death(None))
        assert await new.live()
        with pytest.raises(StaleEpoch):
            await old.ledger.record(made["metadata"]["uid"], f"{namespace}.s", "t", now, [], epoch=overtaken.epoch)
        records = await old.ledger.page(made["metadata"]["uid"], list(Outcome), 10)
        assert [record.outcome for record in records] == [Outcome.STARTED]
        later = now + timedelta(hours=1)
        old.reconciler._clock = lambda: later
        with pytest.raises(StaleEpoch):
            await old.reconciler.reconcile(key)
        assert len(await old.ledger.page(made["metadata"]["uid"], list(Outcome), 10)) == 1
        assert len((await kube.list(JOB, namespace))[0]) == 1
        await old.store.close()
        await kube.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
