"""How Runs are shown: camelCase, the older words beside the new ones, writeOnly parameters redacted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from maestro.http.directory import Directory
from maestro.http.gateway import Gateway
from maestro.runs.model import AttemptView, LogLine, Parameters, Progress, RunState, RunView
from maestro.runs.parameters import InvalidSchema
from maestro.runs.store import RunStore

_JOB_HOLDER = "job/"
"""How the identity begins under which the end of a Job is reported."""


def moment(at: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class RunViews:
    """Renders Runs; needs the registrations, whose schemas say what is secret."""

    def __init__(self, store: RunStore, directory: Directory, gateway: Gateway) -> None:
        self._store = store
        self._directory = directory
        self._gateway = gateway

    def run(self, run: RunView) -> dict[str, Any]:
        """Everything that `GET /jobs/<id>` shows."""
        return {**self.listed(run), "attempts": [_attempt(attempt, run) for attempt in run.attempts]}

    def listed(self, run: RunView) -> dict[str, Any]:
        """What a list shows of a Run: all but its attempts, which a page isn't read with."""
        return {
            "id": str(run.id),
            "automationId": run.automation_id,
            "solutionId": run.solution_id,
            "userId": run.user,
            "status": run.status,
            "state": run.state.value,
            "reason": run.reason,
            "message": run.message,
            "errorClass": run.error_class,
            "parameters": self.redacted(run),
            "result": run.result,
            "retryCount": run.retry_count,
            "maxAttempts": run.max_attempts,
            "createdAt": moment(run.accepted_at),
            "queuedAt": moment(run.queued_at),
            "startedAt": moment(run.started_at),
            "completedAt": moment(run.ended_at),
            "dueAt": moment(run.due_at),
            "expiresAt": moment(run.expires_at),
            "cancellationRequestedAt": moment(run.cancel_requested_at),
            "lastHeartbeatAt": moment(run.last_heartbeat_at),
            "schedule": run.schedule,
            "scheduledTime": moment(run.tick),
            "copyOf": _text(run.copy_of),
            "replayOf": _text(run.replay_of),
            "heldBy": self._held_by(run),
            "reprocessing": run.reprocessing,
            "labels": dict(run.labels),
            "reference": run.reference,
            "priority": run.priority,
            "fairnessKey": run.fairness_key,
            "progress": _progress(run.progress),
        }

    def _held_by(self, run: RunView) -> str | None:
        return self._gateway.answer(run.solution_id).reprocessing if run.state is RunState.HELD else None

    def redacted(self, run: RunView) -> Parameters | None:
        """The parameters without writeOnly values; None where no schema says which those are."""
        registration = self._store.registration(run.automation)
        if registration is None:
            return None
        try:
            return self._directory.validator(registration).redact(run.parameters)
        except InvalidSchema:
            return None


def log_line(line: LogLine) -> dict[str, Any]:
    """One line of a Run's log."""
    return {
        "number": line.number,
        "at": moment(line.at),
        "level": line.level,
        "message": line.message,
        "actionable": line.actionable,
        "attempt": line.attempt,
    }


def _attempt(attempt: AttemptView, run: RunView) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "pod": _pod(attempt.holder),
        "worker": attempt.holder,
        "exitCode": _exit_code(run) if attempt.attempt == run.attempt else None,
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "message": attempt.message,
        "startedAt": moment(attempt.started_at),
        "endedAt": moment(attempt.ended_at),
    }


def _pod(holder: str | None) -> str | None:
    """The pod in a worker's identity: `<pod uid>/<process uuid>`, or all of it in the older contract."""
    return None if holder is None or holder.startswith(_JOB_HOLDER) else holder.partition("/")[0]


def _exit_code(run: RunView) -> int | None:
    """What the Job's container ended with: the result says so of a Run whose worker didn't speak for itself."""
    holder = run.holder or ""
    if "/" in holder and not holder.startswith(_JOB_HOLDER):
        return None
    code = run.result.get("exitCode") if isinstance(run.result, dict) else None
    return code if isinstance(code, int) else None


def _progress(progress: Progress | None) -> dict[str, Any] | None:
    if progress is None:
        return None
    return {"done": progress.done, "total": progress.total, "text": progress.text, "at": moment(progress.at)}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
