"""Figures about ended Runs for people: by Automation, and by class of error. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from maestro.runs import lifecycle
from maestro.runs.database import Row, Sql, Transaction
from maestro.runs.model import RunState, from_micros

SAMPLE = 200
"""So many of an Automation's last ended Runs are looked at."""
RECENT = 10
_FAILURES = 10_000

# One probe of the partial index for each state; then the newest of all three.
_SAMPLE = Sql(f"""
    SELECT r.state, r.reason, r.started_at, r.ended_at, d.schedule, r.seq
    FROM (
        SELECT * FROM (SELECT seq, state, reason, started_at, ended_at FROM run
            WHERE automation_id = :pk AND state = {lifecycle.S} AND state >= 5 ORDER BY seq DESC LIMIT :limit) s
        UNION ALL
        SELECT * FROM (SELECT seq, state, reason, started_at, ended_at FROM run
            WHERE automation_id = :pk AND state = {lifecycle.F} AND state >= 5 ORDER BY seq DESC LIMIT :limit) f
        UNION ALL
        SELECT * FROM (SELECT seq, state, reason, started_at, ended_at FROM run
            WHERE automation_id = :pk AND state = {lifecycle.C} AND state >= 5 ORDER BY seq DESC LIMIT :limit) c
    ) r LEFT JOIN run_detail d ON d.run_seq = r.seq
    ORDER BY r.seq DESC LIMIT :limit""")  # noqa: S608 - codes of states
_ERROR_CLASSES = Sql(f"""
    SELECT coalesce(error_class, 'UNKNOWN'), count(*) FROM (
        SELECT error_class, ended_at FROM run
        WHERE automation_id = :pk AND state = {lifecycle.F} AND state >= 5 ORDER BY seq DESC LIMIT :limit
    ) failed WHERE ended_at >= :since GROUP BY 1""")  # noqa: S608 - a code of a state


@dataclass(frozen=True, slots=True)
class Sampled:
    """What an Automation's last ended Runs say. Durations are seconds from the last attempt's start to the end."""

    sampled: int
    manual: int
    scheduled: int
    duration_p50: float | None
    duration_p95: float | None
    last_state: RunState | None
    last_reason: str | None
    last_at: datetime | None
    recent: tuple[RunState, ...]
    """The states of the last ones, the newest first."""


def sample(transaction: Transaction, automations: Collection[int]) -> dict[int, Sampled]:
    """By Automation's key."""
    return {pk: _sampled(transaction.all(_SAMPLE, {"pk": pk, "limit": SAMPLE})) for pk in automations}


def error_classes(transaction: Transaction, automations: Collection[int], since: int) -> Counter[str]:
    """How many Runs failed since then (microseconds), by class of error."""
    found: Counter[str] = Counter()
    for pk in automations:
        rows = transaction.all(_ERROR_CLASSES, {"pk": pk, "limit": _FAILURES, "since": since})
        found.update({error_class: int(count) for error_class, count in rows})
    return found


def _sampled(rows: list[Row]) -> Sampled:
    durations = sorted((ended - started) / 1e6 for _, _, started, ended, _, _ in rows if started and ended)
    scheduled = sum(1 for row in rows if row[4] is not None)
    last = max(rows, key=lambda row: int(row[3] or 0), default=None)
    return Sampled(
        sampled=len(rows),
        manual=len(rows) - scheduled,
        scheduled=scheduled,
        duration_p50=_quantile(durations, 0.5),
        duration_p95=_quantile(durations, 0.95),
        last_state=None if last is None else RunState.of(last[0]),
        last_reason=None if last is None else last[1],
        last_at=None if last is None or last[3] is None else from_micros(last[3]),
        recent=tuple(RunState.of(row[0]) for row in rows[:RECENT]),
    )


def _quantile(ordered: list[float], share: float) -> float | None:
    """The nearest-rank quantile."""
    return None if not ordered else ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
