"""Ids and times."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import RFC_4122

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro.runs.model import RunState, from_micros, new_run_id, older_status, to_micros


def test_run_ids_are_uuid7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    run_id = new_run_id()
    after = time.time_ns() // 1_000_000
    assert (run_id.version, run_id.variant) == (7, RFC_4122)
    assert before <= run_id.int >> 80 <= after


def test_run_ids_rise_and_never_repeat() -> None:
    ids = [new_run_id() for _ in range(50_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_run_ids_rise_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_run_id()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert new_run_id() > first


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1)))
def test_times_survive_the_store(moment: datetime) -> None:
    assert from_micros(to_micros(moment)) == moment


def test_states_have_the_older_words() -> None:
    assert {older_status(state) for state in RunState} == {"pending", "running", "completed", "failed", "canceled"}
    assert [state.code for state in RunState] == list(range(8))
    assert [state for state in RunState if state.ended] == [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELED]
