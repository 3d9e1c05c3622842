"""A Run's life in the store, cell by cell."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from tests.integration.runs.world import OTHER, WORKER, World

from maestro.runs.errors import StaleEpoch
from maestro.runs.model import RunFilter, RunState

FAILED, CANCELED, PENDING, QUEUED = RunState.FAILED, RunState.CANCELED, RunState.PENDING, RunState.QUEUED
RUNNING, RETRYING, SUCCEEDED, HELD = RunState.RUNNING, RunState.RETRYING, RunState.SUCCEEDED, RunState.HELD


def test_main_path(store: World) -> None:
    automation = store.automation()
    (run,) = store.accept(automation, parameters={"list": "a"}, user="ana", labels={"team": "x"}, reference="R-1")
    assert store.state(run) is PENDING
    (claimed,) = store.claim(automation)
    assert (claimed.id, claimed.attempt, claimed.parameters) == (run, 1, None)
    assert store.state(run) is QUEUED
    answer = store.start(run, pub=claimed.pub, epoch=store.epoch)
    assert (answer.status, answer.attempt, answer.parameters) == (200, 1, {"list": "a"})
    assert (answer.timeout, answer.heartbeat_timeout, answer.cancellation_requested) == (14400.0, 300.0, False)
    assert store.log(run, "one", "two").status == 200
    assert store.heartbeat(run, done=1, total=4, text="busy").status == 200
    assert store.finish(run, result={"ok": 3}).status == 200
    view = store.get(run)
    assert (view.state, view.result, view.status, view.retry_count) == (SUCCEEDED, {"ok": 3}, "completed", 0)
    assert (view.user, view.labels, view.reference) == ("ana", {"team": "x"}, "R-1")
    assert view.progress is not None
    assert (view.progress.done, view.progress.total, view.progress.text) == (1, 4, "busy")
    assert [attempt.outcome for attempt in view.attempts] == ["succeeded"]
    assert [line.message for line in store.do(store.store.logs(run))] == ["one", "two"]
    assert store.finish(run, result={"ok": 3}).status == 200, "a repeated finish is answered like the first"
    assert store.finish(run, "failed").status == 409


def test_nothing_to_do_shows_the_older_word(store: World) -> None:
    run = store.running(store.automation())
    store.finish(run, "completed_no_invoices")
    assert store.get(run).status == "completed_no_invoices"


@pytest.mark.parametrize("when", ["held", "pending", "retrying"])
def test_a_start_before_its_time_is_not_due(store: World, when: str) -> None:
    automation = store.automation()
    if when == "retrying":
        run = store.running(automation)
        store.finish(run, "failed")
    else:
        (run,) = store.accept(automation)
        if when == "held":
            store.do(store.store.hold(store.solution))
    answer = store.start(run, OTHER)
    assert (answer.status, answer.reason) == (409, "notDue")


def test_the_same_process_adopts_a_delivery_and_others_wait(store: World) -> None:
    automation = store.automation()
    (run,) = store.accept(automation)
    (claimed,) = store.claim(automation)
    store.start(run, pub=claimed.pub)
    again = store.start(run, pub=claimed.pub, redelivered=True)
    assert (again.status, again.attempt) == (200, 1)
    other = store.start(run, OTHER, pub=claimed.pub)
    assert (other.status, other.reason) == (409, "running")
    assert store.get(run).holder == WORKER


def test_a_redelivery_casts_suspicion_that_a_heartbeat_clears(store: World) -> None:
    automation = store.automation(heartbeat_timeout=300)
    (run,) = store.accept(automation)
    (claimed,) = store.claim(automation)
    store.start(run, pub=claimed.pub)
    assert store.start(run, OTHER, pub=claimed.pub, redelivered=True).reason == "running"
    store.advance(20)
    assert store.heartbeat(run).status == 200
    store.advance(40)
    store.due()
    assert store.state(run) is RUNNING
    store.start(run, OTHER, pub=claimed.pub, redelivered=True)
    store.advance(31)
    store.due()
    assert store.state(run) in (RETRYING, PENDING)
    assert store.heartbeat(run).status == 409


def test_a_redelivery_of_another_publication_casts_none(store: World) -> None:
    automation = store.automation()
    (run,) = store.accept(automation)
    (claimed,) = store.claim(automation)
    store.start(run, pub=claimed.pub)
    store.start(run, OTHER, pub=claimed.pub + 1000, redelivered=True)
    store.advance(60)
    store.due()
    assert store.state(run) is RUNNING


def test_technical_failures_are_retried_with_growing_pauses(store: World) -> None:
    automation = store.automation(max_attempts=3, backoff_initial=10, backoff_factor=3, backoff_max=20)
    run = store.running(automation)
    for attempt, pause in ((1, 10), (2, 20)):
        assert store.finish(run, "failed", attempt=attempt, message="boom", error_class="PORTAL_DOWN").status == 200
        assert store.finish(run, "failed", attempt=attempt).status == 200, "the attempt's row holds the same end"
        assert store.finish(run, "completed", attempt=attempt).status == 409
        assert store.state(run) is RETRYING
        store.advance(pause - 1)
        store.due()
        assert store.claim(automation) == []
        store.advance(1)
        assert store.due().retried == 1
        (claimed,) = store.claim(automation)
        assert claimed.attempt == attempt + 1
        assert store.start(run).attempt == attempt + 1
    store.finish(run, "failed", attempt=3)
    view = store.get(run)
    assert (view.state, view.reason, view.retry_count) == (FAILED, "TechnicalFailure", 2)
    assert [attempt.outcome for attempt in view.attempts] == ["technical", "technical", "failed"]
    assert view.attempts[0].message == "boom"


def test_a_business_failure_is_final(store: World) -> None:
    run = store.running(store.automation())
    store.finish(run, "failed", kind="business", message="no such customer")
    view = store.get(run)
    assert (view.state, view.reason, view.message) == (FAILED, "BusinessFailure", "no such customer")


def test_a_lease_that_runs_out_loses_the_attempt_and_fences_it(store: World) -> None:
    automation = store.automation(heartbeat_timeout=60, max_attempts=2)
    run = store.running(automation)
    store.advance(61)
    assert store.due().lost == 1
    assert store.due().retried == 1
    store.claim(automation)
    assert store.start(run, OTHER).attempt == 2
    for refused in (store.heartbeat(run), store.finish(run), store.log(run, "x")):
        assert (refused.status, refused.reason) == (409, "fenced")
    assert store.report("poll", run, attempt=1).cancellation_requested is True
    store.advance(61)
    store.due()
    view = store.get(run)
    assert (view.state, view.reason) == (FAILED, "WorkerLost")


def test_heartbeats_keep_a_lease(store: World) -> None:
    run = store.running(store.automation(heartbeat_timeout=60))
    for _ in range(10):
        store.advance(30)
        assert store.heartbeat(run).status == 200
        store.due()
    assert store.state(run) is RUNNING
    assert store.get(run).last_heartbeat_at == store.now


def test_a_pod_that_is_gone_loses_its_attempts_and_no_others(store: World) -> None:
    automation = store.automation()
    mine, other = store.accept(automation, 2)
    store.claim(automation)
    store.start(mine, "pod-a/1")
    store.start(other, "pod-ab/1")
    assert store.do(store.store.pod_gone("pod-a")) == 1
    assert (store.state(mine), store.state(other)) == (RETRYING, RUNNING)
    assert store.do(store.store.pod_gone("pod-ab", automation=automation)) == 1


def test_a_release_costs_no_attempt(store: World) -> None:
    automation = store.automation(max_attempts=1)
    run = store.running(automation)
    assert store.report("release", run, attempt=1).status == 200
    assert store.state(run) is PENDING
    store.claim(automation)
    assert store.start(run, OTHER).attempt == 2
    assert store.finish(run).status == 409
    assert (store.get(run).retry_count, store.get(run).max_attempts) == (0, 1)
    store.report("finish", run, OTHER, attempt=2, status="completed")
    assert store.state(run) is SUCCEEDED


def test_retries_are_counted_without_what_was_released(store: World) -> None:
    automation = store.automation(max_attempts=3, backoff_initial=0.0)
    run = store.running(automation)
    store.report("release", run, attempt=1)
    store.claim(automation)
    assert store.start(run).attempt == 2
    store.finish(run, "failed", attempt=2, kind="technical")
    assert (store.get(run).retry_count, store.get(run).max_attempts) == (0, 3)
    store.advance(60)
    store.due()
    store.claim(automation)
    assert store.start(run).attempt == 3
    assert (store.get(run).retry_count, store.get(run).max_attempts) == (1, 3)
    (listed,) = store.do(store.store.list_runs(RunFilter(automations=frozenset({automation})))).items
    assert (listed.retry_count, listed.max_attempts) == (1, 3)


def test_cancel_of_what_waits_and_of_what_runs(store: World) -> None:
    automation = store.automation()
    queued, pending = store.accept(automation, 2)
    store.claim(automation, 1)
    for run in (queued, pending):
        assert store.do(store.store.cancel(run)).status == 200
        assert store.state(run) is CANCELED
        assert store.start(run).reason == "ended"
    running = store.running(automation)
    assert store.do(store.store.cancel(running)).status == 202
    assert store.do(store.store.cancel(running)).status == 202
    assert store.state(running) is RUNNING
    assert store.heartbeat(running).cancellation_requested is True
    store.finish(running, "canceled")
    assert (store.get(running).state, store.get(running).reason) == (CANCELED, "Canceled")
    assert store.do(store.store.cancel(running)).status == 409
    assert store.do(store.store.cancel(uuid4())).status == 404


def test_a_success_counts_even_after_a_cancel(store: World) -> None:
    run = store.running(store.automation())
    store.do(store.store.cancel(run))
    store.finish(run)
    assert store.state(run) is SUCCEEDED


def test_a_forced_cancel_fences_at_once(store: World) -> None:
    run = store.running(store.automation())
    assert store.do(store.store.cancel(run, force=True)).status == 200
    assert store.state(run) is CANCELED
    assert store.finish(run).status == 409


def test_a_canceled_run_whose_worker_is_lost_is_canceled(store: World) -> None:
    run = store.running(store.automation(heartbeat_timeout=60))
    store.do(store.store.cancel(run))
    store.advance(61)
    store.due()
    assert store.state(run) is CANCELED


def test_timeout_asks_then_fails_and_fences(store: World) -> None:
    automation = store.automation(timeout=100, cancel_grace=30, heartbeat_timeout=60, max_attempts=3)
    run = store.running(automation)
    for _ in range(2):
        store.advance(50)
        store.heartbeat(run)
        store.due()
    assert store.heartbeat(run).cancellation_requested is True
    store.advance(29)
    store.due()
    assert store.state(run) is RUNNING
    store.advance(1)
    store.due()
    view = store.get(run)
    assert (view.state, view.reason) == (FAILED, "Timeout")
    assert store.finish(run).status == 409


def test_a_worker_that_stops_at_a_timeout_failed_by_timeout(store: World) -> None:
    run = store.running(store.automation(timeout=10, cancel_grace=30))
    store.advance(11)
    assert store.due().timed_out == 1
    assert store.finish(run, "canceled").status == 200
    assert (store.get(run).state, store.get(run).reason) == (FAILED, "Timeout")
    assert store.finish(run, "canceled").status == 200


def test_an_unasked_canceled_is_by_the_worker(store: World) -> None:
    run = store.running(store.automation())
    store.finish(run, "canceled")
    assert (store.get(run).state, store.get(run).reason) == (CANCELED, "ByWorker")


def test_not_before_and_expiry(store: World) -> None:
    automation = store.automation()
    later = store.now + timedelta(seconds=60)
    (run,) = store.accept(automation, not_before=later, expires_at=later + timedelta(seconds=60))
    assert store.claim(automation) == []
    store.advance(61)
    store.due()
    assert len(store.claim(automation)) == 1
    store.advance(60)
    assert store.due().expired == 1
    assert (store.get(run).state, store.get(run).reason) == (CANCELED, "Expired")


def test_a_running_run_does_not_expire(store: World) -> None:
    run = store.running(store.automation(), expires_at=store.now + timedelta(seconds=10))
    store.advance(20)
    store.due()
    assert store.state(run) is RUNNING


def test_what_comes_back_waits_longer_each_time(store: World) -> None:
    automation = store.automation()
    (run,) = store.accept(automation)
    for pause in (1, 2, 4):
        (claimed,) = store.claim(automation)
        assert store.unpublished(claimed) == 1
        assert (store.state(run), store.get(run).reason) == (PENDING, "NoQueue")
        assert store.unpublished(claimed) == 0, "it is no longer the Run's own publication"
        store.advance(pause - 0.5)
        store.due()
        assert store.claim(automation) == []
        store.advance(0.5)
        store.due()


def test_a_return_of_an_old_publication_changes_nothing(store: World) -> None:
    automation = store.automation()
    (run,) = store.accept(automation)
    (first,) = store.claim(automation)
    store.unpublished(first)
    store.advance(2)
    store.due()
    store.claim(automation)
    assert store.unpublished(first) == 0
    assert store.state(run) is QUEUED


def test_an_invalid_job_is_final(store: World) -> None:
    automation = store.automation(launch="Job")
    (run,) = store.accept(automation, parameters={"a": 1})
    (claimed,) = store.claim(automation)
    assert claimed.parameters == {"a": 1}
    store.unpublished(claimed, "JobInvalid")
    assert (store.get(run).state, store.get(run).reason) == (FAILED, "JobInvalid")


@pytest.mark.parametrize(("status", "state"), [("completed", SUCCEEDED), ("failed", RETRYING), (None, RETRYING)])
@pytest.mark.parametrize("started", [True, False])
def test_the_end_of_a_job(store: World, status: str | None, state: RunState, started: bool) -> None:
    automation = store.automation(launch="Job")
    (run,) = store.accept(automation)
    store.claim(automation)
    if started:
        assert store.start(run, "pod-9", job_pod=True).status == 200
        store.advance(3600)
        store.due()
    assert store.report("jobEnded", run, "pod-9", attempt=2, status=status).status == 409
    assert store.report("jobEnded", run, "pod-9", attempt=1, status=status).status == 200
    assert store.state(run) is state


def test_a_job_whose_worker_has_finished_ended_already(store: World) -> None:
    automation = store.automation(launch="Job")
    (run,) = store.accept(automation)
    store.claim(automation)
    store.start(run)
    store.finish(run, "failed", kind="business")
    assert store.report("jobEnded", run, "pod-9", attempt=1, status="completed").status == 409
    assert store.state(run) is FAILED


class TestOlderContract:
    def test_main_path(self, store: World) -> None:
        automation = store.automation(heartbeat_timeout=60)
        (run,) = store.accept(automation)
        store.claim(automation)
        assert store.start(run, "pod", older=True).status == 200
        store.advance(3600)
        store.due()
        assert store.state(run) is RUNNING, "nothing is known of polls: the lease is the timeout"
        assert store.report("poll", run, "pod", older=True).cancellation_requested is False
        assert store.report("log", run, "pod", older=True).status == 200
        finished = store.finish(run, worker="pod", attempt=None, older=True)
        assert finished.status == 200

    def test_once_it_polls_its_silence_counts(self, store: World) -> None:
        automation = store.automation(heartbeat_timeout=60)
        (run,) = store.accept(automation)
        store.claim(automation)
        store.start(run, "pod", older=True)
        store.report("poll", run, "pod", older=True)
        store.advance(61)
        assert store.due().lost == 1

    def test_a_stranger_is_refused_gently(self, store: World) -> None:
        run = store.running(store.automation())
        assert store.start(run, "stranger", older=True).status == 409
        assert store.report("poll", run, "stranger", older=True).cancellation_requested is True
        assert store.report("log", run, "stranger", older=True).status == 409
        assert store.finish(run, "failed", worker="stranger", attempt=None, older=True).status == 409
        canceled = store.finish(run, "canceled", worker="stranger", attempt=None, older=True)
        assert (canceled.status, canceled.accepted) == (200, False)
        assert store.state(run) is RUNNING

    def test_a_failure_is_final(self, store: World) -> None:
        automation = store.automation()
        (run,) = store.accept(automation)
        store.claim(automation)
        store.start(run, "pod", older=True)
        store.finish(run, "failed", worker="pod", attempt=None, older=True)
        assert store.state(run) is FAILED

    def test_a_container_that_began_anew_is_a_new_attempt(self, store: World) -> None:
        automation = store.automation(max_attempts=2)
        (run,) = store.accept(automation)
        store.claim(automation)
        assert store.start(run, "pod", older=True).attempt == 1
        assert store.start(run, "pod", older=True).attempt == 2
        third = store.start(run, "pod", older=True)
        assert (third.status, third.reason) == (409, "ended")
        view = store.get(run)
        assert (view.state, view.reason, len(view.attempts)) == (FAILED, "WorkerLost", 2)


def test_an_unknown_run_is_recorded(store: World) -> None:
    unknown = uuid4()
    assert (store.start(unknown).status, store.start(unknown).reason) == (404, "UnknownRun")
    ids = {str(row[0]).replace("-", "") for row in store.rows("SELECT id FROM unknown_run")}
    assert unknown.hex in ids


def test_a_report_about_anothers_run_is_refused(store: World) -> None:
    mine, others = store.automation(), store.automation()
    run = store.running(mine)
    assert (store.finish(run, caller=others).status, store.finish(run, caller=others).reason) == (403, "NotYourRun")
    assert store.finish(run, caller=mine).status == 200


def test_reports_of_one_list_take_effect_in_order(store: World) -> None:
    from maestro.runs.reports import Report, ReportLine

    automation = store.automation()
    (run,) = store.accept(automation)
    store.claim(automation)
    answers = store.do(
        store.store.reports(
            [
                Report("start", run, worker=WORKER),
                Report("log", run, worker=WORKER, attempt=1, lines=(ReportLine("INFO", "a"),)),
                Report("log", run, worker=WORKER, attempt=1, lines=(ReportLine("INFO", "b"),)),
                Report("finish", run, worker=WORKER, attempt=1, status="failed"),
                Report("finish", run, worker=WORKER, attempt=1, status="failed"),
                Report("log", run, worker=WORKER, attempt=1, lines=(ReportLine("INFO", "c"),)),
            ]
        )
    )
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 409]
    assert [line.message for line in store.do(store.store.logs(run))] == ["a", "b"]
    assert store.state(run) is RETRYING


def test_log_lines_are_bounded_and_that_is_said_once(store: World) -> None:
    run = store.running(store.automation(log_lines=3))
    store.log(run, "1", "2")
    store.log(run, "3", "4", "5")
    store.log(run, "6")
    lines = store.do(store.store.logs(run))
    assert [line.message for line in lines[:3]] == ["1", "2", "3"]
    assert len(lines) == 4
    assert "history.logLines is 3" in lines[3].message
    assert [line.number for line in store.do(store.store.logs(run, after=1, limit=2))] == [2, 3]


def test_a_later_leader_ends_the_epoch(store: World) -> None:
    automation = store.automation()
    store.accept(automation)
    stale, store.epoch = store.epoch, store.do(store.store.win_leadership()).epoch
    for write in (
        store.store.claim(stale, automation, 1),
        store.store.confirmed(stale, 1),
        store.store.unpublished(stale, []),
        store.store.due(store.now, epoch=stale),
        store.store.prune(store.now, epoch=stale),
        store.store.deregister("uid", epoch=stale),
    ):
        with pytest.raises(StaleEpoch):
            store.do(write)
    assert len(store.claim(automation)) == 1
