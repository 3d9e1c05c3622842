"""What `history` no longer keeps, deleted in small batches so that no transaction is long."""

from __future__ import annotations

from maestro.runs import lifecycle, unknown
from maestro.runs.changes import BUCKET, Ledger
from maestro.runs.database import Sql, Transaction
from maestro.runs.model import RunPolicy, micros
from maestro.runs.registry import Registry

BATCH = 500
_KEPT_TALLY = micros(31 * 24 * 3600)

_TOO_MANY = """
    SELECT seq FROM run WHERE automation_id = :pk AND state = {state} AND state >= 5
    AND seq <= (SELECT seq FROM run WHERE automation_id = :pk AND state = {state} AND state >= 5
                ORDER BY seq DESC LIMIT 1 OFFSET :limit) ORDER BY seq LIMIT :batch"""
_TOO_OLD = """
    SELECT seq FROM (SELECT seq, ended_at FROM run WHERE automation_id = :pk AND state = {state} AND state >= 5
                     ORDER BY seq LIMIT :batch) AS oldest WHERE ended_at < :before"""
_IN_A_PLAN = Sql("""
    SELECT run_seq FROM replay_item WHERE run_seq {in :seqs}
    AND replay IN (SELECT pk FROM replay WHERE ended_at IS NULL)
    UNION SELECT new_seq FROM replay_item WHERE new_seq {in :seqs} AND state = 1
    AND replay IN (SELECT pk FROM replay WHERE ended_at IS NULL)""")
_LAST_FAILURE = Sql("SELECT max(seq) FROM run WHERE automation_id = :pk AND state = 6 AND state >= 5")
_DELETIONS = tuple(
    Sql(f"DELETE FROM {table} WHERE {column} {{in :seqs}}")  # noqa: S608 - our own tables
    for table, column in (
        ("log", "run_seq"),
        ("progress", "run_seq"),
        ("attempt", "run_seq"),
        ("run_detail", "run_seq"),
        ("run", "seq"),
    )
)
_FORGET_KEYS = Sql("""
    DELETE FROM idempotency WHERE (automation_id, key) IN
    (SELECT automation_id, key FROM idempotency WHERE expires_at < :now ORDER BY expires_at LIMIT :batch)""")
_FORGET_TALLY = Sql("DELETE FROM run_tally WHERE bucket < :bucket")
_FORGET_UNKNOWN = Sql("DELETE FROM unknown_run WHERE at < :before")
_EMPTY = Sql("""
    SELECT 1 WHERE EXISTS (SELECT 1 FROM run WHERE automation_id = :pk)
    OR EXISTS (SELECT 1 FROM dead_letter WHERE automation_id = :pk)""")
_FORGET_AUTOMATION = tuple(
    Sql(f"DELETE FROM {table} WHERE {column} = :pk")  # noqa: S608 - our own tables
    for table, column in (
        ("run_count", "automation_id"),
        ("run_tally", "automation_id"),
        ("run_started", "automation_id"),
        ("fairness", "automation_id"),
        ("run_key", "automation_id"),
        ("idempotency", "automation_id"),
        ("dead_letter_count", "automation_id"),
        ("unknown_run", "automation_id"),
        ("automation", "pk"),
    )
)
_COUNTERS = Sql(
    "SELECT automation_id, state, count(*) FROM run_count GROUP BY automation_id, state HAVING count(*) > 4"
)
_MERGE = Sql("DELETE FROM run_count WHERE automation_id = :pk AND state = :state RETURNING n")
_MERGED = Sql("""
    INSERT INTO run_count (automation_id, state, writer, n) VALUES (:pk, :state, :writer, :n)
    ON CONFLICT (automation_id, state, writer) DO UPDATE SET n = run_count.n + excluded.n""")


def _by_state(text: str) -> dict[int, Sql]:
    ended = (lifecycle.S, lifecycle.F, lifecycle.C)
    return {state: Sql(text.replace("{state}", str(state))) for state in ended}


_TOO_MANY_OF, _TOO_OLD_OF = _by_state(_TOO_MANY), _by_state(_TOO_OLD)


def prune(transaction: Transaction, registry: Registry, ledger: Ledger, now: int, writer: str) -> int:
    """Deletes up to a batch of Runs and what hangs on them. Returns how many Runs went."""
    gone = 0
    for known in registry.everything():
        for state, limit, ttl in _kept(known.registration.policy):
            seqs = _surplus(transaction, known.pk, state, limit, now - micros(ttl), BATCH - gone)
            gone += _delete(transaction, ledger, known.pk, state, seqs)
    ledger.flush()
    _forget_automations(transaction, registry)
    _forget(transaction, now)
    _merge_counters(transaction, writer)
    return gone


def _kept(policy: RunPolicy) -> list[tuple[int, int, float]]:
    """(state, how many, how long in seconds); canceled Runs are kept like succeeded ones."""
    return [
        (lifecycle.S, policy.succeeded_limit, policy.succeeded_ttl),
        (lifecycle.C, policy.succeeded_limit, policy.succeeded_ttl),
        (lifecycle.F, policy.failed_limit, policy.failed_ttl),
    ]


def _surplus(transaction: Transaction, pk: int, state: int, limit: int, before: int, batch: int) -> list[int]:
    if batch <= 0:
        return []
    params = {"pk": pk, "limit": limit, "before": before, "batch": batch}
    seqs = {row[0] for row in transaction.all(_TOO_MANY_OF[state], params)}
    seqs |= {row[0] for row in transaction.all(_TOO_OLD_OF[state], params)}
    if seqs and state == lifecycle.F:
        last = transaction.one(_LAST_FAILURE, params)
        seqs.discard(last[0] if last else None)
    if seqs:
        # What an active plan is made of stays until that has ended, and so does what is newer.
        seqs -= {row[0] for row in transaction.all(_IN_A_PLAN, {"seqs": sorted(seqs)})}
    return sorted(seqs)[:batch]


def _delete(transaction: Transaction, ledger: Ledger, pk: int, state: int, seqs: list[int]) -> int:
    if seqs:
        for sql in _DELETIONS:
            transaction.run(sql, {"seqs": seqs})
        ledger.moved(pk, state, None, len(seqs))
    return len(seqs)


def _forget_automations(transaction: Transaction, registry: Registry) -> None:
    for known in registry.everything():
        if known.reaped and transaction.one(_EMPTY, {"pk": known.pk}) is None:
            for sql in _FORGET_AUTOMATION:
                transaction.run(sql, {"pk": known.pk})


def _forget(transaction: Transaction, now: int) -> None:
    transaction.run(_FORGET_KEYS, {"now": now, "batch": BATCH})
    transaction.run(_FORGET_TALLY, {"bucket": (now - _KEPT_TALLY) // BUCKET})
    transaction.run(_FORGET_UNKNOWN, {"before": now - unknown.KEPT})


def _merge_counters(transaction: Transaction, writer: str) -> None:
    """Counters of processes that ended; one that lives and counts meanwhile makes its row anew."""
    for pk, state, _ in sorted(transaction.all(_COUNTERS))[:BATCH]:
        rows = transaction.all(_MERGE, {"pk": pk, "state": state})
        merged = sum(int(row[0]) for row in rows)
        transaction.run(_MERGED, {"pk": pk, "state": state, "writer": writer, "n": merged})
