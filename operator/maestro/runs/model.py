"""The words of the run store: states, registrations, Runs on their way in and out. No I/O."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

Parameters = dict[str, Any]


class RunState(StrEnum):
    """Where a Run stands. `code` is the number that the store keeps."""

    HELD = "Held"
    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"

    @property
    def code(self) -> int:
        return STATE_CODES[self]

    @property
    def ended(self) -> bool:
        return self in ENDED

    @classmethod
    def of(cls, code: int) -> RunState:
        return STATES[code]


STATES = tuple(RunState)
"""States by their code; everything from Succeeded on has ended."""
STATE_CODES = {state: code for code, state in enumerate(STATES)}
ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELED})
WAITING = frozenset({RunState.HELD, RunState.PENDING, RunState.QUEUED, RunState.RETRYING})

NOTHING_TO_DO = "NothingToDo"
"""Reason of a Run that succeeded and found nothing to do (`completed_no_invoices` in older words)."""

PRIORITIES = range(-1000, 1001)
"""What `NewRun.priority` may be; higher goes first."""

_OLDER_STATUS = {
    RunState.HELD: "pending",
    RunState.PENDING: "pending",
    RunState.QUEUED: "pending",
    RunState.RETRYING: "pending",
    RunState.RUNNING: "running",
    RunState.SUCCEEDED: "completed",
    RunState.FAILED: "failed",
    RunState.CANCELED: "canceled",
}


def older_status(state: RunState, reason: str | None = None) -> str:
    """The word of the older HTTP contract for a state: pending, running, completed, …"""
    if state is RunState.SUCCEEDED and reason == NOTHING_TO_DO:
        return "completed_no_invoices"
    return _OLDER_STATUS[state]


# -- time and ids ---------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch. `moment` must be aware."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of a number of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=micros)


def micros(seconds: float) -> int:
    """A length of time in the store's unit."""
    return round(seconds * 1_000_000)


class _RunIds:
    """Makes UUIDv7: 48 bits of milliseconds, then random ones; ids of one process never go back.

    Within a millisecond they go up by random steps. Randomness is drawn in blocks: a system call for each id would be a
    third of what an accept costs.
    """

    _BLOCK = struct.Struct(">512I")

    def __init__(self) -> None:
        self._last = 0
        self._random: Iterator[int] = iter(())

    def __call__(self) -> UUID:
        value = (time.time_ns() // 1_000_000) << 74
        if value <= self._last:
            value = self._last + 1 + self._word()
        else:
            value |= self._word() << 41 | self._word() << 9 | self._word() >> 23
        self._last = value
        head, tail = value >> 62, value & ((1 << 62) - 1)
        return UUID(int=(head >> 12) << 80 | 0x7 << 76 | (head & 0xFFF) << 64 | 0b10 << 62 | tail)

    def _word(self) -> int:
        """32 random bits."""
        for word in self._random:
            return word
        self._random = iter(self._BLOCK.unpack(os.urandom(self._BLOCK.size)))
        return next(self._random)


new_run_id = _RunIds()
"""A new UUIDv7; later calls give greater ids."""


# -- registrations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """How Runs of an Automation behave (`spec.run`, `spec.history`). Times are seconds."""

    timeout: float = 14400.0
    cancel_grace: float = 30.0
    heartbeat_timeout: float = 300.0
    max_attempts: int = 3
    backoff_initial: float = 10.0
    backoff_factor: float = 2.0
    backoff_max: float = 600.0
    max_pending: int = 1_000_000
    parallelism: int | None = None
    ordering_key: tuple[str, ...] = ()
    on_key_failure: Literal["Continue", "Block"] = "Continue"
    pause_after_failures: int = 20
    window: int = 2000
    succeeded_limit: int = 1000
    succeeded_ttl: float = 720 * 3600.0
    failed_limit: int = 1000
    failed_ttl: float = 2160 * 3600.0
    log_lines: int = 10_000


@dataclass(frozen=True, slots=True)
class Registration:
    """What the runs layer knows of one Automation. Written by whoever sees the Automation first."""

    uid: str
    namespace: str
    name: str
    generation: int = 1
    solution: str = ""
    launch: Literal["Queue", "Job"] = "Queue"
    queue: str | None = None
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the queue is declared with: one that was declared otherwise isn't this Automation's to delete."""
    parameters_in_message: bool = False
    script_path: str | None = None
    suspended: bool = False
    deletion_policy: str = "IfEmpty"
    parameter_schema: Mapping[str, Any] | None = None
    default_parameters: Mapping[str, Any] = field(default_factory=dict)
    policy: RunPolicy = field(default_factory=RunPolicy)

    @property
    def id(self) -> str:
        """`<namespace>.<name>`"""
        return f"{self.namespace}.{self.name}"

    @property
    def solution_id(self) -> str:
        """`<namespace>.<solution>`; the namespace's name where the Automation names no Solution."""
        return f"{self.namespace}.{self.solution or self.namespace}"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A registration whose object is gone, for the reaper."""

    automation: int
    registration: Registration
    deregistered: bool
    """Its waiting Runs were canceled already."""
    open_runs: int
    """Runs of it that haven't ended."""


# -- Runs on their way in -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TickJob:
    """What the Kubernetes Job of a Schedule's tick is called and belongs to."""

    schedule: str
    """The Schedule's name; it is in the Automation's namespace."""
    uid: str
    """The Schedule's."""
    name: str
    """The Job's name without the attempt."""


@dataclass(slots=True)
class NewRun:
    """A Run to be accepted. `parameters` are merged and validated already."""

    automation: int
    parameters: Parameters = field(default_factory=dict)
    idempotency_key: str | None = None
    body_hash: bytes | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    priority: int = 0
    not_before: datetime | None = None
    expires_at: datetime | None = None
    fairness_key: str | None = None
    user: str | None = None
    schedule: str | None = None
    tick: datetime | None = None
    copy_of: UUID | None = None
    replay_of: UUID | None = None
    notify: tuple[str, ...] = ()
    traceparent: str | None = None
    reprocessing: str | None = None
    """The name of the Reprocessing that replays it."""
    run_id: UUID | None = None
    launch: Literal["Queue", "Job"] | None = None
    """How it is launched; None: as the Automation says. `Job` needs no queue, but never the other way round."""
    job: TickJob | None = None
    """Only of a tick's Run that is launched as a Job."""


@dataclass(slots=True)  # frozen ones take three times as long to make, and one is made for each Run
class Accepted:
    """The answer to one NewRun."""

    id: UUID
    state: RunState
    replayed: bool = False
    """True: the idempotency key was known, and this is the Run that it made then."""


# -- Runs on their way out ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Claimed:
    """A Run that was written Queued and must now be published (or launched as a Job)."""

    seq: int
    id: UUID
    automation: int
    pub: int
    attempt: int
    """The attempt that a start of this publication will begin; it only informs."""
    parameters: Parameters | None
    """Given only where the message or the Job needs them (`parameters_in_message`, `launch: Job`)."""
    launch: Literal["Queue", "Job"] = "Queue"
    job: TickJob | None = None
    scheduled_time: datetime | None = None
    reprocessing: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A Queued Run as the dispatcher's repair looks at it."""

    seq: int
    pub: int
    queued_at: datetime


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A publication that didn't reach the queue (or a Job that Kubernetes refused)."""

    seq: int
    pub: int
    reason: str
    """`NoQueue`, `Unconfirmed`; for Jobs `JobRefused` (tried again) or `JobInvalid` (final)."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """What the winner of the Lease works with."""

    epoch: int
    store_id: str
    next_pub: int
    confirmed_pub: int


@dataclass(frozen=True, slots=True)
class Due:
    """What one look at the clock has done."""

    handled: int = 0
    """Alarms that were treated; equal to the limit: look again at once."""
    lost: int = 0
    timed_out: int = 0
    retried: int = 0
    expired: int = 0
    automations: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt of a Run."""

    attempt: int
    holder: str | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a Run says it is."""

    done: float | None
    total: float | None
    text: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything that is shown of a Run."""

    id: UUID
    seq: int
    automation: int
    automation_id: str
    solution_id: str
    state: RunState
    reason: str | None
    message: str | None
    error_class: str | None
    parameters: Parameters
    result: Any
    attempt: int
    max_attempts: int
    accepted_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    """Not before this instant: the wish of the caller, or the next attempt of a Run that is Retrying."""
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    last_heartbeat_at: datetime | None
    holder: str | None
    priority: int
    fairness_key: str | None
    user: str | None
    labels: Mapping[str, str]
    reference: str | None
    schedule: str | None
    tick: datetime | None
    copy_of: UUID | None
    replay_of: UUID | None
    apart: bool = False
    """It is launched as a Job although its Automation has a queue."""
    reprocessing: str | None = None
    progress: Progress | None = None
    released: int = 0
    """Attempts that a draining worker gave back, or that were lost together with others. They count in `attempt`, but
    neither as retries nor towards `max_attempts`."""
    attempts: tuple[AttemptView, ...] = ()

    @property
    def status(self) -> str:
        """The older contract's word for the state."""
        return older_status(self.state, self.reason)

    @property
    def retry_count(self) -> int:
        """Attempts after the first, without those that cost none."""
        return max(self.attempt - self.released - 1, 0)


def copy_of(original: RunView, *, by: str | None = None, parameters: Parameters | None = None) -> NewRun:
    """A new Run linked to an ended one, with its parameters unless others are given."""
    return NewRun(
        automation=original.automation,
        parameters=original.parameters if parameters is None else parameters,
        labels=original.labels,
        reference=original.reference,
        priority=original.priority,
        fairness_key=original.fairness_key,
        user=by if by is not None else original.user,
        schedule=original.schedule,
        tick=original.tick,
        launch="Job" if original.apart else None,
        copy_of=original.id,
    )


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which Runs a listing shows; all given fields must match."""

    states: frozenset[RunState] | None = None
    reasons: Mapping[RunState, str] = field(default_factory=dict)
    """Of a state named here only Runs with this reason; Runs of other states are as `states` says."""
    automations: frozenset[int] | None = None
    user: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """`since` and `until` are about the time of acceptance."""
    reference: str | None = None
    schedule: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    copy_of: UUID | None = None
    replay_of: UUID | None = None
    apart: bool | None = None
    """Only those that are launched as Jobs although their Automation has a queue; or only the others."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of Runs, newest first; `cursor` asks for the next one, None ends."""

    items: tuple[RunView, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a Run's log. `number` is its cursor."""

    number: int
    at: datetime
    level: str
    message: str
    actionable: bool = False
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Runs of one Automation, by where they stand."""

    pending: int = 0
    queued: int = 0
    retrying: int = 0
    held: int = 0
    running: int = 0
    succeeded_24h: int = 0
    failed_24h: int = 0
    canceled_24h: int = 0
    failures_in_row: int = 0
    paused: bool = False
    dead_lettered: int = 0
    """Dead letters that nobody has redriven or discarded."""
    unknown: int = 0
    """Runs that the Automation's workers speak of and the store doesn't know, since it was restored."""

    @property
    def waiting(self) -> int:
        """Accepted and not running, held ones included."""
        return self.pending + self.queued + self.retrying + self.held


@dataclass(frozen=True, slots=True)
class RecentFailure:
    id: UUID
    reason: str | None
    at: datetime
    error_class: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class LastRun:
    id: UUID
    state: RunState
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What an Automation's status shows of its Runs."""

    counts: Counts
    last_run: LastRun | None
    recent_failures: tuple[RecentFailure, ...]


@dataclass(frozen=True, slots=True)
class KeyView:
    """An ordering key that has Runs which haven't ended, or that is blocked."""

    key: str
    """The key's hash, as hex: what `release_key` takes."""
    open_runs: int
    blocked_by: UUID | None


@dataclass(frozen=True, slots=True)
class HourCount:
    """Runs that ended in one hour."""

    hour: datetime
    succeeded: int
    failed: int
    canceled: int

    @property
    def total(self) -> int:
        return self.succeeded + self.failed + self.canceled
