"""What the pods of a Deployment say about why it isn't ready. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from maestro.workload.pod import WORKER

Object = Mapping[str, Any]

# Two words that alternate while one thing goes on.
_SAME = {"ErrImagePull": "ImagePullBackOff"}
_STARTING = {"ContainerCreating", "PodInitializing"}
_MESSAGE_LIMIT = 200


def troubles(pods: Iterable[Object]) -> list[str]:
    """A phrase for each kind of trouble, such as `2 pods: ImagePullBackOff`; steady while the trouble lasts."""
    found: Counter[str] = Counter()
    said: dict[str, str] = {}
    for pod in pods:
        if (pod.get("metadata") or {}).get("deletionTimestamp"):
            continue
        for reason, message in _of_pod(pod):
            found[reason] += 1
            said.setdefault(reason, message)
    return [
        f"{count} pod{'s' if count > 1 else ''}: {reason}{f' ({said[reason]})' if said[reason] else ''}"
        for reason, count in sorted(found.items())
    ]


def exited_cleanly(pods: Sequence[Object]) -> bool:
    """Whether a worker's container has ended with exit code 0 without having been told to."""
    for pod in pods:
        if (pod.get("metadata") or {}).get("deletionTimestamp"):
            continue
        for status in _statuses(pod, "containerStatuses"):
            if status.get("name") == WORKER and any(
                ((status.get(state) or {}).get("terminated") or {}).get("exitCode") == 0
                for state in ("state", "lastState")
            ):
                return True
    return False


def _of_pod(pod: Object) -> Iterator[tuple[str, str]]:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield condition.get("reason") or "Unschedulable", _cut(condition.get("message") or "")
            return
    for key in ("initContainerStatuses", "containerStatuses"):
        for status in _statuses(pod, key):
            yield from _of_container(status)


def _of_container(status: Object) -> Iterator[tuple[str, str]]:
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason = _SAME.get(waiting.get("reason", ""), waiting.get("reason", ""))
    ended = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated") or {}
    if reason in _STARTING:
        reason = ""
    if reason in ("", "CrashLoopBackOff") and ended and not status.get("ready"):
        # Between two restarts a container runs for a moment; what ended it is what counts.
        if ended.get("exitCode") or status.get("restartCount"):
            why = ended.get("reason") or "Error"
            yield "CrashLoopBackOff", f"{status.get('name')}: {why}, exit code {ended.get('exitCode')}"
    elif reason:
        image = f"{status.get('name')}: {status.get('image')}" if reason == "ImagePullBackOff" else ""
        yield reason, image or _cut(waiting.get("message") or "")


def _statuses(pod: Object, key: str) -> list[Object]:
    return (pod.get("status") or {}).get(key) or []


def _cut(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"
