"""The tick ledger: one record for each instant, in one transaction with the Run that it starts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from tests.integration.runs.world import World

from maestro.runs.errors import StaleEpoch
from maestro.runs.model import NewRun, RunState, TickJob
from maestro.runs.ticks import KEPT, Entry, Outcome, TickLedger, Written

_numbers = count(1)


class Ledger:
    """A Schedule's records in the shared store."""

    def __init__(self, store: World) -> None:
        self.store = store
        self.uid = f"schedule-{next(_numbers)}"
        self.ledger = TickLedger(store.store, lambda: store.now)
        self.base = store.now

    def at(self, minutes: int) -> datetime:
        return self.base + timedelta(minutes=minutes)

    def record(self, *entries: Entry, cursor: int = 0, timetable: str = "t", **more: Any) -> Written:
        given: Sequence[Entry] = entries
        return self.store.do(self.ledger.record(self.uid, "team.s", timetable, self.at(cursor), given, **more))


def test_a_tick_is_recorded_once_with_its_run(store: World) -> None:
    automation, mine = store.automation(), Ledger(store)
    first = mine.record(Entry(mine.at(1), Outcome.STARTED, run=NewRun(automation, schedule="team.s")), cursor=1)
    again = mine.record(Entry(mine.at(1), Outcome.STARTED, run=NewRun(automation, schedule="team.s")), cursor=1)
    (run,) = first.runs.values()
    assert again.runs == {}
    assert again.account.started == 1
    assert [tick.run for tick in again.account.running] == [run]
    assert store.state(run) is RunState.PENDING
    assert len(store.claim(automation)) == 1


def test_another_leader_writes_nothing(store: World) -> None:
    automation, mine = store.automation(), Ledger(store)
    with pytest.raises(StaleEpoch):
        mine.record(Entry(mine.at(1), Outcome.STARTED, run=NewRun(automation)), epoch=store.epoch + 1)
    assert store.do(mine.ledger.account(mine.uid)) is None


def test_only_what_waits_becomes_something_else(store: World) -> None:
    automation, mine = store.automation(), Ledger(store)
    mine.record(Entry(mine.at(1), Outcome.WAITING, "Gateway"), Entry(mine.at(2), Outcome.SKIPPED, "Gap"), cursor=2)
    written = mine.record(
        Entry(mine.at(1), Outcome.STARTED, run=NewRun(automation)),
        Entry(mine.at(2), Outcome.STARTED, run=NewRun(automation)),
        cursor=2,
    )
    assert [at for at, _ in written.runs] == [mine.at(1)]
    assert (written.account.started, written.account.skipped, written.account.missed) == (1, 1, 0)
    assert written.account.waiting == ()


def test_the_cursor_never_goes_back(store: World) -> None:
    mine = Ledger(store)
    mine.record(cursor=5)
    assert mine.record(cursor=3).account.cursor == mine.at(5)


def test_a_full_backlog_makes_the_tick_skipped(store: World) -> None:
    automation, mine = store.automation(max_pending=1), Ledger(store)
    entries = [Entry(mine.at(n), Outcome.STARTED, run=NewRun(automation)) for n in (1, 2)]
    written = mine.record(*entries, cursor=2)
    assert [(tick.outcome, tick.reason) for tick in reversed(written.account.recent)] == [
        (Outcome.STARTED, None),
        (Outcome.SKIPPED, "Backlog"),
    ]
    assert (written.account.started, written.account.skipped) == (1, 1)
    assert written.account.last_tick == mine.at(1)


def test_ends_are_settled(store: World) -> None:
    automation, mine = store.automation(), Ledger(store)
    written = mine.record(Entry(mine.at(1), Outcome.STARTED, run=NewRun(automation)), cursor=1)
    (run,) = written.runs.values()
    store.claim(automation)
    store.start(run)
    mine_only = [tick for tick in store.do(mine.ledger.open()) if tick.uid == mine.uid]
    assert [tick.ended for tick in mine_only] == [False]
    store.finish(run)
    ended = [tick for tick in store.do(mine.ledger.open()) if tick.uid == mine.uid]
    assert [tick.ended for tick in ended] == [True]
    assert store.do(mine.ledger.settle(ended)) == {mine.uid}
    account = store.do(mine.ledger.account(mine.uid))
    assert account is not None
    assert (account.running, account.last_end, account.last_success_at) == ((), "Succeeded", store.now)


def test_the_newest_records_are_kept(store: World) -> None:
    mine = Ledger(store)
    entries = [Entry(mine.at(n), Outcome.MISSED, "Outage") for n in range(KEPT + 100)]
    for begin in range(0, len(entries), 100):
        mine.record(*entries[begin : begin + 100], cursor=begin + 99)
    kept = store.do(mine.ledger.page(mine.uid, list(Outcome), 2 * KEPT))
    assert KEPT <= len(kept) < KEPT + 100
    assert kept[0].at == mine.at(KEPT + 99)
    account = store.do(mine.ledger.account(mine.uid))
    assert account is not None
    assert account.missed == KEPT + 100
    assert [tick.at for tick in account.recent] == [tick.at for tick in kept[:10]]
    store.do(mine.ledger.forget(mine.uid))
    assert store.do(mine.ledger.account(mine.uid)) is None


def test_jobs_of_an_automation_with_a_queue_go_beside_it(store: World) -> None:
    """They wait neither behind what is queued nor for the window, and carry what a Job needs."""
    automation = store.automation(window=5)
    queued = store.accept(automation, 20)
    job = TickJob("s", "uid", "s-123")
    (run,) = store.accept(automation, launch="Job", job=job, parameters={"a": 1})
    assert [claimed.id for claimed in store.claim(automation)] == queued[:5]
    assert store.claim(automation) == []
    (apart,) = store.claim(automation, apart=True)
    assert (apart.id, apart.launch, apart.job, apart.parameters) == (run, "Job", job, {"a": 1})
    assert store.claim(automation, apart=True) == []
    of_queue = store.do(store.store.queued_runs(automation, 100))
    beside = store.do(store.store.queued_runs(automation, 100, apart=True))
    assert len(of_queue) == 5
    assert [found.seq for found in beside] == [apart.seq]
    assert store.unpublished(apart, "JobRefused") == 1
    store.advance(120)
    store.due()
    (again,) = store.claim(automation, apart=True)
    assert (again.id, again.launch, again.job) == (run, "Job", job)
    copy = _failed_and_retried(store, automation, run)
    (retried,) = store.claim(automation, apart=True)
    assert (retried.id, retried.launch, retried.job) == (copy, "Job", None)


def _failed_and_retried(store: World, automation: int, run: Any) -> Any:
    attempt = store.start(run).attempt
    store.finish(run, "failed", attempt=attempt, kind="business")
    assert store.get(run).apart
    return store.do(store.store.retry(run)).id
