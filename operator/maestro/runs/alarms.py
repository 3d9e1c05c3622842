"""What the clock, the cluster and the gateway do to Runs, always in bounded batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from maestro.runs import lifecycle
from maestro.runs.changes import Changes, Tracked
from maestro.runs.company import running_in
from maestro.runs.database import Sql, Transaction
from maestro.runs.lifecycle import Event, Happening
from maestro.runs.model import Due
from maestro.runs.reporting import happen_to, seqs_of

_DUE = Sql("SELECT seq FROM run WHERE alarm_at IS NOT NULL AND alarm_at <= :now ORDER BY alarm_at LIMIT :limit")
_NEXT = Sql("SELECT alarm_at FROM run WHERE alarm_at IS NOT NULL ORDER BY alarm_at LIMIT 1")
_OF_HOLDER = Sql("SELECT seq FROM run WHERE automation_id = :automation AND state = 3 AND holder = :holder")
_READY = Sql("""
    SELECT seq FROM run WHERE automation_id = :automation AND state = 1 AND ready = 1
    AND (:replays = 1 OR replay_of IS NULL) LIMIT :limit""")
_QUEUED = Sql("""
    SELECT seq FROM run WHERE automation_id = :automation AND state = 2
    AND (:replays = 1 OR replay_of IS NULL) LIMIT :limit""")
_PARKED = Sql("""
    SELECT seq FROM run WHERE automation_id = :automation AND ready = 0 AND state IN (1, 4)
    AND (:replays = 1 OR replay_of IS NULL) LIMIT :limit""")
_HELD_OF = Sql("""
    SELECT seq FROM run WHERE solution_id = :solution AND state = 0 AND automation_id = :automation LIMIT :limit""")
_HELD = Sql("SELECT seq FROM run WHERE solution_id = :solution AND state = 0 ORDER BY seq LIMIT :limit")


def due(changes: Changes, limit: int) -> Due:
    """Treats up to `limit` alarms."""
    seqs = seqs_of(changes.transaction, _DUE, {"now": changes.now, "limit": limit})
    lost = timed_out = retried = expired = 0
    touched = set()
    ringing = changes.load_seqs(seqs).values()
    in_company = _in_company(changes, ringing)
    for tracked in ringing:
        before = tracked.run.state
        step = changes.happen(tracked, Happening(Event.ALARM, company=tracked.seq in in_company))
        after, reason = tracked.run.state, tracked.run.reason
        touched.add(tracked.automation)
        lost += before == lifecycle.R and reason == lifecycle.WORKER_LOST
        timed_out += step.changes.get("cancel_why") == lifecycle.TIMEOUT
        retried += before == lifecycle.T and after == lifecycle.P
        expired += after == lifecycle.C and reason == lifecycle.EXPIRED
    changes.flush()
    return Due(len(seqs), lost, timed_out, retried, expired, frozenset(touched))


def _in_company(changes: Changes, ringing: Collection[Tracked]) -> set[int]:
    """Which of these lose their lease now while their worker has others in hand, which may follow or not."""
    silent: dict[tuple[int, str], list[int]] = defaultdict(list)
    for tracked in ringing:
        if lifecycle.lease_ran_out(tracked.run, changes.now) and tracked.run.holder is not None:
            silent[tracked.automation, tracked.run.holder].append(tracked.seq)
    found: set[int] = set()
    for (automation, holder), seqs in silent.items():
        held = seqs_of(changes.transaction, _OF_HOLDER, {"automation": automation, "holder": holder})
        if len(held) > 1:
            found.update(seqs)
            happen_to(changes, set(held).difference(seqs), Happening(Event.NEIGHBOR_LOST))
    return found


def next_alarm(transaction: Transaction) -> int | None:
    """The earliest alarm; None: there is none."""
    row = transaction.one(_NEXT)
    return None if row is None else int(row[0])


def pod_gone(changes: Changes, pod_uid: str, automations: list[int], before: int, *, told: bool) -> int:
    """Loses the attempts of a pod that began before then, whichever of its processes held them; `told`: it had been
    told to stop, and they go on elsewhere."""
    seqs = [seq for pk in automations for seq in running_in(changes.transaction, pk, pod_uid, before)]
    happened = happen_to(changes, seqs, Happening(Event.POD_GONE, company=len(seqs) > 1, told=told))
    changes.flush()
    return sum(1 for _, step in happened if step.changes)


def hold(changes: Changes, automations: list[int], limit: int) -> int:
    """P, Q, T → H, replays aside."""
    seqs: list[int] = []
    for automation in automations:
        for sql in (_QUEUED, _READY, _PARKED):
            seqs += _some(changes, sql, automation, limit - len(seqs), replays=False)
    held = happen_to(changes, seqs, Happening(Event.HOLD))
    changes.flush()
    return len(held)


def open_gateway(changes: Changes, solution: int, limit: int) -> int:
    """The oldest H → P."""
    seqs = seqs_of(changes.transaction, _HELD, {"solution": solution, "limit": limit})
    opened = happen_to(changes, seqs, Happening(Event.OPEN))
    changes.flush()
    return len(opened)


def cancel_waiting(changes: Changes, automation: int, solution: int, limit: int) -> int:
    """Cancels what waits of an Automation that is gone. How many; less than `limit`: none is left."""
    seqs: list[int] = []
    for sql in (_QUEUED, _READY, _PARKED, _HELD_OF):
        seqs += _some(changes, sql, automation, limit - len(seqs), replays=True, solution=solution)
    happen_to(changes, seqs, Happening(Event.CANCEL, why=lifecycle.AUTOMATION_DELETED))
    changes.flush()
    return len(seqs)


def _some(
    changes: Changes, sql: Sql, automation: int, limit: int, *, replays: bool, solution: int | None = None
) -> list[int]:
    if limit <= 0:
        return []
    params = {"automation": automation, "replays": int(replays), "limit": limit, "solution": solution}
    return seqs_of(changes.transaction, sql, params)
