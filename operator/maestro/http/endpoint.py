"""The table of routes: each endpoint once, for the router and for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from maestro.http.errors import HttpError

Handler = Callable[[Request], Awaitable[Response]]
Caller = Literal["nobody", "person", "worker"]


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: its JSON Schema (a model, or a schema as it is) and its limit in bytes."""

    schema: type[BaseModel] | Mapping[str, Any]
    limit: int
    required: bool = True
    ndjson: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that isn't an error."""

    text: str
    schema: type[BaseModel] | Mapping[str, Any] | None = None
    media: str = "application/json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method on one path.

    `errors` are the statuses of its own; 401, 403, 503 and such come with `caller` and `body`.
    """

    method: str
    path: str
    handle: Handler
    name: str
    summary: str
    caller: Caller
    answers: Mapping[int, Answer]
    tag: str
    errors: tuple[int, ...] = ()
    body: Body | None = None
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class _Methods:
    """The ASGI application of one path: picks the endpoint by method."""

    def __init__(self, path: str, endpoints: Iterable[Endpoint]) -> None:
        self._path = path
        self._handlers: dict[str, Handler] = {endpoint.method: endpoint.handle for endpoint in endpoints}
        if "GET" in self._handlers:
            self._handlers.setdefault("HEAD", self._handlers["GET"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["maestro.route"] = self._path
        handler = self._handlers.get(scope["method"])
        if handler is None:
            allow = ", ".join(sorted(self._handlers))
            raise HttpError(405, f"this path takes {allow}, not {scope['method'][:20]}", headers={"Allow": allow})
        answer = await handler(Request(scope, receive, send))
        await answer(scope, receive, send)


class Table:
    """The router: whole paths by look-up, those with an id by Starlette's router, in the order of the table.

    Parameters
    ----------
    nowhere
        What answers where no path fits.
    """

    def __init__(self, endpoints: Iterable[Endpoint], nowhere: ASGIApp) -> None:
        paths: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            paths.setdefault(endpoint.path, []).append(endpoint)
        apps = {path: _Methods(path, group) for path, group in paths.items()}
        self._whole = {path: app for path, app in apps.items() if "{" not in path}
        routes = [Route(path, app) for path, app in apps.items() if "{" in path]
        self._router = Router(routes, redirect_slashes=False)
        self._router.default = nowhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._whole.get(scope.get("path", ""), self._router)(scope, receive, send)
