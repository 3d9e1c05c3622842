"""The heap of next ticks, and clocks that are set."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from maestro.kube.kinds import ObjectKey
from maestro.schedule.loop import TickLoop

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
A, B = ObjectKey("shop", "a"), ObjectKey("shop", "b")


class World:
    """A loop with clocks of the test's own."""

    def __init__(self) -> None:
        self.now, self.steady = NOON, 0.0
        self.due: list[ObjectKey] = []
        self.loop = TickLoop(self.due.append, clock=lambda: self.now, steady=lambda: self.steady, look_seconds=10.0)

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.steady += seconds


def test_each_is_told_once_in_order() -> None:
    world = World()
    world.loop.arm(B, NOON + timedelta(seconds=7))
    world.loop.arm(A, NOON + timedelta(seconds=5))
    assert world.loop.turn() == 5.0
    world.pass_(6)
    assert world.loop.turn() == 1.0
    assert world.due == [A]
    world.pass_(60)
    assert world.loop.turn() == 10.0
    assert world.due == [A, B]
    assert len(world.loop) == 0


def test_the_last_word_counts() -> None:
    world = World()
    for minutes in range(1, 500):
        world.loop.arm(A, NOON + timedelta(minutes=minutes))
    world.loop.arm(A, NOON + timedelta(seconds=3))
    world.loop.arm(B, NOON)
    world.loop.disarm(B)
    assert len(world.loop._heap) < 100
    world.pass_(4)
    world.loop.turn()
    assert world.due == [A]
    world.pass_(1e6)
    world.loop.turn()
    assert world.due == [A]


def test_a_clock_that_is_set(caplog: pytest.LogCaptureFixture) -> None:
    """Forward: what it jumped over is due at once. Back: what is armed waits on; nothing is told twice."""
    world = World()
    world.loop.arm(A, NOON + timedelta(hours=1))
    world.loop.turn()
    with caplog.at_level(logging.WARNING):
        world.now += timedelta(hours=2)
        world.loop.turn()
        assert world.due == [A]
        assert "forward by 2:00:00" in caplog.text
        world.loop.arm(A, world.now + timedelta(hours=1))
        world.now -= timedelta(hours=2)
        assert world.loop.turn() == 10.0
        assert "back by 2:00:00" in caplog.text
    assert world.due == [A]


def test_an_earlier_tick_wakes_the_sleeper() -> None:
    async def scenario() -> None:
        woken = asyncio.Event()
        loop = TickLoop(lambda _key: woken.set())
        stop = asyncio.Event()
        running = asyncio.create_task(loop.run(stop))
        await asyncio.sleep(0)
        loop.arm(A, datetime.now(UTC) + timedelta(seconds=0.01))
        await asyncio.wait_for(woken.wait(), 5)
        stop.set()
        await running

    asyncio.run(scenario())
