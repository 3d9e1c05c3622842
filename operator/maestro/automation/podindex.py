"""The pods of each Automation, from one watch over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from maestro.automation.pods import exited_cleanly, troubles
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import ObjectKey
from maestro.resources import names

Object = dict[str, Any]


class PodIndex:
    """Finds pods by their Automation, and wakes the Automation when a pod's trouble changes.

    Pods of Jobs aren't a Deployment's and don't count here.
    """

    def __init__(self, pods: ObjectCache, wake: Callable[[ObjectKey], None]) -> None:
        self._wake = wake
        self._pods: dict[ObjectKey, dict[str, Object]] = {}
        pods.observe(self._changed)

    def of(self, namespace: str, name: str) -> Sequence[Object]:
        """The pods of an Automation's Deployment."""
        return list(self._pods.get(ObjectKey(namespace, name), {}).values())

    def everything(self) -> Iterator[Object]:
        """The pods of all Deployments."""
        return (pod for pods in self._pods.values() for pod in pods.values())

    def _changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        for obj, present in ((old, False), (new, True)):
            owner = _owner(key, obj) if obj is not None else None
            if owner is None or obj is None:
                continue
            mine = self._pods.setdefault(owner, {})
            if present:
                mine[key.name] = obj
            else:
                mine.pop(key.name, None)
            if not mine:
                del self._pods[owner]
        owner = _owner(key, new if new is not None else old or {})
        if owner is not None and _says(old) != _says(new):
            self._wake(owner)


def _owner(key: ObjectKey, pod: Object) -> ObjectKey | None:
    labels = (pod.get("metadata") or {}).get("labels") or {}
    name = labels.get(names.LABEL_AUTOMATION)
    return ObjectKey(key.namespace, name) if name and names.LABEL_RUN not in labels else None


def _says(pod: Object | None) -> tuple[object, ...]:
    return (troubles([pod]), exited_cleanly([pod])) if pod is not None else ([], False)
