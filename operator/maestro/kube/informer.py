"""List and watch: keeps a cache equal to what the API server has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.client import WATCH_SILENCE, KubeClient
from maestro.kube.errors import Expired, Forbidden, KubeError
from maestro.kube.kinds import Kind
from maestro.kube.namespaces import is_absent
from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff, jittered
from maestro.runtime.tasks import run_until

log = logging.getLogger(__name__)

# The server's own limit for a watch is half an hour or more; shorter ones spread over the replicas of an API server.
WATCH_SECONDS = 290

# Seconds between two watches, whatever ended the first: a server that ends them at once isn't flooded.
BETWEEN_WATCHES = 0.2


class Informer:
    """Feeds a cache: a list, then a watch from its resourceVersion, and a new list when that is too old.

    Parameters
    ----------
    namespaces
        Each of these is listed and watched by itself, so that rights in them are enough; None: the whole cluster.
    label_selector, field_selector
        What the API server is asked to leave out.
    silence
        Seconds without even a bookmark after which a watch is taken for dead.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        cache: ObjectCache,
        *,
        namespaces: Sequence[str] | None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        backoff: Backoff | None = None,
        silence: float = WATCH_SILENCE,
    ) -> None:
        if set(namespaces or ()) != set(cache.namespaces or ()):
            raise ValueError("the cache was made for other namespaces than the informer")
        self._client = client
        self._kind = kind
        self._cache = cache
        self._namespaces = namespaces
        self._labels = label_selector
        self._fields = field_selector
        self._backoff = backoff or Backoff(initial=0.5, maximum=30.0)
        self._silence = silence

    async def run(self, stop: asyncio.Event) -> None:
        """Feed the cache until `stop` is set. Outages of the API server are waited out."""
        await run_until(stop, *(self._feed(namespace) for namespace in self._namespaces or (None,)))

    async def _feed(self, namespace: str | None) -> None:
        version: str | None = None
        failures = 0
        while True:
            try:
                if version is None:
                    version = await self._list(namespace)
                    failures = 0
                version = await self._watch(namespace, version)
                failures, why = 0, "ended"
            except Expired:
                # The first is routine; should the new list be too old at once again, the backoff sets in.
                version, why = None, "expired"
                failures += 1
            except _WatchBroken as broken:
                version, why = broken.version, "broken"
                failures = 1 if broken.was_heard else failures + 1
                self._tell(namespace, failures, broken.cause)
            except KubeError as error:
                version, why = None, "refused" if error.status else "unavailable"
                failures += 1
                if isinstance(error, Forbidden) and await is_absent(self._client, namespace):
                    self._cache.replace([], namespace=namespace)
                    why = "absent"
                self._tell(namespace, failures, error)
            metrics.WATCH_RESTARTS.labels(kind=self._kind.kind, why=why).inc()
            await asyncio.sleep(max(self._backoff.delay(failures), jittered(BETWEEN_WATCHES, 0.5)))

    async def _list(self, namespace: str | None) -> str:
        objects, version = await self._client.list(
            self._kind, namespace, label_selector=self._labels, field_selector=self._fields, timeout=30.0
        )
        objects = [without_bookkeeping(obj) for obj in objects]
        pruned = self._cache.replace(objects, resource_version=version, namespace=namespace)
        log.info("%s: listed %d, pruned %d", self._name(namespace), len(objects), len(pruned))
        return version

    async def _watch(self, namespace: str | None, version: str) -> str:
        """Follow the changes; the resourceVersion to go on from when the server has ended the watch."""
        heard = False
        try:
            async for type_, obj in self._client.watch(
                self._kind,
                namespace,
                resource_version=version,
                timeout_seconds=int(jittered(WATCH_SECONDS)),
                label_selector=self._labels,
                field_selector=self._fields,
                silence=self._silence,
            ):
                heard = True
                self._cache.heard(namespace)
                meta = obj.get("metadata") or {}
                if type_ in ("ADDED", "MODIFIED"):
                    self._cache.upsert(without_bookkeeping(obj))
                elif type_ == "DELETED":
                    self._cache.remove(
                        str(meta.get("namespace") or ""),
                        str(meta["name"]),
                        uid=meta.get("uid"),
                        resource_version=meta.get("resourceVersion"),
                    )
                version = str(meta.get("resourceVersion") or version)
        except (Expired, Forbidden):
            raise
        except KubeError as error:
            raise _WatchBroken(version, heard, error) from error
        return version

    def _tell(self, namespace: str | None, failures: int, error: BaseException) -> None:
        # A watch that breaks once is everyday; a row of failures is an outage.
        level = logging.WARNING if failures > 1 else logging.INFO
        log.log(level, "%s: %s", self._name(namespace), error)

    def _name(self, namespace: str | None) -> str:
        return f"{self._kind.plural} in {namespace}" if namespace else self._kind.plural


class _WatchBroken(Exception):  # noqa: N818 - not an error to anyone outside
    """A watch that ended otherwise than by the server's will, with the place to go on from."""

    def __init__(self, version: str, was_heard: bool, cause: KubeError) -> None:
        super().__init__(str(cause))
        self.version = version
        self.was_heard = was_heard
        self.cause = cause
