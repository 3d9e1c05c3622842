"""1,000 Schedules due at one instant: from the tick until their Jobs are there, against the same number of CronJobs
under Kubernetes' own controller, and against a client that only creates those Jobs; then 10,000 armed ones.

All on one API server without a node, so that only the control plane is measured. (The controller manager makes a pod
for each Job all the same, at its own default rate of 20 requests a second: a load that every side has alike.) A Job
counts when a watch shows it. Raw creation and Maestro alternate, and what counts is the ratio within a pair.

    python -m tests.performance.bench_schedules [--schedules 1000] [--cronjobs 1000] [--armed 10000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop
from tests.cluster.apiserver import ApiServer

from maestro.handlers import Feed
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient, Rate
from maestro.kube.informer import Informer
from maestro.kube.kinds import AUTOMATION, JOB, SCHEDULE, Kind
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.messages import Message
from maestro.runs.model import Registration, RunPolicy
from maestro.runs.store import RunStore
from maestro.runs.ticks import Outcome
from maestro.runtime.clock import utcnow
from maestro.runtime.workqueue import WorkQueue
from maestro.schedule.wiring import Schedules
from maestro.workload.launcher import KubeJobLauncher
from maestro.workload.merge import BUILT_IN
from maestro.workload.pod import Installation

CRON_JOB = Kind("batch", "v1", "cronjobs", "CronJob")
FAST = Rate(qps=1e6, burst=1_000_000)
CALLERS = 64
GOAL_CRONJOBS, GOAL_RAW = 10.0, 0.7


class NoQueue:
    """A transport without a broker."""

    room = 0

    def listen(self, **_listeners: Callable[[Any], None]) -> None:
        """Nothing comes back."""

    def publish(self, batch: Sequence[Message]) -> None:
        raise AssertionError("there is no broker")


async def in_parallel(calls: Iterable[Callable[[], Awaitable[Any]]], callers: int = CALLERS) -> None:
    """Do all of it, so many at a time."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(work() for _ in range(callers)))


class Arrivals:
    """Sees the Jobs of a namespace arrive."""

    def __init__(self, kube: KubeClient, namespace: str) -> None:
        self.cache = ObjectCache(JOB, namespaces=[namespace])
        self._informer = Informer(kube, JOB, self.cache, namespaces=[namespace])
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._informer.run(self._stop))

    async def count(self, n: int) -> float:
        """Wait for so many; the moment (perf_counter) at which the last was seen."""
        while len(self.cache) < n:
            await asyncio.sleep(0.005)
        return time.perf_counter()

    async def close(self) -> None:
        self._stop.set()
        await self._task


class Maestro:
    """The controller of Schedules, the dispatcher and a store, with a clock that can be set."""

    def __init__(self, kube: KubeClient, namespace: str, folder: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.offset = timedelta()
        self.store = RunStore.open(f"sqlite:///{folder}/{namespace}.db")
        self.automations = ObjectCache(AUTOMATION, namespaces=[namespace])
        self.jobs = ObjectCache(JOB, namespaces=[namespace])
        installation = Installation("http://maestro", "maestro", "maestro:bench")
        launcher = KubeJobLauncher(kube, self.automations, installation, lambda: BUILT_IN)
        self.dispatcher = Dispatcher(self.store, NoQueue(), launcher)
        self.feed = Feed(SCHEDULE, WorkQueue("schedule"), namespaces=[namespace])
        self.schedules = Schedules(
            kube=kube,
            store=self.store,
            feed=self.feed,
            automations=self.automations,
            jobs=self.jobs,
            epoch=self._epoch,
            busy=lambda: self.dispatcher.in_flight,
            clock=lambda: utcnow() + self.offset,
        )

    def _epoch(self) -> int | None:
        leadership = self.dispatcher.leadership
        return leadership.epoch if leadership is not None else None

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Everything runs."""
        made = await self.kube.create(AUTOMATION, self.namespace, automation())
        policy = RunPolicy(max_pending=1_000_000)
        await self.store.register(
            Registration(uid=made["metadata"]["uid"], namespace=self.namespace, name="orders", policy=policy)
        )
        stop = asyncio.Event()
        feeds = ((SCHEDULE, self.feed.cache), (AUTOMATION, self.automations), (JOB, self.jobs))
        self.feed.cache.observe(lambda key, _old, _new: self.feed.queue.add(key))
        tasks = [
            asyncio.create_task(Informer(self.kube, kind, cache, namespaces=[self.namespace]).run(stop))
            for kind, cache in feeds
        ]
        tasks += [asyncio.create_task(self.dispatcher.run(stop)), asyncio.create_task(self.schedules.run(stop))]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            await self.store.close()

    async def armed(self, n: int) -> None:
        """Wait until so many are armed and nothing is left to be told of them."""
        while len(self.schedules.loop) < n or len(self.feed.queue):
            await asyncio.sleep(0.05)

    def set_clock(self, to: datetime) -> None:
        self.offset = to - utcnow()
        self.schedules.loop._changed.set()


def automation() -> dict[str, Any]:
    worker = {"image": "example.org/worker:1", "replicas": 0}
    return {"metadata": {"name": "orders"}, "spec": {"worker": worker}}


def schedule(number: int, rule: str, **spec: Any) -> dict[str, Any]:
    given = {"automation": "orders", "schedule": rule, **spec}
    return {"metadata": {"name": f"s-{number}"}, "spec": given}


async def jobs_of_schedules(kube: KubeClient, namespace: str, n: int, folder: str) -> tuple[float, dict[str, Any]]:
    """Jobs a second from the tick to the last Job; and one of the Jobs."""
    maestro = Maestro(kube, namespace, folder)
    async with maestro.at_work():
        await in_parallel(
            lambda number=number: kube.create(SCHEDULE, namespace, schedule(number, "0 0 1 1 *"))  # type: ignore[misc]
            for number in range(n)
        )
        await maestro.armed(n)
        arrivals = Arrivals(kube, namespace)
        tick = datetime(utcnow().year + 1, 1, 1, tzinfo=UTC)
        begun = time.perf_counter()
        maestro.set_clock(tick)
        ended = await arrivals.count(n)
        example = copy.deepcopy(arrivals.cache.values()[0])
        await arrivals.close()
    return n / (ended - begun), example


async def jobs_raw(kube: KubeClient, namespace: str, n: int, example: dict[str, Any]) -> float:
    """Jobs a second of a client that has nothing else to do."""
    kept = ("backoffLimit", "activeDeadlineSeconds", "podReplacementPolicy", "template")
    spec = copy.deepcopy({key: example["spec"][key] for key in kept})
    labels = _own(example["metadata"]["labels"])
    spec["template"]["metadata"]["labels"] = _own(spec["template"]["metadata"]["labels"])
    arrivals = Arrivals(kube, namespace)
    begun = time.perf_counter()

    def make(number: int) -> Awaitable[Any]:
        return kube.create(JOB, namespace, {"metadata": {"name": f"raw-{number}", "labels": labels}, "spec": spec})

    await in_parallel(lambda number=number: make(number) for number in range(n))  # type: ignore[misc]
    ended = await arrivals.count(n)
    await arrivals.close()
    return n / (ended - begun)


def _own(labels: dict[str, str]) -> dict[str, str]:
    """Without what the API server adds."""
    return {name: value for name, value in labels.items() if "controller-uid" not in name and "job-name" not in name}


async def jobs_of_cronjobs(kube: KubeClient, namespace: str, n: int, patience: float) -> float:
    """Jobs a second of Kubernetes' own controller, from the full minute on; over what came within `patience`."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "example.org/worker:1"}]}}
    at = utcnow() + timedelta(seconds=max(20.0, n / 40))
    at = at.replace(second=0, microsecond=0) + timedelta(minutes=1)
    spec = {
        "schedule": f"{at.minute} {at.hour} * * *",
        "timeZone": "Etc/UTC",
        "jobTemplate": {"spec": {"template": template}},
    }
    await in_parallel(
        lambda number=number: kube.create(  # type: ignore[misc]
            CRON_JOB, namespace, {"metadata": {"name": f"c-{number}"}, "spec": spec}
        )
        for number in range(n)
    )
    arrivals = Arrivals(kube, namespace)
    while (wait := (at - utcnow()).total_seconds()) > 0:
        await asyncio.sleep(min(wait, 0.5))
    begun = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await arrivals.count(n)
    came = len(arrivals.cache)
    rate = came / (time.perf_counter() - begun)
    await arrivals.close()
    await in_parallel(
        lambda number=number: kube.delete(CRON_JOB, namespace, f"c-{number}")  # type: ignore[misc]
        for number in range(n)
    )
    return rate


async def many_armed(kube: KubeClient, namespace: str, armed: int, due: int, folder: str) -> None:
    """Schedules in Queue mode, some of them due at one instant: lateness; memory and processor time of all."""
    before = _memory()
    maestro = Maestro(kube, namespace, folder)
    async with maestro.at_work():
        rules = ["0 0 1 1 *"] * due + ["30 0 1 1 *"] * (armed - due)
        await in_parallel(
            lambda number=number, rule=rule: kube.create(  # type: ignore[misc]
                SCHEDULE, namespace, schedule(number, rule, launch="Queue")
            )
            for number, rule in enumerate(rules)
        )
        await maestro.armed(armed)
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(10.0)
        idle = (time.process_time() - cpu) / (time.perf_counter() - wall)
        grown = _memory() - before
        maestro.set_clock(datetime(utcnow().year + 1, 1, 1, tzinfo=UTC))
        late: list[float] = []
        uids = [obj["metadata"]["uid"] for obj in maestro.feed.cache.values() if obj["spec"]["schedule"] == rules[0]]
        while len(await maestro.schedules.ledger.open()) < due:
            await asyncio.sleep(0.1)
        for uid in uids:
            late += [tick.late for tick in await maestro.schedules.ledger.page(uid, [Outcome.STARTED], 1)]
        late.sort()
        print(
            f"{armed} Schedules armed: {grown:.0f} MB, {idle:.1%} of a core idle; "
            f"{due} due at once in Queue mode: lateness p50 {late[len(late) // 2]:.2f} s, "
            f"p99 {late[int(len(late) * 0.99)]:.2f} s"
        )


def _memory() -> float:
    """Resident memory at its highest, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def bench(server: ApiServer, options: argparse.Namespace) -> None:
    kube = await KubeClient.connect(server.kubeconfig, rate=FAST, timeout=60.0)
    ours, raws = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            with server.namespace("bench") as first, server.namespace("bench") as second:
                rate, example = await jobs_of_schedules(kube, first, options.schedules, folder)
                raw = await jobs_raw(kube, second, options.schedules, example)
            ours.append(rate)
            raws.append(raw)
            print(f"{options.schedules} Schedules: {rate:6.1f} Jobs/s; raw creation {raw:6.1f}/s; {rate / raw:.2f}")
        ratio = statistics.median(mine / raw for mine, raw in zip(ours, raws, strict=True))
        print(f"ratio to raw creation: {ratio:.2f} (goal {GOAL_RAW})")
        if options.cronjobs:
            with server.namespace("bench") as namespace:
                cron = await jobs_of_cronjobs(kube, namespace, options.cronjobs, options.patience)
            times = statistics.median(ours) / cron
            print(f"{options.cronjobs} CronJobs: {cron:6.1f} Jobs/s; Schedules are {times:.1f} times as fast", end="")
            print(f" (goal {GOAL_CRONJOBS:g})")
        if options.armed:
            with server.namespace("bench") as namespace:
                await many_armed(kube, namespace, options.armed, min(options.schedules, options.armed), folder)
    await kube.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--cronjobs", type=int, default=1000, help="0: none")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for which CronJobs are watched")
    parser.add_argument("--armed", type=int, default=10_000, help="0: none")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with ApiServer() as server:
        uvloop.run(bench(server, options))


if __name__ == "__main__":
    main()
