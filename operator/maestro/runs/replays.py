"""What the store keeps of Reprocessings: the plan's items in their order, where each stands, and how it all ended.

Functions of a transaction; `Replays` is the asyncio face for everything that is one transaction by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from maestro.runs import dispatch, lifecycle
from maestro.runs.database import Row, Sql, Transaction, as_uuid, as_uuid_or_none
from maestro.runs.lifecycle import Event, Happening
from maestro.runs.model import RunState
from maestro.runs.store import RunStore

_T = TypeVar("_T")

WAITING, IN_FLIGHT, SUCCEEDED, FAILED = range(4)
"""Where an item stands."""
ITEM_STATES = ("Waiting", "InFlight", "Succeeded", "Failed")

DRAIN, LOCK, LESS = 1, 2, 4
"""What can be waived: that nothing else runs, that the gateway is shut, that the store knows less than the status."""

CANCELED_WHY = "ReprocessingEnded"
"""Reason of replayed Runs that hadn't begun when their Reprocessing was ended."""
RUN_GONE = "RunGone"
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Replay:
    """A Reprocessing as the store has it. Times are microseconds; None: not yet."""

    pk: int
    uid: str
    id: str
    name: str
    solution: str
    spec_hash: str
    created_at: int
    planned_at: int | None
    plan_hash: str | None
    digest: str
    total: int
    predicted: int | None
    approved_at: int | None
    began_at: int | None
    """It has its turn: from here on its Solution's Runs in flight are waited for."""
    replaying_at: int | None
    waived: int
    """What somebody let go on for good by a resume: DRAIN, LOCK, LESS."""
    stop_reason: str | None
    stop_message: str | None
    stop_resume: int | None
    """`spec.resume` when it stopped: a greater one lets it go on."""
    succeeded: int
    failed: int
    added: int
    allowed: int
    """How many may join before a new approval is asked for."""
    ended_at: int | None
    outcome: str | None
    reason: str | None
    message: str | None

    @property
    def done(self) -> int:
        """Items that have ended."""
        return self.succeeded + self.failed


_COLUMNS = ", ".join(column.name for column in fields(Replay))


class Item(NamedTuple):
    """A Run of a plan; the order is that of the replay."""

    at: int
    run_id: UUID
    run_seq: int


@dataclass(frozen=True, slots=True)
class ItemView:
    """What is shown of an item."""

    position: tuple[int, UUID]
    """Where the next page begins."""
    run: UUID
    automation_id: str | None
    run_state: RunState | None
    tick: int | None
    started_at: int | None
    state: str
    """Waiting, InFlight, Succeeded or Failed."""
    replayed_by: UUID | None
    reason: str | None
    added: bool
    """It joined because another made it stale."""


@dataclass(slots=True)
class Original:
    """An item whose turn has come, with what the new Run takes over. `automation` is None where the Run is gone."""

    item: Item
    automation: int | None
    parameters: str
    user: str | None
    reference: str | None
    schedule: str | None
    tick: int | None
    labels: str | None


@dataclass(slots=True)
class Settled:
    """An item in flight whose Run has ended."""

    item: Item
    new_seq: int
    new_id: UUID
    automation: int | None
    state: int
    """Of the new Run; Failed where it is gone."""
    reason: str | None


_ONE = Sql(f"SELECT {_COLUMNS} FROM replay WHERE uid = :uid")  # noqa: S608 - our own columns
_KEPT = Sql(f"""
    SELECT {_COLUMNS} FROM replay
    WHERE ended_at IS NULL OR EXISTS (SELECT 1 FROM replay_item i WHERE i.replay = replay.pk) ORDER BY pk""")  # noqa: S608
_CREATE = Sql("""
    INSERT INTO replay (uid, id, name, solution, spec_hash, created_at)
    VALUES (:uid, :id, :name, :solution, :spec_hash, :created_at) ON CONFLICT (uid) DO NOTHING""")
_ENDED_BEFORE = Sql("""
    SELECT outcome FROM replay WHERE id = :id AND spec_hash = :spec_hash AND uid <> :uid AND ended_at IS NOT NULL
    ORDER BY ended_at DESC LIMIT 1""")
_TURN = Sql("""
    UPDATE replay SET began_at = :now WHERE pk = :pk AND began_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM replay other WHERE other.solution = :solution AND other.ended_at IS NULL
        AND other.began_at IS NOT NULL AND other.pk <> :pk)""")
_HOLDER = Sql("""
    SELECT name FROM replay WHERE solution = :solution AND ended_at IS NULL AND began_at IS NOT NULL AND pk <> :pk""")
_ADD = Sql("""
    INSERT INTO replay_item (replay, at, run_id, run_seq, state, added)
    VALUES (:replay, :at, :run_id, :run_seq, 0, :added) ON CONFLICT (replay, at, run_id) DO NOTHING""")
_ADD_READ = Sql("""
    INSERT INTO replay_read (replay, key, at, run_id, run_seq) VALUES (:replay, :key, :at, :run_id, :run_seq)
    ON CONFLICT (replay, key, at, run_id) DO NOTHING""")
_READERS = Sql("""
    SELECT at, run_id, run_seq FROM replay_read
    WHERE replay = :replay AND key = :key AND (at > :at OR (at = :at AND run_id > :run_id))
    ORDER BY at, run_id LIMIT :limit""")
_PLANNED = Sql("SELECT run_seq FROM replay_item WHERE run_seq {in :seqs} AND replay = :replay")
_PAGE = Sql("""
    SELECT i.at, i.run_id, a.id, r.state, d.tick, r.started_at, i.state, i.new_id, i.reason, i.added, i.run_seq,
           r.automation_id
    FROM replay_item i LEFT JOIN run r ON r.seq = i.run_seq LEFT JOIN automation a ON a.pk = r.automation_id
    LEFT JOIN run_detail d ON d.run_seq = i.run_seq
    WHERE i.replay = :replay AND (i.at > :at OR (i.at = :at AND i.run_id > :run_id))
    ORDER BY i.at, i.run_id LIMIT :limit""")
_PARAMETERS = Sql("SELECT seq, automation_id, parameters FROM run WHERE seq {in :seqs}")
_WAITING = Sql("""
    SELECT i.at, i.run_id, i.run_seq, r.automation_id, r.parameters, d.user_name, d.reference, d.schedule, d.tick,
           d.labels
    FROM replay_item i LEFT JOIN run r ON r.seq = i.run_seq LEFT JOIN run_detail d ON d.run_seq = i.run_seq
    WHERE i.replay = :replay AND i.state = 0 ORDER BY i.at, i.run_id LIMIT :limit""")
_IS_WAITING = Sql("SELECT 1 FROM replay_item WHERE replay = :replay AND state = 0 LIMIT 1")
_FLIGHT = Sql("SELECT count(*) FROM replay_item WHERE replay = :replay AND state = 1")
_SETTLED = Sql("""
    SELECT i.at, i.run_id, i.run_seq, i.new_seq, i.new_id, r.automation_id, r.state, r.reason
    FROM replay_item i LEFT JOIN run r ON r.seq = i.new_seq
    WHERE i.replay = :replay AND i.state = 1 AND (r.state >= 5 OR r.seq IS NULL)
    ORDER BY i.at, i.run_id LIMIT :limit""")
_START = Sql("""
    UPDATE replay_item SET state = 1, new_seq = :new_seq, new_id = :new_id, reason = NULL
    WHERE replay = :replay AND at = :at AND run_id = :run_id AND state = 0""")
_FINISH = Sql("""
    UPDATE replay_item SET state = :state, reason = :reason
    WHERE replay = :replay AND at = :at AND run_id = :run_id AND state = :was""")
_RETRY = Sql("UPDATE replay_item SET state = 0, reason = NULL WHERE replay = :replay AND state = 3")
_OF_FLIGHT = Sql("SELECT new_seq FROM replay_item WHERE replay = :replay AND state = 1")
_BUSY = Sql("""
    SELECT (SELECT count(*) FROM run WHERE automation_id = :automation AND state = 3)
         + (SELECT count(*) FROM run WHERE automation_id = :automation AND state = 2)""")
_DELETE_SOME = tuple(
    Sql(f"""
        DELETE FROM {table} WHERE replay = :replay AND ({key}at, run_id) IN (
            SELECT {key}at, run_id FROM {table} WHERE replay = :replay LIMIT :limit)""")  # noqa: S608 - our own tables
    for table, key in (("replay_item", ""), ("replay_read", "key, "))
)
_FORGET = Sql("DELETE FROM replay WHERE pk = :replay")


# -- one transaction each: rows --------------------------------------------------------------------------------------


def load(transaction: Transaction, uid: str) -> Replay | None:
    """The Reprocessing with this UID."""
    row = transaction.one(_ONE, {"uid": uid})
    return None if row is None else Replay(*row)


def change(transaction: Transaction, pk: int, **columns: Any) -> None:
    """Sets columns of a Reprocessing's row."""
    transaction.update("replay", tuple(columns), ("pk",), [(*columns.values(), pk)])


# -- one transaction each: items -------------------------------------------------------------------------------------


def add_items(transaction: Transaction, pk: int, items: Sequence[Item], *, added: bool = False) -> int:
    """Puts Runs into a plan, each once; how many were new."""
    rows = [
        {
            "replay": pk,
            "at": item.at,
            "run_id": transaction.uuid(item.run_id),
            "run_seq": item.run_seq,
            "added": int(added),
        }
        for item in items
    ]
    return transaction.many(_ADD, rows)


def add_reads(transaction: Transaction, pk: int, reads: Sequence[tuple[UUID, Item]]) -> None:
    """Notes which keys (hashes) a Run depends on."""
    rows = [
        {
            "replay": pk,
            "key": transaction.uuid(key),
            "at": item.at,
            "run_id": transaction.uuid(item.run_id),
            "run_seq": item.run_seq,
        }
        for key, item in reads
    ]
    transaction.many(_ADD_READ, rows)


def readers(transaction: Transaction, pk: int, key: UUID, after: Item, limit: int) -> list[Item]:
    """Runs that depend on a key and stand after another one in the order."""
    params = {
        "replay": pk,
        "key": transaction.uuid(key),
        "at": after.at,
        "run_id": transaction.uuid(after.run_id),
        "limit": limit,
    }
    return [Item(at, as_uuid(run_id), seq) for at, run_id, seq in transaction.all(_READERS, params)]


def planned(transaction: Transaction, pk: int, seqs: Collection[int]) -> set[int]:
    """Which of these Runs are in the plan."""
    return {row[0] for row in transaction.all(_PLANNED, {"replay": pk, "seqs": sorted(seqs)})}


def parameters_of(transaction: Transaction, seqs: Collection[int]) -> dict[int, tuple[int, str]]:
    """Automation and parameters (JSON) of Runs, by number."""
    return {row[0]: (row[1], row[2]) for row in transaction.all(_PARAMETERS, {"seqs": sorted(seqs)})}


def waiting(transaction: Transaction, pk: int, limit: int) -> list[Original]:
    """The next items that wait, in order."""
    return [
        Original(Item(at, as_uuid(run_id), seq), *rest)
        for at, run_id, seq, *rest in transaction.all(_WAITING, {"replay": pk, "limit": limit})
    ]


def is_waiting(transaction: Transaction, pk: int) -> bool:
    """Whether any item waits."""
    return transaction.one(_IS_WAITING, {"replay": pk}) is not None


def in_flight(transaction: Transaction, pk: int) -> int:
    """How many items are in flight."""
    row = transaction.one(_FLIGHT, {"replay": pk})
    return 0 if row is None else int(row[0])


def settled(transaction: Transaction, pk: int, limit: int = BATCH) -> list[Settled]:
    """Items in flight whose Runs have ended."""
    found = []
    for at, run_id, seq, new_seq, new_id, automation, state, reason in transaction.all(
        _SETTLED, {"replay": pk, "limit": limit}
    ):
        gone = state is None
        found.append(
            Settled(
                Item(at, as_uuid(run_id), seq),
                new_seq,
                as_uuid(new_id),
                automation,
                lifecycle.F if gone else state,
                RUN_GONE if gone else reason,
            )
        )
    return found


def start(transaction: Transaction, pk: int, started: Sequence[tuple[Item, int, UUID]]) -> int:
    """These items wait no longer: the new Runs of them. How many did wait."""
    return transaction.many(
        _START,
        [
            {**_place(transaction, pk, item), "new_seq": new_seq, "new_id": transaction.uuid(new_id)}
            for item, new_seq, new_id in started
        ],
    )


def finish(
    transaction: Transaction, pk: int, finished: Sequence[tuple[Item, int, str | None]], *, was: int = IN_FLIGHT
) -> None:
    """These items have ended: SUCCEEDED or FAILED, and why."""
    transaction.many(
        _FINISH,
        [
            {**_place(transaction, pk, item), "state": state, "reason": reason, "was": was}
            for item, state, reason in finished
        ],
    )


def retry_failed(transaction: Transaction, pk: int) -> None:
    """What failed waits again."""
    transaction.run(_RETRY, {"replay": pk})


def page(
    transaction: Transaction, pk: int, after: tuple[int, UUID] | None, limit: int
) -> list[tuple[ItemView, Item, int | None]]:
    """Items in order after a place, each with its place and the Automation's key."""
    at, run_id = after if after is not None else (-(1 << 62), UUID(int=0))
    params = {"replay": pk, "at": at, "run_id": transaction.uuid(run_id), "limit": limit}
    return [_view(row) for row in transaction.all(_PAGE, params)]


def _view(row: Row) -> tuple[ItemView, Item, int | None]:
    at, run_id, automation_id, run_state, tick, started_at, state, new_id, reason, added, seq, automation = row
    id_ = as_uuid(run_id)
    view = ItemView(
        (at, id_),
        id_,
        automation_id,
        None if run_state is None else RunState.of(run_state),
        tick,
        started_at,
        ITEM_STATES[state],
        as_uuid_or_none(new_id),
        reason,
        bool(added),
    )
    return view, Item(at, id_, seq), automation


def _place(transaction: Transaction, pk: int, item: Item) -> dict[str, Any]:
    return {"replay": pk, "at": item.at, "run_id": transaction.uuid(item.run_id)}


# -- the asyncio face ------------------------------------------------------------------------------------------------


class Replays:
    """Reprocessings in the run store. Every method may raise StoreUnavailable, every write StaleEpoch.

    Parameters
    ----------
    epoch
        The present leadership's, which fences each write; None: no fence, for tools, tests and previews.
    """

    def __init__(self, store: RunStore, epoch: Callable[[], int | None] = lambda: None) -> None:
        self.store = store
        self._epoch = epoch

    async def write(self, action: Callable[[Transaction], _T], weight: int = 1) -> _T:
        """Runs `action` in a transaction of the present leadership."""
        epoch = self._epoch()

        def fenced(transaction: Transaction) -> _T:
            dispatch.fence(transaction, epoch)
            return action(transaction)

        return await self.store.write(fenced, weight)

    async def get(self, uid: str) -> Replay | None:
        """The Reprocessing with this UID."""
        return await self.store.read(lambda transaction: load(transaction, uid))

    async def kept(self) -> list[Replay]:
        """Those that haven't ended, and those of which items are kept."""
        return await self.store.read(lambda transaction: [Replay(*row) for row in transaction.all(_KEPT)])

    async def create(self, uid: str, id_: str, name: str, solution: str, spec_hash: str, now: int) -> Replay:
        """The row of a new Reprocessing, or the one that is there."""
        values = {
            "uid": uid,
            "id": id_,
            "name": name,
            "solution": solution,
            "spec_hash": spec_hash,
            "created_at": now,
        }

        def make(transaction: Transaction) -> Replay:
            transaction.run(_CREATE, values)
            made = load(transaction, uid)
            assert made is not None, "it was just made"
            return made

        return await self.write(make)

    async def ended_before(self, replay: Replay) -> str | None:
        """How another one of this name with the same immutable fields ended; None: there was none."""
        params = {"id": replay.id, "spec_hash": replay.spec_hash, "uid": replay.uid}

        def look(transaction: Transaction) -> str | None:
            row = transaction.one(_ENDED_BEFORE, params)
            return None if row is None else str(row[0])

        return await self.store.read(look)

    async def change(self, replay: Replay, **columns: Any) -> Replay:
        """Sets columns of the row; as it is now."""

        def do(transaction: Transaction) -> Replay:
            change(transaction, replay.pk, **columns)
            changed = load(transaction, replay.uid)
            assert changed is not None, "only `forget` deletes rows"
            return changed

        return await self.write(do)

    async def take_turn(self, replay: Replay, now: int) -> str | None:
        """Begins, unless another one of the Solution has begun and not ended: its name."""

        def take(transaction: Transaction) -> str | None:
            params = {"pk": replay.pk, "solution": replay.solution, "now": now}
            if transaction.run(_TURN, params):
                return None
            row = transaction.one(_HOLDER, params)
            return None if row is None else str(row[0])

        return await self.write(take)

    async def busy(self, solution_id: str) -> int:
        """How many Runs of the Solution are on their way or running."""

        def count(transaction: Transaction) -> int:
            return sum(
                int((transaction.one(_BUSY, {"automation": pk}) or (0,))[0])
                for pk in self.store.automations_of(solution_id)
            )

        return await self.store.read(count)

    async def clear(self, pk: int) -> None:
        """Forgets the items of a plan, a batch at a time."""
        for sql in _DELETE_SOME:
            while await self.write(_deleting(sql, pk), BATCH) >= BATCH:
                pass

    async def forget(self, pk: int) -> None:
        """Forgets a Reprocessing and its items."""
        await self.clear(pk)
        await self.write(lambda transaction: transaction.run(_FORGET, {"replay": pk}))

    async def end(self, replay: Replay, outcome: str, reason: str, message: str, now: int) -> Replay:
        """The end: replayed Runs that haven't begun are canceled, everything done is kept."""

        def do(transaction: Transaction) -> Replay:
            changes = self.store.changes(transaction)
            seqs = [row[0] for row in transaction.all(_OF_FLIGHT, {"replay": replay.pk})]
            for tracked in changes.load_seqs(seqs).values():
                if tracked.run.state in (lifecycle.H, lifecycle.P, lifecycle.Q, lifecycle.T):
                    changes.happen(tracked, Happening(Event.CANCEL, why=CANCELED_WHY))
            changes.flush()
            change(
                transaction, replay.pk, ended_at=now, outcome=outcome, reason=reason, message=message, stop_reason=None
            )
            ended = load(transaction, replay.uid)
            assert ended is not None
            return ended

        return await self.write(do)

    async def items(self, uid: str, after: tuple[int, UUID] | None = None, limit: int = 100) -> list[ItemView] | None:
        """A page of a plan in its order, from after a place (`ItemView.position`) on; None: nothing is known of it."""

        def look(transaction: Transaction) -> list[ItemView] | None:
            found = load(transaction, uid)
            return None if found is None else [view for view, _, _ in page(transaction, found.pk, after, limit)]

        return await self.store.read(look)


def _deleting(sql: Sql, pk: int) -> Callable[[Transaction], int]:
    return lambda transaction: transaction.run(sql, {"replay": pk, "limit": BATCH})
