"""What is under attack: Maestro by its chart, one Automation with its workers, and a client that never gives up."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from tests.chaos import ledger
from tests.cluster.cluster import Cluster
from tests.cluster.errors import CommandError
from tests.cluster.process import wait_for
from tests.e2e.installation import NAMESPACE, RELEASE

AUTOMATION = "work"
ENDED = frozenset({"Succeeded", "Failed", "Canceled"})
LEASE_SECONDS = 15
PATIENCE = 120.0


@dataclass
class World:
    """See the module.

    Attributes
    ----------
    accepted
        The Runs that the API said it had accepted.
    seen_ended
        What was first seen of a Run that had ended: (state, result).
    """

    cluster: Cluster
    namespace: str
    store: str
    base: str
    token: str
    ledger: Path
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(maxsize=16, retries=False))
    accepted: list[str] = field(default_factory=list)
    seen_ended: dict[str, tuple[str, str]] = field(default_factory=dict)

    # -- the API, through any outage ----------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """One request, repeated until it gets an answer that isn't about an outage."""
        deadline = time.monotonic() + PATIENCE
        content = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        while True:
            status, answer = 0, b""
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
                reply = self.http.request(method, f"{self.base}/api/v1{path}", body=content, headers=sent, timeout=10.0)
                status, answer = reply.status, reply.data
            if status and status < 500 and status != 429:
                assert status < 300, f"{method} {path}: {status} {answer[:500]!r}"
                return json.loads(answer)
            assert time.monotonic() < deadline, f"{method} {path}: {status} for {PATIENCE:g} s: {answer[:500]!r}"
            time.sleep(0.2)

    def submit(self, batch: int, parameters: list[dict[str, Any]]) -> None:
        """Accept a batch of Runs; the idempotency key makes its repeats harmless."""
        lines = [{"parameters": each} for each in parameters]
        path = f"/automations/{self.namespace}.{AUTOMATION}/execute-many"
        answer = self.call("POST", path, lines, **{"Idempotency-Key": f"batch-{batch}"})
        self.accepted += [item["job_id"] for item in answer["items"]]

    def runs(self) -> Iterator[dict[str, Any]]:
        """Every Run of the Automation."""
        cursor = ""
        while True:
            page = self.call("GET", f"/jobs?limit=200&automation={self.namespace}.{AUTOMATION}{cursor}")
            yield from page["items"]
            if not page.get("next"):
                return
            cursor = f"&cursor={page['next']}"

    def look(self) -> int:
        """Look at every Run, remember what has ended; how many haven't."""
        open_runs = 0
        for run in self.runs():
            if run["state"] in ENDED:
                self.seen_ended.setdefault(run["id"], end_of(run))
            else:
                open_runs += 1
        return open_runs

    # -- pods ----------------------------------------------------------------------------------------------------------

    def pods(self, namespace: str, selector: str) -> list[str]:
        """The names of running pods; none while the API server is away."""
        with contextlib.suppress(CommandError):
            found = self.cluster.get("pods", "-n", namespace, "-l", selector)["items"]
            return [
                pod["metadata"]["name"]
                for pod in found
                if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
            ]
        return []

    def workers(self) -> list[str]:
        return self.pods(self.namespace, f"maestro-operator.io/automation={AUTOMATION}")

    def component(self, name: str) -> list[str]:
        """Pods of Maestro's own; on SQLite controller and API are one."""
        shared = self.store == "sqlite" and name in ("controller", "api")
        return self.pods(NAMESPACE, f"app.kubernetes.io/component={'maestro' if shared else name}")


def end_of(run: dict[str, Any]) -> tuple[str, str]:
    """What may never change of a Run that has ended: its state, and reason and result."""
    return run["state"], json.dumps([run["reason"], run["result"]], sort_keys=True)


def automation(namespace: str, replicas: int) -> dict[str, Any]:
    """The Automation: short leases, and attempts enough that chance alone fails no Run."""
    return {
        "apiVersion": "maestro-operator.io/v1alpha1",
        "kind": "Automation",
        "metadata": {"name": AUTOMATION, "namespace": namespace},
        "spec": {
            "worker": {
                "image": "maestro-example-video:latest",
                "imagePullPolicy": "IfNotPresent",
                "command": ["python", "-m", "maestro_worker", "chaos:work"],
                "env": [{"name": "PYTHONPATH", "value": "/code"}],
                "replicas": replicas,
                "concurrency": 4,
                "drainTimeout": "20s",
                "template": {
                    "spec": {
                        "volumes": [
                            {"name": "code", "configMap": {"name": "chaos"}},
                            {"name": "ledger", "persistentVolumeClaim": {"claimName": "ledger"}},
                        ],
                        "containers": [
                            {
                                "name": "worker",
                                "volumeMounts": [
                                    {"name": "code", "mountPath": "/code"},
                                    {"name": "ledger", "mountPath": "/ledger"},
                                ],
                            }
                        ],
                    }
                },
            },
            "run": {
                "heartbeatTimeout": f"{LEASE_SECONDS}s",
                "pauseAfterFailures": 0,
                "retry": {"attempts": 20, "backoff": {"initial": "1s", "max": "5s"}},
            },
            "history": {"succeeded": {"limit": 100000}, "failed": {"limit": 100000}},
        },
    }


@contextlib.contextmanager
def world(cluster: Cluster, namespace: str, store: str, replicas: int) -> Iterator[World]:
    """Apply the Automation on the Maestro that is installed, and wait for its workers."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "chaos", "namespace": namespace},
         "data": {"chaos.py": ledger.WORKER}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "ledger", "namespace": namespace},
         "spec": claim},
        automation(namespace, replicas),
    )  # fmt: skip
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"automation/{AUTOMATION}", "--timeout=180s")
    volume = cluster.get("pvc", "ledger", "-n", namespace)["spec"]["volumeName"]
    folder = Path(cluster.get("pv", volume)["spec"]["hostPath"]["path"])
    address = cluster.get("service", RELEASE, "-n", NAMESPACE)["spec"]["clusterIP"]
    cluster.kubectl("-n", namespace, "create", "serviceaccount", "chaos")
    cluster.kubectl("-n", namespace, "create", "rolebinding", "chaos", f"--clusterrole={RELEASE}-editor",
                    f"--serviceaccount={namespace}:chaos")  # fmt: skip
    token = cluster.kubectl("-n", namespace, "create", "token", "chaos", "--duration=4h").strip()
    made = World(cluster, namespace, store, f"http://{address}:8080", token, folder)
    wait_for("every worker runs", lambda: len(made.workers()) == replicas, timeout=120)
    yield made


def submitting(made: World, runs: int, seconds: float, dice: Any) -> threading.Thread:
    """A thread that submits so many Runs, spread over `seconds`."""
    size = 50
    batches = [
        [{"seconds": round(min(dice.expovariate(1.5), 4.0), 3)} for _ in range(min(size, runs - first))]
        for first in range(0, runs, size)
    ]
    begun = time.monotonic()

    def submit() -> None:
        for number, batch in enumerate(batches):
            made.submit(number, batch)
            ahead = begun + seconds * (number + 1) / len(batches) - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)

    thread = threading.Thread(target=submit, name="submit")
    thread.start()
    return thread
