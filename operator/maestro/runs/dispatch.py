"""What the leader's dispatcher writes: the epoch, claims, the watermark, and what came back."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from maestro.runs import lifecycle
from maestro.runs.changes import Changes, Ledger
from maestro.runs.database import Row, Sql, Transaction, as_uuid
from maestro.runs.errors import StaleEpoch
from maestro.runs.lifecycle import Event, Happening
from maestro.runs.model import Claimed, Leadership, QueuedRun, TickJob, Unpublished, from_micros
from maestro.runs.registry import Known, Registry

_FIRST_LEADER = Sql("""
    INSERT INTO leader (id, epoch, next_pub, confirmed_pub, store_id) VALUES (1, 0, 1, 0, :store_id)
    ON CONFLICT (id) DO NOTHING""")
_STORE_ID = Sql("SELECT store_id FROM leader WHERE id = 1")
_WIN = Sql("UPDATE leader SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch, store_id, next_pub, confirmed_pub")
_FENCE = Sql("SELECT next_pub FROM leader WHERE id = 1 AND epoch = :epoch {lock}")
_TAKE_PUBS = Sql("UPDATE leader SET next_pub = next_pub + :n WHERE id = 1 AND epoch = :epoch")
_CONFIRMED = Sql("UPDATE leader SET confirmed_pub = :pub WHERE id = 1 AND epoch = :epoch AND confirmed_pub < :pub")
_FAILURES = Sql("SELECT failures FROM automation WHERE pk = :automation")
_QUEUED = Sql("SELECT coalesce(sum(n), 0) FROM run_count WHERE automation_id = :automation AND state = {Q}")
_HELD = Sql("SELECT 1 FROM run WHERE solution_id = :solution AND state = 0 LIMIT 1")
_SLOTS = Sql("SELECT slot FROM run WHERE automation_id = :automation AND slot IS NOT NULL")
_CANDIDATES = Sql("""
    SELECT seq FROM run WHERE automation_id = :automation AND state = 1 AND ready = 1
      AND rank >= :lowest AND rank < :highest
      AND (:only_replays = 0 OR replay_of IS NOT NULL) ORDER BY rank, seq LIMIT :n {lock}""")
_CLAIM = Sql("""
    UPDATE run SET state = {Q}, ready = 0, due_at = NULL, lease_at = NULL, deadline_at = NULL, alarm_at = expires_at,
                   pub = :pub, epoch = :epoch, slot = :slot, queued_at = :now
    WHERE seq = :seq AND state = {P} AND ready = 1
    RETURNING seq, id, pub, attempt, parameters, rank""")
_CLAIM_MANY = Sql("""
    WITH c AS (SELECT seq, rank FROM run WHERE automation_id = :automation AND state = 1 AND ready = 1
                 AND rank >= :lowest AND rank < :highest
                 AND (:only_replays = 0 OR replay_of IS NOT NULL) ORDER BY rank, seq LIMIT :n {lock}),
         v AS (SELECT seq AS claimed, row_number() OVER (ORDER BY rank, seq) AS rn FROM c)
    UPDATE run SET state = {Q}, ready = 0, due_at = NULL, lease_at = NULL, deadline_at = NULL, alarm_at = expires_at,
                   pub = :base + v.rn, epoch = :epoch, queued_at = :now
    FROM v WHERE run.seq = v.claimed AND run.state = {P}
    RETURNING seq, id, pub, attempt, parameters, rank""")
_TOLD = Sql("SELECT run_seq, tick, traceparent, job, reprocessing FROM run_detail WHERE run_seq {in :seqs}")
_AGAIN = Sql("""
    SELECT seq, id, pub, attempt, parameters, rank FROM run
    WHERE automation_id = :automation AND state = 2 AND pub > :pub ORDER BY pub LIMIT :limit""")
_OLDEST = Sql("""
    SELECT seq, pub, queued_at FROM run
    WHERE automation_id = :automation AND state = 2 AND pub < :below AND rank >= :lowest AND rank < :highest
    ORDER BY pub LIMIT :limit""")
_STARTED_PUB = Sql("SELECT coalesce(max(pub), 0) FROM run_started WHERE automation_id = :automation AND epoch = :epoch")
_REPUBLISH = Sql("""
    UPDATE run SET pub = :pub, epoch = NULL, queued_at = :now WHERE seq = :seq AND state = {Q} AND pub = :was
    RETURNING automation_id, seq, id, pub, attempt, parameters, rank""")
_TAKE_BACK = Sql("SELECT seq FROM run WHERE automation_id = :automation AND state = 2 ORDER BY pub LIMIT :limit")
_NO_LIMIT = (1 << 63) - 1
_RANKS = {False: {"lowest": 0, "highest": _NO_LIMIT}, True: {"lowest": -_NO_LIMIT, "highest": 0}}
"""Of Runs that go the Automation's way, and of those that are launched as Jobs although it has a queue."""


def fence(transaction: Transaction, epoch: int | None) -> int:
    """Lets a controller's write pass only in the present epoch. Returns the next publication number."""
    if epoch is None:
        return 0
    row = transaction.one(_FENCE, {"epoch": epoch})
    if row is None:
        raise StaleEpoch(epoch)
    return int(row[0])


def prepare(transaction: Transaction) -> str:
    """Makes the leader's row, once in a store's life. Returns the store's id."""
    transaction.run(_FIRST_LEADER, {"store_id": str(uuid.uuid4())})
    row = transaction.one(_STORE_ID)
    assert row is not None, "it was just made"
    return str(row[0])


def win(transaction: Transaction) -> Leadership:
    """The next epoch."""
    row = transaction.one(_WIN)
    assert row is not None, "the leader's row is made when the store is opened"
    epoch, store_id, next_pub, confirmed_pub = row
    return Leadership(epoch, store_id, next_pub, confirmed_pub)


def claim(
    transaction: Transaction,
    registry: Registry,
    ledger: Ledger,
    *,
    epoch: int,
    automation: int,
    limit: int,
    only_replays: bool,
    apart: bool,
    now: int,
) -> list[Claimed]:
    """See RunStore.claim."""
    base = fence(transaction, epoch)
    known = registry.known(transaction, automation)
    if known.deleted:
        return []
    if known.registration.suspended or _paused(transaction, known):
        _take_back(transaction, registry, ledger, automation, known.registration.policy.window, now)
        return []
    room = limit if apart else _room(transaction, registry, known, limit)
    if room <= 0:
        return []
    held = transaction.one(_HELD, {"solution": known.solution}) is not None
    request = {
        "automation": automation,
        "only_replays": int(only_replays or held),
        "epoch": epoch,
        "base": base - 1,
        "now": now,
        "n": room,
        **_RANKS[apart],
    }
    rows = _claim_rows(transaction, known, request)
    if not rows:
        return []
    transaction.run(_TAKE_PUBS, {"n": len(rows), "epoch": epoch})
    ledger.moved(automation, lifecycle.P, lifecycle.Q, len(rows))
    return _claimed(transaction, known, rows)


def _room(transaction: Transaction, registry: Registry, known: Known, limit: int) -> int:
    """How many more may be on the queue."""
    window = known.registration.policy.window - _number(transaction, _QUEUED, known.pk)
    # Until a claim finds room again, every start of one of its Runs is announced: it makes some.
    (registry.full.add if window < limit else registry.full.discard)(known.pk)
    return min(limit, window)


def _claim_rows(transaction: Transaction, known: Known, request: dict[str, Any]) -> list[Row]:
    if known.registration.policy.parallelism is None:
        return transaction.all(_CLAIM_MANY, request)
    free = _free_slots(transaction, known.pk, known.registration.policy.parallelism)
    seqs = transaction.all(_CANDIDATES, {**request, "n": min(request["n"], len(free))})
    claims = [
        {**request, "seq": row[0], "slot": slot, "pub": request["base"] + place}
        for place, (row, slot) in enumerate(zip(seqs, free, strict=False), start=1)
    ]
    return [rows[0] for rows in transaction.each(_CLAIM, claims) if rows]


def _free_slots(transaction: Transaction, automation: int, parallelism: int) -> list[int]:
    taken = {row[0] for row in transaction.all(_SLOTS, {"automation": automation})}
    # after a change of the number, greater slots may still be taken: they count
    free = [slot for slot in range(1, parallelism + 1) if slot not in taken]
    return free[: max(parallelism - len(taken), 0)]


def _claimed(transaction: Transaction, known: Known, rows: list[Row]) -> list[Claimed]:
    told = {row[0]: row for row in transaction.all(_TOLD, {"seqs": [row[0] for row in rows]})}
    registration = known.registration
    claimed = []
    for seq, run_id, pub, attempt, parameters, rank in sorted(rows, key=lambda row: int(row[2])):
        _, tick, traceparent, job, reprocessing = told.get(seq, (seq, None, None, None, None))
        launch = "Job" if rank < 0 else registration.launch
        carries = registration.parameters_in_message or launch == "Job"
        claimed.append(
            Claimed(
                seq=seq,
                id=as_uuid(run_id),
                automation=known.pk,
                pub=pub,
                attempt=attempt + 1,
                parameters=json.loads(parameters) if carries else None,
                launch=launch,
                job=None if job is None else TickJob(*json.loads(job)),
                scheduled_time=None if tick is None else from_micros(tick),
                reprocessing=reprocessing,
                traceparent=traceparent,
            )
        )
    return claimed


def queued_after(transaction: Transaction, registry: Registry, pub: int, limit: int) -> list[Claimed]:
    """Queued Runs with a greater publication number, in its order."""
    found: list[Claimed] = []
    for pk in registry.live:
        rows = transaction.all(_AGAIN, {"automation": pk, "pub": pub, "limit": limit})
        if rows:
            known = registry.known(transaction, pk)
            found += _claimed(transaction, known, rows)
    found.sort(key=lambda claimed: claimed.pub)
    return found[:limit]


def queued_runs(
    transaction: Transaction, automation: int, limit: int, below: int | None, *, apart: bool
) -> list[QueuedRun]:
    """The oldest publications of a queue (`apart`: of Jobs beside it) that weren't started."""
    until = _NO_LIMIT if below is None else below
    params = {"automation": automation, "limit": limit, "below": until, **_RANKS[apart]}
    return [QueuedRun(seq, pub, from_micros(at)) for seq, pub, at in transaction.all(_OLDEST, params)]


def started_pub(transaction: Transaction, epoch: int, automation: int) -> int:
    """The latest publication of this epoch that was started."""
    row = transaction.one(_STARTED_PUB, {"automation": automation, "epoch": epoch})
    return 0 if row is None else int(row[0])


def republish(
    transaction: Transaction, registry: Registry, epoch: int, items: Sequence[QueuedRun], now: int
) -> list[Claimed]:
    """A new number for each that is still Queued with the old one."""
    base = fence(transaction, epoch)
    again = [
        {"seq": item.seq, "was": item.pub, "pub": pub, "now": now}
        for pub, item in enumerate(sorted(items, key=lambda item: item.pub), start=base)
    ]
    transaction.run(_TAKE_PUBS, {"n": len(again), "epoch": epoch})
    by_automation: dict[int, list[Row]] = defaultdict(list)
    for row in transaction.each(_REPUBLISH, again):
        if row:
            by_automation[row[0][0]].append(row[0][1:])
    claimed = [
        run
        for automation, rows in by_automation.items()
        for run in _claimed(transaction, registry.known(transaction, automation), rows)
    ]
    return sorted(claimed, key=lambda run: run.pub)


def confirmed(transaction: Transaction, epoch: int, pub: int) -> None:
    """Moves the watermark; it never goes back."""
    fence(transaction, epoch)
    transaction.run(_CONFIRMED, {"epoch": epoch, "pub": pub})


def unpublished(changes: Changes, items: Sequence[Unpublished]) -> int:
    """Queued → Pending with a pause, where the publication is still the Run's own."""
    tracked = changes.load_seqs(item.seq for item in items)
    back = 0
    for item in items:
        run = tracked.get(item.seq)
        if run is None:
            continue
        step = changes.happen(run, Happening(Event.RETURN, pub=item.pub, reason=item.reason))
        back += bool(step.changes)
    changes.flush()
    return back


def _take_back(
    transaction: Transaction, registry: Registry, ledger: Ledger, automation: int, limit: int, now: int
) -> None:
    """Suspended or paused: what waits on the queue waits in the store again; its copies' starts are refused."""
    changes = Changes(transaction, registry, ledger, now)
    seqs = [row[0] for row in transaction.all(_TAKE_BACK, {"automation": automation, "limit": limit})]
    for tracked in changes.load_seqs(seqs).values():
        changes.happen(tracked, Happening(Event.TAKE_BACK))
    changes.flush()


def _paused(transaction: Transaction, known: Known) -> bool:
    limit = known.registration.policy.pause_after_failures
    return limit > 0 and _number(transaction, _FAILURES, known.pk) >= limit


def _number(transaction: Transaction, sql: Sql, automation: int) -> int:
    row = transaction.one(sql, {"automation": automation})
    return 0 if row is None else int(row[0])
