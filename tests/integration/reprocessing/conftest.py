"""A namespace of each test's own, and the controller at work in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.apiserver import ApiServer
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.reprocessing.world import World, world

Scenario = Callable[[World], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A fresh namespace."""
    with apiserver.namespace("replay") as name:
        yield name


@pytest.fixture
def play(apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, tmp_path: Path) -> Play:
    """Play a scenario in a world of its own."""

    def run(scenario: Scenario, *, timeout: float = 180.0, start: bool = True) -> None:
        async def whole() -> None:
            async with world(apiserver, rabbitmq, namespace, tmp_path, start=start) as made:
                await scenario(made)

        asyncio.run(asyncio.wait_for(whole(), timeout))

    return run
