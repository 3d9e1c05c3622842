"""A Run's log: pages, and a stream of server-sent events that resumes where it broke."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from maestro.http.answers import encode, json_answer
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.errors import HttpError, invalid
from maestro.http.models import LogEntries, LogsQuery
from maestro.http.query import query
from maestro.http.runs import RunAccess
from maestro.http.views import log_line
from maestro.runs.errors import StoreUnavailable
from maestro.runs.store import RunStore

log = logging.getLogger(__name__)

MAX_STREAMS = 500
_PAGE = 500
_POLL_SECONDS = 0.5
_SLOWEST_POLL_SECONDS = 4.0
_KEEPALIVE_SECONDS = 15.0


class LogRoutes:
    """The endpoints of logs.

    Parameters
    ----------
    stopping
        Set when the server is told to stop: streams end then, and clients resume elsewhere.
    """

    def __init__(self, store: RunStore, access: RunAccess, stopping: asyncio.Event) -> None:
        self._store = store
        self._access = access
        self._stopping = stopping
        self._streams = 0

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        return [
            Endpoint(
                "GET", "/api/v1/jobs/{id}/logs", self.page, "getRunLogs", "Lines of a Run's log, oldest first",
                "person", {200: Answer("Lines", LogEntries)}, "runs", (404, 422), query=LogsQuery,
            ),
            Endpoint(
                "GET", "/api/v1/jobs/{id}/logs/stream", self.stream, "streamRunLogs",
                "Lines as they come: an event `log` for each, `end` with the Run's status when it has ended",
                "person", {200: Answer("Events", {"type": "string"}, "text/event-stream")}, "runs", (404, 422),
                headers={"Last-Event-ID": "Number of the last line that was seen."},
            ),
        ]  # fmt: skip

    async def page(self, request: Request) -> Response:
        """One page of lines."""
        _, run = await self._access.open(request, "get")
        wanted = query(request, LogsQuery)
        lines = await self._store.logs(run.id, wanted.after, wanted.limit)
        after = lines[-1].number if lines else wanted.after
        return json_answer({"items": [log_line(line) for line in lines], "after": after})

    async def stream(self, request: Request) -> Response:
        """Lines until the Run has ended."""
        _, run = await self._access.open(request, "get")
        after = _last_event_id(request)
        if self._streams >= MAX_STREAMS:
            raise HttpError(503, "too many log streams are open; try again", headers={"Retry-After": "5"})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(run.id, after), headers=headers, media_type="text/event-stream")

    async def _events(self, run: UUID, after: int) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            async for event in self._followed(run, after):
                yield event
        except StoreUnavailable as error:
            # The stream just ends: the client comes back with the last number it saw.
            log.warning("a log stream broke: %s", error)
        finally:
            self._streams -= 1

    async def _followed(self, run: UUID, after: int) -> AsyncIterator[bytes]:
        wait, silent = _POLL_SECONDS, 0.0
        while True:
            # The state is read before the lines: whatever was logged before the end is sent before `end`.
            found = await self._store.get(run)
            lines = await self._store.logs(run, after, _PAGE)
            for line in lines:
                yield b"id: %d\nevent: log\ndata: %b\n\n" % (line.number, encode(log_line(line)))
                after = line.number
            if len(lines) == _PAGE:
                continue
            if found is None or found.state.ended:
                status = None if found is None else found.status
                yield b"event: end\ndata: %b\n\n" % encode({"status": status})
                return
            wait, silent = (_POLL_SECONDS, 0.0) if lines else (min(wait * 1.5, _SLOWEST_POLL_SECONDS), silent + wait)
            if silent >= _KEEPALIVE_SECONDS:
                yield b": still here\n\n"
                silent = 0.0
            if await self._stopped_within(wait):
                return

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False


def _last_event_id(request: Request) -> int:
    given = request.headers.get("last-event-id", "0").strip() or "0"
    if not given.isascii() or not given.isdecimal() or len(given) > 18:
        raise invalid("Last-Event-ID", "must be the number of a line")
    return int(given)
