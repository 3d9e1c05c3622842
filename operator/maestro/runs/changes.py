"""Runs that one transaction works on: loaded under a lock, changed by the lifecycle, written back with a check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from maestro.runs import keys, lifecycle
from maestro.runs.database import Retry, Row, Sql, Transaction, as_uuid
from maestro.runs.lifecycle import AttemptEnd, Event, Happening, Run, Step
from maestro.runs.model import RunPolicy
from maestro.runs.observed import Observed
from maestro.runs.registry import Registry

_COLUMNS = """
    seq, id, automation_id, solution_id, ckey, log_lines, epoch, accepted_at,
    state, attempt, max_attempts, pub, returns, holder, holder_pub, ready, slot,
    ckey IS NOT NULL, replay_of IS NOT NULL,
    due_at, lease_at, deadline_at, expires_at, alarm_at, cancel_at, cancel_why, reason, end_report, started_at,
    alone"""
_OWN = 9
_PARAMETERS = "CASE WHEN state = {Q} THEN parameters END"  # whoever loads a Queued Run by its id starts it
_BY_ID = Sql(f"SELECT {_PARAMETERS}, {_COLUMNS} FROM run WHERE id {{in :ids}} ORDER BY seq {{lock}}")  # noqa: S608
_BY_SEQ = Sql(f"SELECT NULL, {_COLUMNS} FROM run WHERE seq {{in :seqs}} ORDER BY seq {{lock}}")  # noqa: S608
_KEYS_BY_ID = Sql("SELECT automation_id, ckey FROM run WHERE id {in :ids} AND ckey IS NOT NULL")
_KEYS_BY_SEQ = Sql("SELECT automation_id, ckey FROM run WHERE seq {in :seqs} AND ckey IS NOT NULL")
_ATTEMPT = Sql("""
    INSERT INTO attempt (run_seq, attempt, holder, started_at, ended_at, outcome, reason, message)
    VALUES (:seq, :attempt, :holder, :started_at, :ended_at, :outcome, :reason, :message)
    ON CONFLICT (run_seq, attempt) DO NOTHING""")
_COUNT = Sql("""
    INSERT INTO run_count (automation_id, state, writer, n) VALUES (:automation, :state, :writer, :n)
    ON CONFLICT (automation_id, state, writer) DO UPDATE SET n = run_count.n + excluded.n""")
_TALLY = Sql("""
    INSERT INTO run_tally (automation_id, bucket, state, writer, n) VALUES (:automation, :bucket, :state, :writer, :n)
    ON CONFLICT (automation_id, bucket, state, writer) DO UPDATE SET n = run_tally.n + excluded.n""")
_FAILURES = Sql("SELECT pk, failures FROM automation WHERE pk {in :pks} ORDER BY pk {lock}")
_SET_FAILURES = Sql("UPDATE automation SET failures = :failures WHERE pk = :pk")

BUCKET = 600_000_000
"""Microseconds of a bucket of `run_tally`."""
_BLAMES_THE_WORKER = frozenset(
    {lifecycle.TECHNICAL, lifecycle.WORKER_LOST, lifecycle.TIMEOUT, lifecycle.DEAD_LETTERED, lifecycle.JOB_INVALID}
)

_TOLD_BY = {
    Event.ALARM: "lease",
    Event.POD_GONE: "pod",
    Event.JOB_ENDED: "job",
    Event.START: "restart",
    Event.DEAD_LETTER: "delivery",
}
"""By what it showed that an attempt is over without a word from its worker."""

_WAITING = (lifecycle.H, lifecycle.P, lifecycle.Q, lifecycle.T)

_GUARDS = ("seq", "state", "attempt")
"""What a Run that is written must still have: its number, and the state and attempt that it was read with."""


@dataclass(slots=True)
class Tracked:
    """A Run in this transaction: as it was, as it is, and what must be written."""

    seq: int
    id: UUID
    automation: int
    solution: int
    ckey: UUID | None
    log_lines: int
    epoch: int | None
    """Of its only publication; None where it was published again."""
    accepted_at: int
    run: Run
    was_state: int
    was_attempt: int
    parameters: Any = None
    """As the column has them; None where they weren't read along."""
    changes: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Counts that a transaction changes; written as sums, in the order of their keys (else two replicas deadlock)."""

    def __init__(self, transaction: Transaction, registry: Registry, writer: str, now: int) -> None:
        self._transaction = transaction
        self._registry = registry
        self._writer = writer
        self._now = now
        self.observed = Observed()
        self._counts: dict[tuple[int, int], int] = defaultdict(int)
        self._ended: dict[tuple[int, int], int] = defaultdict(int)

    def moved(self, automation: int, before: int | None, after: int | None, n: int = 1) -> None:
        """`n` Runs went from one state to another (None: they came into the store, or left it)."""
        if before is None:
            self.observed.accepted[automation] += n
        else:
            self._counts[automation, before] -= n
        if after is not None:
            self._counts[automation, after] += n
            if after >= lifecycle.S:
                self._ended[automation, after] += n

    def flush(self) -> None:
        """Writes what was noted since the last time; the metrics hear of it once it is durable."""
        rows = [
            {"automation": automation, "state": state, "writer": self._writer, "n": n}
            for (automation, state), n in sorted(self._counts.items())
            if n
        ]
        self._transaction.many(_COUNT, rows)
        bucket = self._now // BUCKET
        self._transaction.many(
            _TALLY,
            [
                {"automation": automation, "bucket": bucket, "state": state, "writer": self._writer, "n": n}
                for (automation, state), n in sorted(self._ended.items())
            ],
        )
        self._tell_metrics()
        self._counts.clear()
        self._ended.clear()

    def _tell_metrics(self) -> None:
        observed, self.observed = self.observed, Observed()
        if observed:
            self._transaction.after_commit.append(lambda: observed.count(self._registry))


class Changes:
    """The unit of work. `happen` as often as needed, then `flush` once."""

    def __init__(self, transaction: Transaction, registry: Registry, ledger: Ledger, now: int) -> None:
        self.transaction = transaction
        self.now = now
        self.work: set[int] = set()
        """Automations for which something may be claimable now."""
        self.replays_ended = False
        """A replayed Run ended: the next of its Reprocessing may go."""
        self._registry = registry
        self._ledger = ledger
        self._tracked: dict[int, Tracked] = {}
        self._attempts: list[dict[str, Any]] = []
        self._ends: dict[int, list[tuple[int, str | None]]] = defaultdict(list)

    @property
    def tracked(self) -> Mapping[int, Tracked]:
        """Every Run that was loaded so far, by its number, as it stands by now."""
        return self._tracked

    def load_ids(self, ids: Collection[UUID]) -> dict[UUID, Tracked]:
        """Locks and reads Runs by their ids."""
        given = {self.transaction.uuid(id_): id_ for id_ in ids}
        wanted = {"ids": list(given)}
        self._lock_keys(_KEYS_BY_ID, wanted)
        return {tracked.id: tracked for tracked in self._track(self.transaction.all(_BY_ID, wanted), given)}

    def load_seqs(self, seqs: Iterable[int]) -> dict[int, Tracked]:
        """Locks and reads Runs by their numbers."""
        wanted = {"seqs": sorted(seqs)}
        if not wanted["seqs"]:
            return {}
        self._lock_keys(_KEYS_BY_SEQ, wanted)
        return {tracked.seq: tracked for tracked in self._track(self.transaction.all(_BY_SEQ, wanted))}

    def policy(self, tracked: Tracked) -> RunPolicy:
        return self._registry.known(self.transaction, tracked.automation).registration.policy

    def happen(self, tracked: Tracked, happening: Happening) -> Step:
        """Asks the lifecycle and notes what it says."""
        known = self._registry.known(self.transaction, tracked.automation)
        step = lifecycle.step(tracked.run, happening, known.registration.policy, self.now)
        if step.changes:
            self._note(tracked, step, happening)
            if known.deleted and tracked.run.state in _WAITING and happening.event is not Event.CANCEL:
                # nobody will ever claim it
                self.happen(tracked, Happening(Event.CANCEL, why=lifecycle.AUTOMATION_DELETED))
        return step

    def flush(self) -> None:
        """Writes everything; the compare-and-set fails only where a lock was passed by, and then all runs again."""
        self._write_rows()
        self.flush_attempts()
        self._write_keys()
        self._write_failures()
        self._ledger.flush()

    def flush_attempts(self) -> None:
        """Writes the attempts that ended so far; a later report of the same transaction may ask for them."""
        self.transaction.many(_ATTEMPT, self._attempts)
        self._attempts.clear()

    # -- noting ------------------------------------------------------------------------------------------------------

    def _note(self, tracked: Tracked, step: Step, happening: Happening) -> None:
        before, began = tracked.run.state, tracked.run.started_at
        tracked.changes.update(lifecycle.apply(tracked.run, step.changes))
        if step.attempt_end is not None:
            self._attempts.append(self._attempt(tracked, step.attempt_end, happening.error))
        after = tracked.run.state
        if after != before or step.attempt_end is not None:
            self._observe(tracked, step, happening.event, before, began)
        if after == before:
            return
        self._ledger.moved(tracked.automation, before, after)
        if after >= lifecycle.S:
            self._ends[tracked.automation].append((after, tracked.run.reason))
            self.replays_ended = self.replays_ended or bool(tracked.run.replay)
        self._note_work(tracked, before, after)

    def _observe(self, tracked: Tracked, step: Step, event: Event, before: int, began: int | None) -> None:
        """For the metrics: an attempt that ended, one that is tried again, one that began; a Run's end."""
        observed, after = self._ledger.observed, tracked.run.state
        if after != before and after >= lifecycle.S:
            observed.finished[tracked.automation, after, tracked.run.reason] += 1
        if step.lost:
            observed.lost[tracked.automation, _TOLD_BY.get(event, "other")] += 1
        if before == lifecycle.R and began is not None:
            observed.attempts.append(self.now - began)
        if step.attempt_end is not None and step.attempt_end.outcome not in lifecycle.COST_NOTHING:
            observed.retried[tracked.automation] += 1
        if "started_at" in step.changes:
            observed.started[tracked.automation] += 1
            # a Job that was never seen to run and has ended tells nothing about when it began
            if tracked.run.attempt == 1 and after == lifecycle.R:
                observed.waits.append(self.now - tracked.accepted_at)

    def _note_work(self, tracked: Tracked, before: int, after: int) -> None:
        frees = before in (lifecycle.Q, lifecycle.R) and (
            self.policy(tracked).parallelism is not None or tracked.automation in self._registry.full
        )
        if frees or (after == lifecycle.P and tracked.run.ready):
            self.work.add(tracked.automation)

    def _attempt(self, tracked: Tracked, end: AttemptEnd, error: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "seq": tracked.seq,
            "attempt": end.attempt,
            "holder": end.holder,
            "started_at": end.started_at,
            "ended_at": self.now,
            "outcome": end.outcome,
            "reason": end.reason,
            "message": error.get("message"),
        }

    def _track(self, rows: list[Row], ids: Mapping[Any, UUID] = MappingProxyType({})) -> list[Tracked]:
        """`ids`: by what the column holds, where they are known: making them anew is dear."""
        result = []
        for row in rows:
            parameters, seq, id_, automation, solution, ckey, log_lines, epoch, accepted_at = row[:_OWN]
            tracked = self._tracked.get(seq)
            if tracked is None:
                run = Run(*row[_OWN:])
                tracked = Tracked(
                    seq,
                    ids.get(id_) or as_uuid(id_),
                    automation,
                    solution,
                    None if ckey is None else as_uuid(ckey),
                    log_lines,
                    epoch,
                    accepted_at,
                    run,
                    run.state,
                    run.attempt,
                    parameters,
                )
                self._tracked[seq] = tracked
            result.append(tracked)
        return result

    def _lock_keys(self, which: Sql, wanted: Mapping[str, Any]) -> None:
        """Locks go from keys to Runs everywhere. SQLite has one lock for all."""
        if not self.transaction.sqlite and self._registry.keyed:
            keys.lock(self.transaction, {(row[0], as_uuid(row[1])) for row in self.transaction.all(which, wanted)})

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write_rows(self) -> None:
        groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        for seq in sorted(self._tracked):
            tracked = self._tracked[seq]
            changes = tracked.changes
            if changes:
                groups[tuple(changes)].append((*changes.values(), seq, tracked.was_state, tracked.was_attempt))
        for columns, rows in groups.items():
            touched = self.transaction.update("run", columns, _GUARDS, rows)
            if touched != len(rows):
                raise Retry(f"{len(rows) - touched} of {len(rows)} Runs were changed by somebody else")

    def _write_keys(self) -> None:
        touched = [tracked for tracked in self._tracked.values() if _concerns_its_key(tracked)]
        if not touched:
            return
        ends: dict[keys.Key, list[keys.KeyEnd]] = {}
        for tracked in touched:
            assert tracked.ckey is not None
            of_key = ends.setdefault((tracked.automation, tracked.ckey), [])
            if tracked.run.state >= lifecycle.S:
                blocks = self.policy(tracked).on_key_failure == "Block" and tracked.run.state == lifecycle.F
                of_key.append(keys.KeyEnd(tracked.id, tracked.seq, tracked.run.state == lifecycle.S, blocks))
        self.work |= keys.ended(self.transaction, ends, self.now)

    def _write_failures(self) -> None:
        """How many Runs in a row failed for reasons that lie with the worker: what pauses an Automation."""
        if not self._ends:
            return
        changed = []
        for pk, failures in self.transaction.all(_FAILURES, {"pks": sorted(self._ends)}):
            after = failures
            for state, reason in self._ends[pk]:
                if state == lifecycle.F and reason in _BLAMES_THE_WORKER:
                    after += 1
                elif state != lifecycle.C:
                    after = 0
            if after != failures:
                changed.append({"pk": pk, "failures": after})
                self._note_pause(pk, failures, after)
        self.transaction.many(_SET_FAILURES, changed)

    def _note_pause(self, pk: int, before: int, after: int) -> None:
        limit = self._registry.known(self.transaction, pk).registration.policy.pause_after_failures
        if limit and (before >= limit) != (after >= limit):
            # the next claim takes Queued ones back, or finds that it may go on
            self.work.add(pk)


def _concerns_its_key(tracked: Tracked) -> bool:
    """It moved, or it waits to become the first of its key and may be that now."""
    if tracked.ckey is None or not tracked.changes:
        return False
    waits = tracked.run.state == lifecycle.P and not tracked.run.ready
    return waits or tracked.run.state != tracked.was_state
