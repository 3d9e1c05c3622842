"""The gateway check: raw ASGI, ahead of routing, answered from memory."""

from __future__ import annotations

import json
import re
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from maestro.http.auth import Authenticator
from maestro.http.errors import HttpError
from maestro.runs.gateway import OPEN, GatewayAnswer

PREFIX = "/v1.0.0/gateway/"
SUFFIX = "/proceed"
ROUTE = "/v1.0.0/gateway/{solution}/proceed"
_SOLUTION = re.compile(r"(?:[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)?[A-Za-z0-9]([-A-Za-z0-9_]{0,61}[A-Za-z0-9])?")


class Gateway(Protocol):
    """Knows which Solutions are blocked, from memory alone."""

    def answer(self, solution_id: str) -> GatewayAnswer:
        """The answer for `<namespace>.<solution>`; `open` for one that nobody knows."""


class OpenGateway:
    """A gateway that is never shut: where nothing can block a Solution."""

    def answer(self, solution_id: str) -> GatewayAnswer:
        """Always open."""
        return OPEN


class GatewayCheck:
    """Answers `GET /v1.0.0/gateway/<solution>/proceed`, hands everything else on.

    200 without a body; 403 with the reason and the Reprocessing's name; 503 when it can't be known. The statuses are
    those that nginx `auth_request`, Traefik ForwardAuth and Envoy ext_authz expect.
    """

    def __init__(
        self, app: ASGIApp, gateway: Gateway, authenticator: Authenticator, default_namespace: str, *, needs_token: bool
    ) -> None:
        self._app = app
        self._gateway = gateway
        self._authenticator = authenticator
        self._default_namespace = default_namespace
        self._needs_token = needs_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not (path.startswith(PREFIX) and path.endswith(SUFFIX)):
            await self._app(scope, receive, send)
            return
        scope["maestro.route"] = ROUTE
        if scope["method"] not in ("GET", "HEAD"):
            raise HttpError(405, "this path takes GET, HEAD", headers={"Allow": "GET, HEAD"})
        if self._needs_token:
            await self._authenticator.anyone(HTTPConnection(scope))
        answer = self._gateway.answer(self.solution_id(path))
        status, body = _STATUS[answer.verdict], _body(answer)
        headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        if body:
            headers.append((b"content-type", b"application/json"))
        if answer.reprocessing is not None:
            # For proxies: `auth_request` and its like don't hand on the body.
            headers.append((b"x-maestro-reprocessing", answer.reprocessing.encode()))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def solution_id(self, path: str) -> str:
        """`<namespace>.<solution>` of a path. Raises HttpError 400."""
        solution = path[len(PREFIX) : -len(SUFFIX)]
        if not _SOLUTION.fullmatch(solution):
            raise HttpError(400, "the Solution in the path must be <name> or <namespace>.<name>")
        return solution if "." in solution else f"{self._default_namespace}.{solution}"


_STATUS = {"open": 200, "blocked": 403, "unknown": 503}


def _body(answer: GatewayAnswer) -> bytes:
    if answer.verdict == "open":
        return b""
    shown = {"status": str(_STATUS[answer.verdict]), "message": answer.reason}
    if answer.reprocessing is not None:
        shown["reprocessing"] = answer.reprocessing
    return json.dumps(shown).encode()
