"""Which ended Runs of a Solution a plan is made of, found page by page so that memory stays flat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from maestro.runs.database import Sql, Transaction, as_uuid

PAGE = 1000

_ROW = """
    SELECT r.seq, r.id, r.automation_id, r.state, {time}, r.started_at, d.tick, {parameters}, d.labels
    FROM run r LEFT JOIN run_detail d ON d.run_seq = r.seq
    WHERE r.automation_id = :automation AND r.seq > :after AND r.state >= 5 {conditions} ORDER BY r.seq LIMIT :limit"""
_NAMED = """
    SELECT r.seq, r.id, r.automation_id, r.state, {time}, r.started_at, d.tick, {parameters}, d.labels
    FROM run r LEFT JOIN run_detail d ON d.run_seq = r.seq WHERE r.id {{in :ids}} {conditions}"""
_TIMES = {False: "coalesce(d.tick, r.accepted_at)", True: "coalesce(r.started_at, r.accepted_at)"}
_DEAD = "(coalesce(r.reason, '') = 'DeadLettered' OR r.id IN (SELECT run_id FROM dead_letter WHERE run_id IS NOT NULL))"
_OF_NAMES = Sql("SELECT id, automation_id, state FROM run WHERE id {in :ids}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a Run must be to be selected; None is no condition. Times are microseconds, states are codes.

    Without `runs`, Runs that replay others aren't selected: they are the same work once more.
    """

    automations: tuple[int, ...]
    runs: tuple[UUID, ...] | None = None
    states: frozenset[int] | None = None
    since: int | None = None
    until: int | None = None
    by_start: bool = False
    """The time that counts is the start, not the tick (or, where a Run stands for none, the acceptance)."""
    references: frozenset[str] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    dead_lettered: bool | None = None
    wants_parameters: bool = False
    """The parameters are to be read along, whether or not they are a condition."""
    ended_since: int | None = None


@dataclass(slots=True)
class Found:
    """An ended Run. `at` is the time that plans are ordered by."""

    seq: int
    id: UUID
    automation: int
    state: int
    at: int
    started_at: int | None
    tick: int | None
    parameters: Mapping[str, Any]


def page(transaction: Transaction, selection: Selection, automation: int, after: int) -> tuple[list[Found], int | None]:
    """Selected Runs of one Automation with greater numbers than `after`, and where to go on (None: at its end)."""
    sql = _sql(_ROW, *_shape(selection), selection.runs is None)
    params = {**_params(selection), "automation": automation, "after": after, "limit": PAGE}
    rows = transaction.all(sql, params)
    return _matching(selection, rows), rows[-1][0] if len(rows) == PAGE else None


def named(transaction: Transaction, selection: Selection, ids: Sequence[UUID]) -> list[Found]:
    """Those of the Runs with these ids that are selected."""
    sql = _sql(_NAMED, *_shape(selection), False)
    params = {**_params(selection), "ids": [transaction.uuid(id_) for id_ in ids]}
    rows = [row for row in transaction.all(sql, params) if row[2] in selection.automations and row[3] >= 5]
    return _matching(selection, rows)


def states_of(transaction: Transaction, ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
    """Automation and state of those of these Runs that there are."""
    rows = transaction.all(_OF_NAMES, {"ids": [transaction.uuid(id_) for id_ in ids]})
    return {as_uuid(id_): (automation, state) for id_, automation, state in rows}


def _shape(selection: Selection) -> tuple[bool, bool, tuple[str, ...]]:
    conditions = []
    if selection.states is not None:
        conditions.append("r.state {in :states}")
    time = _TIMES[selection.by_start]
    if selection.since is not None:
        conditions.append(f"{time} >= :since")
    if selection.until is not None:
        conditions.append(f"{time} <= :until")
    if selection.references is not None:
        conditions.append("d.reference {in :references}")
    if selection.dead_lettered is not None:
        conditions.append(_DEAD if selection.dead_lettered else f"NOT {_DEAD}")
    if selection.ended_since is not None:
        conditions.append("r.ended_at >= :ended_since")
    return selection.by_start, bool(selection.parameters) or selection.wants_parameters, tuple(conditions)


@lru_cache(maxsize=64)
def _sql(text: str, by_start: bool, parameters: bool, conditions: tuple[str, ...], originals: bool) -> Sql:
    given = [*conditions, *(["r.replay_of IS NULL"] if originals else [])]
    text = text.replace("{time}", _TIMES[by_start]).replace("{parameters}", "r.parameters" if parameters else "NULL")
    return Sql(
        text.replace("{conditions}", "".join(f" AND {each}" for each in given)).replace("{{", "{").replace("}}", "}")
    )


def _params(selection: Selection) -> dict[str, Any]:
    params = {
        "states": None if selection.states is None else sorted(selection.states),
        "since": selection.since,
        "until": selection.until,
        "references": None if selection.references is None else sorted(selection.references),
        "ended_since": selection.ended_since,
    }
    return {name: value for name, value in params.items() if value is not None}


def _matching(selection: Selection, rows: Sequence[tuple[Any, ...]]) -> list[Found]:
    found = []
    for seq, id_, automation, state, at, started_at, tick, parameters, labels in rows:
        if selection.labels and not _has(json.loads(labels or "{}"), selection.labels):
            continue
        given = {} if parameters is None else json.loads(parameters)
        if selection.parameters and not _has(given, selection.parameters):
            continue
        found.append(Found(seq, as_uuid(id_), automation, state, at, started_at, tick, given))
    return found


def _has(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in values and _equal(values[name], value) for name, value in wanted.items())


def _equal(one: Any, other: Any) -> bool:
    # True and 1 are equal to Python, and different to everybody who writes JSON.
    return (
        type(one) is type(other) and bool(one == other)
        if isinstance(one, bool) or isinstance(other, bool)
        else bool(one == other)
    )
