"""One Automation at a time: look at its world, plan, carry out, and write one status where something changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from pydantic import ValidationError

from maestro.automation.autoscale import Recommendations
from maestro.automation.brokerwatch import BrokerWatch
from maestro.automation.busypods import BusyPods, long_at_work
from maestro.automation.claims import Claims
from maestro.automation.credentials import new_password
from maestro.automation.plan import plan
from maestro.automation.storewatch import StoreWatch
from maestro.automation.world import (
    Accepted,
    Action,
    Apply,
    BrokerView,
    ChangeBroker,
    Note,
    Observed,
    Plan,
    Refusal,
    Remove,
    StoreView,
    TryOut,
    Unpause,
)
from maestro.broker.errors import BrokerRefused, BrokerUnavailable
from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.children import ChildWatch
from maestro.kube.client import KubeClient
from maestro.kube.errors import BadRequest, Conflict, Forbidden, Invalid, KubeError, NotFound, Unavailable
from maestro.kube.kinds import AUTOMATION, DEPLOYMENT, JOB, SECRET, SERVICE_ACCOUNT, Kind, ObjectKey
from maestro.resources import Automation, names
from maestro.runs.errors import StoreUnavailable
from maestro.runs.parameters import InvalidSchema, ParameterValidator
from maestro.runtime.backoff import jittered
from maestro.runtime.clock import Clock, utcnow
from maestro.workload.merge import BUILT_IN, MergeTable, uncovered
from maestro.workload.pod import Installation

log = logging.getLogger(__name__)

Object = dict[str, Any]

_ROUNDS = 4
_REFUSED_FOR = {True: timedelta(minutes=10), False: timedelta(seconds=30)}
# The API server's answer to an apply whose fields don't fit their types is a 500 with these words.
_NOT_TYPED = ("failed to create typed patch object", "field not declared in schema")

BlockedBy = Callable[[str], str | None]
"""The Reprocessing that shuts the gateway of a Solution (by its id), or None."""


class Pods(Protocol):
    """The pods of an Automation."""

    def of(self, namespace: str, name: str) -> Sequence[Mapping[str, Any]]: ...


@dataclass(slots=True)
class _Memory:
    """What is remembered of one Automation, by its uid. All of it may be lost: it only saves requests and writes."""

    refusals: dict[str, Refusal] = field(default_factory=dict)
    accepted: Accepted | None = None
    had_consumer: bool = False
    counters_at: datetime | None = None
    recommendations: Recommendations = field(default_factory=Recommendations)
    schema: tuple[int, str | None] | None = None
    password: str = field(default_factory=new_password, repr=False)


class AutomationReconciler:
    """Brings about what Automations ask for.

    Parameters
    ----------
    automations
        The cache of the objects themselves; own writes are entered there, so that they wake nobody.
    deployments, accounts
        Watches over the children.
    busy
        Knows which pods are at work.
    installation
        What stands in every Automation's objects; asked for each time, as the broker's address may come late.
    table
        The merge rules of the API server.
    blocked_by
        Says which Reprocessing shuts a Solution's gateway.
    on_gone
        Called with the key of an Automation that is gone.
    resync_seconds
        After about so long an Automation is looked at again, whatever happens.
    """

    def __init__(
        self,
        kube: KubeClient,
        automations: ObjectCache,
        *,
        deployments: ChildWatch,
        accounts: ChildWatch,
        pods: Pods,
        busy: BusyPods,
        broker: BrokerWatch,
        store: StoreWatch,
        claims: Claims,
        installation: Callable[[], Installation],
        table: MergeTable = BUILT_IN,
        blocked_by: BlockedBy = lambda _solution: None,
        on_gone: Callable[[ObjectKey], None] = lambda _key: None,
        clock: Clock = utcnow,
        resync_seconds: float = 30.0,
    ) -> None:
        self._kube = kube
        self._automations = automations
        self._deployments = deployments
        self._accounts = accounts
        self._pods = pods
        self._busy = busy
        self._broker = broker
        self._store = store
        self._claims = claims
        self._installation = installation
        self.table = table
        self._blocked_by = blocked_by
        self._on_gone = on_gone
        self._clock = clock
        self._resync = resync_seconds
        self._memory: dict[str, _Memory] = {}
        self._uids: dict[ObjectKey, str] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at an Automation and do what is to be done; the seconds until it is looked at again.

        Raises
        ------
        KubeError
            The API server is away, or refuses what it shouldn't.
        """
        obj = self._automations.get(key.namespace, key.name)
        uid = obj["metadata"]["uid"] if obj is not None else None
        if (before := self._uids.get(key)) not in (None, uid):
            self._forget(key, before)
        if obj is None or uid is None:
            self._on_gone(key)
            return None
        self._uids[key] = uid
        if obj["metadata"].get("deletionTimestamp"):
            return None  # what it owns goes with it; the rest is the reaper's when it is gone
        try:
            automation = Automation.model_validate(obj)
        except ValidationError as error:
            return await self._unreadable(obj, error)
        return await self._reconcile(automation, obj)

    async def _reconcile(self, automation: Automation, obj: Object) -> float:
        memory = self._memory.setdefault(automation.metadata.uid, _Memory())
        for _ in range(_ROUNDS):
            seen = await self._observe(automation, memory)
            now = self._clock()
            made = plan(automation, seen, self._installation(), now, password=memory.password, table=self.table)
            if not made.actions:
                break
            if _repairs(made.actions) and not await self._still_there(automation):
                # Its children's end was heard of before its own: nothing here is to be made anew.
                return self._resync
            await self._carry_out(automation, obj, made.actions, memory)
        if not await self._write_status(automation, obj, made, memory):
            return 0.0
        return min(jittered(self._resync, 0.1), made.requeue_after if made.requeue_after is not None else self._resync)

    async def _still_there(self, automation: Automation) -> bool:
        """Whether the object is there and isn't being deleted, as the API server knows it now."""
        meta = automation.metadata
        found = await self._get(AUTOMATION, meta.namespace, meta.name)
        return (
            found is not None
            and found["metadata"]["uid"] == meta.uid
            and not found["metadata"].get("deletionTimestamp")
        )

    # -- observe

    async def _observe(self, automation: Automation, memory: _Memory) -> Observed:
        meta, spec = automation.metadata, automation.spec
        store = await self._store.look(automation, fresh=self._may_go_idle(automation))
        if spec.launch == "Job":
            account = await self._child(self._accounts, SERVICE_ACCOUNT, automation)
            return Observed(
                store=store,
                service_account=account,
                schema_problem=self._schema_problem(automation, memory),
                blocked_by=self._blocked_by(automation.solution_id),
                refusals=dict(memory.refusals),
                accepted=memory.accepted,
                counters_at=memory.counters_at,
            )
        queue = automation.queue_name
        assert queue is not None
        holder = self._claims.taken_from(ObjectKey(meta.namespace, meta.name), queue)
        broker = await self._broker.look()
        self._note_consumers(queue, broker, store, memory)
        return Observed(
            broker=broker,
            store=store,
            secret=await self._get(SECRET, meta.namespace, names.broker_secret(meta.name)),
            service_account=await self._child(self._accounts, SERVICE_ACCOUNT, automation),
            deployment=await self._child(self._deployments, DEPLOYMENT, automation),
            pods=self._pods.of(meta.namespace, meta.name),
            taken_by=str(holder) if holder is not None else None,
            schema_problem=self._schema_problem(automation, memory),
            blocked_by=self._blocked_by(automation.solution_id),
            refusals=dict(memory.refusals),
            accepted=memory.accepted,
            had_consumer=memory.had_consumer,
            counters_at=memory.counters_at,
            autoscaled=self._autoscaled(automation, store, memory),
        )

    def _may_go_idle(self, automation: Automation) -> bool:
        """Whether pods are about to be taken away because nothing runs: that has to be true now."""
        live = self._deployments.cache.get(automation.metadata.namespace, automation.metadata.name)
        return bool(automation.spec.suspend and live is not None and live["spec"].get("replicas", 1))

    async def _child(self, watch: ChildWatch, kind: Kind, automation: Automation) -> Object | None:
        """A child from the cache. What the cache doesn't have may be there all the same: foreign, or without labels."""
        meta = automation.metadata
        found = watch.cache.get(meta.namespace, meta.name)
        if found is not None or automation.spec.worker.image is None:
            return found
        return await self._get(kind, meta.namespace, meta.name)

    async def _get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        try:
            return await self._kube.get(kind, namespace, name)
        except NotFound:
            return None

    def _schema_problem(self, automation: Automation, memory: _Memory) -> str | None:
        generation = automation.metadata.generation
        if memory.schema is None or memory.schema[0] != generation:
            memory.schema = generation, _schema_problem(automation)
        return memory.schema[1]

    def _note_consumers(self, queue: str, broker: BrokerView, store: StoreView, memory: _Memory) -> None:
        there = broker.state.queues.get(queue) if broker.state is not None else None
        last = store.summary.last_run if store.summary is not None else None
        if (there is not None and there.consumers > 0) or (last is not None and last.started_at is not None):
            memory.had_consumer = True

    def _autoscaled(self, automation: Automation, store: StoreView, memory: _Memory) -> int | None:
        worker = automation.spec.worker
        if worker.autoscaling is None or store.summary is None or store.down_since is not None:
            return None
        counts = store.summary.counts
        goes = not counts.paused and self._blocked_by(automation.solution_id) is None
        runs = counts.running + (counts.waiting - counts.held if goes else 0)
        live = self._deployments.cache.get(automation.metadata.namespace, automation.metadata.name)
        now = self._clock()
        recommended = memory.recommendations.recommend(
            runs=runs,
            per_pod=worker.autoscaling.runs_per_replica or worker.concurrency,
            delay=worker.autoscaling.scale_down_delay.seconds,
            present=int(live["spec"].get("replicas", 1)) if live is not None else 0,
            now=now,
        )
        # A Run that has taken longer than a pod may drain would most likely be lost work: its pod stays.
        pods = self._pods.of(automation.metadata.namespace, automation.metadata.name)
        return max(recommended, long_at_work(pods, self._busy.last, worker.drain_timeout.seconds, now))

    # -- act

    async def _carry_out(self, automation: Automation, obj: Object, actions: Sequence[Action], memory: _Memory) -> None:
        """Do one action after the other. One that is refused is remembered and ends the round: it changes the plan."""
        for action in actions:
            try:
                note = await self._do(automation, action, memory)
            except (BrokerUnavailable, StoreUnavailable):
                return  # the watches know, and the next plan says it
            except BrokerRefused as error:
                self._broker.doubt()
                if error.status == 400:
                    return  # a queue that came to be since the last look, with other arguments: the next one shows them
                self._refuse(memory, "Broker", "", "BrokerRefused", str(error), final=False)
                return
            except KubeError as error:
                if not isinstance(action, Apply | TryOut) or not _about_the_object(error):
                    raise
                final = not isinstance(error, Forbidden)
                self._refuse(memory, action.kind.kind, action.digest, "Forbidden", error.message, final=final)
                return
            if note is not None:
                await self._tell(obj, note)

    async def _do(self, automation: Automation, action: Action, memory: _Memory) -> Note | None:
        namespace = automation.metadata.namespace
        match action:
            case Apply(kind, body, digest, note):
                if kind == DEPLOYMENT:
                    await self._before_scaling(automation, int(body["spec"]["replicas"]))
                live = await self._kube.apply(kind, namespace, body["metadata"]["name"], body)
                memory.refusals.pop(kind.kind, None)
                self._applied(kind, live, body, digest, memory)
                if kind == SECRET:
                    memory.password = new_password()
                return note
            case TryOut(kind, body, digest):
                await self._kube.apply_dry(kind, namespace, body["metadata"]["name"], body)
                memory.refusals.pop(kind.kind, None)
                memory.accepted = Accepted(digest, 0)
                return None
            case Remove(kind, name, uid, note):
                try:
                    await self._kube.delete(kind, namespace, name, uid=uid)
                except Conflict:
                    log.debug("%s %s/%s is another one by now", kind.kind, namespace, name)
                if (watch := self._watch(kind)) is not None:
                    watch.removed(namespace, name, uid=uid)
                return note
            case ChangeBroker(change, note):
                await self._broker.apply(change)
                memory.refusals.pop("Broker", None)
                return note
            case Unpause():
                await self._store.unpause(automation.metadata.uid)
                return None

    async def _before_scaling(self, automation: Automation, replicas: int) -> None:
        """Where some pods are about to go, and not all: idle ones first."""
        meta = automation.metadata
        live = self._deployments.cache.get(meta.namespace, meta.name)
        key = self._store.key(meta.uid)
        if live is not None and key is not None and 0 < replicas < int(live["spec"].get("replicas", 1)):
            await self._busy.prefer_idle(key, self._pods.of(meta.namespace, meta.name))

    def _applied(self, kind: Kind, live: Object, body: Mapping[str, Any], digest: str, memory: _Memory) -> None:
        """Enter an own write in the cache, so that it wakes nobody; note where the API server shows it otherwise."""
        live = without_bookkeeping(live)
        if (watch := self._watch(kind)) is not None:
            watch.wrote(live)
        if kind == DEPLOYMENT and any(uncovered(live["spec"]["template"], body["spec"]["template"], self.table)):
            memory.accepted = Accepted(digest, int(live["metadata"].get("generation") or 0))

    def _watch(self, kind: Kind) -> ChildWatch | None:
        return {DEPLOYMENT: self._deployments, SERVICE_ACCOUNT: self._accounts}.get(kind)

    def _refuse(self, memory: _Memory, kind: str, digest: str, reason: str, message: str, *, final: bool) -> None:
        until = self._clock() + _REFUSED_FOR[final]
        if final and kind not in (DEPLOYMENT.kind, JOB.kind):
            reason = f"{kind}Invalid"
        memory.refusals[kind] = Refusal(digest, reason, message, final, until)

    # -- status

    async def _write_status(self, automation: Automation, obj: Object, made: Plan, memory: _Memory) -> bool:
        """Write the status the plan asks for, then tell of transitions. False: the object is another one by now."""
        if made.status is not None:
            meta = automation.metadata
            try:
                written = await self._kube.patch_status(
                    AUTOMATION, meta.namespace, meta.name, made.status, resource_version=meta.resource_version
                )
            except NotFound:
                return True  # gone meanwhile; its deletion is on the way here
            except Conflict:
                await self._reread(meta.namespace, meta.name)
                return False
            # Entered before the watch brings it: an own status wakes nobody.
            self._automations.upsert(without_bookkeeping(written))
            if made.counters or memory.counters_at is None:
                memory.counters_at = self._clock()
        for note in made.events if made.status is not None else ():
            await self._tell(obj, note)
        return True

    async def _reread(self, namespace: str, name: str) -> None:
        try:
            self._automations.upsert(without_bookkeeping(await self._kube.get(AUTOMATION, namespace, name)))
        except NotFound:
            log.debug("Automation %s/%s is gone; the watch will say so", namespace, name)

    async def _unreadable(self, obj: Object, error: ValidationError) -> float:
        """An object that this version can't read (its definition is another version's): say so, touch nothing."""
        meta, now = obj["metadata"], self._clock()
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        condition = {
            "status": "False",
            "reason": "InvalidSpec",
            "message": f"this version of Maestro can't read the object: {problems}",
            "observedGeneration": meta.get("generation", 0),
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        known = (obj.get("status") or {}).get("conditions") or ()
        if any(c.get("reason") == "InvalidSpec" and c.get("message") == condition["message"] for c in known):
            return self._resync
        conditions = [{"type": "Ready", **condition}, {"type": "Stalled", **condition, "status": "True"}]
        status = {"observedGeneration": meta.get("generation", 0), "conditions": conditions}
        try:
            written = await self._kube.patch_status(
                AUTOMATION, meta["namespace"], meta["name"], status, resource_version=meta["resourceVersion"]
            )
        except (Conflict, NotFound):
            await self._reread(meta["namespace"], meta["name"])
            return 1.0
        self._automations.upsert(without_bookkeeping(written))
        return self._resync

    async def _tell(self, obj: Object, note: Note) -> None:
        await self._kube.event(obj, type=note.type, reason=note.reason, message=note.message)

    def _forget(self, key: ObjectKey, uid: str | None) -> None:
        self._uids.pop(key, None)
        if uid is not None:
            self._memory.pop(uid, None)
            self._store.forget(uid)
            self._on_gone(key)


def _schema_problem(automation: Automation) -> str | None:
    spec = automation.spec
    try:
        validator = ParameterValidator(spec.parameter_schema, spec.default_parameters)
    except InvalidSchema as error:
        return str(error)
    if validator.has_secrets and spec.queue.arguments is not None:
        return "writeOnly parameters can't be used with queue.arguments, whose messages carry the parameters"
    return None


def _about_the_object(error: KubeError) -> bool:
    """Whether the API server refused the object itself, rather than being away or busy."""
    if isinstance(error, Invalid | BadRequest | Forbidden):
        return True
    return isinstance(error, Unavailable) and error.status == 500 and any(word in error.message for word in _NOT_TYPED)


def _repairs(actions: Sequence[Action]) -> bool:
    """Whether something is put right that somebody took away or changed."""
    return any(isinstance(action, Apply | ChangeBroker | Remove) and action.note is not None for action in actions)
