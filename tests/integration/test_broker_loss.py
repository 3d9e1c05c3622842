"""Messages that the broker loses while 1,000 Runs wait: each of them runs all the same, and once."""

from __future__ import annotations

import base64
from pathlib import Path

import pika
import pytest
from tests.cluster.apiserver import ApiServer
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.test_process import Maestro as Product
from tests.integration.test_process import automation, environment, namespace, queued, running, token_of  # noqa: F401
from tests.workers import processes
from tests.workers.processes import API_KEY, Worker, declare, until

RUNS = 1_000
PATIENCE = 120.0


def marked(folder: Path, what: str) -> dict[str, int]:
    """By Run: how often its function began, or ended."""
    return {file.name.rpartition(".")[0]: len(file.read_text().splitlines()) for file in folder.glob(f"*.{what}")}


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_a_queue_that_is_emptied_under_a_thousand_waiting_runs(rabbitmq: RabbitMQ, tmp_path: Path, marks: Path) -> None:
    rabbitmq.reset()
    queue = "maestro.team.work"
    declare(rabbitmq, queue)
    maestro = processes.Maestro(tmp_path, rabbitmq, [processes.automation("work")], grace=1.0)
    worker = Worker(
        "worker",
        "tests.workers.functions:note",
        tmp_path,
        maestro=maestro,
        broker=rabbitmq,
        queue=queue,
        concurrency=16,
    )
    try:
        maestro.start()
        jobs = maestro.submit("work", [{"folder": str(marks), "number": n} for n in range(RUNS)])

        def messages() -> int:
            return int(rabbitmq.api("GET", f"/api/queues/%2F/{queue}").get("messages") or 0)

        until(lambda: messages() >= RUNS, "all wait on the queue", PATIENCE)
        rabbitmq.api("DELETE", f"/api/queues/%2F/{queue}/contents")
        worker.ready()
        left = "/jobs?limit=1&status=pending,running"
        until(lambda: maestro.call("GET", left)["items"] == [], "all have ended", PATIENCE)
        assert maestro.call("GET", "/jobs?limit=1&status=failed,canceled")["items"] == []
        assert marked(marks, "ended") == dict.fromkeys(jobs, 1)
        assert maestro.dead_letters() == []
    finally:
        worker.kill()
        maestro.kill()


def test_a_broker_that_is_replaced_under_a_thousand_waiting_runs(
    apiserver: ApiServer,
    rabbitmq: RabbitMQ,
    namespace: str,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
    marks: Path,
) -> None:
    """The whole program: a fresh broker gets its topology, its users and its messages again."""
    key = tmp_path / "worker-key"
    key.write_text(API_KEY)
    maestro = Product(environment, tmp_path, "only", worker_api_key_file=str(key))
    with running(maestro):
        maestro.await_ready()
        automation(apiserver, namespace, "work")
        token = token_of(apiserver, namespace)
        runs = [{"parameters": {"folder": str(marks), "number": n}} for n in range(RUNS)]
        status, answer = maestro.call(token, "POST", f"/automations/{namespace}.work/execute-many", runs)
        assert status == 202, answer
        jobs = [item["job_id"] for item in answer["items"]]
        until(lambda: queued(rabbitmq, namespace, "work") >= RUNS, "all wait on the queue", PATIENCE)

        rabbitmq.replace()
        assert queued(rabbitmq, namespace, "work") in range(RUNS)
        worker = worker_of(apiserver, namespace, tmp_path, maestro)
        try:
            worker.ready()
            publish(rabbitmq, f"maestro.{namespace}.work", b"not of a Run")
            until(lambda: len(marked(marks, "ended")) == RUNS, "all have run", PATIENCE)
            left = "/jobs?limit=1&status=pending,running"
            until(lambda: maestro.call(token, "GET", left)[1]["items"] == [], "all have ended", PATIENCE)
            letters = f"/dead-letters?automation={namespace}.work"
            until(lambda: maestro.call(token, "GET", letters)[1]["items"] != [], "what is no Run's is kept", PATIENCE)
            status = ("-n", namespace, "get", "automation", "work", "-o", "jsonpath={.status.runs.deadLettered}")
            until(lambda: apiserver.kubectl(*status) == "1", "it is counted in the status", PATIENCE)
            events = ("-n", namespace, "get", "events", "-o", "jsonpath={.items[*].reason}")
            until(lambda: "DeadLettered" in apiserver.kubectl(*events).split(), "it is told as an event", PATIENCE)
        finally:
            worker.kill()
        assert marked(marks, "ended") == dict.fromkeys(jobs, 1)
        failed = maestro.call(token, "GET", "/jobs?limit=1&status=failed,canceled")[1]["items"]
        assert failed == []


def publish(broker: RabbitMQ, queue: str, body: bytes) -> None:
    """Send a message that isn't Maestro's."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    connection.channel().basic_publish("", queue, body)
    connection.close()


def worker_of(apiserver: ApiServer, namespace: str, folder: Path, maestro: Product) -> Worker:  # noqa: F811
    """An SDK worker elsewhere, with the address and the password from the Automation's Secret."""
    path = "jsonpath={.data.url}"
    url = base64.b64decode(apiserver.kubectl("-n", namespace, "get", "secret", "work-broker", "-o", path)).decode()
    return Worker(
        "worker",
        "tests.workers.functions:note",
        folder,
        maestro=f"http://127.0.0.1:{maestro.http}",
        broker=url,
        queue=f"maestro.{namespace}.work",
        concurrency=16,
    )
