"""The table, cell by cell: what each event does in each state, and what it answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro.runs import lifecycle
from maestro.runs.lifecycle import (
    ALONE,
    IN_DOUBT,
    SHARES,
    C,
    End,
    Event,
    F,
    H,
    Happening,
    P,
    Q,
    R,
    Run,
    S,
    Step,
    T,
    apply,
    step,
)
from maestro.runs.model import RunPolicy, micros

NOW = micros(1_000_000)
POLICY = RunPolicy(timeout=100, cancel_grace=30, heartbeat_timeout=60, max_attempts=3, backoff_initial=10)
ME, OTHER = "pod/a", "pod/b"


def run_in(state: int, **more: Any) -> Run:
    defaults: dict[str, Any] = {"state": state}
    if state == P:
        defaults |= {"ready": 1}
    if state in (Q, R):
        defaults |= {"pub": 7}
    if state == R:
        defaults |= {"attempt": 1, "holder": ME, "holder_pub": 7, "started_at": NOW - micros(5)}
        defaults |= {"lease_at": NOW + micros(20), "deadline_at": NOW + micros(50), "alarm_at": NOW + micros(20)}
    if state == T:
        defaults |= {"attempt": 1, "due_at": NOW + micros(10)}
    if state in (S, F, C):
        defaults |= {"attempt": 1, "holder": ME, "end_report": {S: End.OK, F: End.TECHNICAL, C: End.CANCELED}[state]}
    return Run(**{**defaults, **more})


def does(run: Run, event: Event, **more: Any) -> Step:
    return step(run, Happening(event, **more), POLICY, NOW)


def goes_to(run: Run, event: Event, **more: Any) -> int:
    result = does(run, event, **more)
    apply(run, result.changes)
    return run.state


WAITING = (H, P, T)
ENDED = (S, F, C)

CELLS = [
    # event, what comes with it, state → (state after, answer, reason of the answer)
    (Event.START, {"worker": OTHER, "pub": 7}, {H: (H, 409, "notDue"), P: (P, 409, "notDue"), T: (T, 409, "notDue")}),
    (Event.START, {"worker": OTHER, "pub": 7}, {Q: (R, 200, None), R: (R, 409, "running")}),
    (Event.START, {"worker": OTHER, "pub": 3}, {Q: (R, 200, None)}),
    (Event.START, {"worker": OTHER, "older": True}, {Q: (R, 200, None), R: (R, 409, "running"), S: (S, 409, "ended")}),
    (Event.START, {"worker": ME, "pub": 7}, {R: (R, 200, None), S: (S, 409, "ended"), F: (F, 409, "ended")}),
    (Event.HEARTBEAT, {"worker": ME, "attempt": 1}, {R: (R, 200, None), Q: (Q, 409, "notRunning")}),
    (Event.HEARTBEAT, {"worker": ME, "attempt": 2}, {R: (R, 409, "fenced")}),
    (Event.HEARTBEAT, {"worker": OTHER, "attempt": 1}, {R: (R, 409, "fenced"), S: (S, 409, "ended")}),
    (Event.HEARTBEAT, {"worker": ME, "attempt": 1, "poll": True}, {P: (P, 200, "notRunning"), S: (S, 200, "ended")}),
    (Event.FINISH, {"worker": ME, "attempt": 1, "end": End.OK}, {R: (S, 200, None), S: (S, 200, None)}),
    (Event.FINISH, {"worker": ME, "attempt": 1, "end": End.OK}, {F: (F, 409, "ended"), Q: (Q, 409, "notRunning")}),
    (Event.FINISH, {"worker": ME, "attempt": 1, "end": End.TECHNICAL}, {R: (T, 200, None), F: (F, 200, None)}),
    (Event.FINISH, {"worker": ME, "attempt": 1, "end": End.BUSINESS}, {R: (F, 200, None), S: (S, 409, "ended")}),
    (Event.FINISH, {"worker": ME, "attempt": 1, "end": End.CANCELED}, {R: (C, 200, None), C: (C, 200, None)}),
    (Event.FINISH, {"worker": OTHER, "attempt": 1, "end": End.OK}, {R: (R, 409, "fenced"), S: (S, 409, "ended")}),
    (Event.FINISH, {"worker": ME, "attempt": 2, "end": End.OK}, {R: (R, 409, "fenced"), S: (S, 409, "ended")}),
    (Event.RELEASE, {"worker": ME, "attempt": 1}, {R: (P, 200, None), Q: (Q, 409, "notRunning"), S: (S, 409, "ended")}),
    (Event.RELEASE, {"worker": OTHER, "attempt": 1}, {R: (R, 409, "fenced")}),
    (Event.CANCEL, {}, {H: (C, 200, None), P: (C, 200, None), T: (C, 200, None), Q: (C, 200, None)}),
    (Event.CANCEL, {}, {R: (R, 202, "Canceled"), S: (S, 409, "ended"), F: (F, 409, "ended"), C: (C, 409, "ended")}),
    (Event.CANCEL, {"force": True}, {R: (C, 200, None), S: (S, 409, "ended")}),
    (Event.RETURN, {"pub": 7, "reason": "NoQueue"}, {Q: (P, 200, None), P: (P, 409, "noSuchCell")}),
    (Event.RETURN, {"pub": 6, "reason": "NoQueue"}, {Q: (Q, 409, "overtaken")}),
    (Event.RETURN, {"pub": 7, "reason": "JobInvalid"}, {Q: (F, 200, None)}),
    (Event.TAKE_BACK, {}, {Q: (P, 200, None), R: (R, 409, "noSuchCell")}),
    (Event.HOLD, {}, {P: (H, 200, None), Q: (H, 200, None), T: (H, 200, None), R: (R, 409, "noSuchCell")}),
    (Event.OPEN, {}, {H: (P, 200, None), Q: (Q, 409, "noSuchCell")}),
    (Event.POD_GONE, {}, {R: (T, 200, None), Q: (Q, 409, "noSuchCell"), S: (S, 409, "noSuchCell")}),
    (Event.DEAD_LETTER, {"pub": 7, "reason": "rejected"}, {Q: (F, 200, None), R: (R, 409, "noSuchCell")}),
    (Event.DEAD_LETTER, {"pub": 6, "reason": "rejected"}, {Q: (Q, 409, "overtaken")}),
    (Event.DEAD_LETTER, {"pub": 7, "reason": "delivery_limit"}, {Q: (T, 200, None)}),
    (Event.DEAD_LETTER, {"pub": 7, "reason": "expired"}, {Q: (P, 200, None), P: (P, 409, "noSuchCell")}),
    (Event.JOB_ENDED, {"attempt": 1, "end": End.OK}, {Q: (S, 200, None), R: (S, 200, None), S: (S, 409, "ended")}),
    (Event.JOB_ENDED, {"attempt": 1, "end": End.TECHNICAL}, {Q: (T, 200, None), R: (T, 200, None)}),
    (Event.JOB_ENDED, {"attempt": 1}, {Q: (T, 200, None), R: (T, 200, None), P: (P, 409, "notRunning")}),
    (Event.JOB_ENDED, {"attempt": 2, "end": End.OK}, {Q: (Q, 409, "overtaken"), R: (R, 409, "fenced")}),
]


@pytest.mark.parametrize(
    ("event", "with_", "before", "expected"),
    [(event, with_, before, expected) for event, with_, states in CELLS for before, expected in states.items()],
)
def test_cell(event: Event, with_: dict[str, Any], before: int, expected: tuple[int, int, str | None]) -> None:
    run = run_in(before)
    result = does(run, event, **with_)
    apply(run, result.changes)
    assert (run.state, result.status, result.reason) == expected


def test_every_event_has_a_column_for_every_state() -> None:
    assert set(lifecycle.TABLE) == set(Event)
    assert {len(row) for row in lifecycle.TABLE.values()} == {8}


@given(
    event=st.sampled_from(Event),
    state=st.sampled_from([S, F, C]),
    worker=st.sampled_from([ME, OTHER]),
    attempt=st.integers(0, 2),
    end=st.sampled_from([None, *End]),
    older=st.booleans(),
    force=st.booleans(),
)
def test_an_ended_run_is_never_changed(event: Event, state: int, **more: Any) -> None:
    assert does(run_in(state), event, **more).changes == {}


class TestStart:
    def test_begins_one_attempt_with_a_lease(self) -> None:
        run = run_in(Q, slot=3)
        result = does(run, Event.START, worker=ME, pub=7)
        apply(run, result.changes)
        assert (result.attempt, run.attempt, run.holder, run.holder_pub, run.slot) == (1, 1, ME, 7, 3)
        assert (run.lease_at, run.deadline_at) == (NOW + micros(60), NOW + micros(100))
        assert run.alarm_at == run.lease_at

    def test_a_queued_run_whose_cancel_is_pending_does_not_start(self) -> None:
        assert does(run_in(Q, cancel_at=NOW), Event.START, worker=ME).reason == "ended"

    def test_the_older_contract_has_the_timeout_for_a_lease(self) -> None:
        run = run_in(Q)
        apply(run, does(run, Event.START, worker=ME, older=True).changes)
        assert run.lease_at == NOW + micros(130)

    def test_a_redelivery_to_another_only_shortens_the_lease(self) -> None:
        run = run_in(R, lease_at=NOW + micros(50))
        apply(run, does(run, Event.START, worker=OTHER, pub=7, redelivered=True).changes)
        assert (run.holder, run.lease_at, run.alarm_at) == (ME, NOW + micros(30), NOW + micros(30))

    def test_suspicion_never_lengthens_a_lease(self) -> None:
        run = run_in(R, lease_at=NOW + micros(5))
        apply(run, does(run, Event.START, worker=OTHER, pub=7, redelivered=True).changes)
        assert run.lease_at == NOW + micros(5)

    @pytest.mark.parametrize("more", [{"pub": 6, "redelivered": True}, {"pub": 7}, {"redelivered": True}])
    def test_without_a_redelivery_of_the_holders_own_publication_no_suspicion(self, more: dict[str, Any]) -> None:
        assert does(run_in(R), Event.START, worker=OTHER, **more).changes == {}

    def test_the_same_process_adopts_the_delivery(self) -> None:
        run = run_in(R)
        result = does(run, Event.START, worker=ME, pub=9)
        apply(run, result.changes)
        assert (result.attempt, run.attempt, run.holder_pub, run.lease_at) == (1, 1, 9, NOW + micros(60))

    def test_an_older_worker_that_began_anew(self) -> None:
        run = run_in(R)
        result = does(run, Event.START, worker=ME, older=True)
        apply(run, result.changes)
        assert (run.state, run.attempt, result.attempt) == (R, 2, 2)
        assert result.attempt_end is not None
        assert (result.attempt_end.attempt, result.attempt_end.outcome) == (1, "lost")

    def test_an_older_worker_that_began_anew_once_too_often(self) -> None:
        assert goes_to(run_in(R, attempt=3), Event.START, worker=ME, older=True) == F
        assert goes_to(run_in(R, cancel_at=NOW, cancel_why="Canceled"), Event.START, worker=ME, older=True) == C


class TestHeartbeat:
    def test_renews_without_touching_the_alarm(self) -> None:
        result = does(run_in(R), Event.HEARTBEAT, worker=ME, attempt=1)
        assert result.changes == {"lease_at": NOW + micros(60), "heartbeat_at": NOW}

    def test_clears_suspicion(self) -> None:
        run = run_in(R)
        apply(run, does(run, Event.START, worker=OTHER, pub=7, redelivered=True).changes)
        apply(run, does(run, Event.HEARTBEAT, worker=ME, attempt=1).changes)
        assert run.lease_at == NOW + micros(60)

    def test_one_right_after_another_writes_nothing(self) -> None:
        run = run_in(R, lease_at=NOW + micros(59))
        assert does(run, Event.HEARTBEAT, worker=ME, attempt=1).changes == {}

    def test_tells_of_a_cancel(self) -> None:
        assert does(run_in(R, cancel_at=NOW), Event.HEARTBEAT, worker=ME, attempt=1).cancel is True

    @pytest.mark.parametrize("state", [H, P, T, Q, S, F, C])
    def test_a_poll_about_what_does_not_run_says_stop(self, state: int) -> None:
        result = does(run_in(state), Event.HEARTBEAT, worker=ME, attempt=1, poll=True)
        assert (result.status, result.cancel) == (200, True)

    def test_a_fenced_poll_says_stop_and_renews_nothing(self) -> None:
        result = does(run_in(R), Event.HEARTBEAT, worker=ME, attempt=2, poll=True)
        assert (result.status, result.cancel, result.changes) == (200, True, {})


class TestFinish:
    def test_a_success_counts_even_after_a_cancel(self) -> None:
        run = run_in(R, cancel_at=NOW, cancel_why="Timeout")
        assert goes_to(run, Event.FINISH, worker=ME, attempt=1, end=End.OK) == S

    @pytest.mark.parametrize(
        ("why", "end", "state", "reason"),
        [
            ("Canceled", End.TECHNICAL, C, "Canceled"),
            ("Timeout", End.TECHNICAL, F, "Timeout"),
            ("Timeout", End.CANCELED, F, "Timeout"),
            ("Canceled", End.CANCELED, C, "Canceled"),
            ("Canceled", End.BUSINESS, F, "BusinessFailure"),
        ],
    )
    def test_with_a_cancel_pending(self, why: str, end: End, state: int, reason: str) -> None:
        run = run_in(R, cancel_at=NOW, cancel_why=why)
        apply(run, does(run, Event.FINISH, worker=ME, attempt=1, end=end).changes)
        assert (run.state, run.reason) == (state, reason)

    def test_attempts_run_out(self) -> None:
        run = run_in(R, attempt=3)
        apply(run, does(run, Event.FINISH, worker=ME, attempt=3, end=End.TECHNICAL).changes)
        assert (run.state, run.reason, run.slot, run.alarm_at) == (F, "TechnicalFailure", None, None)

    @pytest.mark.parametrize("state", [H, P, T, Q, R])
    def test_a_repeat_of_a_recorded_end_is_fine(self, state: int) -> None:
        run = run_in(state, holder=OTHER, attempt=2)
        again = does(run, Event.FINISH, worker=ME, attempt=1, end=End.TECHNICAL, prior=(ME, "technical"))
        assert (again.status, again.changes) == (200, {})
        other = does(run, Event.FINISH, worker=ME, attempt=1, end=End.OK, prior=(ME, "technical"))
        assert other.status == 409
        lost = does(run, Event.FINISH, worker=ME, attempt=1, end=End.TECHNICAL, prior=(ME, "lost"))
        assert lost.status == 409

    @pytest.mark.parametrize("state", [H, P, T, Q, R, S, F])
    def test_an_older_canceled_is_never_refused_with_409(self, state: int) -> None:
        run = run_in(state, holder=OTHER)
        result = does(run, Event.FINISH, worker=ME, older=True, end=End.CANCELED)
        assert (result.status, result.accepted, result.changes) == (200, False, {})

    @pytest.mark.parametrize(("attempt", "seconds"), [(1, 10), (2, 20), (3, 40), (7, 600), (1000, 600)])
    def test_backoff_grows_up_to_its_limit(self, attempt: int, seconds: float) -> None:
        assert lifecycle.backoff(RunPolicy(), attempt) == micros(seconds)


class TestClock:
    def test_a_lease_that_ran_out_loses_the_attempt(self) -> None:
        run = run_in(R, lease_at=NOW)
        result = does(run, Event.ALARM)
        apply(run, result.changes)
        assert (run.state, run.due_at, run.alarm_at) == (T, NOW, NOW)
        assert result.attempt_end is not None
        assert result.attempt_end.outcome == "lost"

    def test_the_last_attempt_that_is_lost_fails_the_run(self) -> None:
        run = run_in(R, lease_at=NOW, attempt=3)
        apply(run, does(run, Event.ALARM).changes)
        assert (run.state, run.reason) == (F, "WorkerLost")

    def test_an_alarm_that_came_early_is_set_anew(self) -> None:
        run = run_in(R, lease_at=NOW + micros(40), alarm_at=NOW)
        assert does(run, Event.ALARM).changes == {"alarm_at": NOW + micros(40)}

    def test_timeout_flags_then_fails(self) -> None:
        run = run_in(R, deadline_at=NOW, lease_at=NOW + micros(300))
        apply(run, does(run, Event.ALARM).changes)
        assert (run.state, run.cancel_why, run.deadline_at) == (R, "Timeout", NOW + micros(30))
        result = step(run, Happening(Event.ALARM), POLICY, NOW + micros(30))
        apply(run, result.changes)
        assert (run.state, run.reason, result.attempt_end) == (F, "Timeout", None)

    def test_a_timeout_leaves_a_fresh_cancel_its_grace(self) -> None:
        run = run_in(R, deadline_at=NOW, lease_at=NOW + micros(300), cancel_at=NOW - micros(10), cancel_why="Canceled")
        apply(run, does(run, Event.ALARM).changes)
        assert (run.state, run.deadline_at) == (R, NOW + micros(20))
        apply(run, step(run, Happening(Event.ALARM), POLICY, NOW + micros(20)).changes)
        assert (run.state, run.reason) == (C, "Canceled")

    @pytest.mark.parametrize("state", [H, P, Q, T])
    def test_what_does_not_run_expires(self, state: int) -> None:
        run = run_in(state, expires_at=NOW)
        apply(run, does(run, Event.ALARM).changes)
        assert (run.state, run.reason) == (C, "Expired")

    def test_what_runs_does_not_expire(self) -> None:
        assert goes_to(run_in(R, expires_at=NOW - 1), Event.ALARM) == R

    def test_a_retry_comes_due(self) -> None:
        run = run_in(T, due_at=NOW)
        apply(run, does(run, Event.ALARM).changes)
        assert (run.state, run.ready, run.due_at) == (P, 1, None)
        assert goes_to(run_in(T, due_at=NOW + 1), Event.ALARM) == T


class TestLostTogether:
    def test_none_of_several_is_charged_and_each_runs_alone_next(self) -> None:
        run = run_in(R, attempt=3)
        result = does(run, Event.POD_GONE, company=True)
        apply(run, result.changes)
        assert (run.state, run.due_at, run.alone, run.max_attempts) == (T, NOW, ALONE, 4)
        assert result.attempt_end is not None
        assert result.attempt_end.outcome == "lostTogether"

    def test_one_that_ran_alone_is_charged(self) -> None:
        for company in (False, True):
            run = run_in(R, alone=ALONE)
            apply(run, does(run, Event.POD_GONE, company=company).changes)
            assert (run.state, run.max_attempts, run.alone) == (T, 3, ALONE)
            assert goes_to(run_in(R, alone=ALONE, attempt=3), Event.POD_GONE, company=company) == F

    def test_leases_of_one_worker_that_run_out_one_after_the_other(self) -> None:
        first, second = run_in(R, lease_at=NOW), run_in(R, lease_at=NOW + 1)
        apply(first, does(first, Event.ALARM, company=True).changes)
        apply(second, does(second, Event.NEIGHBOR_LOST).changes)
        assert (first.state, first.alone, second.alone) == (T, ALONE, IN_DOUBT)
        apply(second, step(second, Happening(Event.ALARM), POLICY, NOW + 1).changes)
        assert (second.state, second.alone, second.max_attempts) == (T, ALONE, 4)

    @pytest.mark.parametrize("event", [Event.RELEASE, Event.FINISH])
    def test_a_doubt_ends_with_the_attempt(self, event: Event) -> None:
        run = run_in(R, alone=IN_DOUBT)
        apply(run, does(run, event, worker=ME, attempt=1, end=End.TECHNICAL).changes)
        assert run.alone == SHARES

    def test_who_was_alone_and_failed_without_taking_its_worker_down_may_share_again(self) -> None:
        run = run_in(R, alone=ALONE)
        apply(run, does(run, Event.FINISH, worker=ME, attempt=1, end=End.TECHNICAL).changes)
        assert (run.state, run.alone) == (T, SHARES)

    def test_who_must_be_alone_waits_with_a_busy_worker_which_then_takes_nothing_else(self) -> None:
        run = run_in(Q, alone=ALONE)
        result = does(run, Event.START, worker=ME, pub=6, company=True)
        apply(run, result.changes)
        assert (run.state, result.status, result.reason) == (Q, 429, "alone")
        assert (run.holder, run.holder_pub, run.attempt) == (ME, 7, 0)
        assert goes_to(run, Event.START, worker=ME, pub=7) == R

    def test_others_wait_beside_it(self) -> None:
        run = run_in(Q)
        result = does(run, Event.START, worker=ME, pub=7, barred=True)
        assert (result.changes, result.status, result.reason) == ({}, 429, "barred")
        assert does(run_in(Q, cancel_at=NOW), Event.START, worker=ME, barred=True).reason == "ended"

    @pytest.mark.parametrize("more", [{"barred": True}, {"company": True, "alone": ALONE}])
    def test_the_older_contract_cannot_wait_so_the_run_goes_again(self, more: dict[str, Any]) -> None:
        run = run_in(Q, alone=more.pop("alone", SHARES))
        result = does(run, Event.START, worker=ME, older=True, **more)
        apply(run, result.changes)
        assert (run.state, result.status, result.reason, run.due_at) == (P, 409, "notDue", NOW + micros(1))

    def test_but_not_for_ever(self) -> None:
        run = run_in(Q, alone=ALONE, returns=lifecycle.MOST_RETURNS)
        assert goes_to(run, Event.START, worker=ME, older=True, company=True) == R

    @pytest.mark.parametrize("alone", [SHARES, ALONE, IN_DOUBT])
    def test_a_pod_that_was_told_to_stop_gives_everything_back(self, alone: int) -> None:
        run = run_in(R, attempt=3, alone=alone)
        result = does(run, Event.POD_GONE, told=True, company=True)
        apply(run, result.changes)
        assert (run.state, run.ready, run.max_attempts, run.alone) == (P, 1, 4, ALONE if alone == ALONE else SHARES)
        assert result.attempt_end is not None
        assert result.attempt_end.outcome == "released"


@pytest.mark.parametrize("returns", [0, 1, 5, 6, 100])
def test_the_pause_of_what_comes_back_is_between_a_second_and_a_minute(returns: int) -> None:
    run = run_in(Q, returns=returns)
    apply(run, does(run, Event.RETURN, pub=7, reason="NoQueue").changes)
    assert run.due_at == NOW + micros(min(2**returns, 60))
    assert (run.ready, run.returns, run.alarm_at) == (0, returns + 1, run.due_at)


def test_a_replay_is_not_held() -> None:
    assert goes_to(run_in(P, replay=True), Event.HOLD) == P
