"""Coroutines that run side by side."""

from __future__ import annotations

import asyncio

import pytest

from maestro.runtime.tasks import run_until, sleep_unless


def test_a_failure_ends_the_others_and_is_raised() -> None:
    cancelled = False

    async def forever() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled = True

    async def fails() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("boom")

    async def scenario() -> None:
        await run_until(asyncio.Event(), forever(), fails())

    with pytest.raises(RuntimeError, match="boom"):
        asyncio.run(scenario())
    assert cancelled


def test_one_that_returns_leaves_the_others_alone() -> None:
    seen: list[str] = []

    async def one(name: str, *, after: asyncio.Event | None, sets: asyncio.Event | None) -> None:
        if after is not None:
            await after.wait()
        seen.append(name)
        if sets is not None:
            sets.set()

    async def scenario() -> None:
        first = asyncio.Event()
        await run_until(asyncio.Event(), one("a", after=None, sets=first), one("b", after=first, sets=None))

    asyncio.run(scenario())
    assert seen == ["a", "b"]


def test_stop_gives_a_grace_and_then_cancels() -> None:
    async def scenario() -> str:
        stop = asyncio.Event()
        ended = "no"

        async def polite() -> None:
            nonlocal ended
            await stop.wait()
            await asyncio.sleep(0)
            ended = "yes"

        async def deaf() -> None:
            await asyncio.Event().wait()

        asyncio.get_running_loop().call_soon(stop.set)
        await run_until(stop, polite(), deaf(), grace=0.01)
        return ended

    assert asyncio.run(scenario()) == "yes"


def test_a_sleep_ends_with_stop() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        assert not await sleep_unless(stop, 0.001)
        asyncio.get_running_loop().call_soon(stop.set)
        assert await sleep_unless(stop, 3600.0)
        assert await sleep_unless(stop, 3600.0)

    asyncio.run(scenario())
