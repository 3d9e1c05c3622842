"""What is to be done about an Automation: a pure function of its spec, of what was seen, and of the time.

It reads as a list of phases. Each looks at one part of the world, adds what is to be done about it, and leaves a
verdict from which the status is made at the end (`status.py`). A world that is as it should be gives an empty plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from maestro.automation import children
from maestro.automation.credentials import Login, decoded
from maestro.automation.pods import exited_cleanly, troubles
from maestro.automation.status import OUTAGE_PATIENCE, Verdict, Verdicts, build_status
from maestro.automation.world import (
    Action,
    Apply,
    ChangeBroker,
    Note,
    Observed,
    Plan,
    Refusal,
    Remove,
    TryOut,
    Unpause,
)
from maestro.broker import topology
from maestro.kube.kinds import DEPLOYMENT, JOB, SECRET, SERVICE_ACCOUNT, Kind
from maestro.resources import Automation, names
from maestro.resources.conditions import find_condition
from maestro.workload.job import job
from maestro.workload.merge import BUILT_IN, InvalidTemplate, MergeTable, uncovered
from maestro.workload.pod import Installation, controller_of

Object = Mapping[str, Any]

OLD_USER_SECONDS = 900.0
"""How long the user before a rotation may still log in: files are renewed within minutes, long Runs come to an end."""

REPAIRED = "Repaired"
_PENDING = Verdict("False", "Pending", "")
_EXAMPLE_RUN = "00000000-0000-7000-8000-000000000000"


@dataclass(slots=True)
class _Draft:
    """A plan in the making, and what its phases hand on to the ones behind them."""

    automation: Automation
    seen: Observed
    installation: Installation
    now: datetime
    table: MergeTable
    password: str
    actions: list[Action] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    queue: Verdict = _PENDING
    workers: Verdict = _PENDING
    obstacle: Verdict | None = None
    login: Login | None = None

    @property
    def meta(self) -> Any:
        return self.automation.metadata

    @property
    def was_ready(self) -> bool:
        """Whether the queue was ready before: what is missing now, somebody took away."""
        return self.was("QueueReady")

    def was(self, condition: str) -> bool:
        found = find_condition(self.automation.status.conditions, condition)
        return found is not None and found.status == "True"

    @property
    def settled(self) -> bool:
        """Whether this very spec was reconciled before: a difference is then somebody's doing."""
        return bool(self.automation.status.observed_generation == self.meta.generation)

    def obstruct(self, verdict: Verdict) -> None:
        """Note what keeps the workers from being made or brought up to date; the first counts."""
        self.obstacle = self.obstacle or verdict

    def in_seconds(self, moment: datetime) -> None:
        """Look again at that moment."""
        self.again.append(max(0.0, (moment - self.now).total_seconds()))


def plan(
    automation: Automation,
    seen: Observed,
    installation: Installation,
    now: datetime,
    *,
    password: str,
    table: MergeTable = BUILT_IN,
) -> Plan:
    """Decide what to do about an Automation.

    Parameters
    ----------
    installation
        `broker` is None only while the broker's address isn't known.
    password
        A fresh one, for the case that one is needed.
    table
        Merge rules of the API server.
    """
    draft = _Draft(automation, seen, installation, now, table, password)
    if automation.spec.launch == "Job":
        _account(draft)
        _job_template(draft)
    else:
        for phase in (_claim, _secret, _queue, _user, _old_user, _account, _deployment):
            phase(draft)
    if draft.obstacle is not None:
        draft.workers = draft.obstacle
    unpause = _unpause(draft)
    made = build_status(
        automation,
        seen,
        Verdicts(schema=seen.schema_problem, queue=draft.queue, workers=draft.workers),
        now,
        handled_unpause=unpause,
    )
    again = [*draft.again, *([made.requeue_after] if made.requeue_after is not None else [])]
    return Plan(
        actions=tuple(draft.actions),
        status=made.status,
        events=made.events,
        counters=made.counters,
        requeue_after=min(again, default=None),
    )


# --- the queue -------------------------------------------------------------------------------------------------------


def claim_of(automation: Automation) -> topology.QueueClaim:
    """The claim on a queue that an Automation with `launch: Queue` makes."""
    queue, run = automation.spec.queue, automation.spec.run
    assert automation.queue_name is not None, "an Automation with launch: Job claims no queue"
    return topology.QueueClaim(
        namespace=automation.metadata.namespace,
        name=automation.metadata.name,
        queue=automation.queue_name,
        type=queue.type or "quorum",
        arguments=queue.arguments,
        longest=run.timeout.seconds + run.cancel_grace.seconds,
    )


def _claim(draft: _Draft) -> None:
    holder = draft.seen.taken_by
    if holder is not None:
        draft.queue = Verdict(
            "False",
            "QueueTaken",
            f"queue {draft.automation.queue_name} belongs to the older Automation {holder}; name another queue",
            stalled=True,
        )
        draft.obstruct(Verdict("False", "QueueTaken", "there is no queue to work on"))


def _taken(draft: _Draft) -> bool:
    return draft.seen.taken_by is not None


def _state(draft: _Draft) -> topology.BrokerState | None:
    """The broker's state where it can be acted upon."""
    broker = draft.seen.broker
    return broker.state if broker.down_since is None and draft.installation.broker is not None else None


def _queue(draft: _Draft) -> None:
    if _taken(draft):
        return
    state = _state(draft)
    if state is None:
        draft.queue = _broker_away(draft)
        return
    refusal = _refused(draft, "Broker", "")
    if refusal is not None:
        draft.queue = Verdict("False", "BrokerRefused", refusal.message)
        return
    claim = claim_of(draft.automation)
    wanted = topology.Queue(claim.queue, topology.queue_arguments(claim))
    there = state.queues.get(claim.queue)
    if there is None:
        change = topology.Change("put", wanted, f"queue {claim.queue} was missing")
        draft.actions.append(ChangeBroker(change, _drift(draft.was_ready, f"{change.what}; it was declared anew")))
    elif differing := topology.differences(there, wanted):
        draft.queue = Verdict(
            "False",
            "QueueArgumentsDiffer",
            f"queue {claim.queue} exists with other arguments and is left alone: "
            f"{'; '.join(map(str, differing))}. Delete it, or name another queue in a new Automation",
            stalled=True,
        )
        return
    displaced = topology.overridden(state, topology.Topology(queues=(wanted,)))
    draft.queue = Verdict("True", "Declared", "; ".join([f"queue {claim.queue} is declared", *displaced]))


def _broker_away(draft: _Draft) -> Verdict:
    """The broker doesn't answer: for a while what was so stays so."""
    broker = draft.seen.broker
    problem = broker.problem or "it hasn't been reached yet"
    before = find_condition(draft.automation.status.conditions, "QueueReady")
    if before is not None and before.reason != "BrokerUnavailable" and broker.down_since is not None:
        patience = broker.down_since + timedelta(seconds=OUTAGE_PATIENCE)
        if draft.now < patience:
            draft.in_seconds(patience)
            return Verdict(
                before.status, before.reason, before.message, stalled=before.reason == "QueueArgumentsDiffer"
            )
    return Verdict("False", "BrokerUnavailable", f"the broker doesn't answer: {problem}")


# --- the workers' login ----------------------------------------------------------------------------------------------


def _secret(draft: _Draft) -> None:
    """The Secret is the only place where the password stands."""
    address = draft.installation.broker
    if _taken(draft) or address is None:
        return
    live = draft.seen.secret
    if live is not None and _foreign(draft, live, SECRET):
        return
    login, rotated = _login_in(draft, live)
    lost = login is None
    if login is None:
        state = _state(draft)
        if state is None:
            return  # which of the two users is free, only the broker knows
        login, rotated = _fresh_login(draft, state), draft.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    body = children.secret(draft.automation, login, address, rotated)
    digest = children.digest(body)
    if _refused(draft, SECRET.kind, digest) is not None:
        return
    draft.login = login
    differing = [] if live is None else _differing_secret(live, body)
    if live is not None and not differing:
        return
    if lost:
        what = "was missing" if live is None else "held no password of the Automation's own"
        text = f"Secret {body['metadata']['name']} {what}: user {login.user} got a new password"
    else:
        text = f"Secret {body['metadata']['name']} differed in {', '.join(differing)}; it was written anew"
    draft.actions.append(Apply(SECRET, body, digest, _drift(draft.was_ready, text)))


def _login_in(draft: _Draft, live: Object | None) -> tuple[Login | None, str]:
    """The login that a Secret holds, if it is one of the Automation's two users."""
    if live is None:
        return None, ""
    values = decoded(live)
    user, password = values.get("username", ""), values.get("password", "")
    if user not in _users(draft) or not password:
        return None, ""
    meta = live["metadata"]
    rotated = (meta.get("annotations") or {}).get(children.ANNOTATION_ROTATED) or meta.get("creationTimestamp", "")
    return Login(user, password), str(rotated)


def _users(draft: _Draft) -> tuple[str, str]:
    name, namespace = draft.meta.name, draft.meta.namespace
    return topology.user_name(namespace, name, "a"), topology.user_name(namespace, name, "b")


def _fresh_login(draft: _Draft, state: topology.BrokerState) -> Login:
    """A new password, with the user that isn't in use: not the Secret's, else one that the broker doesn't have."""
    first, second = _users(draft)
    used = decoded(draft.seen.secret).get("username") if draft.seen.secret is not None else None
    if used not in (first, second):
        used = first if first in state.users else second
    return Login(second if used == first else first, draft.password)


def _differing_secret(live: Object, body: Object) -> list[str]:
    here, there = live.get("data") or {}, body["data"]
    found = [key for key in there if here.get(key) != there[key]]
    return found + list(uncovered(live["metadata"], body["metadata"], root="ObjectMeta", path="metadata"))


def _user(draft: _Draft) -> None:
    state = _state(draft)
    if state is None or draft.login is None or _taken(draft) or _refused(draft, "Broker", "") is not None:
        return
    claim = claim_of(draft.automation)
    wanted = topology.Topology(
        users=(topology.User(draft.login.user, draft.login.password),),
        permissions=(topology.permission(claim, draft.login.user),),
    )
    new_secret = any(isinstance(action, Apply) and action.kind == SECRET for action in draft.actions)
    for change in topology.changes(state, wanted):
        note = _drift(draft.was_ready and not new_secret, f"{change.what}; that was put right")
        draft.actions.append(ChangeBroker(change, note))


def _old_user(draft: _Draft) -> None:
    """The user before a rotation goes when its time is over."""
    state, live = _state(draft), draft.seen.secret
    if state is None or live is None or draft.login is None or _taken(draft):
        return
    other = topology.user_name(draft.meta.namespace, draft.meta.name, topology.other_slot(draft.login.user))
    if other not in state.users:
        return
    _, rotated = _login_in(draft, live)
    due = _moment(rotated, draft.now) + timedelta(seconds=OLD_USER_SECONDS)
    if draft.now < due:
        draft.in_seconds(due)
        return
    user = topology.User(other, "")
    draft.actions.append(ChangeBroker(topology.Change("delete", user, f"user {other} was replaced")))


def _moment(text: str, otherwise: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return moment if moment.tzinfo is not None else otherwise


# --- the workers -----------------------------------------------------------------------------------------------------


def _account(draft: _Draft) -> None:
    if _taken(draft):
        return
    live, worker = draft.seen.service_account, draft.automation.spec.worker
    if worker.image is None or worker.service_account_name is not None:
        if live is not None and _ours(draft, live):
            draft.actions.append(Remove(SERVICE_ACCOUNT, live["metadata"]["name"], live["metadata"]["uid"]))
        return
    if live is not None and _foreign(draft, live, SERVICE_ACCOUNT):
        return
    body = children.service_account(draft.automation)
    digest = children.digest(body)
    if _refused(draft, SERVICE_ACCOUNT.kind, digest) is not None:
        return
    differing = [] if live is None else _differing_metadata(live, body, draft.table)
    if live is not None and live.get("automountServiceAccountToken") is not False:
        differing.append("automountServiceAccountToken")
    if live is None or differing:
        what = f"differed in {', '.join(differing)}" if live is not None else "was missing"
        note = _drift(draft.settled, f"ServiceAccount {draft.meta.name} {what}; repaired")
        draft.actions.append(Apply(SERVICE_ACCOUNT, body, digest, note))


def _deployment(draft: _Draft) -> None:
    if _taken(draft):
        return
    live, automation = draft.seen.deployment, draft.automation
    if automation.spec.worker.image is None:
        if live is not None and _ours(draft, live):
            draft.actions.append(Remove(DEPLOYMENT, live["metadata"]["name"], live["metadata"]["uid"]))
        secret = names.broker_secret(draft.meta.name)
        draft.workers = Verdict(
            "True", "WorkersElsewhere", f"no worker.image: workers find the broker's address in Secret {secret}"
        )
        return
    if live is not None and _foreign(draft, live, DEPLOYMENT):
        return
    account_uid = _account_uid(draft)
    if account_uid is None and live is None and automation.spec.worker.service_account_name is None:
        draft.workers = Verdict("False", "Creating", "the workers' ServiceAccount is being made")
        return
    try:
        body = children.deployment(
            automation,
            draft.installation,
            user=draft.login.user if draft.login else "",
            replicas=_replicas(draft),
            account_uid=account_uid,
            table=draft.table,
        )
    except InvalidTemplate as error:
        draft.workers = Verdict("False", "InvalidTemplate", str(error), stalled=True)
        return
    refusal = _refused(draft, DEPLOYMENT.kind, children.digest(body))
    if refusal is not None:
        draft.workers = _refused_verdict(refusal, "the Deployment")
        return
    _apply_deployment(draft, body)
    if live is not None:
        draft.workers = _workers(draft, live, body)


def _account_uid(draft: _Draft) -> str | None:
    """The UID of the account that Maestro made for the workers; while it is made anew, that of the one before."""
    if draft.automation.spec.worker.service_account_name is not None:
        return None
    if draft.seen.service_account is not None:
        return str(draft.seen.service_account["metadata"]["uid"])
    template = (draft.seen.deployment or {"spec": {"template": {"metadata": {}}}})["spec"]["template"]
    found = (template["metadata"].get("annotations") or {}).get(children.ANNOTATION_ACCOUNT)
    return None if found is None else str(found)


def _apply_deployment(draft: _Draft, body: Mapping[str, Any]) -> None:
    live = draft.seen.deployment
    action = Apply(DEPLOYMENT, body, children.digest(body))
    if live is None:
        if draft.obstacle is not None:
            return
        if draft.queue.status != "True" or draft.login is None:
            # Workers that can't log in, or would declare what isn't declared yet, only crash.
            draft.workers = Verdict("False", "WaitingForQueue", "workers are made when their queue is ready")
            return
        existed = draft.automation.status.selector is not None
        note = _drift(existed, f"Deployment {draft.meta.name} was missing; it was made anew")
        draft.workers = Verdict("False", "Creating", "the worker Deployment is being made")
        draft.actions.append(Apply(DEPLOYMENT, body, action.digest, note))
        return
    if draft.login is None:
        return  # the user in the template isn't known: what is there stays until it is
    wished = body["metadata"]["annotations"][children.ANNOTATION_SPEC]
    applied = (live["metadata"].get("annotations") or {}).get(children.ANNOTATION_SPEC)
    differing = _differing_deployment(draft, live, body)
    if applied == wished and not differing:
        return
    by_somebody = applied == wished and draft.settled and not _scaled_by_itself(draft, differing)
    text = f"Deployment {draft.meta.name}: {', '.join(differing[:5])} was changed and is put right"
    draft.actions.append(Apply(DEPLOYMENT, body, action.digest, _drift(by_somebody, text)))


def _differing_deployment(draft: _Draft, live: Object, body: Object) -> list[str]:
    found = _differing_metadata(live, body, draft.table)
    here, there = live["spec"], body["spec"]
    if here.get("replicas", 1) != there["replicas"]:
        found.append("spec.replicas")
    accepted = draft.seen.accepted
    generation = live["metadata"].get("generation")
    if accepted is not None and accepted.digest == children.digest(body) and accepted.generation == generation:
        return found
    return found + list(uncovered(here["template"], there["template"], draft.table, path="spec.template"))


def _differing_metadata(live: Object, body: Object, table: MergeTable) -> list[str]:
    return list(uncovered(live["metadata"], body["metadata"], table, root="ObjectMeta", path="metadata"))


def _scaled_by_itself(draft: _Draft, differing: list[str]) -> bool:
    """Whether the only difference is a number of pods that Maestro has made up its mind about anew."""
    spec = draft.automation.spec
    return differing == ["spec.replicas"] and (spec.suspend or spec.worker.autoscaling is not None)


def _replicas(draft: _Draft) -> int:
    """How many pods there should be now."""
    spec, live, store = draft.automation.spec, draft.seen.deployment, draft.seen.store
    wished: int = spec.worker.replicas
    if spec.worker.autoscaling is not None:
        there = (live or {}).get("spec", {}).get("replicas")
        asked = draft.seen.autoscaled if draft.seen.autoscaled is not None else there
        low, high = spec.worker.autoscaling.min_replicas, spec.worker.autoscaling.max_replicas
        wished = max(low, min(high, asked if asked is not None else low))
    if not spec.suspend:
        return wished
    if store.summary is not None and store.down_since is None:
        # Idle: what runs is brought to its end first.
        return 0 if store.summary.counts.running == 0 else min(wished, _there(live, wished))
    return _there(live, wished)


def _there(live: Object | None, otherwise: int) -> int:
    return int(live["spec"].get("replicas", 1)) if live is not None else otherwise


def _workers(draft: _Draft, live: Object, body: Object) -> Verdict:
    """What the Deployment's status and its pods say."""
    wanted, status = int(body["spec"]["replicas"]), live.get("status") or {}
    if wanted == 0:
        reason = "Suspended" if draft.automation.spec.suspend else "ScaledToZero"
        return Verdict("True", reason, "no worker is wanted")
    pods = draft.seen.pods
    if not draft.seen.had_consumer and _consumers(draft) == 0 and exited_cleanly(pods):
        return Verdict(
            "False",
            "WorkerExits",
            "a worker ended with exit code 0 without ever having taken work from the queue; an image that isn't "
            "written as a queue worker runs with launch: Job",
            stalled=True,
        )
    available, updated = int(status.get("availableReplicas") or 0), int(status.get("updatedReplicas") or 0)
    why = "".join(f"; {trouble}" for trouble in troubles(pods))
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if (failure := conditions.get("ReplicaFailure")) is not None and failure["status"] == "True":
        why += f"; {failure.get('reason')}: {failure.get('message', '')}"
    count = f"{min(available, wanted)} of {wanted} workers are ready"
    current = int(status.get("observedGeneration") or 0) >= int(live["metadata"].get("generation") or 0)
    if current and available >= wanted and updated >= wanted:
        return Verdict("True", "WorkersReady", count)
    progressing = conditions.get("Progressing") or {}
    if current and progressing.get("reason") == "ProgressDeadlineExceeded":
        return Verdict("False", "ProgressDeadlineExceeded", f"the rollout doesn't come to an end: {count}{why}", True)
    if current and updated >= wanted and progressing.get("reason") == "NewReplicaSetAvailable":
        return Verdict("False", "WorkersNotReady", f"{count}{why}")
    return Verdict("False", "RollingOut", f"{count}{why}")


def _consumers(draft: _Draft) -> int:
    state = draft.seen.broker.state
    queue = state.queues.get(draft.automation.queue_name or "") if state is not None else None
    return queue.consumers if queue is not None else 0


def _job_template(draft: _Draft) -> None:
    """`launch: Job`: no queue and no Deployment; whether a Job can be made is found out before the first Run."""
    draft.queue = Verdict("True", "LaunchedAsJobs", "launch: Job has no queue")
    if draft.automation.spec.worker.image is None:
        draft.workers = Verdict("False", "NoWorkerImage", "launch: Job needs worker.image", stalled=True)
        return
    try:
        body = job(draft.automation, draft.installation, _EXAMPLE_RUN, 1, {}, table=draft.table)
    except InvalidTemplate as error:
        draft.workers = Verdict("False", "InvalidTemplate", str(error), stalled=True)
        return
    digest = children.digest(body)
    refusal = _refused(draft, JOB.kind, digest)
    if refusal is not None:
        draft.workers = _refused_verdict(refusal, "a Job")
        return
    if draft.seen.accepted is None or draft.seen.accepted.digest != digest:
        draft.actions.append(TryOut(JOB, body, digest))
    draft.workers = Verdict("True", "LaunchedAsJobs", "each Run is a Kubernetes Job")


def _unpause(draft: _Draft) -> str | None:
    """Let a paused Automation go on where somebody asks for it; the annotation's value that is dealt with now."""
    status = draft.automation.status
    asked: str | None = draft.meta.annotations.get(names.ANNOTATION_UNPAUSE)
    summary = draft.seen.store.summary
    paused = summary is not None and summary.counts.paused and draft.seen.store.down_since is None
    if not paused:
        return asked if summary is not None else status.last_handled_unpause
    new_template = any(isinstance(action, Apply) and action.kind == DEPLOYMENT for action in draft.actions) or (
        draft.automation.spec.launch == "Job" and any(isinstance(action, TryOut) for action in draft.actions)
    )
    if (asked is not None and asked != status.last_handled_unpause) or (new_template and not draft.settled):
        draft.actions.append(Unpause())
    return asked


# --- common ----------------------------------------------------------------------------------------------------------


def _drift(somebody_did_it: bool, text: str) -> Note | None:
    return Note("Warning", REPAIRED, text) if somebody_did_it else None


def _ours(draft: _Draft, live: Object) -> bool:
    controller = controller_of(live)
    return controller is not None and controller.get("uid") == draft.meta.uid


def _foreign(draft: _Draft, live: Object, kind: Kind) -> bool:
    """Whether an object of a child's name isn't the Automation's. One of an older Automation of the name is removed."""
    if _ours(draft, live):
        return False
    controller, name = controller_of(live), live["metadata"]["name"]
    if controller is not None and controller.get("kind") == "Automation" and controller.get("name") == draft.meta.name:
        draft.actions.append(Remove(kind, name, live["metadata"]["uid"]))
        draft.obstruct(Verdict("False", "Replacing", f"{kind.kind} {name} of an older Automation of this name goes"))
        draft.again.append(1.0)
        return True
    labels = live["metadata"].get("labels") or {}
    if controller is None and labels.get(names.LABEL_AUTOMATION) == draft.meta.name:
        return False  # ours, whose owner reference somebody took away
    text = f"{kind.kind} {name} exists and isn't the Automation's; delete it or give the Automation another name"
    if kind == SERVICE_ACCOUNT:
        text += ", or name it in worker.serviceAccountName"
    draft.obstruct(Verdict("False", "NameTaken", text, stalled=True))
    return True


def _refused(draft: _Draft, kind: str, digest: str) -> Refusal | None:
    """The refusal that still counts for what is wished; a broker's counts for everything."""
    refusal = draft.seen.refusals.get(kind)
    if refusal is None or (refusal.digest != digest and kind != "Broker") or draft.now >= refusal.until:
        return None
    draft.in_seconds(refusal.until)
    if kind in (SECRET.kind, SERVICE_ACCOUNT.kind):
        draft.obstruct(Verdict("False", refusal.reason, f"the {kind} is refused: {refusal.message}", refusal.final))
    return refusal


def _refused_verdict(refusal: Refusal, what: str) -> Verdict:
    if refusal.final:
        return Verdict("False", "InvalidTemplate", f"{what} is refused: {refusal.message}", stalled=True)
    return Verdict("False", refusal.reason, f"{what} is refused: {refusal.message}")
