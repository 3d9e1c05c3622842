"""A worker of the older contract, unchanged, against the real API, store and dispatcher."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.workers.processes import API_KEY, ROOT, Maestro, Process, automation, declare, messages_ready, until

QUEUE = "robots.invoices"
ARGUMENTS = {"x-dead-letter-exchange": "maestro.dlx"}
KEY = {"X-Worker-API-Key": API_KEY}


class Older:
    """An Automation with `queue.name` and `queue.arguments`, and processes of its worker."""

    def __init__(self, folder: Path, broker: RabbitMQ) -> None:
        self.folder = folder
        self.broker = broker
        declare(broker, QUEUE, ARGUMENTS)
        policy = {"heartbeat_timeout": 2.0, "backoff_initial": 0.1, "timeout": 30.0}
        given = automation("invoices", queue=QUEUE, parameters_in_message=True, script_path="robots/invoices.py")
        self.maestro = Maestro(folder, broker, [given | {"policy": policy}])
        self.maestro.start()
        self.workers: list[Process] = []

    def worker(self, *, pod: int | None = None) -> Process:
        """One more worker, consuming: with the shared key, or with the token of a pod of its own."""
        credentials = {"API_KEY": API_KEY} if pod is None else {"TOKEN": f"pod.invoices.{pod}"}
        environ = {"AMQP_URL": self.broker.amqp_url, "QUEUE": QUEUE, "API_URL": self.maestro.url, **credentials}
        argv = [sys.executable, str(ROOT / "tests/workers/older/worker.py")]
        worker = Process(argv, self.folder / f"older-{len(self.workers)}.log", os.environ | environ)
        self.workers.append(worker)
        worker.start()
        until(lambda: "ready" in worker.text(), "the worker consumes")
        return worker

    def submit(self, **parameters: Any) -> str:
        [job] = self.maestro.submit("invoices", [parameters])
        return job

    def message(self) -> tuple[Any, bytes]:
        """Takes the one message that waits."""
        taken: list[tuple[Any, bytes]] = []
        connection = pika.BlockingConnection(pika.URLParameters(self.broker.amqp_url))
        channel = connection.channel()

        def take() -> bool:
            method, properties, body = channel.basic_get(QUEUE, auto_ack=True)
            if method is not None:
                taken.append((properties, body))
            return bool(taken)

        until(take, "a message is there")
        connection.close()
        return taken[0]

    def publish(self, properties: Any, body: bytes) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.broker.amqp_url))
        connection.channel().basic_publish("", QUEUE, body, properties)
        connection.close()

    def all_acknowledged(self) -> None:
        until(lambda: self.broker.api("GET", f"/api/queues/%2F/{QUEUE}").get("messages") == 0, "all is acknowledged")

    def close(self) -> None:
        for process in (*self.workers, self.maestro):
            process.kill()


@pytest.fixture
def older(tmp_path: Path, rabbitmq: RabbitMQ) -> Iterator[Older]:
    rabbitmq.reset()
    older = Older(tmp_path, rabbitmq)
    yield older
    older.close()


def test_a_run_is_done(older: Older) -> None:
    worker = older.worker()
    jobs = [older.submit(steps=3, number=number) for number in range(5)]
    older.maestro.wait_for(jobs)
    older.all_acknowledged()
    run = older.maestro.run(jobs[0])
    assert run["result"] == {"summary": {"ok": 3, "failed": 0, "no_data": 0, "skipped": 0}}
    assert run["retryCount"] == 0
    log = older.maestro.call("GET", f"/jobs/{jobs[0]}/logs")
    assert [line["message"] for line in log["items"]] == ["step 1", "step 2", "step 3"]
    assert worker.alive()


def test_the_message_has_the_keys_that_it_reads(older: Older) -> None:
    job = older.submit(steps=1)
    properties, body = older.message()
    message = json.loads(body)
    assert message["job_id"] == job
    assert message["automation_id"] == "team.invoices"
    assert message["script_path"] == "robots/invoices.py"
    assert message["parameters"] == {"steps": 1}
    assert properties.delivery_mode == 2


def test_its_failure_is_final(older: Older) -> None:
    older.worker()
    job = older.submit(fail="portal down")
    older.maestro.wait_for([job], "Failed")
    older.all_acknowledged()
    run = older.maestro.run(job)
    assert run["retryCount"] == 0
    assert (run["errorClass"], run["message"]) == ("UNKNOWN", "portal down")


def test_a_doubled_message_runs_once(older: Older) -> None:
    job = older.submit(steps=50)
    properties, body = older.message()
    for _ in range(3):
        older.publish(properties, body)
    workers = [older.worker(pod=number) for number in range(3)]
    older.maestro.wait_for([job])
    older.all_acknowledged()
    assert sum(worker.text().count("started") for worker in workers) == 1
    assert sum(worker.text().count("completed") for worker in workers) == 1
    # the others were refused the start: they tried to log and to finish, in vain, and acknowledged
    assert sum(worker.text().count("could not report") for worker in workers) == 2
    assert all(worker.alive() for worker in workers)
    assert older.maestro.run(job)["retryCount"] == 0


def test_a_message_that_comes_after_the_end_is_acknowledged(older: Older) -> None:
    worker = older.worker()
    job = older.submit()
    older.maestro.wait_for([job])
    older.publish(pika.BasicProperties(delivery_mode=2), json.dumps({"job_id": job, "parameters": {}}).encode())
    until(lambda: f"over {job}" in worker.text(), "it sees that the Run is over")
    older.all_acknowledged()


def test_a_canceled_run_stops(older: Older) -> None:
    worker = older.worker()
    job = older.submit(steps=100_000)
    until(lambda: f"started {job}" in worker.text(), "it works")
    older.maestro.call("POST", f"/jobs/{job}/cancel")
    older.maestro.wait_for([job], "Canceled")
    older.all_acknowledged()
    assert f"canceled {job}" in worker.text()


def test_a_canceled_that_does_not_count_does_not_kill_the_worker(older: Older) -> None:
    worker = older.worker()
    job = older.submit(steps=100_000)
    until(lambda: f"started {job}" in worker.text(), "it works")
    # at once and for good: the worker's own `canceled` comes from one that no longer holds the Run
    older.maestro.call("POST", f"/jobs/{job}/cancel", {"force": True})
    until(lambda: f"canceled {job}" in worker.text(), "it stops and says so")
    older.all_acknowledged()
    assert older.maestro.run(job)["state"] == "Canceled"
    assert worker.alive()
    again = older.submit()
    older.maestro.wait_for([again])


def test_a_refused_start_is_acknowledged_and_changes_nothing(older: Older) -> None:
    job = older.submit()
    properties, body = older.message()
    older.maestro.call("POST", f"/jobs/{job}/cancel")
    waiting = older.submit()
    kept = older.message()
    older.worker()
    # the status it looks at first says `canceled`; one that had looked before the cancel is refused by start
    status, _ = older.maestro.request("POST", f"/worker/jobs/{job}/start", headers=KEY)
    assert status == 409
    status, answer = older.maestro.request("POST", f"/worker/jobs/{job}/finish", {"status": "failed"}, KEY)
    assert status == 409, answer
    older.publish(properties, body)
    older.all_acknowledged()
    assert older.maestro.run(job)["state"] == "Canceled"
    older.publish(*kept)
    older.maestro.wait_for([waiting])


def test_what_a_stranger_reports_does_not_count(older: Older) -> None:
    worker = older.worker(pod=1)
    job = older.submit(steps=100)
    until(lambda: f"started {job}" in worker.text(), "it works")
    stranger = {"Authorization": "Bearer pod.invoices.2"}
    path = f"/worker/jobs/{job}"
    for status in ("completed", "failed"):
        assert older.maestro.request("POST", f"{path}/finish", {"status": status}, stranger)[0] == 409
    assert older.maestro.request("POST", f"{path}/log", {"level": "INFO", "message": "?"}, stranger)[0] == 409
    code, answer = older.maestro.request("POST", f"{path}/finish", {"status": "canceled"}, stranger)
    assert (code, answer["accepted"]) == (200, False)
    code, answer = older.maestro.request("GET", f"{path}/cancellation", headers=stranger)
    assert (code, answer["cancellation_requested"]) == (200, True)
    older.maestro.wait_for([job])
    assert f"completed {job}" in worker.text()
    assert older.maestro.run(job)["retryCount"] == 0


def test_a_worker_that_was_killed_loses_the_attempt_not_the_run(older: Older) -> None:
    victim = older.worker()
    job = older.submit(steps=30)
    until(lambda: f"started {job}" in victim.text(), "it works")
    victim.kill()
    other = older.worker()
    older.maestro.wait_for([job])
    assert f"completed {job}" in other.text()
    assert older.maestro.run(job)["retryCount"] == 1
    older.all_acknowledged()


def test_nothing_of_it_ends_as_a_dead_letter(older: Older) -> None:
    older.worker()
    jobs = [older.submit(steps=2) for _ in range(3)]
    older.maestro.wait_for(jobs)
    older.all_acknowledged()
    assert messages_ready(older.broker, "maestro.dead-letters") == 0
    assert older.maestro.dead_letters() == []
