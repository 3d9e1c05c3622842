"""Any image with `launch: Job` and no SDK: its exit code and the end of its log become the Run's end."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.cluster import Cluster
from tests.e2e.client import Client

pytestmark = pytest.mark.e2e


def job(cluster: Cluster, namespace: str, name: str, script: str, **spec: Any) -> str:
    """An Automation that runs a shell script in an image that knows nothing of Maestro. Returns its id."""
    cluster.apply(
        {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Automation",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "launch": "Job",
                "worker": {
                    "image": "docker.io/library/postgres:15",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/bin/sh", "-c", script],
                },
                "run": {"retry": {"attempts": 1}},
                **spec,
            },
        }
    )
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"automation/{name}", "--timeout=60s")
    return f"{namespace}.{name}"


@pytest.fixture(scope="module", autouse=True)
def plain_image(maestro: Cluster) -> None:
    maestro.load_image("postgres")


def test_exit_zero_succeeds_with_parameters(maestro: Cluster, namespace: str, api: Client) -> None:
    schema = {"type": "object", "properties": {"password": {"type": "string", "writeOnly": True}}}
    script = 'echo "hello $PARAM_WHO"; cat "$MAESTRO_PARAMETERS_FILE"'
    automation = job(maestro, namespace, "hello", script, parameterSchema=schema)
    given = {"who": "world", "deep": {"list": [1, 2]}, "password": "s3cret!"}
    (run,) = api.ended(automation, [api.execute(automation, given)])
    assert run["state"] == "Succeeded", run
    assert "hello world" in run["result"]["log"]
    assert '"list"' in run["result"]["log"]
    assert "s3cret!" not in str(run)


def test_a_failure_carries_exit_code_and_last_words(maestro: Cluster, namespace: str, api: Client) -> None:
    automation = job(maestro, namespace, "broken", "echo the disk is full >&2; exit 3")
    (run,) = api.ended(automation, [api.execute(automation)])
    assert run["state"] == "Failed"
    assert run["attempts"][-1]["exitCode"] == 3
    assert "the disk is full" in run["result"]["log"]


def test_out_of_memory_is_named(maestro: Cluster, namespace: str, api: Client) -> None:
    hungry = "head -c 200m /dev/zero | tail"
    automation = job(
        maestro,
        namespace,
        "hungry",
        hungry,
        worker={
            "image": "docker.io/library/postgres:15",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", f"exec {hungry}"],
            "resources": {"limits": {"memory": "24Mi"}},
        },
    )
    (run,) = api.ended(automation, [api.execute(automation)])
    assert run["state"] == "Failed"
