"""Lists, counts and summaries; and retention, which deletes in small batches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.integration.runs.world import World

from maestro.runs.model import NOTHING_TO_DO, RunFilter, RunState

DAY = 24 * 3600


def ended(store: World, automation: int, *statuses: str, **more: Any) -> list[UUID]:
    runs = store.accept(automation, len(statuses), **more)
    store.claim(automation)
    for run, status in zip(runs, statuses, strict=True):
        store.start(run)
        store.finish(run, status, kind="business")
    return runs


def prune(store: World) -> None:
    while store.do(store.store.prune(store.now)):
        pass


def left(store: World, automation: int) -> list[UUID]:
    found = store.do(store.store.list_runs(RunFilter(automations=frozenset({automation})), 1000))
    return [run.id for run in reversed(found.items)]


class TestLists:
    def test_newest_first_by_pages(self, store: World) -> None:
        automation = store.automation()
        runs = store.accept(automation, 7)
        wanted = RunFilter(automations=frozenset({automation}))
        seen, cursor = [], None
        for size in (3, 3, 1):
            page = store.do(store.store.list_runs(wanted, 3, cursor))
            assert len(page.items) == size
            seen += [run.id for run in page.items]
            cursor = page.cursor
        assert cursor is None
        assert seen == runs[::-1]

    def test_filters(self, store: World) -> None:
        automation = store.automation()
        start = store.now
        (mine,) = store.accept(automation, user="ana", reference="R", labels={"a.b/c": 'x"y'}, schedule="nightly")
        store.advance(60)
        (other,) = store.accept(automation, user="bob", labels={"a.b/c": "z"})
        done = store.running(automation, user="cy", copy_of=mine, priority=5)
        store.finish(done)
        idle = store.running(automation)
        store.finish(idle, "completed_no_invoices")
        nothing = {RunState.SUCCEEDED: NOTHING_TO_DO}
        middle = start + timedelta(seconds=30)
        for wanted, expected in (
            (RunFilter(user="ana"), [mine]),
            (RunFilter(reference="R"), [mine]),
            (RunFilter(labels={"a.b/c": 'x"y'}), [mine]),
            (RunFilter(schedule="nightly"), [mine]),
            (RunFilter(copy_of=mine), [done]),
            (RunFilter(states=frozenset({RunState.SUCCEEDED})), [done, idle]),
            (RunFilter(states=frozenset({RunState.SUCCEEDED}), reasons=nothing), [idle]),
            (RunFilter(reasons=nothing), [mine, other, idle]),
            (RunFilter(until=middle), [mine]),
            (RunFilter(since=middle), [other, done, idle]),
            (RunFilter(user="ana", reference="other"), []),
        ):
            from dataclasses import replace

            narrowed = replace(wanted, automations=frozenset({automation}))
            page = store.do(store.store.list_runs(narrowed))
            assert [run.id for run in reversed(page.items)] == expected, wanted

    @pytest.mark.parametrize("cursor", ["x", "-1", "1; DROP TABLE run", "٣", "9" * 30, ""])
    def test_a_cursor_that_is_none_of_ours(self, store: World, cursor: str) -> None:
        with pytest.raises(ValueError, match="cursor"):
            store.do(store.store.list_runs(cursor=cursor))

    def test_last_parameters_are_the_callers_own(self, store: World) -> None:
        automation = store.automation()
        store.accept(automation, parameters={"a": 1}, user="ana")
        store.accept(automation, parameters={"a": 2}, user="ana")
        store.accept(automation, parameters={"a": 3}, user="bob")
        assert store.do(store.store.last_params(automation, "ana")) == {"a": 2}
        assert store.do(store.store.last_params(automation, "eve")) is None


class TestNumbers:
    def test_counts(self, store: World) -> None:
        automation = store.automation()
        ended(store, automation, "completed", "completed", "failed", "canceled")
        store.running(automation)
        store.accept(automation, 3)
        store.claim(automation, 1)
        counts = store.do(store.store.counts())[automation]
        assert (counts.pending, counts.queued, counts.running, counts.waiting) == (2, 1, 1, 3)
        assert (counts.succeeded_24h, counts.failed_24h, counts.canceled_24h) == (2, 1, 1)
        store.advance(DAY + 600)
        counts = store.do(store.store.counts())[automation]
        assert (counts.succeeded_24h, counts.failed_24h) == (0, 0)

    def test_summary(self, store: World) -> None:
        automation = store.automation()
        assert store.do(store.store.summary(automation)).last_run is None
        runs = ended(store, automation, "failed", "failed", "completed", "failed", "failed", "failed", "failed")
        summary = store.do(store.store.summary(automation))
        assert [failure.id for failure in summary.recent_failures] == [runs[6], runs[5], runs[4], runs[3], runs[1]]
        assert summary.recent_failures[0].reason == "BusinessFailure"
        assert summary.last_run is not None
        assert (summary.last_run.id, summary.last_run.state) == (runs[6], RunState.FAILED)
        running = store.running(automation)
        last = store.do(store.store.summary(automation)).last_run
        assert last is not None
        assert (last.id, last.state, last.started_at) == (running, RunState.RUNNING, store.now)

    def test_per_hour(self, store: World) -> None:
        automation = store.automation()
        ended(store, automation, "completed", "failed")
        store.advance(7200)
        ended(store, automation, "completed")
        hours = store.do(store.store.per_hour(4, automation))
        assert [(hour.succeeded, hour.failed, hour.total) for hour in hours] == [
            (0, 0, 0),
            (1, 1, 2),
            (0, 0, 0),
            (1, 0, 1),
        ]
        assert hours[-1].hour <= store.now < hours[-1].hour + timedelta(hours=1)


class TestRetention:
    def test_the_newest_are_kept(self, store: World) -> None:
        automation = store.automation(succeeded_limit=2, failed_limit=1)
        runs = ended(store, automation, *["completed"] * 4, *["failed"] * 3)
        waiting = store.accept(automation, 2)
        prune(store)
        assert left(store, automation) == [*runs[2:4], runs[6], *waiting]
        assert store.do(store.store.counts())[automation].pending == 2
        assert store.do(store.store.get(runs[0])) is None

    def test_the_old_go_but_the_last_failure_stays(self, store: World) -> None:
        automation = store.automation(succeeded_ttl=DAY, failed_ttl=DAY)
        old = ended(store, automation, "completed", "failed", "failed")
        store.advance(DAY + 1)
        new = ended(store, automation, "completed")
        prune(store)
        assert left(store, automation) == [old[2], *new]

    def test_what_hangs_on_a_run_goes_with_it(self, store: World) -> None:
        automation = store.automation(succeeded_limit=0)
        run = store.running(automation, user="ana")
        store.log(run, "x")
        store.heartbeat(run, done=1)
        store.report("release", run, attempt=1)
        store.claim(automation)
        store.start(run)
        store.finish(run, attempt=2)
        seq = store.get(run).seq
        prune(store)
        for table in ("log", "progress", "attempt", "run_detail"):
            assert store.rows(f"SELECT * FROM {table} WHERE run_seq = :seq", {"seq": seq}) == []

    def test_a_batch_is_small(self, store: World) -> None:
        automation = store.automation(succeeded_limit=0)
        runs = store.accept(automation, 700)
        store.claim(automation, 1000)
        for run in runs:
            store.do(store.store.cancel(run))
        assert store.do(store.store.prune(store.now)) == 500
        prune(store)
        assert left(store, automation) == []

    def test_a_reaped_automation_goes_with_its_last_run(self, store: World) -> None:
        registration = store.registration(succeeded_ttl=DAY)
        automation = store.do(store.store.register(registration))
        ended(store, automation, "completed")
        store.do(store.store.deregister(registration.uid))
        store.do(store.store.reaped(registration.uid))
        prune(store)
        assert store.rows("SELECT pk FROM automation WHERE pk = :pk", {"pk": automation}) != []
        store.advance(DAY + 1)
        prune(store)
        for table, column in (("automation", "pk"), ("run_count", "automation_id"), ("run_tally", "automation_id")):
            assert store.rows(f"SELECT * FROM {table} WHERE {column} = :pk", {"pk": automation}) == []

    def test_counters_of_processes_that_ended_are_merged(self, store: World) -> None:
        automation = store.automation()
        for _ in range(6):
            other = store.open()
            store.do(other.accept([new_run(automation)]))
            store.do(other.close())
        prune(store)
        rows = store.rows("SELECT n FROM run_count WHERE automation_id = :a AND state = 1", {"a": automation})
        assert [int(n) for (n,) in rows] == [6]


def new_run(automation: int) -> Any:
    from maestro.runs.model import NewRun

    return NewRun(automation)
