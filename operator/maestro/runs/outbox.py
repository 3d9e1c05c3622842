"""What people are to be told of Automations: found in the store, kept until it is sent.

What happened is read from the Runs themselves, up to a mark for each Automation, and the mark moves in the transaction
that writes what is to be told: a crash loses nothing of it. Several failures since the last look are told in one go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from maestro.runs import dispatch
from maestro.runs.database import Sql, Transaction, as_uuid
from maestro.runs.store import RunStore

Event = Literal["Failed", "Recovered", "DeadLettered", "Paused"]

ATTEMPTS = 8
SETTLED = 5_000_000
"""Microseconds after which every transaction that said 'ended now' is taken to be committed."""
_FIRST_WAIT, _LONGEST_WAIT = 30_000_000, 3_600_000_000
_LOOKED_AT = 1000

_MARK = Sql("SELECT since, failing, letters, paused FROM notify_mark WHERE automation_id = :pk")
_SET_MARK = Sql("""
    INSERT INTO notify_mark (automation_id, since, failing, letters, paused)
    VALUES (:pk, :since, :failing, :letters, :paused)
    ON CONFLICT (automation_id) DO UPDATE SET since = excluded.since, failing = excluded.failing,
        letters = excluded.letters, paused = excluded.paused""")
_FAILED = Sql("""
    SELECT id, reason, error_class, message, ended_at FROM (
        SELECT id, reason, error_class, message, ended_at, seq FROM run
        WHERE automation_id = :pk AND state = 6 AND state >= 5 ORDER BY seq DESC LIMIT :limit
    ) found WHERE ended_at > :since AND ended_at <= :until ORDER BY ended_at DESC""")
_SUCCEEDED = Sql("""
    SELECT id, ended_at FROM (
        SELECT id, ended_at, seq FROM run
        WHERE automation_id = :pk AND state = 5 AND state >= 5 ORDER BY seq DESC LIMIT :limit
    ) found WHERE ended_at > :since AND ended_at <= :until ORDER BY ended_at DESC LIMIT 1""")
_LETTERS = Sql("SELECT count(*), max(seq) FROM dead_letter WHERE automation_id = :pk AND seq > :letters")
_LATEST_LETTER = Sql("SELECT coalesce(max(seq), 0) FROM dead_letter")
_TELL = Sql("""
    INSERT INTO notification (automation_id, target, event, title, body, created_at, attempts, next_at)
    VALUES (:pk, :target, :event, :title, :body, :at, 0, :at)""")
_DUE = Sql("""
    SELECT pk, automation_id, target, event, title, body, attempts FROM notification
    WHERE next_at <= :now ORDER BY next_at, pk LIMIT :limit""")
_DONE = Sql("DELETE FROM notification WHERE pk = :pk")
_LATER = Sql("UPDATE notification SET attempts = attempts + 1, next_at = :next_at WHERE pk = :pk")


@dataclass(frozen=True, slots=True)
class Told:
    """Somebody who is told of some events of one Automation; the name is that of the entry in `notifications`."""

    name: str
    events: frozenset[Event]


@dataclass(frozen=True, slots=True)
class Watched:
    """An Automation with notifications: its key in the store, its id, whom to tell, whether it is paused now."""

    key: int
    automation_id: str
    told: Sequence[Told]
    paused: bool


@dataclass(frozen=True, slots=True)
class Notification:
    """Something to be sent. `attempts`: how often it failed so far."""

    pk: int
    automation: int
    target: str
    event: Event
    title: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class _Mark:
    since: int
    failing: bool
    letters: int
    paused: bool


class Outbox:
    """The store's notifications. Every method may raise StoreUnavailable, those with an epoch StaleEpoch."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    async def look(self, watched: Collection[Watched], now: int, *, epoch: int | None) -> int:
        """Write down what is to be told since the last look (`now`: microseconds); how many notifications that is."""

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            return sum(_look(transaction, one, now) for one in watched)

        return await self._store.write(write)

    async def due(self, now: int, limit: int = 20) -> list[Notification]:
        """What is to be sent now, the oldest first."""
        rows = await self._store.read(lambda transaction: transaction.all(_DUE, {"now": now, "limit": limit}))
        return [Notification(*row) for row in rows]

    async def done(self, notification: Notification, *, epoch: int | None) -> None:
        """It was sent, or is given up."""

        def write(transaction: Transaction) -> None:
            dispatch.fence(transaction, epoch)
            transaction.run(_DONE, {"pk": notification.pk})

        await self._store.write(write)

    async def failed(self, notification: Notification, now: int, *, epoch: int | None) -> bool:
        """It couldn't be sent: again later, each time after a longer wait. False: that was the last try."""
        if notification.attempts + 1 >= ATTEMPTS:
            await self.done(notification, epoch=epoch)
            return False
        wait = min(_FIRST_WAIT * 2**notification.attempts, _LONGEST_WAIT)

        def write(transaction: Transaction) -> None:
            dispatch.fence(transaction, epoch)
            transaction.run(_LATER, {"pk": notification.pk, "next_at": now + wait})

        await self._store.write(write)
        return True


def _look(transaction: Transaction, watched: Watched, now: int) -> int:
    until = now - SETTLED
    row = transaction.one(_MARK, {"pk": watched.key})
    if row is None:
        # Nobody is told of what was before somebody wanted to know.
        latest = transaction.one(_LATEST_LETTER)
        _remember(transaction, watched, _Mark(until, False, int(latest[0]) if latest else 0, watched.paused))
        return 0
    mark = _Mark(int(row[0]), bool(row[1]), int(row[2]), bool(row[3]))
    found: list[tuple[Event, str]] = []
    span = {"pk": watched.key, "since": mark.since, "until": until, "limit": _LOOKED_AT}
    failures = transaction.all(_FAILED, span)
    succeeded = transaction.one(_SUCCEEDED, span)
    failing = mark.failing or bool(failures)
    if failures:
        found.append(("Failed", _failures(failures)))
    if succeeded is not None and failing and (not failures or int(succeeded[1]) > int(failures[0][4])):
        found.append(("Recovered", f"Run {as_uuid(succeeded[0])} succeeded after failures."))
        failing = False
    count, last = transaction.one(_LETTERS, {"pk": watched.key, "letters": mark.letters}) or (0, None)
    if count:
        found.append(("DeadLettered", f"{count} new dead letter{'s' if count > 1 else ''}, the last one is {last}."))
    if watched.paused and not mark.paused:
        found.append(("Paused", "So many Runs failed in a row that nothing more is dispatched (condition Paused)."))
    _remember(transaction, watched, _Mark(max(until, mark.since), failing, int(last or mark.letters), watched.paused))
    rows = [
        {
            "pk": watched.key,
            "target": told.name,
            "event": event,
            "title": f"Maestro: {watched.automation_id} {event}",
            "body": body,
            "at": now,
        }
        for event, body in found
        for told in watched.told
        if event in told.events
    ]
    transaction.many(_TELL, rows)
    return len(rows)


def _failures(rows: Sequence[tuple[object, ...]]) -> str:
    run, reason, error_class, message, _ = rows[0]
    what = " ".join(str(word) for word in (reason, error_class) if word)
    id_ = run if isinstance(run, UUID) else as_uuid(run)
    first = f"Run {id_} failed: {what}." + (f" {str(message)[:500]}" if message else "")
    others = len(rows) - 1
    more = f" {others} more failed since the last message." if others else ""
    return first + more


def _remember(transaction: Transaction, watched: Watched, mark: _Mark) -> None:
    transaction.run(
        _SET_MARK,
        {
            "pk": watched.key,
            "since": mark.since,
            "failing": int(mark.failing),
            "letters": mark.letters,
            "paused": int(mark.paused),
        },
    )
