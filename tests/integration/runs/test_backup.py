"""Backup of a store that is in use, restore with care, and the commands around it, on real files."""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.cluster.postgres import Postgres
from tests.integration.runs.world import World

from maestro import cli
from maestro.runs import backup, restored
from maestro.runs.backup import CareRefused
from maestro.runs.database import in_use
from maestro.runs.errors import StoreUnavailable
from maestro.runs.model import NewRun, RunState
from maestro.runs.store import RunStore

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    world = World(url_of(folder))
    yield world
    world.close()


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/volume/maestro.db"


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    said: str


class Cli:
    """The commands, in this process: a new interpreter for each takes longer than all the rest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[bytes]) -> None:
        self._monkeypatch = monkeypatch
        self._captured = captured

    def __call__(self, url: str, *arguments: str, given: bytes = b"") -> Ran:
        self._captured.readouterr()
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        self._monkeypatch.setenv("MAESTRO_STORE_URL", url)
        try:
            code = cli.main(arguments)
        except SystemExit as usage:
            code = int(usage.code or 0)
        out, said = self._captured.readouterr()
        return Ran(code, out, said.decode())


@pytest.fixture
def maestro(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(monkeypatch, capfdbinary)


def test_a_backup_under_load_is_one_moment_of_the_store(world: World, folder: Path) -> None:
    automation = world.automation()
    # each list is one transaction: a backup holds all of it or nothing
    size, target = 50, folder / "backup.db"

    async def load_and_back_up() -> int:
        done = asyncio.Event()
        accepted = 0

        async def load() -> None:
            nonlocal accepted
            while not done.is_set():
                await world.store.accept([NewRun(automation, {"n": n, "text": "x" * 500}) for n in range(size)])
                claimed = await world.store.claim(world.epoch, automation, size)
                assert len(claimed) == size
                accepted += size

        async def back_up() -> None:
            while accepted < 5 * size:
                await asyncio.sleep(0.01)
            before = accepted
            await asyncio.to_thread(backup.backup, world.url, target)
            while accepted <= before:  # the load goes on during the backup and after it
                await asyncio.sleep(0.01)
            done.set()

        await asyncio.gather(load(), back_up())
        return accepted

    total = world.do(load_and_back_up())
    content = backup.inspect(target)
    assert 5 * size <= content.runs < total
    assert content.runs % size == 0
    copy = sqlite3.connect(target)
    (queued,) = copy.execute("SELECT count(*) FROM run WHERE pub IS NOT NULL").fetchone()
    assert content.next_pub == queued + 1, "numbers and what they were given to are of the same moment"
    copy.close()
    assert sorted(path.name for path in folder.iterdir()) == ["backup.db", "volume"]


def test_a_store_in_use_is_not_replaced(world: World, folder: Path) -> None:
    automation = world.automation()
    backup.backup(world.url, folder / "backup.db")
    run = world.running(automation)
    with pytest.raises(CareRefused, match="in use"):
        backup.restore(world.url, folder / "backup.db", now=NOW)
    assert world.finish(run).status == 200


def test_a_store_that_is_being_restored_is_not_opened(folder: Path) -> None:
    World(url_of(folder)).close()
    with in_use(folder / "volume" / "maestro.db", alone=True) as taken:
        assert taken
        with pytest.raises(StoreUnavailable, match="being restored"):
            RunStore.open(url_of(folder))


def test_restored_the_old_file_is_kept_and_runs_go_on(folder: Path) -> None:
    world = World(url_of(folder))
    automation = world.automation()
    queued, running, pending = world.accept(automation, 3)
    world.claim(automation, 2)
    world.start(running)
    backup.backup(world.url, folder / "backup.db")
    world.finish(running)
    (later,) = world.accept(automation)
    identity = world.rows("SELECT store_id FROM leader")
    world.close()

    content, kept = backup.restore(world.url, folder / "backup.db", now=NOW)
    assert (content.runs, content.store_id != identity[0][0]) == (3, True)
    assert kept == folder / "volume" / "maestro.db.before-20300102T030405Z"
    assert backup.inspect(kept).runs == 4
    assert {path.name for path in (folder / "volume").iterdir()} <= {
        *("maestro.db", kept.name, "maestro.db.use", "maestro.db.lock")
    }

    world = World(url_of(folder))
    try:
        assert {run: world.state(run) for run in (queued, running, pending)} == {
            queued: RunState.QUEUED,
            running: RunState.RUNNING,
            pending: RunState.PENDING,
        }
        assert world.do(world.store.get(later)) is None
        won = world.do(world.store.win_leadership())
        assert won.confirmed_pub == 0, "what is Queued is published again"
        assert [run.id for run in world.do(world.store.queued_after(won.epoch, 0, 10))] == [queued]
        # the attempt that the backup knows goes on where its worker still speaks; and older messages are known ones
        assert world.finish(running).status == 200
        assert world.start(queued, pub=1, epoch=1, store=str(identity[0][0])).status == 200
        assert world.do(world.store.restorations.noticed()) is None
    finally:
        world.close()


def test_a_damaged_store_is_replaced_too(folder: Path) -> None:
    World(url_of(folder)).close()
    backup.backup(url_of(folder), folder / "backup.db")
    store = folder / "volume" / "maestro.db"
    store.write_bytes(b"no database any more" * 1000)
    store.with_name("maestro.db-wal").write_bytes(b"nor a log")
    _, kept = backup.restore(url_of(folder), folder / "backup.db", now=NOW)
    assert kept is not None
    assert kept.read_bytes().startswith(b"no database")
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == b"nor a log"
    World(url_of(folder)).close()


def test_into_an_empty_place(folder: Path) -> None:
    World(url_of(folder)).close()
    backup.backup(url_of(folder), folder / "backup.db")
    content, kept = backup.restore(f"sqlite:///{folder}/other/maestro.db", folder / "backup.db", now=NOW)
    assert (content.runs, kept) == (0, None)


def test_what_is_no_sound_backup_is_refused_and_nothing_changes(folder: Path) -> None:
    World(url_of(folder)).close()
    store = folder / "volume" / "maestro.db"
    backup.backup(url_of(folder), folder / "good.db")
    before = store.read_bytes()
    good = (folder / "good.db").read_bytes()
    cut = good[: len(good) // 2]
    scribbled = good[:4096] + b"\xff" * 100 + good[4196:]
    for name, content in (("text.db", b"hello" * 300), ("cut.db", cut), ("scribbled.db", scribbled), ("empty.db", b"")):
        (folder / name).write_bytes(content)
        with pytest.raises(CareRefused, match=f"{name} (is damaged|can't be read|is a database, but)"):
            backup.restore(url_of(folder), folder / name, now=NOW)
    (folder / "newer.db").write_bytes(good)
    with sqlite3.connect(folder / "newer.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    connection.close()
    with pytest.raises(CareRefused, match=r"newer version of Maestro \(tables r9999\)"):
        backup.restore(url_of(folder), folder / "newer.db", now=NOW)
    with pytest.raises(CareRefused, match="no file"):
        backup.restore(url_of(folder), folder / "absent.db", now=NOW)
    assert store.read_bytes() == before
    assert {path.name for path in store.parent.iterdir()} <= {"maestro.db", "maestro.db.use", "maestro.db.lock"}


def test_a_backup_overwrites_nothing_and_leaves_nothing_half(world: World, folder: Path) -> None:
    (folder / "there.db").write_text("mine")
    with pytest.raises(CareRefused, match="exists already"):
        backup.backup(world.url, folder / "there.db")
    with pytest.raises(StoreUnavailable):
        backup.backup(world.url, folder / "absent" / "backup.db")
    with pytest.raises(CareRefused, match="no run store"):
        backup.backup(f"sqlite:///{folder}/none.db", folder / "backup.db")
    assert sorted(path.name for path in folder.iterdir()) == ["there.db", "volume"]


def test_the_commands(folder: Path, maestro: Cli) -> None:
    url = url_of(folder)
    world = World(url)
    world.accept(world.automation(), 7)
    streamed = maestro(url, "backup", "-")
    assert (streamed.code, "7 Runs" in streamed.said) == (0, True), streamed.said
    assert maestro(url, "backup", str(folder / "backup.db")).code == 0
    assert (folder / "backup.db").stat().st_size == len(streamed.out)
    refused = maestro(url, "restore", "-", given=streamed.out)
    assert (refused.code, "is in use" in refused.said) == (1, True), refused.said
    assert maestro(url, "restore", "--mark").code == 0
    noticed = world.do(world.store.restorations.noticed())
    assert noticed is not None
    assert noticed.how == restored.COMMAND
    world.close()
    done = maestro(url, "restore", "-", given=streamed.out)
    assert (done.code, "kept as" in done.said) == (0, True), done.said
    assert sum(path.is_dir() for path in (folder / "volume").iterdir()) == 0, "nothing temporary is left"
    shown = maestro(url, "migrate")
    assert (shown.code, "tables are at r" in shown.said) == (0, True)
    assert maestro(url, "backup").code == 2


def test_the_command_streams_a_backup_into_a_pipe(folder: Path) -> None:
    """As `kubectl exec` does."""
    World(url_of(folder)).close()
    command = [sys.executable, "-m", "maestro", "backup", "-"]
    environment = {**os.environ, "MAESTRO_STORE_URL": url_of(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    (folder / "piped.db").write_bytes(done.stdout)
    assert backup.inspect(folder / "piped.db").runs == 0


def test_postgresql_has_its_own_tools(postgres: Postgres, maestro: Cli) -> None:
    with postgres.database() as url:
        for command in (("backup", "x.db"), ("restore", "x.db")):
            refused = maestro(url, *command)
            assert (refused.code, "pg_dump" in refused.said) == (1, True)
            assert postgres.password not in refused.said
        assert maestro(url, "restore", "--mark").code == 0
