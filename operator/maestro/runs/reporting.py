"""Reports of workers, and cancels: each becomes an event of the lifecycle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from maestro.runs import lifecycle, restored, unknown
from maestro.runs.changes import Changes, Tracked
from maestro.runs.company import Company
from maestro.runs.database import Sql, Transaction, as_json, clean
from maestro.runs.lifecycle import End, Event, Happening, Step
from maestro.runs.model import RunState, to_micros
from maestro.runs.reports import CancelAnswer, Report, ReportAnswer, ReportLine
from maestro.runs.restored import Publication

_PARAMETERS = Sql("SELECT seq, parameters FROM run WHERE seq {in :seqs}")
_PRIOR = Sql("SELECT holder, outcome FROM attempt WHERE run_seq = :seq AND attempt = :attempt")
_LAST_ATTEMPT_OF = Sql("""
    SELECT holder, outcome FROM attempt WHERE run_seq = :seq AND holder = :worker ORDER BY attempt DESC LIMIT 1""")
_LOG = Sql("""
    INSERT INTO log (run_seq, n, at, level, message, actionable, attempt)
    VALUES (:seq, :n, :at, :level, :message, :actionable, :attempt)""")
_PROGRESS = Sql("""
    INSERT INTO progress (run_seq, done, total, text, at) VALUES (:seq, :done, :total, :text, :at)
    ON CONFLICT (run_seq) DO UPDATE
    SET done = excluded.done, total = excluded.total, text = excluded.text, at = excluded.at""")

_STARTED = Sql("""
    INSERT INTO run_started (automation_id, writer, epoch, pub)
    SELECT :automation, :writer, :epoch, :pub FROM leader
    WHERE id = 1 AND store_id = :store AND epoch >= :epoch AND next_pub > :pub
    ON CONFLICT (automation_id, writer) DO UPDATE SET epoch = excluded.epoch, pub = excluded.pub
    WHERE excluded.epoch > run_started.epoch
       OR (excluded.epoch = run_started.epoch AND excluded.pub > run_started.pub)""")

_EVENTS = {
    "start": Event.START,
    "log": Event.HEARTBEAT,
    "progress": Event.HEARTBEAT,
    "poll": Event.HEARTBEAT,
    "finish": Event.FINISH,
    "release": Event.RELEASE,
    "jobEnded": Event.JOB_ENDED,
}
_ENDS = {"completed": End.OK, "completed_no_invoices": End.NOTHING, "canceled": End.CANCELED}


@dataclass(slots=True)
class Here:
    """Who writes: the process (its counters are its own), and the store that publications come from (it gets a new id
    when it was restored, of which another replica may have to learn)."""

    writer: str
    store_id: str


def report(changes: Changes, here: Here, items: Sequence[Report]) -> list[ReportAnswer]:
    """Treats reports in their order and writes what they change."""
    return _Reporting(changes, here).treat(items)


class _Reporting:
    """Reports of one transaction: answers, and the rows that they bring along."""

    def __init__(self, changes: Changes, here: Here) -> None:
        self._changes = changes
        self._here = here
        self._transaction = changes.transaction
        self._now = changes.now
        self._company = Company(changes)
        self._logs: list[dict[str, Any]] = []
        self._progress: dict[int, dict[str, Any]] = {}
        self._unknown: list[Report] = []
        self._started: dict[int, tuple[int, int]] = {}
        self._odd: list[Publication] = []
        """What messages said whose starts were refused, or that are none of this store's."""
        self._looked = False

    def treat(self, items: Sequence[Report]) -> list[ReportAnswer]:
        known = self._changes.load_ids({item.job for item in items})
        runs = [known.get(item.job) for item in items]
        steps = [self._one(item, run) for item, run in zip(items, runs, strict=True)]
        parameters = self._parameters(items, runs, steps)
        self._changes.flush()
        self._transaction.many(_LOG, self._logs)
        self._transaction.many(_PROGRESS, [self._progress[seq] for seq in sorted(self._progress)])
        self._note_started(items)
        unknown.record(self._transaction, self._unknown, self._now)
        if self._odd:
            self._here.store_id = restored.notice(self._transaction, self._odd, self._now)
        return [
            step if isinstance(step, ReportAnswer) else self._answer(item, run, step, parameters)
            for item, run, step in zip(items, runs, steps, strict=True)
        ]

    def _one(self, item: Report, tracked: Tracked | None) -> Step | ReportAnswer:
        if tracked is None:
            self._unknown.append(item)
            self._note_odd(item)
            return ReportAnswer(404, "UnknownRun", f"there is no Run {item.job}")
        if item.caller is not None and item.caller != tracked.automation:
            return ReportAnswer(403, "NotYourRun", "this Run belongs to another Automation")
        step = self._changes.happen(tracked, self._happening(item, tracked))
        if step.status == 200 and step.reason is None:
            self._keep(item, tracked)
        if item.store is not None and (step.status != 200 or not self._is_ours(item)):
            self._note_odd(item)
        return step

    def _happening(self, item: Report, tracked: Tracked) -> Happening:
        event = _EVENTS[item.op]
        happening = Happening(
            event,
            worker=clean(item.worker),
            attempt=item.attempt,
            pub=item.pub if self._is_ours(item) else None,
            redelivered=item.redelivered,
            older=item.older,
            job_pod=item.job_pod,
            poll=item.op == "poll",
        )
        if event is Event.START and tracked.run.state == lifecycle.Q:
            happening.company, happening.barred = self._company.of_start(tracked, happening.worker)
        if event is Event.FINISH or event is Event.JOB_ENDED:
            happening.end = _end_of(item)
            happening.error = _error_of(item)
            if tracked.run.state != lifecycle.R or tracked.run.holder != happening.worker:
                happening.prior = self._prior(item, tracked)
        return happening

    def _prior(self, item: Report, tracked: Tracked) -> tuple[str | None, str] | None:
        """What the attempt that this finish speaks of is recorded with."""
        # what this very transaction has noted isn't in the table yet
        self._changes.flush_attempts()
        if item.older:
            row = self._transaction.one(_LAST_ATTEMPT_OF, {"seq": tracked.seq, "worker": clean(item.worker)})
        elif item.attempt is not None:
            row = self._transaction.one(_PRIOR, {"seq": tracked.seq, "attempt": item.attempt})
        else:
            row = None
        return None if row is None else (row[0], row[1])

    def _keep(self, item: Report, tracked: Tracked) -> None:
        if item.op == "start":
            self._keep_start(item, tracked)
        elif item.op == "log":
            self._keep_lines(item, tracked)
        elif item.op == "progress" and (item.done, item.total, item.text) != (None, None, None):
            self._progress[tracked.seq] = {
                "seq": tracked.seq,
                "done": item.done,
                "total": item.total,
                "text": clean(item.text),
                "at": self._now,
            }

    def _is_ours(self, item: Report) -> bool:
        """False for a message of a store that this one was restored from, or of a stranger."""
        if item.store is None or item.store == self._here.store_id:
            return True
        if not self._looked:
            # the store's id may be a new one, which this process hasn't heard of
            self._looked, self._here.store_id = True, restored.notice(self._transaction, (), self._now)
        return item.store == self._here.store_id

    def _note_odd(self, item: Report) -> None:
        if item.op == "start" and item.store is not None:
            self._odd.append(Publication(item.store, item.epoch, item.pub, item.job))

    def _note_started(self, items: Sequence[Report]) -> None:
        """What can't be, a number that isn't given out yet among them, isn't written."""
        rows = self._started_rows()
        if self._transaction.many(_STARTED, rows) < len(rows):
            for item in items:
                self._note_odd(item)

    def _keep_start(self, item: Report, tracked: Tracked) -> None:
        """Queues are first in, first out: what was published before this and waits was overtaken."""
        epoch, pub = item.epoch, item.pub
        if item.older:
            # the older contract doesn't say which publication it has: the Run's own, where there was only one
            epoch, pub = tracked.epoch, tracked.run.pub
        if pub is not None and epoch is not None and self._is_ours(item):
            self._started[tracked.automation] = max((epoch, pub), self._started.get(tracked.automation, (0, 0)))

    def _started_rows(self) -> list[dict[str, Any]]:
        store = self._here.store_id
        return [
            {"automation": automation, "writer": self._here.writer, "epoch": epoch, "pub": pub, "store": store}
            for automation, (epoch, pub) in sorted(self._started.items())
        ]

    def _keep_lines(self, item: Report, tracked: Tracked) -> None:
        limit = self._changes.policy(tracked).log_lines
        if tracked.log_lines > limit or not item.lines:
            return
        room = limit - tracked.log_lines
        kept = [*item.lines[:room]]
        if len(item.lines) > room:
            kept.append(ReportLine("WARNING", f"further lines are not kept: history.logLines is {limit}"))
        for number, line in enumerate(kept, start=tracked.log_lines + 1):
            self._logs.append(
                {
                    "seq": tracked.seq,
                    "n": number,
                    "at": self._now if line.at is None else to_micros(line.at),
                    "level": clean(line.level),
                    "message": clean(line.message),
                    "actionable": int(line.actionable),
                    "attempt": tracked.run.attempt,
                }
            )
        tracked.log_lines += len(kept)
        tracked.changes["log_lines"] = tracked.log_lines

    def _parameters(
        self, items: Sequence[Report], runs: Sequence[Tracked | None], steps: Sequence[Step | ReportAnswer]
    ) -> dict[int, Any]:
        """Parameters of the Runs that start: the message doesn't carry them."""
        started = {
            run.seq: run.parameters
            for item, run, step in zip(items, runs, steps, strict=True)
            if item.op == "start" and run is not None and step.status == 200
        }
        unread = sorted(seq for seq, parameters in started.items() if parameters is None)
        if unread:
            started.update(self._transaction.all(_PARAMETERS, {"seqs": unread}))
        return started

    def _answer(self, item: Report, tracked: Tracked | None, step: Step, parameters: dict[int, Any]) -> ReportAnswer:
        if tracked is not None and item.op == "start" and step.status == 200:
            policy = self._changes.policy(tracked)
            return ReportAnswer(
                200,
                attempt=step.attempt,
                parameters=json.loads(parameters[tracked.seq]),
                heartbeat_timeout=policy.heartbeat_timeout,
                timeout=policy.timeout,
                cancellation_requested=step.cancel,
                alone=tracked.run.alone == lifecycle.ALONE or None,
            )
        heartbeat = _EVENTS[item.op] is Event.HEARTBEAT and step.status == 200
        return ReportAnswer(
            step.status,
            reason=step.reason,
            cancellation_requested=step.cancel if heartbeat else None,
            accepted=step.accepted,
        )


def _end_of(item: Report) -> End | None:
    """How the attempt ended; None for a Job that vanished."""
    if item.status is None:
        return None if item.op == "jobEnded" else End.TECHNICAL
    if item.status != "failed":
        return _ENDS[item.status]
    # the older contract knows no kinds: its failures are final
    return End.BUSINESS if item.older or item.kind == "business" else End.TECHNICAL


def _error_of(item: Report) -> dict[str, Any]:
    result = None if item.result is None else as_json(item.result)
    return {"result": result, "error_class": clean(item.error_class), "message": clean(item.message)}


def cancel(changes: Changes, run_id: UUID, *, why: str, force: bool) -> CancelAnswer:
    """Cancels one Run, or asks it to stop."""
    tracked = changes.load_ids([run_id]).get(run_id)
    if tracked is None:
        return CancelAnswer(404, reason="UnknownRun")
    step = changes.happen(tracked, Happening(Event.CANCEL, why=why, force=force))
    changes.flush()
    state = RunState.of(tracked.run.state)
    return CancelAnswer(step.status, state, step.reason or tracked.run.reason)


def happen_to(changes: Changes, seqs: Iterable[int], happening: Happening) -> list[tuple[Tracked, Step]]:
    """The same event for many Runs."""
    tracked = changes.load_seqs(seqs)
    return [(run, changes.happen(run, happening)) for _, run in sorted(tracked.items())]


def seqs_of(transaction: Transaction, sql: Sql, params: dict[str, Any]) -> list[int]:
    """The first column of a statement."""
    return [row[0] for row in transaction.all(sql, params)]
