"""What a workqueue promises."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.runtime.clocks import FakeClock

from maestro.runtime.backoff import Backoff
from maestro.runtime.workqueue import ShutDown, WorkQueue


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10.0))


def queue_with(clock: FakeClock, **backoff: float) -> WorkQueue[str]:
    return WorkQueue("test", backoff=Backoff(jitter=0.0, **backoff), clock=clock)


async def taken(queue: WorkQueue[str]) -> list[str]:
    """Every key that is ready now, each marked as done."""
    keys = []
    while len(queue):
        key = await queue.get()
        keys.append(key)
        queue.done(key)
    return keys


def test_a_waiting_key_waits_once() -> None:
    async def scenario() -> None:
        queue = queue_with(FakeClock())
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert await taken(queue) == ["a", "b"]

    run(scenario())


def test_a_key_that_is_worked_on_runs_again_afterwards_and_never_at_once() -> None:
    async def scenario() -> None:
        queue = queue_with(FakeClock())
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert len(queue) == 1
        assert await taken(queue) == ["a"]

    run(scenario())


def test_a_failure_comes_back_later_each_time() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        queue = queue_with(clock, initial=1.0, maximum=3.0)
        queue.add("a")
        for wait in (1.0, 2.0, 3.0, 3.0):
            key = await queue.get()
            queue.done(key, failed=True)
            clock.advance(wait - 0.01)
            queue.add_after("other", 0)
            assert await queue.get() == "other", f"it came back before {wait} s"
            queue.done("other")
            clock.advance(0.02)
        key = await queue.get()
        assert queue.failures("a") == 4
        queue.done(key)
        assert queue.failures("a") == 0

    run(scenario())


def test_what_came_in_during_a_failure_waits_for_the_backoff_too() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        queue = queue_with(clock, initial=5.0)
        queue.add("a")
        await queue.get()
        queue.add("a")
        queue.done("a", failed=True)
        assert len(queue) == 0
        clock.advance(5.0)
        assert await queue.get() == "a"

    run(scenario())


def test_a_new_event_overtakes_a_backoff() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        queue = queue_with(clock, initial=100.0)
        queue.add("a")
        queue.done(await queue.get(), failed=True)
        queue.add("a")
        assert await taken(queue) == ["a"]
        clock.advance(1000.0)
        queue.add("b")
        assert await taken(queue) == ["b"], "the delay that was overtaken still fired"

    run(scenario())


def test_of_several_delays_the_earliest_counts() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        queue = queue_with(clock)
        queue.add_after("a", 50.0)
        queue.add_after("a", 10.0)
        queue.add_after("a", 90.0)
        clock.advance(10.0)
        assert await queue.get() == "a"
        queue.done("a")
        clock.advance(1000.0)
        queue.add("b")
        assert await taken(queue) == ["b"]

    run(scenario())


def test_a_delay_wakes_a_waiting_worker() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        worker = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add_after("late", 0.02)
        queue.add_after("soon", 0.01)
        assert await worker == "soon"
        assert await queue.get() == "late"

    run(scenario())


def test_a_cancelled_worker_passes_its_wake_on() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        first.cancel()
        assert await second == "a"

    run(scenario())


def test_shutting_down_ends_every_worker_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        workers = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.shut_down()
        for worker in workers:
            with pytest.raises(ShutDown):
                await worker
        queue.add("a")
        queue.add_after("a", 0.001)
        with pytest.raises(ShutDown):
            await queue.get()

    run(scenario())


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "later", "get", "ok", "fail", "tick"]), st.sampled_from("abc")), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_no_key_is_lost_and_none_is_worked_on_twice_at_once(operations: list[tuple[str, str]]) -> None:
    async def scenario() -> None:
        clock = FakeClock()
        queue = queue_with(clock, initial=1.0, maximum=8.0)
        working: set[str] = set()
        owed: set[str] = set()
        for operation, key in operations:
            if operation in ("add", "later"):
                owed.add(key)
                queue.add(key) if operation == "add" else queue.add_after(key, 5.0)
            elif operation == "tick":
                clock.advance(2.0)
            elif operation == "get" and len(queue):
                got = await queue.get()
                assert got not in working
                working.add(got)
                owed.discard(got)
            elif operation in ("ok", "fail") and key in working:
                working.discard(key)
                queue.done(key, failed=operation == "fail")
                if operation == "fail":
                    owed.add(key)
        for key in list(working):
            queue.done(key)
        clock.advance(1000.0)
        queue.add("end")
        seen = set()
        while len(queue):
            got = await queue.get()
            seen.add(got)
            queue.done(got)
        assert owed <= seen

    run(scenario())
