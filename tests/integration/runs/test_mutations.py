"""Tests of the tests, on PostgreSQL: what two replicas do at once goes wrong as soon as a lock is left out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from typing import Any
from uuid import UUID

import pytest
from tests.cluster.postgres import Postgres
from tests.integration.runs.world import WORKER, World
from tests.workers.processes import until

from maestro.runs import changes, keys
from maestro.runs.changes import Changes
from maestro.runs.database import Row, Sql, Transaction
from maestro.runs.model import NewRun
from maestro.runs.reports import Report

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def store(postgres: Postgres) -> Iterator[World]:
    with postgres.database() as url:
        world = World(url)
        yield world
        world.close()


def interleaved(
    world: World, patch: pytest.MonkeyPatch, first: Awaitable[Any], second: Awaitable[Any]
) -> tuple[Any, Any]:
    """`first` has written and not committed when `second` begins; it commits once that waits for it, or is done."""
    written, done, honest = threading.Event(), threading.Event(), Changes._write_failures

    def write_and_wait(self: Changes) -> None:
        honest(self)
        if not written.is_set():
            written.set()
            until(lambda: done.is_set() or world.rows(_WAITING)[0][0], "the other waits or is done")

    patch.setattr(Changes, "_write_failures", write_and_wait)

    async def both() -> tuple[Any, Any]:
        begun = asyncio.ensure_future(first)
        assert await asyncio.to_thread(written.wait, 30)
        other = asyncio.ensure_future(second)
        other.add_done_callback(lambda _: done.set())
        return await begun, await other

    return world.do(both())


def accepted_ends(world: World, patch: pytest.MonkeyPatch) -> list[bool]:
    """One attempt is said to have succeeded and to have failed, to two replicas at once: which was accepted."""
    run = world.running(world.automation())
    other = world.open()
    ok = Report("finish", run, worker=WORKER, attempt=1, status="completed")
    failed = Report("finish", run, worker=WORKER, attempt=1, status="failed", kind="business")
    answers = interleaved(world, patch, world.store.reports([ok]), other.reports([failed]))
    world.do(other.close())
    return [answer[0].status == 200 for answer in answers]


def test_one_of_two_ends_is_accepted(store: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(accepted_ends(store, monkeypatch)) == [False, True]


def test_end_without_compare_and_set(store: World, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Transaction.update

    def blindly(
        self: Transaction, table: str, columns: tuple[str, ...], guards: tuple[str, ...], rows: list[Row]
    ) -> int:
        return honest(self, table, columns, guards[:1], [row[: len(columns) + 1] for row in rows])

    monkeypatch.setattr(Transaction, "update", blindly)
    unlocked = Sql(f"SELECT NULL, {changes._COLUMNS} FROM run WHERE id {{in :ids}} ORDER BY seq")
    monkeypatch.setattr(changes, "_BY_ID", unlocked)
    assert accepted_ends(store, monkeypatch) == [True, True], "the test above would have noticed"


def next_of_its_key_goes(world: World, patch: pytest.MonkeyPatch) -> bool:
    """A Run ends while the next of its ordering key is accepted by another replica: whether that one can be claimed."""
    automation = world.automation(ordering_key=("k",))
    run = world.running(automation, parameters={"k": 1})
    other = world.open()
    ok = Report("finish", run, worker=WORKER, attempt=1, status="completed")
    _, accepted = interleaved(
        world, patch, world.store.reports([ok]), other.accept([NewRun(automation, parameters={"k": 1})])
    )
    world.do(other.close())
    claimed: list[UUID] = [claimed.id for claimed in world.claim(automation)]
    return claimed == [accepted[0].id]


def test_the_next_of_a_key_goes(store: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next_of_its_key_goes(store, monkeypatch)


def test_key_without_its_lock(store: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "enter", lambda transaction, entering: dict.fromkeys(entering, False))
    nothing = Sql("SELECT NULL WHERE CAST(:automation AS bigint) IS NULL AND CAST(:ckey AS uuid) IS NULL")
    monkeypatch.setattr(keys, "_LOCK", nothing)
    monkeypatch.setattr(keys, "_LEAVE", nothing)
    assert not next_of_its_key_goes(store, monkeypatch), "the test above would have noticed"
