"""The dispatcher with a real store and a real broker: whatever dies in between, every Run ends once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pika
import pytest
from tests.cluster.rabbitmq import RabbitMQ

from maestro.broker.connection import parameters
from maestro.broker.publisher import Publisher
from maestro.runs.dispatcher import Dispatcher, JobRefused
from maestro.runs.errors import StaleEpoch
from maestro.runs.model import Accepted, Claimed, NewRun, Registration, RunFilter, RunPolicy, RunState
from maestro.runs.reports import Report
from maestro.runs.store import RunStore
from maestro.runtime.clock import utcnow

PATIENCE = 60.0
FAST = RunPolicy(window=100_000)
NIGHTLY = Registration(uid="u-nightly", namespace="shop", name="nightly", queue="maestro.shop.nightly", policy=FAST)


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> RabbitMQ:
    if not rabbitmq.alive():
        rabbitmq.start()
    rabbitmq.reset()
    return rabbitmq


def connect(broker: RabbitMQ) -> pika.ConnectionParameters:
    return parameters("127.0.0.1", broker.amqp_port, "/", broker.user, broker.password, heartbeat=5)


def declare(broker: RabbitMQ, *queues: str) -> None:
    for queue in queues:
        body = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
        broker.api("PUT", f"/api/queues/%2F/{queue}", body)


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                met = condition()
                if met if isinstance(met, bool) else await met:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{what}: not within {PATIENCE:g} s")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[RunStore]:
    store = RunStore.open(f"sqlite:///{folder}/runs.db")
    try:
        yield store
    finally:
        await store.close()


class Leader:
    """A dispatcher with a publisher of its own; `kill` ends both as a crash would: nothing is written any more."""

    def __init__(self, broker: RabbitMQ, store: RunStore, **options: Any) -> None:
        self.publisher = Publisher(lambda: connect(broker))
        self.publisher.start()
        self.dispatcher = Dispatcher(store, self.publisher, **{"poll_seconds": 0.2, **options})
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.dispatcher.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(self.task, return_exceptions=True)
        await asyncio.to_thread(self.publisher.stop)

    async def kill(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await asyncio.to_thread(self.publisher.stop)


@asynccontextmanager
async def leading(broker: RabbitMQ, store: RunStore, **options: Any) -> AsyncIterator[Leader]:
    leader = Leader(broker, store, **options)
    try:
        yield leader
    finally:
        await leader.end()


class Workers:
    """A raw consumer of one queue: starts and finishes what it gets through the store, then acknowledges."""

    def __init__(self, broker: RabbitMQ, store: RunStore, queue: str, prefetch: int = 50) -> None:
        self._broker, self._store, self._queue, self._prefetch = broker, store, queue, prefetch
        self._loop = asyncio.get_running_loop()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.started: Counter[UUID] = Counter()
        self.refused: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.pubs: list[int] = []

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._ending.is_set():
            # The broker may be killed meanwhile: the consumer comes back, and what it held is delivered again.
            with suppress(pika.exceptions.AMQPError, OSError):
                self._consume()
            self._ending.wait(0.1)

    def _consume(self) -> None:
        connection = pika.BlockingConnection(connect(self._broker))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=self._prefetch)
        batch: list[tuple[Any, Any, bytes]] = []
        for method, properties, body in channel.consume(self._queue, inactivity_timeout=0.05):
            if method is not None:
                batch.append((method, properties, body))
            if batch and (method is None or len(batch) >= self._prefetch):
                self._treat(batch)
                channel.basic_ack(batch[-1][0].delivery_tag, multiple=True)
                batch.clear()
            if self._ending.is_set():
                break
        connection.close()

    def _treat(self, batch: Sequence[tuple[Any, Any, bytes]]) -> None:
        starts = []
        for method, properties, body in batch:
            headers = properties.headers
            self.bodies.append(json.loads(body))
            self.pubs.append(headers["maestro-pub"])
            starts.append(
                Report(
                    "start",
                    UUID(properties.message_id),
                    # As if each delivery went to a process of its own: a second copy isn't adopted.
                    worker=f"pod/{len(self.pubs)}",
                    pub=headers["maestro-pub"],
                    epoch=headers["maestro-epoch"],
                    store=headers["maestro-store"],
                    redelivered=method.redelivered,
                )
            )
        finishes = []
        for start, answer in zip(starts, self._report(starts), strict=True):
            if answer.status == 200:
                self.started[start.job] += 1
                finishes.append(
                    Report("finish", start.job, worker=start.worker, attempt=answer.attempt, status="completed")
                )
            else:
                self.refused[str(answer.reason)] += 1
        for answer in self._report(finishes):
            assert answer.status == 200

    def _report(self, reports: list[Report]) -> list[Any]:
        return asyncio.run_coroutine_threadsafe(self._store.reports(reports), self._loop).result(PATIENCE)


async def accept(store: RunStore, key: int, count: int) -> list[Accepted]:
    return await store.accept([NewRun(key, {"n": n}) for n in range(count)])


async def all_in(store: RunStore, state: RunState, count: int) -> bool:
    counts = await store.counts()
    found = {
        RunState.SUCCEEDED: sum(each.succeeded_24h for each in counts.values()),
        RunState.HELD: sum(each.held for each in counts.values()),
        RunState.QUEUED: sum(each.queued for each in counts.values()),
        RunState.FAILED: sum(each.failed_24h for each in counts.values()),
    }[state]
    return found == count


def test_accepted_published_consumed_finished(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, NIGHTLY.queue or "")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            runs = await accept(store, key, 1000)
            async with leading(broker, store) as leader:
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 1000), "1,000 successes")
                assert set(workers.started.values()) == {1}
                assert set(workers.started) == {run.id for run in runs}
                # Published in the order of acceptance.
                assert [UUID(body["job_id"]) for body in workers.bodies] == [run.id for run in runs]
                assert workers.bodies[0] == {
                    "job_id": str(runs[0].id),
                    "automation_id": "shop.nightly",
                    "script_path": None,
                    "solution": "shop.shop",
                    "attempt": 1,
                    "scheduled_time": None,
                    "reprocessing": None,
                    "traceparent": None,
                }
                await until(lambda: leader.dispatcher.in_flight == 0, "nothing is in flight")
            # The watermark was written at the end: a new leader has nothing to publish again.
            won = await store.win_leadership()
            assert won.confirmed_pub == won.next_pub - 1 == 1000

    asyncio.run(main())


def test_older_workers_get_their_parameters_in_the_message(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        older = replace(
            NIGHTLY, uid="u-older", name="older", queue="invoices", parameters_in_message=True, script_path="a/b.py"
        )
        declare(broker, "invoices")
        async with opened(tmp_path) as store:
            key = await store.register(older)
            await store.accept([NewRun(key, {"größe": "ü", "n": 1}, traceparent="00-a-b-01")])
            async with leading(broker, store):
                with Workers(broker, store, "invoices") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 1), "a success")
        assert workers.bodies[0]["parameters"] == {"größe": "ü", "n": 1}
        assert workers.bodies[0]["script_path"] == "a/b.py"
        assert workers.bodies[0]["traceparent"] == "00-a-b-01"

    asyncio.run(main())


def test_work_announced_while_it_runs_is_dispatched_at_once(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            # No poll within the test's patience: only what the store announces.
            async with leading(broker, store, poll_seconds=3600.0) as leader:
                await until(lambda: leader.dispatcher.leadership is not None, "the leadership")
                with Workers(broker, store, "maestro.shop.nightly"):
                    for done in range(1, 4):
                        await accept(store, key, 10)
                        await until(lambda done=done: all_in(store, RunState.SUCCEEDED, 10 * done), "ten more")

    asyncio.run(main())


def test_a_full_window_is_refilled_by_starts(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        narrow = replace(NIGHTLY, policy=replace(FAST, window=20))
        async with opened(tmp_path) as store:
            key = await store.register(narrow)
            await accept(store, key, 500)
            async with leading(broker, store, poll_seconds=3600.0) as leader:
                await until(lambda: all_in(store, RunState.QUEUED, 20), "a full window")
                assert leader.dispatcher.last_pub == 20
                with Workers(broker, store, "maestro.shop.nightly", prefetch=5):
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 500), "500 successes")

    asyncio.run(main())


def test_a_dispatcher_that_dies_loses_and_doubles_nothing(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            accepted = {run.id for run in await accept(store, key, 3000)}
            with Workers(broker, store, "maestro.shop.nightly") as workers:
                for generation in range(1, 4):
                    # No watermark is written: each leader publishes everything that is in flight again.
                    leader = Leader(broker, store, batch=100, watermark_seconds=3600.0)
                    await until(
                        lambda least=generation * 500: len(workers.started) >= least, f"leader {generation} publishes"
                    )
                    await leader.kill()
                async with leading(broker, store):
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 3000), "3,000 successes")
            assert set(workers.started) == accepted
            assert set(workers.started.values()) == {1}
            assert set(workers.refused) <= {"ended", "running"}

    asyncio.run(main())


def test_a_leader_that_was_displaced_stops(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            leader = Leader(broker, store)
            await until(lambda: leader.dispatcher.leadership is not None, "the leadership")
            await store.win_leadership()
            await accept(store, key, 1)
            with pytest.raises(StaleEpoch):
                await asyncio.wait_for(leader.task, PATIENCE)
            await leader.end()
            assert await all_in(store, RunState.QUEUED, 0)

    asyncio.run(main())


def test_without_a_queue_runs_go_back_and_later_succeed(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            runs = await accept(store, key, 50)
            heard: Counter[str] = Counter()
            async with leading(broker, store, observe=lambda result, n: heard.update({result: n})):
                await until(lambda: heard["NoQueue"] >= 50, "50 returns")
                view = await store.get(runs[0].id)
                assert view is not None
                assert (view.attempt, view.state.ended) == (0, False)
                declare(broker, "maestro.shop.nightly")
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 50), "50 successes")
            assert set(workers.started.values()) == {1}

    asyncio.run(main())


def test_the_broker_is_killed_while_runs_are_dispatched(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        # A queue that was just declared may not survive a kill; the restart writes it down.
        await asyncio.to_thread(broker.restart)
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            await accept(store, key, 3000)
            async with leading(broker, store, batch=50):
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: len(workers.started) >= 300, "the dispatch runs")
                    await asyncio.to_thread(broker.kill)
                    await accept(store, key, 100)
                    await asyncio.to_thread(broker.start)
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 3100), "3,100 successes")
            assert set(workers.started.values()) == {1}

    asyncio.run(main())


def test_what_a_purged_queue_held_is_published_again_when_it_is_known(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            await accept(store, key, 700)
            async with leading(broker, store) as leader:
                await until(
                    lambda: leader.dispatcher.last_pub == 700 and leader.dispatcher.in_flight == 0, "700 confirms"
                )
                broker.api("DELETE", "/api/queues/%2F/maestro.shop.nightly/contents")
                leader.dispatcher.lost("maestro.shop.nightly")
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 700), "700 successes")
                assert min(workers.pubs) == 701
                assert sorted(workers.pubs) == list(range(701, 1401))

    asyncio.run(main())


def test_what_a_queue_lost_silently_is_found_by_a_canary_and_what_it_overtook(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            await accept(store, key, 300)
            async with leading(broker, store, repair_seconds=0.1, grace_seconds=0.5) as leader:
                await until(
                    lambda: leader.dispatcher.last_pub >= 300 and leader.dispatcher.in_flight == 0, "300 confirms"
                )
                broker.api("DELETE", "/api/queues/%2F/maestro.shop.nightly/contents")
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 300), "300 successes")
                assert set(workers.started.values()) == {1}

    asyncio.run(main())


def test_a_shut_gateway_holds_and_an_open_one_lets_go_in_order(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly", "maestro.shop.other")
        shut: set[str] = set()
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            other = replace(NIGHTLY, uid="u-other", name="other", solution="elsewhere", queue="maestro.shop.other")
            other_key = await store.register(other)
            async with leading(broker, store, gateway=lambda solution: solution in shut) as leader:
                first = await accept(store, key, 200)
                await until(lambda: all_in(store, RunState.QUEUED, 200), "200 are Queued")
                shut.add("shop.shop")
                await until(lambda: leader.dispatcher.shut_seen("shop.shop"), "the dispatcher sees the gate")
                assert await all_in(store, RunState.HELD, 200)
                second = await accept(store, key, 100)
                await accept(store, other_key, 5)
                await until(lambda: all_in(store, RunState.HELD, 300), "what comes is held too")
                with (
                    Workers(broker, store, "maestro.shop.nightly") as workers,
                    Workers(broker, store, "maestro.shop.other"),
                ):
                    # The other Solution goes on; the copies that were on the queue are refused.
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 5), "the other Solution's Runs")
                    await until(lambda: workers.refused["notDue"] == 200, "200 refusals")
                    assert not workers.started
                    shut.clear()
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 305), "305 successes")
                assert list(workers.started) == [run.id for run in (*first, *second)]

    asyncio.run(main())


def test_while_the_broker_is_away_the_clock_runs_and_stopping_is_prompt(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            await accept(store, key, 10)
            leader = Leader(broker, store, watermark_seconds=3600.0)
            await until(lambda: leader.dispatcher.last_pub == 10, "ten are claimed")
            await leader.kill()
            await asyncio.to_thread(broker.stop)
            job_key = await store.register(replace(NIGHTLY, uid="u-job", name="job", launch="Job", queue=None))
            jobs = Jobs()
            async with leading(broker, store, launcher=jobs):
                soon = utcnow() + timedelta(seconds=0.5)
                (expiring,) = await store.accept([NewRun(key, expires_at=soon)])
                await store.accept([NewRun(job_key)])
                await until(lambda: len(jobs.made) == 1, "the Job is made")

                async def expired() -> bool:
                    view = await store.get(expiring.id)
                    return view is not None and (view.state, view.reason) == (RunState.CANCELED, "Expired")

                await until(expired, "the Run expires")
            await asyncio.to_thread(broker.start)
            async with leading(broker, store):
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 10), "ten successes")
            assert set(workers.started.values()) == {1}

    asyncio.run(main())


def test_suspending_takes_back_what_is_queued(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        declare(broker, "maestro.shop.nightly")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            async with leading(broker, store):
                await accept(store, key, 30)
                await until(lambda: all_in(store, RunState.QUEUED, 30), "30 are Queued")
                await store.register(replace(NIGHTLY, generation=2, suspended=True))
                await until(lambda: all_in(store, RunState.QUEUED, 0), "none is Queued")
                with Workers(broker, store, "maestro.shop.nightly") as workers:
                    await until(lambda: workers.refused["notDue"] == 30, "their copies are refused")
                    await store.register(replace(NIGHTLY, generation=3))
                    await until(lambda: all_in(store, RunState.SUCCEEDED, 30), "30 successes")

    asyncio.run(main())


class Jobs:
    """Stands in for Kubernetes: it takes Jobs, or refuses them."""

    def __init__(self) -> None:
        self.made: list[Claimed] = []
        self.refusals: list[JobRefused] = []

    async def launch(self, run: Claimed, registration: Registration) -> None:
        assert registration.launch == "Job"
        if self.refusals:
            raise self.refusals.pop()
        self.made.append(run)


def test_jobs_are_launched_and_refusals_come_back(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            key = await store.register(replace(NIGHTLY, launch="Job", queue=None))
            jobs = Jobs()
            jobs.refusals = [JobRefused("no such image name", final=True), JobRefused("too many requests", final=False)]
            async with leading(broker, store, launcher=jobs) as leader:
                runs = await accept(store, key, 30)
                await until(lambda: len(jobs.made) == 29, "29 Jobs")
                await until(lambda: leader.dispatcher.in_flight == 0, "nothing is in flight")
            assert {run.id for run in jobs.made} < {run.id for run in runs}
            assert jobs.made[0].parameters is not None
            failed = (await store.list_runs(RunFilter(states=frozenset({RunState.FAILED})))).items
            assert [run.reason for run in failed] == ["JobInvalid"]

    asyncio.run(main())
