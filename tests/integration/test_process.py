"""The whole program as its own process: `maestro run` against a real API server, broker and store."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from tests.cluster import ports
from tests.cluster.apiserver import ApiServer
from tests.cluster.postgres import Postgres
from tests.cluster.process import wait_for
from tests.cluster.rabbitmq import RabbitMQ
from tests.workers.processes import API_KEY, Worker

from maestro.runs.model import RunState

HTTP = urllib3.PoolManager(retries=False, timeout=10.0)


class Maestro:
    """One process of the program, with its log in a file."""

    def __init__(self, environment: dict[str, str], folder: Path, name: str, **settings: object) -> None:
        self.http, self.metrics, self.gateway = ports.reserve(), ports.reserve(), ports.reserve()
        ours = {
            "http_host": "127.0.0.1",
            "http_port": self.http,
            "metrics_port": self.metrics,
            "gateway_port": self.gateway,
            "identity": name,
            "log_format": "text",
            **settings,
        }
        self.log = folder / f"{name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "maestro", "run"],
                env={**environment, **{f"MAESTRO_{key.upper()}": str(value) for key, value in ours.items()}},
                stdout=log,
                stderr=log,
            )

    @property
    def ready(self) -> bool:
        """Whether its readiness check passes."""
        assert self.process.poll() is None, f"it ended:\n{self.log.read_text()[-3000:]}"
        try:
            return HTTP.request("GET", f"http://127.0.0.1:{self.metrics}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def await_ready(self) -> None:
        wait_for(f"readiness, see {self.log}", lambda: self.ready, timeout=120)

    def call(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request to the API."""
        headers = {"Authorization": f"Bearer {token}"}
        content = None if body is None else json.dumps(body).encode()
        answer = HTTP.request(method, f"http://127.0.0.1:{self.http}/api/v1{path}", body=content, headers=headers)
        return answer.status, json.loads(answer.data)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def namespace(apiserver: ApiServer, rabbitmq: RabbitMQ) -> Iterator[str]:
    """A namespace with the broker's Secret in it."""
    rabbitmq.reset()
    with apiserver.namespace("process") as name:
        amqp, management = urlsplit(rabbitmq.amqp_url), urlsplit(rabbitmq.management_url)
        apiserver.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "maestro-operator.io/broker",
                "metadata": {"name": "broker", "namespace": name},
                "stringData": {
                    "username": rabbitmq.user,
                    "password": rabbitmq.password,
                    "host": str(amqp.hostname),
                    "port": str(amqp.port),
                    "management-port": str(management.port),
                },
            }
        )
        yield name


@pytest.fixture
def environment(apiserver: ApiServer, namespace: str, tmp_path: Path) -> dict[str, str]:
    """What every process of an installation shares."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("MAESTRO_")},
        "KUBECONFIG": str(apiserver.kubeconfig),
        "MAESTRO_NAMESPACE": namespace,
        "MAESTRO_WATCH_NAMESPACES": namespace,
        "MAESTRO_BROKER_SECRET": "broker",
        "MAESTRO_BROKER_MANAGED": "false",
        "MAESTRO_STORE_URL": f"sqlite:///{tmp_path}/maestro.db",
        "MAESTRO_RESYNC_SECONDS": "2",
    }


@contextmanager
def running(*processes: Maestro) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def automation(apiserver: ApiServer, namespace: str, name: str) -> None:
    """Apply an Automation whose workers live elsewhere, and wait until it is Ready."""
    apiserver.apply(
        {
            "apiVersion": "maestro-operator.io/v1alpha1",
            "kind": "Automation",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {},
        }
    )
    apiserver.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"automation/{name}", "--timeout=60s")


def token_of(apiserver: ApiServer, namespace: str) -> str:
    """A person's token that may do everything in the namespace."""
    apiserver.kubectl("-n", namespace, "create", "serviceaccount", "person")
    apiserver.kubectl("create", "clusterrolebinding", f"{namespace}-person", "--clusterrole=cluster-admin",
                      f"--serviceaccount={namespace}:person")  # fmt: skip
    return apiserver.kubectl("-n", namespace, "create", "token", "person").strip()


def queued(rabbitmq: RabbitMQ, namespace: str, name: str) -> int:
    """Messages on an Automation's queue, as the broker says."""
    found = rabbitmq.api("GET", f"/api/queues/%2F/maestro.{namespace}.{name}", missing_ok=True)
    return int((found or {}).get("messages", 0))


def test_outages_need_no_restart(
    apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, environment: dict[str, str], tmp_path: Path
) -> None:
    maestro = Maestro(environment, tmp_path, "only")
    with running(maestro):
        maestro.await_ready()
        automation(apiserver, namespace, "first")

        apiserver.kill()
        assert maestro.ready, "an API server that is away doesn't take the process down"
        apiserver.restart()
        automation(apiserver, namespace, "second")

        rabbitmq.restart()
        automation(apiserver, namespace, "third")

        token = token_of(apiserver, namespace)
        status, body = maestro.call(token, "POST", f"/automations/{namespace}.third/execute", {})
        assert (status, body["status"]) == (202, "pending")
        wait_for("the message", lambda: queued(rabbitmq, namespace, "third") == 1, timeout=60)
        assert maestro.stop() == 0


def test_a_rotated_password_of_the_administrator_is_picked_up(
    apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, environment: dict[str, str], tmp_path: Path
) -> None:
    def rotate(password: str) -> None:
        rabbitmq.api("PUT", "/api/users/rotated", {"password": password, "tags": "administrator"})
        secret = {"username": "rotated", "password": password}
        patch = json.dumps({"stringData": secret})
        apiserver.kubectl("-n", namespace, "patch", "secret", "broker", "--type=merge", "-p", patch)

    rotate("the first")
    rabbitmq.api("PUT", "/api/permissions/%2F/rotated", {"configure": ".*", "write": ".*", "read": ".*"})
    maestro = Maestro(environment, tmp_path, "only")
    with running(maestro):
        maestro.await_ready()
        automation(apiserver, namespace, "first")
        rotate("the second")
        wait_for("the new password", lambda: "other credentials" in maestro.log.read_text(), timeout=60)
        rabbitmq.restart()  # it has to log in anew
        automation(apiserver, namespace, "second")
        token = token_of(apiserver, namespace)
        assert maestro.call(token, "POST", f"/automations/{namespace}.second/execute", {})[0] == 202
        wait_for("the message", lambda: queued(rabbitmq, namespace, "second") == 1, timeout=60)
        assert "the second" not in maestro.log.read_text()


def test_settings_that_cannot_be_used_are_named(environment: dict[str, str]) -> None:
    environment |= {"MAESTRO_HTTP_PORT": "eighty", "MAESTRO_ROLE": "king"}
    done = subprocess.run(
        [sys.executable, "-m", "maestro", "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "MAESTRO_HTTP_PORT" in done.stderr
    assert "MAESTRO_ROLE" in done.stderr
    assert "eighty" not in done.stderr, "a value could be a secret"


def test_dispatch_goes_from_leader_to_leader_without_a_gap_or_a_double_effect(
    apiserver: ApiServer,
    rabbitmq: RabbitMQ,
    postgres: Postgres,
    namespace: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """Two APIs and a worker go on; of the controllers one is killed in the middle of it, the next loses its Lease."""
    marks = tmp_path / "marks"
    marks.mkdir()
    key = tmp_path / "key"
    key.write_text(API_KEY)
    with postgres.database() as url, ExitStack() as stack:
        url_file = tmp_path / "url"
        url_file.write_text(url)
        environment |= {"MAESTRO_STORE_URL_FILE": str(url_file), "MAESTRO_WORKER_API_KEY_FILE": str(key)}

        def start(name: str, role: str) -> Maestro:
            process = Maestro(environment, tmp_path, name, role=role)
            stack.enter_context(running(process))
            return process

        first = start("first", "controller")
        apis = [start(f"api-{n}", "api") for n in range(2)]
        for process in (first, *apis):
            process.await_ready()
        second = start("second", "controller")
        second.await_ready()
        automation(apiserver, namespace, "shared")
        token = token_of(apiserver, namespace)
        secret = apiserver.kubectl("-n", namespace, "get", "secret", "shared-broker", "-o", "jsonpath={.data.url}")
        worker = Worker(
            "worker",
            "tests.workers.functions:note",
            tmp_path,
            maestro=f"http://127.0.0.1:{apis[0].http}",
            broker=base64.b64decode(secret).decode(),
            queue=f"maestro.{namespace}.shared",
            concurrency=16,
        )
        stack.callback(worker.kill)
        worker.ready()
        runs: list[str] = []

        def submit(count: int) -> None:
            lines = [{"parameters": {"folder": str(marks), "number": n}} for n in range(count)]
            path = f"/automations/{namespace}.shared/execute-many"
            status, body = apis[len(runs) % 2].call(token, "POST", path, lines)
            assert status == 202, body
            runs.extend(item["job_id"] for item in body["items"])

        def done(what: str) -> int:
            return len(list(marks.glob(f"*.{what}")))

        submit(1200)
        wait_for("work to begin", lambda: done("began"), timeout=60)
        first.kill()
        submit(300)
        wait_for("the second to lead and everything to be done", lambda: done("ended") == len(runs), timeout=120)

        submit(600)
        wait_for("work to begin again", lambda: done("ended") > 1500, timeout=60)
        stolen = {"holderIdentity": "a thief", "leaseDurationSeconds": 1}
        apiserver.kubectl(
            "-n", namespace, "patch", "lease", "maestro", "--type=merge", "-p", json.dumps({"spec": stolen})
        )
        third = start("third", "controller")
        assert second.process.wait(timeout=30) == 1, "who loses the Lease ends"
        submit(300)
        wait_for("the third to lead and everything to be done", lambda: done("ended") == len(runs), timeout=120)

        wait_for("an empty queue", lambda: queued(rabbitmq, namespace, "shared") == 0, timeout=60)
        ended = postgres.sql("SELECT state, attempt, count(*) FROM run GROUP BY 1, 2", urlsplit(url).path[1:])
        assert ended.strip().split("|") == [str(RunState.SUCCEEDED.code), "1", str(len(runs))], "state, attempts, Runs"
        for run_id in runs:
            assert len((marks / f"{run_id}.ended").read_text().splitlines()) == 1, "no function ran twice"
        assert third.stop() == 0
