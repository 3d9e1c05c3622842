"""An Automation's status, from the verdicts of the plan and from what was counted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from maestro.automation.world import Note, Observed
from maestro.resources import Automation, Condition, names
from maestro.resources.conditions import (
    READY,
    ConditionStatus,
    Settlement,
    find_condition,
    remove_condition,
    set_condition,
    settle,
)

Object = Mapping[str, Any]

OUTAGE_PATIENCE = 60.0
"""Seconds for which an outage of broker or store isn't worth a write to every Automation."""
COUNTERS_EVERY = 30.0
"""Seconds between two writes of nothing but counters."""

STORE_RESTORED = "StoreRestored"
_UNAVAILABLE = {"BrokerUnavailable", "StoreUnavailable"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said about one aspect; `stalled`: nothing changes until somebody changes something."""

    status: ConditionStatus
    reason: str
    message: str
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the plan found: the schema's problem, the queue, the workers."""

    schema: str | None
    queue: Verdict
    workers: Verdict


@dataclass(frozen=True, slots=True)
class Made:
    """The status to write (None: what is there is right), whether counters are in it, and what to tell about it."""

    status: Mapping[str, Any] | None
    counters: bool
    events: tuple[Note, ...]
    requeue_after: float | None


def build_status(
    automation: Automation, seen: Observed, verdicts: Verdicts, now: datetime, *, handled_unpause: str | None
) -> Made:
    """Make the status, and find out whether it is worth writing.

    A condition or a number of pods that changed is written at once; counters alone at most every 30 s.
    """
    store, again = _store_verdict(automation, seen, now)
    conditions = _conditions(automation, seen, verdicts, store, now)
    steady = _steady(automation, seen, conditions, handled_unpause)
    counters = _counters(automation, seen)
    before = automation.status.dump()
    changed = _part(before, steady) != steady
    counted = _merged_part(before, counters) != counters
    events = _transitions(automation.status.conditions, conditions)
    if not changed and counted and seen.counters_at is not None:
        due = seen.counters_at + timedelta(seconds=COUNTERS_EVERY)
        if now < due:
            wait = (due - now).total_seconds()
            return Made(None, False, events, min(wait, again) if again is not None else wait)
    if not changed and not counted:
        return Made(None, False, events, again)
    return Made(_joined(steady, counters), counted, (*events, *_letters(automation, counters)), again)


# --- conditions ------------------------------------------------------------------------------------------------------


def _conditions(
    automation: Automation, seen: Observed, verdicts: Verdicts, store: Verdict | None, now: datetime
) -> list[Condition]:
    generation = automation.metadata.generation
    conditions: list[Condition] = list(automation.status.conditions)
    settlement, ready = _ready(automation, seen, verdicts, store)
    conditions = settle(conditions, settlement, ready.reason, ready.message, generation, now)
    aspects = {
        "QueueReady": verdicts.queue,
        "WorkersReady": verdicts.workers,
        "GatewayBlocked": _gateway(automation, seen),
        "Paused": _paused(automation, seen),
    }
    for type_, verdict in aspects.items():
        conditions = set_condition(conditions, type_, verdict.status, verdict.reason, verdict.message, generation, now)
    return _restored(automation, seen, conditions, now)


def _ready(
    automation: Automation, seen: Observed, verdicts: Verdicts, store: Verdict | None
) -> tuple[Settlement, Verdict]:
    schema = verdicts.schema and Verdict(
        "False", "InvalidParameterSchema", f"spec.parameterSchema can't be used: {verdicts.schema}", stalled=True
    )
    found = [verdict for verdict in (schema, verdicts.queue, verdicts.workers) if verdict]
    for verdict in found:
        if verdict.stalled:
            return "Failed", verdict
    for problem in (store, *found):
        if problem is not None and problem.status != "True":
            return "InProgress", problem
    for verdict in (_gateway(automation, seen), _paused(automation, seen)):
        if verdict.status == "True" and not automation.spec.suspend:
            return "Current", Verdict("True", _READY_REASON[verdict.reason], verdict.message)
    if automation.spec.suspend:
        return "Current", Verdict("True", "Suspended", "spec.suspend is set: Runs are accepted and wait")
    workers = verdicts.workers
    if workers.reason == "ScaledToZero":
        return "Current", Verdict("True", "ScaledToZero", "no worker is wanted: Runs are accepted and wait")
    return "Current", Verdict("True", READY, "; ".join(filter(None, (verdicts.queue.message, workers.message))))


_READY_REASON = {"Reprocessing": "GatewayBlocked", "TooManyFailures": "Paused"}


def _gateway(automation: Automation, seen: Observed) -> Verdict:
    if seen.blocked_by is None:
        return Verdict("False", "Open", f"nothing blocks Solution {automation.solution}")
    text = f"Reprocessing {seen.blocked_by} blocks Solution {automation.solution}: new Runs are held"
    return Verdict("True", "Reprocessing", text)


def _paused(automation: Automation, seen: Observed) -> Verdict:
    summary = seen.store.summary
    if summary is None:
        before = find_condition(automation.status.conditions, "Paused")
        return Verdict(before.status, before.reason, before.message) if before else Verdict("False", "NotPaused", "")
    if not summary.counts.paused:
        return Verdict("False", "NotPaused", "")
    limit = automation.spec.run.pause_after_failures
    return Verdict(
        "True",
        "TooManyFailures",
        f"{limit} Runs in a row failed technically: nothing is dispatched until the worker changes or the "
        f"annotation {names.ANNOTATION_UNPAUSE} gets another value",
    )


def _restored(automation: Automation, seen: Observed, conditions: list[Condition], now: datetime) -> list[Condition]:
    """`StoreRestored` is there only while it holds: where it never happened nobody must wonder what it is."""
    summary = seen.store.summary
    if summary is None:
        return conditions
    if not summary.counts.unknown:
        return remove_condition(conditions, STORE_RESTORED)
    text = (
        "the run store was restored from a backup, and Runs that workers speak of aren't in it: "
        f"{summary.counts.unknown}. GET /api/v1/unknown-runs lists them; accept each again, or discard it"
    )
    generation = automation.metadata.generation
    return set_condition(conditions, STORE_RESTORED, "True", "UnknownRuns", text, generation, now)


def _store_verdict(automation: Automation, seen: Observed, now: datetime) -> tuple[Verdict | None, float | None]:
    """What the store's outage is worth saying, and when to look again."""
    store = seen.store
    if store.down_since is None:
        return None, None
    ready = find_condition(automation.status.conditions, READY)
    patience = store.down_since + timedelta(seconds=OUTAGE_PATIENCE)
    if ready is not None and ready.reason != "StoreUnavailable" and now < patience:
        return None, (patience - now).total_seconds()
    return Verdict("False", "StoreUnavailable", f"the run store doesn't work: {store.problem}"), None


def _transitions(before: list[Condition], after: list[Condition]) -> tuple[Note, ...]:
    """Events: Ready with another reason, the gateway or a pause with another status. Nothing for a state that lasts."""
    notes = []
    old, new = find_condition(before, READY), find_condition(after, READY)
    assert new is not None
    if old is None or (old.status, old.reason) != (new.status, new.reason):
        stalled = find_condition(after, "Stalled") is not None
        bad = new.status != "True" and (stalled or new.reason in _UNAVAILABLE)
        notes.append(Note("Warning" if bad else "Normal", new.reason, new.message))
    for type_, on, off in (("GatewayBlocked", "GatewayBlocked", "GatewayOpen"), ("Paused", "Paused", "Unpaused")):
        old, new = find_condition(before, type_), find_condition(after, type_)
        assert new is not None
        was = old.status if old is not None else "False"
        reason = on if new.status == "True" else off
        if was != new.status and reason not in {note.reason for note in notes}:
            level: Literal["Normal", "Warning"] = "Warning" if reason == "Paused" else "Normal"
            notes.append(Note(level, reason, new.message or "Runs are dispatched again"))
    restored = find_condition(after, STORE_RESTORED)
    if restored is not None and find_condition(before, STORE_RESTORED) is None:
        notes.append(Note("Warning", STORE_RESTORED, restored.message))
    return tuple(notes)


def _letters(automation: Automation, counters: Object) -> tuple[Note, ...]:
    """An event when the first dead letter waits, and when the last is gone; with the counters, so told once."""
    runs = automation.status.runs
    before, now = (runs.dead_lettered if runs is not None else None) or 0, counters.get("runs", {}).get("deadLettered")
    if now is None or bool(before) == bool(now):
        return ()
    if not now:
        return (Note("Normal", "NoDeadLetters", "no dead letter waits any more"),)
    where = f"/api/v1/dead-letters?automation={automation.id}"
    what = "1 message was given up by its queue" if now == 1 else f"{now} messages were given up by their queue"
    return (Note("Warning", "DeadLettered", f"{what}; look at them, redrive or discard them: {where}"),)


# --- the rest of the status ------------------------------------------------------------------------------------------


def _steady(
    automation: Automation, seen: Observed, conditions: list[Condition], handled_unpause: str | None
) -> dict[str, Any]:
    """What is written as soon as it changes; None: not there."""
    spec, live = automation.spec, seen.deployment
    status: dict[str, Any] = {
        "observedGeneration": automation.metadata.generation,
        "conditions": [condition.dump() for condition in conditions],
        "solution": automation.solution,
        "replicas": None,
        "readyReplicas": None,
        "selector": None,
        "lastHandledUnpause": handled_unpause,
    }
    if spec.launch == "Queue" and spec.worker.image is not None and live is not None:
        pods = live.get("status") or {}
        selector = names.selector_labels(automation.metadata.name)
        status |= {
            "replicas": int(pods.get("replicas") or 0),
            "readyReplicas": int(pods.get("readyReplicas") or 0),
            "selector": ",".join(f"{key}={value}" for key, value in selector.items()),
        }
    return status


def _counters(automation: Automation, seen: Observed) -> dict[str, Any]:
    """What is written at most every 30 s. What isn't known now keeps its last value."""
    counters: dict[str, Any] = {}
    name = automation.queue_name
    if name is not None:
        queue: dict[str, Any] = {"name": name}
        there = seen.broker.state.queues.get(name) if seen.broker.state is not None else None
        if there is not None and seen.broker.down_since is None and seen.taken_by is None:
            queue["consumers"] = there.consumers
            if there.messages is not None:
                queue["messages"] = there.messages
        counters["queue"] = queue
    summary = seen.store.summary
    if summary is None or seen.store.down_since is not None:
        return counters
    counts = summary.counts
    counters["runs"] = {
        "waiting": counts.waiting - counts.held,
        "held": counts.held,
        "running": counts.running,
        "succeeded24h": counts.succeeded_24h,
        "failed24h": counts.failed_24h,
        "deadLettered": counts.dead_lettered,
    }
    if summary.last_run is not None:
        last = summary.last_run
        counters["lastRun"] = {
            "id": str(last.id),
            "state": str(last.state),
            "startedAt": _time(last.started_at),
            "finishedAt": _time(last.finished_at),
        }
    counters["recentFailures"] = [
        {key: value for key, value in entry.items() if value is not None}
        for entry in (
            {"id": str(failure.id), "reason": failure.reason, "at": _time(failure.at)}
            for failure in summary.recent_failures[:5]
        )
    ]
    return counters


def _time(moment: datetime | None) -> str | None:
    """As the model writes it back: whole seconds, so that what is read equals what was written."""
    return moment.replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else None


def _part(before: Object, wanted: Object) -> dict[str, Any]:
    return {key: before.get(key) for key in wanted}


def _merged_part(before: Object, wanted: Object) -> dict[str, Any]:
    """The same part of what is there, in the shape of what is wanted: an absent field is None, or an empty list."""
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        there = before.get(key)
        if isinstance(value, Mapping):
            found[key] = {inner: (there or {}).get(inner) for inner in value}
        else:
            found[key] = there if there is not None or not isinstance(value, list) else []
    return found


def _joined(steady: Object, counters: Object) -> dict[str, Any]:
    return {**steady, **counters}
