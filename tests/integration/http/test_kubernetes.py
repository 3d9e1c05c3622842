"""Authentication against a real API server: people by RBAC, workers by projected tokens and their pods' owners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.cluster.apiserver import ApiServer
from tests.cluster.process import wait_for
from tests.integration.http.api import Api
from tests.integration.http.test_dead_letters import LETTERS, Box, Message

from maestro.http.auth import Authenticator
from maestro.http.logins.service import Logins
from maestro.http.owners import KubePodOwners
from maestro.kube.client import KubeClient
from maestro.runs.letters import read

API_VERSION = "maestro-operator.io/v1alpha1"
REPORTS = "/api/v1/worker/reports"


@dataclass(frozen=True)
class World:
    """A namespace of the API server, and the API in front of it."""

    server: ApiServer
    namespace: str
    api: Api

    def kubectl(self, *arguments: str) -> str:
        return self.server.kubectl(*arguments, "--namespace", self.namespace)

    def get(self, *arguments: str) -> Any:
        return self.server.get(*arguments, "--namespace", self.namespace)

    def token(self, account: str, *arguments: str) -> str:
        """A token of a ServiceAccount, from the TokenRequest API."""
        return self.kubectl("create", "token", account, *arguments).strip()

    def pod_token(self, pod: str, *, audience: str = "maestro") -> str:
        """The token that the kubelet would project into a pod."""
        found = self.get("pod", pod)
        bound = [
            "--bound-object-kind",
            "Pod",
            "--bound-object-name",
            pod,
            "--bound-object-uid",
            found["metadata"]["uid"],
        ]
        return self.token(found["spec"]["serviceAccountName"], "--audience", audience, *bound)

    def role(self, account: str, *rules: tuple[str, str], names: tuple[str, ...] = ()) -> None:
        """Give a ServiceAccount rights: (verb, resource) of the group."""
        self.kubectl("create", "serviceaccount", account)
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": account, "namespace": self.namespace},
            "rules": [
                {"apiGroups": ["maestro-operator.io"], "resources": [resource], "verbs": [verb]}
                | ({"resourceNames": list(names)} if names else {})
                for verb, resource in rules
            ],
        }
        self.server.apply(role)
        self.kubectl(
            "create", "rolebinding", account, f"--role={account}", f"--serviceaccount={self.namespace}:{account}"
        )

    def automation(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create an Automation in the cluster, and let the API see it."""
        self.server.apply(
            {
                "apiVersion": API_VERSION,
                "kind": "Automation",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": spec,
            }
        )
        found: dict[str, Any] = self.get("automation", name)
        self.api.see(found)
        return found

    def deployment(self, name: str, owner: dict[str, Any] | None) -> str:
        """A Deployment as the reconciler makes it; returns the name of its pod."""
        labels = {"maestro-operator.io/automation": name}
        pod = {
            "automountServiceAccountToken": False,
            "containers": [{"name": "worker", "image": "example.org/worker"}],
        }
        metadata: dict[str, Any] = {"name": name, "namespace": self.namespace}
        if owner is not None:
            metadata["ownerReferences"] = [owner_reference(owner)]
        self.server.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": metadata,
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            }
        )
        return self.pod(f"maestro-operator.io/automation={name}")

    def pod(self, selector: str) -> str:
        """The name of the pod with these labels, once a controller has made it."""
        wait_for(f"a pod with {selector}", lambda: bool(self._pods(selector)), timeout=60, every=0.2)
        return self._pods(selector)[0]

    def _pods(self, selector: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.get("pods", "--selector", selector)["items"]]


def owner_reference(owner: dict[str, Any]) -> dict[str, Any]:
    metadata = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }


def kubernetes_authenticator(server: ApiServer) -> Callable[[], Any]:
    async def connect(logins: Logins | None) -> tuple[KubeClient, Authenticator]:
        client = await KubeClient.connect(server.kubeconfig)
        return client, Authenticator(client, KubePodOwners(client), audience="maestro", logins=logins)

    return connect


@pytest.fixture
def world(apiserver: ApiServer, tmp_path: Path) -> Iterator[World]:
    with apiserver.namespace("http", labels={}) as namespace:
        api = Api(tmp_path, kubernetes_authenticator(apiserver), default_namespace=namespace)
        try:
            yield World(apiserver, namespace, api)
        finally:
            api.close()


def test_a_person_needs_a_token_and_the_right(world: World) -> None:
    world.automation("video")
    world.automation("audio")
    world.role("runner", ("create", "automations/execute"), names=("video",))
    world.kubectl("create", "serviceaccount", "nobody")
    runner, nobody = world.token("runner"), world.token("nobody")
    path = "/api/v1/automations/{}/execute"
    api = world.api
    accepted = api.call("POST", path.format("video"), {}, token=runner)
    assert accepted.status == 202, accepted.body
    assert api.call("POST", path.format("audio"), {}, token=runner).status == 403
    refused = api.call("POST", path.format("video"), {}, token=nobody)
    assert (refused.status, "may not create automations/execute" in refused.json["message"]) == (403, True)
    assert api.call("POST", path.format("video"), {}, token="eyJhbGciOiJub25lIn0.e30.").status == 401
    assert api.call("POST", path.format("video"), {}, token=None).status == 401
    # One's own Run may be seen without a further right, and by nobody else.
    job = accepted.json["job_id"]
    run = api.call("GET", f"/api/v1/jobs/{job}", token=runner)
    assert run.json["userId"] == f"system:serviceaccount:{world.namespace}:runner"
    assert api.call("GET", f"/api/v1/jobs/{job}", token=nobody).status == 403
    assert api.call("POST", f"/api/v1/jobs/{job}/cancel", token=nobody).status == 403


def test_rights_on_runs_are_rights_on_a_subresource_of_automations(world: World) -> None:
    world.automation("video")
    world.role("runner", ("create", "automations/execute"))
    world.role("viewer", ("list", "automations/runs"), ("get", "automations/runs"))
    world.role("operator", ("update", "automations/runs"))
    api = world.api
    job = api.call("POST", "/api/v1/automations/video/execute", {}, token=world.token("runner")).json["job_id"]
    viewer, operator = world.token("viewer"), world.token("operator")
    assert api.call("GET", f"/api/v1/jobs/{job}", token=viewer).status == 200
    assert len(api.call("GET", "/api/v1/jobs?automation=video", token=viewer).json["items"]) == 1
    assert api.call("GET", "/api/v1/jobs", token=viewer).json["items"] == [], "a right in one namespace only"
    assert api.call("POST", f"/api/v1/jobs/{job}/cancel", token=viewer).status == 403
    assert api.call("GET", f"/api/v1/jobs/{job}", token=operator).status == 403
    assert api.call("POST", f"/api/v1/jobs/{job}/cancel", token=operator).status == 200


def test_rights_on_dead_letters_are_rights_on_a_subresource_too(world: World) -> None:
    world.automation("video")
    world.role("viewer", ("list", "automations/deadletters"), ("get", "automations/deadletters"))
    world.role("half", ("update", "automations/deadletters"))
    world.role("editor", ("update", "automations/deadletters"), ("create", "automations/execute"))
    world.role("cleaner", ("delete", "automations/deadletters"))
    api = world.api
    automation_id = f"{world.namespace}.video"
    api.call("POST", f"/api/v1/automations/{automation_id}/execute", token=world.token("editor"))  # it gets known
    Box(api).record([read(Message(b"{}", queue=f"maestro.{automation_id}"))])
    viewer, half, editor, cleaner = (world.token(name) for name in ("viewer", "half", "editor", "cleaner"))
    (letter,) = [item["id"] for item in api.call("GET", LETTERS, token=viewer).json["items"]]
    assert api.call("GET", f"{LETTERS}/{letter}", token=viewer).status == 200
    assert api.call("GET", f"{LETTERS}/{letter}", token=editor).status == 403
    for token in (viewer, half, cleaner):
        assert api.call("POST", f"{LETTERS}/{letter}/redrive", token=token).status == 403
    assert api.call("POST", f"{LETTERS}/{letter}/redrive", token=editor).status == 202
    assert api.call("DELETE", f"{LETTERS}/{letter}", token=viewer).status == 403
    assert api.call("DELETE", f"{LETTERS}/{letter}", token=cleaner).status == 204


def test_a_worker_is_good_for_runs_of_its_own_automation_only(world: World) -> None:
    video, audio = world.automation("video"), world.automation("audio")
    world.role("runner", ("create", "automations/execute"))
    api, runner = world.api, world.token("runner")
    mine = api.call("POST", "/api/v1/automations/video/execute", {"a": 1}, token=runner).json["job_id"]
    theirs = api.call("POST", "/api/v1/automations/audio/execute", {}, token=runner).json["job_id"]
    for automation in (video, audio):
        found = api.store.live(f"{world.namespace}.{automation['metadata']['name']}")
        assert found is not None
        api.queued(found[0])
    pod = world.deployment("video", video)
    token = world.pod_token(pod)
    uid = world.get("pod", pod)["metadata"]["uid"]
    starts = [{"op": "start", "job": job, "worker": f"{uid}/p"} for job in (mine, theirs)]
    answers = api.call("POST", REPORTS, starts, token=token)
    assert answers.status == 200, answers.body
    assert [(answer["status"], answer.get("reason")) for answer in answers.json] == [(200, None), (403, "NotYourRun")]
    assert answers.json[0]["parameters"] == {"a": 1}
    older = api.call("POST", f"/api/v1/worker/jobs/{theirs}/start", token=token)
    assert (older.status, older.json["reason"]) == (403, "NotYourRun")
    # A worker's token is for workers' routes.
    assert api.call("POST", "/api/v1/automations/video/execute", {}, token=token).status == 401


def test_the_older_contract_knows_a_worker_by_its_pod(world: World) -> None:
    video = world.automation("video")
    world.role("runner", ("create", "automations/execute"))
    api = world.api
    job = api.call("POST", "/api/v1/automations/video/execute", {}, token=world.token("runner")).json["job_id"]
    found = api.store.live(f"{world.namespace}.video")
    assert found is not None
    api.queued(found[0])
    pod = world.deployment("video", video)
    token = world.pod_token(pod)
    assert api.call("POST", f"/api/v1/worker/jobs/{job}/start", token=token).status == 200
    run = api.loop.run(api.store.get(UUID(job)))
    assert run is not None
    assert run.holder == world.get("pod", pod)["metadata"]["uid"]


def test_a_job_is_a_worker_too(world: World) -> None:
    video = world.automation("video", launch="Job", worker={"image": "example.org/worker"})
    metadata = {
        "name": "run-1",
        "namespace": world.namespace,
        "ownerReferences": [owner_reference(video)],
    }
    template = {
        "metadata": {"labels": {"maestro-operator.io/run": "run-1"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "example.org/worker"}]},
    }
    world.server.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {"backoffLimit": 0, "template": template},
        }
    )
    world.role("runner", ("create", "automations/execute"))
    api = world.api
    answer = api.call("POST", "/api/v1/automations/video/execute", {"n": 1}, token=world.token("runner"))
    token = world.pod_token(world.pod("maestro-operator.io/run=run-1"))
    parameters = api.call("GET", f"/api/v1/worker/jobs/{answer.json['job_id']}/parameters", token=token)
    assert (parameters.status, parameters.json) == (200, {"n": 1})


def test_tokens_that_are_no_workers(world: World) -> None:
    video = world.automation("video")
    pod = world.deployment("video", video)
    stranger = world.deployment("stranger", None)
    unbound = world.token("default", "--audience", "maestro")
    api = world.api
    assert api.call("POST", REPORTS, [], token=world.pod_token(pod)).status == 200
    for token, status in (
        (world.pod_token(pod, audience="another"), 401),
        (world.token("default"), 401),
        (unbound, 403),
        (world.pod_token(stranger), 403),
        ("eyJhbGciOiJub25lIn0.e30.", 401),
    ):
        assert api.call("POST", REPORTS, [], token=token).status == status


def test_while_the_api_server_is_away_a_known_worker_goes_on(tmp_path: Path) -> None:
    with ApiServer() as server, server.namespace("http", labels={}) as namespace:
        api = Api(tmp_path, kubernetes_authenticator(server), default_namespace=namespace)
        try:
            world = World(server, namespace, api)
            pod = world.deployment("video", world.automation("video"))
            known, unknown, person = world.pod_token(pod), world.pod_token(pod), world.token("default")
            assert api.call("POST", REPORTS, [], token=known).status == 200
            server.stop()
            assert api.call("POST", REPORTS, [], token=known).status == 200
            for path, token in ((REPORTS, unknown), ("/api/v1/automations/video/execute", person)):
                answer = api.call("POST", path, [], token=token)
                assert answer.status == 503, answer.body
                assert int(answer.headers["Retry-After"]) > 0
            server.resume()
            assert api.call("POST", REPORTS, [], token=unknown).status == 200
        finally:
            api.close()


def test_no_token_reaches_a_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = world.token("default")
    world.api.call("GET", "/api/v1/jobs", token=token)
    world.api.call("POST", REPORTS, [], token=token)
    assert caplog.text
    assert token not in caplog.text
    assert token.split(".")[2] not in json.dumps([record.__dict__ for record in caplog.records], default=repr)
