"""The same for many Runs that a filter chooses: a batch from a place on, so that it can be gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from maestro.runs import queries, schema
from maestro.runs.changes import Changes
from maestro.runs.database import Sql, Transaction
from maestro.runs.lifecycle import Event, Happening
from maestro.runs.model import RunFilter, RunState
from maestro.runs.reporting import happen_to
from maestro.runs.reports import CancelAnswer

_LATEST = Sql("SELECT coalesce(max(seq), 0) FROM run")
_R, _D = schema.run.c, schema.run_detail.c


@dataclass(frozen=True, slots=True)
class Chosen:
    """A Run that a filter chose: its number (they grow in order of acceptance), its id, its Automation's key."""

    seq: int
    id: UUID
    automation: int


def latest(transaction: Transaction) -> int:
    """The number of the Run that was accepted last; 0: there is none."""
    row = transaction.one(_LATEST)
    return int(row[0]) if row else 0


def newest(transaction: Transaction, wanted: RunFilter, limit: int, below: int) -> list[Chosen]:
    """Up to `limit` Runs with numbers less than `below`, the newest first."""
    return _chosen(transaction, wanted, limit, _R.seq < below, _R.seq.desc())


def oldest(transaction: Transaction, wanted: RunFilter, limit: int, above: int, until: int) -> list[Chosen]:
    """Up to `limit` Runs with numbers greater than `above` and not greater than `until`, the oldest first."""
    return _chosen(transaction, wanted, limit, sa.and_(_R.seq > above, _R.seq <= until), _R.seq)


def cancel(changes: Changes, seqs: Sequence[int], *, force: bool) -> dict[int, CancelAnswer]:
    """Cancels Runs, or asks them to stop; an answer for each number that there still is."""
    happening = Happening(Event.CANCEL, why="Canceled", force=force)
    found = happen_to(changes, seqs, happening)
    changes.flush()
    return {
        run.seq: CancelAnswer(step.status, RunState.of(run.run.state), step.reason or run.run.reason)
        for run, step in found
    }


def _chosen(
    transaction: Transaction, wanted: RunFilter, limit: int, place: sa.ColumnElement[bool], order: object
) -> list[Chosen]:
    query = (
        sa.select(_R.seq, _R.id, _R.automation_id)
        .select_from(schema.run)
        .outerjoin(schema.run_detail, _D.run_seq == _R.seq)
        .where(place, *queries.conditions(wanted, transaction))
        .order_by(order)  # type: ignore[arg-type]
        .limit(limit)
    )
    return [Chosen(row.seq, row.id, row.automation_id) for row in transaction.connection.execute(query)]
