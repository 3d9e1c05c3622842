"""A namespace of each test's own, and the controllers at work in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.schedule.world import ScheduleWorld, world

Scenario = Callable[[ScheduleWorld], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A fresh namespace."""
    with apiserver.namespace("sched") as name:
        yield name


@pytest.fixture
def play(apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, tmp_path: Path) -> Play:
    """Play a scenario in a world of its own: `play(scenario)`; keywords are settings."""

    def run(scenario: Scenario, *, timeout: float = 180.0, **settings: Any) -> None:
        async def whole() -> None:
            async with world(apiserver, rabbitmq, namespace, tmp_path, **settings) as made:
                await scenario(made)

        asyncio.run(asyncio.wait_for(whole(), timeout))

    return run
