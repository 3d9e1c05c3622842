"""The lines of a watch, one JSON event each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from maestro.kube.errors import Unavailable, error_of


async def watch_events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of an open watch, until the server ends it.

    Raises
    ------
    Expired
        The server says that the resourceVersion is too old.
    Unavailable
        The connection broke, or the read time-out passed.
    """
    async for line in _lines(response):
        try:
            event = json.loads(line)
        except ValueError as error:
            # A connection that is cut in the middle of a line.
            raise Unavailable(0, "WatchCut", "the watch ended inside an event") from error
        kind, obj = str(event.get("type", "")), event.get("object") or {}
        if kind == "ERROR":
            raise error_of(int(obj.get("code") or 500), obj)
        yield kind, obj


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # Not readline(): an object can be longer than the reader's buffer.
    rest: list[bytes] = []
    try:
        async for chunk in response.content.iter_any():
            *whole, last = chunk.split(b"\n")
            if whole:
                yield b"".join((*rest, whole[0]))
                for line in whole[1:]:
                    yield line
                rest = [last] if last else []
            elif last:
                rest.append(last)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        what = "nothing was heard" if isinstance(error, TimeoutError) else f"{type(error).__name__}"
        raise Unavailable(0, "WatchBroken", f"the watch broke: {what}") from error
    if rest:
        yield b"".join(rest)
