"""The health application."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from maestro.runtime import metrics
from maestro.runtime.health import Health


def ask(health: Health, path: str, method: str = "GET") -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(health({"type": "http", "path": path, "method": method}, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_ready_and_live_are_different_questions() -> None:
    health = Health()
    health.add("loop", lambda: None, live=True)
    health.add("broker", lambda: "not connected")
    assert ask(health, "/healthz") == (200, b'{"status": "ok", "checks": {"loop": "ok"}}\n')
    status, body = ask(health, "/readyz")
    assert status == 503
    assert json.loads(body) == {"status": "failing", "checks": {"loop": "ok", "broker": "not connected"}}
    assert health.ready() == {"broker": "not connected"}
    assert health.live() == {}


def test_a_check_that_fails_tells_no_secrets() -> None:
    def check() -> str | None:
        raise RuntimeError("amqp://admin:secret@host")

    health = Health()
    health.add("broker", check)
    status, body = ask(health, "/readyz")
    assert status == 503
    assert b"secret" not in body
    assert b"RuntimeError" in body


def test_metrics_and_the_rest() -> None:
    health = Health()
    metrics.LEADER.set(1)
    status, body = ask(health, "/metrics")
    assert status == 200
    assert b"maestro_leader 1.0" in body
    assert ask(health, "/healthz", "HEAD") == (200, b"")
    assert ask(health, "/else")[0] == 404
    assert ask(health, "/readyz", "POST")[0] == 405


def test_series_of_what_is_gone_go() -> None:
    metrics.RUNS_ACCEPTED.labels(automation="ns.gone").inc()
    metrics.RUNS_FINISHED.labels(automation="ns.gone", state="Failed", reason="WorkerLost").inc()
    metrics.RUNS_ACCEPTED.labels(automation="ns.stays").inc()
    metrics.forget_automation("ns.gone")
    text = metrics.exposition()[0].decode()
    assert "ns.gone" not in text
    assert "ns.stays" in text
