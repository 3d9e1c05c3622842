"""A real disk that is full, and one that refuses writes: said at once, nothing lost, and no restart afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from tests.integration.runs.world import World

from maestro import app
from maestro.runs import backup
from maestro.runs.errors import StoreUnavailable
from maestro.runs.store import RunStore


@pytest.fixture(autouse=True, scope="module")
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests mount file systems: run them as root", pytrace=False)


TEXT = {"text": "x" * 4000}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own: its files can be made immutable, open ones too."""
    folder, file = tmp_path / "image", tmp_path / "image.ext4"
    folder.mkdir()
    with file.open("wb") as made:
        made.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", file], check=True)
    subprocess.run(["mount", "-o", "loop", file, folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Leaves not a byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass
    return ballast


def accept_until_refused(world: World, automation: int) -> tuple[list[UUID], str]:
    """What was accepted, and the words of the refusal."""
    accepted: list[UUID] = []
    for _ in range(1000):
        try:
            accepted += world.accept(automation, 10, parameters=TEXT)
        except StoreUnavailable as error:
            return accepted, str(error)
    raise AssertionError("the disk never was full")


def test_a_full_disk_is_said_and_recovered_from(volume: Path) -> None:
    world = World(f"sqlite:///{volume}/maestro.db")
    automation = world.automation()
    run = world.running(automation)
    ballast = fill(volume)
    accepted, words = accept_until_refused(world, automation)
    assert "full" in words
    # readiness, the condition and the log go by this; it lasts as long as nobody could write
    problem = world.do(app._store_problem(world.store))
    assert problem is not None
    assert "full" in problem
    assert world.do(world.store.counts())[automation].pending == len(accepted), "readers go on; nothing half accepted"
    with pytest.raises(StoreUnavailable):
        backup.backup(world.url, volume / "backup.db")
    assert not (volume / "backup.db.part").exists()

    ballast.unlink()
    later = world.accept(automation, 10, parameters=TEXT)
    assert world.do(app._store_problem(world.store)) is None
    assert world.finish(run).status == 200
    assert len({world.get(one).id for one in accepted + later}) == len(accepted) + 10
    world.close()
    assert backup.inspect(volume / "maestro.db").runs == len(accepted) + 11


def test_a_disk_that_refuses_writes_is_said_and_recovered_from(image: Path) -> None:
    world = World(f"sqlite:///{image}/maestro.db")
    automation = world.automation()
    run = world.running(automation)
    # not the memory that connections share: a write to that isn't refused but ends the process (operations.md)
    files = [f"{image}/maestro.db", f"{image}/maestro.db-wal"]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        with pytest.raises(StoreUnavailable):
            world.accept(automation)
        problem = world.do(app._store_problem(world.store))
        assert problem is not None
        with pytest.raises(StoreUnavailable):
            world.finish(run)
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)
    assert world.finish(run).status == 200, "the worker says it again"
    assert len(world.accept(automation)) == 1
    assert world.do(app._store_problem(world.store)) is None
    world.close()


def test_a_store_on_a_disk_that_is_read_only_from_the_start(volume: Path) -> None:
    World(f"sqlite:///{volume}/maestro.db").close()
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    with pytest.raises(StoreUnavailable, match=r"[Rr]ead-only"):
        RunStore.open(f"sqlite:///{volume}/maestro.db")
    with pytest.raises(StoreUnavailable, match=r"[Rr]ead-only"):
        RunStore.open(f"sqlite:///{volume}/other/maestro.db")
    subprocess.run(["mount", "-o", "remount,rw", volume], check=True)
    asyncio.run(RunStore.open(f"sqlite:///{volume}/maestro.db").close())
