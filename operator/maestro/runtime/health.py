"""Liveness, readiness and metrics over HTTP: a small ASGI application."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from maestro.runtime import metrics

log = logging.getLogger(__name__)

Check = Callable[[], str | None]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Health:
    """Named checks, and the application that serves them.

    `GET /healthz` (and `/livez`): whether the process should be left alone. `GET /readyz`: whether it should get
    requests. Both answer 200 or 503 with a JSON object of the checks: `ok`, or what is wrong. `GET /metrics`:
    Prometheus' text format.
    """

    def __init__(self) -> None:
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}

    def add(self, name: str, check: Check, *, live: bool = False, ready: bool = True) -> None:
        """Add a check, which returns None, or in words (without secrets) what is wrong. It must not block.

        Only what a restart would mend belongs to `live`.
        """
        if live:
            self._live[name] = check
        if ready:
            self._ready[name] = check

    def live(self) -> dict[str, str]:
        """What is wrong, by the name of the check, among those for liveness; empty when all is well."""
        return _problems(self._live)

    def ready(self) -> dict[str, str]:
        """The same for readiness."""
        return _problems(self._ready)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            status, content_type, body = await self._answer(str(scope["path"]), str(scope["method"]))
            headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, path: str, method: str) -> tuple[int, str, bytes]:
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"only GET\n"
        if path in ("/healthz", "/livez"):
            return _report(self._live)
        if path == "/readyz":
            return _report(self._ready)
        if path == "/metrics":
            # With thousands of series this takes long enough to be felt by a loop that serves other requests too.
            body, content_type = await asyncio.to_thread(metrics.exposition)
            return 200, content_type, body
        return 404, "text/plain", b"/healthz, /livez, /readyz, /metrics\n"


def _problems(checks: dict[str, Check]) -> dict[str, str]:
    problems = {}
    for name, check in checks.items():
        try:
            problem = check()
        except Exception as error:
            log.exception("the health check %s failed", name)
            problem = f"the check failed: {type(error).__name__}"
        if problem is not None:
            problems[name] = problem
    return problems


def _report(checks: dict[str, Check]) -> tuple[int, str, bytes]:
    problems = _problems(checks)
    body = {"status": "failing" if problems else "ok", "checks": {name: problems.get(name, "ok") for name in checks}}
    return (503 if problems else 200), "application/json", json.dumps(body).encode() + b"\n"


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
