"""A Schedule's status, from its account in the ledger and what is known of its timetable. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from maestro.resources import Condition, Schedule
from maestro.resources.conditions import (
    READY,
    RECONCILING,
    STALLED,
    ConditionStatus,
    Settlement,
    find_condition,
    set_condition,
    settle,
)
from maestro.runs.ticks import Account, TickView
from maestro.schedule.armed import Problem
from maestro.schedule.plan import rules_of

_NOT_ITS_OWN = ("Suspended", "Excluded", "Gap")
"""Ticks that were left out for these reasons say nothing about lateness."""
_MOST_ACTIVE = 100


@dataclass(frozen=True, slots=True)
class Note:
    """An Event about the Schedule."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the status speaks of.

    Attributes
    ----------
    problem
        Why it isn't armed; None: it is.
    next
        The next tick; None: there is none.
    blocked, automation_suspended
        What keeps ticks from starting.
    """

    account: Account | None
    problem: Problem | None = None
    next: datetime | None = None
    blocked: bool = False
    automation_suspended: bool = False


def build_status(schedule: Schedule, facts: Facts, now: datetime) -> tuple[Mapping[str, Any] | None, tuple[Note, ...]]:
    """The status to write (None: what is there is right), and what to tell about it."""
    conditions = _conditions(schedule, facts, now)
    wanted: dict[str, Any] = {
        "observedGeneration": schedule.metadata.generation,
        "conditions": [condition.dump() for condition in conditions],
        "schedule": "; ".join(rules_of(schedule.spec)),
        "nextScheduleTime": _time(facts.next) if facts.problem is None and not schedule.spec.suspend else None,
    }
    if facts.account is not None:
        wanted |= _accounted(schedule, facts.account)
    before = schedule.status.dump()
    if all(_same(before.get(key), value) for key, value in wanted.items()):
        return None, ()
    return wanted, _transitions(schedule.status.conditions, conditions)


def _accounted(schedule: Schedule, account: Account) -> dict[str, Any]:
    return {
        "lastScheduleTime": _time(account.last_tick),
        "lastSuccessfulTime": _time(account.last_success_at),
        "active": [_reference(schedule, tick) for tick in account.running[:_MOST_ACTIVE]],
        "ticks": {"started": account.started, "skipped": account.skipped, "missed": account.missed},
        "recentTicks": [_recent(tick) for tick in account.recent],
    }


def _reference(schedule: Schedule, tick: TickView) -> dict[str, Any]:
    if tick.job is None:
        return {"kind": "Run", "name": str(tick.run)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": f"{tick.job}-{max(tick.attempt, 1)}",
        "namespace": schedule.metadata.namespace,
    }


def _recent(tick: TickView) -> dict[str, Any]:
    found = {"time": _time(tick.at), "outcome": tick.outcome.word, "reason": tick.reason}
    found["run"] = str(tick.run) if tick.run is not None else None
    return {key: value for key, value in found.items() if value is not None}


# --- conditions ------------------------------------------------------------------------------------------------------


def _conditions(schedule: Schedule, facts: Facts, now: datetime) -> list[Condition]:
    generation = schedule.metadata.generation
    settlement, reason, message = _ready(schedule, facts)
    found = settle(list(schedule.status.conditions), settlement, reason, message, generation, now)
    for type_, (status, why, text) in (
        ("LastRunSucceeded", _last_run(facts.account)),
        ("Late", _late(schedule, facts.account)),
    ):
        found = set_condition(found, type_, status, why, text, generation, now)
    return found


def _ready(schedule: Schedule, facts: Facts) -> tuple[Settlement, str, str]:
    if facts.problem is not None:
        return "InProgress" if facts.problem.waits else "Failed", facts.problem.reason, facts.problem.message
    spec = schedule.spec
    if spec.suspend:
        return "Current", "Suspended", f"spec.suspend is set; missed.onResume is {spec.missed.on_resume}"
    if facts.blocked:
        text = "the Solution's gateway is shut by a Reprocessing"
        return "Current", "GatewayBlocked", f"{text}; missed.onBlocked is {spec.missed.on_blocked}"
    if facts.automation_suspended:
        return "Current", "AutomationSuspended", f"Automation {spec.automation} is suspended: ticks are skipped"
    if facts.next is None:
        return "Current", "Ended", "no tick is left: spec.endAt has passed, or lies before the next one"
    return "Current", READY, f"armed; ticks follow {spec.time_zone}"


def _last_run(account: Account | None) -> tuple[ConditionStatus, str, str]:
    end = account.last_end if account is not None else None
    if end is None:
        return "Unknown", "NoRunYet", "no Run of this Schedule has ended yet"
    return ("True" if end == "Succeeded" else "False"), end, f"the Run that ended last: {end}"


def _late(schedule: Schedule, account: Account | None) -> tuple[ConditionStatus, str, str]:
    """Late: a whole interval has passed without a success; the newest tick itself still has its time."""
    if account is None or schedule.spec.suspend:
        return "False", "OnTime" if account is None else "Suspended", ""
    own = [tick for tick in account.recent if not tick.mark and tick.reason not in _NOT_ITS_OWN]
    before = own[1].at if len(own) > 1 else None
    if before is None or (account.last_success_at is not None and account.last_success_at >= before):
        return "False", "OnTime", ""
    since = _time(account.last_success_at) or "never"
    return "True", "NoRecentSuccess", f"last success: {since}; nothing has succeeded since the tick of {_time(before)}"


def _transitions(before: list[Condition], after: list[Condition]) -> tuple[Note, ...]:
    """Events: Ready with another reason, and Late and LastRunSucceeded where they turn."""
    notes = []
    old, new = find_condition(before, READY), find_condition(after, READY)
    assert new is not None
    if old is None or (old.status, old.reason) != (new.status, new.reason):
        bad = find_condition(after, STALLED) is not None or find_condition(after, RECONCILING) is not None
        notes.append(Note("Warning" if bad else "Normal", new.reason, new.message))
    notes += _turned(before, after, "Late", bad="True")
    notes += _turned(before, after, "LastRunSucceeded", bad="False")
    return tuple(notes)


def _turned(before: list[Condition], after: list[Condition], type_: str, *, bad: str) -> list[Note]:
    old, new = find_condition(before, type_), find_condition(after, type_)
    assert new is not None
    was_bad, is_bad = old is not None and old.status == bad, new.status == bad
    if was_bad == is_bad:
        return []
    words = {"Late": ("Late", "OnTime"), "LastRunSucceeded": ("RunFailed", "RunSucceeded")}[type_]
    return [Note("Warning" if is_bad else "Normal", words[0] if is_bad else words[1], new.message or "again as it was")]


def _time(moment: datetime | None) -> str | None:
    """As the model writes it back: whole seconds, so that what is read equals what was written."""
    return moment.replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else None


def _same(there: Any, wanted: Any) -> bool:
    return there == wanted or (not there and not wanted and not isinstance(wanted, int))
