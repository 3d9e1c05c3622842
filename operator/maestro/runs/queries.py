"""What is shown of Runs: one, many, their logs, their numbers. Reads only."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from maestro.runs import lifecycle, schema, unknown
from maestro.runs.changes import BUCKET
from maestro.runs.database import Row, Sql, Transaction, as_uuid, as_uuid_or_none
from maestro.runs.model import (
    AttemptView,
    Counts,
    HourCount,
    LastRun,
    LogLine,
    Page,
    Parameters,
    Progress,
    RecentFailure,
    RunFilter,
    RunState,
    RunView,
    Summary,
    from_micros,
    micros,
    to_micros,
)

MAX_PAGE = 1000
RECENT_FAILURES = 5
_DAY = micros(24 * 3600)
_HOUR = micros(3600)

_ATTEMPTS = Sql("""
    SELECT attempt, holder, started_at, ended_at, outcome, reason, message FROM attempt
    WHERE run_seq = :seq ORDER BY attempt""")
_PROGRESS = Sql("SELECT done, total, text, at FROM progress WHERE run_seq = :seq")
_SEQ = Sql("SELECT seq FROM run WHERE id = :id")
_LOGS = Sql("""
    SELECT n, at, level, message, actionable, attempt FROM log
    WHERE run_seq = :seq AND n > :after ORDER BY n LIMIT :limit""")
_LAST_PARAMETERS = Sql("""
    SELECT r.parameters FROM run_detail d JOIN run r ON r.seq = d.run_seq
    WHERE d.user_name = :user AND d.automation_id = :automation ORDER BY d.run_seq DESC LIMIT 1""")
_COUNTS = Sql("SELECT automation_id, state, sum(n) FROM run_count GROUP BY automation_id, state")
_COUNTS_OF = Sql("SELECT automation_id, state, sum(n) FROM run_count WHERE automation_id = :pk GROUP BY 1, 2")
_TALLY = Sql("""
    SELECT automation_id, state, sum(n) FROM run_tally WHERE bucket > :bucket GROUP BY automation_id, state""")
_TALLY_OF = Sql("""
    SELECT automation_id, state, sum(n) FROM run_tally
    WHERE automation_id = :pk AND bucket > :bucket GROUP BY automation_id, state""")
_PAUSES = Sql("SELECT pk, failures FROM automation")
_DEAD_LETTERS = Sql("SELECT automation_id, n FROM dead_letter_count")
_HOURS = Sql("""
    SELECT bucket, state, sum(n) FROM run_tally
    WHERE bucket >= :bucket AND (:any = 1 OR automation_id = :pk) GROUP BY bucket, state""")
_LAST = Sql("""
    SELECT id, state, started_at, ended_at, seq FROM run
    WHERE automation_id = :pk AND state = :state ORDER BY seq DESC LIMIT 1""")
_RUNNING = Sql("""
    SELECT id, state, started_at, ended_at, seq FROM run WHERE automation_id = :pk AND state = 3
    ORDER BY seq DESC LIMIT 1""")
_FAILED = Sql("""
    SELECT id, reason, ended_at, error_class, message FROM run
    WHERE automation_id = :pk AND state = 6 AND state >= 5 ORDER BY seq DESC LIMIT :limit""")

_R, _D, _A, _S = schema.run.c, schema.run_detail.c, schema.automation.c, schema.solution.c
_RELEASED = (
    sa.select(sa.func.count())
    .where(schema.attempt.c.run_seq == _R.seq, schema.attempt.c.outcome.in_(lifecycle.COST_NOTHING))
    .correlate(schema.run)
    .scalar_subquery()
)
_SHOWN = (
    sa.select(
        *(_R.seq, _R.id, _R.automation_id, _R.state, _R.reason, _R.message, _R.error_class, _R.parameters, _R.result),
        *(_R.attempt, _R.max_attempts, _R.accepted_at, _R.queued_at, _R.started_at, _R.ended_at, _R.due_at),
        *(_R.expires_at, _R.cancel_at, _R.heartbeat_at, _R.holder, _R.copy_of, _R.replay_of),
        (_R.rank < 0).label("apart"),
        *(_D.priority, _D.fairness_key, _D.user_name, _D.labels, _D.reference, _D.schedule, _D.tick),
        *(_D.priority, _D.fairness_key, _D.user_name, _D.labels, _D.reference, _D.schedule, _D.tick, _D.reprocessing),
        _A.id.label("automation_text"),
        _S.id.label("solution_text"),
        _RELEASED.label("released"),
    )
    .select_from(schema.run)
    .outerjoin(schema.run_detail, _D.run_seq == _R.seq)
    .outerjoin(schema.automation, _A.pk == _R.automation_id)
    .outerjoin(schema.solution, _S.pk == _R.solution_id)
)


def get(transaction: Transaction, run_id: UUID) -> RunView | None:
    """One Run with everything."""
    row = transaction.connection.execute(_SHOWN.where(_R.id == run_id)).first()
    if row is None:
        return None
    attempts = tuple(_attempt(ended) for ended in transaction.all(_ATTEMPTS, {"seq": row.seq}))
    if row.started_at is not None and (not attempts or attempts[-1].attempt < row.attempt):
        attempts = (*attempts, _present_attempt(row))
    told = transaction.one(_PROGRESS, {"seq": row.seq})
    progress = None if told is None else Progress(told[0], told[1], told[2], from_micros(told[3]))
    return _view(row, attempts, progress)


def list_runs(transaction: Transaction, wanted: RunFilter, limit: int, cursor: str | None) -> Page:
    """A page, newest first."""
    limit = max(1, min(limit, MAX_PAGE))
    query = _SHOWN.where(*conditions(wanted, transaction)).order_by(_R.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(_R.seq < position(cursor))
    rows = transaction.connection.execute(query).all()
    items = tuple(_view(row) for row in rows[:limit])
    return Page(items, str(items[-1].seq) if len(rows) > limit else None)


def logs(transaction: Transaction, run_id: UUID, after: int, limit: int) -> list[LogLine]:
    """Lines with a greater number."""
    row = transaction.one(_SEQ, {"id": transaction.uuid(run_id)})
    if row is None:
        return []
    lines = transaction.all(_LOGS, {"seq": row[0], "after": after, "limit": limit})
    return [LogLine(n, from_micros(at), level, text, bool(act), attempt) for n, at, level, text, act, attempt in lines]


def last_params(transaction: Transaction, automation: int, user: str) -> Parameters | None:
    """Parameters of the user's last Run."""
    row = transaction.one(_LAST_PARAMETERS, {"automation": automation, "user": user})
    return None if row is None else json.loads(row[0])


def counts(transaction: Transaction, limits: dict[int, int], now: int) -> dict[int, Counts]:
    """Of every Automation. `limits`: pauseAfterFailures by key."""
    by_state = _numbers(transaction.all(_COUNTS))
    by_day = _numbers(transaction.all(_TALLY, {"bucket": _day_ago(now)}))
    failures = {row[0]: int(row[1]) for row in transaction.all(_PAUSES)}
    others = _Others(_dead_letters(transaction), unknown.counts(transaction, now))
    return {
        pk: _counts(by_state[pk], by_day[pk], failures.get(pk, 0), limits.get(pk, 0), others.of(pk))
        for pk in sorted(by_state.keys() | by_day.keys() | limits.keys() | others.letters.keys())
    }


def summary(transaction: Transaction, pk: int, pause_limit: int, now: int) -> Summary:
    """Of one Automation, with its last Run and failures."""
    by_state = _numbers(transaction.all(_COUNTS_OF, {"pk": pk}))
    by_day = _numbers(transaction.all(_TALLY_OF, {"pk": pk, "bucket": _day_ago(now)}))
    failures = {row[0]: int(row[1]) for row in transaction.all(_PAUSES)}
    failed = transaction.all(_FAILED, {"pk": pk, "limit": RECENT_FAILURES})
    others = _Others(_dead_letters(transaction), unknown.counts(transaction, now))
    return Summary(
        counts=_counts(by_state[pk], by_day[pk], failures.get(pk, 0), pause_limit, others.of(pk)),
        last_run=_last_run(transaction, pk),
        recent_failures=tuple(
            RecentFailure(as_uuid(id_), reason, from_micros(at), error_class, message)
            for id_, reason, at, error_class, message in failed
        ),
    )


def per_hour(transaction: Transaction, hours: int, pk: int | None, now: int) -> list[HourCount]:
    """Ended Runs by hour, the present one last."""
    first = (now // _HOUR - hours + 1) * _HOUR
    rows = transaction.all(_HOURS, {"bucket": first // BUCKET, "any": int(pk is None), "pk": pk or 0})
    found: dict[tuple[int, int], int] = defaultdict(int)
    for bucket, state, n in rows:
        found[bucket * BUCKET // _HOUR, state] += int(n)
    start = datetime.fromtimestamp(first / 1e6, UTC)
    return [
        HourCount(
            start + timedelta(hours=index),
            *(found[first // _HOUR + index, state] for state in (lifecycle.S, lifecycle.F, lifecycle.C)),
        )
        for index in range(hours)
    ]


def _day_ago(now: int) -> int:
    return (now - _DAY) // BUCKET


def _numbers(rows: list[Row]) -> dict[int, dict[int, int]]:
    numbers: dict[int, dict[int, int]] = defaultdict(dict)
    for pk, state, n in rows:
        numbers[pk][state] = int(n)
    return numbers


def _dead_letters(transaction: Transaction) -> dict[int, int]:
    """Those that nobody has redriven or discarded, by Automation; those of none under `observed.NOBODY`."""
    return {pk: int(n) for pk, n in transaction.all(_DEAD_LETTERS)}


class _Others(NamedTuple):
    """What is counted beside the Runs, by Automation."""

    letters: dict[int, int]
    unknown: dict[int, int]

    def of(self, pk: int) -> tuple[int, int]:
        return self.letters.get(pk, 0), self.unknown.get(pk, 0)


def _counts(states: dict[int, int], day: dict[int, int], failures: int, limit: int, others: tuple[int, int]) -> Counts:
    return Counts(
        pending=states.get(lifecycle.P, 0),
        queued=states.get(lifecycle.Q, 0),
        retrying=states.get(lifecycle.T, 0),
        held=states.get(lifecycle.H, 0),
        running=states.get(lifecycle.R, 0),
        succeeded_24h=day.get(lifecycle.S, 0),
        failed_24h=day.get(lifecycle.F, 0),
        canceled_24h=day.get(lifecycle.C, 0),
        failures_in_row=failures,
        paused=limit > 0 and failures >= limit,
        dead_lettered=others[0],
        unknown=others[1],
    )


def _last_run(transaction: Transaction, pk: int) -> LastRun | None:
    """The newest Run that began or ended: one probe of an index for each state."""
    found = [transaction.one(_LAST_OF[state], {"pk": pk}) for state in _LAST_OF]
    rows = [row for row in found if row is not None]
    if not rows:
        return None
    id_, state, started_at, ended_at, _ = max(rows, key=lambda row: int(row[4]))
    return LastRun(as_uuid(id_), RunState.of(state), _time(started_at), _time(ended_at))


def _last_of(state: int) -> Sql:
    # the state stands in the text, so that the partial index on ended Runs serves it
    return Sql(f"""
        SELECT id, state, started_at, ended_at, seq FROM run
        WHERE automation_id = :pk AND state = {state} AND state >= 5 ORDER BY seq DESC LIMIT 1""")  # noqa: S608


_LAST_OF = {state: _last_of(state) for state in (lifecycle.S, lifecycle.F, lifecycle.C)} | {lifecycle.R: _RUNNING}


def conditions(wanted: RunFilter, transaction: Transaction) -> list[sa.ColumnElement[bool]]:
    """What a filter says of the columns of `run` and `run_detail`."""
    found: list[sa.ColumnElement[bool]] = []
    if wanted.states is not None:
        found.append(_R.state.in_(sorted(state.code for state in wanted.states)))
    found += [sa.or_(_R.state != state.code, _R.reason == reason) for state, reason in wanted.reasons.items()]
    if wanted.automations is not None:
        found.append(_R.automation_id.in_(sorted(wanted.automations)))
    if wanted.since is not None:
        found.append(_R.accepted_at >= to_micros(wanted.since))
    if wanted.until is not None:
        found.append(_R.accepted_at < to_micros(wanted.until))
    if wanted.apart is not None:
        found.append(_R.rank < 0 if wanted.apart else _R.rank >= 0)
    equal: list[tuple[sa.ColumnElement[Any], Any]] = [
        (_D.user_name, wanted.user),
        (_D.reference, wanted.reference),
        (_D.schedule, wanted.schedule),
        (_R.copy_of, wanted.copy_of),
        (_R.replay_of, wanted.replay_of),
    ]
    found += [column == value for column, value in equal if value is not None]
    found += [_label(transaction, name) == value for name, value in wanted.labels.items()]
    return found


def _label(transaction: Transaction, name: str) -> sa.ColumnElement[Any]:
    if transaction.sqlite:
        quoted = name.replace('"', '""')
        return sa.func.json_extract(_D.labels, f'$."{quoted}"')
    return sa.cast(_D.labels, JSONB).op("->>")(name)


def position(cursor: str) -> int:
    """The number in a cursor. Raises ValueError for one that no listing gave."""
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise ValueError("cursor: not one that a listing gave")
    return int(cursor)


def _view(row: Any, attempts: tuple[AttemptView, ...] = (), progress: Progress | None = None) -> RunView:
    return RunView(
        id=row.id,
        seq=row.seq,
        automation=row.automation_id,
        automation_id=row.automation_text or "",
        solution_id=row.solution_text or "",
        state=RunState.of(row.state),
        reason=row.reason,
        message=row.message,
        error_class=row.error_class,
        parameters=json.loads(row.parameters),
        result=None if row.result is None else json.loads(row.result),
        attempt=row.attempt,
        # each of these has raised the row's limit by one
        max_attempts=row.max_attempts - row.released,
        released=row.released,
        accepted_at=from_micros(row.accepted_at),
        queued_at=_time(row.queued_at),
        started_at=_time(row.started_at),
        ended_at=_time(row.ended_at),
        due_at=_time(row.due_at),
        expires_at=_time(row.expires_at),
        cancel_requested_at=_time(row.cancel_at),
        last_heartbeat_at=_time(row.heartbeat_at),
        holder=row.holder,
        priority=row.priority or 0,
        fairness_key=row.fairness_key,
        user=row.user_name,
        labels={} if row.labels is None else json.loads(row.labels),
        reference=row.reference,
        schedule=row.schedule,
        tick=_time(row.tick),
        copy_of=as_uuid_or_none(row.copy_of),
        replay_of=as_uuid_or_none(row.replay_of),
        apart=bool(row.apart),
        reprocessing=row.reprocessing,
        progress=progress,
        attempts=attempts,
    )


def _attempt(row: Row) -> AttemptView:
    number, holder, started_at, ended_at, outcome, reason, message = row
    return AttemptView(number, holder, _time(started_at), _time(ended_at), outcome, reason, message)


def _present_attempt(row: Any) -> AttemptView:
    """The attempt that runs, or that ended the Run: it stands in the Run's own row."""
    state = RunState.of(row.state)
    ended = state.ended
    return AttemptView(
        attempt=row.attempt,
        holder=row.holder,
        started_at=_time(row.started_at),
        ended_at=_time(row.ended_at),
        outcome=state.value.lower() if ended else None,
        reason=row.reason if ended else None,
        message=row.message if ended else None,
    )


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_micros(value)
