"""When the database can't be used: a clear error, nothing half done, and no restart afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.postgres import Postgres
from tests.integration.runs.world import World

from maestro.runs.errors import StoreUnavailable
from maestro.runs.model import NewRun
from maestro.runs.reports import Report
from maestro.runs.store import RunStore


@pytest.fixture
def sqlite_world(tmp_path: Path) -> Iterator[World]:
    world = World(f"sqlite:///{tmp_path}/store.db")
    yield world
    world.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """One that these tests may stop."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_world(own_postgres: Postgres) -> Iterator[World]:
    with own_postgres.database() as url:
        world = World(url)
        yield world
        world.close()


def test_a_full_disk(sqlite_world: World) -> None:
    automation = sqlite_world.automation()
    run = sqlite_world.running(automation)

    def limit(pages: int) -> None:
        with sqlite_world.store._database.write() as transaction:
            transaction.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    limit(1)
    with pytest.raises(StoreUnavailable, match="full"):
        sqlite_world.accept(automation, 200, parameters={"a": "x" * 2000})
    assert sqlite_world.do(sqlite_world.store.counts())[automation].pending == 0
    limit(1 << 30)
    assert len(sqlite_world.accept(automation, 200)) == 200
    assert sqlite_world.finish(run).status == 200


def test_a_locked_database_is_waited_for(sqlite_world: World) -> None:
    import sqlite3

    automation = sqlite_world.automation()
    other = sqlite3.connect(sqlite_world.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def accept_meanwhile() -> int:
        waiting = asyncio.ensure_future(sqlite_world.store.accept([NewRun(automation)]))
        await asyncio.sleep(0)
        assert await sqlite_world.store.counts() is not None, "readers don't wait"
        assert not waiting.done()
        other.execute("COMMIT")
        return len(await waiting)

    assert sqlite_world.do(accept_meanwhile()) == 1
    other.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreUnavailable, OSError)):
        RunStore.open(f"sqlite:///{tmp_path}/file/store.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"certainly not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        RunStore.open(f"sqlite:///{tmp_path}/store.db")


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_hold_runs(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        RunStore.open(url)


def test_a_store_that_was_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = RunStore.open(f"sqlite:///{tmp_path}/store.db")
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.accept([NewRun(1)])

    asyncio.run(scenario())


def test_cut_connections_are_not_even_noticed(postgres_world: World, own_postgres: Postgres) -> None:
    automation = postgres_world.automation()
    own_postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'maestro'")
    run = postgres_world.running(automation)
    own_postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'maestro'")
    assert postgres_world.get(run).attempt == 1
    assert postgres_world.finish(run).status == 200


def test_postgresql_goes_away_and_comes_back(postgres_world: World, own_postgres: Postgres) -> None:
    automation = postgres_world.automation()
    run = postgres_world.running(automation)
    own_postgres.stop()
    for request in (
        postgres_world.store.accept([NewRun(automation)]),
        postgres_world.store.reports([Report("finish", run, worker="pod-1/process-1", attempt=1, status="completed")]),
        postgres_world.store.get(run),
        postgres_world.store.counts(),
    ):
        with pytest.raises(StoreUnavailable) as refused:
            postgres_world.do(request)
        assert own_postgres.password not in str(refused.value)
    assert "can't be used" in str(postgres_world.do(postgres_world.store.ping()))
    own_postgres.start()
    assert postgres_world.do(postgres_world.store.ping()) is None
    assert postgres_world.finish(run).status == 200
    assert len(postgres_world.accept(automation)) == 1


def test_a_read_only_postgresql(postgres_world: World, own_postgres: Postgres) -> None:
    automation = postgres_world.automation()
    database = postgres_world.url.rsplit("/", 1)[1]
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    own_postgres.sql(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    own_postgres.sql(cut)
    with pytest.raises(StoreUnavailable, match="read-only"):
        postgres_world.accept(automation)
    own_postgres.sql(f'ALTER DATABASE "{database}" SET default_transaction_read_only = off')
    own_postgres.sql(cut)
    assert len(postgres_world.accept(automation)) == 1
