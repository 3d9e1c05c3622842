"""What the store knows of Automations: rows that outlive the objects, and a view of them in memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

from maestro.runs.database import Row, Sql, Transaction
from maestro.runs.errors import UnknownAutomation
from maestro.runs.model import Orphan, Registration, RunPolicy
from maestro.runtime import metrics

_SELECT = "SELECT a.pk, a.uid, a.generation, a.body, a.solution_id, s.id, a.version, a.deleted_at, a.reaped_at"
_FROM = "FROM automation a JOIN solution s ON s.pk = a.solution_id"
_ALL = Sql(f"{_SELECT} {_FROM}")
_ONE = Sql(f"{_SELECT} {_FROM} WHERE a.uid = :uid")
_STAMP = Sql("SELECT count(*), coalesce(sum(version), 0) FROM automation")
_LOCK = Sql("SELECT pk FROM automation WHERE uid = :uid {lock}")
_SOLUTION = Sql("INSERT INTO solution (id) VALUES (:id) ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING pk")
_INSERT = Sql("""
    INSERT INTO automation (uid, id, solution_id, generation, body, version)
    VALUES (:uid, :id, :solution, :generation, :body, 1) ON CONFLICT (uid) DO NOTHING RETURNING pk""")
_UPDATE = Sql("""
    UPDATE automation SET id = :id, solution_id = :solution, generation = :generation, body = :body,
    version = version + 1 WHERE pk = :pk""")
_MOVE_RUNS = Sql("UPDATE run SET solution_id = :solution WHERE automation_id = :pk AND state < {S}")
_DELETED = Sql("UPDATE automation SET deleted_at = :now, version = version + 1 WHERE pk = :pk AND deleted_at IS NULL")
_REAPED = Sql("UPDATE automation SET reaped_at = :now, version = version + 1 WHERE uid = :uid AND reaped_at IS NULL")
_OPEN_RUNS = Sql("SELECT automation_id, sum(n) FROM run_count WHERE state < {S} GROUP BY automation_id")


@dataclass(frozen=True, slots=True)
class Known:
    """A registration as it stands in the store."""

    pk: int
    registration: Registration
    solution: int
    """The Solution's key."""
    version: int
    deleted: bool
    reaped: bool


class Registry:
    """Registrations in memory. Replaced as a whole at every change, so that whoever reads never sees half of one."""

    def __init__(self) -> None:
        self._known: Mapping[int, Known] = {}
        self._uids: Mapping[str, int] = {}
        self._live: Mapping[int, Registration] = MappingProxyType({})
        self._ids: Mapping[str, int] = {}
        self._solutions: Mapping[str, int] = {}
        self._named: frozenset[str] = frozenset()
        self._stamp: Row = ()
        self.full: set[int] = set()
        """Automations whose last claim was cut short by the window. Only for the writer's thread."""
        self.apart: set[int] = set()
        """Automations with a queue that had a Run accepted here which is launched as a Job."""
        self.keyed = False
        """Some Automation has an ordering key, or had one while this process lives."""

    @property
    def live(self) -> Mapping[int, Registration]:
        return self._live

    def by_id(self, automation_id: str) -> tuple[int, Registration] | None:
        pk = self._ids.get(automation_id)
        return None if pk is None else (pk, self._live[pk])

    def keys_named(self, automation_id: str) -> frozenset[int]:
        """Keys of every registration with this id, deleted ones included."""
        return frozenset(pk for pk, known in self._known.items() if known.registration.id == automation_id)

    def by_uid(self, uid: str) -> Known | None:
        pk = self._uids.get(uid)
        return None if pk is None else self._known[pk]

    def known(self, transaction: Transaction, pk: int) -> Known:
        """Live or deleted. Reads the store once more where another replica has written it. Raises UnknownAutomation."""
        if pk not in self._known:
            self.load(transaction)
        if pk not in self._known:
            raise UnknownAutomation(pk)
        return self._known[pk]

    def get(self, pk: int) -> Known | None:
        return self._known.get(pk)

    def everything(self) -> list[Known]:
        """Live and deleted ones."""
        return list(self._known.values())

    def of_solution(self, solution_id: str) -> list[int]:
        """Keys of the Automations of a Solution, deleted ones included."""
        return [pk for pk, known in self._known.items() if known.registration.solution_id == solution_id]

    def solution(self, solution_id: str) -> int | None:
        """The key of a Solution, where an Automation of it is known."""
        return self._solutions.get(solution_id)

    def load(self, transaction: Transaction) -> bool:
        """Reads all where anything has changed. True: it has."""
        stamp = transaction.one(_STAMP) or ()
        if stamp == self._stamp:
            return False
        self._replace([_known(row) for row in transaction.all(_ALL)])
        self._stamp = stamp
        return True

    def write(self, transaction: Transaction, registration: Registration) -> int:
        """Inserts or updates; only a newer generation (or the same, read differently) overwrites."""
        row = transaction.one(_ONE, {"uid": registration.uid})
        body = _body(registration)
        solution = self._solution_key(transaction, registration.solution_id)
        values = {
            "uid": registration.uid,
            "id": registration.id,
            "solution": solution,
            "generation": registration.generation,
            "body": body,
        }
        if row is None:
            inserted = transaction.one(_INSERT, values)
            pk = int(inserted[0]) if inserted else int((transaction.one(_LOCK, values) or (0,))[0])
        else:
            pk = int(row[0])
            if registration.generation < row[2] or (registration.generation == row[2] and body == row[3]):
                self._learn(transaction, registration.uid)
                return pk
            transaction.run(_UPDATE, {**values, "pk": pk})
            if row[4] != solution:
                transaction.run(_MOVE_RUNS, {"solution": solution, "pk": pk})
        self._learn(transaction, registration.uid)
        return pk

    def delete(self, transaction: Transaction, uid: str, now: int) -> int | None:
        """Marks the object as gone. Its key, or None where it isn't known."""
        row = transaction.one(_LOCK, {"uid": uid})
        if row is None:
            return None
        transaction.run(_DELETED, {"pk": row[0], "now": now})
        self._learn(transaction, uid)
        return int(row[0])

    def reaped(self, transaction: Transaction, uid: str, now: int) -> None:
        """Nothing outside belongs to it any more."""
        transaction.run(_REAPED, {"uid": uid, "now": now})
        self._learn(transaction, uid)

    def _learn(self, transaction: Transaction, uid: str) -> None:
        """Takes over one row once the transaction is durable."""
        row = transaction.one(_ONE, {"uid": uid})
        if row is None:
            return
        known = _known(row)
        transaction.after_commit.append(lambda: self._put(known))

    def _put(self, known: Known) -> None:
        self._replace([*(other for other in self._known.values() if other.pk != known.pk), known])

    def _solution_key(self, transaction: Transaction, solution_id: str) -> int:
        row = transaction.one(_SOLUTION, {"id": solution_id})
        assert row is not None, "an upsert with RETURNING returns its row"
        return int(row[0])

    def _replace(self, rows: list[Known]) -> None:
        rows.sort(key=lambda known: known.pk)
        named = frozenset(known.registration.id for known in rows if not known.reaped)
        forgotten, self._named = self._named - named, named
        self._known = {known.pk: known for known in rows}
        self._uids = {known.registration.uid: known.pk for known in rows}
        self._solutions = {known.registration.solution_id: known.solution for known in rows}
        live = [known for known in rows if not known.deleted]
        self.keyed = self.keyed or any(known.registration.policy.ordering_key for known in rows)
        self._live = MappingProxyType({known.pk: known.registration for known in live})
        # one that was made again under the same name has the greater key
        self._ids = {known.registration.id: known.pk for known in live}
        for automation_id in forgotten:
            metrics.forget_automation(automation_id)


def orphans(transaction: Transaction, registry: Registry, known_uids: Collection[str]) -> list[Orphan]:
    """Registrations whose object isn't among the known ones, until they are reaped."""
    registry.load(transaction)
    open_runs = {row[0]: int(row[1]) for row in transaction.all(_OPEN_RUNS)}
    uids = frozenset(known_uids)
    return [
        Orphan(known.pk, known.registration, known.deleted, open_runs.get(known.pk, 0))
        for known in registry.everything()
        if known.registration.uid not in uids and not known.reaped
    ]


def _body(registration: Registration) -> str:
    values = asdict(registration)
    for column in ("uid", "generation"):
        del values[column]
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _known(row: Row) -> Known:
    pk, uid, generation, body, solution, _, version, deleted_at, reaped_at = row
    values: dict[str, Any] = json.loads(body)
    policy = values.pop("policy")
    policy["ordering_key"] = tuple(policy["ordering_key"])
    registration = Registration(
        uid=uid,
        generation=generation,
        # an older version's row may hold a field that is gone, or miss a new one
        policy=RunPolicy(**_fields_of(RunPolicy, policy)),
        **_fields_of(Registration, values),
    )
    return Known(pk, registration, solution, version, deleted_at is not None, reaped_at is not None)


def _fields_of(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {column.name for column in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
