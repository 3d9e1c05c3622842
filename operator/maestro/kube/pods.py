"""When a pod, or the program in its container, has come to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from maestro.kube.cache import Object, ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.informer import Informer
from maestro.kube.kinds import POD, ObjectKey

WORKER_CONTAINER = "worker"
_OUT_OF_MEMORY = "OOMKilled"


@dataclass(frozen=True, slots=True)
class PodEnd:
    """The end of what ran in a pod.

    Attributes
    ----------
    uid, namespace, name, labels
        The pod's.
    gone
        Whether the pod itself is over (ended or deleted). False: its container ended and may be started anew; then only
        what began before `at` is over.
    at
        When the container ended, where that is known.
    reason, exit_code
        Of the container (`Error`, `OOMKilled`, …) or of the pod (`Evicted`), where they are known.
    told
        Whether it ended because it was told to (the pod is being deleted), killed at the end of its grace or not.
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    gone: bool
    at: datetime | None = None
    reason: str = ""
    exit_code: int | None = None
    told: bool = False


def pod_end(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, *, container: str = WORKER_CONTAINER
) -> PodEnd | None:
    """The end that a change of a pod shows, or None. Pure.

    Told once for each end: a pod that was seen ended before, or whose container's end was, isn't told again.
    """
    pod = new if new is not None else old
    if pod is None:
        return None
    if new is None or _over(new):
        return None if old is not None and _over(old) else _end_of(pod, container, gone=True)
    known = _terminations(old, container) if old is not None else None
    return _end_of(new, container, gone=False) if _terminations(new, container) - (known or set()) else None


def _over(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _container(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == container), {})


def _terminated(pod: Mapping[str, Any], container: str) -> list[Mapping[str, Any]]:
    status = _container(pod, container)
    states = ((status.get(field) or {}).get("terminated") for field in ("state", "lastState"))
    return [state for state in states if state]


def _terminations(pod: Mapping[str, Any], container: str) -> set[str]:
    return {str(state.get("containerID") or state.get("finishedAt")) for state in _terminated(pod, container)}


def _end_of(pod: Mapping[str, Any], container: str, *, gone: bool) -> PodEnd:
    meta = pod.get("metadata") or {}
    last = next(iter(_terminated(pod, container)), {})
    at = datetime.fromisoformat(last["finishedAt"]) if last.get("finishedAt") else None
    return PodEnd(
        uid=str(meta.get("uid", "")),
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        labels=meta.get("labels") or {},
        gone=gone,
        at=at,
        reason=str(last.get("reason") or (pod.get("status") or {}).get("reason") or ""),
        exit_code=last.get("exitCode"),
        told=_told(meta, at) and last.get("reason") != _OUT_OF_MEMORY,
    )


def _told(meta: Mapping[str, Any], ended: datetime | None) -> bool:
    """Whether a pod was being deleted when its container ended: a deletionTimestamp is the end of the grace."""
    if not meta.get("deletionTimestamp"):
        return False
    grace = timedelta(seconds=int(meta.get("deletionGracePeriodSeconds") or 0))
    return ended is None or ended >= datetime.fromisoformat(meta["deletionTimestamp"]) - grace


class PodWatch:
    """Watches the pods that match a label selector, and tells of each end once.

    A pod that ended or was deleted while nobody watched is not told: the leases of what it ran see to that. One that is
    found ended in the first list is told.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespaces: Sequence[str] | None,
        label_selector: str,
        on_end: Callable[[PodEnd], None],
    ) -> None:
        self.cache = ObjectCache(POD, namespaces=namespaces)
        self._informer = Informer(client, POD, self.cache, namespaces=namespaces, label_selector=label_selector)
        self._on_end = on_end
        self.cache.observe(self._on_change)

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set."""
        await self._informer.run(stop)

    def _on_change(self, _: ObjectKey, old: Object | None, new: Object | None) -> None:
        end = pod_end(old, new)
        if end is not None:
            self._on_end(end)
