"""What workers report about Runs, and what they are told. Mirrors the wire of `POST /api/v1/worker/reports`.

Reports and their answers are made for every start and end of a Run and are not frozen: that triples what one costs to
make. Nobody changes them all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from maestro.runs.model import Parameters, RunState

Op = Literal["start", "log", "progress", "poll", "finish", "release", "jobEnded"]
FinishStatus = Literal["completed", "completed_no_invoices", "failed", "canceled"]
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One log line on its way in; `at` None: the time of its arrival."""

    level: str
    message: str
    at: datetime | None = None
    actionable: bool = False


@dataclass(slots=True)
class Report:
    """One thing that a worker says about one Run.

    `op`:

    - `start`: begins an attempt. SDK: `worker`, `pub`, `epoch`, `store`, `redelivered`.
    - `log` (`lines`), `progress` (`done`, `total`, `text`; all None: a plain heartbeat): renew the lease.
    - `poll`: the cancellation poll: a heartbeat that is always answered 200 with `cancellation_requested`
      (True for a fenced attempt, a stranger and an ended Run).
    - `finish`: `status`, `result`, `error_class`, `kind`, `message`.
    - `release`: the worker is told to stop and hands the Run back; it costs no attempt.
    - `jobEnded`: the Job of attempt `attempt` ended: `status` `completed` or `failed`; None: it vanished.

    `older` marks the older contract: no `attempt`; `worker` is the pod's uid from the token review, else the
    peer's address; the lease is run.timeout until its first `poll`. `caller` limits the report to Runs of one
    Automation (its key in the store).
    `job_pod`: the Run was launched as a Job without the SDK, so nobody sends heartbeats: the lease is run.timeout.
    """

    op: Op
    job: UUID
    worker: str | None = None
    attempt: int | None = None
    pub: int | None = None
    epoch: int | None = None
    store: str | None = None
    redelivered: bool = False
    lines: tuple[ReportLine, ...] = ()
    done: float | None = None
    total: float | None = None
    text: str | None = None
    status: FinishStatus | None = None
    result: Any = None
    error_class: str | None = None
    kind: Literal["technical", "business"] | None = None
    message: str | None = None
    older: bool = False
    job_pod: bool = False
    caller: int | None = None


@dataclass(slots=True)
class ReportAnswer:
    """`status` as an HTTP code: 200, 403 `NotYourRun`, 404 `UnknownRun`, 409 with a `reason` (`running`, `ended`,
    `notDue`, `fenced`, `notRunning`), 429 for a start that has to wait: `alone` (until its worker's pod has nothing
    else in hand), `barred` (until the Run that must be alone there has ended)."""

    status: int
    reason: str | None = None
    message: str | None = None
    attempt: int | None = None
    parameters: Parameters | None = None
    heartbeat_timeout: float | None = None
    timeout: float | None = None
    cancellation_requested: bool | None = None
    alone: bool | None = None
    """The Run was lost together with others: nothing may run beside it in its pod."""
    accepted: bool | None = None
    """Older contract: False for a `canceled` that was refused (answered 200 all the same)."""


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """`status`: 200 canceled now, 202 asked for, 404 unknown, 409 ended already."""

    status: int
    state: RunState | None = None
    reason: str | None = None
