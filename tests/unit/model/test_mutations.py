"""Tests of the test: each safeguard is taken away in turn, and the model must notice."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from tests.unit.model.moves import MOVES
from tests.unit.model.system import System, Variant, Violation

from maestro.runs import lifecycle
from maestro.runs.lifecycle import Event, Happening, Run, Step
from maestro.runs.model import RunPolicy

Break = Callable[[pytest.MonkeyPatch], Variant]
LIVES = 20_000
"""The model is tried so often before it counts as blind; most breaks show within a few hundred."""
STEPS = 60


def live(variant: Variant, seed: int) -> None:
    """One random life of the system, by a seed. Raises Violation."""
    dice = random.Random(seed)
    system = System(variant)
    for _ in range(2):
        system.accept()
    for _ in range(STEPS):
        dice.choice(MOVES)(system, dice.randrange(12), dice.randrange(12))
    system.settle_down()


def _violation(variant: Variant, seed: int) -> str | None:
    try:
        live(variant, seed)
    except Violation as violation:
        return str(violation)
    return None


def _cell(patch: pytest.MonkeyPatch, event: Event, state: int, cell: lifecycle.Cell | None) -> None:
    row = list(lifecycle.TABLE[event])
    row[state] = cell
    patch.setitem(lifecycle.TABLE, event, tuple(row))  # type: ignore[arg-type]


def finish_without_fencing(patch: pytest.MonkeyPatch) -> Variant:
    _cell(patch, Event.FINISH, lifecycle.R, lifecycle._finished)
    return Variant()


def repair_removed(patch: pytest.MonkeyPatch) -> Variant:
    return Variant(repair=False)


def queued_written_after_the_confirm(patch: pytest.MonkeyPatch) -> Variant:
    return Variant(write_ahead=False)


def a_redelivery_takes_over(patch: pytest.MonkeyPatch) -> Variant:
    honest = lifecycle.TABLE[Event.START][lifecycle.R]
    assert honest is not None

    def takes_over(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
        if event.redelivered and run.holder != event.worker:
            return lifecycle._begin(run, event, policy, now)
        return honest(run, event, policy, now)

    _cell(patch, Event.START, lifecycle.R, takes_over)
    return Variant()


def a_poll_without_attempt_and_worker(patch: pytest.MonkeyPatch) -> Variant:
    honest = lifecycle._holds
    patch.setattr(lifecycle, "_holds", lambda run, event: event.poll or honest(run, event))
    return Variant()


def an_old_copys_dead_letter_fails_a_running_run(patch: pytest.MonkeyPatch) -> Variant:
    def fails(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
        return Step(lifecycle._end(run, now, lifecycle.F, lifecycle.DEAD_LETTERED))

    _cell(patch, Event.DEAD_LETTER, lifecycle.R, fails)
    return Variant()


def an_older_start_before_the_retry_is_due(patch: pytest.MonkeyPatch) -> Variant:
    def starts(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
        return lifecycle._begin(run, event, policy, now) if event.older else Step({}, 409, "notDue")

    _cell(patch, Event.START, lifecycle.T, starts)
    return Variant()


def a_gateway_that_leaves_queued_ones(patch: pytest.MonkeyPatch) -> Variant:
    _cell(patch, Event.HOLD, lifecycle.Q, None)
    return Variant()


def a_start_beside_others(patch: pytest.MonkeyPatch) -> Variant:
    patch.setattr(lifecycle, "_wait", lifecycle._begin)
    return Variant()


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (finish_without_fencing, "of a fenced attempt was accepted"),
        (repair_removed, "never end"),
        (queued_written_after_the_confirm, "an end was changed|never end|while another was alive"),
        (a_redelivery_takes_over, "while another was alive"),
        (a_poll_without_attempt_and_worker, "renewed by somebody"),
        (an_old_copys_dead_letter_fails_a_running_run, "a dead letter ended an attempt"),
        (an_older_start_before_the_retry_is_due, "before it was due|behind a shut gateway|began beside another"),
        (a_gateway_that_leaves_queued_ones, "behind a shut gateway"),
        (a_start_beside_others, "began beside another"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_model_notices(broken: Break, noticed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = broken(monkeypatch)
    violations = (violation for seed in range(LIVES) if (violation := _violation(variant, seed)) is not None)
    found = next(violations, None)
    assert found is not None, f"{LIVES} random lives, and the model noticed nothing"
    assert re.search(noticed, found)


def test_nothing_is_noticed_where_nothing_is_broken() -> None:
    for seed in range(300):
        live(Variant(), seed)
