"""What becomes of ticks: world → records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from maestro.resources.schedule import ScheduleSpec
from maestro.runs.model import RunState
from maestro.runs.ticks import Account, Outcome, TickView
from maestro.schedule.cron import Tick
from maestro.schedule.plan import CHUNK, Observed, Plan, Target, due_at, plan, timetable_hash

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
RUN = UUID(int=7)


def _at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def _spec(**spec: Any) -> ScheduleSpec:
    return ScheduleSpec.model_validate({"automation": "orders", "schedule": "* * * * *", **spec})


def _view(minutes: float, outcome: Outcome, reason: str | None = None, mark: str = "") -> TickView:
    started = outcome is Outcome.STARTED
    state = RunState.RUNNING if started else None
    run = RUN if started else None
    return TickView(_at(minutes), mark, outcome, reason, run, True, None, 0.0, _at(minutes), None, None, state)


def _plan(
    spec: ScheduleSpec,
    *,
    now: float,
    due: Sequence[float | Tick] = (),
    waiting: Sequence[TickView] = (),
    running: bool = False,
    target: Target | None = Target(),  # noqa: B008 - immutable
    blocked: bool = False,
    more: bool = False,
) -> Plan:
    active = (_view(-1, Outcome.STARTED),) if running else ()
    account = Account("uid", NOON, "t", waiting=tuple(waiting), running=active)
    ticks = [tick if isinstance(tick, Tick) else Tick(_at(tick)) for tick in due]
    return plan(spec, "uid", Observed(account, target, blocked, ticks, more), _at(now))


def _words(made: Plan) -> list[tuple[float, str]]:
    return [
        ((v.at - NOON).total_seconds() / 60, "/".join(filter(None, (v.outcome.word, v.reason)))) for v in made.verdicts
    ]


ALL = {"missed": {"onOutage": "All", "onResume": "All", "onBlocked": "All", "maxRuns": 3}}
NONE = {"missed": {"onOutage": "None", "onResume": "None", "onBlocked": "None"}}
LATEST = {"missed": {"onOutage": "Latest", "onResume": "Latest", "onBlocked": "Latest"}}

ROWS: list[tuple[str, dict[str, Any], dict[str, Any], list[tuple[float, str]]]] = [
    ("nothing is due: nothing is done", {}, {"now": 0.5}, []),
    ("a tick on time", {}, {"now": 1.01, "due": [1]}, [(1, "Started")]),
    ("left out by the timetable", {}, {"now": 1, "due": [Tick(_at(1), "Excluded")]}, [(1, "Skipped/Excluded")]),
    ("no Automation", {}, {"now": 1, "due": [1], "target": None}, [(1, "Skipped/AutomationNotFound")]),
    ("suspended Automation", {}, {"now": 1, "due": [1], "target": Target(True)}, [(1, "Skipped/AutomationSuspended")]),
    ("Forbid", {}, {"now": 1, "due": [1], "running": True}, [(1, "Skipped/Concurrency")]),
    ("Allow", {"concurrencyPolicy": "Allow"}, {"now": 1, "due": [1], "running": True}, [(1, "Started")]),
    (
        "Replace waits for the earlier one",
        {"concurrencyPolicy": "Replace"},
        {"now": 1, "due": [1], "running": True},
        [(1, "Waiting/Concurrency")],
    ),
    (
        "Replace: the next tick takes the place of the one that waits",
        {"concurrencyPolicy": "Replace"},
        {"now": 2, "due": [2], "running": True, "waiting": [_view(1, Outcome.WAITING, "Concurrency")]},
        [(1, "Skipped/Concurrency"), (2, "Waiting/Concurrency")],
    ),
    (
        "Replace: it starts when the earlier one has ended",
        {"concurrencyPolicy": "Replace"},
        {"now": 1.5, "waiting": [_view(1, Outcome.WAITING, "Concurrency")]},
        [(1, "Started")],
    ),
    ("deadline kept", {"startingDeadlineSeconds": 30}, {"now": 1.4, "due": [1]}, [(1, "Started")]),
    ("deadline missed", {"startingDeadlineSeconds": 30}, {"now": 1.6, "due": [1]}, [(1, "Missed/Deadline")]),
    ("down, None", NONE, {"now": 4.5, "due": [1, 2, 3]}, [(n, "Missed/Outage") for n in (1, 2, 3)]),
    (
        "down, None: what is on time runs",
        NONE,
        {"now": 3.5, "due": [1, 2, 3]},
        [(1, "Missed/Outage"), (2, "Missed/Outage"), (3, "Started")],
    ),
    (
        "down, Latest",
        LATEST,
        {"now": 9, "due": [1, 2, 3]},
        [(1, "Missed/Outage"), (2, "Missed/Outage"), (3, "Started")],
    ),
    (
        "down, Latest: the latest that isn't left out",
        LATEST,
        {"now": 9, "due": [1, 2, Tick(_at(3), "Gap")]},
        [(1, "Missed/Outage"), (2, "Started"), (3, "Skipped/Gap")],
    ),
    (
        "down, All, one at a time",
        ALL,
        {"now": 9, "due": [1, 2, 3, 4]},
        [(1, "Skipped/MaxRuns"), (2, "Started"), (3, "Waiting/Outage"), (4, "Waiting/Outage")],
    ),
    (
        "down, All, side by side",
        {**ALL, "concurrencyPolicy": "Allow"},
        {"now": 9, "due": [1, 2, 3, 4]},
        [(1, "Skipped/MaxRuns"), (2, "Started"), (3, "Started"), (4, "Started")],
    ),
    (
        "the next of those that wait their turn",
        ALL,
        {"now": 9, "waiting": [_view(3, Outcome.WAITING, "Outage"), _view(4, Outcome.WAITING, "Outage")]},
        [(3, "Started")],
    ),
    ("suspended, None", NONE | {"suspend": True}, {"now": 1, "due": [1]}, [(1, "Skipped/Suspended")]),
    ("suspended, Latest", LATEST | {"suspend": True}, {"now": 1, "due": [1]}, [(1, "Waiting/Suspended")]),
    (
        "suspended, Latest: only the latest waits",
        LATEST | {"suspend": True},
        {"now": 2, "due": [2], "waiting": [_view(1, Outcome.WAITING, "Suspended")]},
        [(1, "Skipped/Suspended"), (2, "Waiting/Suspended")],
    ),
    (
        "suspended, All: at most maxRuns wait",
        ALL | {"suspend": True},
        {"now": 4, "due": [4], "waiting": [_view(n, Outcome.WAITING, "Suspended") for n in (1, 2, 3)]},
        [(1, "Skipped/MaxRuns"), (4, "Waiting/Suspended")],
    ),
    (
        "resumed: what waited starts",
        LATEST,
        {"now": 9, "waiting": [_view(3, Outcome.WAITING, "Suspended")]},
        [(3, "Started")],
    ),
    (
        "resumed, and the policy is another by now",
        NONE,
        {"now": 9, "waiting": [_view(3, Outcome.WAITING, "Suspended")]},
        [(3, "Skipped/Suspended")],
    ),
    (
        "resumed while the gateway is shut: it waits on",
        LATEST,
        {"now": 9, "blocked": True, "waiting": [_view(3, Outcome.WAITING, "Suspended")]},
        [],
    ),
    ("gateway, None", NONE, {"now": 1, "due": [1], "blocked": True}, [(1, "Skipped/Gateway")]),
    ("gateway, Latest", LATEST, {"now": 1, "due": [1], "blocked": True}, [(1, "Waiting/Gateway")]),
    (
        "the gateway opens too late for the deadline",
        LATEST | {"startingDeadlineSeconds": 60},
        {"now": 9, "waiting": [_view(1, Outcome.WAITING, "Gateway")]},
        [(1, "Missed/Deadline")],
    ),
    (
        "the gateway opens",
        ALL | {"concurrencyPolicy": "Allow"},
        {"now": 9, "due": [9], "waiting": [_view(1, Outcome.WAITING, "Gateway"), _view(2, Outcome.WAITING, "Gateway")]},
        [(1, "Started"), (2, "Started"), (9, "Started")],
    ),
    (
        "asked for now, whatever is going on",
        {"suspend": True},
        {"now": 1, "running": True, "waiting": [_view(0.5, Outcome.WAITING, "RunNow", "-n1")]},
        [(0.5, "Started")],
    ),
    (
        "a backfill goes one at a time and has no deadline",
        {"startingDeadlineSeconds": 1},
        {"now": 9000, "waiting": [_view(n, Outcome.WAITING, "Backfill", "-b1") for n in (1, 2)]},
        [(1, "Started")],
    ),
]


@pytest.mark.parametrize(("spec", "world", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_becomes_of_ticks(spec: dict[str, Any], world: dict[str, Any], expected: list[tuple[float, str]]) -> None:
    made = _plan(_spec(**spec), **world)
    assert _words(made) == expected
    due = [tick if isinstance(tick, Tick) else Tick(_at(tick)) for tick in world.get("due", [])]
    assert made.cursor == (due[-1].at if due else None)


def test_replace_asks_the_earlier_run_to_stop() -> None:
    made = _plan(_spec(concurrencyPolicy="Replace"), now=1, due=[1], running=True)
    assert made.cancel == [RUN]
    assert _plan(_spec(), now=1, due=[1], running=True).cancel == []


@pytest.mark.parametrize(
    ("spec", "word"), [(LATEST, "Missed/Outage"), (ALL, "Skipped/MaxRuns"), (NONE, "Missed/Outage")]
)
def test_a_long_outage_is_treated_in_pieces(spec: dict[str, Any], word: str) -> None:
    made = _plan(_spec(**spec), now=1e6, due=list(range(1, CHUNK + 4)), more=True)
    assert [found for _, found in _words(made)] == [word] * CHUNK
    assert made.cursor == _at(CHUNK)


def test_jitter_is_always_the_same_and_within_its_bounds() -> None:
    spec = _spec(jitter="10m")
    moments = {due_at(spec, "uid", _at(n)) - _at(n) for n in range(100)}
    assert len(moments) == 100
    assert all(timedelta() <= late < timedelta(minutes=10) for late in moments)
    assert due_at(spec, "uid", NOON) == due_at(spec, "uid", NOON) != due_at(spec, "other", NOON)
    assert due_at(_spec(), "uid", NOON) == NOON


def test_what_makes_another_timetable() -> None:
    same = _spec(suspend=True, parameters={"a": 1}, missed={"onOutage": "All"})
    assert timetable_hash(_spec()) == timetable_hash(same)
    others = [_spec(timeZone="Europe/Lisbon"), _spec(schedule="0 * * * *"), _spec(dst={"gap": "Skip"})]
    assert len({timetable_hash(spec) for spec in [_spec(), *others]}) == 4
