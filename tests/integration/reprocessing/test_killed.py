"""The program itself is killed while it replays, with SDK workers and somebody who asks the gateway all the time."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import urllib3
from tests.cluster import ports
from tests.cluster.apiserver import ApiServer
from tests.cluster.process import wait_for
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.test_process import Maestro, automation, token_of
from tests.workers.processes import API_KEY, Worker

from maestro.runs.model import RunFilter, RunState, RunView
from maestro.runs.store import RunStore

RUNS = 16
ENDS = ("Finished", "Skipped", "Failure", "Canceled")


class Caller:
    """Asks the gateway all the time, and looks at the phase whenever it is let through."""

    def __init__(self, apiserver: ApiServer, namespace: str, port: int, token: str) -> None:
        self._phase = lambda: apiserver.kubectl(
            "-n", namespace, "get", "reprocessing", "fix", "-o", "jsonpath={.status.phase}"
        )
        self._url = f"http://127.0.0.1:{port}/v1.0.0/gateway/{namespace}.shop/proceed"
        self._headers = {"Authorization": f"Bearer {token}"}
        self.seen: list[int] = []
        self.wrong: list[str] = []

    def run(self, stop: threading.Event) -> None:
        http = urllib3.PoolManager(retries=False, timeout=2.0)
        while not stop.wait(0.02):
            try:
                status = http.request("GET", self._url, headers=self._headers).status
            except urllib3.exceptions.HTTPError:
                status = 0
            if status == 200 and 403 in self.seen and (phase := self._phase()) not in ENDS:
                self.wrong.append(phase)
            self.seen.append(status)


@contextmanager
def asking(caller: Caller) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=caller.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def environment_of(apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, folder: Path) -> dict[str, str]:
    """A namespace with the broker's Secret, and what the process is told."""
    amqp, management = urlsplit(rabbitmq.amqp_url), urlsplit(rabbitmq.management_url)
    apiserver.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "maestro-operator.io/broker",
            "metadata": {"name": "broker", "namespace": namespace},
            "stringData": {
                "username": rabbitmq.user,
                "password": rabbitmq.password,
                "host": str(amqp.hostname),
                "port": str(amqp.port),
                "management-port": str(management.port),
            },
        }
    )
    key = folder / "worker-key"
    key.write_text(API_KEY)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAESTRO_")},
        "KUBECONFIG": str(apiserver.kubeconfig),
        "MAESTRO_NAMESPACE": namespace,
        "MAESTRO_WATCH_NAMESPACES": namespace,
        "MAESTRO_BROKER_SECRET": "broker",
        "MAESTRO_BROKER_MANAGED": "false",
        "MAESTRO_STORE_URL": f"sqlite:///{folder}/maestro.db",
        "MAESTRO_RESYNC_SECONDS": "2",
        "MAESTRO_WORKER_API_KEY_FILE": str(key),
    }


def test_kill_9_at_three_points_of_a_replay(
    apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, tmp_path: Path
) -> None:
    if not rabbitmq.alive():
        rabbitmq.start()
    rabbitmq.reset()
    environment = environment_of(apiserver, rabbitmq, namespace, tmp_path)
    port, gateway = ports.reserve(), ports.reserve()
    begun: list[Maestro] = []

    def begin(number: int) -> Maestro:
        made = Maestro(environment, tmp_path, f"maestro-{number}", http_port=port, gateway_port=gateway)
        made.http = port
        begun.append(made)
        wait_for(f"readiness, see {made.log}", lambda: made.ready, timeout=180)
        return made

    def reprocessing(*path: str) -> Any:
        found: Any = json.loads(apiserver.kubectl("-n", namespace, "get", "reprocessing", "fix", "-o", "json"))
        for step in path:
            found = (found or {}).get(step)
        return found

    url = SimpleNamespace(url=f"http://127.0.0.1:{port}")
    worker = Worker("worker", "tests.workers.functions:note", tmp_path, maestro=url, broker=rabbitmq,  # type: ignore[arg-type]
                    queue=f"maestro.{namespace}.invoices", concurrency=1)  # fmt: skip
    try:
        maestro = begin(0)
        automation(apiserver, namespace, "invoices")
        patch = json.dumps({"spec": {"solution": "shop"}})
        apiserver.kubectl("-n", namespace, "patch", "automation", "invoices", "--type=merge", "-p", patch)
        token = token_of(apiserver, namespace)
        lines = [{"parameters": {"folder": str(tmp_path), "number": n}} for n in range(RUNS)]
        status, accepted = maestro.call(token, "POST", f"/automations/{namespace}.invoices/execute-many", lines)
        assert status == 202
        worker.ready()
        first = [UUID(each["job_id"]) for each in accepted["items"]]
        wait_for(
            "the first Runs",
            lambda: maestro.call(token, "GET", f"/jobs/{first[-1]}")[1]["state"] == "Succeeded",
            timeout=90,
        )
        apiserver.apply(
            {
                "apiVersion": "maestro-operator.io/v1alpha1",
                "kind": "Reprocessing",
                "metadata": {"name": "fix", "namespace": namespace},
                "spec": {
                    "solution": "shop",
                    "select": {"automations": ["invoices"]},
                    "parameters": {"seconds": 0.2},
                },
            }
        )
        wait_for("the plan", lambda: reprocessing("status", "plan", "total") == RUNS, timeout=90)
        caller = Caller(apiserver, namespace, gateway, token)
        with asking(caller):
            decision = {"decision": "Approved", "decidedBy": "ana", "planHash": reprocessing("status", "plan", "hash")}
            patch = json.dumps({"spec": decision})
            apiserver.kubectl("-n", namespace, "patch", "reprocessing", "fix", "--type=merge", "-p", patch)
            for number, done in enumerate((2, 6, 10), start=1):
                wait_for(
                    f"{done} are done",
                    lambda done=done: (reprocessing("status", "progress", "done") or 0) >= done,
                    timeout=90,
                )
                maestro.kill()
                maestro = begin(number)
            wait_for("the end", lambda: reprocessing("status", "phase") == "Finished", timeout=90)
            wait_for("the gateway opens", lambda: caller.seen[-1:] == [200], timeout=90)
        assert caller.wrong == []
        assert 403 in caller.seen
        assert maestro.stop() == 0
    finally:
        for each in begun:
            each.kill()
        worker.kill()
    replays = asyncio.run(_replays(tmp_path, first))
    assert [[run.state for run in of_one] for of_one in replays] == [[RunState.SUCCEEDED]] * RUNS
    began = [of_one[0].started_at for of_one in replays]
    ended = [of_one[0].ended_at for of_one in replays]
    assert all(a is not None and b is not None and a <= b for a, b in zip(ended, began[1:], strict=False)), "in order"
    marks = [len((tmp_path / f"{of_one[0].id}.ended").read_text().splitlines()) for of_one in replays]
    assert marks == [1] * RUNS, "nothing runs twice"


async def _replays(folder: Path, runs: list[UUID]) -> list[list[RunView]]:
    store = RunStore.open(f"sqlite:///{folder}/maestro.db")
    try:
        return [list((await store.list_runs(RunFilter(replay_of=run))).items) for run in runs]
    finally:
        await store.close()
