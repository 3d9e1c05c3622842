"""How many messages a worker holds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.unit.sdk.world import World, until

from maestro_worker import Run, worker
from maestro_worker.readahead import LONGEST_WAIT, MANY, ReadAhead


def test_as_many_as_it_works_on_until_many_runs_were_quick() -> None:
    ahead = ReadAhead(4)
    for _ in range(MANY - 1):
        ahead.ended(0.001)
    assert (ahead.quick, ahead.starts, ahead.messages) == (False, 4, 4)
    ahead.ended(0.001)
    assert (ahead.quick, ahead.starts, ahead.messages) == (True, 12, 24)


def test_a_long_run_begins_the_count_anew() -> None:
    ahead = ReadAhead(1)
    for seconds in [*[0.001] * (MANY - 1), 5.0, *[0.001] * (MANY - 1)]:
        ahead.ended(seconds)
    assert (ahead.starts, ahead.messages) == (1, 1)


def test_a_large_concurrency_needs_more_of_them() -> None:
    ahead = ReadAhead(100)
    for _ in range(2 * 100 - 1):
        ahead.ended(0.001)
    assert (ahead.starts, ahead.messages) == (100, 100)
    ahead.ended(0.001)
    assert (ahead.starts, ahead.messages) == (200, 400)


def test_one_that_had_to_wait_ends_it() -> None:
    ahead = ReadAhead(2)
    for _ in range(MANY):
        ahead.ended(0.001)
    ahead.stuck()
    assert (ahead.quick, ahead.starts, ahead.messages) == (False, 2, 2)


@pytest.fixture
def door() -> Any:
    door = threading.Event()
    yield door
    door.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_waits_behind_long_functions_goes_back(door: threading.Event, kind: str) -> None:
    begun: list[str] = []

    @worker
    def work(run: Run, wait: bool = False) -> None:
        if wait:
            begun.append(run.id)
            assert door.wait(30)

    @worker
    async def work_async(run: Run, wait: bool = False) -> None:
        if wait:
            begun.append(run.id)
            while not door.is_set():
                await asyncio.sleep(0.01)

    with World(work if kind == "sync" else work_async, concurrency=2) as world:
        for number in range(MANY):
            world.run(f"quick-{number}")
        until(lambda: len(world.transport.done) == MANY)
        until(lambda: world.transport.limits == [20])
        jobs = [f"long-{number}" for number in range(14)]
        for job in jobs:
            world.run(job, wait=True)
        # ten are started, two of them have a function; the messages of four are only here
        until(lambda: world.transport.returned == jobs[10:], patience=LONGEST_WAIT + 10)
        until(lambda: len(world.api.said("release")) == 8)
        assert sorted(begun) == sorted(jobs[:2])
        assert [item["job"] for item in world.api.said("start")[MANY:]] == jobs[:10]
        assert {world.api.states[job] for job in jobs[2:10]} == {"Pending"}
        assert world.transport.limits == [20, 2]
        until(lambda: len(world.transport.done) == MANY + 8)
        door.set()
        until(lambda: len(world.transport.done) == MANY + 10)
    assert len(begun) == 2


def test_what_was_started_ahead_goes_back_at_a_stop(door: threading.Event) -> None:
    @worker
    def work(run: Run, wait: bool = False) -> None:
        if wait:
            assert door.wait(30)

    with World(work, concurrency=1) as world:
        for number in range(MANY):
            world.run(f"quick-{number}")
        until(lambda: world.transport.limits == [18])
        for job in ("long", "ahead-1", "ahead-2"):
            world.run(job, wait=True)
        until(lambda: len(world.api.said("start")) == MANY + 3)
        world.stop()
        until(lambda: len(world.api.said("release")) == 2)
        door.set()
        until(world.joined)
    assert {job: world.api.states[job] for job in ("long", "ahead-1", "ahead-2")} == {
        "long": "completed",
        "ahead-1": "Pending",
        "ahead-2": "Pending",
    }


def test_messages_that_wait_for_the_api_stay() -> None:
    with World(worker(lambda: None), concurrency=1) as world:
        for number in range(MANY):
            world.run(f"quick-{number}")
        until(lambda: world.transport.limits == [18])
        world.api.away = True
        for number in range(18):
            world.run(f"later-{number}")
        until(lambda: world.engine._away_since is not None)
        waited = world.engine._clock() + 1.5 * LONGEST_WAIT
        until(lambda: world.engine._clock() > waited)
        assert world.transport.returned is None
        world.api.away = False
        until(lambda: len(world.transport.done) == MANY + 18)
        assert world.transport.returned is None


def test_runs_whose_connection_was_lost_count_against_the_limit(door: threading.Event) -> None:
    @worker
    def work(run: Run) -> None:
        assert door.wait(30)

    with World(work, concurrency=3) as world:
        for job in "abc":
            world.run(job)
        until(lambda: len(world.api.said("start")) == 3)
        world.lose_connection(1)
        until(lambda: world.transport.limits == [0])
        tag = world.deliver("a", connection=2, redelivered=True)
        until(lambda: world.transport.limits[-1] == 1)
        door.set()
        until(lambda: world.transport.limits[-1] == 3)
        until(lambda: (2, tag) in world.transport.done)
