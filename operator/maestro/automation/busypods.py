"""Which worker pods are at work, written on the pods.

Autoscalers of nodes leave busy ones alone then, and the ReplicaSet takes idle ones away first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from maestro.kube.client import Object
from maestro.kube.errors import Conflict, Forbidden, KubeError, NotFound
from maestro.kube.kinds import POD, Kind
from maestro.resources import names
from maestro.runs.company import PodLoad
from maestro.runs.errors import StoreUnavailable
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.tasks import sleep_unless

log = logging.getLogger(__name__)

Loads = Callable[[int | None], Awaitable[Mapping[str, PodLoad]]]
"""What each pod (by its uid) has in hand now; of one Automation (its key in the store), or of all."""
Pod = Mapping[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
MARKED = names.ANNOTATION_BUSY
"""On a pod: which annotations Maestro set; those that a template gives are left alone."""


class PatchClient(Protocol):
    """What of the Kubernetes client is used."""

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any]) -> Object: ...


@dataclass(frozen=True, slots=True)
class Patch:
    """Annotations of one pod to be set, or (None) taken away."""

    namespace: str
    name: str
    uid: str
    annotations: Mapping[str, str | None]


# --- what is to be written: pure ------------------------------------------------------------------------------------


def deletion_costs(pods: Iterable[Pod], loads: Mapping[str, PodLoad], now: datetime) -> list[Patch]:
    """What makes a ReplicaSet take idle pods first, then those that have worked least; only where it isn't so yet."""
    found = []
    for pod in pods:
        meta = pod["metadata"]
        cost = _cost(loads.get(meta["uid"]), now)
        if not meta.get("deletionTimestamp") and _annotations(pod).get(DELETION_COST, "0") != cost:
            found.append(Patch(meta["namespace"], meta["name"], meta["uid"], {DELETION_COST: cost}))
    return found


def _cost(load: PodLoad | None, now: datetime) -> str:
    """0 for an idle pod; else it grows by one whenever the work in hand doubles, so that it seldom changes."""
    if load is None:
        return "0"
    seconds = max((now - load.since).total_seconds(), 0.0) * load.runs
    return str(1 + int(seconds).bit_length())


def long_at_work(pods: Iterable[Pod], loads: Mapping[str, PodLoad], seconds: float, now: datetime) -> int:
    """How many of these pods have a Run that has taken longer than so many seconds already."""
    before = now - timedelta(seconds=seconds)
    mine = (loads.get(pod["metadata"]["uid"]) for pod in pods if not pod["metadata"].get("deletionTimestamp"))
    return sum(1 for load in mine if load is not None and load.since < before)


class Marks:
    """Which pods are to be marked as busy, with patience both ways, so that short Runs cause no writes at all.

    Parameters
    ----------
    busy_after
        A pod is marked when it has had a Run for so many seconds.
    idle_after
        The mark goes when for so many seconds it has had none that is as old.
    """

    def __init__(self, *, busy_after: float = 10.0, idle_after: float = 30.0) -> None:
        self._busy_after = timedelta(seconds=busy_after)
        self._idle_after = timedelta(seconds=idle_after)
        self._idle_since: dict[str, datetime] = {}

    def plan(self, pods: Sequence[Pod], loads: Mapping[str, PodLoad], now: datetime) -> list[Patch]:
        """The patches that are due now."""
        here = {pod["metadata"]["uid"] for pod in pods}
        for gone in self._idle_since.keys() - here:
            del self._idle_since[gone]
        return [patch for pod in pods if (patch := self._of(pod, loads, now)) is not None]

    def _of(self, pod: Pod, loads: Mapping[str, PodLoad], now: datetime) -> Patch | None:
        meta, has = pod["metadata"], _annotations(pod)
        load = loads.get(meta["uid"])
        if load is not None and now - load.since >= self._busy_after:
            self._idle_since.pop(meta["uid"], None)
            ours = {} if MARKED in has else _missing(has)
        elif MARKED in has and now - self._idle_since.setdefault(meta["uid"], now) >= self._idle_after:
            ours = {MARKED: None, **dict.fromkeys(filter(None, has[MARKED].split(",")))}
        else:
            return None
        return Patch(meta["namespace"], meta["name"], meta["uid"], ours) if ours else None


def _missing(has: Mapping[str, str]) -> dict[str, str | None]:
    given = {name: value for name, value in names.DO_NOT_DISRUPT.items() if name not in has}
    return {**given, MARKED: ",".join(given)}


def _annotations(pod: Pod) -> Mapping[str, str]:
    return pod["metadata"].get("annotations") or {}


# --- writing it -----------------------------------------------------------------------------------------------------


class BusyPods:
    """Keeps the marks; `run` it while this process leads.

    Parameters
    ----------
    pods
        The pods of all Deployments of Automations, as the cache has them.
    look_seconds
        Between two looks.
    most
        The most pods that are written to at one look: a storm is spread.
    """

    def __init__(
        self,
        kube: PatchClient,
        pods: Callable[[], Iterable[Pod]],
        loads: Loads,
        *,
        clock: Clock = utcnow,
        marks: Marks | None = None,
        look_seconds: float = 5.0,
        most: int = 25,
    ) -> None:
        self._kube = kube
        self._pods = pods
        self._loads = loads
        self._clock = clock
        self._marks = marks or Marks()
        self._look_seconds = look_seconds
        self._most = most
        self._forbidden = False
        self.last: Mapping[str, PodLoad] = {}
        """What the last look has found."""

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set."""
        while not await sleep_unless(stop, self._look_seconds):
            try:
                await self.look()
            except StoreUnavailable as error:
                log.debug("which pods are at work isn't known: %s", error)

    async def look(self) -> None:
        """Look once, and write what is due. Raises StoreUnavailable."""
        self.last = await self._loads(None)
        pods = [pod for pod in self._pods() if not pod["metadata"].get("deletionTimestamp")]
        for patch in self._marks.plan(pods, self.last, self._clock())[: self._most]:
            await self._write(patch)

    async def prefer_idle(self, automation: int, pods: Iterable[Pod]) -> None:
        """Before a Deployment gets fewer pods: have the idle ones go first. It is scaled even if this doesn't work."""
        try:
            loads = await self._loads(automation)
        except StoreUnavailable as error:
            log.warning("which pods are idle isn't known, and any may go: %s", error)
            return
        for patch in deletion_costs(pods, loads, self._clock()):
            await self._write(patch)

    async def _write(self, patch: Patch) -> None:
        body = {"metadata": {"uid": patch.uid, "annotations": dict(patch.annotations)}}
        try:
            await self._kube.patch(POD, patch.namespace, patch.name, body)
        except (NotFound, Conflict):
            log.debug("pod %s/%s is gone", patch.namespace, patch.name)
        except Forbidden as error:
            if not self._forbidden:
                log.warning("pods can't be annotated, so that busy ones aren't spared: %s", error)
            self._forbidden = True
        except KubeError as error:
            log.warning("pod %s/%s isn't annotated: %s", patch.namespace, patch.name, error)
