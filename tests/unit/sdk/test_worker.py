"""A worker in a plain test: no broker, no cluster."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import copy_context
from typing import Any

import pytest

from maestro_worker import (
    BusinessError,
    Canceled,
    FakeRun,
    Fenced,
    NothingToDo,
    Run,
    RunLogHandler,
    Worker,
    current_run,
    worker,
)


@worker(concurrency=2)
def count(run: Run, n: int) -> int:
    """Count to n."""
    for i in range(n):
        run.progress(i + 1, n, f"item {i + 1}")
        run.log(f"did {i + 1}")
    return n


@worker
async def count_async(run: Run, n: int) -> int:
    for i in range(n):
        await asyncio.sleep(0)
        run.progress(i + 1, n)
    assert current_run() is run
    return n


def test_decorated_with_and_without_arguments() -> None:
    assert isinstance(count, Worker)
    assert (count.name, count.concurrency, count.__doc__) == ("count", 2, "Count to n.")
    assert count_async.concurrency == 1
    assert count_async.is_async
    with pytest.raises(ValueError, match="concurrency"):
        worker(concurrency=0)(lambda run: None)


def test_a_fake_run_records_progress_and_log() -> None:
    fake = FakeRun()
    assert count.run(fake, n=2) == 2
    assert [(p.done, p.total, p.text) for p in fake.reports] == [(1, 2, "item 1"), (2, 2, "item 2")]
    assert fake.messages == ["did 1", "did 2"]
    assert fake.parameters == {"n": 2}


def test_async_functions_run_in_plain_and_in_async_tests() -> None:
    assert count_async.run(n=3) == 3

    async def inside() -> Any:
        return await count_async.run_async(n=2)

    assert asyncio.run(inside()) == 2


def test_the_function_itself_can_be_called() -> None:
    assert count(FakeRun(), 1) == 1


def test_cancellation_is_an_exception_at_progress_and_a_flag() -> None:
    fake = FakeRun(canceled=True)
    assert fake.cancelled
    with pytest.raises(Canceled):
        count.run(fake, n=2)
    assert fake.messages == []

    @worker
    def flagged(run: Run) -> str:
        return "stopped" if run.cancelled else "went on"

    assert flagged.run(fake) == "stopped"
    assert flagged.run() == "went on"


def test_a_cancellation_passes_by_except_exception() -> None:
    @worker
    def stubborn(run: Run) -> None:
        for _ in range(3):
            try:
                run.progress()
            except Exception:
                run.log("swallowed")

    fake = FakeRun(canceled=True)
    with pytest.raises(Canceled):
        stubborn.run(fake)
    assert fake.messages == []


def test_a_fenced_run_raises_a_canceled_of_its_own_kind() -> None:
    fake = FakeRun()
    fake.fence()
    with pytest.raises(Fenced):
        count.run(fake, n=1)


def test_errors_pass_through() -> None:
    @worker
    def fails(how: str) -> None:
        if how == "business":
            raise BusinessError("EMPTY_VIDEO", "no frames")
        if how == "nothing":
            raise NothingToDo("no invoices")
        raise ConnectionError("portal")

    with pytest.raises(BusinessError) as caught:
        fails.run(how="business")
    assert (caught.value.error_class, caught.value.message) == ("EMPTY_VIDEO", "no frames")
    assert str(caught.value) == "EMPTY_VIDEO: no frames"
    with pytest.raises(NothingToDo, match="no invoices"):
        fails.run(how="nothing")
    with pytest.raises(ConnectionError):
        fails.run(how="technical")


def test_no_current_run_outside() -> None:
    assert current_run() is None
    count.run(n=1)
    assert current_run() is None


def test_log_levels_are_checked() -> None:
    fake = FakeRun()
    fake.log("careful", "WARNING", actionable=True)
    assert (fake.lines[0].level, fake.lines[0].actionable) == ("WARNING", True)
    with pytest.raises(ValueError, match="level is one of"):
        fake.log("x", "LOUD")


@pytest.fixture
def logger() -> Any:
    logger = logging.getLogger("test_of_run_logs")
    handler = RunLogHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)


def test_log_records_belong_to_the_current_run(logger: logging.Logger) -> None:
    @worker
    def chatty(run: Run, name: str) -> None:
        logger.debug("%s debugs", name)
        logger.warning("%s warns", name, extra={"actionable": True})
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("%s caught", name)

    logger.info("outside of any run")
    fake = FakeRun()
    chatty.run(fake, name="it")
    assert [line.level for line in fake.lines] == ["DEBUG", "WARNING", "ERROR"]
    assert fake.messages[:2] == ["it debugs", "it warns"]
    assert "ValueError: broken" in fake.messages[2]
    assert [line.actionable for line in fake.lines] == [False, True, False]


def test_log_records_of_threads_and_tasks(logger: logging.Logger) -> None:
    @worker
    def threads(run: Run) -> None:
        thread = threading.Thread(target=copy_context().run, args=(logger.info, "from a thread"))
        thread.start()
        thread.join()

    @worker
    async def tasks(run: Run) -> None:
        async def one(number: int) -> None:
            logger.info("task %d", number)

        await asyncio.gather(*(one(number) for number in range(3)))

    fake = FakeRun()
    threads.run(fake)
    tasks.run(fake)
    assert fake.messages == ["from a thread", "task 0", "task 1", "task 2"]


def test_runs_side_by_side_keep_their_logs_apart(logger: logging.Logger) -> None:
    @worker
    async def chatty(run: Run) -> None:
        for _ in range(5):
            logger.info(run.id)
            await asyncio.sleep(0)

    fakes = [FakeRun() for _ in range(10)]

    async def all_of_them() -> None:
        await asyncio.gather(*(chatty.run_async(fake) for fake in fakes))

    asyncio.run(all_of_them())
    assert all(fake.messages == [fake.id] * 5 for fake in fakes)


def test_text_that_is_no_text_is_made_sendable() -> None:
    fake = FakeRun()
    fake.log("file \udcff")
    fake.progress(text="file \udcff")
    assert fake.messages == ["file ?"]
    assert fake.reports[0].text == "file ?"


def test_a_run_shows_no_parameters() -> None:
    fake = FakeRun(parameters={"password": "hunter2"})
    assert "hunter2" not in repr(fake)
