"""Puts the Automations' controller together: watches, reconciler, reaper, Jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from maestro.automation.brokerwatch import BrokerWatch
from maestro.automation.busypods import BusyPods
from maestro.automation.claims import Claims
from maestro.automation.installation import BrokerAdmin
from maestro.automation.podends import PodEnds
from maestro.automation.podindex import PodIndex
from maestro.automation.reaper import Reaper, gone_by
from maestro.automation.reconciler import AutomationReconciler, BlockedBy
from maestro.automation.storewatch import StoreWatch
from maestro.broker.management import ManagementClient
from maestro.kube.cache import ObjectCache, key_of
from maestro.kube.children import owner_by_label, watch_children
from maestro.kube.client import KubeClient
from maestro.kube.errors import KubeError
from maestro.kube.kinds import DEPLOYMENT, SECRET, SERVICE_ACCOUNT, ObjectKey
from maestro.kube.pods import PodWatch
from maestro.resources import names
from maestro.runs.company import pod_loads
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.controller import Controller
from maestro.runtime.tasks import run_until, sleep_unless
from maestro.runtime.workqueue import WorkQueue
from maestro.settings import Settings
from maestro.workload.follower import JobFollower
from maestro.workload.launcher import KubeJobLauncher
from maestro.workload.merge import table_of
from maestro.workload.pod import BrokerAddress, Installation

log = logging.getLogger(__name__)

_MANAGED = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
_SYNC_POLL = 0.05


class Feed(Protocol):
    """Where the Automations come from: a cache that somebody feeds, and the keys of what changed."""

    @property
    def cache(self) -> ObjectCache: ...
    @property
    def queue(self) -> WorkQueue[ObjectKey]: ...


@dataclass(slots=True)
class _Late:
    """What is known only after everything was put together."""

    epoch: Callable[[], int | None] = lambda: None
    lost: Callable[[str], None] = lambda _queue: None


class Automations:
    """The controller of Automations; `run` it while this process leads.

    Attributes
    ----------
    launcher
        Makes the Jobs of Runs, for the dispatcher.
    broker
        The broker as the Automations see it; `broker.problem()` is for readiness.
    reconciler, reaper, follower
        The parts, for tests.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        kube: KubeClient,
        making: KubeClient | None,
        store: RunStore,
        admin: BrokerAdmin,
        management: ManagementClient,
        feed: Feed,
        blocked_by: BlockedBy,
        clock: Clock,
        workers: int,
    ) -> None:
        self._kube, self._feed, self._settings = kube, feed, settings
        self._late = _Late()
        self._loop: asyncio.AbstractEventLoop | None = None
        namespaces = settings.watch_namespaces or None
        wake = feed.queue.add
        self._pods = PodWatch(
            kube, namespaces=namespaces, label_selector=names.LABEL_AUTOMATION, on_end=lambda end: self._ends.add(end)
        )
        self._deployments, self._accounts = (
            watch_children(
                kube,
                kind,
                namespaces=namespaces,
                label_selector=_MANAGED,
                to_key=owner_by_label(names.LABEL_AUTOMATION),
                wake=wake,
            )
            for kind in (DEPLOYMENT, SERVICE_ACCOUNT)
        )
        installation = Installation(
            api_url=settings.api_url,
            audience=settings.token_audience,
            image=settings.image,
            broker=BrokerAddress(admin.host, admin.port, admin.vhost),
        )
        self.claims = Claims(wake)
        feed.cache.observe(self.claims.changed)
        self.broker = BrokerWatch(
            management,
            self.claims,
            clock=clock,
            on_recovery=self._wake_all,
            on_lost=lambda queue: self._late.lost(queue),
            tell=self._tell_installation,
        )
        self.store = StoreWatch(store, clock=clock, epoch=self._epoch, on_recovery=self._wake_all)
        self.reaper = Reaper(
            kube, feed.cache, store, self.broker, management, self.claims, clock=clock, epoch=self._epoch
        )
        gone_by(feed.cache, self.reaper.wake)
        pods = PodIndex(self._pods.cache, lambda key: feed.queue.add_after(key, 0.5))
        self.busy = BusyPods(
            kube,
            pods.everything,
            lambda automation: store.read(lambda transaction: pod_loads(transaction, automation)),
            clock=clock,
        )
        self.reconciler = AutomationReconciler(
            kube,
            feed.cache,
            deployments=self._deployments,
            accounts=self._accounts,
            pods=pods,
            busy=self.busy,
            broker=self.broker,
            store=self.store,
            claims=self.claims,
            installation=lambda: installation,
            blocked_by=blocked_by,
            on_gone=lambda _key: self.reaper.wake(),
            clock=clock,
            resync_seconds=settings.resync_seconds,
        )
        self.launcher = KubeJobLauncher(making or kube, feed.cache, installation, lambda: self.reconciler.table)
        self.follower = JobFollower(
            kube, store, feed.cache, self._pods.cache, namespaces=namespaces, clock=clock, epoch=self._epoch
        )
        self._ends = PodEnds(store, self.store, feed.cache, epoch=self._epoch)
        self._controller = Controller(
            "automation", feed.queue, self.reconciler.reconcile, workers=workers, expected=(KubeError,)
        )
        # Pods that scaled themselves away are wanted as soon as there is work.
        store.on_work(self._on_work(store))

    def on_queue_lost(self, lost: Callable[[str], None]) -> None:
        """Call `lost` with the name of each queue that had to be declared anew."""
        self._late.lost = lost

    def gateway_moved(self, solution_id: str) -> None:
        """Look at the Automations of a Solution whose gateway was shut or opened."""
        for obj in self._feed.cache.values(solution_id.partition(".")[0]):
            if (obj["spec"].get("solution") or obj["metadata"]["namespace"]) == solution_id.partition(".")[2]:
                self._feed.queue.add(key_of(obj))

    def fenced_by(self, epoch: Callable[[], int | None]) -> None:
        """Carry this epoch in every write to the run store."""
        self._late.epoch = epoch

    @property
    def synced(self) -> bool:
        """Whether everything that a decision rests on was listed once."""
        caches = (self._feed.cache, self._deployments.cache, self._accounts.cache, self._pods.cache)
        return all(cache.synced for cache in caches)

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until `stop` is set."""
        await run_until(
            stop,
            self._deployments.run(stop),
            self._accounts.run(stop),
            self._pods.run(stop),
            self.follower.run(stop),
            self._ends.run(stop),
            self._work(stop),
            grace=10.0,
        )

    async def _work(self, stop: asyncio.Event) -> None:
        """Begin when everything was listed once: half a world would be repaired into something else."""
        self._loop = asyncio.get_running_loop()
        while not self.synced:
            if await sleep_unless(stop, _SYNC_POLL):
                return
        await self._read_merge_rules()
        await run_until(
            stop,
            self._controller.run(stop),
            self.reaper.run(stop),
            self.broker.run(stop),
            self.busy.run(stop),
            grace=10.0,
        )

    async def _read_merge_rules(self) -> None:
        try:
            self.reconciler.table = table_of(await self._kube.openapi("apis/apps/v1"))
        except (KubeError, ValueError) as error:
            log.warning("the API server's merge rules can't be read, the built-in ones are used: %s", error)

    def _epoch(self) -> int | None:
        return self._late.epoch()

    def _wake_all(self) -> None:
        for key in self._feed.cache.keys():  # noqa: SIM118 - a method of the cache
            self._feed.queue.add(key)

    async def _tell_installation(self, text: str) -> None:
        """Tell of a repair that concerns every Automation where the installation's broker is described."""
        namespace, name = self._settings.namespace, self._settings.broker_secret
        try:
            secret = await self._kube.get(SECRET, namespace, name)
        except KubeError as error:
            log.warning("%s (no Event: %s)", text, error)
            return
        secret.pop("data", None)
        await self._kube.event(
            {"apiVersion": "v1", "kind": "Secret", **secret}, type="Warning", reason="Repaired", message=text
        )

    def _on_work(self, store: RunStore) -> Callable[[frozenset[int]], None]:
        def heard(keys: frozenset[int]) -> None:
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._wake_autoscaled, store, keys)

        return heard

    def _wake_autoscaled(self, store: RunStore, keys: frozenset[int]) -> None:
        registrations = store.registrations()
        for found in filter(None, map(registrations.get, keys)):
            obj = self._feed.cache.get(found.namespace, found.name)
            if obj is not None and (obj["spec"].get("worker") or {}).get("autoscaling") is not None:
                self._feed.queue.add_after(ObjectKey(found.namespace, found.name), 2.0)


def build(
    *,
    settings: Settings,
    kube: KubeClient,
    making: KubeClient | None = None,
    store: RunStore,
    admin: BrokerAdmin,
    management: ManagementClient,
    feed: Feed,
    blocked_by: BlockedBy = lambda _solution: None,
    clock: Clock = utcnow,
    workers: int = 8,
) -> Automations:
    """Put the controller of Automations together.

    Parameters
    ----------
    making
        The client that Jobs are made with: one without a rate of its own goes as fast as the API server lets it.
    admin, management
        The broker's address and its management API.
    feed
        The Automations; somebody else feeds its cache.
    blocked_by
        Which Reprocessing shuts the gateway of a Solution (by its id); None: nothing does.
    workers
        How many Automations are reconciled at a time.
    """
    return Automations(
        settings=settings,
        kube=kube,
        making=making,
        store=store,
        admin=admin,
        management=management,
        feed=feed,
        blocked_by=blocked_by,
        clock=clock,
        workers=workers,
    )
