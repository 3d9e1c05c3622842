"""What was accepted ends, whatever dies on the way."""

from __future__ import annotations

import json

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.process import wait_for
from tests.e2e.client import Client
from tests.e2e.installation import NAMESPACE

pytestmark = pytest.mark.e2e

SLEEPER = """
import time
from maestro_worker import Run, worker

@worker
def nap(run: Run, seconds: float = 1.0) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run.progress()
        time.sleep(0.1)
    return "slept"
"""


def sleeper(cluster: Cluster, namespace: str, replicas: int = 2) -> str:
    """An Automation whose Runs take as long as they are told; its code comes from a ConfigMap. Returns its id."""
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "naps", "namespace": namespace},
         "data": {"naps.py": SLEEPER}},
        {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Automation",
            "metadata": {"name": "naps", "namespace": namespace},
            "spec": {
                "worker": {
                    "image": "maestro-example-video:latest",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-m", "maestro_worker", "naps:nap"],
                    "env": [{"name": "PYTHONPATH", "value": "/code"}],
                    "replicas": replicas,
                    "concurrency": 2,
                    "template": {
                        "spec": {
                            "volumes": [{"name": "code", "configMap": {"name": "naps"}}],
                            "containers": [
                                {"name": "worker", "volumeMounts": [{"name": "code", "mountPath": "/code"}]}
                            ],
                        }
                    },
                },
                "run": {"retry": {"attempts": 3, "backoff": {"initial": "1s"}}},
            },
        },
    )  # fmt: skip
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "automation/naps", "--timeout=120s")
    return f"{namespace}.naps"


def running(api: Client, ids: list[str]) -> list[str]:
    return [run_id for run_id in ids if api.run(run_id)["state"] == "Running"]


def test_a_killed_worker_costs_an_attempt_and_no_run(maestro: Cluster, namespace: str, api: Client) -> None:
    automation = sleeper(maestro, namespace)
    ids = api.execute_many(automation, [{"seconds": 8} for _ in range(4)])
    wait_for("all four to run", lambda: len(running(api, ids)) == 4, timeout=60)

    (victim, *_) = maestro.kubectl("-n", namespace, "get", "pods", "-o", "name").split()
    maestro.kubectl("-n", namespace, "delete", victim, "--grace-period=0", "--force", "--wait=false")

    runs = api.ended(automation, ids)
    assert {run["state"] for run in runs} == {"Succeeded"}
    assert sorted(len(run["attempts"]) for run in runs) == [1, 1, 2, 2]


def test_operator_and_broker_killed_under_load(maestro: Cluster, namespace: str, api: Client) -> None:
    automation = sleeper(maestro, namespace)
    ids = api.execute_many(automation, [{"seconds": 0.5} for _ in range(60)])
    wait_for("work to begin", lambda: running(api, ids[:8]), timeout=60)

    for pod in ("maestro-rabbitmq-0", "maestro-0"):
        maestro.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
    maestro.kubectl("-n", NAMESPACE, "rollout", "status", "statefulset", "--timeout=120s")

    from tests.e2e.client import port_forward

    with port_forward(maestro) as base:  # the old one ended with its pod
        again = Client(base, api.token, api.pool)
        runs = again.ended(automation, ids, timeout=300)
    assert {run["state"] for run in runs} == {"Succeeded"}


def test_a_deleted_automation_leaves_nothing(maestro: Cluster, namespace: str, api: Client) -> None:
    automation = sleeper(maestro, namespace, replicas=1)
    ids = api.execute_many(automation, [{"seconds": 1} for _ in range(20)])
    wait_for("work to begin", lambda: running(api, ids), timeout=60)

    maestro.kubectl("-n", namespace, "delete", "automation", "naps", "--timeout=10s")

    runs = api.ended(automation, ids)
    assert {run["state"] for run in runs} <= {"Succeeded", "Canceled"}
    assert "AutomationDeleted" in {run["reason"] for run in runs}

    def nothing_left() -> bool:
        left = json.loads(maestro.kubectl("-n", namespace, "get", "deployments,secrets,pods", "-o", "json"))["items"]
        return not left

    wait_for("Kubernetes to collect what it owned", nothing_left, timeout=120)
