"""What the dispatcher tells of itself: how far it is behind, what isn't settled, the Runs by state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.integration.runs.world import World

from maestro.runs.dispatcher import Dispatcher, Pubs
from maestro.runs.messages import Message
from maestro.runtime.metrics import REGISTRY


class Slow:
    """A transport whose room and confirms are the test's."""

    def __init__(self) -> None:
        self.room = 0
        self.published: list[int] = []
        self.confirm: Callable[[Pubs], None]

    def listen(
        self,
        *,
        on_confirm: Callable[[Pubs], None],
        on_return: Callable[[Pubs], None],
        on_lost: Callable[[Pubs], None],
        on_state: Callable[[object], None],
    ) -> None:
        self.confirm, self.changed = on_confirm, on_state

    def publish(self, batch: Sequence[Message]) -> None:
        self.room -= len(batch)
        self.published += [message.pub for message in batch]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(f"sqlite:///{tmp_path}/store.db")
    yield world
    world.close()


async def shows(metric: str, value: float, **labels: str) -> None:
    """Waits until the gauge has this value."""
    async with asyncio.timeout(20):
        while REGISTRY.get_sample_value(f"maestro_{metric}", labels) != value:
            await asyncio.sleep(0.005)


def test_the_gauges_of_a_dispatch(world: World) -> None:
    automation = world.automation()
    registration = world.store.registration(automation)
    assert registration is not None
    name = registration.id
    world.accept(automation, 5)
    transport, stop = Slow(), asyncio.Event()
    dispatcher = Dispatcher(world.store, transport, clock=lambda: world.now, poll_seconds=0.01)

    async def scenario() -> None:
        running = asyncio.create_task(dispatcher.run(stop))
        await shows("runs", 5, automation=name, state="waiting")
        await shows("dispatch_lag_seconds", 0)
        world.advance(30)
        await shows("dispatch_lag_seconds", 30)

        transport.room = 2
        transport.changed(None)
        await shows("dispatch_unconfirmed", 2)
        await shows("runs", 2, automation=name, state="queued")
        await shows("runs", 3, automation=name, state="waiting")
        world.advance(10)
        await shows("dispatch_lag_seconds", 40)  # it never had nothing left to claim

        transport.room = 10
        transport.changed(None)
        await shows("dispatch_unconfirmed", 5)
        await shows("dispatch_lag_seconds", 0)
        transport.confirm(transport.published)
        await shows("dispatch_unconfirmed", 0)
        stop.set()
        await running

    world.do(scenario())
