"""What a decision and an order write, and when they come too late."""

from __future__ import annotations

from typing import Any

import pytest

from maestro.http.decisions import Order, decided, ordered
from maestro.http.errors import HttpError
from maestro.http.reprocessing_models import DecisionBody
from maestro.resources.reprocessing import TERMINAL_PHASES, Phase, Reprocessing


def reprocessing(phase: Phase | None, *, plan: str | None = "h1", **spec: Any) -> Reprocessing:
    return Reprocessing.model_validate(
        {
            "metadata": {"name": "prices", "namespace": "shop"},
            "spec": {"solution": "billing", "select": {"states": ["Failed"]}, **spec},
            "status": {"phase": phase, "plan": {"hash": plan}},
        }
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (DecisionBody(), None),
        (DecisionBody(reason="fine"), "fine"),
        (DecisionBody(user="maria"), "on behalf of maria"),
        (DecisionBody(user="maria", reason="fine", plan_hash="h1"), "fine (on behalf of maria)"),
    ],
)
def test_a_decision_names_who_decides_and_the_plan(said: DecisionBody, reason: str | None) -> None:
    found = decided(reprocessing("PendingApproval"), "login:ann", "Approved", said)
    assert found == {"decision": "Approved", "decidedBy": "login:ann", "planHash": "h1", "decisionReason": reason}


def test_a_plan_that_changed_is_decided_anew() -> None:
    stale = reprocessing("PendingApproval", decision="Approved", decided_by="ann", plan_hash="h0")
    assert decided(stale, "bob", "Skipped", DecisionBody())["planHash"] == "h1"


@pytest.mark.parametrize(
    ("found", "said", "reason", "words"),
    [
        (reprocessing(None, plan=None), DecisionBody(), "NotPlanned", "isn't made yet"),
        (reprocessing("PendingApproval", plan=None), DecisionBody(), "NotPlanned", "isn't made yet"),
        (
            reprocessing("PendingApproval", decision="Approved", decided_by="ann", plan_hash="h1"),
            DecisionBody(),
            "AlreadyDecided",
            "shop.prices is already Approved by ann; its phase is PendingApproval",
        ),
        (
            reprocessing("Finished", decision="Approved", plan_hash="h1"),
            DecisionBody(),
            "AlreadyDecided",
            "by somebody; its phase is Finished",
        ),
        (reprocessing("Running", auto_approve=True), DecisionBody(), "NotPending", "its phase is Running"),
        (reprocessing("PendingApproval"), DecisionBody(plan_hash="h0"), "StalePlan", "another by now: h1"),
    ],
)
def test_what_is_not_decided(found: Reprocessing, said: DecisionBody, reason: str, words: str) -> None:
    with pytest.raises(HttpError, match=words) as refused:
        decided(found, "bob", "Approved", said)
    assert (refused.value.status, refused.value.reason) == (409, reason)


@pytest.mark.parametrize(
    ("found", "order", "change"),
    [
        (reprocessing("Running"), "suspend", {"suspend": True}),
        (reprocessing("Running", suspend=True), "suspend", {}),
        (reprocessing("Running", suspend=True), "resume", {"suspend": False}),
        (reprocessing("Stopped"), "resume", {"resume": 1}),
        (reprocessing("Stopped", resume=4, suspend=True), "resume", {"resume": 5, "suspend": False}),
        (reprocessing("PendingApproval"), "cancel", {"cancel": True}),
        (reprocessing(None), "cancel", {"cancel": True}),
        (reprocessing("Stopped", cancel=True), "cancel", {}),
        (reprocessing("Running"), "fail", {"fail": True}),
    ],
)
def test_orders(found: Reprocessing, order: Order, change: dict[str, Any]) -> None:
    assert ordered(found, order) == change


def test_going_on_where_nothing_stands() -> None:
    with pytest.raises(HttpError, match="neither suspended nor stopped; its phase is Running") as refused:
        ordered(reprocessing("Running"), "resume")
    assert refused.value.reason == "NotStopped"


@pytest.mark.parametrize("phase", sorted(TERMINAL_PHASES))
@pytest.mark.parametrize("order", ["suspend", "resume", "cancel", "fail"])
def test_after_the_end_nothing_is_ordered(phase: Phase, order: Order) -> None:
    with pytest.raises(HttpError, match=f"has ended; its phase is {phase}") as refused:
        ordered(reprocessing(phase), order)
    assert (refused.value.status, refused.value.reason) == (409, "Ended")
