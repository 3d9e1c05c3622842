"""Dead letters in the store: recorded once each, with what they do to their Run; listed, redriven, discarded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from maestro.runs import dispatch, redrive, restored, schema
from maestro.runs.changes import Changes, Tracked
from maestro.runs.database import Sql, Transaction, as_json, as_uuid_or_none
from maestro.runs.letters import Letter
from maestro.runs.lifecycle import Event, Happening
from maestro.runs.model import RunPolicy, from_micros, micros, to_micros
from maestro.runs.queries import MAX_PAGE, position
from maestro.runs.redrive import Redrive, Redriven
from maestro.runs.registry import Registry
from maestro.runtime import metrics

if TYPE_CHECKING:
    from maestro.runs.store import RunStore

PRUNE_BATCH = 200
_KEPT_SECONDS = RunPolicy().failed_ttl
"""How long letters of no Automation are kept."""
_REASONS = frozenset({"rejected", "expired", "maxlen", "delivery_limit", "published"})

_NEXT_TWIN = Sql("SELECT coalesce(max(twin) + 1, 0) FROM dead_letter WHERE identity = :identity")
_INSERT = Sql("""
    INSERT INTO dead_letter (identity, twin, automation_id, run_id, queue, reason, count, store, pub, message_id,
                             content_type, headers, body, size, died_at, at)
    VALUES (:identity, :twin, :automation, :run, :queue, :reason, :count, :store, :pub, :message_id, :content_type,
            :headers, :body, :size, :died_at, :at)
    ON CONFLICT (identity, twin) DO NOTHING RETURNING seq""")
_COUNT = Sql("""
    INSERT INTO dead_letter_count (automation_id, n) VALUES (:automation, :n)
    ON CONFLICT (automation_id) DO UPDATE SET n = dead_letter_count.n + excluded.n""")
_TAKE = Sql("SELECT automation_id, redriven_at FROM dead_letter WHERE seq = :seq {lock}")
_DELETE = Sql("DELETE FROM dead_letter WHERE seq = :seq")
_OLD = Sql("SELECT seq, at FROM dead_letter WHERE automation_id = :automation ORDER BY seq LIMIT :batch")
_OLD_OF_NONE = Sql("SELECT seq, at FROM dead_letter WHERE automation_id IS NULL ORDER BY seq LIMIT :batch")
_OWNERS = Sql("SELECT automation_id FROM dead_letter_count")
_BODY = Sql("SELECT body FROM dead_letter WHERE seq = :seq")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it is kept; `body` only where one letter is asked for.

    `automation` is the key in the store of the Automation whose Run, or whose queue, it is about.
    """

    seq: int
    automation: int | None
    automation_id: str | None
    run_id: UUID | None
    queue: str
    reason: str
    count: int
    pub: int | None
    message_id: str | None
    content_type: str | None
    headers: Mapping[str, Any]
    size: int
    died_at: datetime | None
    at: datetime
    redriven_at: datetime | None
    redriven_as: UUID | None
    redriven_by: str | None
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters; all given fields must match. `since` and `until` are about when they were recorded."""

    automations: frozenset[int] | None = None
    queue: str | None = None
    reason: str | None = None
    run_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    redriven: bool | None = None


@dataclass(frozen=True, slots=True)
class LetterPage:
    """A page of letters without their bodies, newest first; `cursor` asks for the next one, None ends."""

    items: tuple[DeadLetter, ...]
    cursor: str | None


class DeadLetters:
    """The store's dead letters. Every method may raise StoreUnavailable."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    async def record(self, letters: Sequence[Letter], *, epoch: int | None, store_id: str) -> int:
        """Keep letters and let their Runs know, in one transaction; one that is kept already changes nothing.

        Returns how many were new. Raises StaleEpoch.
        """

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            return _Recording(self._store.changes(transaction), self._store.registry, store_id).record(letters)

        return await self._store.write(write, len(letters))

    async def get(self, seq: int) -> DeadLetter | None:
        """One letter with its body."""

        def read(transaction: Transaction) -> DeadLetter | None:
            row = transaction.connection.execute(_SHOWN.where(_L.seq == seq)).first()
            body = transaction.one(_BODY, {"seq": seq})
            return None if row is None or body is None else _view(row, bytes(body[0]))

        return await self._store.read(read)

    async def page(self, wanted: LetterFilter, limit: int = 50, cursor: str | None = None) -> LetterPage:
        """Letters, newest first. Raises ValueError for a cursor that isn't one of ours."""
        limit = max(1, min(limit, MAX_PAGE))
        query = _SHOWN.where(*_conditions(wanted)).order_by(_L.seq.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(_L.seq < position(cursor))

        def read(transaction: Transaction) -> LetterPage:
            rows = transaction.connection.execute(query).all()
            items = tuple(_view(row) for row in rows[:limit])
            return LetterPage(items, str(items[-1].seq) if len(rows) > limit else None)

        return await self._store.read(read)

    async def redrive(self, wanted: Redrive) -> Redriven:
        """Let a letter's Run go again, or make it one; once. Raises NoSuchLetter, NotRedrivable, Backlog."""
        return await self._store.write(
            lambda transaction: redrive.redrive(self._store.changes(transaction), self._store, wanted)
        )

    async def discard(self, seqs: Sequence[int]) -> int:
        """Delete letters for good; how many there were."""
        return await self._store.write(lambda transaction: _discard(transaction, seqs), len(seqs))

    async def prune(self, now: datetime, *, epoch: int | None = None) -> int:
        """Delete a small batch of what is older than `history.failed.ttl` of its Automation. How many went: call it
        again while it isn't 0."""

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            return _prune(transaction, self._store.registry, to_micros(now))

        return await self._store.write(write)


# -- recording ------------------------------------------------------------------------------------------------------


class _Recording:
    """Letters of one transaction."""

    def __init__(self, changes: Changes, registry: Registry, store_id: str) -> None:
        self._changes = changes
        self._transaction = changes.transaction
        self._registry = registry
        self._store_id = store_id
        self._queues = {
            known.registration.queue: known.pk
            for known in sorted(registry.everything(), key=lambda known: (not known.deleted, known.pk))
            if known.registration.queue is not None
        }

    def record(self, letters: Sequence[Letter]) -> int:
        runs = self._changes.load_ids({letter.run_id for letter in letters if letter.run_id is not None})
        counts: dict[int, int] = defaultdict(int)
        seen: list[tuple[int | None, str]] = []
        for letter in letters:
            run = self._run_of(letter, runs)
            automation = run.automation if run is not None else self._queues.get(letter.queue)
            seq = self._insert(letter, automation, run)
            if seq is None:
                continue
            counts[automation or 0] += 1
            seen.append((automation, letter.reason))
            if run is not None:
                self._tell_run(letter, run, seq)
        told = [letter.publication for letter in letters if letter.publication is not None]
        if told:
            restored.notice(self._transaction, told, self._changes.now)
        self._changes.flush()
        self._transaction.many(_COUNT, [{"automation": key, "n": n} for key, n in sorted(counts.items())])
        self._transaction.after_commit.append(lambda: self._observe(seen))
        return len(seen)

    def _run_of(self, letter: Letter, runs: Mapping[UUID, Tracked]) -> Tracked | None:
        """The Run that a letter speaks of. A letter of another queue than the Run's own speaks of it in vain: whoever
        may publish there could name any Run."""
        run = None if letter.run_id is None else runs.get(letter.run_id)
        if run is None:
            return None
        registration = self._registry.known(self._transaction, run.automation).registration
        return run if registration.queue == letter.queue else None

    def _insert(self, letter: Letter, automation: int | None, run: Tracked | None) -> int | None:
        """The letter's number; None where it is kept already."""
        row = self._transaction.one(
            _INSERT,
            {
                "identity": letter.identity,
                "twin": self._twin(letter),
                "automation": automation,
                "run": None if run is None else self._transaction.uuid(run.id),
                "queue": letter.queue,
                "reason": letter.reason,
                "count": letter.count,
                "store": letter.store,
                "pub": letter.pub,
                "message_id": letter.message_id,
                "content_type": letter.content_type,
                "headers": as_json(letter.headers),
                "body": letter.body,
                "size": len(letter.body),
                "died_at": letter.died_at,
                "at": self._changes.now,
            },
        )
        return None if row is None else int(row[0])

    def _twin(self, letter: Letter) -> int:
        """One that comes for the first time is another one, however alike; one that comes again may be kept already."""
        if letter.distinct or letter.redelivered:
            return 0
        row = self._transaction.one(_NEXT_TWIN, {"identity": letter.identity})
        return 0 if row is None else int(row[0])

    def _tell_run(self, letter: Letter, run: Tracked, seq: int) -> None:
        if letter.pub is None or letter.store != self._store_id:
            return  # not a publication of this store's: it says nothing about where the Run stands
        message = f"queue {letter.queue} gave its message up ({letter.reason}); see dead letter {seq}"
        self._changes.happen(
            run, Happening(Event.DEAD_LETTER, pub=letter.pub, reason=letter.reason, error={"message": message})
        )

    def _observe(self, seen: Sequence[tuple[int | None, str]]) -> None:
        for automation, reason in seen:
            known = None if automation is None else self._registry.get(automation)
            metrics.DEAD_LETTERS_RECORDED.labels(
                "" if known is None else known.registration.id, reason if reason in _REASONS else "other"
            ).inc()


# -- deleting -------------------------------------------------------------------------------------------------------


def _discard(transaction: Transaction, seqs: Sequence[int]) -> int:
    counts: dict[int, int] = defaultdict(int)
    gone = 0
    for seq in sorted(seqs):
        row = transaction.one(_TAKE, {"seq": seq})
        if row is None:
            continue
        gone += transaction.run(_DELETE, {"seq": seq})
        if row[1] is None:
            counts[row[0] or 0] -= 1
    transaction.many(_COUNT, [{"automation": key, "n": n} for key, n in sorted(counts.items())])
    return gone


def _prune(transaction: Transaction, registry: Registry, now: int) -> int:
    old: list[int] = []
    for (owner,) in transaction.all(_OWNERS):
        known = registry.get(owner)
        kept = _KEPT_SECONDS if known is None else known.registration.policy.failed_ttl
        oldest = transaction.all(
            _OLD if owner else _OLD_OF_NONE, {"automation": owner, "batch": PRUNE_BATCH - len(old)}
        )
        old += [seq for seq, at in oldest if at < now - micros(kept)]
    return _discard(transaction, old)


# -- looking --------------------------------------------------------------------------------------------------------

_L, _A = schema.dead_letter.c, schema.automation.c
_SHOWN = sa.select(
    *(column for column in _L if column.name not in ("body", "identity", "twin", "store")),
    _A.id.label("automation_text"),
).select_from(sa.outerjoin(schema.dead_letter, schema.automation, _A.pk == _L.automation_id))


def _conditions(wanted: LetterFilter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.automations is not None:
        conditions.append(_L.automation_id.in_(sorted(wanted.automations)))
    if wanted.redriven is not None:
        conditions.append(_L.redriven_at.is_not(None) if wanted.redriven else _L.redriven_at.is_(None))
    if wanted.since is not None:
        conditions.append(_L.at >= to_micros(wanted.since))
    if wanted.until is not None:
        conditions.append(_L.at < to_micros(wanted.until))
    equal: list[tuple[sa.ColumnElement[Any], Any]] = [
        (_L.queue, wanted.queue),
        (_L.reason, wanted.reason),
        (_L.run_id, wanted.run_id),
    ]
    return conditions + [column == value for column, value in equal if value is not None]


def _view(row: Any, body: bytes = b"") -> DeadLetter:
    return DeadLetter(
        seq=row.seq,
        automation=row.automation_id,
        automation_id=row.automation_text,
        run_id=as_uuid_or_none(row.run_id),
        queue=row.queue,
        reason=row.reason,
        count=row.count,
        pub=row.pub,
        message_id=row.message_id,
        content_type=row.content_type,
        headers=json.loads(row.headers),
        size=row.size,
        died_at=_time(row.died_at),
        at=from_micros(row.at),
        redriven_at=_time(row.redriven_at),
        redriven_as=as_uuid_or_none(row.redriven_as),
        redriven_by=row.redriven_by,
        body=body,
    )


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_micros(value)
