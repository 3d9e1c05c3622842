"""The gateway: shut exactly where the definition says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maestro.runs.gateway import gateway

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
APPROVED = {"decision": "Approved", "planHash": "h1"}
PLANNED = {"phase": "PendingApproval", "plan": {"hash": "h1"}}
DECIDED = {"phase": "Approved", "plan": {"hash": "h1"}, "approval": {"at": "2026-03-01T11:00:00Z"}}
RUNNING = {**DECIDED, "phase": "Running", "progress": {"total": 3, "done": 1}}


def reprocessing(
    spec: dict[str, Any], status: dict[str, Any], name: str = "fix", created: str = "2026-03-01T10:00:00Z"
) -> dict[str, Any]:
    meta = {"namespace": "shop", "name": name, "creationTimestamp": created}
    return {"metadata": meta, "spec": {"solution": "prices", "block": True, **spec}, "status": status}


ROWS = [
    ("nobody has looked at it", {}, {"observedGeneration": -1}, "open"),
    ("no status at all", {}, {}, "open"),
    ("awaits approval", {}, PLANNED, "open"),
    ("approved, the controller hasn't seen it", APPROVED, PLANNED, "blocked"),
    ("approved, and seen", APPROVED, DECIDED, "blocked"),
    ("approved for another plan", {**APPROVED, "planHash": "h0"}, PLANNED, "open"),
    ("approved without a plan", {"decision": "Approved"}, {"phase": "PendingApproval"}, "open"),
    ("skipped", {"decision": "Skipped", "planHash": "h1"}, PLANNED, "open"),
    ("approved ahead, not planned yet", {"autoApprove": True}, {}, "blocked"),
    ("approved ahead, and canceled", {"autoApprove": True, "cancel": True}, {}, "open"),
    ("runs", APPROVED, RUNNING, "blocked"),
    ("suspended keeps it as it is", {**APPROVED, "suspend": True}, RUNNING, "blocked"),
    ("stopped keeps it shut", APPROVED, {**RUNNING, "phase": "Stopped"}, "blocked"),
    ("has grown and awaits a new approval", APPROVED, {**RUNNING, "phase": "PendingApproval", "plan": {"hash": "h2"}},
     "blocked"),
    ("has grown and is skipped", {"decision": "Skipped", "planHash": "h2"},
     {**RUNNING, "phase": "PendingApproval", "plan": {"hash": "h2"}}, "open"),
    ("a cancel opens at once", {**APPROVED, "cancel": True}, RUNNING, "open"),
    ("a cancel opens what is stopped", {**APPROVED, "cancel": True}, {**RUNNING, "phase": "Stopped"}, "open"),
    ("fail opens at once", {**APPROVED, "fail": True}, RUNNING, "open"),
    ("without block", {**APPROVED, "block": False}, {**RUNNING, "phase": "RunningWithoutLock"}, "open"),
    *[(f"has ended: {phase}", APPROVED, {**RUNNING, "phase": phase}, "open")
      for phase in ("Finished", "Skipped", "Failure", "Canceled")],
    ("before maxBlock", {**APPROVED, "maxBlock": "61m"}, RUNNING, "blocked"),
    ("at maxBlock", {**APPROVED, "maxBlock": "1h"}, RUNNING, "open"),
    ("maxBlock counts from the approval that the controller wrote", {**APPROVED, "maxBlock": "1s"}, PLANNED, "blocked"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "status", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_one(spec: dict[str, Any], status: dict[str, Any], verdict: str) -> None:
    answer = gateway([reprocessing(spec, status)], "shop.prices", NOW)
    assert answer.verdict == verdict
    assert answer.reprocessing == ("fix" if verdict == "blocked" else None)


def test_the_reason_says_who_and_why() -> None:
    answer = gateway([reprocessing({**APPROVED, "reason": "wrong list"}, RUNNING)], "shop.prices", NOW)
    assert answer.reason == "Reprocessing fix blocks Solution prices: wrong list"


def test_only_its_own_solution_in_its_own_namespace() -> None:
    shut = [reprocessing(APPROVED, RUNNING)]
    assert gateway(shut, "shop.stock", NOW).verdict == "open"
    assert gateway(shut, "other.prices", NOW).verdict == "open"


def test_it_stays_shut_from_one_to_the_next() -> None:
    waits = reprocessing(APPROVED, DECIDED, name="second", created="2026-03-01T09:00:00Z")
    first = reprocessing(APPROVED, RUNNING, name="first")
    assert gateway([waits, first], "shop.prices", NOW).reprocessing == "first"  # it has begun
    ended = reprocessing(APPROVED, {**RUNNING, "phase": "Finished"}, name="first")
    assert gateway([waits, ended], "shop.prices", NOW).reprocessing == "second"


def test_one_past_max_block_does_not_open_it_for_the_next() -> None:
    past = reprocessing({**APPROVED, "maxBlock": "1s"}, RUNNING, name="first")
    waits = reprocessing(APPROVED, DECIDED, name="second")
    assert gateway([past, waits], "shop.prices", NOW).reprocessing == "second"
    assert gateway([past], "shop.prices", NOW - timedelta(hours=2)).verdict == "blocked"
