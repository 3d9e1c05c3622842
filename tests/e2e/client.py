"""The HTTP API as a person in a namespace calls it: a ServiceAccount with roles of the chart, a port-forward."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3
from tests.cluster import binaries
from tests.cluster.cluster import Cluster
from tests.cluster.process import wait_for
from tests.e2e.installation import NAMESPACE, RELEASE

ENDED = frozenset({"Succeeded", "Failed", "Canceled"})


@dataclass
class Client:
    """Calls with a token; `call` returns the status and the decoded body."""

    base: str
    token: str
    pool: urllib3.PoolManager

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request to a path below /api/v1."""
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **headers}
        content = None if body is None else json.dumps(body).encode()
        answer = self.pool.request(method, f"{self.base}/api/v1{path}", body=content, headers=sent, timeout=30.0)
        return answer.status, json.loads(answer.data) if answer.data else None

    def execute(self, automation: str, parameters: dict[str, Any] | None = None) -> str:
        """Accept one Run; returns its id."""
        status, body = self.call("POST", f"/automations/{automation}/execute", parameters or {})
        assert status == 202, body
        return str(body["job_id"])

    def execute_many(self, automation: str, parameters: list[dict[str, Any]]) -> list[str]:
        """Accept many Runs in one transaction; returns their ids in order."""
        lines = [{"parameters": each} for each in parameters]
        status, body = self.call("POST", f"/automations/{automation}/execute-many", lines)
        assert status == 202, body
        return [item["job_id"] for item in body["items"]]

    def run(self, run_id: str) -> dict[str, Any]:
        """One Run as the API shows it."""
        status, body = self.call("GET", f"/jobs/{run_id}")
        assert status == 200, body
        return body

    def ended(self, automation: str, run_ids: list[str], timeout: float = 180) -> list[dict[str, Any]]:
        """Wait until every one of these Runs ended; returns them."""
        found: dict[str, dict[str, Any]] = {}

        def all_ended() -> bool:
            for run_id in run_ids:
                if run_id not in found:
                    run = self.run(run_id)
                    if run["state"] not in ENDED:
                        return False
                    found[run_id] = run
            return True

        wait_for(f"{len(run_ids)} Runs of {automation} to end", all_ended, timeout=timeout)
        return [found[run_id] for run_id in run_ids]


@contextmanager
def client_of(cluster: Cluster, namespace: str, account: str = "editor", *roles: str) -> Iterator[Client]:
    """The API for a ServiceAccount with these roles of the chart in a namespace; by default an editor."""
    cluster.kubectl("-n", namespace, "create", "serviceaccount", account)
    for role in roles or ("editor",):
        cluster.kubectl("-n", namespace, "create", "rolebinding", f"{account}-{role}",
                        f"--clusterrole={RELEASE}-{role}", f"--serviceaccount={namespace}:{account}")  # fmt: skip
    token = cluster.kubectl("-n", namespace, "create", "token", account, "--duration=1h").strip()
    with port_forward(cluster) as base:
        yield Client(base, token, urllib3.PoolManager(retries=urllib3.Retry(connect=5, read=0, backoff_factor=0.2)))


@contextmanager
def port_forward(cluster: Cluster, port: int = 8080) -> Iterator[str]:
    """The API's Service on a port of this machine's loopback."""
    command = [binaries.find("kubectl"), "-n", NAMESPACE, "port-forward", f"svc/{RELEASE}", f":{port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **cluster.environment()}
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "->" in line, f"kubectl port-forward ended: {line}"
            yield "http://" + line.split("from ")[1].split(" ->")[0]
        finally:
            process.terminate()
