"""Conditions: when a transition happened, and what kstatus makes of them together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from maestro.resources.conditions import Condition, find_condition, remove_condition, set_condition, settle

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)


def _ready(status: str = "True", now: datetime = NOON, message: str = "") -> list[Condition]:
    return set_condition([], "Ready", status, "Because", message, 1, now)  # type: ignore[arg-type]


def test_a_new_condition_has_whole_seconds_in_utc() -> None:
    local = NOON.astimezone(timezone(timedelta(hours=2)))
    (condition,) = _ready(now=local)
    assert condition.dump() == {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T12:00:00Z",
        "reason": "Because",
        "message": "",
    }


def test_another_reason_is_no_transition() -> None:
    (condition,) = set_condition(_ready(), "Ready", "True", "Other", "text", 2, LATER)
    assert condition.last_transition_time == NOON.replace(microsecond=0)
    assert (condition.reason, condition.message, condition.observed_generation) == ("Other", "text", 2)


def test_another_status_is_a_transition() -> None:
    (condition,) = set_condition(_ready(), "Ready", "False", "Because", "", 1, LATER)
    assert condition.last_transition_time == LATER.replace(microsecond=0)


def test_the_same_again_changes_nothing() -> None:
    before = _ready()
    assert set_condition(before, "Ready", "True", "Because", "", 1, LATER) == before


def test_the_list_handed_in_stays_as_it_was_and_the_order_is_kept() -> None:
    first = set_condition(_ready(), "QueueReady", "True", "Declared", "", 1, NOON)
    second = set_condition(first, "Ready", "False", "Other", "", 1, LATER)
    assert [c.type for c in second] == ["Ready", "QueueReady"]
    assert first[0].status == "True"


def test_find_and_remove() -> None:
    conditions = _ready()
    assert find_condition(conditions, "Ready") is conditions[0]
    assert find_condition(conditions, "Stalled") is None
    assert remove_condition(conditions, "Ready") == []


def test_a_message_that_is_too_long_is_cut() -> None:
    (condition,) = _ready(message="x" * 40_000)
    assert len(condition.message) == 32768
    assert condition.message.endswith(" …")


@pytest.mark.parametrize("reason", ["", "two words", "1st", "Ends:"])
def test_a_reason_is_one_word(reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        set_condition([], "Ready", "True", reason, "", 1, NOON)


@pytest.mark.parametrize(
    ("settlement", "expected"),
    [
        ("Current", {"Ready": "True"}),
        ("InProgress", {"Ready": "False", "Reconciling": "True"}),
        ("Failed", {"Ready": "False", "Stalled": "True"}),
    ],
)
@pytest.mark.parametrize("before", ["Current", "InProgress", "Failed"])
def test_settle(before: str, settlement: str, expected: dict[str, str]) -> None:
    conditions = set_condition([], "QueueReady", "True", "Declared", "", 1, NOON)
    for step in (before, settlement):
        conditions = settle(conditions, step, "Because", "a sentence", 3, NOON)  # type: ignore[arg-type]
    assert {c.type: c.status for c in conditions} == {"QueueReady": "True", **expected}
    assert {c.reason for c in conditions if c.type in expected} == {"Because"}
