"""The tables back to the first form and forward again, revision by revision, with Runs in every state in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.integration.runs.world import OTHER, WORKER, World

from maestro.runs import backup, migrate
from maestro.runs.backup import CareRefused
from maestro.runs.database import SQLITE, Database
from maestro.runs.model import RunState

FIRST = "r0001"
NOT_RUNS = {"alembic_version"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url


def in_every_state(world: World) -> dict[RunState, UUID]:
    """A Run in each state, with all that may hang on one: details, attempts, log lines, progress, a key, a slot."""
    keyed = world.automation(ordering_key=("customer",), parallelism=20)
    more = {"labels": {"team": "a"}, "reference": "r-1", "fairness_key": "ana", "idempotency_key": "once"}
    runs: dict[RunState, UUID] = {}
    for number, state in enumerate((RunState.SUCCEEDED, RunState.FAILED, RunState.RETRYING, RunState.RUNNING)):
        parameters = {"customer": number}
        given = more if state is RunState.RUNNING else {}
        (run,) = world.accept(keyed, parameters=parameters, **given)
        world.claim(keyed)
        world.start(run)
        world.log(run, "a line")
        world.heartbeat(run, done=1.0, total=2.0, text="half")
        match state:
            case RunState.SUCCEEDED:
                world.finish(run, result={"rows": 3})
            case RunState.FAILED:
                world.finish(run, "failed", kind="business", error_class="X")
            case RunState.RETRYING:
                world.finish(run, "failed", kind="technical")
        runs[state] = run
    (runs[RunState.QUEUED],) = world.accept(keyed, parameters={"customer": "queued"})
    world.claim(keyed)
    runs[RunState.PENDING], runs[RunState.CANCELED] = world.accept(keyed, 2, parameters={"customer": "waits"})
    world.do(world.store.cancel(runs[RunState.CANCELED]))
    gated = world.automation()
    (runs[RunState.HELD],) = world.accept(gated)
    world.do(world.store.hold(world.solution, epoch=world.epoch))
    assert {state: world.state(run) for state, run in runs.items()} == {state: state for state in RunState}
    return runs


def content(database: Database, tables: dict[str, list[str]]) -> dict[str, list[Any]]:
    """Every row of these columns, in an order of their own."""
    found = {}
    with database.engine.connect() as connection:
        for table, columns in sorted(tables.items()):
            rows = connection.execute(sa.text(f"SELECT {', '.join(columns)} FROM {table}")).all()
            found[table] = sorted(map(repr, rows))
    return found


def columns_of(database: Database) -> dict[str, list[str]]:
    inspector = sa.inspect(database.engine)
    return {
        table: sorted(column["name"] for column in inspector.get_columns(table))
        for table in inspector.get_table_names()
        if table not in NOT_RUNS
    }


def shape(database: Database) -> dict[str, Any]:
    inspector = sa.inspect(database.engine)
    return {
        table: (columns, sorted(str(index["name"]) for index in inspector.get_indexes(table)))
        for table, columns in columns_of(database).items()
    }


def test_back_to_the_first_form_and_forward_with_runs_in_flight(url: str) -> None:
    world = World(url)
    runs = in_every_state(world)
    epoch, now = world.epoch, world.now
    world.close()

    known = migrate.revisions()
    database = Database(url, shared=False)
    at_head, everything = shape(database), columns_of(database)
    database.close()
    for before, after in zip(known[::-1], known[-2::-1], strict=False):
        assert backup.downgrade(url, after) == (before, after)
    database = Database(url, shared=False)
    kept = {
        table: sorted(set(columns) & set(everything.get(table, ()))) for table, columns in columns_of(database).items()
    }
    assert {"run", "attempt", "log", "progress", "run_key", "idempotency", "leader"} <= kept.keys()
    first = content(database, kept)
    migrate.upgrade(database)
    assert content(database, kept) == first
    assert shape(database) == at_head
    database.close()

    world = World(url)
    try:
        world.now = now
        assert {state: world.state(run) for state, run in runs.items()} == {state: state for state in RunState}
        # lives go on where they were: the attempt in flight ends, the retry comes due, what waits is started
        assert world.finish(runs[RunState.RUNNING]).status == 200
        assert world.start(runs[RunState.QUEUED], OTHER, pub=1, epoch=epoch).status == 200
        assert world.finish(runs[RunState.QUEUED], worker=OTHER).status == 200
        world.do(world.store.open_gateway(world.get(runs[RunState.HELD]).solution_id, epoch=world.epoch))
        world.advance(3600)
        world.due()
        for state in (RunState.RETRYING, RunState.PENDING, RunState.HELD):
            world.claim(world.get(runs[state]).automation)
            attempt = world.start(runs[state], WORKER).attempt
            assert world.finish(runs[state], attempt=attempt).status == 200
        left = {world.state(run) for run in runs.values()}
        assert left == {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELED}
    finally:
        world.close()


def test_not_while_maestro_runs_on_it(url: str) -> None:
    world = World(url)
    try:
        with pytest.raises(CareRefused, match="in use" if world.store._database.dialect == SQLITE else "sessions"):
            backup.downgrade(url, FIRST)
    finally:
        world.close()
    with pytest.raises(CareRefused, match="no revision r9999"):
        backup.downgrade(url, "r9999")
    backup.downgrade(url, FIRST)
    with pytest.raises(CareRefused, match=f"tables are at {FIRST}"):
        backup.downgrade(url, migrate.revisions()[-1])
