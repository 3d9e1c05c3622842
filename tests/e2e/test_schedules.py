"""Schedules on a node: the examples apply, Jobs run in pods, and what people do to a Schedule while one runs."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from typing import Any

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.errors import CommandError
from tests.cluster.paths import REPOSITORY
from tests.cluster.process import wait_for
from tests.e2e.client import Client
from tests.e2e.test_jobs import job

pytestmark = pytest.mark.e2e

EXAMPLES = REPOSITORY / "manifests" / "examples" / "schedule" / "schedules.yaml"
RUN_NOW = "maestro-operator.io/run-now"


@pytest.fixture(scope="module", autouse=True)
def plain_image(maestro: Cluster) -> None:
    maestro.load_image("postgres")


def _get(cluster: Cluster, namespace: str, kind: str, name: str = "") -> Any:
    return json.loads(cluster.kubectl("-n", namespace, "get", kind, *filter(None, [name]), "-o", "json"))


def _wait(cluster: Cluster, namespace: str, name: str, path: str, value: str, timeout: int = 90) -> None:
    """Until a JSONPath of a Schedule has a value (`kubectl wait` gives up where a list is empty)."""

    def there() -> bool:
        with contextlib.suppress(CommandError):
            shown = cluster.kubectl(
                "-n", namespace, "get", f"schedules.maestro-operator.io/{name}", f"-ojsonpath={path}"
            )
            return shown == value
        return False

    wait_for(f"{path} of Schedule {name} to be {value}", there, timeout=timeout, every=0.5)


def test_the_examples(maestro: Cluster, namespace: str, api: Client) -> None:
    job(maestro, namespace, "hello", 'echo "Hello, $PARAM_NAME"', defaultParameters={"name": "world"})
    maestro.kubectl("-n", namespace, "apply", "-f", str(EXAMPLES))
    for name in ("monthly-close", "nightly-import", "every-minute"):
        maestro.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"sched/{name}", "--timeout=60s")
    # The tick of the next full minute.
    _wait(maestro, namespace, "every-minute", "{.status.recentTicks[0].outcome}", "Started", 100)
    _wait(maestro, namespace, "every-minute", '{.status.conditions[?(@.type=="LastRunSucceeded")].status}', "True")
    found = _get(maestro, namespace, "sched", "every-minute")
    tick = found["status"]["recentTicks"][-1]
    run = api.run(tick["run"])
    assert datetime.fromisoformat(run["scheduledTime"]) == datetime.fromisoformat(tick["time"])
    assert f"Hello, {tick['time'][:10]}" in run["result"]["log"]
    table = maestro.kubectl("-n", namespace, "get", "schedules.maestro-operator.io").splitlines()
    assert table[0].split() == ["NAME", "SCHEDULE", "TIMEZONE", "AUTOMATION", "STATUS", "ACTIVE", "LAST", "NEXT", "AGE"]
    assert len(table) == 4
    assert all(" Ready " in line for line in table[1:]), table


def test_edits_while_a_job_runs(maestro: Cluster, namespace: str, api: Client) -> None:
    """Run now, suspend, resume, edit; then the Schedule is deleted, and its Job goes with it."""
    job(maestro, namespace, "long", "trap 'exit 1' TERM; sleep 600 & wait")
    spec = {"automation": "long", "schedule": "0 0 1 1 *"}
    meta = {"name": "yearly", "namespace": namespace, "annotations": {RUN_NOW: "1"}}
    maestro.apply({"apiVersion": "maestro-operator.io/v1alpha1", "kind": "Schedule", "metadata": meta, "spec": spec})
    _wait(maestro, namespace, "yearly", "{.status.active[0].kind}", "Job")
    active = _get(maestro, namespace, "sched", "yearly")["status"]["active"][0]["name"]
    maestro.kubectl("-n", namespace, "wait", f"job/{active}", "--for=jsonpath={.status.ready}=1", "--timeout=90s")
    run = _get(maestro, namespace, "sched", "yearly")["status"]["recentTicks"][0]["run"]
    changes = [({"suspend": True}, "Suspended"), ({"suspend": False}, "Ready"), ({"schedule": "0 0 2 1 *"}, "Ready")]
    for change, reason in changes:
        maestro.kubectl(
            "-n", namespace, "patch", "sched", "yearly", "--type", "merge", "-p", json.dumps({"spec": change})
        )
        _wait(maestro, namespace, "yearly", '{.status.conditions[?(@.type=="Ready")].reason}', reason)
    assert _get(maestro, namespace, "sched", "yearly")["status"]["active"][0]["name"] == active
    maestro.kubectl("-n", namespace, "delete", "sched", "yearly")
    maestro.kubectl("-n", namespace, "wait", f"job/{active}", "--for=delete", "--timeout=90s")
    (ended,) = api.ended(f"{namespace}.long", [run])
    assert (ended["state"], ended["reason"]) == ("Canceled", "ScheduleDeleted")
