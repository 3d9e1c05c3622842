"""Custom resources written over HTTP, against a real API server: owners of fields, Git tools, refusals by rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer

from maestro.http.errors import HttpError
from maestro.http.objects import MANAGER, Objects
from maestro.kube.client import KubeClient
from maestro.kube.kinds import AUTOMATION


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    with apiserver.namespace("objects", labels={}) as name:
        yield name


def run(server: ApiServer, scenario: Callable[[Objects], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        client = await KubeClient.connect(server.kubeconfig)
        try:
            return await scenario(Objects(client))
        finally:
            await client.close()

    return asyncio.run(main())


def refused(server: ApiServer, scenario: Callable[[Objects], Awaitable[Any]]) -> HttpError:
    with pytest.raises(HttpError) as error:
        run(server, scenario)
    return error.value


def manifest(namespace: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "maestro-operator.io/v1alpha1",
        "kind": "Automation",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }


def managers(obj: dict[str, Any]) -> set[tuple[str, str]]:
    return {(entry["manager"], entry["operation"]) for entry in obj["metadata"]["managedFields"]}


def test_what_http_wrote_it_takes_away_and_what_others_wrote_stays(apiserver: ApiServer, namespace: str) -> None:
    async def scenario(objects: Objects) -> None:
        made = await objects.create(
            AUTOMATION, namespace, "video", {"description": "old", "displayName": "Video", "run": {"maxPending": 5}}
        )
        assert managers(made) == {(MANAGER, "Update")}
        await asyncio.to_thread(
            apiserver.kubectl, *("-n", namespace, "patch", "automation", "video", "--type=merge"),
            *("-p", '{"spec":{"worker":{"image":"example.org/w:1"},"run":{"timeout":"9h"}}}'),
        )  # fmt: skip
        replaced = await objects.replace(AUTOMATION, namespace, "video", {"description": "new"})
        spec = replaced["spec"]
        assert spec["description"] == "new"
        assert "displayName" not in spec
        assert spec["run"]["maxPending"] == 1_000_000
        assert spec["worker"]["image"] == "example.org/w:1"
        assert spec["run"]["timeout"] == "9h"
        assert (MANAGER, "Apply") in managers(replaced)
        assert (MANAGER, "Update") not in managers(replaced)

        await objects.patch(AUTOMATION, namespace, "video", {"suspend": True})
        again = await objects.replace(AUTOMATION, namespace, "video", {"description": "newer"})
        assert again["spec"]["suspend"] is False

        await objects.delete(AUTOMATION, namespace, "video")
        with pytest.raises(HttpError) as gone:
            await objects.get(AUTOMATION, namespace, "video")
        assert gone.value.status == 404

    run(apiserver, scenario)


GIT_LABELS = [
    ({"annotations": {"argocd.argoproj.io/tracking-id": "films:group/Automation:x/y"}}, "application films"),
    ({"labels": {"argocd.argoproj.io/instance": "films"}}, "application films"),
    (
        {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
        "Flux Kustomization flux/apps",
    ),
    ({"labels": {"helm.toolkit.fluxcd.io/name": "films"}}, "Flux HelmRelease films"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "words"), GIT_LABELS)
def test_what_git_owns_is_left_to_git(
    apiserver: ApiServer, namespace: str, metadata: dict[str, Any], words: str
) -> None:
    apiserver.apply(manifest(namespace, "video", {"description": "from Git"}, **metadata))
    for attempt in (
        lambda objects: objects.replace(AUTOMATION, namespace, "video", {}),
        lambda objects: objects.delete(AUTOMATION, namespace, "video"),
    ):
        error = refused(apiserver, attempt)
        assert (error.status, error.reason) == (409, "ManagedByGit")
        assert words in error.message
        assert "change it in Git" in error.message


def test_the_label_of_argo_counts_where_argo_wrote(apiserver: ApiServer, namespace: str) -> None:
    label = {"app.kubernetes.io/instance": "films"}
    apiserver.apply(manifest(namespace, "by-hand", {}, labels=label))
    apiserver.kubectl(
        "apply", "--server-side", "--field-manager=argocd-controller", "-f", "-",
        stdin=json.dumps(manifest(namespace, "by-argo", {}, labels=label)),
    )  # fmt: skip
    run(apiserver, lambda objects: objects.replace(AUTOMATION, namespace, "by-hand", {}))
    error = refused(apiserver, lambda objects: objects.replace(AUTOMATION, namespace, "by-argo", {}))
    assert error.reason == "ManagedByGit"


def test_a_refusal_names_the_field_and_the_rule(apiserver: ApiServer, namespace: str) -> None:
    queue = {"queue": {"name": "maestro.mine"}}
    error = refused(
        apiserver,
        lambda objects: objects.create(AUTOMATION, namespace, "video", queue, names={"queue.name": "queueName"}),
    )
    assert error.status == 422
    (detail,) = error.details
    assert detail["path"] == "queueName"
    assert detail["rule"].startswith("name must not begin with 'maestro.'")

    run(apiserver, lambda objects: objects.create(AUTOMATION, namespace, "video", {}))
    error = refused(apiserver, lambda objects: objects.create(AUTOMATION, namespace, "video", {}))
    assert (error.status, error.reason) == (409, "AlreadyExists")
    error = refused(apiserver, lambda objects: objects.create(AUTOMATION, "no-such-namespace", "video", {}))
    assert error.status == 404
    assert "no namespace no-such-namespace" in error.message
    error = refused(apiserver, lambda objects: objects.replace(AUTOMATION, namespace, "nothing", {}))
    assert error.status == 404
    error = refused(apiserver, lambda objects: objects.replace(AUTOMATION, namespace, "video", {"launch": "Job"}))
    assert [d["path"] for d in error.details] == ["launch"]
    assert error.details[0]["rule"] == "launch is immutable"
    error = refused(apiserver, lambda objects: objects.replace(AUTOMATION, namespace, "video", {}, uid="other"))
    assert (error.status, error.reason) == (409, "Conflict")


def test_an_object_that_goes_meanwhile_is_not_made_again(apiserver: ApiServer, namespace: str) -> None:
    class Late(KubeClient):
        async def apply(self, kind: Any, namespace: Any, name: str, body: Any, **options: Any) -> Any:
            await self.delete(kind, namespace, name)
            return await super().apply(kind, namespace, name, body, **options)

    async def scenario() -> None:
        client = await Late.connect(apiserver.kubeconfig)
        try:
            objects = Objects(client)
            await objects.create(AUTOMATION, namespace, "video", {})
            with pytest.raises(HttpError) as error:
                await objects.replace(AUTOMATION, namespace, "video", {"description": "x"})
            assert error.value.status in (404, 409), error.value.message
            with pytest.raises(HttpError):
                await objects.get(AUTOMATION, namespace, "video")
        finally:
            await client.close()

    asyncio.run(scenario())
