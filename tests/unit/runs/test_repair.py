"""Repair: what was lost is published again, a mere backlog isn't."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from maestro.runs.model import Claimed, Counts, QueuedRun, Registration
from maestro.runs.repair import Repair

START = datetime(2030, 1, 1, tzinfo=UTC)
EPOCH = 4
AUTOMATION = 1


class World:
    """One queue with workers, or none, and a clock; time passes with `run`."""

    def __init__(self, *, launch: str = "Queue", taken_per_step: int = 0) -> None:
        self.now = START
        self.queued: dict[int, QueuedRun] = {}
        self.queue: list[tuple[int, int]] = []
        """(seq, pub), first in, first out."""
        self.started = 0
        self.next_pub = 1
        self.again: list[int] = []
        self.in_flight: set[int] = set()
        self.taken_per_step = taken_per_step
        self.registration = Registration(uid="u", namespace="n", name="a", queue="q", launch=launch)  # type: ignore[arg-type]
        self.repair = Repair(self, self.publish_again, self.in_flight.__contains__, lambda: self.now)

    # -- the store

    def registrations(self) -> Mapping[int, Registration]:
        return {AUTOMATION: self.registration}

    async def counts(self) -> dict[int, Counts]:
        return {AUTOMATION: Counts(queued=len(self.queued)), 2: Counts(queued=5)}

    async def queued_runs(self, automation: int, limit: int, *, below: int | None = None) -> list[QueuedRun]:
        assert automation == AUTOMATION
        runs = sorted(self.queued.values(), key=lambda run: run.pub)
        return [run for run in runs if below is None or run.pub < below][:limit]

    async def started_pub(self, epoch: int, automation: int) -> int:
        assert (epoch, automation) == (EPOCH, AUTOMATION)
        return self.started

    async def republish(self, epoch: int, items: Sequence[QueuedRun]) -> list[Claimed]:
        raise AssertionError("the dispatcher's part")

    async def publish_again(self, runs: Sequence[QueuedRun]) -> None:
        for run in runs:
            self.again.append(run.seq)
            self.publish(run.seq)

    # -- the world

    def publish(self, seq: int) -> None:
        self.queued[seq] = QueuedRun(seq, self.next_pub, self.now)
        self.queue.append((seq, self.next_pub))
        self.next_pub += 1

    def lose(self, which: Callable[[int], bool]) -> None:
        self.queue = [(seq, pub) for seq, pub in self.queue if not which(seq)]

    def work(self, count: int) -> None:
        for seq, pub in self.queue[:count]:
            if self.queued.pop(seq, None) is not None:
                self.started = max(self.started, pub)
        del self.queue[:count]

    def run(self, seconds: float, every: float = 15.0) -> None:
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now += timedelta(seconds=every)
            self.work(self.taken_per_step)
            asyncio.run(self.repair.step(EPOCH))


def test_a_backlog_of_which_nothing_is_lost_makes_no_copies() -> None:
    world = World(taken_per_step=10)
    for seq in range(6000):
        world.publish(seq)
    world.run(seconds=6000 / 10 * 15)
    assert not world.queued
    assert world.again == []


def test_what_was_overtaken_is_published_again_and_nothing_else() -> None:
    world = World(taken_per_step=10)
    for seq in range(2000):
        world.publish(seq)
    lost = {13, 500, 501, 1999}
    world.lose(lambda seq: seq in lost)
    world.run(seconds=2000 / 10 * 15 + 600)
    assert not world.queued
    assert sorted(world.again) == sorted(lost)


def test_a_young_run_is_given_its_time() -> None:
    world = World(taken_per_step=1)
    for seq in range(3):
        world.publish(seq)
    world.lose(lambda seq: seq == 0)
    world.run(45)
    assert world.again == []
    world.run(30)
    assert world.again == [0]


def test_a_purged_queue_is_found_by_one_canary() -> None:
    world = World(taken_per_step=5)
    for seq in range(855):
        world.publish(seq)
    world.lose(lambda seq: True)
    world.run(90)
    assert world.again[0] == 0
    world.run(3600)
    assert not world.queued
    assert sorted(world.again) == list(range(855))


def test_without_workers_canaries_become_rare() -> None:
    world = World()
    for seq in range(100):
        world.publish(seq)
    world.run(24 * 3600)
    # 1, 2, 4 … minutes, then every hour.
    assert 20 <= len(world.again) <= 32
    assert len(world.queued) == 100


def test_copies_of_one_run_become_rare() -> None:
    world = World()
    world.publish(0)
    world.queue.clear()
    world.started = 10_000
    copies = []
    for _ in range(240):
        world.run(60)
        world.queue.clear()
        copies.append(len(world.again))
    # 1, 2, 4, … minutes of patience, at most an hour: some nine in four hours.
    assert copies[10] <= 4
    assert copies[-1] <= 10


def test_known_losses_are_published_at_once_and_only_those() -> None:
    world = World()
    for seq in range(700):
        world.publish(seq)
    world.lose(lambda seq: True)
    before = world.next_pub
    for seq in range(700, 710):
        world.publish(seq)
    world.repair.lost(AUTOMATION, before)
    world.run(15)
    assert sorted(world.again) == list(range(700))
    world.run(15)
    assert len(world.again) == 700


def test_what_is_in_flight_is_left_alone() -> None:
    world = World()
    world.publish(0)
    world.in_flight.add(1)
    world.run(3600)
    assert world.again == []


@pytest.mark.parametrize("launch", ["Job"])
def test_jobs_have_no_queue_to_repair(launch: str) -> None:
    world = World(launch=launch)
    world.publish(0)
    world.run(3600)
    assert world.again == []


def test_a_failure_of_the_store_leaves_known_losses_to_the_next_step() -> None:
    world = World()
    for seq in range(3):
        world.publish(seq)
    world.repair.lost(AUTOMATION, world.next_pub)
    publish = world.publish_again

    async def fail(runs: Sequence[QueuedRun]) -> None:
        raise ConnectionError

    world.repair._again = fail
    with pytest.raises(ConnectionError):
        world.run(15)
    world.repair._again = publish
    world.run(15)
    assert sorted(world.again) == [0, 1, 2]
