"""Automations and Schedules over HTTP, against a real API server and with no more rights than the chart gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.http.api import Api
from tests.integration.http.test_kubernetes import World, kubernetes_authenticator

from maestro.kube.client import KubeClient

API_USER = "maestro-api-account"
GROUP = "maestro-operator.io"
AUTOMATIONS, SCHEDULES = "/api/v1/automations", "/api/v1/schedules"


def rights() -> list[dict[str, Any]]:
    """What the chart gives the API's account on custom resources."""
    api = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [GROUP], "resources": ["automations", "schedules", "reprocessings"],
         "verbs": ["get", "list", "watch"]},
        {"apiGroups": [GROUP], "resources": ["automations", "schedules"], "verbs": ["create", "patch", "delete"]},
    ]  # fmt: skip
    return [
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": API_USER}, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": API_USER},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": API_USER},
            "subjects": [{"apiGroup": api, "kind": "User", "name": API_USER}],
        },
    ]


@pytest.fixture(scope="module")
def world(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("resources")
    apiserver.apply(*rights())
    kubeconfig = apiserver.kubeconfig_for(API_USER)

    async def writer() -> KubeClient:
        return await KubeClient.connect(kubeconfig)

    with apiserver.namespace("http", labels={}) as namespace:
        api = Api(folder, kubernetes_authenticator(apiserver), writer=writer, default_namespace=namespace)
        try:
            world = World(apiserver, namespace, api)
            for kind in ("automations", "schedules"):
                world.role(f"{kind}-editor", *((verb, kind) for verb in ("get", "list", "create", "update", "delete")))
            world.role("viewer", ("get", "automations"), ("list", "automations"))
            yield world
        finally:
            api.close()


@pytest.fixture(scope="module")
def editor(world: World) -> str:
    return world.token("automations-editor")


@pytest.fixture(scope="module")
def planner(world: World) -> str:
    return world.token("schedules-editor")


def test_an_automation_is_made_read_changed_and_deleted(world: World, editor: str) -> None:
    api = world.api
    body = {
        "name": "Emissão de Notas",
        "script_path": "robots/emit.py",
        "queueName": "notas.work",
        "default_params": {"city": "Lisboa"},
        "parameter_schema": [{"name": "month", "label": "Month", "type": "date", "required": True}],
        "run": {"max_pending": 7},
    }
    made = api.call("POST", AUTOMATIONS, body, token=editor)
    assert made.status == 201, made.body
    assert made.headers["Location"] == f"{AUTOMATIONS}/{world.namespace}.emissao-de-notas"
    spec = world.get("automation", "emissao-de-notas")["spec"]
    assert spec["displayName"] == "Emissão de Notas"
    assert spec["queue"]["name"] == "notas.work"
    assert spec["run"]["maxPending"] == 7
    assert spec["parameterSchema"]["required"] == ["month"]
    # What was answered is there at once: for a look, and for a change of exactly that.
    path = f"{AUTOMATIONS}/emissao-de-notas"
    seen = api.call("GET", path, token=editor)
    assert seen.status == 200, seen.body
    assert seen.json["scriptPath"] == "robots/emit.py"
    listed = api.call("GET", AUTOMATIONS, token=editor)
    assert f"{world.namespace}.emissao-de-notas" in [item["id"] for item in listed.json["items"]]

    back = api.call("PUT", path, {**seen.json, "description": "Emits notes"}, token=editor)
    assert back.status == 200, back.body
    assert back.json["description"] == "Emits notes"
    assert {**back.json, "description": None, "generation": 1} == {**seen.json, "generation": 1}

    again = api.call("POST", AUTOMATIONS, {"name": "emissao-de-notas"}, token=editor)
    assert (again.status, again.json["reason"]) == (409, "AlreadyExists")
    immutable = api.call("PUT", path, {"queueName": "other.work"}, token=editor)
    assert immutable.status == 422, immutable.body
    assert immutable.json["details"][0] == {"path": "queueName", "rule": "name is immutable"}

    assert api.call("DELETE", path, token=editor).status == 204
    assert api.call("GET", path, token=editor).status == 404
    assert api.call("DELETE", path, token=editor).status == 404


def test_each_verb_needs_its_right(world: World, editor: str) -> None:
    api, viewer = world.api, world.token("viewer")
    assert api.call("POST", AUTOMATIONS, {"name": "guarded"}, token=editor).status == 201
    path = f"{AUTOMATIONS}/guarded"
    assert api.call("GET", path, token=viewer).status == 200
    for method, target, content in (
        ("POST", AUTOMATIONS, {"name": "mine"}),
        ("PUT", path, {}),
        ("DELETE", path, None),
        ("POST", AUTOMATIONS, {"name": "mine", "namespace": "kube-system"}),
    ):
        refused = api.call(method, target, content, token=viewer)
        assert refused.status == 403, refused.body
        assert "may not" in refused.json["message"]
    elsewhere = api.call("POST", AUTOMATIONS, {"name": "mine", "namespace": "kube-system"}, token=editor)
    assert elsewhere.status == 403


def test_what_git_owns_is_left_alone(world: World, editor: str) -> None:
    world.server.apply(
        {
            "apiVersion": f"{GROUP}/v1alpha1",
            "kind": "Automation",
            "metadata": {
                "name": "in-git",
                "namespace": world.namespace,
                "labels": {"kustomize.toolkit.fluxcd.io/name": "films"},
            },
            "spec": {},
        }
    )
    for method in ("PUT", "DELETE"):
        refused = world.api.call(method, f"{AUTOMATIONS}/in-git", {} if method == "PUT" else None, token=editor)
        assert (refused.status, refused.json["reason"]) == (409, "ManagedByGit"), refused.body


def test_a_schedule_is_made_read_changed_and_deleted(world: World, planner: str) -> None:
    api = world.api
    body = {
        "name": "Nightly import",
        "automationId": f"{world.namespace}.imports",
        "schedule": "0 2 * * *",
        "time_zone": "Europe/Lisbon",
        "exclude": {"ranges": [{"from": "2026-12-24", "to": "2026-12-26"}], "on_excluded": "Next"},
        "parameters": {"day": "$(yesterday)"},
    }
    made = api.call("POST", SCHEDULES, body, token=planner)
    assert made.status == 201, made.body
    assert (made.json["name"], made.json["displayName"]) == ("nightly-import", "Nightly import")
    spec = world.get("schedules.maestro-operator.io", "nightly-import")["spec"]
    assert spec["automation"] == "imports"
    assert spec["exclude"]["onExcluded"] == "Next"
    path = f"{SCHEDULES}/nightly-import"
    seen = api.call("GET", path, token=planner)
    assert seen.status == 200, seen.body
    back = api.call("PUT", path, {**seen.json, "suspended": True}, token=planner)
    assert back.status == 200, back.body
    assert {**back.json, "suspended": False, "generation": 1} == {**seen.json, "generation": 1}

    bad = api.call("PUT", path, {**body, "schedules": ["@daily"]}, token=planner)
    assert bad.status == 422, bad.body
    assert "exactly one of schedule and schedules" in bad.json["message"]
    assert bad.json["details"][0]["path"] == "schedule"
    assert api.call("POST", SCHEDULES, {**body, "namespace": "default"}, token=planner).status == 403
    assert api.call("DELETE", path, token=planner).status == 204
    assert api.call("GET", path, token=planner).status == 404
