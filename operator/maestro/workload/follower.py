"""Follows the Kubernetes Jobs of Runs until their end is the Run's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.children import watch_children
from maestro.kube.client import KubeClient
from maestro.kube.errors import Conflict, KubeError, NotFound
from maestro.kube.kinds import JOB, SCHEDULE, ObjectKey
from maestro.resources import names
from maestro.runs.dispatcher import JOB_REFUSED
from maestro.runs.errors import StoreUnavailable
from maestro.runs.lifecycle import SCHEDULE_DELETED
from maestro.runs.model import RunFilter, RunState, RunView, Unpublished
from maestro.runs.parameters import InvalidSchema, ParameterValidator
from maestro.runs.reports import Report
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.controller import Controller
from maestro.runtime.tasks import run_until, sleep_unless
from maestro.runtime.workqueue import WorkQueue
from maestro.workload.jobend import JobEnd, job_end, stuck
from maestro.workload.pod import WORKER, controller_of

log = logging.getLogger(__name__)

Object = dict[str, Any]

LOG_LINES = 20
KEEP_SUCCEEDED, KEEP_FAILED = 600, 3600
"""Seconds for which a Job stays after its end was recorded, for `kubectl logs`."""

_ACTIVE_SECONDS = 15.0
_SWEEP_SECONDS = 60.0
_GRACE = timedelta(seconds=60)
_PAGE = 500


class JobFollower:
    """Follows the Jobs of Runs: begins the attempt when the container runs, ends it as the Job ends.

    A worker with the SDK reports by itself, under the same name (its pod's uid); what is said here then only repeats
    it, and is refused where it comes late.
    """

    def __init__(
        self,
        kube: KubeClient,
        store: RunStore,
        automations: ObjectCache,
        pods: ObjectCache,
        *,
        namespaces: Sequence[str] | None,
        clock: Clock = utcnow,
        epoch: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._kube = kube
        self._store = store
        self._automations = automations
        self._clock = clock
        self._epoch = epoch
        self.queue: WorkQueue[ObjectKey] = WorkQueue("job")
        self.watch = watch_children(
            kube, JOB, namespaces=namespaces, label_selector=names.LABEL_RUN, to_key=_own_key, wake=self.queue.add
        )
        self._pods: dict[ObjectKey, Object] = {}
        self._known: dict[ObjectKey, tuple[UUID, int]] = {}
        self._schedules: dict[ObjectKey, tuple[str, str]] = {}
        """Name and UID of the Schedule that a known Job belongs to."""
        self._begun: set[ObjectKey] = set()
        pods.observe(self._pod_changed)
        self._controller = Controller(
            "job", self.queue, self.reconcile, workers=8, expected=(KubeError, StoreUnavailable)
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set."""
        await run_until(stop, self.watch.run(stop), self._controller.run(stop), self._sweep(stop), grace=10.0)

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one Job. Raises KubeError, StoreUnavailable."""
        job = self.watch.cache.get(key.namespace, key.name)
        if job is None:
            await self._vanished(key)
            return None
        found = _run_of(job)
        if found is None:
            return None
        self._known[key] = found
        owner = controller_of(job)
        if owner is not None and owner.get("kind") == SCHEDULE.kind:
            self._schedules[key] = owner["name"], owner["uid"]
        end = job_end(job, self._pods.get(key))
        if end is not None:
            await self._ended(key, job, found, end)
            return None
        return await self._active(key, job, found)

    # -- a Job that runs

    async def _active(self, key: ObjectKey, job: Object, found: tuple[UUID, int]) -> float | None:
        if job["metadata"].get("deletionTimestamp"):
            return None
        run_id, attempt = found
        pod, now = self._pods.get(key), self._clock()
        await self._begin(key, run_id, pod)
        run = await self._store.get(run_id)
        if run is None:
            return None  # a store that was restored doesn't know it; its deadline ends it
        if not _wanted(run, attempt):
            log.info("Job %s is deleted: Run is %s", key, run.state)
            await self._delete(key, job)
            return None
        grace = self._cancel_grace(run)
        if run.cancel_requested_at is not None and now >= run.cancel_requested_at + grace:
            log.info("Job %s is deleted: its Run was canceled", key)
            await self._delete(key, job)
            return None
        if (trouble := stuck(job, pod, now)) is not None:
            await self._report_end(run_id, attempt, pod, trouble)
            await self._delete(key, job)
            return None
        return _ACTIVE_SECONDS

    async def _begin(self, key: ObjectKey, run_id: UUID, pod: Object | None) -> None:
        """Begin the attempt when its container runs: an image without the SDK doesn't do it by itself."""
        if pod is None or key in self._begun or not _runs(pod):
            return
        uid = pod["metadata"]["uid"]
        await self._store.reports([Report(op="start", job=run_id, worker=uid, job_pod=True)])
        self._begun.add(key)

    def _cancel_grace(self, run: RunView) -> timedelta:
        registration = self._store.registrations().get(run.automation)
        return timedelta(seconds=registration.policy.cancel_grace if registration is not None else 0.0)

    async def _delete(self, key: ObjectKey, job: Object) -> None:
        try:
            await self._kube.delete(JOB, key.namespace, key.name, uid=job["metadata"]["uid"])
        except Conflict:
            log.debug("Job %s is another one by now", key)

    # -- a Job that ended

    async def _ended(self, key: ObjectKey, job: Object, found: tuple[UUID, int], end: JobEnd) -> None:
        """Record the end first; only then may the Job be cleaned up."""
        if _recorded(job):
            return
        pod = self._pods.get(key)
        if pod is not None:
            await self._begin(key, found[0], pod)
            end = end.with_log(await self._scrubbed(found[0], await self._log(key.namespace, pod)))
        await self._report_end(*found, pod, end)
        try:
            body = _mark_of(job, end)
            self.watch.wrote(without_bookkeeping(await self._kube.patch(JOB, key.namespace, key.name, body)))
        except NotFound:
            log.debug("Job %s is gone already", key)

    async def _report_end(self, run_id: UUID, attempt: int, pod: Object | None, end: JobEnd) -> None:
        worker = pod["metadata"]["uid"] if pod is not None else f"job/{run_id}-{attempt}"
        report = Report(
            op="jobEnded",
            job=run_id,
            attempt=attempt,
            worker=worker,
            job_pod=True,
            status="completed" if end.succeeded else "failed",
            result=end.result(),
            error_class=None if end.succeeded else end.reason,
            message=None if end.succeeded else end.message(),
        )
        await self._store.reports([report])

    async def _log(self, namespace: str, pod: Object) -> str:
        try:
            return await self._kube.pod_log(namespace, pod["metadata"]["name"], container=WORKER, tail_lines=LOG_LINES)
        except KubeError as error:
            # Its node may be gone; how it ended is known all the same.
            log.info("the log of pod %s/%s can't be read: %s", namespace, pod["metadata"]["name"], error)
            return ""

    async def _scrubbed(self, run_id: UUID, text: str) -> str:
        """What a container wrote, without the `writeOnly` parameters it was given."""
        run = await self._store.get(run_id)
        registration = self._store.registration(run.automation) if run is not None else None
        if run is None or registration is None or not text:
            return text
        try:
            validator = ParameterValidator(registration.parameter_schema, registration.default_parameters)
        except InvalidSchema:
            return text  # no Run is accepted under it; this one was under another
        return validator.scrub(text, run.parameters or {})

    async def _vanished(self, key: ObjectKey) -> None:
        """Somebody deleted the Job: the attempt is lost, unless it had ended before.

        Where it went with its Schedule, the Run was meant to end: it is canceled, not lost.
        """
        found = self._known.get(key)
        if found is not None:
            if await self._schedule_is_gone(key):
                await self._store.cancel(found[0], why=SCHEDULE_DELETED, by=f"deletion of the Schedule of Job {key}")
            await self._lost(*found)
        self._known.pop(key, None)
        self._schedules.pop(key, None)
        self._pods.pop(key, None)
        self._begun.discard(key)

    async def _schedule_is_gone(self, key: ObjectKey) -> bool:
        """Whether the Job's Schedule was deleted. The garbage collector may be faster than the watch of Schedules."""
        if key not in self._schedules:
            return False
        name, uid = self._schedules[key]
        try:
            return bool((await self._kube.get(SCHEDULE, key.namespace, name))["metadata"]["uid"] != uid)
        except NotFound:
            return True

    async def _lost(self, run_id: UUID, attempt: int) -> None:
        report = Report(op="jobEnded", job=run_id, attempt=attempt, worker=f"job/{run_id}-{attempt}", job_pod=True)
        await self._store.reports([report])

    # -- what no event tells

    async def _sweep(self, stop: asyncio.Event) -> None:
        """Find Runs whose Job vanished while nobody watched."""
        while not await sleep_unless(stop, _SWEEP_SECONDS):
            if not self.watch.cache.synced:
                continue
            try:
                await self.sweep()
            except StoreUnavailable as error:
                log.warning("Jobs that vanished are looked for later: %s", error)

    async def sweep(self) -> None:
        """Look once for Runs without a Job. Raises StoreUnavailable."""
        ways = [(jobs, apart) for apart in (False, True) if (jobs := self._launched(apart))]
        there = {(job["metadata"].get("labels") or {}).get(names.LABEL_RUN) for job in self.watch.cache.values()}
        before = self._clock() - _GRACE
        for automations, apart in ways:
            for run in await self._runs(RunState.RUNNING, automations, apart):
                if str(run.id) not in there and run.started_at is not None and run.started_at < before:
                    log.info("Run %s runs without a Job: the attempt is lost", run.id)
                    await self._lost(run.id, run.attempt)
            epoch = self._epoch()
            if epoch is not None:
                await self._launch_again(automations, apart, there, before, epoch)

    def _launched(self, apart: bool) -> frozenset[int]:
        """Automations with Runs that are Jobs: all of them, or (`apart`) some although there is a queue."""
        way = "Queue" if apart else "Job"
        return frozenset(key for key, known in self._store.registrations().items() if known.launch == way)

    async def _launch_again(
        self, automations: frozenset[int], apart: bool, there: Collection[str | None], before: datetime, epoch: int
    ) -> None:
        queued_now = await self._runs(RunState.QUEUED, automations, apart)
        missing = {run.seq: run.automation for run in queued_now if str(run.id) not in there}
        for key in sorted(set(missing.values())):
            queued = await self._store.queued_runs(key, _PAGE, apart=apart)
            again = [
                Unpublished(run.seq, run.pub, JOB_REFUSED)
                for run in queued
                if run.seq in missing and run.queued_at < before
            ]
            if again:
                log.info("%d Queued Runs have no Job: they are launched again", len(again))
                await self._store.unpublished(epoch, again)

    async def _runs(self, state: RunState, automations: frozenset[int], apart: bool) -> list[RunView]:
        found: list[RunView] = []
        cursor: str | None = None
        while True:
            wanted = RunFilter(states=frozenset({state}), automations=automations, apart=apart)
            page = await self._store.list_runs(wanted, _PAGE, cursor)
            found += page.items
            cursor = page.cursor
            if cursor is None:
                return found

    # -- pods

    def _pod_changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        pod = new if new is not None else old
        found = _run_of(pod) if pod is not None else None
        if found is None:
            return
        owner = controller_of(pod or {})
        if owner is None or owner.get("kind") != JOB.kind:
            return
        job = ObjectKey(key.namespace, owner["name"])
        if new is not None:
            self._pods[job] = new
        elif job not in self.watch.cache:
            # Otherwise its last state is kept: the Job's end is told with it.
            self._pods.pop(job, None)
        self.queue.add(job)


def _own_key(job: Mapping[str, Any]) -> ObjectKey:
    return ObjectKey(str(job["metadata"]["namespace"]), str(job["metadata"]["name"]))


def _run_of(obj: Mapping[str, Any]) -> tuple[UUID, int] | None:
    """Run and attempt, from the labels; None where they aren't ours or don't make sense."""
    labels = obj["metadata"].get("labels") or {}
    try:
        return UUID(labels[names.LABEL_RUN]), int(labels[names.LABEL_ATTEMPT])
    except (KeyError, ValueError):
        return None


def _recorded(job: Mapping[str, Any]) -> bool:
    """Whether the Job bears the mark that its end was recorded."""
    ended = (job["metadata"].get("annotations") or {}).get(names.ANNOTATION_ENDED)
    return ended is not None or job["spec"].get("ttlSecondsAfterFinished") is not None


def _mark_of(job: Mapping[str, Any], end: JobEnd) -> Object:
    """What says that the end was recorded, as a patch: a Schedule keeps so many Jobs, others stay for a time."""
    if names.LABEL_SCHEDULE in (job["metadata"].get("labels") or {}):
        return {"metadata": {"annotations": {names.ANNOTATION_ENDED: "Succeeded" if end.succeeded else "Failed"}}}
    return {"spec": {"ttlSecondsAfterFinished": KEEP_SUCCEEDED if end.succeeded else KEEP_FAILED}}


def _wanted(run: RunView, attempt: int) -> bool:
    """Whether the Run's state has a place for a Job of this attempt."""
    if run.state is RunState.QUEUED:
        return attempt == run.attempt + 1
    return run.state is RunState.RUNNING and attempt == run.attempt


def _runs(pod: Mapping[str, Any]) -> bool:
    """Whether the worker's container has begun."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == WORKER:
            state = status.get("state") or {}
            return "running" in state or "terminated" in state
    return False
