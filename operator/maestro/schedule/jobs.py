"""The Jobs of ticks: found by their Schedule, and which of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import ObjectKey
from maestro.resources import names
from maestro.resources.schedule import ScheduleSpec
from maestro.workload.pod import controller_of

Object = dict[str, Any]


class JobIndex:
    """Finds Jobs by the Schedule that owns them; wakes it when the end of one was recorded, or one is gone."""

    def __init__(self, jobs: ObjectCache, wake: Callable[[ObjectKey], None]) -> None:
        self._wake = wake
        self._jobs: dict[ObjectKey, dict[str, Object]] = {}
        for obj in jobs.values():
            self._changed(ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"]), None, obj)
        jobs.observe(self._changed)

    def of(self, key: ObjectKey, uid: str) -> list[Object]:
        """The Jobs of a Schedule."""
        return [job for job in self._jobs.get(key, {}).values() if (controller_of(job) or {}).get("uid") == uid]

    def _changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        obj = new if new is not None else old
        owner = controller_of(obj or {})
        if owner is None or owner.get("kind") != "Schedule":
            return
        schedule = ObjectKey(key.namespace, owner["name"])
        mine = self._jobs.setdefault(schedule, {})
        if new is not None:
            mine[key.name] = new
        else:
            mine.pop(key.name, None)
        if not mine:
            del self._jobs[schedule]
        if new is not None and ended_as(new) is not None and (old is None or ended_as(old) is None):
            self._wake(schedule)


def ended_as(job: Mapping[str, Any]) -> str | None:
    """`Succeeded` or `Failed` once the end was recorded; only then may the Job go."""
    value = (job["metadata"].get("annotations") or {}).get(names.ANNOTATION_ENDED)
    return value if isinstance(value, str) else None


def surplus(jobs: list[Object], spec: ScheduleSpec) -> list[Object]:
    """Ended Jobs beyond what the Schedule keeps, the newest of each kind kept."""
    found: list[Object] = []
    for end, limit in (
        ("Succeeded", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ):
        ended = [job for job in jobs if ended_as(job) == end and not job["metadata"].get("deletionTimestamp")]
        ended.sort(key=lambda job: (job["metadata"].get("creationTimestamp") or "", job["metadata"]["name"]))
        found += ended[: max(len(ended) - limit, 0)]
    return found
