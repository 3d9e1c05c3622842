"""What is to be done next about a Reprocessing: an ordered chain of rules. No I/O; `now` is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from maestro.resources.reprocessing import Phase, Reprocessing
from maestro.runs.model import from_micros
from maestro.runs.replays import DRAIN, LESS, LOCK, Replay


@dataclass(frozen=True, slots=True)
class End:
    """It is over."""

    outcome: Phase
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Stop:
    """It stops, and keeps its place and its block until `resume`, `cancel` or `fail`."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Resume:
    """It goes on; `waives` is what it no longer waits for."""

    waives: int


Plain = Literal["Create", "Plan", "AwaitDecision", "Approve", "AwaitResume", "TakeTurn", "Drain", "Replay", "Nothing"]
Step = End | Stop | Resume | Plain

_WAIVES = {"DrainTimeout": DRAIN, "MaxBlock": LOCK, "StoreRestored": LESS}


def next_step(reprocessing: Reprocessing, replay: Replay | None, now: datetime) -> Step:
    """The first rule that applies. `replay` is what the run store knows of it."""
    if replay is None:
        return "Create"
    if replay.ended_at is not None:
        return "Nothing"
    return (
        _ended_by_somebody(reprocessing)
        or _restored(reprocessing, replay)
        or _stopped(reprocessing, replay)
        or _planning(replay)
        or _decision(reprocessing, replay)
        or _past_max_block(reprocessing, replay, now)
        or ("TakeTurn" if replay.began_at is None else None)
        or ("Replay" if replay.replaying_at is not None else "Drain")
    )


def locks(reprocessing: Reprocessing, replay: Replay | None) -> bool:
    """Whether it runs with the gateway shut."""
    return reprocessing.spec.block and not (replay is not None and replay.waived & LOCK)


def approves(reprocessing: Reprocessing, replay: Replay) -> bool:
    """Whether the plan, as the store has it, may run: decided so for this very plan, or approved ahead."""
    spec = reprocessing.spec
    if spec.auto_approve and replay.began_at is None:
        return True
    return spec.decision == "Approved" and spec.plan_hash is not None and spec.plan_hash == replay.plan_hash


def gateway_opens_at(reprocessing: Reprocessing, replay: Replay) -> datetime | None:
    """When `maxBlock` opens the gateway; None: it has none, or nothing was approved yet."""
    if reprocessing.spec.max_block is None or replay.approved_at is None:
        return None
    # As the status has it, which the gateway goes by: in whole seconds.
    approved_at = from_micros(replay.approved_at).replace(microsecond=0)
    return approved_at + timedelta(seconds=reprocessing.spec.max_block.seconds)


def _ended_by_somebody(reprocessing: Reprocessing) -> Step | None:
    spec = reprocessing.spec
    if spec.cancel:
        return End("Canceled", "Canceled", "spec.cancel was set; what is done is kept")
    if spec.fail:
        return End("Failure", "Failed", "spec.fail was set; what is done is kept")
    if spec.decision == "Skipped":
        why = f": {spec.decision_reason}" if spec.decision_reason else ""
        return End("Skipped", "Skipped", f"skipped by {spec.decided_by or 'somebody'}{why}")
    return None


def _restored(reprocessing: Reprocessing, replay: Replay) -> Step | None:
    """The status tells of more than the store knows: it is an older one, and would replay what was replayed."""
    told = reprocessing.status.progress
    if told is None or replay.waived & LESS or replay.stop_reason is not None:
        return None
    continues = reprocessing.spec.on_failure == "Continue"
    known, shown = (replay.done, told.done or 0) if continues else (replay.succeeded, told.succeeded or 0)
    if replay.began_at is not None and known >= shown:
        return None
    return Stop(
        "StoreRestored",
        f"the status tells of {shown} Runs that were replayed, the run store only of {known}: it was restored. "
        "resume goes on from what the store knows, and runs the others once more",
    )


def _stopped(reprocessing: Reprocessing, replay: Replay) -> Step | None:
    if replay.stop_reason is None:
        return None
    if (reprocessing.spec.resume or 0) > (replay.stop_resume or 0):
        return Resume(_WAIVES.get(replay.stop_reason, 0))
    return "AwaitResume"


def _planning(replay: Replay) -> Step | None:
    if replay.planned_at is None:
        return "Plan"
    if replay.total == 0 and replay.began_at is None:
        return End("Finished", "NothingToDo", "no Run matches the selection")
    return None


def _decision(reprocessing: Reprocessing, replay: Replay) -> Step | None:
    if replay.approved_at is not None:
        return None
    return "Approve" if approves(reprocessing, replay) else "AwaitDecision"


def _past_max_block(reprocessing: Reprocessing, replay: Replay, now: datetime) -> Step | None:
    opens_at = gateway_opens_at(reprocessing, replay)
    if not locks(reprocessing, replay) or opens_at is None or now < opens_at:
        return None
    return Stop(
        "MaxBlock",
        f"the gateway has been shut for {reprocessing.spec.max_block} and is open again; "
        "resume goes on without it, cancel ends it",
    )
