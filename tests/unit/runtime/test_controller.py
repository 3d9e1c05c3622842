"""The controller's workers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff
from maestro.runtime.controller import Controller
from maestro.runtime.workqueue import WorkQueue

FAST = Backoff(initial=0.001, maximum=0.001)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20.0))


def test_keys_are_reconciled_side_by_side_but_one_key_never_twice_at_once() -> None:
    async def scenario() -> None:
        stop, both, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c1")
        under_way: list[str] = []
        seen: list[str] = []

        async def reconcile(key: str) -> None:
            assert key not in under_way
            under_way.append(key)
            if len(under_way) == 2:
                both.set()
            await go_on.wait()
            under_way.remove(key)
            seen.append(key)
            if len(seen) == 3:
                stop.set()

        queue.add("a")
        queue.add("b")
        running = asyncio.create_task(Controller("c1", queue, reconcile, workers=4).run(stop))
        await both.wait()
        queue.add("a")
        go_on.set()
        await running
        assert sorted(seen) == ["a", "a", "b"]

    run(scenario())


def test_an_exception_is_tried_again_and_counted() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c2", backoff=FAST)
        attempts = 0

        async def reconcile(_: str) -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise RuntimeError("not yet")
            stop.set()

        queue.add("a")
        await Controller("c2", queue, reconcile).run(stop)
        assert attempts == 3
        assert queue.failures("a") == 0

    run(scenario())
    sample = metrics.REGISTRY.get_sample_value
    assert sample("maestro_reconcile_total", {"controller": "c2", "result": "error"}) == 2
    assert sample("maestro_reconcile_total", {"controller": "c2", "result": "ok"}) == 1
    assert sample("maestro_workqueue_retries_total", {"queue": "c2"}) == 2
    assert sample("maestro_reconcile_running", {"controller": "c2"}) == 0


def test_the_answer_says_when_to_look_again() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c3")
        answers = [0.001, 0.0, None]
        seen = 0

        async def reconcile(_: str) -> float | None:
            nonlocal seen
            seen += 1
            if seen == len(answers):
                stop.set()
            return answers[seen - 1]

        queue.add("a")
        await Controller("c3", queue, reconcile).run(stop)
        assert seen == 3

    run(scenario())


def test_a_reconcile_that_hangs_is_given_up() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c4", backoff=FAST)
        seen = 0

        async def reconcile(_: str) -> None:
            nonlocal seen
            seen += 1
            if seen == 1:
                await asyncio.Event().wait()
            stop.set()

        queue.add("a")
        await Controller("c4", queue, reconcile, timeout=0.01).run(stop)
        assert seen == 2

    run(scenario())


def test_what_is_under_way_may_end_when_stopped() -> None:
    async def scenario() -> None:
        stop, begun, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c5")
        ended = False

        async def reconcile(_: str) -> None:
            nonlocal ended
            begun.set()
            await go_on.wait()
            ended = True

        queue.add("a")
        running = asyncio.create_task(Controller("c5", queue, reconcile).run(stop))
        await begun.wait()
        stop.set()
        await asyncio.sleep(0)
        go_on.set()
        await running
        assert ended

    run(scenario())


def test_what_does_not_end_is_cancelled_after_the_grace() -> None:
    async def scenario() -> None:
        stop, begun = asyncio.Event(), asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c6")

        async def reconcile(_: str) -> None:
            begun.set()
            await asyncio.Event().wait()

        queue.add("a")
        running = asyncio.create_task(Controller("c6", queue, reconcile).run(stop, grace=0.01))
        await begun.wait()
        stop.set()
        await running

    run(scenario())


def test_an_expected_outage_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        queue: WorkQueue[str] = WorkQueue("c7", backoff=FAST)
        seen = 0

        async def reconcile(_: str) -> None:
            nonlocal seen
            seen += 1
            if seen == 1:
                raise ConnectionError("the broker is away")
            stop.set()

        queue.add("a")
        await Controller("c7", queue, reconcile, expected=(ConnectionError,)).run(stop)

    run(scenario())
    (record,) = [record for record in caplog.records if record.name == "maestro.runtime.controller"]
    assert "the broker is away" in record.getMessage()
    assert record.exc_info is None
