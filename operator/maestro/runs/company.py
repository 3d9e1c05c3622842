"""Who runs beside whom: Runs that were lost together run alone next, each in a pod where nothing else runs.

A pod that dies takes every Run in it along, and nothing tells which of them killed it. So none is charged, all are
marked, and a marked one's start is answered with 'wait' as long as its worker's pod has other Runs in hand; while it
runs there, or waits there for them to end, other starts of that pod wait. What waits stays a message in the worker's
hand, so that nothing is claimed or published anew, however many messages a worker prefetches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from maestro.runs import lifecycle
from maestro.runs.changes import Changes, Tracked
from maestro.runs.database import Sql, Transaction
from maestro.runs.model import from_micros, micros

ASKS_AGAIN = micros(10)
"""A worker whose Run waits to be alone asks again well within this; one that doesn't has lost the message, and its pod
takes other Runs again."""

_MARKED = Sql("""
    SELECT seq, automation_id, state, holder, CASE WHEN holder_pub = pub THEN heartbeat_at END FROM run
    WHERE alone = 1 AND state IN (2, 3)""")
_OF_POD = Sql("""
    SELECT seq FROM run WHERE automation_id = :automation AND state = 3
    AND (holder = :pod OR (holder >= :first AND holder < :past)) AND (:any = 1 OR started_at <= :before)""")


_LOADS = Sql("""
    SELECT holder, count(*), min(started_at) FROM run
    WHERE state = 3 AND holder IS NOT NULL AND (:any = 1 OR automation_id = :automation)
    GROUP BY automation_id, holder""")


@dataclass(frozen=True, slots=True)
class PodLoad:
    """What a pod has in hand: how many Runs, and since when the one that began first."""

    runs: int
    since: datetime


def pod_loads(transaction: Transaction, automation: int | None = None) -> dict[str, PodLoad]:
    """By pod (as `pod_of` names it): what it has in hand, whichever of its processes; idle ones are left out."""
    found: dict[str, PodLoad] = {}
    for holder, runs, began in transaction.all(_LOADS, {"any": int(automation is None), "automation": automation or 0}):
        pod, load = pod_of(holder), PodLoad(runs, from_micros(began))
        if (other := found.get(pod)) is not None:
            load = PodLoad(runs + other.runs, min(load.since, other.since))
        found[pod] = load
    return found


def pod_of(worker: str) -> str:
    """The pod of a worker's identity (`<pod uid>/<process>`, or what an older worker goes by)."""
    return worker.partition("/")[0]


def running_in(transaction: Transaction, automation: int, pod: str, before: int | None = None) -> list[int]:
    """The Runs that a pod has in hand, whichever of its processes holds them (`before`: that began until then)."""
    # '0' follows '/': the range is the prefix
    params = {"automation": automation, "pod": pod, "first": f"{pod}/", "past": f"{pod}0"}
    params |= {"any": int(before is None), "before": before or 0}
    return [row[0] for row in transaction.all(_OF_POD, params)]


@dataclass(slots=True)
class _Marked:
    """A Queued or Running Run that has to be alone; `asked_at`: when its worker was last told to wait."""

    seq: int
    automation: int
    state: int
    holder: str | None
    asked_at: int | None


class Company:
    """The company that starts find, as one transaction sees it with what it has changed so far.

    Where no Run is marked, which is nearly always, it costs one look into an empty index for all starts together.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._known: list[_Marked] | None = None

    def of_start(self, tracked: Tracked, worker: str | None) -> tuple[bool, bool]:
        """`company` and `barred` of a START (see `Happening`)."""
        if worker is None:
            return False, False
        pod = pod_of(worker)
        if tracked.run.alone == lifecycle.ALONE:
            return self._has_others(tracked, pod), False
        return False, any(self._bars(marked, tracked.automation, pod) for marked in self._marked())

    def _has_others(self, tracked: Tracked, pod: str) -> bool:
        known = self._changes.tracked
        for seq in running_in(self._changes.transaction, tracked.automation, pod):
            if seq != tracked.seq and (seq not in known or known[seq].run.state == lifecycle.R):
                return True
        return any(
            other.run.state == lifecycle.R and other.seq != tracked.seq and other.automation == tracked.automation
            for other in known.values()
            if other.run.holder is not None and pod_of(other.run.holder) == pod
        )

    def _bars(self, marked: _Marked, automation: int, pod: str) -> bool:
        if marked.automation != automation or marked.holder is None or pod_of(marked.holder) != pod:
            return False
        if marked.state == lifecycle.R:
            return True
        return marked.asked_at is not None and self._changes.now - marked.asked_at < ASKS_AGAIN

    def _marked(self) -> Iterator[_Marked]:
        if self._known is None:
            self._known = [_Marked(*row) for row in self._changes.transaction.all(_MARKED)]
        for marked in self._known:
            tracked = self._changes.tracked.get(marked.seq)
            if tracked is None:
                yield marked
            elif tracked.run.state in (lifecycle.Q, lifecycle.R):
                asked_at = tracked.changes.get("heartbeat_at", marked.asked_at)
                yield _Marked(marked.seq, marked.automation, tracked.run.state, tracked.run.holder, asked_at)
