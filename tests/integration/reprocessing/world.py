"""The controller of Reprocessings and the dispatcher in this process, on a real API server, broker and store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pika
from tests.cluster.apiserver import ApiServer
from tests.cluster.rabbitmq import RabbitMQ
from tests.workers.processes import declare

from maestro.broker.connection import parameters
from maestro.broker.publisher import Publisher
from maestro.handlers import Feed
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient, Rate
from maestro.kube.errors import KubeError, NotFound
from maestro.kube.informer import Informer
from maestro.kube.kinds import AUTOMATION, EVENT, REPROCESSING, ObjectKey
from maestro.reprocessing.wiring import Reprocessings
from maestro.resources import Automation
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.model import NewRun, RunFilter, RunState, RunView
from maestro.runs.registration import registration_of
from maestro.runs.replays import Replays
from maestro.runs.reports import Report
from maestro.runs.store import RunStore
from maestro.runtime.workqueue import WorkQueue
from maestro.workload.gateways import Gateways

Object = dict[str, Any]
RATE = Rate(qps=2000.0, burst=2000, events_qps=500.0)
DAY = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE = 60.0


class Killed(BaseException):
    """The process is gone at this instant."""


class Workers:
    """Takes what comes on the queues: starts it, has `decide` say how it ends, finishes and acknowledges it."""

    def __init__(self, broker: RabbitMQ, store: RunStore, loop: asyncio.AbstractEventLoop) -> None:
        self._broker, self._store, self._loop = broker, store, loop
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self.ended: list[tuple[Object, str]] = []
        """Parameters and end of each Run that was worked on, in order."""
        self.bad: set[Any] = set()
        """Values of `n` that fail."""
        self.hang: set[Any] = set()
        """Values of `n` that don't end before they are taken out of here."""
        self.seconds = 0.0
        self.bodies: list[Object] = []

    def consume(self, queue: str) -> None:
        """Consume a queue until the end, one message at a time."""
        thread = threading.Thread(target=self._run, args=(queue,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, queue: str) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(pika.exceptions.AMQPError, OSError, asyncio.CancelledError, TimeoutError):
                self._consume(queue)
            self._ending.wait(0.1)

    def _consume(self, queue: str) -> None:
        at = parameters("127.0.0.1", self._broker.amqp_port, "/", self._broker.user, self._broker.password)
        connection = pika.BlockingConnection(at)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        for method, properties, body in channel.consume(queue, inactivity_timeout=0.05):
            if method is not None:
                self._work(properties, json.loads(body), method.redelivered)
                channel.basic_ack(method.delivery_tag)
            if self._ending.is_set():
                break
        connection.close()

    def _work(self, properties: Any, body: Object, redelivered: bool) -> None:
        job, worker = UUID(properties.message_id), f"pod/{threading.get_ident()}"
        headers = properties.headers
        self.bodies.append(body)
        (answer,) = self._report(
            Report(
                "start",
                job,
                worker=worker,
                pub=headers["maestro-pub"],
                epoch=headers["maestro-epoch"],
                store=headers["maestro-store"],
                redelivered=redelivered,
            )
        )
        if answer.status != 200:
            return
        n = answer.parameters.get("n")
        while n in self.hang and not self._ending.wait(0.02):
            pass
        if self.seconds:
            self._ending.wait(self.seconds)
        if self._ending.is_set():
            return
        status = "failed" if n in self.bad else "completed"
        kind = "business" if status == "failed" else None
        # Noted before anybody else can see that it has ended.
        self.ended.append((answer.parameters, status))
        (done,) = self._report(Report("finish", job, worker=worker, attempt=answer.attempt, status=status, kind=kind))
        if done.status != 200:
            self.ended.remove((answer.parameters, status))

    def _report(self, report: Report) -> list[Any]:
        return asyncio.run_coroutine_threadsafe(self._store.reports([report]), self._loop).result(PATIENCE)

    def numbers(self) -> list[Any]:
        """`n` of each Run in the order in which they ended."""
        return [given.get("n") for given, _ in self.ended]


class _Area(Replays):
    """Reprocessings in the store, where the process can end between two writes."""

    def __init__(self, store: RunStore, epoch: Callable[[], int | None], before: Callable[[], None]) -> None:
        super().__init__(store, epoch)
        self._before = before

    async def write(self, action: Any, weight: int = 1) -> Any:
        self._before()
        return await super().write(action, weight)


class _Kube:
    """The client, where the process can end before a status is written."""

    def __init__(self, kube: KubeClient, before: Callable[[], None]) -> None:
        self._kube, self._before = kube, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)

    async def patch_status(self, *given: Any, **more: Any) -> Any:
        self._before()
        return await self._kube.patch_status(*given, **more)


@dataclass
class World:
    """A namespace with a controller at work in it."""

    apiserver: ApiServer
    rabbitmq: RabbitMQ
    namespace: str
    kube: KubeClient
    store: RunStore
    workers: Workers
    gateways: Gateways
    """As a replica of the API sees them: fed by watches of its own."""
    automations: ObjectCache
    kill_at: int | None = None
    """Before this write of the next controller it ends as if it were killed."""
    writes: int = 0
    dispatcher: Dispatcher | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _leading: asyncio.Task[None] | None = None

    # -- the controller

    def start(self) -> None:
        """Start a controller that remembers nothing."""
        self._stop = asyncio.Event()
        self.writes = 0
        self._leading = asyncio.create_task(self._lead())

    async def stop(self) -> None:
        """Stop the controller in good order."""
        self._stop.set()
        leading, self._leading = self._leading, None
        if leading is not None:
            await asyncio.gather(leading, return_exceptions=True)

    async def kill(self) -> None:
        """End the controller at once: nothing more is written."""
        leading, self._leading = self._leading, None
        assert leading is not None
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    async def killed(self) -> bool:
        """Whether the controller was killed at its write; what is left of it is cleared away then."""
        if self._leading is None or not self._leading.done():
            return False
        leading, self._leading = self._leading, None
        (error,) = await asyncio.gather(leading, return_exceptions=True)
        assert isinstance(error, Killed), f"the controller has ended: {error!r}"
        return True

    async def _lead(self) -> None:
        at = parameters(
            "127.0.0.1", self.rabbitmq.amqp_port, "/", self.rabbitmq.user, self.rabbitmq.password, heartbeat=5
        )
        publisher = Publisher(lambda: at)
        queue: WorkQueue[ObjectKey] = WorkQueue("reprocessing")
        feed = Feed(REPROCESSING, queue, namespaces=[self.namespace])
        gateways = Gateways(feed.cache)
        self.dispatcher = dispatcher = Dispatcher(self.store, publisher, gateway=gateways.shut, poll_seconds=0.1)
        gateways.on_change(dispatcher.gateway_moved)
        controller = Reprocessings(
            kube=_Kube(self.kube, self._count),  # type: ignore[arg-type]
            area=_Area(self.store, lambda: dispatcher.leadership.epoch if dispatcher.leadership else None, self._count),
            feed=feed,
            automations=self.automations,
            gateways=gateways,
            dispatcher=dispatcher,
            leads=lambda: dispatcher.leadership is not None,
        )
        informer = Informer(self.kube, REPROCESSING, feed.cache, namespaces=[self.namespace])
        await asyncio.to_thread(publisher.start)
        parts = [
            asyncio.create_task(each)
            for each in (informer.run(self._stop), self._dispatch(dispatcher, gateways), controller.run(self._stop))
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await asyncio.to_thread(publisher.stop)

    async def _dispatch(self, dispatcher: Dispatcher, gateways: Gateways) -> None:
        while not gateways.synced:
            await asyncio.sleep(0.01)
        await dispatcher.run(self._stop)

    def _count(self) -> None:
        self.writes += 1
        if self.kill_at is not None and self.writes > self.kill_at:
            raise Killed

    # -- Automations and Runs

    async def automation(self, name: str = "invoices", *, solution: str = "shop", **spec: Any) -> int:
        """An Automation, its queue and a worker; its key in the store."""
        body = {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Automation",
            "metadata": {"name": name},
            "spec": {"solution": solution, **spec},
        }
        obj = await self.kube.apply(AUTOMATION, self.namespace, name, body, manager="someone")
        parsed = Automation.model_validate(obj)
        new = self.store.live(parsed.id) is None
        key = await self.store.register(registration_of(parsed))
        if new:
            declare(self.rabbitmq, parsed.queue_name or "")
            self.workers.consume(parsed.queue_name or "")
        await self.until("the Automation is seen", lambda: self._seen(obj))
        return key

    async def _seen(self, obj: Object) -> bool:
        found = self.automations.get(self.namespace, obj["metadata"]["name"])
        return found is not None and found["metadata"]["generation"] >= obj["metadata"]["generation"]

    async def ran(self, automation: int, count: int, *, first: int = 1, **parameters: Any) -> list[UUID]:
        """So many Runs that have ended, for ticks a minute apart; `n` counts them. The ids."""
        accepted = await self.store.accept(
            [
                NewRun(automation, {"n": n, **parameters}, tick=DAY + timedelta(minutes=n), schedule="nightly")
                for n in range(first, first + count)
            ]
        )
        await self.until(f"{count} Runs", lambda: self.all_ended([each.id for each in accepted]))
        self.workers.ended.clear()
        return [each.id for each in accepted]

    async def ended(self, ids: Sequence[UUID]) -> None:
        """Wait until all of these Runs have ended."""
        await self.until("they end", lambda: self.all_ended(ids))

    async def all_ended(self, ids: Sequence[UUID]) -> bool:
        for run in ids:
            view = await self.store.get(run)
            if view is None or not view.state.ended:
                return False
        return True

    async def replays_of(self, run: UUID) -> list[RunView]:
        """The Runs that replay this one."""
        return list((await self.store.list_runs(RunFilter(replay_of=run))).items)

    async def states(self, ids: Sequence[UUID]) -> Counter[RunState]:
        found = [await self.store.get(run) for run in ids]
        return Counter(view.state for view in found if view is not None)

    # -- Reprocessings

    async def create(self, name: str = "fix", *, select: Object | None = None, **spec: Any) -> Object:
        """A Reprocessing of the Solution `shop`."""
        body = {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Reprocessing",
            "metadata": {"name": name},
            "spec": {"solution": "shop", "select": select or {"automations": ["invoices"]}, **spec},
        }
        return await self.kube.create(REPROCESSING, self.namespace, body)

    async def get(self, name: str = "fix") -> Object:
        return await self.kube.get(REPROCESSING, self.namespace, name)

    async def status(self, name: str = "fix") -> Object:
        found: Object = (await self.get(name)).get("status", {})
        return found

    async def patch(self, name: str = "fix", **spec: Any) -> Object:
        return await self.kube.patch(REPROCESSING, self.namespace, name, {"spec": spec})

    async def approve(self, name: str = "fix", **more: Any) -> Object:
        """As somebody with kubectl, whom the API server's policies stamp."""
        status = await self.phase("PendingApproval", name)
        return await self.patch(name, decision="Approved", decidedBy="ana", planHash=status["plan"]["hash"], **more)

    async def phase(self, wanted: str, name: str = "fix", *, reason: str | None = None) -> Object:
        """Wait until it is in a phase (and Ready has this reason); the status."""

        async def check() -> Object | None:
            status = await self.status(name)
            ready = condition(status, "Ready")
            good = status.get("phase") == wanted and reason in (None, ready.get("reason"))
            return status if good else None

        found: Object = await self.until(f"{name} is {wanted} {reason or ''}", check, show=lambda: self.status(name))
        return found

    async def events(self, name: str = "fix") -> list[str]:
        """The reasons of the Events about it, in order."""
        found, _ = await self.kube.list(EVENT, self.namespace)
        mine = [each for each in found if each["regarding"]["name"] == name]
        return [each["reason"] for each in sorted(mine, key=lambda each: each["eventTime"])]

    async def gone(self, name: str = "fix") -> None:
        await self.kube.delete(REPROCESSING, self.namespace, name)

    @property
    def solution_id(self) -> str:
        return f"{self.namespace}.shop"

    async def until(
        self,
        what: str,
        check: Callable[[], Awaitable[Any]],
        timeout: float = PATIENCE,
        show: Callable[[], Awaitable[Any]] | None = None,
    ) -> Any:
        """Wait until a check gives something true, and return it."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    with contextlib.suppress(KubeError):
                        if found := await check():
                            return found
                    if self._leading is not None and self._leading.done() and self.kill_at is None:
                        self._leading.result()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            shown = await show() if show is not None else ""
            raise AssertionError(f"{what}: not within {timeout:g} s; there is {shown}") from None


def condition(status: Object, type_: str) -> Object:
    """A condition; an empty one where there is none."""
    return next((each for each in status.get("conditions", []) if each["type"] == type_), {})


@contextlib.asynccontextmanager
async def world(
    apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, folder: Path, *, start: bool = True
) -> AsyncIterator[World]:
    """A world with the controller at work."""
    if not rabbitmq.alive():
        rabbitmq.start()
    rabbitmq.reset()
    kube = await KubeClient.connect(apiserver.kubeconfig, rate=RATE)
    store = await asyncio.to_thread(RunStore.open, f"sqlite:///{folder / 'maestro.db'}")
    workers = Workers(rabbitmq, store, asyncio.get_running_loop())
    reprocessings = ObjectCache(REPROCESSING, namespaces=[namespace])
    automations = ObjectCache(AUTOMATION, namespaces=[namespace])
    stop = asyncio.Event()
    watches = [
        asyncio.create_task(Informer(kube, kind, cache, namespaces=[namespace]).run(stop))
        for kind, cache in ((REPROCESSING, reprocessings), (AUTOMATION, automations))
    ]
    made = World(apiserver, rabbitmq, namespace, kube, store, workers, Gateways(reprocessings), automations)
    try:
        if start:
            made.start()
        yield made
    finally:
        await asyncio.to_thread(workers.close)
        await made.stop()
        stop.set()
        await asyncio.gather(*watches)
        await kube.close()
        await store.close()


__all__ = ["DAY", "Killed", "NotFound", "World", "condition", "world"]
