"""A Run's life as one pure table: state × event → what changes. No I/O; `now` is always handed in.

Times are microseconds since the epoch, lengths microseconds too. The store loads the rows that a batch of events is
about, asks `step` for each, and writes the changes with a compare-and-set on what it had read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from maestro.runs.model import NOTHING_TO_DO, RunPolicy, RunState, micros

H, P, Q, R, T, S, F, C = range(8)
"""Held, Pending, Queued, Running, Retrying, Succeeded, Failed, Canceled: the states' codes in the store."""
if tuple(RunState.of(code) for code in (H, T, C)) != (RunState.HELD, RunState.RETRYING, RunState.CANCELED):
    raise AssertionError("the codes of the states must follow RunState")  # pragma: no cover

SUSPICION = micros(30)
"""How long a silent holder keeps its lease once its message was delivered again."""
RETURN_BACKOFF = (micros(1), micros(60))
"""First and longest pause after a publication that came back."""

CANCELED = "Canceled"
TIMEOUT = "Timeout"
WORKER_LOST = "WorkerLost"
BY_WORKER = "ByWorker"
EXPIRED = "Expired"
DEAD_LETTERED = "DeadLettered"
MUST_BE_ALONE = "alone"
BARRED = "barred"
JOB_INVALID = "JobInvalid"
AUTOMATION_DELETED = "AutomationDeleted"
SCHEDULE_DELETED = "ScheduleDeleted"
BUSINESS = "BusinessFailure"
TECHNICAL = "TechnicalFailure"

RELEASED = "released"
"""The outcome of an attempt that its worker gave back, or that ended with a pod which had been told to stop."""
LOST_TOGETHER = "lostTogether"
"""The outcome of an attempt that was lost with others of its worker: which one took it down isn't known."""
COST_NOTHING = (RELEASED, LOST_TOGETHER)
"""Outcomes that aren't charged: each has raised the Run's limit of attempts by one."""

SHARES, ALONE, IN_DOUBT = range(3)
"""`Run.alone`: may run beside others · was lost together with others, so that its next attempt runs alone in its pod ·
runs, and its worker has just lost the lease of another Run: should this one go too, they were lost together."""
MOST_RETURNS = 20
"""So often busy workers of the older contract turn away a Run that has to be alone; then it runs beside others."""


class Event(StrEnum):
    """What can happen to a Run that exists."""

    CLAIM = "claim"
    RETURN = "return"
    TAKE_BACK = "take back"
    START = "start"
    HEARTBEAT = "heartbeat"
    FINISH = "finish"
    RELEASE = "release"
    CANCEL = "cancel"
    ALARM = "alarm"
    POD_GONE = "pod gone"
    NEIGHBOR_LOST = "neighbor lost"
    DEAD_LETTER = "dead letter"
    HOLD = "hold"
    OPEN = "open"
    JOB_ENDED = "job ended"


class End(StrEnum):
    """How a worker says that an attempt ended."""

    OK = "ok"
    NOTHING = "nothing"
    TECHNICAL = "technical"
    BUSINESS = "business"
    CANCELED = "canceled"


@dataclass(slots=True)
class Run:
    """What events read and change of a Run's row."""

    state: int = P
    attempt: int = 0
    max_attempts: int = 3
    pub: int | None = None
    returns: int = 0
    holder: str | None = None
    holder_pub: int | None = None
    ready: int = 0
    slot: int | None = None
    keyed: bool = False
    replay: bool = False
    due_at: int | None = None
    lease_at: int | None = None
    deadline_at: int | None = None
    expires_at: int | None = None
    alarm_at: int | None = None
    cancel_at: int | None = None
    cancel_why: str | None = None
    reason: str | None = None
    end_report: str | None = None
    started_at: int | None = None
    alone: int = SHARES


@dataclass(slots=True)
class Happening:
    """An event with all that any cell asks of it; what doesn't belong to its kind stays at its default."""

    event: Event
    worker: str | None = None
    attempt: int | None = None
    pub: int | None = None
    redelivered: bool = False
    older: bool = False
    job_pod: bool = False
    poll: bool = False
    end: End | None = None
    error: Mapping[str, Any] = field(default_factory=dict)
    """Columns that a finish brings along: result, error_class, message."""
    prior: tuple[str | None, str] | None = None
    """(holder, outcome) of the `attempt` row that the event's attempt left, if there is one."""
    why: str = CANCELED
    force: bool = False
    reason: str | None = None
    slot: int | None = None
    company: bool = False
    """START: the worker's pod has other Runs in hand. ALARM, POD_GONE: others were lost with this one."""
    barred: bool = False
    """START: a Run that has to be alone runs in the worker's pod, or waits there until nothing else does."""
    told: bool = False
    """POD_GONE: the pod had been told to stop, so it isn't its end that speaks against the Run."""


@dataclass(slots=True)
class AttemptEnd:
    """An attempt that ended without ending its Run: a row of the `attempt` table."""

    attempt: int
    holder: str | None
    started_at: int | None
    outcome: str
    reason: str | None


@dataclass(slots=True)
class Step:
    """What an event does: the columns to write, the answer to whoever caused it, an attempt to record."""

    changes: dict[str, Any]
    status: int = 200
    reason: str | None = None
    cancel: bool = False
    """The worker is to stop: `cancellation_requested`."""
    attempt: int | None = None
    accepted: bool | None = None
    attempt_end: AttemptEnd | None = None
    lost: bool = False
    """An attempt is over without a word from its worker."""


Cell = Callable[[Run, Happening, RunPolicy, int], Step]


def step(run: Run, happening: Happening, policy: RunPolicy, now: int) -> Step:
    """What `happening` does to `run`. Changes nothing by itself: see `apply`."""
    cell = TABLE[happening.event][run.state]
    return Step({}, 409, "noSuchCell") if cell is None else cell(run, happening, policy, now)


def apply(run: Run, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a step's changes into the row as it stands in memory. Returns those that are new: what is as it was
    needn't be written, and the index on it needn't be touched."""
    new = {}
    for column, value in changes.items():
        if column in _COLUMNS:
            if getattr(run, column) == value:
                continue
            setattr(run, column, value)
        new[column] = value
    return new


def accepted(*, keyed: bool, now: int, due_at: int | None, expires_at: int | None) -> dict[str, Any]:
    """The columns of a Run that is accepted now. The gate is the dispatcher's business, so it is Pending."""
    waits = due_at is not None and due_at > now
    run = Run(P, ready=0 if keyed or waits else 1, due_at=due_at if waits else None, expires_at=expires_at)
    return {"state": P, "ready": run.ready, "due_at": run.due_at, "alarm_at": alarm_of(run)}


def alarm_of(run: Run) -> int | None:
    """When the clock next has something to say about the Run: the one indexed time."""
    return _alarm(run.state, run.ready, run.due_at, run.lease_at, run.deadline_at, run.expires_at)


def backoff(policy: RunPolicy, attempt: int) -> int:
    """The pause after attempt `attempt` (1 is the first) failed."""
    # the exponent is bounded: a float overflows at some 1,000 doublings
    pause = policy.backoff_initial * policy.backoff_factor ** min(attempt - 1, 64)
    return micros(min(pause, policy.backoff_max))


def cancellation(why: str | None) -> tuple[int, str]:
    """How a Run whose cancel is pending ends when its attempt does."""
    return (F, TIMEOUT) if why == TIMEOUT else (C, why or BY_WORKER)


# -- transitions that several cells share ---------------------------------------------------------------------------


def _earliest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)


def _alarm(
    state: int, ready: int, due_at: int | None, lease_at: int | None, deadline_at: int | None, expires_at: int | None
) -> int | None:
    if state == R:
        return _earliest(lease_at, deadline_at)
    if state == T or (state == P and not ready):
        return _earliest(due_at, expires_at)
    return expires_at if state in (H, P, Q) else None


def _moved(run: Run, changes: dict[str, Any]) -> dict[str, Any]:
    """Completes a change of state: leaves the slot and the holder's clocks where they end, sets the alarm."""
    state = changes["state"]
    if state not in (Q, R):
        changes["slot"] = None
    if state != R:
        changes["lease_at"] = changes["deadline_at"] = None
        if run.alone == IN_DOUBT:
            changes.setdefault("alone", SHARES)
    changes.setdefault("ready", 0)
    changes.setdefault("due_at", None)
    lease_at, deadline_at = changes.get("lease_at"), changes.get("deadline_at")
    changes["alarm_at"] = _alarm(state, changes["ready"], changes["due_at"], lease_at, deadline_at, run.expires_at)
    return changes


def _end(run: Run, now: int, state: int, reason: str | None, **more: Any) -> dict[str, Any]:
    return _moved(run, {"state": state, "reason": reason, "ended_at": now, **more})


def _pending(run: Run, *, due_at: int | None = None, **more: Any) -> dict[str, Any]:
    """Waits again. One with an ordering key that was in flight is still the first of its key."""
    return _moved(run, {"state": P, "ready": 0 if due_at is not None else 1, "due_at": due_at, **more})


def _pause(run: Run) -> int:
    first, longest = RETURN_BACKOFF
    return min(first << min(run.returns, 16), longest)


def _record(run: Run, outcome: str, reason: str | None) -> AttemptEnd:
    return AttemptEnd(run.attempt, run.holder, run.started_at, outcome, reason)


def _lost(run: Run, now: int, reason: str = WORKER_LOST, *, company: bool = False) -> Step:
    """The attempt is over without a word from its worker.

    Lost in company, it isn't charged: any of them may have taken the worker down. Each runs alone next, and whichever
    is lost then is charged.
    """
    if run.cancel_at is not None:
        return Step(_end(run, now, *cancellation(run.cancel_why)), lost=True)
    if run.alone != ALONE and (company or run.alone == IN_DOUBT):
        limit = run.max_attempts + 1
        changes = _moved(run, {"state": T, "due_at": now, "reason": reason, "alone": ALONE, "max_attempts": limit})
        return Step(changes, attempt_end=_record(run, LOST_TOGETHER, reason), lost=True)
    if run.attempt >= run.max_attempts:
        return Step(_end(run, now, F, reason), lost=True)
    changes = _moved(run, {"state": T, "due_at": now, "reason": reason})
    return Step(changes, attempt_end=_record(run, "lost", reason), lost=True)


def _holds(run: Run, event: Happening) -> bool:
    """The event comes from whoever holds the attempt (the older contract knows no attempts, only who it is)."""
    return run.holder == event.worker and (event.older or run.attempt == event.attempt)


def _begin(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    silent = event.older or event.job_pod
    lease = policy.timeout + policy.cancel_grace if silent else policy.heartbeat_timeout
    attempt = run.attempt + 1
    changes = {
        "state": R,
        "attempt": attempt,
        "holder": event.worker,
        "holder_pub": event.pub if event.pub is not None else run.pub,
        "started_at": now,
        "heartbeat_at": now,
        "returns": 0,
        "reason": None,
        "slot": run.slot,
        "lease_at": now + micros(lease),
        "deadline_at": now + micros(policy.timeout),
    }
    return Step(_moved(run, changes), attempt=attempt)


def _refuse(status: int, reason: str, changes: dict[str, Any] | None = None) -> Cell:
    answer = changes or {}
    return lambda run, event, policy, now: Step(dict(answer), status, reason)


# -- cells: dispatch ------------------------------------------------------------------------------------------------


def _claim(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    return Step(_moved(run, {"state": Q, "pub": event.pub, "slot": event.slot, "queued_at": now}))


def _return(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.pub != event.pub:
        return Step({}, 409, "overtaken")
    if event.reason == JOB_INVALID:
        return Step(_end(run, now, F, JOB_INVALID, **event.error))
    return Step(_pending(run, due_at=now + _pause(run), returns=run.returns + 1, reason=event.reason))


def _take_back(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    return Step(_pending(run))


def _hold(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.replay:
        return Step({}, 409, "replay")
    return Step(_moved(run, {"state": H, "due_at": run.due_at}))


def _open(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    waits = run.due_at is not None and run.due_at > now
    due_at = run.due_at if waits else None
    return Step(_moved(run, {"state": P, "ready": 0 if waits or run.keyed else 1, "due_at": due_at}))


# -- cells: the worker ----------------------------------------------------------------------------------------------


def _start(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.cancel_at is not None:
        return Step({}, 409, "ended")
    if event.barred or (event.company and run.alone == ALONE):
        return _wait(run, event, policy, now)
    return _begin(run, event, policy, now)


def _wait(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    """Its worker holds what it mustn't run beside. The message stays with the worker, which asks again."""
    if event.older:
        # it knows no waiting and is done with the message: the Run goes again a little later
        if run.returns >= MOST_RETURNS and run.alone == ALONE:
            return _begin(run, event, policy, now)
        return Step(_pending(run, due_at=now + _pause(run), returns=run.returns + 1), 409, "notDue")
    if run.alone != ALONE:
        return Step({}, 429, BARRED)
    # Until it has begun, or hasn't asked for a while, the pod takes nothing else: see runs/company.py.
    return Step({"holder": event.worker, "holder_pub": run.pub, "heartbeat_at": now}, 429, MUST_BE_ALONE)


def _start_again(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.holder == event.worker:
        return _restarted(run, event, policy, now) if event.older else _adopt(run, event, policy, now)
    if not event.older and event.worker is not None and run.holder == event.worker.partition("/")[0]:
        # A Job's pod was seen to run before its SDK spoke: one pod, one attempt, and from now on it has heartbeats.
        step = _adopt(run, event, policy, now)
        step.changes["holder"] = event.worker
        step.changes["alarm_at"] = _earliest(step.changes["lease_at"], run.deadline_at)
        return step
    if event.redelivered and not event.older and event.pub is not None and event.pub == run.holder_pub:
        # it may be a second copy, or a blip of the holder's own connection: never a reason to take over
        lease = min(run.lease_at or now, now + SUSPICION)
        return Step({"lease_at": lease, "alarm_at": _earliest(lease, run.deadline_at)}, 409, "running")
    return Step({}, 409, "running")


def _adopt(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    """The same process got the message once more: it goes on, and answers for the new delivery."""
    changes = {"lease_at": now + _lease(run, event, policy), "heartbeat_at": now}
    if event.pub is not None:
        changes["holder_pub"] = event.pub
    return Step(changes, attempt=run.attempt, cancel=run.cancel_at is not None)


def _restarted(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    """Older contract: its container began anew, so the attempt it held is lost and a new one begins."""
    lost = _lost(run, now)
    if lost.changes["state"] != T:
        return Step(lost.changes, 409, "ended", lost=True)
    begun = _begin(run, event, policy, now)
    begun.attempt_end, begun.lost = lost.attempt_end, True
    return begun


def _lease(run: Run, event: Happening, policy: RunPolicy) -> int:
    return micros(policy.timeout + policy.cancel_grace if event.job_pod else policy.heartbeat_timeout)


def _heartbeat(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if not _holds(run, event):
        return Step({}, 200, "fenced", cancel=True) if event.poll else Step({}, 409, "fenced")
    cancel = run.cancel_at is not None
    lease_at = now + _lease(run, event, policy)
    if event.older and not event.poll:
        # whether it polls isn't known yet: what it says besides must not shorten the lease of one that doesn't
        lease_at = max(lease_at, run.lease_at or 0)
    if run.lease_at is not None and 0 <= lease_at - run.lease_at < micros(policy.heartbeat_timeout / 20):
        return Step({}, cancel=cancel)
    changes: dict[str, Any] = {"lease_at": lease_at, "heartbeat_at": now}
    if run.alarm_at is None or lease_at < run.alarm_at:
        changes["alarm_at"] = _earliest(lease_at, run.deadline_at)
    # otherwise the alarm is left where it is, so that no index changes: when it rings, it is set anew
    return Step(changes, cancel=cancel)


def _no_heartbeat(reason: str) -> Cell:
    def cell(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
        return Step({}, 200, reason, cancel=True) if event.poll else Step({}, 409, reason)

    return cell


def _finish(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if not _holds(run, event):
        return _finish_of_another("fenced")(run, event, policy, now)
    return _finished(run, event, policy, now)


def _finished(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    end = event.end
    more: dict[str, Any] = {"end_report": end, **event.error}
    if end in (End.OK, End.NOTHING):
        return Step(_end(run, now, S, NOTHING_TO_DO if end is End.NOTHING else None, **more))
    if end is End.BUSINESS:
        return Step(_end(run, now, F, BUSINESS, **more))
    if end is End.CANCELED or run.cancel_at is not None:
        return Step(_end(run, now, *cancellation(run.cancel_why), **more))
    if run.attempt >= run.max_attempts:
        return Step(_end(run, now, F, TECHNICAL, **more))
    changes = _moved(
        run,
        # it came to an end of its own: whatever took a worker down, it wasn't this
        {"state": T, "due_at": now + backoff(policy, run.attempt), "reason": TECHNICAL, "alone": SHARES, **event.error},
    )
    return Step(changes, attempt_end=_record(run, End.TECHNICAL, TECHNICAL))


def _finish_of_another(reason: str) -> Cell:
    """A finish that no longer counts: 200 where it only repeats what its attempt is recorded with."""

    def cell(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
        if event.prior is not None and event.prior == (event.worker, event.end):
            return Step({})
        return _refused_finish(event, reason)

    return cell


def _finish_ended(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if _holds(run, event) and run.end_report == event.end:
        return Step({})
    return _finish_of_another("ended")(run, event, policy, now)


def _refused_finish(event: Happening, reason: str) -> Step:
    if event.older and event.end is End.CANCELED:
        # its handler doesn't expect a refusal here and would take the process down
        return Step({}, 200, reason, accepted=False)
    return Step({}, 409, reason)


def _release(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    return _given_back(run, now) if _holds(run, event) else Step({}, 409, "fenced")


def _given_back(run: Run, now: int) -> Step:
    if run.cancel_at is not None:
        return Step(_end(run, now, *cancellation(run.cancel_why)))
    # the number stays used, so that what the old attempt still says is fenced; the limit grows instead
    changes = _pending(run, max_attempts=run.max_attempts + 1, reason=None)
    return Step(changes, attempt_end=_record(run, RELEASED, "Drained"))


# -- cells: people, the clock, the cluster ----------------------------------------------------------------------------


def _cancel(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    return Step(_end(run, now, C, event.why, cancel_at=now, cancel_why=event.why))


def _cancel_running(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if event.force:
        why = run.cancel_why or event.why
        return Step(_end(run, now, *cancellation(why), cancel_at=run.cancel_at or now, cancel_why=why))
    if run.cancel_at is not None:
        return Step({}, 202, run.cancel_why)
    return Step({"cancel_at": now, "cancel_why": event.why}, 202, event.why)


def _alarm_waiting(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.expires_at is not None and run.expires_at <= now:
        return Step(_end(run, now, C, EXPIRED))
    return Step({"alarm_at": alarm_of(run)})


def _alarm_pending(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    expires = run.expires_at is not None and run.expires_at <= now
    if expires or run.ready or run.due_at is None or run.due_at > now:
        return _alarm_waiting(run, event, policy, now)
    # one with an ordering key may have lost its place meanwhile: it gets `ready` as the first of its key
    return Step(_moved(run, {"state": P, "ready": 0 if run.keyed else 1, "due_at": None}))


def _alarm_retrying(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    expires = run.expires_at is not None and run.expires_at <= now
    if expires or (run.due_at is not None and run.due_at > now):
        return _alarm_waiting(run, event, policy, now)
    return Step(_pending(run))


def lease_ran_out(run: Run, now: int) -> bool:
    """An alarm now would lose the attempt: its worker was silent for too long."""
    over = run.deadline_at is not None and run.deadline_at <= now
    return run.state == R and not over and run.lease_at is not None and run.lease_at <= now


def _alarm_running(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.deadline_at is not None and run.deadline_at <= now:
        return _timeout(run, policy, now)
    if lease_ran_out(run, now):
        return _lost(run, now, company=event.company)
    return Step({"alarm_at": alarm_of(run)})


def _timeout(run: Run, policy: RunPolicy, now: int) -> Step:
    grace = micros(policy.cancel_grace)
    if run.cancel_at is None:
        flagged = {"cancel_at": now, "cancel_why": TIMEOUT, "deadline_at": now + grace}
        return Step({**flagged, "alarm_at": _earliest(run.lease_at, now + grace)})
    if run.cancel_at + grace > now:
        deadline = run.cancel_at + grace
        return Step({"deadline_at": deadline, "alarm_at": _earliest(run.lease_at, deadline)})
    return Step(_end(run, now, *cancellation(run.cancel_why)))


def _pod_gone(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    return _given_back(run, now) if event.told else _lost(run, now, company=event.company)


def _neighbor_lost(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    return Step({"alone": IN_DOUBT} if run.alone == SHARES else {})


def _dead_letter(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if run.pub != event.pub:
        return Step({}, 409, "overtaken")
    if event.reason == "rejected":
        return Step(_end(run, now, F, DEAD_LETTERED, **event.error))
    if event.reason != "delivery_limit":
        return Step(_pending(run))
    tried = Run(state=Q, attempt=run.attempt + 1, max_attempts=run.max_attempts, expires_at=run.expires_at)
    lost = _lost(tried, now, DEAD_LETTERED)
    lost.changes["attempt"] = tried.attempt
    return lost


def _job_ended_unstarted(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if event.attempt != run.attempt + 1:
        return Step({}, 409, "overtaken")
    begun = _begin(run, event, policy, now)
    running = Run(max_attempts=run.max_attempts, pub=run.pub, slot=run.slot, expires_at=run.expires_at)
    apply(running, begun.changes)
    ended = _job_ended_running(running, event, policy, now)
    ended.changes = {**begun.changes, **ended.changes}
    return ended


def _job_ended_running(run: Run, event: Happening, policy: RunPolicy, now: int) -> Step:
    if event.attempt != run.attempt:
        return Step({}, 409, "fenced")
    return _lost(run, now) if event.end is None else _finished(run, event, policy, now)


# -- the table --------------------------------------------------------------------------------------------------------

_COLUMNS = frozenset(Run.__slots__)


def _row(
    *,
    held: Cell | None = None,
    pending: Cell | None = None,
    queued: Cell | None = None,
    running: Cell | None = None,
    retrying: Cell | None = None,
    ended: Cell | None = None,
) -> tuple[Cell | None, ...]:
    return (held, pending, queued, running, retrying, ended, ended, ended)


def _waiting(cell: Cell, *, running: Cell, ended: Cell, queued: Cell | None = None) -> tuple[Cell | None, ...]:
    return _row(held=cell, pending=cell, retrying=cell, queued=queued or cell, running=running, ended=ended)


TABLE: Mapping[Event, tuple[Cell | None, ...]] = {
    Event.CLAIM: _row(pending=_claim),
    Event.RETURN: _row(queued=_return),
    Event.TAKE_BACK: _row(queued=_take_back),
    Event.HOLD: _row(pending=_hold, queued=_hold, retrying=_hold),
    Event.OPEN: _row(held=_open),
    Event.START: _waiting(_refuse(409, "notDue"), queued=_start, running=_start_again, ended=_refuse(409, "ended")),
    Event.HEARTBEAT: _waiting(_no_heartbeat("notRunning"), running=_heartbeat, ended=_no_heartbeat("ended")),
    Event.FINISH: _waiting(_finish_of_another("notRunning"), running=_finish, ended=_finish_ended),
    Event.RELEASE: _waiting(_refuse(409, "notRunning"), running=_release, ended=_refuse(409, "ended")),
    Event.CANCEL: _waiting(_cancel, running=_cancel_running, ended=_refuse(409, "ended")),
    Event.ALARM: _row(
        held=_alarm_waiting,
        pending=_alarm_pending,
        queued=_alarm_waiting,
        running=_alarm_running,
        retrying=_alarm_retrying,
    ),
    Event.POD_GONE: _row(running=_pod_gone),
    Event.NEIGHBOR_LOST: _row(running=_neighbor_lost),
    Event.DEAD_LETTER: _row(queued=_dead_letter),
    Event.JOB_ENDED: _waiting(
        _refuse(409, "notRunning"),
        queued=_job_ended_unstarted,
        running=_job_ended_running,
        ended=_refuse(409, "ended"),
    ),
}
"""state × event; columns Held, Pending, Queued, Running, Retrying and the three ends. None: it can't touch the Run."""
