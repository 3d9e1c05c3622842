"""One Reprocessing at a time: look, take the next step, and write one status where something changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from pydantic import ValidationError

from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.client import KubeClient
from maestro.kube.errors import Conflict, KubeError, NotFound
from maestro.kube.kinds import REPROCESSING, ObjectKey
from maestro.reprocessing import planner
from maestro.reprocessing.plan import Digest, InvalidPlan, plan_hash, preview, spec_hash
from maestro.reprocessing.planner import Scope
from maestro.reprocessing.rate import Rate
from maestro.reprocessing.replay import Stepper, resumed
from maestro.reprocessing.status import (
    Facts,
    decision_via,
    failed_to_plan,
    only_counts,
    patch_between,
    progress_interval,
    status_of,
    transitions,
)
from maestro.reprocessing.steps import End, Resume, Step, Stop, gateway_opens_at, locks, next_step
from maestro.resources import names
from maestro.resources.reprocessing import TERMINAL_PHASES, PlannedRun, Reprocessing, ReprocessingStatus
from maestro.runs import replays
from maestro.runs.database import Transaction
from maestro.runs.errors import StoreUnavailable
from maestro.runs.gateway import has_begun, is_approved
from maestro.runs.model import from_micros, to_micros
from maestro.runs.replays import DRAIN, LOCK, Replay, Replays
from maestro.runtime import metrics
from maestro.runtime.clock import Clock, utcnow

log = logging.getLogger(__name__)

Object = dict[str, Any]

_STEPS = 20
"""Steps of one look at most; then others have their turn."""
_WAITS = 5.0
_DRAINS = 0.2
_POLL = (0.05, 1.0)
"""Seconds between two looks at Runs in flight: the longer nothing ends, the rarer."""


class GatewaySeen(Protocol):
    """What of the dispatcher the replay waits for."""

    def shut_seen(self, solution_id: str) -> bool:
        """True once nothing of the Solution but replays can be dispatched."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one Reprocessing, by its uid. All of it may be lost."""

    stepper: Stepper | None = None
    generation: int = -1
    rate: Rate = field(default_factory=Rate)
    first: list[PlannedRun] | None = None
    reason: str = ""
    waits_for: str = ""
    written_at: datetime | None = None
    moved_at: datetime | None = None


class ReprocessingReconciler:
    """Brings about what Reprocessings ask for.

    Parameters
    ----------
    reprocessings, automations
        The caches; own writes of statuses are entered in the first.
    area
        Reprocessings in the run store, with the epoch of the present leadership.
    gateway
        The dispatcher: says when a gateway's shutting has reached it.
    leads
        Whether the leadership was won in the run store; before, nothing is written.
    """

    def __init__(
        self,
        kube: KubeClient,
        reprocessings: ObjectCache,
        automations: ObjectCache,
        area: Replays,
        gateway: GatewaySeen,
        *,
        leads: Callable[[], bool],
        wake: Callable[[ObjectKey], None] = lambda _key: None,
        clock: Clock = utcnow,
    ) -> None:
        self._kube = kube
        self._reprocessings = reprocessings
        self._automations = automations
        self._area = area
        self._store = area.store
        self._gateway = gateway
        self._leads = leads
        self._wake = wake
        self._clock = clock
        self._memory: dict[str, _Memory] = {}
        self._uids: dict[ObjectKey, str] = {}
        self.stepping: dict[ObjectKey, int] = {}
        """The Reprocessings whose Runs are in flight, and how many may be at once."""

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Take what steps there are to take; the seconds until it is looked at again.

        Raises
        ------
        KubeError
            The API server refuses what it shouldn't.
        StaleEpoch
            Another leader has taken the run store.
        """
        if not self._leads():
            return 0.2
        obj = self._reprocessings.get(key.namespace, key.name)
        uid = obj["metadata"]["uid"] if obj is not None else None
        if (before := self._uids.get(key)) is not None and before != uid:
            await self._gone(key, before)
        if obj is None or uid is None:
            return None
        self._uids[key] = uid
        try:
            reprocessing = Reprocessing.model_validate(obj)
        except ValidationError as error:
            return await self._unreadable(obj, error)
        memory = self._memory.setdefault(uid, _Memory())
        try:
            replay, again = await self._steps(key, obj, reprocessing, memory)
        except StoreUnavailable as error:
            log.warning("Reprocessing %s waits: %s", key, error)
            return 1.0
        return await self._tell(key, obj, reprocessing, replay, memory, again)

    # -- steps --------------------------------------------------------------------------------------------------------

    async def _steps(
        self, key: ObjectKey, obj: Object, reprocessing: Reprocessing, memory: _Memory
    ) -> tuple[Replay | None, float | None]:
        """Take steps until one has to be waited for."""
        replay = await self._area.get(reprocessing.metadata.uid)
        if reprocessing.status.phase in TERMINAL_PHASES and (replay is None or replay.ended_at is not None):
            return replay, None
        memory.reason, memory.waits_for = "", ""
        for _ in range(_STEPS):
            step = next_step(reprocessing, replay, self._clock())
            replay, again, shown = await self._take(step, key, reprocessing, replay, memory)
            if again is not None or replay is None or replay.ended_at is not None or shown:
                return replay, again
        return replay, 0.0

    async def _take(
        self, step: Step, key: ObjectKey, reprocessing: Reprocessing, replay: Replay | None, memory: _Memory
    ) -> tuple[Replay | None, float | None, bool]:
        """Take one step: the row after it, seconds to wait (None: go on), whether the status is to be written first."""
        if replay is None:
            return await self._create(reprocessing), None, False
        match step:
            case End(outcome, reason, message):
                return await self._end(key, reprocessing, replay, outcome, reason, message), None, True
            case Stop(reason, message):
                return await self._stop(reprocessing, replay, reason, message), None, True
            case Resume(waives):
                return await self._resume(reprocessing, replay, waives), None, True
            case "Plan":
                return await self._plan(key, reprocessing, replay, memory), None, True
            case "Approve":
                return await self._approve(reprocessing, replay), None, True
            case "TakeTurn":
                return await self._take_turn(reprocessing, replay, memory)
            case "Drain":
                return await self._drain(reprocessing, replay, memory)
            case "Replay":
                return await self._replay(key, reprocessing, replay, memory)
            case _:
                return replay, self._patience(reprocessing, replay), True

    async def _create(self, reprocessing: Reprocessing) -> Replay:
        meta = reprocessing.metadata
        return await self._area.create(
            meta.uid, reprocessing.id, meta.name, reprocessing.solution_id, spec_hash(reprocessing), self._now()
        )

    async def _plan(self, key: ObjectKey, reprocessing: Reprocessing, replay: Replay, memory: _Memory) -> Replay:
        if names.ANNOTATION_RERUN not in reprocessing.metadata.annotations:
            outcome = await self._area.ended_before(replay)
            if outcome is not None and replay.waived == 0:
                message = (
                    f"one of this name that asked for the same has ended as {outcome}; "
                    f"annotate a new one with {names.ANNOTATION_RERUN} to run it again"
                )
                return await self._end(key, reprocessing, replay, "Finished", "AlreadyDone", message)
        try:
            scope = planner.scope_of(self._store, self._automations, reprocessing)
            survey, predicted = await planner.make(self._area, reprocessing, scope, replay)
        except InvalidPlan as invalid:
            return await self._end(key, reprocessing, replay, "Failure", invalid.reason, str(invalid))
        memory.first = preview(survey.first, scope.automations)
        return await self._area.change(
            replay,
            planned_at=self._now(),
            plan_hash=plan_hash(reprocessing.immutable_fields(), survey.digest),
            digest=survey.digest.text,
            total=survey.digest.total,
            predicted=predicted,
            allowed=reprocessing.spec.cascade.max_additions,
        )

    async def _approve(self, reprocessing: Reprocessing, replay: Replay) -> Replay:
        """Take the decision over, if its plan still is what it was; a stale one is planned, and decided, anew."""
        spec = reprocessing.spec
        if spec.decision is not None and replay.began_at is None:
            try:
                scope = planner.scope_of(self._store, self._automations, reprocessing)
                survey = await planner.measure(self._store, reprocessing, scope)
                now = survey.digest
            except InvalidPlan:
                now = Digest()  # planning says what it is
            if (now.total, now.text) != (replay.total, replay.digest):
                return await self._area.change(replay, planned_at=None)
        metrics.REPROCESSING_DECISIONS.labels(decision="Approved", via=decision_via(reprocessing)).inc()
        allowed = replay.added + spec.cascade.max_additions
        waived = replay.waived & ~LOCK if replay.began_at is not None else replay.waived
        return await self._area.change(replay, approved_at=self._now(), allowed=allowed, waived=waived)

    async def _take_turn(
        self, reprocessing: Reprocessing, replay: Replay, memory: _Memory
    ) -> tuple[Replay, float | None, bool]:
        holder = self._older(reprocessing)
        if holder is None:
            holder = await self._area.take_turn(replay, self._now())
        if holder is not None:
            memory.waits_for = f"waits for Reprocessing {holder} of the same Solution"
            return replay, self._until_max_block(reprocessing, replay, _WAITS), True
        taken = await self._area.get(replay.uid)
        assert taken is not None
        return taken, None, True

    def _older(self, reprocessing: Reprocessing) -> str | None:
        """An older approved one of the Solution that has yet to begin: it goes first."""
        mine = _age(reprocessing.metadata.creation_timestamp, reprocessing.metadata.name)
        for obj in self._reprocessings.values(reprocessing.metadata.namespace):
            other, status = obj["spec"], obj.get("status") or {}
            if other.get("solution") != reprocessing.spec.solution or status.get("phase") in TERMINAL_PHASES:
                continue
            if has_begun(status) or not is_approved(obj) or other.get("cancel") or other.get("fail"):
                continue
            created = datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
            if _age(created, obj["metadata"]["name"]) < mine:
                return str(obj["metadata"]["name"])
        return None

    async def _drain(
        self, reprocessing: Reprocessing, replay: Replay, memory: _Memory
    ) -> tuple[Replay, float | None, bool]:
        """Wait until the dispatcher has seen the gate and nothing else runs; then the replay begins."""
        if locks(reprocessing, replay):
            if not self._gateway.shut_seen(reprocessing.solution_id):
                memory.reason, memory.waits_for = "Draining", "the gateway is being shut"
                return replay, _DRAINS, True
            busy = 0 if replay.waived & DRAIN else await self._area.busy(reprocessing.solution_id)
            if busy:
                return await self._wait_for_others(reprocessing, replay, memory, busy)
        try:
            scope = planner.scope_of(self._store, self._automations, reprocessing)
        except InvalidPlan:
            scope = Scope({}, {})  # its Automations are gone: each item says so
        if reprocessing.spec.cascade.enabled and scope.cascades and replay.planned_at is not None:
            since = replay.planned_at
            await planner.note_reads(self._area, reprocessing, scope, replay.pk, ended_since=since)
        return await self._area.change(replay, replaying_at=self._now()), None, True

    async def _wait_for_others(
        self, reprocessing: Reprocessing, replay: Replay, memory: _Memory, busy: int
    ) -> tuple[Replay, float | None, bool]:
        assert replay.began_at is not None
        timeout = reprocessing.spec.drain_timeout
        if self._clock() - from_micros(replay.began_at) >= timedelta(seconds=timeout.seconds):
            message = (
                f"{busy} Runs of the Solution are still running after {timeout}; "
                "resume starts the replay beside them, cancel ends it"
            )
            return await self._stop(reprocessing, replay, "DrainTimeout", message), None, True
        memory.reason, memory.waits_for = "Draining", f"{busy} Runs that had begun before are waited for"
        return replay, _DRAINS, True

    async def _replay(
        self, key: ObjectKey, reprocessing: Reprocessing, replay: Replay, memory: _Memory
    ) -> tuple[Replay, float | None, bool]:
        stepper = self._stepper(reprocessing, replay, memory)
        shut = not locks(reprocessing, replay) or self._gateway.shut_seen(reprocessing.solution_id)
        self.stepping[key] = reprocessing.spec.parallelism
        advance = await stepper.step(may_start=shut and not reprocessing.spec.suspend)
        replay = advance.replay
        metrics.REPLAYED_RUNS.inc(advance.settled)
        if advance.complete and replay.stop_reason is None and replay.ended_at is None:
            return await self._finish(key, reprocessing, replay), None, True
        now = self._clock()
        if advance.settled or advance.started or memory.moved_at is None:
            memory.moved_at = now
        if replay.stop_reason is not None or replay.approved_at is None:
            return replay, None, True
        if advance.settled >= replays.BATCH or advance.started >= replays.BATCH:
            return replay, None, False
        self._say_what_holds_it_up(reprocessing, memory, shut)
        still = (now - memory.moved_at).total_seconds()
        pause = min(max(still / 20, _POLL[0] if reprocessing.spec.parallelism <= 10 else 0.1), _POLL[1])
        return replay, self._until_max_block(reprocessing, replay, pause), True

    def _say_what_holds_it_up(self, reprocessing: Reprocessing, memory: _Memory, shut: bool) -> None:
        if reprocessing.spec.suspend:
            memory.reason, memory.waits_for = "Suspended", "spec.suspend is set: nothing more is started"
        elif not shut:
            memory.reason, memory.waits_for = "Draining", "the gateway is being shut"
        else:
            suspended = sorted(
                known.name
                for known in self._store.registrations().values()
                if known.suspended and known.solution_id == reprocessing.solution_id
            )
            if suspended:
                memory.waits_for = f"Runs of {', '.join(suspended[:5])} wait: spec.suspend is set there"

    async def _finish(self, key: ObjectKey, reprocessing: Reprocessing, replay: Replay) -> Replay:
        failed = f", {replay.failed} of them failed" if replay.failed else ""
        added = f" ({replay.added} had become stale and joined)" if replay.added else ""
        message = f"{replay.done} Runs were run again{added}{failed}"
        return await self._end(key, reprocessing, replay, "Finished", "Replayed", message)

    async def _end(
        self, key: ObjectKey, reprocessing: Reprocessing, replay: Replay, outcome: str, reason: str, message: str
    ) -> Replay:
        if outcome == "Skipped":
            metrics.REPROCESSING_DECISIONS.labels(decision="Skipped", via=decision_via(reprocessing)).inc()
        if replay.replaying_at is not None:
            # What has ended meanwhile still counts; that it made others stale doesn't any more.
            replay = (await Stepper(self._area, replay, reprocessing, {}).step(may_start=False)).replay
        ended = await self._area.end(replay, outcome, reason, message, self._now())
        self.stepping.pop(key, None)
        return ended

    async def _stop(self, reprocessing: Reprocessing, replay: Replay, reason: str, message: str) -> Replay:
        resume = reprocessing.spec.resume or 0
        return await self._area.change(replay, stop_reason=reason, stop_message=message, stop_resume=resume)

    async def _resume(self, reprocessing: Reprocessing, replay: Replay, waives: int) -> Replay:
        def go_on(transaction: Transaction) -> None:
            columns = resumed(replay, transaction)
            replays.change(transaction, replay.pk, **columns, waived=replay.waived | waives)

        await self._area.write(go_on)
        found = await self._area.get(replay.uid)
        assert found is not None
        return found

    def _stepper(self, reprocessing: Reprocessing, replay: Replay, memory: _Memory) -> Stepper:
        generation = reprocessing.metadata.generation
        if memory.stepper is None:
            try:
                scope = planner.scope_of(self._store, self._automations, reprocessing)
            except InvalidPlan:
                scope = Scope({}, {})
            memory.stepper = Stepper(self._area, replay, reprocessing, scope.templates)
        elif memory.generation != generation:
            memory.stepper.reprocessing = reprocessing
        memory.generation = generation
        return memory.stepper

    def _patience(self, reprocessing: Reprocessing, replay: Replay) -> float | None:
        """How long what waits for somebody may be left alone: a change wakes it."""
        return None if replay.ended_at is not None else self._until_max_block(reprocessing, replay, 30.0)

    def _until_max_block(self, reprocessing: Reprocessing, replay: Replay, at_most: float) -> float:
        opens_at = gateway_opens_at(reprocessing, replay)
        if opens_at is None or not locks(reprocessing, replay):
            return at_most
        left = (opens_at - self._clock()).total_seconds()
        return min(at_most, max(left, 0.05)) if left > 0 else at_most

    def _now(self) -> int:
        return to_micros(self._clock())

    # -- what belongs to objects that are gone ------------------------------------------------------------------------

    async def prune(self) -> None:
        """End the replays of Reprocessings that were deleted while nobody looked, and what previews left behind."""
        present = {obj["metadata"]["uid"] for obj in self._reprocessings.values()}
        old = self._clock() - timedelta(hours=1)
        for replay in await self._area.kept():
            if replay.uid.startswith(planner.PREVIEW_UID):
                if from_micros(replay.created_at) < old:
                    await self._area.forget(replay.pk)
            elif replay.uid not in present:
                await self._abandon(replay)

    async def _gone(self, key: ObjectKey, uid: str) -> None:
        self._uids.pop(key, None)
        self._memory.pop(uid, None)
        self.stepping.pop(key, None)
        replay = await self._area.get(uid)
        if replay is not None:
            await self._abandon(replay)
            self._wake_solution(key.namespace, replay.solution)

    async def _abandon(self, replay: Replay) -> None:
        """The object is gone: what hasn't begun is canceled; only that it was there is kept."""
        if replay.ended_at is None:
            await self._area.end(replay, "Canceled", "Deleted", "the Reprocessing was deleted", self._now())
        await self._area.clear(replay.pk)

    # -- status -------------------------------------------------------------------------------------------------------

    async def _tell(
        self,
        key: ObjectKey,
        obj: Object,
        reprocessing: Reprocessing,
        replay: Replay | None,
        memory: _Memory,
        again: float | None,
    ) -> float | None:
        """Write the status where it is another one than before; when to look again."""
        old, now = reprocessing.status, self._clock()
        if old.phase in TERMINAL_PHASES:
            return None
        rate = memory.rate.note(now, replay.done) if replay is not None and replay.replaying_at is not None else None
        facts = Facts(replay, memory.first, memory.reason, memory.waits_for, rate)
        new = status_of(obj, reprocessing, facts, now)
        if old.dump() == new.dump():
            return 0.0 if again is None and replay is not None and replay.ended_at is None else again
        if only_counts(old, new) and memory.written_at is not None:
            interval = progress_interval(replay.total if replay is not None else 0)
            if (now - memory.written_at).total_seconds() < interval:
                return min(interval, again if again is not None else 0.0)
        if not await self._write(obj, reprocessing, new):
            return 0.5
        memory.written_at = now
        for note in transitions(old, new):
            await self._kube.event(obj, type=note.type, reason=note.reason, message=note.message)
        if new.phase in TERMINAL_PHASES:
            self._memory.pop(reprocessing.metadata.uid, None)
            self._wake_solution(key.namespace, reprocessing.solution_id)
            return None
        return 0.0 if again is None else again

    async def _write(self, obj: Object, reprocessing: Reprocessing, new: ReprocessingStatus) -> bool:
        meta = reprocessing.metadata
        patch = patch_between(obj.get("status") or {}, new.dump())
        if not patch:
            return True
        try:
            written = await self._kube.patch_status(
                REPROCESSING, meta.namespace, meta.name, patch, resource_version=meta.resource_version
            )
        except NotFound:
            return True  # gone meanwhile; its deletion is on the way here
        except Conflict:
            await self._reread(meta.namespace, meta.name)
            return False
        except KubeError as error:
            log.warning("the status of Reprocessing %s/%s isn't written: %s", meta.namespace, meta.name, error)
            return False
        self._reprocessings.upsert(without_bookkeeping(written))
        return True

    async def _reread(self, namespace: str, name: str) -> None:
        try:
            self._reprocessings.upsert(without_bookkeeping(await self._kube.get(REPROCESSING, namespace, name)))
        except NotFound:
            log.debug("Reprocessing %s/%s is gone; the watch will say so", namespace, name)
        except KubeError as error:
            log.warning("Reprocessing %s/%s can't be read: %s", namespace, name, error)

    async def _unreadable(self, obj: Object, error: ValidationError) -> float:
        """An object that this version can't read: say so, touch nothing."""
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        log.warning("Reprocessing %s can't be read: %s", obj["metadata"]["name"], problems)
        bare = Reprocessing.model_validate(
            {**obj, "spec": {"solution": "unknown", "select": {}}, "status": {"observedGeneration": -1}}
        )
        message = f"this version of Maestro can't read the object: {problems}"
        new = failed_to_plan(bare, "InvalidSpec", message, self._clock())
        known = (obj.get("status") or {}).get("conditions") or ()
        if not any(each.get("reason") == "InvalidSpec" and each.get("message") == message for each in known):
            await self._write(obj, bare, new)
        return 30.0

    def _wake_solution(self, namespace: str, solution_id: str) -> None:
        for obj in self._reprocessings.values(namespace):
            if f"{namespace}.{obj['spec'].get('solution')}" == solution_id:
                self._wake(ObjectKey(namespace, obj["metadata"]["name"]))


def _age(created: datetime | None, name: str) -> tuple[str, str]:
    return ("" if created is None else created.isoformat(), name)
