"""Replays against ordinary Runs of the same Automation, memory of plans, held Runs released, and the gateway check.

    python -m tests.performance.bench_replay [--runs 20000] [--plan 1000000] [--held 10000] [--seconds 3] [--repeats 5]

Replay: N no-op Runs are accepted, dispatched, started and finished; then the very same Runs are planned and replayed
with high parallelism. Store, dispatcher, broker and consumer are the same, in one process; the ratio is that of the
rates, from the first accept (the first step of the replay) to the last end.

Memory: so many ended Runs are planned in a process of their own; what counts is how its peak grows with their number.

Held: Runs accepted behind a shut gateway go when it opens; the time to the last end, and whether they went in order.

Gateway: `proceed`, as the program serves it, against a bare raw ASGI application under the same uvicorn; requests a
second at concurrency 16, and the 99th percentile at 1,000 requests a second. The two take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pika
import uvicorn
import uvloop
from tests.cluster.rabbitmq import RabbitMQ
from tests.workers.processes import free_port

from maestro.broker.connection import parameters
from maestro.broker.publisher import Publisher
from maestro.http.auth import Authenticator
from maestro.http.gateway import GatewayCheck
from maestro.http.guard import Guard
from maestro.http.proceed import Proceed
from maestro.http.server import server_config
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import AUTOMATION, REPROCESSING
from maestro.reprocessing import planner
from maestro.reprocessing.plan import plan_hash, spec_hash
from maestro.reprocessing.replay import Stepper
from maestro.resources import Reprocessing
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.model import NewRun, Registration, RunPolicy, new_run_id, to_micros
from maestro.runs.parameters import ParameterValidator
from maestro.runs.replays import Replay, Replays
from maestro.runs.reports import Report
from maestro.runs.store import RunStore
from maestro.runtime.clock import utcnow
from maestro.workload.gateways import Gateways

QUEUE = "maestro.bench.replay"
LIST = 500
PREFETCH = 500
PARALLELISM = 5000
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
REGISTRATION = Registration(
    uid="bench", namespace="bench", name="replay", solution="bench", queue=QUEUE, parameter_schema=SCHEMA,
    policy=RunPolicy(window=PARALLELISM, max_pending=10_000_000, succeeded_limit=10_000_000),
)  # fmt: skip


def reprocessing(name: str) -> Reprocessing:
    """One that selects everything."""
    spec = {"solution": "bench", "select": {"automations": ["replay"]}, "parallelism": PARALLELISM}
    meta = {"name": name, "namespace": "bench", "uid": f"uid-{name}"}
    return Reprocessing.model_validate({"kind": "Reprocessing", "metadata": meta, "spec": spec})


class Consumer:
    """Starts and finishes what comes, in batches, and says in which order it ended."""

    def __init__(self, broker: RabbitMQ, store: RunStore) -> None:
        self._broker, self._store = broker, store
        self._loop = asyncio.get_running_loop()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.order: list[UUID] = []

    def close(self) -> None:
        self._ending.set()
        self._thread.join(30)

    def _run(self) -> None:
        at = parameters("127.0.0.1", self._broker.amqp_port, "/", self._broker.user, self._broker.password)
        connection = pika.BlockingConnection(at)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=2 * PREFETCH)
        batch: list[tuple[Any, Any]] = []
        for method, properties, _ in channel.consume(QUEUE, inactivity_timeout=0.01):
            if method is not None:
                batch.append((method, properties))
            if batch and (method is None or len(batch) >= PREFETCH):
                self._treat(batch)
                channel.basic_ack(batch[-1][0].delivery_tag, multiple=True)
                batch.clear()
            if self._ending.is_set():
                break
        connection.close()

    def _treat(self, batch: Sequence[tuple[Any, Any]]) -> None:
        jobs = [UUID(properties.message_id) for _, properties in batch]
        starts = [
            Report("start", job, worker="pod/1", pub=p.headers["maestro-pub"], epoch=p.headers["maestro-epoch"],
                   store=p.headers["maestro-store"])
            for job, (_, p) in zip(jobs, batch, strict=True)
        ]  # fmt: skip
        answers = self._report(starts)
        begun = [(job, answer.attempt) for job, answer in zip(jobs, answers, strict=True) if answer.status == 200]
        self._report([Report("finish", job, worker="pod/1", attempt=n, status="completed") for job, n in begun])
        self.order += [job for job, _ in begun]

    def _report(self, reports: list[Report]) -> list[Any]:
        return asyncio.run_coroutine_threadsafe(self._store.reports(reports), self._loop).result(60)


class World:
    """Store, dispatcher and consumer; `shut` is the gateway."""

    def __init__(self, broker: RabbitMQ, store: RunStore) -> None:
        self.shut = False
        self.store = store
        self.publisher = Publisher(parameters("127.0.0.1", broker.amqp_port, "/", broker.user, broker.password))
        self.dispatcher = Dispatcher(store, self.publisher, gateway=lambda _solution: self.shut, poll_seconds=0.2)
        self.consumer = Consumer(broker, store)
        self._stop = asyncio.Event()
        self.publisher.start()
        self._task = asyncio.create_task(self.dispatcher.run(self._stop))

    async def close(self) -> None:
        self._stop.set()
        await self._task
        await asyncio.to_thread(self.consumer.close)
        await asyncio.to_thread(self.publisher.stop)

    async def ordinary(self, key: int, count: int) -> None:
        """Accept so many, as execute-many does, and wait for the last end."""
        validator = ParameterValidator(SCHEMA)
        before = len(self.consumer.order)
        for start in range(0, count, LIST):
            await self.store.accept(
                [NewRun(key, validator.merge_and_check({"n": n})) for n in range(start, min(start + LIST, count))]
            )
        await self.ended(before + count)

    async def ended(self, count: int) -> None:
        while len(self.consumer.order) < count:
            await asyncio.sleep(0.005)

    async def replay(self, name: str) -> tuple[float, float]:
        """Seconds of planning, and from the first step to the last end."""
        wish, area = reprocessing(name), Replays(self.store)
        begun = time.perf_counter()
        planned = await plan(area, wish)
        seconds = time.perf_counter() - begun
        now = to_micros(utcnow())
        planned = await area.change(planned, approved_at=now, began_at=now, replaying_at=now)
        self.shut = True
        self.dispatcher.gateway_moved(wish.solution_id)
        while not self.dispatcher.shut_seen(wish.solution_id):
            await asyncio.sleep(0.005)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.store.on_replay_end(lambda: loop.call_soon_threadsafe(ended.set))
        stepper = Stepper(area, planned, wish, {})
        begun = time.perf_counter()
        while not (advance := await stepper.step(may_start=True)).complete:
            if max(advance.started, advance.settled) < 1000:
                ended.clear()
                await asyncio.sleep(0.1)  # what the controller waits for others to gather
        took = time.perf_counter() - begun
        await area.end(advance.replay, "Finished", "Replayed", "", to_micros(utcnow()))
        self.shut = False
        return seconds, took


async def plan(area: Replays, wish: Reprocessing) -> Replay:
    """Plan it as the controller does."""
    meta = wish.metadata
    made = await area.create(meta.uid, wish.id, meta.name, wish.solution_id, spec_hash(wish), to_micros(utcnow()))
    scope = planner.scope_of(area.store, ObjectCache(AUTOMATION), wish)
    survey, predicted = await planner.make(area, wish, scope, made)
    return await area.change(
        made,
        planned_at=to_micros(utcnow()),
        plan_hash=plan_hash(wish.immutable_fields(), survey.digest),
        digest=survey.digest.text,
        total=survey.digest.total,
        predicted=predicted,
    )


def in_a_world(broker: RabbitMQ, work: Callable[[World, int], Awaitable[None]]) -> None:
    """Run something in a world with a store and a queue of its own."""

    async def whole(folder: str) -> None:
        store = RunStore.open(f"sqlite:///{folder}/runs.db")
        key = await store.register(REGISTRATION)
        world = World(broker, store)
        try:
            await work(world, key)
        finally:
            await world.close()
            await store.close()

    broker.api("DELETE", f"/api/queues/%2F/{QUEUE}", missing_ok=True)
    broker.api("PUT", f"/api/queues/%2F/{QUEUE}", {"durable": True, "arguments": {"x-queue-type": "quorum"}})
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(whole(folder))


def bench_replay(broker: RabbitMQ, runs: int, repeats: int) -> None:
    ratios = []

    async def work(world: World, key: int) -> None:
        begun = time.perf_counter()
        await world.ordinary(key, runs)
        ordinary = time.perf_counter() - begun
        planning, took = await world.replay("all")
        ratios.append(ordinary / took)
        print(
            f"{runs} Runs: ordinary {runs / ordinary:6.0f}/s   replay {runs / took:6.0f}/s   "
            f"ratio {ordinary / took:.2f}   (planned in {planning:.1f} s; peak memory {peak():.0f} MiB)",
            flush=True,
        )

    for _ in range(repeats):
        in_a_world(broker, work)
    print(f"replay / ordinary Runs: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}); goal 0.9")


def bench_held(broker: RabbitMQ, runs: int) -> None:
    async def work(world: World, key: int) -> None:
        world.shut = True
        world.dispatcher.gateway_moved("bench.bench")
        accepted: list[UUID] = []
        for start in range(0, runs, LIST):
            new = [NewRun(key, {"n": n}) for n in range(start, min(start + LIST, runs))]
            accepted += [each.id for each in await world.store.accept(new)]
        while (await world.store.counts())[key].held < runs:
            await asyncio.sleep(0.01)
        begun = time.perf_counter()
        world.shut = False
        world.dispatcher.gateway_moved("bench.bench")
        await world.ended(runs)
        took = time.perf_counter() - begun
        order = "in order" if world.consumer.order == accepted else "OUT OF ORDER"
        print(f"{runs} held Runs released and ended in {took:.1f} s ({runs / took:.0f}/s), {order}", flush=True)
        assert order == "in order"

    in_a_world(broker, work)


# --- memory ----------------------------------------------------------------------------------------------------------


def peak() -> float:
    """MiB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _plan_many(runs: int, answer: Any) -> None:
    async def whole(folder: str) -> tuple[float, float, float]:
        store = RunStore.open(f"sqlite:///{folder}/runs.db")
        key = await store.register(REGISTRATION)
        for start in range(0, runs, 1000):
            await store.write(_ended_runs(key, start, min(start + 1000, runs)), 1000)
        gc.collect()
        before, begun = peak(), time.perf_counter()
        planned = await plan(Replays(store), reprocessing("many"))
        assert planned.total == runs
        took = time.perf_counter() - begun
        await store.close()
        return before, peak(), took

    with tempfile.TemporaryDirectory() as folder:
        answer.put(uvloop.run(whole(folder)))


def _ended_runs(key: int, first: int, end: int) -> Callable[[Any], None]:
    columns = (
        *("id", "automation_id", "solution_id", "state", "ready", "rank", "max_attempts", "accepted_at", "parameters"),
        *("started_at", "ended_at", "attempt"),
    )

    def write(transaction: Any) -> None:
        now = to_micros(utcnow())
        rows = [
            (transaction.uuid(new_run_id()), key, 1, 5, 0, 0, 3, now + n, f'{{"n":{n}}}', now + n, now + n, 1)
            for n in range(first, end)
        ]
        transaction.insert("run", columns, rows)

    return write


def bench_plan(sizes: Sequence[int]) -> None:
    context = multiprocessing.get_context("spawn")
    for runs in sizes:
        answer: Any = context.Queue()
        process = context.Process(target=_plan_many, args=(runs, answer))
        process.start()
        before, after, took = answer.get()
        process.join()
        print(f"plan of {runs}: {took:.1f} s, peak memory {after:.0f} MiB ({before:.0f} before)", flush=True)


# --- the gateway check -----------------------------------------------------------------------------------------------


async def _bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _serve(which: str, port: int) -> None:
    app: Any = _bare
    if which != "bare":
        cache = ObjectCache(REPROCESSING)
        cache.replace([_shown(n) for n in range(1000)])
        authenticator = Authenticator(None, None, audience="maestro")  # type: ignore[arg-type]
        gateways = Gateways(cache)
        check = GatewayCheck(_bare, gateways, authenticator, "bench", needs_token=False)
        app = Proceed(Guard(check), gateways, check.solution_id, needs_token=False)
    gc.collect()
    gc.freeze()
    uvicorn.Server(server_config(app, "127.0.0.1", port)).run()


def _shown(n: int) -> dict[str, Any]:
    """Reprocessings of other Solutions, one in ten of which blocks its own."""
    status = {"phase": "Running" if n % 10 == 0 else "Finished", "plan": {"hash": "h"}}
    meta = {"namespace": "bench", "name": f"r{n}", "uid": f"u{n}", "resourceVersion": str(n + 1)}
    return {"metadata": meta, "spec": {"solution": f"s{n}", "decision": "Approved", "planHash": "h"}, "status": status}


@contextmanager
def serving(which: str) -> Iterator[int]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(which, port), daemon=True)
    process.start()
    try:
        yield port
    finally:
        process.terminate()
        process.join()


class _Connection(asyncio.Protocol):
    """One connection on which one request is under way at a time."""

    REQUEST = b"GET /v1.0.0/gateway/bench.prices/proceed HTTP/1.1\r\nHost: x\r\n\r\n"

    def __init__(self, answered: Callable[[_Connection, float], None]) -> None:
        self._answered = answered
        self._sent = 0.0
        self.busy = False
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, since: float | None = None) -> None:
        self.busy = True
        self._sent = time.perf_counter() if since is None else since
        self._transport.write(self.REQUEST)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):  # no body follows
            assert data.startswith(b"HTTP/1.1 200"), data
            self.busy = False
            self._answered(self, time.perf_counter() - self._sent)


async def _connect(port: int, count: int, answered: Callable[[_Connection, float], None]) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    made: list[_Connection] = []
    tries = 0
    while len(made) < count:
        try:
            _, connection = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port)
            made.append(connection)
        except OSError:
            tries += 1
            assert tries < 4000, "the server doesn't answer"
            await asyncio.sleep(0.05)
    return made


async def rate(port: int, seconds: float, concurrency: int = 16) -> float:
    """Requests a second, each connection asking again as soon as it has its answer."""
    answered = 0
    until = float("inf")

    def again(connection: _Connection, _: float) -> None:
        nonlocal answered
        answered += 1
        if time.perf_counter() < until:
            connection.ask()

    connections = await _connect(port, concurrency, again)
    begun = time.perf_counter()
    until = begun + seconds
    for connection in connections:
        connection.ask()
    await asyncio.sleep(seconds)
    return answered / (time.perf_counter() - begun)


async def p99(port: int, seconds: float, per_second: int = 1000) -> float:
    """Milliseconds in which 99 of 100 requests are answered that come at a steady rate."""
    latencies: list[float] = []
    free: list[_Connection] = []

    def done(connection: _Connection, latency: float) -> None:
        latencies.append(latency)
        free.append(connection)

    free += await _connect(port, 64, done)
    begun, sent, count = time.perf_counter(), 0, int(seconds * per_second)
    while sent < count:
        due = min(int((time.perf_counter() - begun) * per_second), count)
        while sent < due and free:
            free.pop().ask(begun + sent / per_second)
            sent += 1
        await asyncio.sleep(0.0005)
    while len(latencies) < count:
        await asyncio.sleep(0.01)
    return statistics.quantiles(latencies, n=100)[98] * 1000


def bench_gateway(seconds: float, repeats: int) -> None:
    rates: dict[str, list[float]] = {"bare": [], "proceed": []}
    late: dict[str, list[float]] = {"bare": [], "proceed": []}
    with serving("bare") as bare, serving("proceed") as proceed:
        ports = {"bare": bare, "proceed": proceed}
        for port in ports.values():
            uvloop.run(rate(port, 0.5))
        for turn in range(repeats):
            names = list(ports) if turn % 2 else list(ports)[::-1]
            for name in names:
                rates[name].append(uvloop.run(rate(ports[name], seconds)))
            for name in names:
                late[name].append(uvloop.run(p99(ports[name], seconds)))
    ratio = statistics.median(own / raw for own, raw in zip(rates["proceed"], rates["bare"], strict=True))
    times = statistics.median(own / raw for own, raw in zip(late["proceed"], late["bare"], strict=True))
    middle = {name: (statistics.median(rates[name]), statistics.median(late[name])) for name in ports}
    print(
        f"proceed {middle['proceed'][0]:.0f}/s, bare {middle['bare'][0]:.0f}/s, ratio {ratio:.2f} (goal 0.9); "
        f"p99 at 1,000/s {middle['proceed'][1]:.2f} ms, bare {middle['bare'][1]:.2f} ms, {times:.2f} times (goal 1.5)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plan", type=json.loads, default=[10_000, 1_000_000], help="sizes, as a JSON list")
    parser.add_argument("--held", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each look at the gateway check; 0: none")
    options = parser.parse_args()
    if options.plan:
        bench_plan(options.plan)
    if options.seconds:
        bench_gateway(options.seconds, options.repeats)
    if options.runs or options.held:
        gc.collect()
        gc.freeze()  # as Maestro does once it is loaded
        with RabbitMQ() as broker:
            if options.held:
                bench_held(broker, options.held)
            if options.runs:
                bench_replay(broker, options.runs, options.repeats)


if __name__ == "__main__":
    main()
