"""The short way of the gateway check: a proxy asks before each of its requests, the same thing again and again."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maestro.http.gateway import PREFIX, ROUTE, SUFFIX, Gateway
from maestro.runtime import metrics

REMEMBERED_SECONDS = 5.0
"""How long a caller is let pass without another look at its token; the reviews of tokens are cached as long."""
_MOST = 10_000
_CREDENTIALS = (b"authorization", b"x-worker-api-key")

Key = tuple[str | tuple[bytes, bytes], ...]
"""The path, and the header fields by which the caller shows who it is. Never logged."""

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"0"), (b"cache-control", b"no-store")],
}
_END = {"type": "http.response.body", "body": b""}


class Proceed:
    """In front of everything. Who was let pass on the whole way (guard, token, `GatewayCheck`) is remembered with the
    path that was asked for, and answered here while the gateway is open; all else takes the whole way.

    Parameters
    ----------
    app
        The whole way.
    solution_id
        From a path to the Solution; only asked about paths that the whole way has answered.
    needs_token
        Whether callers are told apart.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway, solution_id: Callable[[str], str], *, needs_token: bool) -> None:
        self._app = app
        self._gateway = gateway
        self._solution_id = solution_id
        self._needs_token = needs_token
        self._passes: dict[Key, tuple[float, str]] = {}
        self._count = metrics.HTTP_REQUESTS.labels(route=ROUTE, method="GET", code="200").inc
        self._observe = metrics.HTTP_SECONDS.labels(route=ROUTE).observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if not path.startswith(PREFIX) or scope.get("method") != "GET" or not path.endswith(SUFFIX):
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        key = self._key(path, scope)
        known = self._passes.get(key)
        if known is None or known[0] <= begun or self._gateway.answer(known[1]).verdict != "open":
            await self._whole_way(key, path, scope, receive, send)
            return
        await send(_START)
        await send(_END)
        self._count()
        self._observe(perf_counter() - begun)

    def _key(self, path: str, scope: Scope) -> Key:
        if not self._needs_token:
            return (path,)
        return (path, *(field for field in scope["headers"] if field[0] in _CREDENTIALS))

    async def _whole_way(self, key: Key, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._passes.pop(key, None)

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                if len(self._passes) >= _MOST:
                    self._passes.clear()
                self._passes[key] = (perf_counter() + REMEMBERED_SECONDS, self._solution_id(path))
            await send(message)

        await self._app(scope, receive, listen)
