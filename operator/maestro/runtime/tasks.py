"""Coroutines that run side by side until a stop event."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_until(stop: asyncio.Event, *coroutines: Coroutine[Any, Any, None], grace: float = 0.0) -> None:
    """Run coroutines until `stop` is set; they may end by themselves for `grace` seconds, then they are cancelled.

    The first to fail ends the others, and its exception is raised. One that returns leaves the others alone; when all
    have returned, so does this.
    """
    tasks = {asyncio.create_task(coroutine) for coroutine in coroutines}
    stopped = asyncio.create_task(stop.wait())
    try:
        pending = set(tasks)
        while pending and not stopped.done():
            done, _ = await asyncio.wait({*pending, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
            pending -= done
        if pending and grace > 0:
            await asyncio.wait(pending, timeout=grace)
    finally:
        for task in (*tasks, stopped):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(stopped, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def sleep_unless(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep, but not past `stop`; whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
