"""The status of a Reprocessing, made of what the store and the gateway say. No I/O; `now` is handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from maestro.reprocessing.steps import approves, locks
from maestro.resources.conditions import READY, Condition, Settlement, find_condition, set_condition, settle
from maestro.resources.names import ANNOTATION_VIA
from maestro.resources.reprocessing import (
    Approval,
    HistoryEntry,
    Phase,
    Plan,
    PlannedRun,
    Progress,
    Reprocessing,
    ReprocessingStatus,
)
from maestro.runs.gateway import block_of
from maestro.runs.model import from_micros
from maestro.runs.replays import Replay

HISTORY = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen besides the object. `waits_for` is a sentence about what holds it up now, or empty."""

    replay: Replay | None
    first: list[PlannedRun] | None = None
    """The plan's first Runs, where they were just looked at; None: as the status has them."""
    reason: str = ""
    waits_for: str = ""
    per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """An Event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    phase: Phase | None
    settlement: Settlement
    reason: str
    message: str


def status_of(obj: Mapping[str, Any], reprocessing: Reprocessing, facts: Facts, now: datetime) -> ReprocessingStatus:
    """The whole status as it should be. `obj` is the object as the API server has it."""
    old, replay = reprocessing.status, facts.replay
    verdict = _verdict(reprocessing, facts)
    plan = _plan(old.plan, replay, facts)
    approval = _approval(reprocessing, replay, verdict.phase)
    draft = ReprocessingStatus(
        observed_generation=reprocessing.metadata.generation,
        phase=verdict.phase,
        plan=plan,
        progress=_progress(replay, facts, now) or old.progress,
        approval=approval,
        history=_history(reprocessing, verdict, now),
        conditions=[],
    )
    blocks = block_of({**obj, "status": draft.dump()})
    shut = blocks is not None and blocks.holds(now)
    return draft.model_copy(update={"conditions": _conditions(reprocessing, replay, verdict, shut, now)})


def failed_to_plan(reprocessing: Reprocessing, reason: str, message: str, now: datetime) -> ReprocessingStatus:
    """The status of one that this version can't do anything with."""
    conditions = settle(
        reprocessing.status.conditions, "Failed", reason, message, reprocessing.metadata.generation, now
    )
    return reprocessing.status.model_copy(
        update={"observed_generation": reprocessing.metadata.generation, "conditions": conditions}
    )


def patch_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch that makes the one of the other; empty where they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            inner = patch_between(there, value)
            if inner:
                patch[key] = inner
        elif there != value:
            patch[key] = value
    return patch


def only_counts(old: ReprocessingStatus, new: ReprocessingStatus) -> bool:
    """Whether nothing differs but how far it is: what may wait a little before it is written."""

    def essence(status: ReprocessingStatus) -> dict[str, Any]:
        told = status.dump()
        told.pop("progress", None)
        for condition in told.get("conditions", ()):
            condition.pop("message", None)
        return told

    return essence(old) == essence(new) and (old.progress is None) == (new.progress is None)


def progress_interval(total: int) -> float:
    """Seconds between two writes of how far it is: one, and more as the plan grows."""
    return min(10.0, max(1.0, total / 100_000))


def transitions(old: ReprocessingStatus, new: ReprocessingStatus) -> list[Note]:
    """Events: each time Ready gets another reason or the phase is another one. Nothing for a state that lasts."""
    before, after = find_condition(old.conditions, READY), find_condition(new.conditions, READY)
    if after is None or (old.phase == new.phase and before is not None and before.reason == after.reason):
        return []
    bad = new.phase in ("Stopped", "Failure") or after.reason in ("StalePlan", "PlanGrown")
    return [Note("Warning" if bad else "Normal", after.reason, after.message)]


def decision_via(reprocessing: Reprocessing) -> str:
    """By which way it was decided: autoApprove, http or kubectl (any client of the API server)."""
    spec = reprocessing.spec
    if spec.auto_approve and spec.decision is None:
        return "autoApprove"
    annotated = reprocessing.metadata.annotations.get(ANNOTATION_VIA) == "http"
    return "http" if annotated or (spec.decided_by or "").startswith("login:") else "kubectl"


def seconds(moment: datetime) -> datetime:
    """In whole seconds, as the API server gives it back."""
    return moment.replace(microsecond=0)


# -- verdicts -------------------------------------------------------------------------------------------------------


def _verdict(reprocessing: Reprocessing, facts: Facts) -> _Verdict:
    replay = facts.replay
    if replay is None:
        return _Verdict(None, "InProgress", "Planning", "the Runs are being selected")
    if replay.ended_at is not None:
        outcome: Any = replay.outcome
        settlement: Settlement = "Failed" if outcome == "Failure" else "Current"
        return _Verdict(outcome, settlement, replay.reason or outcome, replay.message or "")
    if replay.stop_reason is not None:
        advice = (
            "" if "resume" in (replay.stop_message or "") else "; add 1 to spec.resume to go on, or set spec.cancel"
        )
        return _Verdict("Stopped", "Failed", replay.stop_reason, f"{replay.stop_message}{advice}")
    if replay.planned_at is None:
        return _Verdict(None, "InProgress", "Planning", "the Runs are being selected")
    if replay.approved_at is None and not approves(reprocessing, replay):
        return _pending(reprocessing, replay)
    if replay.began_at is None:
        if facts.waits_for:
            return _Verdict("Approved", "Current", "WaitsForItsTurn", facts.waits_for)
        return _Verdict("Approved", "Current", "Approved", f"{_by(reprocessing)}: {replay.total} Runs are run again")
    phase: Phase = "Running" if locks(reprocessing, replay) else "RunningWithoutLock"
    if replay.replaying_at is None:
        waits = facts.waits_for or "Runs that had begun before are waited for"
        return _Verdict(phase, "Current", "Draining", waits)
    return _Verdict(phase, "Current", facts.reason or "Replaying", facts.waits_for or _so_far(replay))


def _by(reprocessing: Reprocessing) -> str:
    if reprocessing.spec.decision is None:
        return "approved ahead by spec.autoApprove"
    return f"approved by {reprocessing.spec.decided_by or 'somebody'}"


def _pending(reprocessing: Reprocessing, replay: Replay) -> _Verdict:
    what = f"{replay.total} Runs" if replay.total != 1 else "1 Run"
    more = f", {replay.predicted} more are expected to join" if replay.predicted else ""
    # A decision that repeats the one before, without another planHash, changes nothing.
    anew = f": patch spec.decision together with spec.planHash, {replay.plan_hash}"
    if replay.began_at is not None:
        message = (
            f"{replay.added} Runs became stale and joined, more than spec.cascade.maxAdditions allows: "
            f"{replay.total - replay.done} Runs are left and await a new approval{anew}"
        )
        return _Verdict("PendingApproval", "Current", "PlanGrown", message)
    if reprocessing.spec.decision is not None:
        message = f"the plan is another one than was approved: {what}{more} await a new approval{anew}"
        return _Verdict("PendingApproval", "Current", "StalePlan", message)
    return _Verdict("PendingApproval", "Current", "AwaitingApproval", f"{what} to run again{more}: approve or skip it")


def _so_far(replay: Replay) -> str:
    failed = f", {replay.failed} failed" if replay.failed else ""
    return f"{replay.done} of {replay.total} Runs are done{failed}"


# -- conditions -----------------------------------------------------------------------------------------------------


def _conditions(
    reprocessing: Reprocessing, replay: Replay | None, verdict: _Verdict, shut: bool, now: datetime
) -> list[Condition]:
    generation = reprocessing.metadata.generation
    result = settle(
        reprocessing.status.conditions, verdict.settlement, verdict.reason, verdict.message, generation, now
    )
    if verdict.phase is None:
        return result
    solution = reprocessing.spec.solution
    approved = _approved(reprocessing, replay, verdict)
    result = set_condition(result, "Approved", *approved, generation, now)
    if shut:
        gateway = ("True", "Blocking", f"the gateway of Solution {solution} is shut: new Runs are held")
    else:
        gateway = ("False", "NotBlocking", f"this Reprocessing doesn't shut the gateway of Solution {solution}")
    result = set_condition(result, "GatewayBlocked", *gateway, generation, now)  # type: ignore[arg-type]
    if verdict.phase == "Finished":
        return set_condition(result, "Complete", "True", verdict.reason, verdict.message, generation, now)
    told = "nothing has run yet" if replay is None or replay.began_at is None else _so_far(replay)
    return set_condition(result, "Complete", "False", verdict.phase, told, generation, now)


def _approved(
    reprocessing: Reprocessing, replay: Replay | None, verdict: _Verdict
) -> tuple[Literal["True", "False"], str, str]:
    spec = reprocessing.spec
    if replay is not None and replay.approved_at is not None:
        return "True", "AutoApproved" if spec.decision is None else "Approved", _by(reprocessing)
    if verdict.phase == "PendingApproval":
        return "False", verdict.reason, verdict.message
    if verdict.phase == "Approved":
        return "True", "Approved", _by(reprocessing)
    return "False", verdict.phase or "Pending", "it was not approved"


# -- the rest -------------------------------------------------------------------------------------------------------


def _plan(old: Plan | None, replay: Replay | None, facts: Facts) -> Plan | None:
    if replay is None or replay.planned_at is None or replay.plan_hash is None:
        return old
    first = facts.first if facts.first is not None else (old.preview if old is not None else None)
    return Plan(hash=replay.plan_hash, total=replay.total, predicted_additions=replay.predicted, preview=first)


def _progress(replay: Replay | None, facts: Facts, now: datetime) -> Progress | None:
    if replay is None or replay.replaying_at is None:
        return None
    rate = facts.per_second
    left = replay.total - replay.done
    runs = replay.ended_at is None and replay.stop_reason is None
    end = seconds(now + timedelta(seconds=left / rate)) if runs and rate and left and left / rate < 1e8 else None
    return Progress(
        total=replay.total,
        done=replay.done,
        succeeded=replay.succeeded,
        failed=replay.failed,
        added=replay.added,
        per_second=round(rate, 2) if runs and rate is not None else None,
        estimated_end=end,
    )


def _approval(reprocessing: Reprocessing, replay: Replay | None, phase: Phase | None) -> Approval | None:
    spec = reprocessing.spec
    if replay is None:
        return None
    if phase == "Skipped" and replay.ended_at is not None:
        at = seconds(from_micros(replay.ended_at))
        return Approval(decision="Skipped", by=spec.decided_by, at=at, via=decision_via(reprocessing))
    if replay.approved_at is None:
        # Of one that has begun the last approval stays, which `maxBlock` counts from.
        return reprocessing.status.approval if replay.began_at is not None else None
    by = spec.decided_by if spec.decision is not None else spec.requested_by
    at = seconds(from_micros(replay.approved_at))
    return Approval(decision="Approved", by=by, at=at, via=decision_via(reprocessing))


def _history(reprocessing: Reprocessing, verdict: _Verdict, now: datetime) -> list[HistoryEntry] | None:
    history = reprocessing.status.history or []
    if verdict.phase is None or verdict.phase == reprocessing.status.phase:
        return history or None
    decided = verdict.phase in ("Approved", "Skipped") or (
        # Where nothing else has the Solution's turn, the phase Approved is passed unseen.
        verdict.phase in ("Running", "RunningWithoutLock") and reprocessing.status.phase == "PendingApproval"
    )
    user = reprocessing.spec.decided_by if decided else None
    return [*history, HistoryEntry(phase=verdict.phase, user=user, time=seconds(now))][-HISTORY:]
