"""How a Job ended, from the Job and its pod. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from maestro.workload.pod import WORKER

Object = Mapping[str, Any]

_HOPELESS = {"InvalidImageName", "ErrImageNeverPull"}
_STUCK = {"ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_STUCK_FOR = timedelta(minutes=2)
_NO_POD_FOR = timedelta(minutes=5)
_LOG_CHARACTERS = 8000


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a Job.

    Attributes
    ----------
    reason
        `Completed`, `Error`, `OOMKilled`, `DeadlineExceeded`, `ImagePullBackOff`, …
    exit_code
        Of the worker's container; None where it never ended by itself.
    text
        What Kubernetes says about it.
    log
        The last lines that the container wrote.
    """

    succeeded: bool
    reason: str
    exit_code: int | None = None
    text: str = ""
    log: str = ""

    def with_log(self, log: str) -> JobEnd:
        """The same with the container's last lines (the end of them, where they are long)."""
        return replace(self, log=log.rstrip()[-_LOG_CHARACTERS:])

    def result(self) -> dict[str, Any]:
        """The Run's result."""
        found: dict[str, Any] = {"exitCode": self.exit_code, "reason": self.reason, "log": self.log}
        return {key: value for key, value in found.items() if value not in (None, "")}

    def message(self) -> str:
        """Why it failed, in a few lines: the reason, and the last the container said."""
        code = f", exit code {self.exit_code}" if self.exit_code is not None else ""
        head = f"{self.reason}{code}"
        return "\n".join(filter(None, (f"{head}: {self.text}" if self.text else head, self.log)))


def job_end(job: Object, pod: Object | None) -> JobEnd | None:
    """How a Job ended; None while it hasn't."""
    ended = _terminated(pod)
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") != "True":
            continue
        if condition.get("type") == "Complete":
            return JobEnd(True, "Completed", ended.get("exitCode", 0))
        if condition.get("type") == "Failed":
            return _failed(condition, pod, ended)
    return None


def _failed(condition: Object, pod: Object | None, ended: Object) -> JobEnd:
    reason, text = str(condition.get("reason") or "Failed"), str(condition.get("message") or "")
    if reason == "BackoffLimitExceeded":
        # Only says that its one pod failed; the pod knows why.
        status = (pod or {}).get("status") or {}
        reason = str(ended.get("reason") or status.get("reason") or "PodFailed")
        text = str(ended.get("message") or status.get("message") or _init_failure(pod))
    return JobEnd(False, reason, ended.get("exitCode"), text)


def stuck(job: Object, pod: Object | None, now: datetime) -> JobEnd | None:
    """The end of a Job that will never run: its image can't be had, or no pod is made for it. None: give it time."""
    if pod is None:
        since = _time((job.get("status") or {}).get("startTime"))
        if since is None or now - since < _NO_POD_FOR or (job.get("status") or {}).get("active"):
            return None
        return JobEnd(False, "NoPod", text="Kubernetes makes no pod for the Job; kubectl describe job says why")
    since = _time((pod.get("status") or {}).get("startTime"))
    for key in ("initContainerStatuses", "containerStatuses"):
        for status in (pod.get("status") or {}).get(key) or ():
            waiting = (status.get("state") or {}).get("waiting") or {}
            reason = str(waiting.get("reason") or "")
            if reason in _HOPELESS or (reason in _STUCK and since is not None and now - since >= _STUCK_FOR):
                return JobEnd(False, "ImagePullBackOff" if reason == "ErrImagePull" else reason, text=_text(waiting))
    return None


def _text(waiting: Object) -> str:
    return str(waiting.get("message") or "")[:1000]


def _terminated(pod: Object | None) -> Object:
    for status in ((pod or {}).get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == WORKER:
            found: Object = (status.get("state") or {}).get("terminated") or {}
            return found
    return {}


def _init_failure(pod: Object | None) -> str:
    for status in ((pod or {}).get("status") or {}).get("initContainerStatuses") or ():
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"init container {status.get('name')} ended with exit code {ended['exitCode']}"
    return ""


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
