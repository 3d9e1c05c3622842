"""The informer and what is built on it, against a real API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.kube.conftest import definition_of, run, until
from tests.integration.kube.test_client import config_map, deployment

from maestro.kube import errors
from maestro.kube.cache import ObjectCache
from maestro.kube.children import owner_by_label, watch_children
from maestro.kube.client import KubeClient
from maestro.kube.informer import Informer
from maestro.kube.kinds import CONFIG_MAP, DEPLOYMENT, POD, Kind, ObjectKey
from maestro.kube.pods import PodEnd, PodWatch
from maestro.runtime.backoff import Backoff

FAST = Backoff(initial=0.05, maximum=0.5)


@contextlib.asynccontextmanager
async def running(*parts: Any) -> AsyncIterator[None]:
    """Run informers and such for the block; they must end by themselves afterwards."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(part.run(stop)) for part in parts]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def connected(apiserver: ApiServer, user: str | None = None) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(apiserver.kubeconfig_for(user) if user else apiserver.kubeconfig)
    try:
        yield client
    finally:
        await client.close()


def test_the_cache_follows_what_happens(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        async with connected(apiserver) as client:
            await client.create(CONFIG_MAP, namespace, config_map("before"))
            cache = ObjectCache(CONFIG_MAP, namespaces=[namespace])
            async with running(Informer(client, CONFIG_MAP, cache, namespaces=[namespace])):
                await until("the first list", lambda: cache.synced)
                assert cache.get(namespace, "before") is not None
                await client.create(CONFIG_MAP, namespace, config_map("after", x="1"))
                await until("the new object", lambda: cache.get(namespace, "after"))
                await client.patch(CONFIG_MAP, namespace, "after", {"data": {"x": "2"}})
                await until("the change", lambda: (cache.get(namespace, "after") or {})["data"]["x"] == "2")
                await client.delete(CONFIG_MAP, namespace, "before")
                await until("the deletion", lambda: cache.get(namespace, "before") is None)
                found = cache.get(namespace, "after")
                assert found is not None
                assert "managedFields" not in found["metadata"]
                assert cache.fresh(75.0)

    run(scenario())


def reader_of(namespace: str, user: str) -> list[dict[str, Any]]:
    """The right to list and watch ConfigMaps in a namespace."""
    rbac, meta = "rbac.authorization.k8s.io", {"name": user, "namespace": namespace}
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": user},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
        },
    ]


def test_a_namespace_that_is_not_there_keeps_nobody_waiting(apiserver: ApiServer, namespace: str) -> None:
    user, missing = f"{namespace}-reader", f"{namespace}-later"
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["namespaces"], "resourceNames": [namespace, missing], "verbs": ["get"]}]
    apiserver.apply(
        *reader_of(namespace, user),
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": user}],
        },
    )

    async def scenario() -> None:
        namespaces = [namespace, missing]
        async with connected(apiserver) as admin, connected(apiserver, user) as client:
            await admin.create(CONFIG_MAP, namespace, config_map("here"))
            cache = ObjectCache(CONFIG_MAP, namespaces=namespaces)
            async with running(Informer(client, CONFIG_MAP, cache, namespaces=namespaces, backoff=FAST)):
                await until("the cache is whole", lambda: cache.synced)
                assert cache.get(namespace, "here") is not None
                apiserver.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": missing}})
                apiserver.apply(*reader_of(missing, user))
                await admin.create(CONFIG_MAP, missing, config_map("there"))
                await until("what came later", lambda: cache.get(missing, "there"))

    run(scenario())


def test_it_outlives_the_api_server(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        async with connected(apiserver) as client:
            await client.create(CONFIG_MAP, namespace, config_map("stays"))
            cache = ObjectCache(CONFIG_MAP, namespaces=[namespace])
            gone: list[str] = []
            cache.subscribe(lambda key, obj: gone.append(key.name) if obj is None else None)
            informer = Informer(client, CONFIG_MAP, cache, namespaces=[namespace], backoff=FAST)
            async with running(informer):
                await until("the first list", lambda: cache.get(namespace, "stays"))
                for how in (apiserver.kill, apiserver.stop):
                    await asyncio.to_thread(how)
                    heard = cache.last_heard
                    await asyncio.to_thread(apiserver.resume)
                    await until("the API server is heard again", lambda heard=heard: cache.last_heard > heard)
                    await client.create(CONFIG_MAP, namespace, config_map(how.__name__))
                    await until("what came after", lambda how=how: cache.get(namespace, how.__name__))
                assert cache.get(namespace, "stays") is not None
                assert gone == [], "an outage is no deletion"

                with pytest.raises(errors.Expired):
                    async for _ in client.watch(CONFIG_MAP, namespace, resource_version="1", timeout_seconds=5):
                        pass

    run(scenario())


def test_a_version_that_is_too_old_leads_to_a_new_list_that_prunes(apiserver: ApiServer, namespace: str) -> None:
    class Forgetful(KubeClient):
        """Hands out a list that is older than anything the API server still knows."""

        lists = 0

        async def list(self, *arguments: Any, **options: Any) -> tuple[list[dict[str, Any]], str]:
            objects, version = await super().list(*arguments, **options)
            self.lists += 1
            return (objects, "1") if self.lists == 1 else (objects, version)

    async def scenario() -> None:
        async with connected(apiserver) as plain:
            await plain.create(CONFIG_MAP, namespace, config_map("a"))
            # After a restart the API server remembers nothing from before.
            await asyncio.to_thread(apiserver.restart)
            client = await Forgetful.connect(apiserver.kubeconfig)
            cache = ObjectCache(CONFIG_MAP, namespaces=[namespace])
            missed = config_map("missed")
            missed["metadata"] |= {"namespace": namespace, "uid": "u", "resourceVersion": "1"}
            cache.upsert(missed)
            try:
                async with running(Informer(client, CONFIG_MAP, cache, namespaces=[namespace], backoff=FAST)):
                    await until("a second list", lambda: client.lists > 1)
                    await plain.create(CONFIG_MAP, namespace, config_map("b"))
                    await until("the watch goes on", lambda: cache.get(namespace, "b"))
                    assert cache.get(namespace, "missed") is None
            finally:
                await client.close()

    run(scenario())


def test_each_namespace_is_watched_by_itself(apiserver: ApiServer, namespace: str) -> None:
    async def scenario(other: str) -> None:
        async with connected(apiserver) as admin, connected(apiserver, "reader") as client:
            rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}
            apiserver.apply(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "Role",
                    "metadata": {"name": "reader", "namespace": namespace},
                    "rules": [rule],
                },
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": "reader", "namespace": namespace},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
                    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
                },
            )
            cache = ObjectCache(CONFIG_MAP, namespaces=[namespace, other])
            async with running(Informer(client, CONFIG_MAP, cache, namespaces=[namespace, other], backoff=FAST)):
                await admin.create(CONFIG_MAP, namespace, config_map("mine"))
                await until("the namespace with rights", lambda: cache.get(namespace, "mine"))
                assert not cache.synced, "nothing was ever heard about the other namespace"
                assert cache.last_heard == float("-inf")

    with apiserver.namespace("kube") as other:
        run(scenario(other))


def test_a_kind_that_does_not_exist_yet_is_waited_for(apiserver: ApiServer) -> None:
    thing = Kind("informer-test.example.org", "v1", "things", "Thing")

    async def scenario() -> None:
        async with connected(apiserver) as client:
            cache = ObjectCache(thing)
            async with running(Informer(client, thing, cache, namespaces=None, backoff=FAST)):
                await asyncio.to_thread(apiserver.apply, definition_of(thing))
                await until("the kind is there", lambda: cache.synced)
                assert len(cache) == 0

    try:
        run(scenario())
    finally:
        apiserver.kubectl("delete", "crd", f"{thing.plural}.{thing.group}")


def test_an_informer_and_its_cache_watch_the_same_namespaces() -> None:
    with pytest.raises(ValueError, match="namespaces"):
        Informer(None, POD, ObjectCache(POD, namespaces=["a"]), namespaces=["b"])  # type: ignore[arg-type]
    for namespaces in (None, (), ["a"], ("a", "b")):
        Informer(None, POD, ObjectCache(POD, namespaces=namespaces), namespaces=namespaces)  # type: ignore[arg-type]


LABEL = "kube-test/owner"


def child(name: str, owner: str, replicas: int = 0) -> dict[str, Any]:
    body = deployment(name)
    body["metadata"]["labels"] = {LABEL: owner}
    body["spec"]["replicas"] = replicas
    return body


def test_children_wake_their_owner_but_not_for_ones_own_writes(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        async with connected(apiserver) as client:
            woken: list[ObjectKey] = []
            watch = watch_children(
                client,
                DEPLOYMENT,
                namespaces=[namespace],
                label_selector=LABEL,
                to_key=owner_by_label(LABEL),
                wake=woken.append,
            )
            mine = ObjectKey(namespace, "mine")
            async with running(watch):
                await until("the first list", lambda: watch.cache.synced)

                made = await client.apply(DEPLOYMENT, namespace, "d", child("d", "mine"))
                watch.wrote(made)
                # The deployment controller observes the new object: a status, which does wake.
                await until("its status", lambda: mine in woken)
                await until("its generation is observed", lambda: _observed(watch.cache.get(namespace, "d")) == 1)
                woken.clear()

                # A write that changes nothing but bookkeeping, told: nobody wakes.
                same = await client.apply(DEPLOYMENT, namespace, "d", child("d", "mine"), manager="second")
                watch.wrote(same)
                await client.apply(DEPLOYMENT, namespace, "barrier", child("barrier", "barrier"))
                await until("what came later", lambda: ObjectKey(namespace, "barrier") in woken)
                assert mine not in woken

                # Somebody edits it.
                await client.patch(DEPLOYMENT, namespace, "d", {"spec": {"paused": True}})
                await until("the drift", lambda: mine in woken)
                await until("its generation is observed", lambda: _observed(watch.cache.get(namespace, "d")) == 2)
                woken.clear()

                # Somebody takes the label away: it leaves the selector, and its owner hears of it.
                await client.patch(DEPLOYMENT, namespace, "d", {"metadata": {"labels": {LABEL: None}}})
                await until("the lost child", lambda: mine in woken)
                assert watch.cache.get(namespace, "d") is None
                woken.clear()

                # It is put back: the same uid comes again.
                await client.apply(DEPLOYMENT, namespace, "d", child("d", "mine"))
                await until("the child is back", lambda: watch.cache.get(namespace, "d"))
                assert mine in woken
                woken.clear()

                # One's own deletion, told.
                uid = made["metadata"]["uid"]
                await client.delete(DEPLOYMENT, namespace, "d", uid=uid)
                watch.removed(namespace, "d", uid=uid)
                await client.apply(DEPLOYMENT, namespace, "e", child("e", "yours"))
                await until("another owner's child", lambda: ObjectKey(namespace, "yours") in woken)
                assert mine not in woken

    run(scenario())


def _observed(obj: dict[str, Any] | None) -> int | None:
    return ((obj or {}).get("status") or {}).get("observedGeneration")


def test_the_end_of_a_pod_is_told_once(apiserver: ApiServer, namespace: str) -> None:
    def pod(name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "labels": {LABEL: "a"}},
            "spec": {
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "worker",
                        "image": "example.org/worker:1",
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        }

    async def scenario() -> None:
        async with connected(apiserver) as client:
            ends: list[PodEnd] = []
            watch = PodWatch(client, namespaces=[namespace], label_selector=LABEL, on_end=ends.append)
            async with running(watch):
                one = await client.create(POD, namespace, pod("one"))
                await client.create(POD, namespace, pod("two"))
                await until("both pods", lambda: len(watch.cache) == 2)
                await client.delete(POD, namespace, "one")
                await until("its end", lambda: ends)
                assert (ends[0].uid, ends[0].name, ends[0].gone) == (one["metadata"]["uid"], "one", True)
                status = {"status": {"phase": "Failed", "reason": "Evicted"}}
                await client.patch(POD, namespace, "two", status, subresource="status")
                await until("the other's end", lambda: len(ends) == 2)
                assert (ends[1].name, ends[1].gone, ends[1].reason) == ("two", True, "Evicted")
                await client.delete(POD, namespace, "two")
                await until("it is deleted too", lambda: len(watch.cache) == 0)
                assert len(ends) == 2

    run(scenario())
