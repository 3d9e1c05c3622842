"""The node runs what Maestro needs: restricted pods, DNS, Services, volumes, Jobs, logs, exec."""

from __future__ import annotations

import json

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.errors import CommandError
from tests.cluster.process import wait_for

pytestmark = pytest.mark.e2e

IMAGE = "localhost/maestro-cluster/base:latest"


def pod(name: str, script: str, **spec: object) -> dict:
    """A pod that the restricted standard lets in and that runs a Python script."""
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "-c", script],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **spec.pop("container", {}),  # type: ignore[dict-item]
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            **spec,
        },
    }


def apply(cluster: Cluster, namespace: str, *objects: dict) -> None:
    for item in objects:
        item["metadata"]["namespace"] = namespace
    cluster.apply(*objects)


def succeeded(cluster: Cluster, namespace: str, name: str) -> str:
    """Wait until a pod has succeeded and return its log."""
    cluster.kubectl("wait", "-n", namespace, f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    return cluster.kubectl("logs", "-n", namespace, name)


def test_a_service_answers_under_its_dns_name(cluster: Cluster, namespace: str) -> None:
    cluster.load_image("base")
    server = pod("web", "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=8000, bind='0.0.0.0')")
    server["spec"]["containers"][0]["workingDir"] = "/etc"
    server["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    client = pod(
        "client",
        "import time, urllib.error, urllib.request\n"
        "for _ in range(100):\n"
        "    try:\n"
        f"        print(urllib.request.urlopen('http://web.{namespace}.svc/', timeout=2).status); break\n"
        "    except urllib.error.HTTPError: raise\n"
        "    except OSError as error: print(error); time.sleep(.2)\n",
    )
    apply(cluster, namespace, server, service, client)

    assert succeeded(cluster, namespace, "client").split()[-1] == "200"
    assert cluster.kubectl("exec", "-n", namespace, "web", "--", "id", "-u").strip() == "65532"


def test_the_restricted_standard_is_enforced(cluster: Cluster, namespace: str) -> None:
    refused = pod("root", "pass")
    del refused["spec"]["securityContext"]

    with pytest.raises(CommandError, match="restricted"):
        apply(cluster, namespace, refused)


def test_a_claim_gets_an_empty_volume_that_an_ordinary_user_may_write_to(cluster: Cluster, namespace: str) -> None:
    cluster.load_image("base")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    writer = pod(
        "writer",
        "import os; print(os.listdir('/data')); open('/data/file', 'w').write('x')",
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    )
    apply(cluster, namespace, claim, writer)
    assert succeeded(cluster, namespace, "writer").strip() == "[]"

    volume = cluster.get("pvc", "data", "-n", namespace)["spec"]["volumeName"]
    cluster.kubectl("delete", "pod/writer", "pvc/data", "-n", namespace, "--wait=true")

    def offered_again() -> bool:
        found = json.loads(cluster.kubectl("get", "pv", volume, "--ignore-not-found", "-o", "json") or "null")
        # kind's own provisioner removes the volume, the native cluster wipes it for the next claim.
        return found is None or found["status"]["phase"] == "Available"

    wait_for(f"{volume} is free", offered_again, timeout=90, every=0.5)


def test_a_container_over_its_memory_limit_is_killed(cluster: Cluster, namespace: str) -> None:
    cluster.load_image("base")
    eater = pod(
        "eater",
        "x = bytearray(200 << 20); print(len(x))",
        container={"resources": {"limits": {"memory": "64Mi"}}},
    )
    apply(cluster, namespace, eater)
    cluster.kubectl("wait", "-n", namespace, "pod/eater", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")

    state = cluster.get("pod", "eater", "-n", namespace)["status"]["containerStatuses"][0]["state"]
    assert state["terminated"]["reason"] == "OOMKilled"
