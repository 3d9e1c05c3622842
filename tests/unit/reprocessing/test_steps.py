"""What is done next: the table of a Reprocessing's life."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maestro.reprocessing.status import (
    Facts,
    patch_between,
    progress_interval,
    status_of,
    transitions,
)
from maestro.reprocessing.steps import End, Resume, Stop, next_step
from maestro.resources import Reprocessing
from maestro.resources.conditions import find_condition
from maestro.runs.model import to_micros
from maestro.runs.replays import DRAIN, LESS, LOCK, Replay

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = to_micros(NOW - timedelta(hours=1))
NEW = Replay(
    pk=1, uid="u", id="shop.fix", name="fix", solution="shop.prices", spec_hash="s", created_at=AT, planned_at=None,
    plan_hash=None, digest="0", total=0, predicted=None, approved_at=None, began_at=None, replaying_at=None, waived=0,
    stop_reason=None, stop_message=None, stop_resume=None, succeeded=0, failed=0, added=0, allowed=0, ended_at=None,
    outcome=None, reason=None, message=None,
)  # fmt: skip
PLANNED = replace(NEW, planned_at=AT, plan_hash="h1", total=40)
APPROVED = replace(PLANNED, approved_at=AT)
BEGAN = replace(APPROVED, began_at=AT)
REPLAYING = replace(BEGAN, replaying_at=AT, succeeded=16)
STOPPED = replace(REPLAYING, failed=1, stop_reason="RunFailed", stop_message="Run x failed", stop_resume=0)
GROWN = replace(REPLAYING, approved_at=None, plan_hash="h2", total=60, added=20)
DECIDED = {"decision": "Approved", "decidedBy": "ana", "planHash": "h1"}
TOLD = {"progress": {"done": 16, "succeeded": 16}}


def obj(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "kind": "Reprocessing",
        "metadata": {"name": "fix", "namespace": "shop", "uid": "u", "generation": 3},
        "spec": {"solution": "prices", "select": {"states": ["Failed"]}, **(spec or {})},
        "status": {"observedGeneration": 3, **(status or {})},
    }


ROWS: list[tuple[str, dict[str, Any], dict[str, Any], Replay | None, Any]] = [
    ("new", {}, {}, None, "Create"),
    ("known", {}, {}, NEW, "Plan"),
    ("empty", {}, {}, replace(PLANNED, total=0), ("Finished", "NothingToDo")),
    ("awaits a decision", {}, {}, PLANNED, "AwaitDecision"),
    ("decided", DECIDED, {}, PLANNED, "Approve"),
    ("decided about another plan", {**DECIDED, "planHash": "h0"}, {}, PLANNED, "AwaitDecision"),
    ("decided without a plan's hash", {"decision": "Approved"}, {}, PLANNED, "AwaitDecision"),
    ("approved ahead", {"autoApprove": True}, {}, PLANNED, "Approve"),
    ("skipped", {"decision": "Skipped", "decidedBy": "ben"}, {}, PLANNED, ("Skipped", "Skipped")),
    ("canceled before the plan", {"cancel": True}, {}, NEW, ("Canceled", "Canceled")),
    ("canceled while it runs", {**DECIDED, "cancel": True}, TOLD, REPLAYING, ("Canceled", "Canceled")),
    ("canceled while it is stopped", {**DECIDED, "cancel": True}, TOLD, STOPPED, ("Canceled", "Canceled")),
    ("failed", {**DECIDED, "fail": True}, TOLD, REPLAYING, ("Failure", "Failed")),
    ("both", {**DECIDED, "fail": True, "cancel": True}, TOLD, REPLAYING, ("Canceled", "Canceled")),
    ("its turn", DECIDED, {}, APPROVED, "TakeTurn"),
    ("others still run", DECIDED, {}, BEGAN, "Drain"),
    ("replays", DECIDED, TOLD, REPLAYING, "Replay"),
    ("stopped", DECIDED, TOLD, STOPPED, "AwaitResume"),
    ("resumed", {**DECIDED, "resume": 1}, TOLD, STOPPED, Resume(0)),
    ("resumed before", {**DECIDED, "resume": 1}, TOLD, replace(STOPPED, stop_resume=1), "AwaitResume"),
    ("resumed in spite of others", {**DECIDED, "resume": 1}, {}, replace(BEGAN, stop_reason="DrainTimeout"),
     Resume(DRAIN)),
    ("resumed without the gateway", {**DECIDED, "resume": 1}, {}, replace(BEGAN, stop_reason="MaxBlock"), Resume(LOCK)),
    ("grown", DECIDED, TOLD, GROWN, "AwaitDecision"),
    ("grown, approved ahead", {"autoApprove": True}, TOLD, GROWN, "AwaitDecision"),
    ("grown and decided anew", {**DECIDED, "planHash": "h2"}, TOLD, GROWN, "Approve"),
    ("grown and skipped", {"decision": "Skipped", "planHash": "h2"}, TOLD, GROWN, ("Skipped", "Skipped")),
    ("before maxBlock", {**DECIDED, "maxBlock": "61m"}, TOLD, REPLAYING, "Replay"),
    ("past maxBlock", {**DECIDED, "maxBlock": "1h"}, TOLD, REPLAYING, "MaxBlock"),
    ("past maxBlock, waiting for its turn", {**DECIDED, "maxBlock": "1h"}, {}, APPROVED, "MaxBlock"),
    ("past maxBlock, without block", {**DECIDED, "maxBlock": "1h", "block": False}, TOLD, REPLAYING, "Replay"),
    ("goes on past maxBlock", {**DECIDED, "maxBlock": "1h"}, TOLD, replace(REPLAYING, waived=LOCK), "Replay"),
    ("the store knows less", DECIDED, {"progress": {"done": 17, "succeeded": 17}}, REPLAYING, "StoreRestored"),
    ("the store knows nothing", DECIDED, TOLD, NEW, "StoreRestored"),
    ("the store knows less and may", DECIDED, {"progress": {"done": 17, "succeeded": 17}},
     replace(REPLAYING, waived=LESS), "Replay"),
    ("what failed waits again after a resume", DECIDED, {"progress": {"done": 17, "succeeded": 16}}, REPLAYING,
     "Replay"),
    ("the store knows fewer failures", {**DECIDED, "onFailure": "Continue"},
     {"progress": {"done": 17, "succeeded": 16}}, REPLAYING, "StoreRestored"),
    ("ended", DECIDED, TOLD, replace(REPLAYING, ended_at=AT, outcome="Finished"), "Nothing"),
    ("ended, then canceled", {**DECIDED, "cancel": True}, TOLD, replace(REPLAYING, ended_at=AT, outcome="Finished"),
     "Nothing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "status", "replay", "wanted"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_next_step(spec: dict[str, Any], status: dict[str, Any], replay: Replay | None, wanted: Any) -> None:
    step = next_step(Reprocessing.model_validate(obj(spec, status)), replay, NOW)
    if isinstance(step, End):
        assert (step.outcome, step.reason) == wanted
    elif isinstance(step, Stop):
        assert step.reason == wanted
        assert "resume" in step.message
    else:
        assert step == wanted


STATUS_ROWS: list[tuple[str, dict[str, Any], Replay | None, str | None, str, str]] = [
    ("being planned", {}, NEW, None, "Planning", "InProgress"),
    ("awaits approval", {}, PLANNED, "PendingApproval", "AwaitingApproval", "Current"),
    ("stale", {**DECIDED, "planHash": "h0"}, PLANNED, "PendingApproval", "StalePlan", "Current"),
    ("approved", DECIDED, APPROVED, "Approved", "Approved", "Current"),
    ("drains", DECIDED, BEGAN, "Running", "Draining", "Current"),
    ("replays", DECIDED, REPLAYING, "Running", "Replaying", "Current"),
    ("without block", {**DECIDED, "block": False}, REPLAYING, "RunningWithoutLock", "Replaying", "Current"),
    ("grown", DECIDED, GROWN, "PendingApproval", "PlanGrown", "Current"),
    ("stopped", DECIDED, STOPPED, "Stopped", "RunFailed", "Failed"),
    ("finished", DECIDED, replace(REPLAYING, ended_at=AT, outcome="Finished", reason="Replayed"), "Finished",
     "Replayed", "Current"),
    ("canceled", DECIDED, replace(REPLAYING, ended_at=AT, outcome="Canceled", reason="Canceled"), "Canceled",
     "Canceled", "Current"),
    ("failure", DECIDED, replace(REPLAYING, ended_at=AT, outcome="Failure", reason="Failed"), "Failure", "Failed",
     "Failed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "replay", "phase", "reason", "settlement"),
    [row[1:] for row in STATUS_ROWS],
    ids=[r[0] for r in STATUS_ROWS],
)
def test_status(spec: dict[str, Any], replay: Replay | None, phase: str | None, reason: str, settlement: str) -> None:
    given = obj(spec)
    parsed = Reprocessing.model_validate(given)
    status = status_of(given, parsed, Facts(replay), NOW)
    assert status.phase == phase
    ready = find_condition(status.conditions, "Ready")
    assert ready is not None
    assert ready.reason == reason
    assert ready.status == ("True" if settlement == "Current" else "False")
    assert (find_condition(status.conditions, "Stalled") is not None) == (settlement == "Failed")
    assert (find_condition(status.conditions, "Reconciling") is not None) == (settlement == "InProgress")
    told = status.dump()
    assert patch_between(told, told) == {}
    # stable: from its own answer comes the same, and no event
    again = Reprocessing.model_validate({**given, "status": told})
    assert status_of({**given, "status": told}, again, Facts(replay), NOW + timedelta(minutes=5)).dump() == told
    assert transitions(again.status, status) == []
    assert [note.reason for note in transitions(parsed.status, status)] == [reason]


def test_the_patch_makes_the_one_of_the_other() -> None:
    old = {"a": 1, "b": {"c": 1, "d": 2}, "e": [1], "gone": {"x": 1}}
    new = {"a": 1, "b": {"c": 2}, "e": [1, 2], "f": None}
    assert patch_between(old, new) == {"b": {"c": 2, "d": None}, "e": [1, 2], "gone": None}


def test_progress_is_written_more_rarely_as_it_grows() -> None:
    assert [progress_interval(n) for n in (1, 100_000, 500_000, 10_000_000)] == [1.0, 1.0, 5.0, 10.0]
