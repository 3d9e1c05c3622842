"""Kopf as the controller's feeder, against a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.kube.conftest import definition_of, run, until

from maestro.handlers import Feed, KopfRunner
from maestro.kube.client import KubeClient
from maestro.kube.kinds import Kind, ObjectKey
from maestro.runtime.backoff import Backoff
from maestro.runtime.workqueue import WorkQueue

WIDGET = Kind("kopf-test.example.org", "v1", "widgets", "Widget")
GADGET = Kind("kopf-test.example.org", "v1", "gadgets", "Gadget")
FAST = Backoff(initial=0.05, maximum=0.5)
USER = "watcher"


def define(apiserver: ApiServer, *kinds: Kind) -> None:
    apiserver.apply(*(definition_of(kind) for kind in kinds))
    for kind in kinds:
        name = f"crd/{kind.plural}.{kind.group}"
        apiserver.kubectl("wait", "--for=condition=Established", "--timeout=60s", name)


@pytest.fixture(scope="module")
def widgets(apiserver: ApiServer) -> Iterator[None]:
    """The definition of Widget."""
    define(apiserver, WIDGET)
    yield
    apiserver.kubectl("delete", "crd", f"{WIDGET.plural}.{WIDGET.group}")


@pytest.fixture
def watcher(apiserver: ApiServer, namespace: str) -> Path:
    """The kubeconfig of a user who may only list and watch Widgets, and only in the test's namespace."""
    rbac = "rbac.authorization.k8s.io"
    apiserver.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": USER, "namespace": namespace},
            "rules": [{"apiGroups": [WIDGET.group], "resources": ["widgets"], "verbs": ["list", "watch"]}],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": USER, "namespace": namespace},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": USER},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": USER}],
        },
    )
    return apiserver.kubeconfig_for(USER)


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


async def take(queue: WorkQueue[ObjectKey], timeout: float = 30.0) -> ObjectKey:
    async with asyncio.timeout(timeout):
        key = await queue.get()
    queue.done(key)
    return key


def drain(queue: WorkQueue[ObjectKey]) -> list[ObjectKey]:
    keys = []
    while len(queue):
        coroutine = queue.get()
        try:
            coroutine.send(None)
        except StopIteration as taken:
            keys.append(taken.value)
            queue.done(taken.value)
    return keys


@contextlib.asynccontextmanager
async def feeding(
    kubeconfig: Path, *feeds: Feed, namespaces: tuple[str, ...], relist_seconds: float = 3600.0
) -> AsyncIterator[KopfRunner]:
    """Kopf for the block; it must end by itself afterwards."""
    stop = asyncio.Event()
    client = await KubeClient.connect(kubeconfig)
    runner = KopfRunner(client, feeds, namespaces=namespaces, relist_seconds=relist_seconds, backoff=FAST)
    task = asyncio.create_task(runner.run(stop))
    try:
        yield runner
    finally:
        stop.set()
        await task
        await client.close()


async def watched(client: KubeClient, feed: Feed, namespace: str) -> None:
    """Wait until kopf's watch is there: what is made now comes through it."""
    number = 0

    async def seen() -> bool:
        nonlocal number
        number += 1
        await client.create(feed.kind, namespace, widget(f"probe-{number}"))
        try:
            await until("a probe", lambda: feed.cache.get(namespace, f"probe-{number}"), timeout=1.0)
        except AssertionError:
            return False
        return True

    await until("kopf watches", seen)


@pytest.mark.usefixtures("widgets")
def test_it_feeds_the_cache_and_the_queue_and_writes_nothing(
    apiserver: ApiServer, namespace: str, watcher: Path
) -> None:
    audit = apiserver.audit()

    async def scenario() -> None:
        admin = await KubeClient.connect(apiserver.kubeconfig)
        queue: WorkQueue[ObjectKey] = WorkQueue("widgets")
        feed = Feed(WIDGET, queue, namespaces=[namespace])
        key = ObjectKey(namespace, "w")
        try:
            await admin.create(WIDGET, namespace, widget("before", x=1))
            async with feeding(watcher, feed, namespaces=(namespace,)):
                assert await take(queue) == ObjectKey(namespace, "before")
                assert feed.cache.synced
                assert feed.cache.fresh(75.0)
                await watched(admin, feed, namespace)
                drain(queue)

                made = await admin.create(WIDGET, namespace, widget("w", x=1))
                assert await take(queue) == key

                await admin.patch_status(
                    WIDGET, namespace, "w", {"phase": "Ready"}, resource_version=made["metadata"]["resourceVersion"]
                )
                await until("the status", lambda: (feed.cache.get(namespace, "w") or {}).get("status"))
                assert drain(queue) == [], "only its status has changed"

                await admin.patch(WIDGET, namespace, "w", {"spec": {"x": 2}})
                assert await take(queue) == key
                await admin.patch(WIDGET, namespace, "w", {"metadata": {"annotations": {"a": "1"}}})
                assert await take(queue) == key
                found = feed.cache.get(namespace, "w")
                assert found is not None
                assert found["spec"] == {"x": 2}
                assert found["status"] == {"phase": "Ready"}
                assert set(found["metadata"]["annotations"]) == {"a"}, "kopf left a mark"
                assert not found["metadata"].get("finalizers")

                await admin.delete(WIDGET, namespace, "w")
                assert await take(queue) == key
                assert feed.cache.get(namespace, "w") is None
        finally:
            await admin.close()

    run(scenario())
    requests = audit.requests(user=USER)
    assert {request.verb for request in requests} <= {"get", "list", "watch"}
    assert audit.requests(user=USER, writes=True) == []
    refused = [request for request in requests if request.status == 403]
    assert refused == [], "it asked for more than the rights to list and watch"


@pytest.mark.usefixtures("widgets")
def test_a_missed_deletion_is_found_by_the_list(apiserver: ApiServer, namespace: str, watcher: Path) -> None:
    async def scenario() -> None:
        admin = await KubeClient.connect(apiserver.kubeconfig)
        queue: WorkQueue[ObjectKey] = WorkQueue("widgets")
        feed = Feed(WIDGET, queue, namespaces=[namespace])
        try:
            await admin.create(WIDGET, namespace, widget("stays"))
            async with feeding(watcher, feed, namespaces=(namespace,), relist_seconds=0.2):
                await until("the first list", lambda: feed.cache.synced)
                ghost = {"metadata": {"namespace": namespace, "name": "ghost", "uid": "u", "resourceVersion": "1"}}
                feed.cache.upsert(ghost)
                await until("the ghost is gone", lambda: feed.cache.get(namespace, "ghost") is None)
                keys = drain(queue)
                assert ObjectKey(namespace, "ghost") in keys
                assert await take(queue) == ObjectKey(namespace, "stays"), "each list looks at everything again"
        finally:
            await admin.close()

    run(scenario())


@pytest.mark.usefixtures("widgets")
def test_it_outlives_the_api_server(apiserver: ApiServer, namespace: str, watcher: Path) -> None:
    async def scenario() -> None:
        admin = await KubeClient.connect(apiserver.kubeconfig)
        queue: WorkQueue[ObjectKey] = WorkQueue("widgets")
        feed = Feed(WIDGET, queue, namespaces=[namespace])
        try:
            async with feeding(watcher, feed, namespaces=(namespace,)):
                await until("the first list", lambda: feed.cache.synced)
                await watched(admin, feed, namespace)
                before = set(feed.cache.keys())
                await asyncio.to_thread(apiserver.restart)
                await admin.create(WIDGET, namespace, widget("after"))
                await until("what came after", lambda: feed.cache.get(namespace, "after"))
                assert before <= set(feed.cache.keys())
        finally:
            await admin.close()

    run(scenario())


def test_resources_are_waited_for_and_may_be_defined_anew(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        admin = await KubeClient.connect(apiserver.kubeconfig)
        queue: WorkQueue[ObjectKey] = WorkQueue("gadgets")
        feed = Feed(GADGET, queue)
        try:
            async with feeding(apiserver.kubeconfig, feed, namespaces=(), relist_seconds=1.0):
                for _ in range(2):
                    await asyncio.to_thread(define, apiserver, GADGET)
                    await watched(admin, feed, namespace)
                    await asyncio.to_thread(apiserver.kubectl, "delete", "crd", f"{GADGET.plural}.{GADGET.group}")
                    await until("nothing is left", lambda: len(feed.cache) == 0)
        finally:
            await admin.close()

    run(scenario())


@pytest.mark.usefixtures("widgets")
def test_its_end_leaves_the_rest_of_the_program_alone(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        signals: list[str] = []
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        client = await KubeClient.connect(apiserver.kubeconfig)
        queue: WorkQueue[ObjectKey] = WorkQueue("widgets")
        feed = Feed(WIDGET, queue, namespaces=[namespace])
        runner = KopfRunner(
            client,
            [feed],
            namespaces=[namespace],
            after_spawn=lambda: loop.add_signal_handler(signal.SIGTERM, signals.append, "mine"),
        )
        running = asyncio.create_task(runner.run(stop))
        await until("it is fed", lambda: feed.cache.synced)
        await watched(client, feed, namespace)
        # A task that is younger than kopf: kopf would cancel it at its end if it could.
        younger = asyncio.create_task(asyncio.Event().wait())
        signal.raise_signal(signal.SIGTERM)
        await until("the signal", lambda: signals)
        stop.set()
        await running
        await client.close()
        assert not younger.done()
        younger.cancel()
        left = [task for task in asyncio.all_tasks() if task not in (younger, asyncio.current_task())]
        await asyncio.gather(younger, return_exceptions=True)
        assert [task.get_name() for task in left if not task.done() and "kopf" in repr(task)] == []

    try:
        run(scenario())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
