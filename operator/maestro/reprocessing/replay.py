"""The replay itself: each step is one transaction, so that a crash finds a Run either waiting or accepted, never both.

A step notes what has ended, adds what that made stale, and accepts the next Runs in order, as many as may be in flight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maestro.reprocessing.cascade import Templates
from maestro.reprocessing.plan import Digest, plan_hash, replay_parameters
from maestro.reprocessing.staleness import Staleness
from maestro.resources.reprocessing import Reprocessing
from maestro.runs import lifecycle, replays
from maestro.runs.database import Transaction
from maestro.runs.model import NewRun, Registration, from_micros
from maestro.runs.parameters import InvalidParameters, InvalidSchema, ParameterValidator
from maestro.runs.replays import BATCH, FAILED, SUCCEEDED, WAITING, Item, Original, Replay, Replays, Settled

RUN_FAILED = "RunFailed"


@dataclass(frozen=True, slots=True)
class Advance:
    """What one step found and did."""

    replay: Replay
    in_flight: int
    started: int
    settled: int
    waiting: bool

    @property
    def complete(self) -> bool:
        """Everything has ended."""
        return not self.waiting and not self.in_flight


@dataclass(frozen=True, slots=True)
class _Refused:
    """An item whose Run can't be made."""

    item: Item
    reason: str
    message: str


class Stepper:
    """Takes the steps of one replay. What it keeps in memory may be lost."""

    def __init__(
        self, area: Replays, replay: Replay, reprocessing: Reprocessing, templates: Mapping[int, Templates]
    ) -> None:
        self._area = area
        self._store = area.store
        self._uid, self._pk = replay.uid, replay.pk
        self.reprocessing = reprocessing
        self._templates = templates if reprocessing.spec.cascade.enabled else {}
        self._staleness = Staleness(replay.pk, reprocessing.spec, self._templates)
        self._validators: dict[int, tuple[Registration, ParameterValidator | InvalidSchema]] = {}

    async def step(self, *, may_start: bool) -> Advance:
        """One transaction. `may_start`: Runs may be accepted (not suspended, the gateway is seen to be shut)."""
        return await self._area.write(lambda transaction: self._step(transaction, may_start), BATCH)

    def _step(self, transaction: Transaction, may_start: bool) -> Advance:
        self._staleness.begin()
        transaction.after_commit.append(self._staleness.keep)
        before = replays.load(transaction, self._uid)
        assert before is not None, "rows are deleted only with nothing that steps"
        spec = self.reprocessing.spec
        settled = replays.settled(transaction, self._pk)
        now = self._note_ends(transaction, before, settled)
        now = self._add_stale(transaction, now, settled)
        flying = replays.in_flight(transaction, self._pk)
        started = 0
        if may_start and now.stop_reason is None and now.approved_at is not None and now.ended_at is None:
            room = min(spec.parallelism - flying, BATCH)
            if room > 0:
                started, now = self._start(transaction, now, replays.waiting(transaction, self._pk, room))
        if now != before:
            replays.change(transaction, self._pk, **_differing(before, now))
        return Advance(now, flying + started, started, len(settled), replays.is_waiting(transaction, self._pk))

    # -- what has ended

    def _note_ends(self, transaction: Transaction, replay: Replay, settled: Sequence[Settled]) -> Replay:
        ends = [(each.item, _end_of(each), each.reason) for each in settled]
        replays.finish(transaction, self._pk, ends)
        failed = [each for each in settled if _end_of(each) == FAILED]
        replay = replace(
            replay,
            succeeded=replay.succeeded + len(settled) - len(failed),
            failed=replay.failed + len(failed),
        )
        if failed:
            first = failed[0]
            message = f"Run {first.new_id}, which replays {first.item.run_id}, ended as {_word(first)}"
            return self._stop(replay, message)
        return replay

    def _stop(self, replay: Replay, message: str) -> Replay:
        """What a failure does: with `onFailure: Stop` nothing more is started."""
        if self.reprocessing.spec.on_failure != "Stop" or replay.stop_reason is not None or replay.ended_at is not None:
            return replay
        return replace(
            replay,
            stop_reason=RUN_FAILED,
            stop_message=message,
            stop_resume=self.reprocessing.spec.resume or 0,
        )

    # -- what became stale

    def _add_stale(self, transaction: Transaction, replay: Replay, settled: Sequence[Settled]) -> Replay:
        writers = [
            each
            for each in settled
            if each.state == lifecycle.S and self._templates.get(each.automation or 0, Templates()).writes
        ]
        if not writers or replay.ended_at is not None:
            return replay
        known = replays.parameters_of(transaction, [each.item.run_seq for each in writers])
        for each in writers:
            automation, parameters = known.get(each.item.run_seq, (each.automation or 0, "{}"))
            stale = self._staleness.by(transaction, each.item, automation, parameters)
            if stale:
                replays.add_items(transaction, self._pk, stale, added=True)
                replay = self._grown(replay, stale)
        if replay.added > replay.allowed and replay.approved_at is not None:
            # Past what was approved: the larger plan has a hash of its own, and is decided anew.
            replay = replace(replay, approved_at=None)
        return replay

    def _grown(self, replay: Replay, stale: Sequence[Item]) -> Replay:
        digest = Digest.of(replay.total, replay.digest)
        for item in stale:
            digest.add(item.run_id)
        return replace(
            replay,
            total=digest.total,
            digest=digest.text,
            added=replay.added + len(stale),
            plan_hash=plan_hash(self.reprocessing.immutable_fields(), digest),
        )

    # -- what goes next

    def _start(self, transaction: Transaction, replay: Replay, originals: Sequence[Original]) -> tuple[int, Replay]:
        """Accept the next Runs; one that can't be made counts as failed, and with Stop nothing after it goes."""
        runs: list[NewRun] = []
        items: list[Item] = []
        refused: list[_Refused] = []
        for original in originals:
            made = self._new_run(original)
            if isinstance(made, NewRun):
                runs.append(made)
                items.append(original.item)
                continue
            refused.append(made)
            if self.reprocessing.spec.on_failure == "Stop":
                break
        accepted = self._store.admit(transaction, runs)
        replays.start(
            transaction, self._pk, [(item, seq, id_) for item, (seq, id_) in zip(items, accepted, strict=True)]
        )
        if refused:
            ends = [(each.item, FAILED, each.reason) for each in refused]
            replays.finish(transaction, self._pk, ends, was=WAITING)
            replay = self._stop(replace(replay, failed=replay.failed + len(refused)), refused[0].message)
        return len(runs), replay

    def _new_run(self, original: Original) -> NewRun | _Refused:
        item, automation = original.item, original.automation
        if automation is None:
            return _Refused(item, replays.RUN_GONE, f"Run {item.run_id} isn't in the run store any more")
        registration = self._store.registrations().get(automation)
        if registration is None:
            message = f"the Automation of Run {item.run_id} was deleted"
            return _Refused(item, lifecycle.AUTOMATION_DELETED, message)
        try:
            given = replay_parameters(self.reprocessing.spec, json.loads(original.parameters))
            parameters = self._validator(automation, registration).merge_and_check(given)
        except (InvalidParameters, InvalidSchema) as error:
            return _Refused(item, "InvalidParameters", f"Run {item.run_id} of {registration.name}: {error}")
        return NewRun(
            automation=automation,
            parameters=parameters,
            labels=json.loads(original.labels) if original.labels else {},
            reference=original.reference,
            user=original.user,
            schedule=original.schedule,
            tick=None if original.tick is None else from_micros(original.tick),
            replay_of=item.run_id,
            reprocessing=self.reprocessing.metadata.name,
        )

    def _validator(self, automation: int, registration: Registration) -> ParameterValidator:
        known = self._validators.get(automation)
        if known is None or known[0] is not registration:
            known = self._validators[automation] = registration, _compiled(registration)
        if isinstance(known[1], InvalidSchema):
            raise known[1]
        return known[1]


def resumed(replay: Replay, transaction: Transaction) -> dict[str, Any]:
    """Lets a stopped replay go on: what failed waits again. The columns that this changes."""
    columns: dict[str, Any] = {"stop_reason": None, "stop_message": None}
    if replay.stop_reason == RUN_FAILED:
        replays.retry_failed(transaction, replay.pk)
        columns["failed"] = 0
    return columns


def _compiled(registration: Registration) -> ParameterValidator | InvalidSchema:
    try:
        return ParameterValidator(registration.parameter_schema, registration.default_parameters)
    except InvalidSchema as error:
        return error


_CHANGED_BY_A_STEP = (
    *("succeeded", "failed", "added", "total", "digest", "plan_hash", "approved_at"),
    *("stop_reason", "stop_message", "stop_resume"),
)


def _differing(before: Replay, after: Replay) -> dict[str, Any]:
    names = (name for name in _CHANGED_BY_A_STEP if getattr(before, name) != getattr(after, name))
    return {name: getattr(after, name) for name in names}


def _end_of(settled: Settled) -> int:
    return SUCCEEDED if settled.state == lifecycle.S else FAILED


def _word(settled: Settled) -> str:
    word = "Canceled" if settled.state == lifecycle.C else "Failed"
    return f"{word} ({settled.reason})" if settled.reason else word
