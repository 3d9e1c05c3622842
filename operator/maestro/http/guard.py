"""The outermost layer: request ids, limits on headers, errors as JSON, a log line and a metric for each request."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maestro.http.errors import HttpError, error_answer, translate
from maestro.runtime import metrics

log = logging.getLogger(__name__)

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")


class Guard:
    """Wraps the API: whatever happens inside, the caller gets an answer, and never a secret in it or in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = _RequestIds()
        self._requests: dict[tuple[str, str, int], Any] = {}
        self._seconds: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        request_id = self._ids.of(scope)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            _check_headers(scope)
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            log.debug("%s: the client went away", request_id.decode())
        except Exception as error:
            known = translate(error)
            if known is None:
                log.exception("request %s failed: %s %r", request_id.decode(), scope["method"], scope["path"])
                known = HttpError(500, f"an error of Maestro's own; its log has it under request {request_id.decode()}")
            if status:
                # Too late for another answer: cut the connection, so that the caller sees that it isn't whole.
                raise
            await error_answer(known, scope["path"])(scope, receive, answer)
        finally:
            self._account(scope, status, perf_counter() - begun, request_id)

    def _account(self, scope: Scope, status: int, seconds: float, request_id: bytes) -> None:
        route: str = scope.get("maestro.route", "unknown")
        method: str = scope["method"] if route != "unknown" else "any"
        key = (route, method, status)
        counter = self._requests.get(key)
        if counter is None:
            counter = metrics.HTTP_REQUESTS.labels(route=route, method=method, code=str(status))
            self._requests[key] = counter
            self._seconds.setdefault(route, metrics.HTTP_SECONDS.labels(route=route))
        counter.inc()
        self._seconds[route].observe(seconds)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s %r %d %.1f ms %s", scope["method"], scope["path"], status, seconds * 1000, request_id.decode()
            )


class _RequestIds:
    """The caller's X-Request-ID, else this process's random prefix and a number: no system call for each request."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def of(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                given: bytes = value
                return given
        return f"{self._prefix}-{next(self._numbers):x}".encode()


def _check_headers(scope: Scope) -> None:
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise HttpError(431, f"more than {MAX_HEADERS} header fields")
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise HttpError(431, f"the header fields are larger than {MAX_HEADER_BYTES} bytes together")
