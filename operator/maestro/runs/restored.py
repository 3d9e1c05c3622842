"""A store that was restored from a backup older than the broker's messages: how that is noticed, and what follows.

Messages carry the store's id and a publication number. A number that the store has yet to give out, or an epoch that
it has yet to reach, can only come from its own lost future; the id of another store from one that was put in its
place. Then the numbers mean nothing any more: they are given out a second time. So the store gets a new id, which sets
its messages apart from the older ones, and everything that is Queued is published again: what the backup holds for
Queued may have been taken from its queue since.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from maestro.runs.database import Doors, Sql, Transaction, as_uuid_or_none
from maestro.runs.errors import StaleEpoch
from maestro.runs.model import Leadership, from_micros, micros, to_micros
from maestro.runtime.clock import Clock

AHEAD, FOREIGN, COMMAND, RENEWED = "Ahead", "Foreign", "Command", "Renewed"
PAUSE = micros(600)
"""The store begins anew at most so often: a worker that makes numbers up mustn't have everything published for ever."""
_MOST_IDS = 1000
_LEADER = Sql("SELECT store_id, epoch, next_pub FROM leader WHERE id = 1")
_KNOWN = Sql("SELECT id FROM former_store WHERE id {in :ids}")
_COUNT = Sql("SELECT count(*) FROM former_store")
_NOTICE = Sql("""
    INSERT INTO former_store (id, how, epoch, pub, run_id, noticed_at, handled_at)
    VALUES (:id, :how, :epoch, :pub, :run_id, :now, NULL) ON CONFLICT (id) DO NOTHING""")
_OPEN = Sql("""
    SELECT id, how, epoch, pub, run_id, noticed_at FROM former_store
    WHERE handled_at IS NULL ORDER BY noticed_at, id LIMIT 1""")
_LAST = Sql(
    "SELECT coalesce(max(noticed_at), 0), coalesce(max(handled_at), 0) FROM former_store WHERE how <> 'Renewed'"
)
_HANDLED = Sql("UPDATE former_store SET handled_at = :now WHERE handled_at IS NULL")
_REMEMBER = Sql("""
    INSERT INTO former_store (id, how, epoch, pub, run_id, noticed_at, handled_at)
    VALUES (:id, :how, :epoch, :pub, NULL, :now, :now)
    ON CONFLICT (id) DO UPDATE SET handled_at = excluded.handled_at""")
_RENEW = Sql("""
    UPDATE leader SET store_id = :id, confirmed_pub = 0 WHERE id = 1
    RETURNING epoch, store_id, next_pub, confirmed_pub""")
_LOCK = Sql("SELECT store_id, epoch, next_pub FROM leader WHERE id = 1 {lock}")
_FORGET_STARTED = Sql("DELETE FROM run_started")


class Publication(NamedTuple):
    """What a message said of itself, as a worker or a dead letter tells it."""

    store: str
    epoch: int | None
    pub: int | None
    run: UUID | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """Why the store is taken for a restored one.

    Attributes
    ----------
    how
        `Ahead`: a message's number or epoch is yet to come here; `Foreign`: a message of another store.
    publication
        The message that showed it.
    """

    how: str
    publication: Publication
    noticed_at: datetime


def notice(transaction: Transaction, told: Iterable[Publication], now: int) -> str:
    """Look at what messages said; note what shows that the store was restored. Returns the store's present id."""
    row = transaction.one(_LEADER)
    assert row is not None, "the leader's row is made when the store is opened"
    store_id, epoch, next_pub = str(row[0]), int(row[1]), int(row[2])
    found: dict[str, tuple[str, Publication]] = {}
    for publication in told:
        if publication.store != store_id:
            found.setdefault(publication.store, (FOREIGN, publication))
        elif (publication.epoch or 0) > epoch or (publication.pub or 0) >= next_pub:
            found.setdefault(store_id, (AHEAD, publication))
    if found:
        _note(transaction, found, now)
    return store_id


def _note(transaction: Transaction, found: dict[str, tuple[str, Publication]], now: int) -> None:
    known = {row[0] for row in transaction.all(_KNOWN, {"ids": sorted(found)})}
    count = transaction.one(_COUNT)
    if known.issuperset(found) or (count is not None and count[0] >= _MOST_IDS):
        return
    for store, (how, publication) in sorted(found.items()):
        row = {"id": store, "how": how, "epoch": publication.epoch, "pub": publication.pub, "now": now}
        transaction.run(_NOTICE, {**row, "run_id": transaction.uuid(publication.run)})


def mark(transaction: Transaction, now: int) -> None:
    """Note that the store was restored, because a person says so."""
    row = transaction.one(_LEADER)
    assert row is not None, "the leader's row is made when the store is opened"
    told = {"id": row[0], "how": COMMAND, "epoch": row[1], "pub": row[2] - 1, "run_id": None, "now": now}
    transaction.run(_NOTICE, told)


def noticed(transaction: Transaction, now: int) -> Restored | None:
    """What was noticed and nothing followed yet; None also while the last time is less than `PAUSE` ago."""
    row = transaction.one(_OPEN)
    if row is None:
        return None
    last = transaction.one(_LAST)
    if last is not None and now - int(last[1]) < PAUSE:
        return None
    store, how, epoch, pub, run_id, at = row
    return Restored(how, Publication(store, epoch, pub, as_uuid_or_none(run_id)), from_micros(at))


def last_noticed(transaction: Transaction) -> int:
    """When it was last noticed, or done by command; 0: never."""
    row = transaction.one(_LAST)
    return 0 if row is None else int(row[0])


def renew(transaction: Transaction, now: int, *, epoch: int | None = None, how: str = RENEWED) -> Leadership:
    """Give the store a new id, under which everything Queued counts as not yet published. Raises StaleEpoch."""
    row = transaction.one(_LOCK)
    assert row is not None, "the leader's row is made when the store is opened"
    former, present, next_pub = row
    if epoch is not None and present != epoch:
        raise StaleEpoch(epoch)
    transaction.run(_HANDLED, {"now": now})
    transaction.run(_REMEMBER, {"id": former, "how": how, "epoch": present, "pub": next_pub - 1, "now": now})
    transaction.run(_FORGET_STARTED)
    renewed = transaction.one(_RENEW, {"id": str(uuid.uuid4())})
    assert renewed is not None, "it was just locked"
    return Leadership(*renewed)


class Restorations:
    """What the leader asks and does about it."""

    def __init__(self, store: Doors, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def noticed(self) -> Restored | None:
        """Why the store is taken for a restored one, where nothing followed from it yet."""
        return await self._store.read(lambda transaction: noticed(transaction, to_micros(self._clock())))

    async def notice(self, told: Iterable[Publication]) -> None:
        """Look at what messages said of themselves (dead letters carry it too)."""
        publications = list(told)
        await self._store.write(lambda transaction: notice(transaction, publications, to_micros(self._clock())))

    async def mark(self) -> None:
        """A person says that the store was restored, before any message shows it: the leader begins anew."""
        await self._store.write(lambda transaction: mark(transaction, to_micros(self._clock())))

    async def begin_anew(self, epoch: int) -> Leadership:
        """The same leadership under a new id of the store; nothing counts as confirmed. Raises StaleEpoch."""
        return await self._store.write(lambda transaction: renew(transaction, to_micros(self._clock()), epoch=epoch))
