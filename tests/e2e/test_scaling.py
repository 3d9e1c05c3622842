"""Pods go and come under load, and no Run loses an attempt.

Four scale-downs as part of all tests; `make scale-downs` does twenty.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from typing import Any

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.process import wait_for
from tests.e2e.client import Client
from tests.e2e.test_faults import running, sleeper

from maestro.resources.names import DO_NOT_DISRUPT

pytestmark = pytest.mark.e2e

SCALE_DOWNS = int(os.environ.get("MAESTRO_SCALE_DOWNS", "4"))
SEED = int(os.environ.get("MAESTRO_SEED", "7"))


def pods(cluster: Cluster, namespace: str) -> dict[str, dict[str, Any]]:
    """The pods that aren't going, by their uid."""
    found = json.loads(cluster.kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    return {pod["metadata"]["uid"]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}


def ready(cluster: Cluster, namespace: str) -> int:
    """How many of them are ready."""
    return sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for pod in pods(cluster, namespace).values()
        for condition in pod["status"].get("conditions", [])
    )


def scale(cluster: Cluster, namespace: str, replicas: int) -> None:
    cluster.kubectl("-n", namespace, "scale", "automation", "naps", f"--replicas={replicas}")


def worker(cluster: Cluster, namespace: str, **fields: Any) -> None:
    """Change fields of the Automation's worker."""
    patch = json.dumps({"spec": {"worker": fields}})
    cluster.kubectl("-n", namespace, "patch", "automation", "naps", "--type=merge", "-p", patch)


def test_no_run_loses_an_attempt_over_scale_downs_under_load(maestro: Cluster, namespace: str, api: Client) -> None:
    chance = random.Random(SEED)
    automation = sleeper(maestro, namespace, replicas=4)
    worker(maestro, namespace, drainTimeout="4s")
    maestro.kubectl("-n", namespace, "rollout", "status", "deployment/naps", "--timeout=120s")
    ids: list[str] = []
    for round_ in range(SCALE_DOWNS):
        wait_for("four pods", lambda: ready(maestro, namespace) == 4, timeout=120)
        # Some outlast the drain and are handed back.
        fresh = api.execute_many(automation, [{"seconds": chance.choice([0.5, 2, 6, 15])} for _ in range(16)])
        wait_for("work in hand", lambda: len(running(api, fresh)) >= 4, timeout=60)  # noqa: B023
        ids += fresh
        left = chance.choice([1, 2])
        scale(maestro, namespace, left)
        wait_for(f"scale-down {round_ + 1}", lambda: len(pods(maestro, namespace)) == left, timeout=60)  # noqa: B023
        scale(maestro, namespace, 4)
    runs = api.ended(automation, ids, timeout=300)

    outcomes = Counter(attempt["outcome"] for run in runs for attempt in run["attempts"])
    print(f"{SCALE_DOWNS} scale-downs, {len(runs)} Runs, attempts: {dict(outcomes)}")
    assert {run["state"] for run in runs} == {"Succeeded"}
    assert {run["retryCount"] for run in runs} == {0}
    assert set(outcomes) <= {"succeeded", "released"}


def test_the_pod_at_work_stays_and_is_marked(maestro: Cluster, namespace: str, api: Client) -> None:
    automation = sleeper(maestro, namespace, replicas=4)
    wait_for("four pods", lambda: ready(maestro, namespace) == 4, timeout=120)
    (run_id,) = ids = [api.execute(automation, {"seconds": 25})]
    wait_for("it to run", lambda: running(api, ids), timeout=60)

    def marked() -> set[str]:
        return {
            uid
            for uid, pod in pods(maestro, namespace).items()
            if DO_NOT_DISRUPT.items() <= pod["metadata"].get("annotations", {}).items()
        }

    wait_for("the mark", marked, timeout=60)
    busy = marked()
    assert len(busy) == 1
    scale(maestro, namespace, 1)
    wait_for("one pod", lambda: len(pods(maestro, namespace)) == 1, timeout=60)
    assert set(pods(maestro, namespace)) == busy

    (run,) = api.ended(automation, ids)
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["succeeded"], run_id
    wait_for("the mark to go", lambda: not marked(), timeout=90)


def test_autoscaling_to_zero_and_back(maestro: Cluster, namespace: str, api: Client) -> None:
    automation = sleeper(maestro, namespace, replicas=0)
    worker(maestro, namespace, autoscaling={"minReplicas": 0, "maxReplicas": 3, "scaleDownDelay": "2s"})
    for _ in range(2):
        wait_for("no pod", lambda: not pods(maestro, namespace), timeout=120)
        ids = api.execute_many(automation, [{"seconds": 1} for _ in range(12)])
        wait_for("three pods", lambda: len(pods(maestro, namespace)) == 3, timeout=60)
        runs = api.ended(automation, ids)
        assert {(run["state"], len(run["attempts"])) for run in runs} == {("Succeeded", 1)}
    wait_for("no pod", lambda: not pods(maestro, namespace), timeout=120)
