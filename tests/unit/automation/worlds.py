"""Worlds as the plan sees them: a stable one, and what differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from maestro.automation import children
from maestro.automation.credentials import Login
from maestro.automation.plan import claim_of, plan
from maestro.automation.world import BrokerView, Observed, Plan, StoreView
from maestro.broker import topology
from maestro.broker.passwords import HASHING_ALGORITHM, hash_password
from maestro.broker.topology import BrokerState, QueueState, UserState
from maestro.resources import Automation
from maestro.runs.model import Counts, Summary
from maestro.workload.pod import BrokerAddress, Installation

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ROTATED = "2029-12-01T00:00:00Z"
INSTALLATION = Installation("http://maestro:8080", "maestro", "maestro:1", BrokerAddress("rabbit", 5672, "/"))
QUEUE = "maestro.shop.orders"
LOGIN = Login(f"{QUEUE}.a", "password-of-a")
FRESH = "a-fresh-password"


def automation(
    spec: Mapping[str, Any] | None = None, status: Mapping[str, Any] | None = None, **meta: Any
) -> Automation:
    """The Automation shop/orders, with a worker image unless the spec says otherwise."""
    metadata = {"name": "orders", "namespace": "shop", "uid": "uid-1", "generation": 1, "resourceVersion": "7", **meta}
    given = {"worker": {"image": "example.org/worker:1"}, **(spec or {})}
    obj = {"metadata": metadata, "spec": given}
    if status is not None:
        obj["status"] = dict(status)
    return Automation.model_validate(obj)


ACCOUNT_UID = "uid-account"


def queue_state(name: str = QUEUE, **more: Any) -> QueueState:
    given = {
        "name": name,
        "type": "quorum",
        "durable": True,
        "auto_delete": False,
        "exclusive": False,
        "arguments": {"x-queue-type": "quorum"},
        "policy": "maestro-work",
        "state": "running",
        "messages": 0,
        "ready": 0,
        "unacknowledged": 0,
        "consumers": 1,
        **more,
    }
    return QueueState(**given)


def broker_state(of: Automation, *, login: Login = LOGIN, **more: Any) -> BrokerState:
    """The broker with everything in it that the Automation needs."""
    claim = claim_of(of)
    user = UserState(login.user, hash_password(login.password), HASHING_ALGORITHM, ())
    given: dict[str, Any] = {
        "queues": {claim.queue: queue_state(claim.queue, arguments=topology.queue_arguments(claim))},
        "users": {user.name: user},
        "permissions": {user.name: topology.permission(claim, user.name)},
        **more,
    }
    return BrokerState(NOW, (4, 0), 1000.0, **given)


def deployment(of: Automation, *, replicas: int = 1, ready: int | None = None, **status: Any) -> dict[str, Any]:
    """The Deployment as the API server shows it once its pods are ready."""
    own_account = of.spec.worker.service_account_name is None
    body = children.deployment(
        of, INSTALLATION, user=LOGIN.user, replicas=replicas, account_uid=ACCOUNT_UID if own_account else None
    )
    count = replicas if ready is None else ready
    body["metadata"] |= {"uid": "uid-d", "generation": 4}
    given = {
        "observedGeneration": 4,
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": count,
        "availableReplicas": count,
    }
    body["status"] = {**given, **status}
    return body


def stable(of: Automation, **more: Any) -> Observed:
    """A world in which everything that the Automation wants is there."""
    account = children.service_account(of)
    account["metadata"]["uid"] = ACCOUNT_UID
    if of.spec.launch == "Job":
        return Observed(store=StoreView(Summary(Counts(), None, ())), service_account=account, **more)
    given: dict[str, Any] = {
        "broker": BrokerView(broker_state(of)),
        "store": StoreView(Summary(Counts(), None, ())),
        "secret": children.secret(of, LOGIN, INSTALLATION.broker or BrokerAddress("?"), ROTATED),
        "service_account": account if of.spec.worker.image is not None else None,
        "deployment": deployment(of) if of.spec.worker.image is not None else None,
        "had_consumer": True,
        "counters_at": NOW - timedelta(minutes=5),
        **more,
    }
    return Observed(**given)


def planned(of: Automation, seen: Observed, now: datetime = LATER) -> Plan:
    return plan(of, seen, INSTALLATION, now, password=FRESH)


def settled(
    spec: Mapping[str, Any] | None = None, *, after: Mapping[str, Any] | None = None, **meta: Any
) -> Automation:
    """An Automation whose status is what the stable world gave it."""
    of = automation(spec, **meta)
    seen = stable(of)
    made = planned(of, seen, NOW)
    if of.spec.launch == "Job":
        seen = replace(seen, accepted=accepted_job(of))
        made = planned(of, seen, NOW)
    assert made.actions == ()
    assert made.status is not None
    status = {key: value for key, value in made.status.items() if value is not None}
    return automation(spec, {**status, **(after or {})}, **meta)


def accepted_job(of: Automation) -> Any:
    """The memory of a Job's template that was tried out."""
    from maestro.automation.world import Accepted, TryOut

    (action,) = planned(of, stable(of), NOW).actions
    assert isinstance(action, TryOut)
    return Accepted(action.digest, 0)


def condition(made: Plan, type_: str = "Ready") -> tuple[str, str]:
    """Status and reason of a condition in the plan's status; empty where it has none."""
    assert made.status is not None, "the plan writes no status"
    for found in made.status["conditions"]:
        if found["type"] == type_:
            return found["status"], found["reason"]
    return "", ""
