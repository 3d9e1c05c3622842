"""The controller of Automations in this process, on a real API server and a real RabbitMQ, and a kubelet's stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.apiserver import ApiServer
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.automation import rights

from maestro.automation import wiring
from maestro.automation.credentials import decoded
from maestro.automation.installation import BrokerAdmin
from maestro.broker.management import ManagementClient
from maestro.broker.topology import BrokerState
from maestro.handlers import Feed
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient, Rate
from maestro.kube.errors import Conflict, KubeError, NotFound
from maestro.kube.informer import Informer
from maestro.kube.kinds import AUTOMATION, DEPLOYMENT, EVENT, JOB, POD, SECRET, SERVICE_ACCOUNT, ObjectKey
from maestro.resources import names
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.workqueue import WorkQueue
from maestro.settings import Settings

Object = dict[str, Any]

RATE = Rate(qps=2000.0, burst=2000, events_qps=500.0)


def automation(name: str = "orders", *, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """An Automation with a worker image, unless `worker` says otherwise."""
    meta: Object = {"name": name}
    if labels:
        meta["labels"] = dict(labels)
    return {
        "apiVersion": "maestro-operator.io/v1alpha1",
        "kind": "Automation",
        "metadata": meta,
        "spec": {"worker": {"image": "example.org/worker:1"}, **spec},
    }


class Kubelet:
    """Says of every pod that it is ready, as a kubelet would; nothing runs."""

    def __init__(self, kube: KubeClient, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self.cache = ObjectCache(POD, namespaces=[namespace])
        self.cache.observe(self._changed)
        self._todo: asyncio.Queue[str] = asyncio.Queue()
        self.away = False
        """Whether pods are left as they are."""
        self.states: dict[str, Object] = {}
        """Status of the worker's container by a pod's Automation, where it isn't to be ready."""
        self.phases: dict[str, str] = {}
        """Phase of a pod by its Automation, where it isn't to be Running."""

    async def run(self, stop: asyncio.Event) -> None:
        informer = Informer(self._kube, POD, self.cache, namespaces=[self._namespace])
        work = asyncio.create_task(self._work())
        try:
            await informer.run(stop)
        finally:
            work.cancel()

    def look_again(self) -> None:
        """Tell of every pod anew."""
        for pod in self.cache.values():
            self._todo.put_nowait(pod["metadata"]["name"])

    def _changed(self, key: ObjectKey, _: Object | None, new: Object | None) -> None:
        if not self.away and new is not None and not (new.get("status") or {}).get("containerStatuses"):
            self._todo.put_nowait(key.name)

    async def _work(self) -> None:
        while True:
            name = await self._todo.get()
            pod = self.cache.get(self._namespace, name)
            owner = (pod or {"metadata": {}})["metadata"].get("labels", {}).get(names.LABEL_AUTOMATION)
            if owner is None:
                continue
            status = self.states.get(owner, {"ready": True, "state": {"running": {"startedAt": _now()}}})
            container = {"name": "worker", "image": "x", "imageID": "", "restartCount": 0, **status}
            ready = "True" if container["ready"] else "False"
            body = {
                "status": {
                    "phase": self.phases.get(owner, "Running"),
                    "startTime": _now(),
                    "conditions": [{"type": "Ready", "status": ready}],
                    "containerStatuses": [container],
                }
            }
            try:
                await self._kube.patch(POD, self._namespace, name, body, subresource="status")
            except (NotFound, Conflict):
                continue
            except KubeError:
                await asyncio.sleep(0.1)
                self._todo.put_nowait(name)


def _now() -> str:
    return utcnow().strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """A namespace with the controller at work in it.

    Attributes
    ----------
    kube
        An administrator's client, for what the test does.
    reconciled
        How often each Automation was reconciled.
    """

    apiserver: ApiServer
    rabbitmq: RabbitMQ
    namespace: str
    kube: KubeClient
    store: RunStore
    management: ManagementClient
    settings: Settings
    kubelet: Kubelet
    controller: wiring.Automations | None = None
    feed: Feed | None = None
    reconciled: dict[str, int] = field(default_factory=dict)
    clock: Clock = utcnow
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _clients: list[KubeClient] = field(default_factory=list)

    # -- the controller

    async def start(self) -> None:
        """Start the controller, as after a restart of its process: it remembers nothing."""
        self._stop = asyncio.Event()
        self.reconciled.clear()
        kubeconfig = self.apiserver.kubeconfig_for(rights.USER)
        kube = await KubeClient.connect(kubeconfig, rate=RATE)
        self._clients.append(kube)
        queue: WorkQueue[ObjectKey] = WorkQueue("automation")
        self.feed = Feed(AUTOMATION, queue, namespaces=[self.namespace])
        admin = BrokerAdmin(
            "127.0.0.1", self.rabbitmq.amqp_port, self.rabbitmq.management_port, "/", self.rabbitmq.user, "-"
        )
        self.controller = wiring.build(
            settings=self.settings,
            kube=kube,
            store=self.store,
            admin=admin,
            management=self.management,
            feed=self.feed,
            clock=lambda: self.clock(),
        )
        self._count_reconciles(self.controller)
        informer = Informer(kube, AUTOMATION, self.feed.cache, namespaces=[self.namespace])
        self._tasks = [
            asyncio.create_task(informer.run(self._stop)),
            asyncio.create_task(self.controller.run(self._stop)),
        ]

    async def stop(self) -> None:
        """Stop the controller."""
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    def _count_reconciles(self, controller: wiring.Automations) -> None:
        inner = controller.reconciler.reconcile

        async def counted(key: ObjectKey) -> float | None:
            self.reconciled[key.name] = self.reconciled.get(key.name, 0) + 1
            return await inner(key)

        controller._controller._reconcile = counted  # type: ignore[attr-defined]

    # -- the cluster

    async def apply(self, obj: Object) -> Object:
        """Apply an object in the namespace as a user would."""
        kind = {"Automation": AUTOMATION, "Deployment": DEPLOYMENT, "Secret": SECRET}[obj["kind"]]
        return await self.kube.apply(kind, self.namespace, obj["metadata"]["name"], obj, manager="someone")

    async def patch(self, name: str, spec: Object) -> Object:
        """Change an Automation's spec (merge patch)."""
        return await self.kube.patch(AUTOMATION, self.namespace, name, {"spec": spec})

    async def get(self, name: str = "orders") -> Object:
        return await self.kube.get(AUTOMATION, self.namespace, name)

    async def deployment(self, name: str = "orders") -> Object:
        return await self.kube.get(DEPLOYMENT, self.namespace, name)

    async def secret(self, name: str = "orders") -> Object:
        return await self.kube.get(SECRET, self.namespace, names.broker_secret(name))

    async def login(self, name: str = "orders") -> dict[str, str]:
        """What the broker Secret says."""
        return decoded(await self.secret(name))

    async def exists(self, kind: Any, name: str) -> bool:
        try:
            await self.kube.get(kind, self.namespace, name)
        except NotFound:
            return False
        return True

    async def condition(self, type_: str = "Ready", name: str = "orders") -> Object:
        """A condition of an Automation; an empty one where it has none."""
        found = (await self.get(name)).get("status", {}).get("conditions", [])
        return next((condition for condition in found if condition["type"] == type_), {})

    async def ready(self, name: str = "orders", *, reason: str = "Ready") -> Object:
        """Wait until an Automation is ready for that reason, for its present generation; the object."""

        async def check() -> Object | None:
            obj = await self.get(name)
            status = obj.get("status", {})
            if status.get("observedGeneration") != obj["metadata"]["generation"]:
                return None
            for condition in status.get("conditions", []):
                if condition["type"] == "Ready":
                    good = condition["status"] == "True" and condition["reason"] == reason
                    return obj if good else None
            return None

        return await self.until(f"{name} ready ({reason})", check, show=lambda: self.get(name))

    async def stalled(self, reason: str, name: str = "orders") -> Object:
        """Wait until an Automation is stalled for that reason; the condition."""

        async def check() -> Object | None:
            condition = await self.condition("Stalled", name)
            return condition if condition.get("reason") == reason else None

        return await self.until(f"{name} stalled ({reason})", check, show=lambda: self.get(name))

    async def events(self, reason: str, name: str = "orders") -> list[str]:
        """The notes of the Events about an Automation that have this reason."""
        found, _ = await self.kube.list(EVENT, self.namespace)
        return [e["note"] for e in found if e["reason"] == reason and e["regarding"]["name"] == name]

    async def repaired(self, *words: str, name: str = "orders") -> str:
        """Wait for an Event that tells of a repair, with all of these words in it."""

        async def check() -> str | None:
            notes = await self.events("Repaired", name)
            return next((note for note in notes if all(word in note for word in words)), None)

        return await self.until(f"an Event of a repair with {words}", check, show=lambda: self.events("Repaired", name))

    async def until(
        self,
        what: str,
        check: Callable[[], Awaitable[Any]],
        timeout: float = 60.0,
        show: Callable[[], Awaitable[Any]] | None = None,
    ) -> Any:
        """Wait until a check gives something true, and return it."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._alive()
                    if found := await check():
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await show() if show is not None else ""
            raise AssertionError(f"{what}: not within {timeout:g} s; there is {shown}") from None

    def _alive(self) -> None:
        for task in self._tasks:
            if task.done() and not self._stop.is_set():
                task.result()
                raise AssertionError("a part of the controller ended")

    # -- the broker

    def broker(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API as the administrator; None for a 404."""
        return self.rabbitmq.api(method, path, body, missing_ok=True)

    async def state(self) -> BrokerState:
        return await self.management.snapshot(utcnow())

    @property
    def queue(self) -> str:
        """The queue of the Automation `orders`."""
        return f"maestro.{self.namespace}.orders"


W = TypeVar("W", bound=World)


@contextlib.asynccontextmanager
async def world(
    apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, folder: Path, *, start: bool = True, **settings: Any
) -> AsyncIterator[World]:
    """A world with the controller at work; it resyncs every 2 s."""
    apiserver.apply(*rights.bound(namespace))
    async with world_of(World, apiserver, rabbitmq, namespace, folder, start=start, **settings) as made:
        yield made


@contextlib.asynccontextmanager
async def world_of(
    kind: type[W],
    apiserver: ApiServer,
    rabbitmq: RabbitMQ,
    namespace: str,
    folder: Path,
    *,
    start: bool,
    **settings: Any,
) -> AsyncIterator[W]:
    """A world of this kind, whose account has its rights already."""
    rabbitmq.reset()
    given = Settings(
        **{
            "namespace": namespace,
            "watch_namespaces": (namespace,),
            "resync_seconds": 2.0,
            "image": "maestro:test",
            "api_url": "http://maestro:8080",
            **settings,
        }
    )
    kube = await KubeClient.connect(apiserver.kubeconfig, rate=RATE)
    store = await asyncio.to_thread(RunStore.open, f"sqlite:///{folder / 'maestro.db'}")
    management = ManagementClient(rabbitmq.management_url, rabbitmq.user, rabbitmq.password)
    kubelet = Kubelet(kube, namespace)
    stop = asyncio.Event()
    background = asyncio.create_task(kubelet.run(stop))
    made = kind(apiserver, rabbitmq, namespace, kube, store, management, given, kubelet)
    try:
        if start:
            await made.start()
        yield made
    finally:
        await made.stop()
        stop.set()
        await background
        for client in (kube, *made._clients):
            await client.close()
        await management.close()
        await store.close()


__all__ = ["JOB", "SERVICE_ACCOUNT", "Kubelet", "World", "automation", "world", "world_of"]
