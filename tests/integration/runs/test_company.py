"""Runs that were lost together cost nothing and run again alone, each in a pod where nothing else runs."""

from __future__ import annotations

from uuid import UUID

import pytest
from tests.integration.runs.world import World

from maestro.runs.model import RunState
from maestro.runs.reports import Report

RUNNING, PENDING, FAILED = RunState.RUNNING, RunState.PENDING, RunState.FAILED
FIRST, SECOND = "pod-a/1", "pod-b/1"


@pytest.fixture
def automation(store: World) -> int:
    return store.automation(max_attempts=1, heartbeat_timeout=30)


def started(store: World, automation: int, n: int, worker: str = FIRST) -> list[UUID]:
    runs = store.accept(automation, n)
    store.claim(automation)
    assert {store.start(run, worker).status for run in runs} == {200}
    return runs


def lost_together(store: World, automation: int, n: int = 2) -> list[UUID]:
    """Runs that a pod took along, Queued again; the pod's name is used up."""
    runs = started(store, automation, n, "pod-gone/1")
    assert store.do(store.store.pod_gone("pod-gone", automation=automation)) == n
    store.due()
    assert len(store.claim(automation)) == n
    return runs


def starts(store: World, worker: str, *runs: UUID) -> list[tuple[int, str | None]]:
    """Starts in one request."""
    answers = store.do(store.store.reports([Report("start", run, worker=worker) for run in runs]))
    return [(answer.status, answer.reason) for answer in answers]


def test_lost_together_costs_nothing(store: World, automation: int) -> None:
    runs = lost_together(store, automation, 3)
    for run in runs:
        view = store.get(run)
        assert (view.attempts[0].outcome, view.attempts[0].reason) == ("lostTogether", "WorkerLost")
        assert (view.max_attempts, view.retry_count) == (1, 0)


def test_one_that_is_lost_alone_is_charged(store: World, automation: int) -> None:
    (run,) = started(store, automation, 1)
    store.do(store.store.pod_gone("pod-a", automation=automation))
    assert (store.state(run), store.get(run).reason) == (FAILED, "WorkerLost")


def test_only_what_kills_its_pod_alone_fails(store: World, automation: int) -> None:
    poison, other = lost_together(store, automation)
    answer = store.start(poison, FIRST)
    assert (answer.status, answer.alone) == (200, True)
    assert store.start(other, SECOND).status == 200, "alone in another pod"
    store.do(store.store.pod_gone("pod-a", automation=automation))
    assert store.state(poison) is FAILED
    assert store.finish(other, attempt=2, worker=SECOND).status == 200


def test_one_that_must_be_alone_waits_until_its_pod_has_nothing_else(store: World, automation: int) -> None:
    (busy,) = started(store, automation, 1)
    suspect, _ = lost_together(store, automation)
    (late,) = store.accept(automation)
    store.claim(automation)
    assert starts(store, "pod-a/2", suspect, late) == [(429, "alone"), (429, "barred")]
    assert starts(store, SECOND, late) == [(200, None)], "elsewhere nothing waits"
    store.finish(busy, worker=FIRST)
    assert starts(store, "pod-a/2", suspect) == [(200, None)]


def test_nothing_begins_beside_one_that_is_alone(store: World, automation: int) -> None:
    suspect, second = lost_together(store, automation)
    (late,) = store.accept(automation)
    store.claim(automation)
    assert starts(store, FIRST, suspect, late, second) == [(200, None), (429, "barred"), (429, "alone")]
    assert starts(store, FIRST, suspect) == [(200, None)], "it is told the same again"
    end = Report("finish", suspect, worker=FIRST, attempt=2, status="completed")
    answers = store.do(store.store.reports([end, Report("start", second, worker=FIRST)]))
    assert [answer.status for answer in answers] == [200, 200]
    assert starts(store, FIRST, late) == [(429, "barred")]


def test_a_pod_that_lost_the_message_takes_other_work_again(store: World, automation: int) -> None:
    started(store, automation, 1)
    suspect, _ = lost_together(store, automation)
    (late,) = store.accept(automation)
    store.claim(automation)
    assert starts(store, FIRST, suspect, late) == [(429, "alone"), (429, "barred")]
    store.advance(11)
    assert starts(store, FIRST, late) == [(200, None)]


def test_other_automations_do_not_mind(store: World, automation: int) -> None:
    suspect, _ = lost_together(store, automation)
    assert starts(store, FIRST, suspect) == [(200, None)]
    started(store, store.automation(), 1)


def test_leases_of_one_worker_that_run_out_one_after_the_other(store: World, automation: int) -> None:
    first, second = started(store, automation, 2)
    store.advance(20)
    store.heartbeat(second, FIRST)
    store.advance(11)
    assert store.due().lost == 1
    assert store.state(second) is RUNNING
    store.advance(20)
    store.due()
    for run in (first, second):
        assert store.get(run).attempts[0].outcome == "lostTogether"


def test_what_a_pod_held_that_was_told_to_stop_goes_on_elsewhere_at_no_cost(store: World, automation: int) -> None:
    (run,) = started(store, automation, 1)
    assert store.do(store.store.pod_gone("pod-a", automation=automation, told=True)) == 1
    assert store.state(run) is PENDING
    assert store.get(run).attempts[0].outcome == "released"
    store.claim(automation)
    assert store.start(run, SECOND).attempt == 2
    assert store.finish(run, attempt=2, worker=SECOND).status == 200
    assert store.get(run).retry_count == 0


def test_a_worker_of_the_older_contract_is_told_that_nothing_is_due(store: World, automation: int) -> None:
    suspect, _ = lost_together(store, automation)
    assert starts(store, FIRST, suspect) == [(200, None)]
    (late,) = store.accept(automation)
    store.claim(automation)
    answer = store.report("start", late, "pod-a", older=True)
    assert (answer.status, answer.reason, store.state(late)) == (409, "notDue", PENDING)
    store.advance(2)
    store.due()
    store.claim(automation)
    assert store.report("start", late, "pod-b", older=True).status == 200
