"""Maestro and its workers as processes that a test starts, kills and starts again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import pika
import urllib3
from tests.cluster.rabbitmq import RabbitMQ

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "the-key-of-all-workers"
NAMESPACE = "team"


def until(condition: Callable[[], object], what: str, patience: float = 60.0) -> None:
    """Wait for a condition; fails, naming `what`, when it doesn't come true."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {patience:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Process:
    """A program with its output in a file."""

    def __init__(self, argv: Sequence[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._argv = list(argv)
        self._env = env
        self._output: IO[bytes] | None = None
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._output = self.log.open("ab")
        self._popen = subprocess.Popen(
            self._argv, cwd=ROOT, env=self._env, stdout=self._output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code; negative for a signal."""
        assert self._popen is not None
        code = self._popen.wait(timeout)
        if self._output is not None:
            self._output.close()
        return code

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.kill()
        if self._popen is not None:
            self.wait()


class Maestro(Process):
    """Store, dispatcher and API in one process; see `maestro_process`."""

    def __init__(
        self, folder: Path, broker: RabbitMQ, automations: Sequence[dict[str, Any]], **configuration: Any
    ) -> None:
        self.database = folder / "maestro.db"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        key = folder / "api-key"
        key.write_text(API_KEY)
        file = folder / "maestro.json"
        file.write_text(
            json.dumps(
                {
                    "store": f"sqlite:///{self.database}",
                    "broker": broker.amqp_url,
                    "port": self.port,
                    "api_key_file": str(key),
                    "automations": list(automations),
                    **configuration,
                }
            )
        )
        file.chmod(0o600)
        argv = [sys.executable, "-m", "tests.workers.maestro_process", str(file)]
        super().__init__(argv, folder / "maestro.log")
        self._http = urllib3.PoolManager(retries=False, timeout=60)

    def start(self) -> None:
        """Start it and wait until it answers."""
        super().start()
        until(self.answers, "Maestro answers")

    def answers(self) -> bool:
        assert self.alive(), f"Maestro has ended:\n{self.text()[-4000:]}"
        try:
            return self._http.request("GET", f"{self.url}/health").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def call(self, method: str, path: str, body: Any = None, expect: Sequence[int] = (200, 202)) -> Any:
        """Call the API as a person (`/api/v1` + path); returns the JSON."""
        status, answer = self.request(method, path, body)
        assert status in expect, f"{method} {path}: {status} {answer}"
        return answer

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Call the API; as a person unless `headers` say otherwise."""
        response = self._http.request(
            method,
            f"{self.url}/api/v1{path}",
            body=None if body is None else json.dumps(body).encode(),
            headers=headers or {"Authorization": "Bearer ana"},
        )
        return response.status, json.loads(response.data) if response.data else None

    def submit(self, automation: str, parameters: Sequence[dict[str, Any]]) -> list[str]:
        """Accept Runs in one transaction; returns their ids."""
        answer = self.call("POST", f"/automations/{automation}/execute-many", [{"parameters": p} for p in parameters])
        return [job["job_id"] for job in answer["items"]]

    def run(self, job: str) -> dict[str, Any]:
        """What the API shows of a Run."""
        found: dict[str, Any] = self.call("GET", f"/jobs/{job}")
        return found

    def states(self, jobs: Sequence[str]) -> Counter[str]:
        """How many of these Runs are in which state."""
        return Counter(self.run(job)["state"] for job in jobs)

    def dead_letters(self, **wanted: str) -> list[dict[str, Any]]:
        """Dead letters, newest first, by the filters of the API."""
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        found: list[dict[str, Any]] = self.call("GET", f"/dead-letters?{query}")["items"]
        return found

    def wait_for(self, jobs: Sequence[str], state: str = "Succeeded", patience: float = 60.0) -> None:
        """Wait until every one of these Runs is in `state`."""
        left = list(jobs)

        def all_there() -> bool:
            while left and self.run(left[-1])["state"] == state:
                left.pop()
            return not left

        try:
            until(all_there, f"Runs become {state}", patience)
        except AssertionError:
            last = self.run(left[-1])
            raise AssertionError(f"{len(left)} Runs aren't {state}: {self.states(left)}\n{last}") from None


class Worker(Process):
    """An SDK worker of a module under tests/workers."""

    def __init__(
        self,
        name: str,
        function: str,
        folder: Path,
        *,
        maestro: Maestro | str,
        broker: RabbitMQ | str,
        queue: str,
        concurrency: int = 4,
        drain_timeout: float = 10.0,
        **environ: str,
    ) -> None:
        url_file = folder / f"{name}.broker-url"
        url_file.write_text(broker if isinstance(broker, str) else broker.amqp_url)
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MAESTRO_")},
            "MAESTRO_API_URL": maestro if isinstance(maestro, str) else maestro.url,
            "MAESTRO_WORKER_API_KEY": API_KEY,
            "MAESTRO_BROKER_URL_FILE": str(url_file),
            "MAESTRO_QUEUE": queue,
            "MAESTRO_CONCURRENCY": str(concurrency),
            "MAESTRO_DRAIN_TIMEOUT": str(drain_timeout),
            "MAESTRO_POD_UID": name,
            **environ,
        }
        argv = [sys.executable, "-m", "maestro_worker", function]
        super().__init__(argv, folder / f"{name}.log", env)

    def consuming(self) -> bool:
        """Whether it has begun to consume; fails when it has ended instead."""
        assert self.alive(), f"the worker has ended:\n{self.text()[-4000:]}"
        return "working on queue" in self.text()

    def ready(self) -> None:
        """Start it and wait until it consumes."""
        self.start()
        until(self.consuming, "the worker consumes")


def automation(name: str, **fields: Any) -> dict[str, Any]:
    """The configuration of an Automation called `team.<name>`; `policy` is a dict."""
    queue = fields.pop("queue", f"maestro.{NAMESPACE}.{name}")
    return {"uid": f"uid-{name}", "namespace": NAMESPACE, "name": name, "queue": queue, **fields}


def declare(broker: RabbitMQ, queue: str, arguments: dict[str, Any] | None = None) -> None:
    """Declare a durable queue, quorum unless arguments are given, and where its dead letters go."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    try:
        channel = connection.channel()
        channel.exchange_declare("maestro.dlx", "fanout", durable=True)
        channel.queue_declare("maestro.dead-letters", durable=True)
        channel.queue_bind("maestro.dead-letters", "maestro.dlx")
        given = {"x-queue-type": "quorum", "x-dead-letter-exchange": "maestro.dlx"} if arguments is None else arguments
        channel.queue_declare(queue, durable=True, arguments=given)
    finally:
        connection.close()


def messages_ready(broker: RabbitMQ, queue: str) -> int:
    """Messages of a queue that wait to be delivered, as the broker counts them now."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    try:
        found: int = connection.channel().queue_declare(queue, passive=True).method.message_count
        return found
    finally:
        connection.close()
