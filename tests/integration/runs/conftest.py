"""The run store on both databases that it supports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.postgres import Postgres
from tests.integration.runs.world import World


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shared_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One store for the tests of a session; each makes Automations of its own in it."""
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("store")
        world = World(f"sqlite:///{folder}/store.db")
        yield world
        world.close()
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        world = World(url)
        yield world
        world.close()


@pytest.fixture
def store(shared_world: World) -> World:
    """The shared store, with the clock a day further than where the test before left it, and nothing due."""
    shared_world.advance(24 * 3600)
    while shared_world.due().handled:
        pass
    return shared_world
