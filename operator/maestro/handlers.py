"""Kopf: watches the custom resources. Every handler only puts what it saw in a cache and, if need be, a key on a queue.

Kopf writes nothing: no finalizers, no annotations, no progress, no Events, no peering. What it can't do is done here:
a list from time to time, which finds deletions that a watch has missed; a start that waits for the resources'
definitions; and a new start after whatever ended it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import aiohttp
import kopf

from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.client import KubeClient
from maestro.kube.credentials import Credentials
from maestro.kube.errors import Forbidden, KubeError
from maestro.kube.filters import wakes_primary
from maestro.kube.kinds import Kind, ObjectKey
from maestro.kube.namespaces import is_absent
from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff, jittered
from maestro.runtime.tasks import run_until, sleep_unless
from maestro.runtime.workqueue import WorkQueue

log = logging.getLogger(__name__)

# Seconds between two looks whether the API server answers: kopf keeps the bookmarks of its watches to itself.
HEARTBEAT = 25.0


class Feed:
    """Where the events of one kind go: the cache, and the keys of what changed to the queue.

    Parameters
    ----------
    namespaces
        The watched namespaces, each by itself; none or None: the whole cluster.
    """

    def __init__(self, kind: Kind, queue: WorkQueue[ObjectKey], *, namespaces: Sequence[str] | None = None) -> None:
        self.kind = kind
        self.queue = queue
        self.cache = ObjectCache(kind, namespaces=namespaces or None)
        self.cache.observe(self._on_change)

    def event(self, type_: str | None, obj: dict[str, Any]) -> None:
        """Take in what a watch (or, with None for a type, a list) has shown."""
        meta = obj["metadata"]
        namespace = str(meta.get("namespace") or "")
        if type_ == "DELETED":
            version = meta.get("resourceVersion")
            self.cache.remove(namespace, str(meta["name"]), uid=meta.get("uid"), resource_version=version)
        else:
            self.cache.upsert(without_bookkeeping(obj))
        self.cache.heard(namespace)

    async def relist(self, client: KubeClient, *, spread: float) -> None:
        """Make the cache equal to a whole list, and put every key on the queue within `spread` seconds.

        What the list shows to have changed or gone is put there at once. Raises `KubeError`.
        """
        for namespace in self.cache.namespaces or (None,):
            try:
                objects, version = await client.list(self.kind, namespace, timeout=30.0)
            except Forbidden:
                if not await is_absent(client, namespace):
                    raise
                # Kopf goes on trying to watch it, and so finds it when it comes to be.
                log.warning("namespace %s isn't there", namespace)
                self.cache.replace([], namespace=namespace)
                continue
            listed = [without_bookkeeping(obj) for obj in objects]
            pruned = self.cache.replace(listed, resource_version=version, namespace=namespace)
            if pruned:
                log.warning("%s: %d were gone without a word of the watch", self.kind.plural, len(pruned))
        for key in self.cache.keys():  # noqa: SIM118 - a method of the cache
            self.queue.add_after(key, random.uniform(0.0, spread))  # noqa: S311 - spreads load, keeps no secret

    async def heartbeat(self, client: KubeClient) -> None:
        """Note that the API server answers for every namespace. Raises `KubeError`."""
        for namespace in self.cache.namespaces or (None,):
            try:
                await client.probe(self.kind, namespace)
            except Forbidden:
                if not await is_absent(client, namespace):
                    raise
            self.cache.heard(namespace)

    def _on_change(self, key: ObjectKey, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if wakes_primary(old, new):
            self.queue.add(key)


def register(registry: kopf.OperatorRegistry, feeds: Collection[Feed]) -> None:
    """Register a handler of events for each kind."""
    for feed in feeds:
        kopf.on.event(
            feed.kind.group,
            feed.kind.version,
            feed.kind.plural,
            id=f"{feed.kind.plural}-event",
            registry=registry,
        )(_handler(feed))


def _handler(feed: Feed) -> Callable[..., Any]:
    async def on_event(event: Any, **_: Any) -> None:
        feed.event(event["type"], event["object"])

    return on_event


class KopfRunner:
    """Kopf inside the running loop, for as long as Maestro runs.

    Parameters
    ----------
    namespaces
        The watched namespaces; none: the whole cluster.
    relist_seconds
        About so often the caches are compared with a whole list.
    after_spawn
        Called each time after kopf has started. It takes SIGINT and SIGTERM for itself: put your handlers back here.
    """

    def __init__(
        self,
        client: KubeClient,
        feeds: Sequence[Feed],
        *,
        namespaces: Sequence[str] = (),
        relist_seconds: float = 300.0,
        after_spawn: Callable[[], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._feeds = feeds
        self._namespaces = tuple(namespaces)
        self._relist_seconds = relist_seconds
        self._after_spawn = after_spawn
        self._backoff = backoff or Backoff(initial=1.0, maximum=30.0)
        self._listed = asyncio.Event()
        self._watching = False

    async def run(self, stop: asyncio.Event) -> None:
        """Feed the caches until `stop` is set; outages, and resources that aren't defined yet, are waited out."""
        await run_until(stop, self._relist(stop), self._heartbeat(stop), self._keep_watching(stop), grace=15.0)

    async def _relist(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                for feed in self._feeds:
                    # The first list is the start: everything is due now. Later ones only make sure.
                    await feed.relist(self._client, spread=self._relist_seconds if self._listed.is_set() else 0.0)
                failures = 0
                self._listed.set()
            except KubeError as error:
                failures += 1
                log.warning("the resources can't be listed: %s", error)
            pause = self._backoff.delay(failures) if failures else jittered(self._relist_seconds, 0.2)
            await sleep_unless(stop, pause)

    async def _heartbeat(self, stop: asyncio.Event) -> None:
        while not await sleep_unless(stop, jittered(HEARTBEAT, 0.1)):
            if not self._watching:
                continue
            try:
                for feed in self._feeds:
                    await feed.heartbeat(self._client)
            except KubeError as error:
                log.warning("the API server doesn't answer: %s", error)

    async def _keep_watching(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            # Kopf looks for the resources once, at its start: they must be there by then.
            await _either(stop, self._listed)
            if stop.is_set():
                return
            begun = asyncio.get_running_loop().time()
            try:
                await self._watch(stop)
            except Exception as error:
                log.warning("kopf ended and is started again: %s: %s", type(error).__name__, error)
            else:
                if not stop.is_set():
                    log.warning("kopf ended and is started again")
            if stop.is_set():
                return
            metrics.WATCH_RESTARTS.labels(kind="kopf", why="broken").inc()
            lasted = asyncio.get_running_loop().time() - begun
            failures = 1 if lasted > 60.0 else failures + 1
            await sleep_unless(stop, self._backoff.delay(failures))

    async def _watch(self, stop: asyncio.Event) -> None:
        registry = kopf.OperatorRegistry()
        register(registry, self._feeds)
        _register_login(registry, self._client.credentials)
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=kopf_settings(),
            memo=kopf.Memo(),
            # Its own name for itself is made of the user's, which an arbitrary uid of a pod doesn't have.
            identity=cast(Any, "maestro"),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
        )
        if self._after_spawn is not None:
            self._after_spawn()
        self._watching = True
        try:
            await kopf.run_tasks(tasks, ignored=_Everything())
        finally:
            self._watching = False


async def run_kopf(
    client: KubeClient,
    feeds: Sequence[Feed],
    *,
    stop: asyncio.Event,
    namespaces: Sequence[str] = (),
    relist_seconds: float = 300.0,
    after_spawn: Callable[[], None] | None = None,
) -> None:
    """Feed the caches and queues until `stop` is set; see `KopfRunner`."""
    runner = KopfRunner(client, feeds, namespaces=namespaces, relist_seconds=relist_seconds, after_spawn=after_spawn)
    await runner.run(stop)


def kopf_settings() -> kopf.OperatorSettings:
    """Kopf as a mere watcher, which writes nothing and looks for nothing but what it was told."""
    settings = kopf.OperatorSettings()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    settings.queueing.worker_limit = None
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 290
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.networking.error_backoffs = _Forever(1.0, 30.0)
    # Otherwise kopf arms a timer at its end that kills the process ten minutes later.
    settings.process.ultimate_exiting_timeout = None
    return settings


def _register_login(registry: kopf.OperatorRegistry, credentials: Credentials) -> None:
    calls = itertools.count()

    async def login(**_: Any) -> kopf.AiohttpSession:
        # Kopf logs in again when it is answered 401. If that goes on, not in a loop without pauses.
        if next(calls):
            credentials.expire()
            await asyncio.sleep(jittered(2.0, 0.5))
        return kopf.AiohttpSession(server=credentials.server, aiohttp_session=_session(credentials))

    kopf.on.login(id="credentials", registry=registry, retries=None)(login)


def _session(credentials: Credentials) -> aiohttp.ClientSession:
    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # At each request, as the token in the file changes.
        request.headers.update(await credentials.headers())
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=credentials.ssl_context()),
        headers={"User-Agent": "maestro/kopf"},
        middlewares=(authorize,),
        proxy=credentials.proxy,
        trust_env=True,
    )


class _NoProgress(kopf.ProgressStorage):
    """Keeps nothing: there are only handlers of events, which have no progress."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing, and computes no differences: nobody asks for them."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _Forever:
    """Waits between the attempts of a request, without end: kopf gives up, and ends, when there are no more."""

    def __init__(self, initial: float, maximum: float) -> None:
        self._backoff = Backoff(initial=initial, maximum=maximum)

    def __iter__(self) -> Iterator[float]:
        return (self._backoff.delay(attempt) for attempt in itertools.count(1))


class _Everything(Collection[Any]):
    """Contains everything: kopf would cancel at its end every task that it doesn't find here, Maestro's too."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
