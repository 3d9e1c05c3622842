"""The HTTP API on a loopback port, in a loop and thread of its own; all behind it is real but the API server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import urllib3
import uvicorn
from starlette.types import ASGIApp
from tests.integration.http.objects import MemoryObjects

from maestro.http.app import Services, create_app
from maestro.http.auth import ApiKey, Authenticator, Owner
from maestro.http.directory import CacheCatalog
from maestro.http.gateway import Gateway, OpenGateway
from maestro.http.logins.service import Logins
from maestro.http.objects import Objects
from maestro.http.server import server_config
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.errors import Unavailable
from maestro.kube.informer import Informer
from maestro.kube.kinds import AUTOMATION, REPROCESSING, SCHEDULE, Kind
from maestro.resources import Automation
from maestro.runs.registration import registration_of
from maestro.runs.store import RunStore
from maestro.settings import Settings

T = TypeVar("T")
API_KEY = "the-shared-key-of-workers"


class Loop:
    """An event loop in a thread, for what must live in one loop: the store and the server."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="api", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 60) -> T:
        """Run a coroutine there and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Server:
    """A uvicorn server of an application on a free loopback port."""

    def __init__(self, loop: Loop, app: ASGIApp) -> None:
        self._loop = loop
        self._server = uvicorn.Server(server_config(app, "127.0.0.1", 0))
        self._done = asyncio.run_coroutine_threadsafe(self._server.serve(), loop.loop)
        loop.run(self._started())
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]

    async def _started(self) -> None:
        async with asyncio.timeout(30):
            while not self._server.started:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._done.result(30)


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """The API, its store and its catalog, and a client of it."""

    def __init__(
        self,
        folder: Path,
        connect: Callable[[Logins | None], Coroutine[Any, Any, tuple[KubeClient, Authenticator]]] | None = None,
        *,
        gateway: Gateway | None = None,
        writer: Callable[[], Coroutine[Any, Any, KubeClient]] | None = None,
        **settings: Any,
    ) -> None:
        """`writer` writes custom resources, and what it may read is watched; without it they are kept in memory."""
        self.loop = Loop()
        self.cluster = FakeCluster()
        self.store: RunStore = RunStore.open(f"sqlite:///{folder}/maestro.db")
        key = folder / "worker-api-key"
        key.write_text(API_KEY)
        self.settings = Settings(**{"namespace": "team", **settings})
        namespaces = self.settings.watch_namespaces or None
        self._caches = {kind: ObjectCache(kind, namespaces=namespaces) for kind in (AUTOMATION, SCHEDULE, REPROCESSING)}
        for cache in self._caches.values():
            cache.replace([])
        self.cache = self._caches[AUTOMATION]
        self._client: KubeClient | None = None
        self.stopping = asyncio.Event()
        self.objects = MemoryObjects(self._watched)
        self._writer = None if writer is None else self.loop.run(writer())
        secret = self.settings.users_secret
        if secret and writer is None:
            self.objects.found["secrets", self.settings.namespace, secret] = {
                "metadata": {"name": secret, "namespace": self.settings.namespace, "generation": 1},
            }
        logins = Logins.of_secret(self._writer or self.objects, self.settings.namespace, secret) if secret else None
        if connect is None:
            self.authenticator = Authenticator(
                self.cluster, self.cluster, audience="maestro", api_key=ApiKey(key), logins=logins
            )
        else:
            self._client, self.authenticator = self.loop.run(connect(logins))
        self.services = Services(
            store=self.store,
            catalog=CacheCatalog(self.cache),
            authenticator=self.authenticator,
            objects=Objects(self._writer or self.objects, self._caches),
            settings=self.settings,
            automations=self.cache,
            schedules=self._caches[SCHEDULE],
            reprocessings=self._caches[REPROCESSING],
            gateway=gateway or OpenGateway(),
            stopping=self.stopping,
            logins=logins,
        )
        self._informers = [
            asyncio.run_coroutine_threadsafe(
                Informer(self._writer, kind, cache, namespaces=namespaces).run(self.stopping), self.loop.loop
            )
            for kind, cache in (self._caches.items() if self._writer else ())
        ]
        self.server = Server(self.loop, create_app(self.services))
        self.http = urllib3.PoolManager(retries=False, timeout=30)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def close(self) -> None:
        self.http.clear()
        self.loop.loop.call_soon_threadsafe(self.stopping.set)
        self.server.close()
        for informer in self._informers:
            informer.result(30)
        self.loop.run(self.store.close())
        for client in (self._client, self._writer):
            if client is not None:
                self.loop.run(client.close())
        self.loop.close()

    def _watched(self, kind: Kind, namespace: str, name: str, made: dict[str, Any] | None) -> None:
        if kind not in self._caches:
            return
        if made is None:
            self._caches[kind].remove(namespace, name)
        else:
            self._caches[kind].upsert(made)

    def call(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        raw: Any = None,
        token: str | None = "ana",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; `content` is sent as JSON, `raw` as it is."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = raw if content is None else json.dumps(content).encode()
        answer = self.http.request(method, f"{self.url}{path}", body=data, headers=sent)
        return Answer(answer.status, answer.headers, answer.data)

    def automation(self, name: str = "video", *, uid: str | None = None, version: str = "1", **spec: Any) -> int:
        """Put an Automation into the catalog and the store; returns its key in the store."""
        given = {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Automation",
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": uid or f"uid-of-{name}",
                "generation": 1,
                "resourceVersion": version,
            },
            "spec": spec,
        }
        self.see(given)
        return self.loop.run(self.store.register(registration_of(Automation.model_validate(given))))

    def see(self, found: dict[str, Any]) -> None:
        """Put an object into the catalog, as an informer does."""

        async def upsert() -> None:
            self.cache.upsert(found)

        self.loop.run(upsert())

    def forget(self, name: str, *, uid: str | None = None) -> None:
        """Delete an Automation: its object is gone, its registration says so."""

        async def remove() -> None:
            self.cache.remove("team", name)
            await self.store.deregister(uid or f"uid-of-{name}")

        self.loop.run(remove())

    def queued(self, automation: int) -> list[Any]:
        """Claim what may go, as the leader's dispatcher does before it publishes."""

        async def claim() -> list[Any]:
            leadership = await self.store.win_leadership()
            return list(await self.store.claim(leadership.epoch, automation, 1000))

        return self.loop.run(claim())


class FakeCluster:
    """TokenReviews, SubjectAccessReviews and pods of an API server that isn't there.

    People: `ana` may do all, `bob` may execute only, `eve` nothing. Workers: `worker-<automation>-<n>`.
    """

    def __init__(self) -> None:
        self.away = False

    async def token_review(self, token: str, audiences: tuple[str, ...] = ()) -> dict[str, Any]:
        if self.away:
            raise Unavailable(0, "Unavailable", "away")
        user: dict[str, Any] | None = None
        if audiences and token.startswith("worker-"):
            extra = {
                "authentication.kubernetes.io/pod-name": [token],
                "authentication.kubernetes.io/pod-uid": [f"uid-{token}"],
            }
            user = {"username": "system:serviceaccount:team:worker", "extra": extra}
        elif not audiences and token in ("ana", "bob", "eve"):
            user = {"username": token, "uid": token}
        return {"status": {"authenticated": user is not None, "user": user or {}, "audiences": list(audiences)}}

    async def subject_access_review(self, spec: dict[str, Any]) -> dict[str, Any]:
        if self.away:
            raise Unavailable(0, "Unavailable", "away")
        wanted = spec["resourceAttributes"]
        executes = wanted["verb"] == "create" and wanted.get("subresource") == "execute"
        return {"status": {"allowed": spec["user"] == "ana" or (spec["user"] == "bob" and executes)}}

    async def automation_of(self, namespace: str, pod: str, pod_uid: str) -> Owner | None:
        if self.away:
            raise Unavailable(0, "Unavailable", "away")
        name = pod.split("-")[1]
        return None if name == "none" else Owner(f"uid-of-{name}", f"{namespace}.{name}")
