"""Composition root: settings → Kubernetes client, run store, broker → the roles of this process → run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, TypeVar

import pika
import uvicorn
import uvloop
from starlette.types import ASGIApp

from maestro import __version__, handlers
from maestro.automation import wiring
from maestro.automation.adminwatch import AdminWatch
from maestro.automation.installation import BrokerAdmin, InvalidBrokerSecret, broker_admin
from maestro.automation.notifier import Notifier
from maestro.broker import connection as amqp
from maestro.broker.consumer import Consumer
from maestro.broker.management import ManagementClient
from maestro.broker.publisher import Publisher
from maestro.broker.topology import DEAD_LETTER_QUEUE
from maestro.http.app import Services, create_app, create_gateway_app
from maestro.http.auth import ApiKey, Authenticator
from maestro.http.directory import CacheCatalog
from maestro.http.errors import HttpError
from maestro.http.logins.service import Logins
from maestro.http.objects import Objects
from maestro.http.owners import KubePodOwners
from maestro.http.server import server_config
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient, Rate
from maestro.kube.errors import KubeError
from maestro.kube.informer import Informer
from maestro.kube.kinds import AUTOMATION, REPROCESSING, SCHEDULE, Kind
from maestro.kube.lease import lease_connector
from maestro.reprocessing.wiring import Reprocessings
from maestro.runs.collector import DeadLetterCollector
from maestro.runs.deadletters import DeadLetters
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.errors import StoreUnavailable
from maestro.runs.replays import Replays
from maestro.runs.store import RunStore
from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import utcnow
from maestro.runtime.health import Health
from maestro.runtime.leader import LeaderElector, process_identity
from maestro.runtime.logging import configure
from maestro.runtime.tasks import run_until, sleep_unless
from maestro.runtime.workqueue import WorkQueue
from maestro.schedule.wiring import Schedules
from maestro.settings import Settings
from maestro.workload.gateways import Gateways

log = logging.getLogger(__name__)

T = TypeVar("T")

KINDS: tuple[Kind, ...] = (AUTOMATION, SCHEDULE, REPROCESSING)


class Feeds(NamedTuple):
    """What kopf feeds in a controller: a cache and a queue for each kind."""

    automations: handlers.Feed
    schedules: handlers.Feed
    reprocessings: handlers.Feed


class Caches(NamedTuple):
    """The custom resources as the API server holds them."""

    automations: ObjectCache
    schedules: ObjectCache
    reprocessings: ObjectCache

    @property
    def synced(self) -> bool:
        """Whether each kind was listed once."""
        return all(cache.synced for cache in self)


UNLIMITED = 1_000_000
STORE_CHECK_SECONDS = 10.0
SYNC_POLL_SECONDS = 0.05
RETENTION_SECONDS = 60.0
SWITCH_SECONDS = 0.0005
"""The store's writer gives the interpreter's lock away at each statement, and gets it back only after so long while the
loop is busy: Python's own 5 ms are ten times a statement."""


def run(settings: Settings) -> int:
    """Run the roles of `settings` until SIGTERM or SIGINT; returns the process's exit code."""
    configure(settings.log_level, settings.log_format)
    metrics.BUILD_INFO.labels(version=__version__).set(1)
    log.info("maestro %s, role %s", __version__, settings.role)
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings))
    return 0


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    health = Health()
    kube = await KubeClient.connect(rate=Rate(qps=settings.kube_qps, burst=settings.kube_burst))
    try:
        process = Process(settings, kube, health, stop)
        await run_until(stop, _serve(health, "0.0.0.0", settings.metrics_port, stop), process.run(), grace=25.0)  # noqa: S104
    finally:
        await kube.close()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


class Process:
    """The roles of one process over one run store.

    Every outage is waited out: store, broker or API server away show in readiness and conditions, and end nothing.
    """

    def __init__(self, settings: Settings, kube: KubeClient, health: Health, stop: asyncio.Event) -> None:
        self._settings = settings
        self._kube = kube
        self._health = health
        self._stop = stop
        self._store_problem: str | None = "not opened yet"

    async def run(self) -> None:
        """Open the store and run the roles until told to stop."""
        self._health.add("store", lambda: self._store_problem)
        store = await self._insist("the run store", self._open_store, StoreUnavailable)
        if store is None:
            return
        # What is loaded by now stays for good. Left in, every full collection would walk all of it, some 60 ms in the
        # middle of a dispatch; together a fifth of what accepting and publishing a Run costs.
        gc.collect()
        gc.freeze()
        try:
            await self._run_roles(store)
        finally:
            await store.close()

    async def _run_roles(self, store: RunStore) -> None:
        settings = self._settings
        namespaces = settings.watch_namespaces or None
        roles = [self._watch_store(store)]
        feeds: Feeds | None = None
        if settings.role == "api":
            caches = Caches(*(ObjectCache(kind, namespaces=namespaces) for kind in KINDS))
            roles += [
                Informer(self._kube, kind, cache, namespaces=namespaces).run(self._stop)
                for kind, cache in zip(KINDS, caches, strict=True)
            ]
        else:
            feeds = Feeds(*(handlers.Feed(kind, WorkQueue(kind.kind.lower()), namespaces=namespaces) for kind in KINDS))
            caches = Caches(*(feed.cache for feed in feeds))
            roles.append(self._run_kopf(list(feeds)))
        gateways = Gateways(caches.reprocessings)
        self._health.add("kubernetes", lambda: None if caches.synced else "the resources aren't listed yet")
        if feeds is not None:
            roles.append(self._lead(store, feeds, gateways))
        if settings.role != "controller":
            roles.append(self._serve_api(store, caches, gateways))
        await run_until(self._stop, *roles, grace=20.0)

    # -- the run store

    async def _open_store(self) -> RunStore:
        store = await asyncio.to_thread(RunStore.open, self._settings.store())
        self._store_problem = None
        return store

    async def _watch_store(self, store: RunStore) -> None:
        while not self._stop.is_set():
            problem = await _store_problem(store)
            if problem != self._store_problem:
                log.log(logging.ERROR if problem else logging.INFO, "run store: %s", problem or "answers again")
            self._store_problem = problem
            metrics.UP.labels(dependency="store").set(problem is None)
            await sleep_unless(self._stop, STORE_CHECK_SECONDS)

    async def _retain(self, store: RunStore, dispatcher: Dispatcher) -> None:
        """Delete what `history` no longer keeps, a small batch at a time."""
        letters = DeadLetters(store)
        while not await sleep_unless(self._stop, RETENTION_SECONDS):
            leadership, more = dispatcher.leadership, 1
            try:
                while leadership and more and not self._stop.is_set():
                    more = await store.prune(utcnow(), epoch=leadership.epoch)
                    more += await letters.prune(utcnow(), epoch=leadership.epoch)
            except StoreUnavailable as error:
                log.warning("retention waits: %s", error)

    # -- the HTTP API

    async def _serve_api(self, store: RunStore, caches: Caches, gateways: Gateways) -> None:
        settings = self._settings
        key = ApiKey(settings.worker_api_key_file) if settings.worker_api_key_file else None
        # A client of its own: whoever tries bad tokens must not use up what the controllers may ask.
        reviews = await KubeClient.connect(rate=Rate(qps=settings.kube_qps, burst=settings.kube_burst))
        secret = settings.users_secret
        logins = Logins.of_secret(self._kube, settings.namespace, secret) if secret else None
        services = Services(
            store=store,
            catalog=CacheCatalog(caches.automations),
            automations=caches.automations,
            schedules=caches.schedules,
            reprocessings=caches.reprocessings,
            authenticator=Authenticator(
                reviews, KubePodOwners(reviews), audience=settings.token_audience, api_key=key, logins=logins
            ),
            objects=Objects(self._kube, dict(zip(KINDS, caches, strict=True))),
            settings=settings,
            gateway=gateways,
            stopping=self._stop,
            logins=logins,
        )
        try:
            await run_until(
                self._stop,
                self._begin_logins(logins),
                _serve(create_app(services), settings.http_host, settings.http_port, self._stop),
                _serve(create_gateway_app(services), settings.http_host, settings.gateway_port, self._stop),
                grace=15.0,
            )
        finally:
            await reviews.close()

    async def _begin_logins(self, logins: Logins | None) -> None:
        """Make the first login where there is none yet, so that its password can be read before anybody calls."""
        if logins is not None:
            await self._insist("the logins", logins.users.book, HttpError)
        await self._stop.wait()

    # -- the controller

    async def _run_kopf(self, feeds: list[handlers.Feed]) -> None:
        await handlers.run_kopf(
            self._kube,
            feeds,
            stop=self._stop,
            namespaces=self._settings.watch_namespaces,
            after_spawn=lambda: _stop_on_signals(self._stop),
        )

    async def _lead(self, store: RunStore, feeds: Feeds, gateways: Gateways) -> None:
        """Do the controller's work; where several could, only once elected.

        A process with all roles is the one pod of a StatefulSet: it needs no Lease, and outlives an API server that
        is away. (The store's epoch fences whatever a predecessor still tries.)
        """
        settings = self._settings
        if settings.role == "all":
            metrics.LEADER.set(1)
            await self._control(store, feeds, gateways)
            return
        elected = asyncio.Event()
        loop = asyncio.get_running_loop()
        elector = LeaderElector(
            lease_connector(settings.namespace, settings.release),
            process_identity(settings.identity),
            lambda: _set_in(loop, elected),
        )
        elector.start()
        try:
            await run_until(self._stop, _wait(elected))
            if not self._stop.is_set():
                await self._control(store, feeds, gateways)
        finally:
            await asyncio.to_thread(elector.stop)

    async def _control(self, store: RunStore, feeds: Feeds, gateways: Gateways) -> None:
        admin = await self._insist("the broker's Secret", self._broker_admin, KubeError, InvalidBrokerSecret)
        if admin is None:
            return
        watch = AdminWatch(
            self._broker_admin,
            admin,
            every=self._settings.resync_seconds,
            on_change=lambda found: management.authenticate(found.username, found.password),
        )

        def broker() -> pika.ConnectionParameters:
            found = watch.current
            return amqp.parameters(found.host, found.port, found.vhost, found.username, found.password)

        # Without a rate of its own: Jobs are made as fast as the API server takes them, and its 429 says when not.
        making = await KubeClient.connect(rate=Rate(qps=UNLIMITED, burst=UNLIMITED, retries=0))
        publisher = Publisher(broker, observe=metrics.CONFIRM_SECONDS.observe)
        consumer = Consumer(broker, DEAD_LETTER_QUEUE)
        async with ManagementClient(admin.management_url, admin.username, admin.password, admin.vhost) as management:
            automations = wiring.build(
                settings=self._settings,
                kube=self._kube,
                making=making,
                store=store,
                admin=admin,
                management=management,
                feed=feeds.automations,
                blocked_by=gateways.blocked_by,
            )
            dispatcher = Dispatcher(
                store, publisher, automations.launcher, gateway=gateways.shut, observe=_count_dispatched
            )
            epoch = _epoch_of(dispatcher)
            reprocessings = Reprocessings(
                kube=self._kube,
                area=Replays(store, epoch),
                feed=feeds.reprocessings,
                automations=feeds.automations.cache,
                gateways=gateways,
                dispatcher=dispatcher,
                leads=lambda: epoch() is not None,
            )
            gateways.on_change(dispatcher.gateway_moved)
            gateways.on_change(automations.gateway_moved)
            automations.on_queue_lost(dispatcher.lost)
            automations.fenced_by(epoch)
            schedules = Schedules(
                kube=self._kube,
                store=store,
                feed=feeds.schedules,
                automations=feeds.automations.cache,
                jobs=automations.follower.watch.cache,
                epoch=epoch,
                gateway=gateways.shut,
                busy=lambda: dispatcher.in_flight,
            )
            gateways.on_change(schedules.gateway_moved)
            collector = DeadLetterCollector(DeadLetters(store), consumer, lambda: dispatcher.leadership)
            secrets = self._settings.notification_secrets
            notifier = Notifier(self._kube, store, feeds.automations.cache, secrets, epoch)
            publisher.start()
            consumer.start()
            try:
                await run_until(
                    self._stop,
                    self._dispatch(dispatcher, gateways),
                    collector.run(self._stop),
                    automations.run(self._stop),
                    reprocessings.run(self._stop),
                    schedules.run(self._stop),
                    watch.run(self._stop),
                    notifier.run(self._stop),
                    self._retain(store, dispatcher),
                    grace=10.0,
                )
            finally:
                await asyncio.gather(asyncio.to_thread(consumer.stop), asyncio.to_thread(publisher.stop))
                await making.close()

    async def _dispatch(self, dispatcher: Dispatcher, gateways: Gateways) -> None:
        """Dispatch once it is known which gateways are shut: before, what must wait would go."""
        while not gateways.synced:
            if await sleep_unless(self._stop, SYNC_POLL_SECONDS):
                return
        await dispatcher.run(self._stop)

    async def _broker_admin(self) -> BrokerAdmin:
        return await broker_admin(self._kube, self._settings)

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]], *outages: type[Exception]) -> T | None:
        """Try until it works; None when told to stop before."""
        backoff, failures = Backoff(initial=0.5, maximum=15.0), 0
        while not self._stop.is_set():
            try:
                return await attempt()
            except outages as error:
                failures += 1
                log.warning("%s: %s; trying again", what, error)
            await sleep_unless(self._stop, backoff.delay(failures))
        return None


async def _store_problem(store: RunStore) -> str | None:
    """What is wrong with the store; where nothing is, it learns what other replicas wrote of Automations."""
    problem = await store.ping()
    if problem is None:
        try:
            await store.refresh()
        except StoreUnavailable as error:
            problem = str(error)
    return problem


def _epoch_of(dispatcher: Dispatcher) -> Callable[[], int | None]:
    """The epoch that was won; None before."""
    return lambda: dispatcher.leadership.epoch if dispatcher.leadership else None


def _count_dispatched(result: str, count: int) -> None:
    metrics.DISPATCHED.labels(result=result).inc(count)


def _set_in(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set an event from another thread."""
    loop.call_soon_threadsafe(event.set)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(app: ASGIApp, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve an application until `stop` is set; requests under way are finished."""
    server = _Server(server_config(app, host, port))
    serving = asyncio.create_task(server.serve())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopped.cancel()
        serving.cancel()
