"""Ordering keys: one Run of a key in flight at a time, the others wait in the order of acceptance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from maestro.runs.database import Sql, Transaction, as_uuid, as_uuid_or_none
from maestro.runs.model import KeyView

Key = tuple[int, UUID]
"""(Automation, hash of the key's values)"""

_LOCK = Sql("SELECT blocked_by FROM run_key WHERE automation_id = :automation AND ckey = :ckey {lock}")
_ENTER = Sql("""
    INSERT INTO run_key (automation_id, ckey, n) VALUES (:automation, :ckey, :n)
    ON CONFLICT (automation_id, ckey) DO UPDATE SET n = run_key.n + excluded.n RETURNING blocked_by""")
_LEAVE = Sql("""
    UPDATE run_key SET n = n - :n, blocked_by = :blocked_by WHERE automation_id = :automation AND ckey = :ckey""")
_FORGET = Sql("""
    DELETE FROM run_key WHERE automation_id = :automation AND ckey = :ckey AND n <= 0 AND blocked_by IS NULL""")
_HEAD = Sql("""
    UPDATE run SET ready = 1
    WHERE seq = (SELECT seq FROM run WHERE automation_id = :automation AND ckey = :ckey AND state IN (0, 1)
                   AND (:blocked = 0 OR copy_of IS NOT NULL OR replay_of IS NOT NULL)
                 ORDER BY (replay_of IS NULL), seq LIMIT 1)
      AND state = {P} AND ready = 0 AND (due_at IS NULL OR due_at <= :now)
      AND NOT EXISTS (SELECT 1 FROM run other WHERE other.automation_id = :automation AND other.ckey = :ckey
                      AND other.state IN (2, 3, 4))
      AND NOT EXISTS (SELECT 1 FROM run other WHERE other.automation_id = :automation AND other.ckey = :ckey
                      AND other.state IN (0, 1) AND other.ready = 1)
    RETURNING automation_id""")
_COPIES = Sql("SELECT seq FROM run WHERE seq {in :seqs} AND (copy_of IS NOT NULL OR replay_of IS NOT NULL)")
_LIST = Sql("""
    SELECT ckey, n, blocked_by FROM run_key
    WHERE automation_id = :automation AND (:blocked = 0 OR blocked_by IS NOT NULL) ORDER BY ckey LIMIT :limit""")
_RELEASE = Sql("""
    UPDATE run_key SET blocked_by = NULL
    WHERE automation_id = :automation AND ckey = :ckey AND blocked_by IS NOT NULL""")


@dataclass(frozen=True, slots=True)
class KeyEnd:
    """A Run of the key that ended."""

    id: UUID
    seq: int
    succeeded: bool
    blocks: bool
    """It failed, and the Automation wants its key to wait until somebody has looked."""


def key_of(names: Sequence[str], parameters: Mapping[str, Any]) -> UUID | None:
    """The hash of the key's values; None where the Automation has no ordering key."""
    if not names:
        return None
    values = json.dumps([parameters.get(name) for name in names], sort_keys=True, separators=(",", ":"))
    return UUID(bytes=hashlib.blake2b(values.encode(), digest_size=16).digest())


def lock(transaction: Transaction, keys: Collection[Key]) -> None:
    """Takes the locks of keys, in one order everywhere."""
    transaction.each(_LOCK, [_params(transaction, key) for key in sorted(keys)])


def enter(transaction: Transaction, entering: Mapping[Key, int]) -> dict[Key, bool]:
    """So many new Runs of each key: locks the keys; whether each is blocked. Then insert them, then `heads`."""
    ordered = sorted(entering)
    rows = transaction.each(_ENTER, [{**_params(transaction, key), "n": entering[key]} for key in ordered])
    return {key: row[0][0] is not None for key, row in zip(ordered, rows, strict=True)}


def heads(transaction: Transaction, blocked: Mapping[Key, bool], now: int) -> set[int]:
    """Makes the first of each key claimable where nothing of the key is in flight; Automations where that did so."""
    rows = [
        {**_params(transaction, key), "blocked": int(is_blocked), "now": now}
        for key, is_blocked in sorted(blocked.items())
    ]
    return {made[0][0] for made in transaction.each(_HEAD, rows) if made}


def ended(transaction: Transaction, ends: Mapping[Key, Sequence[KeyEnd]], now: int) -> set[int]:
    """Runs of these keys ended or left their place (an empty list): the next of each may go."""
    ordered = sorted(ends)
    held = transaction.each(_LOCK, [_params(transaction, key) for key in ordered])
    copies = _copies(transaction, ends)
    blocked: dict[Key, bool] = {}
    leaving = []
    for key, row in zip(ordered, held, strict=True):
        before = as_uuid_or_none(row[0][0]) if row else None
        after = _blocked_by(before, ends[key], copies)
        blocked[key] = after is not None
        if ends[key] or before != after:
            leaving.append({**_params(transaction, key), "n": len(ends[key]), "blocked_by": transaction.uuid(after)})
    transaction.many(_LEAVE, leaving)
    work = heads(transaction, blocked, now)
    transaction.many(_FORGET, [_params(transaction, key) for key in ordered])
    return work


def listing(transaction: Transaction, automation: int, *, blocked: bool, limit: int) -> list[KeyView]:
    """Keys of an Automation that are blocked, or all that have open Runs."""
    rows = transaction.all(_LIST, {"automation": automation, "blocked": int(blocked), "limit": limit})
    return [KeyView(as_uuid(key).hex, n, as_uuid_or_none(by)) for key, n, by in rows]


def release(transaction: Transaction, key: Key, now: int) -> bool:
    """Unblocks a key. False: it wasn't blocked."""
    if not transaction.run(_RELEASE, _params(transaction, key)):
        return False
    ended(transaction, {key: []}, now)
    return True


def _blocked_by(before: UUID | None, ends: Sequence[KeyEnd], copies: set[int]) -> UUID | None:
    by = before
    for end in ends:
        if end.succeeded and end.seq in copies:
            by = None
        elif end.blocks and by is None:
            by = end.id
    return by


def _copies(transaction: Transaction, ends: Mapping[Key, Sequence[KeyEnd]]) -> set[int]:
    """Which of the ended are retries or replays: only these can lift a block."""
    succeeded = [end.seq for of_key in ends.values() for end in of_key if end.succeeded]
    return {row[0] for row in transaction.all(_COPIES, {"seqs": succeeded})} if succeeded else set()


def _params(transaction: Transaction, key: Key) -> dict[str, Any]:
    return {"automation": key[0], "ckey": transaction.uuid(key[1])}
