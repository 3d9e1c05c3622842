"""Notifications arrive at a real HTTP receiver, by the URL in a real Secret, and never show that URL."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer

from maestro.automation.notifier import Notifier
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.kinds import AUTOMATION
from maestro.resources import Automation
from maestro.runs.model import NewRun
from maestro.runs.registration import registration_of
from maestro.runs.reports import Report
from maestro.runs.store import RunStore
from maestro.runtime.clock import utcnow

PASSWORD = "s3cr3t-of-the-receiver"


class Receiver:
    """Takes JSON on a loopback port; `refuse` makes it answer 500."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.refuse = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not receiver.refuse:
                    receiver.got.append(json.loads(body))
                self.send_response(500 if receiver.refuse else 200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://maestro:{PASSWORD}@127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def test_a_failure_is_told_again_until_it_arrives(
    apiserver: ApiServer, namespace: str, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("ops-url", "other-url"):
        apiserver.kubectl("-n", namespace, "create", "secret", "generic", name, f"--from-literal=url={receiver.url}")
    notifications = [
        {"name": name, "events": ["Failed"], "url": {"secretKeyRef": {"name": name, "key": "url"}}}
        for name in ("ops-url", "other-url")
    ]
    found = {
        "apiVersion": "maestro-operator.io/v1alpha1",
        "kind": "Automation",
        "metadata": {"name": "video", "namespace": namespace, "uid": "uid-video", "generation": 1,
                     "resourceVersion": "1"},
        "spec": {"notifications": notifications},
    }  # fmt: skip
    cache = ObjectCache(AUTOMATION)
    cache.replace([found])
    now = utcnow()

    async def scenario() -> None:
        nonlocal now
        store = RunStore.open(f"sqlite:///{tmp_path}/store.db", clock=lambda: now)
        kube = await KubeClient.connect(apiserver.kubeconfig)
        try:
            key = await store.register(registration_of(Automation.model_validate(found)))
            epoch = (await store.win_leadership()).epoch
            notifier = Notifier(kube, store, cache, ["ops-url"], lambda: epoch, clock=lambda: now)
            await notifier.once()
            now += timedelta(seconds=10)
            (run,) = await store.accept([NewRun(key)])
            await store.claim(epoch, key, 10)
            await store.reports([Report("start", run.id, worker="p/1")])
            finish = Report(
                "finish", run.id, worker="p/1", attempt=1, status="failed", kind="business", message="no film"
            )
            assert (await store.reports([finish]))[0].status == 200
            now += timedelta(seconds=10)
            receiver.refuse = True
            await notifier.once()
            assert receiver.got == []
            receiver.refuse = False
            await notifier.once()
            assert receiver.got == [], "it waits before the next try"
            now += timedelta(seconds=31)
            await notifier.once()
            (got,) = receiver.got
            assert got["title"] == f"Maestro: {namespace}.video Failed"
            assert str(run.id) in got["message"]
            assert "no film" in got["message"]
            now += timedelta(hours=10)
            await notifier.once()
            assert len(receiver.got) == 1
        finally:
            await kube.close()
            await store.close()

    asyncio.run(scenario())
    assert "the receiver didn't take it" in caplog.text
    assert "isn't among those" in caplog.text
    assert PASSWORD not in caplog.text
