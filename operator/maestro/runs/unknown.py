"""Runs that workers speak of and the store doesn't know: recorded, listed, accepted again, discarded.

A store that was restored from a backup doesn't know what was accepted since. What such a Run's parameters were, and
whether it has ended, stands nowhere but in what its worker said: that is kept, and a person decides.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from maestro.runs.database import Doors, Sql, Transaction, as_uuid, clean
from maestro.runs.model import from_micros, micros
from maestro.runs.reports import Report
from maestro.runs.restored import last_noticed

KEPT = micros(7 * 24 * 3600)
"""How long a record is kept after the last word about its Run."""
_BEFORE = micros(3600)
"""Workers may have spoken of some before it was noticed that the store was restored."""
MOST = 100_000
"""Records at a time: a worker that makes ids up must not fill the disk."""
_RECORD = Sql("""
    INSERT INTO unknown_run (id, op, worker, at, automation_id, first_at, said, store, epoch, pub)
    VALUES (:id, :op, :worker, :at, :automation, :at, :said, :store, :epoch, :pub)
    ON CONFLICT (id) DO UPDATE
    SET op = excluded.op, worker = excluded.worker, at = excluded.at,
        automation_id = coalesce(excluded.automation_id, unknown_run.automation_id),
        said = coalesce(excluded.said, unknown_run.said), store = coalesce(excluded.store, unknown_run.store),
        epoch = coalesce(excluded.epoch, unknown_run.epoch), pub = coalesce(excluded.pub, unknown_run.pub)""")
_COUNT = Sql("SELECT count(*) FROM unknown_run")
_COLUMNS = "id, op, worker, at, automation_id, first_at, said, store, epoch, pub"
_ONE = Sql(f"SELECT {_COLUMNS} FROM unknown_run WHERE id = :id")  # noqa: S608 - our own columns
_LIST = Sql(f"""
    SELECT {_COLUMNS} FROM unknown_run WHERE (:any = 1 OR automation_id {{in :automations}})
    ORDER BY at DESC, id LIMIT :limit""")  # noqa: S608 - our own columns
_DISCARD = Sql("DELETE FROM unknown_run WHERE id = :id")
_BY_AUTOMATION = Sql("""
    SELECT automation_id, count(*) FROM unknown_run
    WHERE automation_id IS NOT NULL AND at >= :since GROUP BY automation_id""")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnknownRun:
    """What is known of a Run that the store doesn't know.

    Attributes
    ----------
    automation
        Whose worker spoke of it; None where nobody can tell (a worker with the shared key).
    op, worker
        The last thing that was said, and by whom.
    said
        How it ended, in the words of a worker that finished it: `completed`, `failed`, …; None: none has.
    store, epoch, pub
        Of the message that it was started from.
    """

    id: UUID
    automation: int | None
    op: str
    worker: str | None
    first_at: datetime
    last_at: datetime
    said: str | None
    store: str | None
    epoch: int | None
    pub: int | None


def record(transaction: Transaction, reports: Sequence[Report], now: int) -> None:
    """Keep what was said, the last word of each Run last."""
    if not reports:
        return
    count = transaction.one(_COUNT)
    if count is not None and count[0] >= MOST:
        _log.warning("%d Runs that the store doesn't know are recorded, the most it keeps", count[0])
        return
    transaction.many(_RECORD, [_row(transaction, report, now) for report in sorted(reports, key=lambda r: r.job)])


def _row(transaction: Transaction, report: Report, now: int) -> dict[str, Any]:
    known_caller = report.caller is not None and report.caller >= 0
    return {
        "id": transaction.uuid(report.job),
        "op": report.op,
        "worker": clean(report.worker),
        "at": now,
        "automation": report.caller if known_caller else None,
        "said": report.status,
        "store": clean(report.store),
        "epoch": report.epoch,
        "pub": report.pub,
    }


def counts(transaction: Transaction, now: int) -> dict[int, int]:
    """Records by Automation, while the store counts as restored; empty in a store that never was."""
    noticed_at = last_noticed(transaction)
    if noticed_at < now - KEPT:
        return {}
    return {pk: int(n) for pk, n in transaction.all(_BY_AUTOMATION, {"since": noticed_at - _BEFORE})}


class UnknownRuns:
    """What people do about them."""

    def __init__(self, store: Doors) -> None:
        self._store = store

    async def list(self, automations: Collection[int] | None = None, limit: int = 100) -> list[UnknownRun]:
        """Those of some Automations, or all; what was spoken of last comes first."""
        wanted = {"any": int(automations is None), "automations": sorted(automations or ()), "limit": limit}
        return await self._store.read(lambda transaction: [_view(row) for row in transaction.all(_LIST, wanted)])

    async def get(self, run_id: UUID) -> UnknownRun | None:
        """One of them."""

        def look(transaction: Transaction) -> UnknownRun | None:
            row = transaction.one(_ONE, {"id": transaction.uuid(run_id)})
            return None if row is None else _view(row)

        return await self._store.read(look)

    async def discard(self, run_id: UUID) -> bool:
        """Forget a record. False: there was none."""
        return bool(await self._store.write(lambda t: t.run(_DISCARD, {"id": t.uuid(run_id)})))


def _view(row: tuple[Any, ...]) -> UnknownRun:
    run_id, op, worker, at, automation, first_at, said, store, epoch, pub = row
    return UnknownRun(
        id=as_uuid(run_id),
        automation=automation,
        op=op,
        worker=worker,
        first_at=from_micros(at if first_at is None else first_at),
        last_at=from_micros(at),
        said=said,
        store=store,
        epoch=epoch,
        pub=pub,
    )
