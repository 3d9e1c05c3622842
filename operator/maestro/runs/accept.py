"""Accepting Runs: idempotency, the limit of what may wait, ordering keys, turns; then one insert for everybody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from maestro.runs import keys, lifecycle
from maestro.runs.changes import Ledger
from maestro.runs.database import Retry, Sql, Transaction, as_json, as_uuid, clean
from maestro.runs.errors import Backlog, IdempotencyConflict, InvalidRun, NeverFits, Refused, UnknownAutomation
from maestro.runs.model import PRIORITIES, Accepted, NewRun, RunState, micros, new_run_id, to_micros
from maestro.runs.registry import Known, Registry

IDEMPOTENCY_TTL = micros(24 * 3600)
"""How long a key is remembered."""
_TURN_BITS = 40
_APART = 1 << 62
"""Taken off the rank of a Run that is launched as a Job although its Automation has a queue: such Runs are claimed by
themselves, so that they never wait behind what is queued."""

_COLUMNS = (
    *(
        "seq",
        "id",
        "automation_id",
        "solution_id",
        "state",
        "ready",
        "rank",
        "ckey",
        "max_attempts",
        "alarm_at",
        "due_at",
    ),
    *("expires_at", "copy_of", "replay_of", "accepted_at", "parameters"),
)
_DETAIL = Sql("""
    INSERT INTO run_detail (run_seq, automation_id, user_name, reference, schedule, tick, priority, fairness_key,
                            labels, notify, traceparent, job, reprocessing)
    VALUES (:seq, :automation, :user, :reference, :schedule, :tick, :priority, :fairness_key, :labels, :notify,
            :traceparent, :job, :reprocessing)""")
_LAST_SEQ = Sql("SELECT coalesce(max(seq), 0) FROM run")
_NEXT_SEQS = Sql("SELECT nextval(pg_get_serial_sequence('run', 'seq')) FROM generate_series(1, :n)")
_WAITING = Sql("""
    SELECT automation_id, sum(n) FROM run_count
    WHERE automation_id {in :automations} AND state IN (0, 1, 2, 4) GROUP BY automation_id""")
_KNOWN_KEYS = Sql("""
    SELECT automation_id, key, run_id, body_hash FROM idempotency
    WHERE automation_id = :automation AND key {in :keys} AND expires_at >= :now""")
_TAKE_KEY = Sql("""
    INSERT INTO idempotency (automation_id, key, run_id, body_hash, expires_at)
    VALUES (:automation, :key, :run_id, :body_hash, :expires_at)
    ON CONFLICT (automation_id, key) DO UPDATE
    SET run_id = excluded.run_id, body_hash = excluded.body_hash, expires_at = excluded.expires_at
    WHERE idempotency.expires_at < :now RETURNING key""")
_USES_FAIRNESS = Sql("SELECT DISTINCT automation_id FROM fairness WHERE automation_id {in :automations}")
_FLOOR = Sql("""
    SELECT coalesce(
        (SELECT rank FROM run WHERE automation_id = :automation AND state = 1 AND ready = 1 AND rank >= :lowest
           AND rank <= :highest ORDER BY rank LIMIT 1),
        (SELECT max(turn) + :lowest FROM fairness WHERE automation_id = :automation AND priority = :priority),
        :lowest)""")
_TURN = Sql("""
    INSERT INTO fairness (automation_id, priority, key, turn) VALUES (:automation, :priority, :key, :turn)
    ON CONFLICT (automation_id, priority, key) DO UPDATE
    SET turn = CASE WHEN fairness.turn + 1 > excluded.turn THEN fairness.turn + 1 ELSE excluded.turn END
    RETURNING turn""")

_IdempotencyKey = tuple[int, str]


@dataclass(slots=True)
class _Remembered:
    run_id: UUID
    body_hash: bytes | None


@dataclass(slots=True)
class _Plan:
    """What the lists of one transaction come to."""

    inserts: list[tuple[UUID, NewRun]] = field(default_factory=list)
    taken: dict[_IdempotencyKey, _Remembered] = field(default_factory=dict)
    adding: dict[int, int] = field(default_factory=lambda: defaultdict(int))


def accept(
    transaction: Transaction, registry: Registry, ledger: Ledger, lists: Sequence[Sequence[NewRun]], now: int
) -> tuple[list[list[Accepted] | Refused], set[int]]:
    """Accepts each list as a whole, or refuses it. Also: the Automations for which there is work now."""
    everything = [run for one_list in lists for run in one_list]
    waiting = _waiting(transaction, everything)
    plan = _Plan(taken=_remembered(transaction, everything, now))
    before = len(plan.taken)
    answers: list[list[Accepted] | Refused] = []
    for one_list in lists:
        try:
            answers.append(_accept_list(transaction, registry, one_list, waiting, plan))
        except Refused as refusal:
            answers.append(refusal)
    if len(plan.taken) > before:
        _take_keys(transaction, plan, now)
    for automation, n in plan.adding.items():
        ledger.moved(automation, None, lifecycle.P, n)
    return answers, _insert(transaction, registry, plan.inserts, now)[1]


def admit(
    transaction: Transaction, registry: Registry, ledger: Ledger, runs: Sequence[NewRun], now: int
) -> tuple[list[tuple[int, UUID]], set[int]]:
    """Accepts Runs of Maestro's own, for which `maxPending` is no limit: number and id of each, and the Automations for
    which there is work now. Raises UnknownAutomation."""
    inserts = [(run.run_id or new_run_id(), run) for run in runs]
    for run in runs:
        _live(transaction, registry, run.automation)
        ledger.moved(run.automation, None, lifecycle.P)
    seqs, work = _insert(transaction, registry, inserts, now)
    return [(seq, run_id) for seq, (run_id, _) in zip(seqs, inserts, strict=True)], work


def _accept_list(
    transaction: Transaction, registry: Registry, runs: Sequence[NewRun], waiting: dict[int, int], plan: _Plan
) -> list[Accepted]:
    """Checks one list; it enters the plan only as a whole."""
    answers: list[Accepted] = []
    inserts: list[tuple[UUID, NewRun]] = []
    taken: dict[_IdempotencyKey, _Remembered] = {}
    adding: dict[int, int] = defaultdict(int)
    for run in runs:
        if run.priority not in PRIORITIES:
            raise InvalidRun("priority", f"must be from {PRIORITIES[0]} to {PRIORITIES[-1]}")
        if run.idempotency_key is not None:
            key = (run.automation, run.idempotency_key)
            remembered = taken.get(key) or plan.taken.get(key)
            if remembered is not None:
                if remembered.body_hash != run.body_hash:
                    raise IdempotencyConflict(run.idempotency_key, remembered.run_id)
                answers.append(Accepted(remembered.run_id, RunState.PENDING, replayed=True))
                continue
        run_id = run.run_id or new_run_id()
        inserts.append((run_id, run))
        adding[run.automation] += 1
        if run.idempotency_key is not None:
            taken[run.automation, run.idempotency_key] = _Remembered(run_id, run.body_hash)
        answers.append(Accepted(run_id, RunState.PENDING))
    for automation, n in adding.items():
        _check_room(_live(transaction, registry, automation), waiting.get(automation, 0), plan.adding[automation], n)
    for automation, n in adding.items():
        plan.adding[automation] += n
    plan.inserts += inserts
    plan.taken |= taken
    return answers


def _live(transaction: Transaction, registry: Registry, automation: int) -> Known:
    known = registry.known(transaction, automation)
    if known.deleted:
        raise UnknownAutomation(known.registration.id)
    return known


def _check_room(known: Known, waiting: int, accepted_beside: int, n: int) -> None:
    limit = known.registration.policy.max_pending
    if n > limit:
        raise NeverFits(known.registration.id, n, limit)
    if waiting + accepted_beside + n > limit:
        raise Backlog(known.registration.id, n, waiting + accepted_beside, limit)


def _waiting(transaction: Transaction, runs: Iterable[NewRun]) -> dict[int, int]:
    automations = sorted({run.automation for run in runs})
    return {row[0]: int(row[1]) for row in transaction.all(_WAITING, {"automations": automations})}


def _remembered(transaction: Transaction, runs: Iterable[NewRun], now: int) -> dict[_IdempotencyKey, _Remembered]:
    by_automation: dict[int, set[str]] = defaultdict(set)
    for run in runs:
        if run.idempotency_key is not None:
            by_automation[run.automation].add(run.idempotency_key)
    found: dict[_IdempotencyKey, _Remembered] = {}
    for automation, names in by_automation.items():
        wanted = {"automation": automation, "keys": sorted(names), "now": now}
        for pk, key, run_id, body_hash in transaction.all(_KNOWN_KEYS, wanted):
            found[pk, key] = _Remembered(as_uuid(run_id), None if body_hash is None else bytes(body_hash))
    return found


def _take_keys(transaction: Transaction, plan: _Plan, now: int) -> None:
    mine = {run_id for run_id, _ in plan.inserts}
    rows = [
        {
            "automation": automation,
            "key": key,
            "run_id": transaction.uuid(remembered.run_id),
            "body_hash": remembered.body_hash,
            "expires_at": now + IDEMPOTENCY_TTL,
            "now": now,
        }
        for (automation, key), remembered in sorted(plan.taken.items(), key=lambda item: item[0])
        if remembered.run_id in mine
    ]
    if not all(transaction.each(_TAKE_KEY, rows)):
        raise Retry("an idempotency key was taken by another replica meanwhile")


def _insert(
    transaction: Transaction, registry: Registry, inserts: list[tuple[UUID, NewRun]], now: int
) -> tuple[Sequence[int], set[int]]:
    """Writes new Runs: their numbers, and the Automations for which there is work now."""
    if not inserts:
        return (), set()
    seqs = _seqs(transaction, len(inserts))
    ranks = _ranks(transaction, [run for _, run in inserts])
    entering: dict[keys.Key, int] = defaultdict(int)
    rows, details = [], []
    work: set[int] = set()
    uuid = transaction.uuid
    for seq, rank, (run_id, run) in zip(seqs, ranks, inserts, strict=True):
        known = registry.known(transaction, run.automation)
        policy = known.registration.policy
        ckey = keys.key_of(policy.ordering_key, run.parameters)
        due_at = None if run.not_before is None else to_micros(run.not_before)
        expires_at = None if run.expires_at is None else to_micros(run.expires_at)
        if run.launch == "Job" and known.registration.launch == "Queue":
            rank -= _APART
            registry.apart.add(run.automation)
        columns = lifecycle.accepted(keyed=ckey is not None, now=now, due_at=due_at, expires_at=expires_at)
        if ckey is not None:
            entering[run.automation, ckey] += 1
        if columns["ready"]:
            work.add(run.automation)
        rows.append(
            (
                seq,
                uuid(run_id),
                run.automation,
                known.solution,
                columns["state"],
                columns["ready"],
                rank,
                uuid(ckey),
                policy.max_attempts,
                columns["alarm_at"],
                columns["due_at"],
                expires_at,
                uuid(run.copy_of),
                uuid(run.replay_of),
                now,
                as_json(run.parameters),
            )
        )
        detail = _detail(seq, run)
        if detail is not None:
            details.append(detail)
    blocked = keys.enter(transaction, entering) if entering else {}
    transaction.insert("run", _COLUMNS, rows)
    transaction.many(_DETAIL, details)
    work |= keys.heads(transaction, blocked, now)
    return seqs, work


def _detail(seq: int, run: NewRun) -> dict[str, Any] | None:
    """The row of `run_detail`; None where there is nothing to say."""
    told = (
        run.user,
        run.reference,
        run.schedule,
        run.tick,
        run.fairness_key,
        run.labels,
        run.notify,
        run.traceparent,
        run.job,
        run.reprocessing,
        run.priority,
    )
    if not any(told):
        return None
    return {
        "seq": seq,
        "automation": run.automation,
        "user": clean(run.user),
        "reference": clean(run.reference),
        "schedule": run.schedule,
        "tick": None if run.tick is None else to_micros(run.tick),
        "priority": run.priority,
        "fairness_key": clean(run.fairness_key),
        "labels": as_json({clean(name): clean(value) for name, value in run.labels.items()}) if run.labels else None,
        "notify": as_json(list(run.notify)) if run.notify else None,
        "traceparent": run.traceparent,
        "job": None if run.job is None else as_json([run.job.schedule, run.job.uid, run.job.name]),
        "reprocessing": run.reprocessing,
    }


def _seqs(transaction: Transaction, n: int) -> Sequence[int]:
    """The next numbers. SQLite has one writer, so that they can be counted here."""
    if transaction.sqlite:
        row = transaction.one(_LAST_SEQ)
        first = (0 if row is None else int(row[0])) + 1
        return range(first, first + n)
    return sorted(row[0] for row in transaction.all(_NEXT_SEQS, {"n": n}))


# -- the order in which Runs are claimed ----------------------------------------------------------------------------


def rank_of(priority: int, turn: int = 0) -> int:
    """One number that sorts by priority (higher first), then by turn; Runs of equal rank go in order of acceptance."""
    return (PRIORITIES[-1] - priority) << _TURN_BITS | turn


def _ranks(transaction: Transaction, runs: Sequence[NewRun]) -> list[int]:
    """A rank for each. Round robin without a scan: every fairness key counts its own turns, beginning at the turn
    that goes next, so that the n-th Run of every key has the same turn. What has no key is one flow of its own."""
    fair = _uses_fairness(transaction, runs)
    if not fair:
        return [rank_of(run.priority) for run in runs]
    floors: dict[tuple[int, int], int] = {}
    turns: dict[int, int] = {}
    # sorted, so that two replicas lock the flows in one order; within a flow in the order of the list
    flows = sorted((run.automation, run.priority, clean(run.fairness_key) or "", at) for at, run in enumerate(runs))
    for automation, priority, key, at in flows:
        if automation not in fair:
            turns[at] = 0
            continue
        flow = (automation, priority)
        if flow not in floors:
            floors[flow] = _floor(transaction, automation, priority)
        row = {"automation": automation, "priority": priority, "key": key, "turn": floors[flow]}
        taken = transaction.one(_TURN, row)
        turns[at] = 0 if taken is None else int(taken[0])
    return [rank_of(run.priority, turns[at]) for at, run in enumerate(runs)]


def _uses_fairness(transaction: Transaction, runs: Sequence[NewRun]) -> set[int]:
    named = {run.automation for run in runs if run.fairness_key is not None}
    others = sorted({run.automation for run in runs} - named)
    if not others:
        return named
    return named | {row[0] for row in transaction.all(_USES_FAIRNESS, {"automations": others})}


def _floor(transaction: Transaction, automation: int, priority: int) -> int:
    lowest = rank_of(priority)
    highest = rank_of(priority, (1 << _TURN_BITS) - 1)
    row = transaction.one(
        _FLOOR, {"automation": automation, "priority": priority, "lowest": lowest, "highest": highest}
    )
    return 0 if row is None else int(row[0]) - lowest
