"""How many messages a worker holds."""

from __future__ import annotations

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
    assert (ahead.limit, ahead.quick) == (4, False)
    ahead.ended(0.001)
    assert (ahead.limit, ahead.quick) == (12, True)


def test_a_long_run_begins_the_count_anew() -> None:
    ahead = ReadAhead(1)
    for seconds in [*[0.001] * (MANY - 1), 5.0, *[0.001] * (MANY - 1)]:
        ahead.ended(seconds)
    assert ahead.limit == 1


def test_a_large_concurrency_needs_more_of_them() -> None:
    ahead = ReadAhead(100)
    for _ in range(MANY):
        ahead.ended(0.001)
    assert ahead.limit == 100


def test_one_message_that_had_to_wait_ends_it() -> None:
    ahead = ReadAhead(2)
    for _ in range(MANY):
        ahead.ended(0.001)
    ahead.stuck()
    assert (ahead.limit, ahead.quick) == (2, False)


@pytest.fixture
def door() -> Any:
    door = threading.Event()
    yield door
    door.set()


def test_what_was_read_ahead_goes_back_when_the_functions_take_long(door: threading.Event) -> None:
    @worker
    def work(run: Run, wait: bool = False) -> None:
        if wait:
            assert door.wait(30)

    with World(work, concurrency=2) as world:
        for number in range(MANY):
            world.run(f"quick-{number}")
        until(lambda: len(world.transport.done) == MANY)
        until(lambda: world.transport.limits == [6])
        for job in ("long-1", "long-2", "ahead-1", "ahead-2"):
            world.run(job, wait=True)
        until(lambda: world.transport.returned == ["ahead-1", "ahead-2"], patience=LONGEST_WAIT + 10)
        assert world.transport.limits == [6, 2]
        assert world.api.said("start", "ahead-1") == []
        door.set()


def test_messages_that_wait_for_the_api_stay(door: threading.Event) -> None:
    with World(worker(lambda: None), concurrency=1) as world:
        for number in range(MANY):
            world.run(f"quick-{number}")
        until(lambda: world.transport.limits == [3])
        world.api.away = True
        for job in "abc":
            world.run(job)
        until(lambda: world.engine._away_since is not None)
        waited = world.engine._clock() + 1.5 * LONGEST_WAIT
        until(lambda: world.engine._clock() > waited)
        assert world.transport.returned is None
        world.api.away = False
        until(lambda: len(world.transport.done) == MANY + 3)


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
