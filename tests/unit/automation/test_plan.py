"""The plan as a table: a world, and what is to be written because of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.unit.automation.worlds import (
    ACCOUNT_UID,
    FRESH,
    INSTALLATION,
    LATER,
    LOGIN,
    NOW,
    QUEUE,
    accepted_job,
    automation,
    broker_state,
    condition,
    deployment,
    planned,
    queue_state,
    settled,
    stable,
)

from maestro.automation import children
from maestro.automation.credentials import Login, decoded
from maestro.automation.world import (
    Accepted,
    Action,
    Apply,
    BrokerView,
    ChangeBroker,
    Observed,
    Plan,
    Refusal,
    Remove,
    StoreView,
    TryOut,
    Unpause,
)
from maestro.broker.passwords import HASHING_ALGORITHM, hash_password
from maestro.broker.topology import Permission, Queue, User, UserState
from maestro.resources import Automation
from maestro.runs.model import Counts, LastRun, RecentFailure, RunState, Summary

EVERYTHING = ["Secret orders-broker", f"put Queue {QUEUE}", f"put User {QUEUE}.a", f"put Permission {QUEUE}.a"]
CHILDREN = ["ServiceAccount orders", "Deployment orders"]
OLD = f"{QUEUE}.b"


def said(action: Action) -> str:
    """An action in short."""
    match action:
        case Apply(kind, body, _, _):
            return f"{kind.kind} {body['metadata']['name']}"
        case TryOut(kind, _, _):
            return f"try {kind.kind}"
        case Remove(kind, name, _, _):
            return f"remove {kind.kind} {name}"
        case ChangeBroker(change, _):
            target: Any = change.target
            return f"{change.verb} {type(target).__name__} {getattr(target, 'name', None) or target.user}"
        case Unpause():
            return "unpause"


def notes(made: Plan) -> list[str]:
    """The Events that tell of actions."""
    found = [getattr(action, "note", None) for action in made.actions]
    return [note.message for note in found if note is not None]


@dataclass
class Row:
    """A world, and what follows."""

    name: str
    of: Automation
    seen: Observed
    actions: list[str] = field(default_factory=list)
    ready: tuple[str, str] | None = None
    """Ready's status and reason; None: no status is written."""
    kstatus: str = ""
    """`Reconciling` or `Stalled`, where that is to be there."""
    events: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    """Words that stand in the notes of repairs, one for each."""
    now: datetime = LATER


def _deployment(of: Automation, change: Callable[[dict[str, Any]], object], **more: Any) -> Observed:
    live = deployment(of, **more)
    change(live)
    return stable(of, deployment=live)


def _broker(of: Automation, **more: Any) -> Observed:
    return stable(of, broker=BrokerView(broker_state(of, **more)))


def _foreign(obj: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": obj["metadata"]["name"], "namespace": "shop", "uid": "uid-f"}
    return {**obj, "metadata": meta}


def _of_an_older_one(obj: dict[str, Any]) -> dict[str, Any]:
    owners = [{**obj["metadata"]["ownerReferences"][0], "uid": "uid-0"}]
    return {**obj, "metadata": {**obj["metadata"], "uid": "uid-old", "ownerReferences": owners}}


NEW, SETTLED = automation(), settled()
NEW_WORLD = Observed(broker=BrokerView(broker_state(NEW, queues={}, users={}, permissions={})))
NO_IMAGE, JOB = {"worker": {}}, {"launch": "Job"}
RAW = {"queue": {"name": "older", "arguments": {"x-dead-letter-exchange": "maestro.dlx"}}}
SUSPENDED = {"suspend": True}
RUNNING = StoreView(Summary(Counts(running=1), None, ()))
PAUSED = StoreView(Summary(Counts(paused=True), None, ()))
DOWN = BrokerView(broker_state(NEW), down_since=LATER - timedelta(seconds=10), problem="connection refused")
LONG_DOWN = replace(DOWN, down_since=LATER - timedelta(seconds=61))
ANOTHER_USER = UserState(OLD, hash_password("old"), HASHING_ALGORITHM, ())
EXITED = {
    "metadata": {"name": "p"},
    "status": {
        "containerStatuses": [
            {"name": "worker", "ready": False, "lastState": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
        ]
    },
}


def _refusal(kind: str, digest: str, *, final: bool = True) -> dict[str, Refusal]:
    return {kind: Refusal(digest, "Forbidden", "says no", final, LATER + timedelta(minutes=1))}


def _digest(of: Automation) -> str:
    body = children.deployment(of, INSTALLATION, user=LOGIN.user, replicas=1, account_uid=ACCOUNT_UID)
    return children.digest(body)


SAME_GENERATION = _digest(SETTLED)


def _another_account() -> dict[str, Any]:
    account = dict(stable(SETTLED).service_account or {})
    return {**account, "metadata": {**account["metadata"], "uid": "another"}}


TABLE = [
    Row("stable, no changes", SETTLED, stable(SETTLED)),
    Row("stable without an image", settled(NO_IMAGE), stable(settled(NO_IMAGE))),
    Row("stable, launch: Job", settled(JOB), stable(settled(JOB), accepted=accepted_job(automation(JOB)))),
    Row("stable, raw arguments", settled(RAW), stable(settled(RAW))),
    Row(
        "new",
        NEW,
        NEW_WORLD,
        [*EVERYTHING, *CHILDREN[:1]],
        ("False", "Creating"),
        "Reconciling",
        ["Creating"],
    ),
    Row(
        "new, its account is made",
        NEW,
        replace(NEW_WORLD, service_account=stable(NEW).service_account),
        [*EVERYTHING, *CHILDREN[1:]],
        ("False", "Creating"),
        "Reconciling",
        ["Creating"],
    ),
    Row(
        "the account was made anew: tokens of the old one are worth nothing",
        SETTLED,
        stable(SETTLED, service_account=_another_account()),
        CHILDREN[1:],
    ),
    Row(
        "new, everything there but the status",
        NEW,
        stable(NEW),
        [],
        ("True", "Ready"),
        "",
        ["Ready"],
    ),
    Row(
        "new, broker away",
        NEW,
        Observed(broker=BrokerView(None, LATER, "refused")),
        ["ServiceAccount orders"],
        ("False", "BrokerUnavailable"),
        "Reconciling",
        ["BrokerUnavailable"],
    ),
    Row("the broker is away for a moment", SETTLED, stable(SETTLED, broker=DOWN)),
    Row(
        "the broker is away for a minute",
        SETTLED,
        stable(SETTLED, broker=LONG_DOWN),
        [],
        ("False", "BrokerUnavailable"),
        "Reconciling",
        ["BrokerUnavailable"],
    ),
    Row(
        "the store is away for a moment",
        SETTLED,
        stable(SETTLED, store=StoreView(None, LATER - timedelta(seconds=10), "disk full")),
    ),
    Row(
        "the store is away for a minute",
        SETTLED,
        stable(SETTLED, store=StoreView(None, LATER - timedelta(seconds=61), "disk full")),
        [],
        ("False", "StoreUnavailable"),
        "Reconciling",
        ["StoreUnavailable"],
    ),
    Row(
        "the queue was deleted",
        SETTLED,
        _broker(SETTLED, queues={}),
        [f"put Queue {QUEUE}"],
        None,
        repairs=["declared anew"],
    ),
    Row(
        "the queue has other arguments",
        SETTLED,
        _broker(SETTLED, queues={QUEUE: queue_state(arguments={"x-queue-type": "quorum", "x-max-length": 1})}),
        [],
        ("False", "QueueArgumentsDiffer"),
        "Stalled",
        ["QueueArgumentsDiffer"],
    ),
    Row(
        "the user was deleted",
        SETTLED,
        _broker(SETTLED, users={}, permissions={}),
        [f"put User {QUEUE}.a", f"put Permission {QUEUE}.a"],
        None,
        repairs=["user", "permissions"],
    ),
    Row(
        "the user may more than it should",
        SETTLED,
        _broker(SETTLED, permissions={LOGIN.user: Permission(LOGIN.user, ".*", ".*", ".*")}),
        [f"put Permission {QUEUE}.a"],
        None,
        repairs=["differed"],
    ),
    Row(
        "the Secret was deleted",
        SETTLED,
        stable(SETTLED, secret=None),
        ["Secret orders-broker", f"put User {OLD}", f"put Permission {OLD}"],
        None,
        repairs=[f"user {OLD} got a new password"],
    ),
    Row("the Secret was deleted while the broker is away", SETTLED, stable(SETTLED, secret=None, broker=DOWN)),
    Row(
        "the replaced user's time is over",
        SETTLED,
        _broker(SETTLED, users={**broker_state(SETTLED).users, OLD: ANOTHER_USER}),
        [f"delete User {OLD}"],
    ),
    Row(
        "the queue is taken",
        NEW,
        stable(NEW, taken_by="shop/older", deployment=None, secret=None, service_account=None),
        [],
        ("False", "QueueTaken"),
        "Stalled",
        ["QueueTaken"],
    ),
    Row(
        "the image was changed by somebody",
        SETTLED,
        _deployment(SETTLED, lambda d: d["spec"]["template"]["spec"]["containers"][0].update(image="evil")),
        ["Deployment orders"],
        None,
        repairs=["spec.template.spec.containers[worker].image"],
    ),
    Row(
        "a webhook changes the image each time",
        SETTLED,
        replace(
            _deployment(SETTLED, lambda d: d["spec"]["template"]["spec"]["containers"][0].update(image="mirror/x")),
            accepted=Accepted(SAME_GENERATION, 4),
        ),
    ),
    Row(
        "somebody added to the pods",
        SETTLED,
        _deployment(SETTLED, lambda d: d["spec"]["template"]["metadata"].setdefault("annotations", {}).update(x="1")),
    ),
    Row(
        "somebody scaled the Deployment",
        SETTLED,
        _deployment(SETTLED, lambda d: d["spec"].update(replicas=5)),
        ["Deployment orders"],
        None,
        repairs=["spec.replicas"],
    ),
    Row(
        "the Deployment was deleted",
        SETTLED,
        stable(SETTLED, deployment=None),
        CHILDREN[1:],
        ("False", "Creating"),
        "Reconciling",
        ["Creating"],
        ["made anew"],
    ),
    Row(
        "the ServiceAccount was deleted",
        SETTLED,
        stable(SETTLED, service_account=None),
        CHILDREN[:1],
        None,
        repairs=["ServiceAccount orders was missing"],
    ),
    Row(
        "the Deployment is somebody else's",
        NEW,
        stable(NEW, deployment=_foreign(deployment(NEW))),
        [],
        ("False", "NameTaken"),
        "Stalled",
        ["NameTaken"],
    ),
    Row(
        "the Deployment is an older Automation's",
        NEW,
        stable(NEW, deployment=_of_an_older_one(deployment(NEW))),
        ["remove Deployment orders"],
        ("False", "Replacing"),
        "Reconciling",
        ["Replacing"],
    ),
    Row(
        "an account of one's own is named",
        automation({"worker": {"image": "i", "serviceAccountName": "mine"}}, generation=2),
        stable(
            automation({"worker": {"image": "i", "serviceAccountName": "mine"}}, generation=2),
            service_account={"metadata": {**children.service_account(NEW)["metadata"], "uid": "uid-s"}},
        ),
        ["remove ServiceAccount orders"],
        ("True", "Ready"),
        "",
        ["Ready"],
    ),
    Row(
        "idle and suspended",
        automation(SUSPENDED),
        stable(automation(SUSPENDED)),
        ["Deployment orders"],
        ("True", "Suspended"),
        "",
        ["Suspended"],
    ),
    Row(
        "suspended, one still runs",
        automation(SUSPENDED),
        stable(automation(SUSPENDED), store=RUNNING),
        [],
        ("True", "Suspended"),
        "",
        ["Suspended"],
    ),
    Row(
        "suspended, and nobody knows whether one runs",
        automation(SUSPENDED),
        stable(automation(SUSPENDED), store=StoreView(None, LATER, "away")),
        [],
        ("False", "StoreUnavailable"),
        "Reconciling",
        ["StoreUnavailable"],
    ),
    Row(
        "no worker is wanted",
        automation({"worker": {"image": "i", "replicas": 0}}),
        stable(
            automation({"worker": {"image": "i", "replicas": 0}}),
            deployment=deployment(automation({"worker": {"image": "i", "replicas": 0}}), replicas=0),
        ),
        [],
        ("True", "ScaledToZero"),
        "",
        ["ScaledToZero"],
    ),
    Row(
        "autoscaled",
        automation({"worker": {"image": "example.org/worker:1", "autoscaling": {"maxReplicas": 3}}}),
        stable(
            automation({"worker": {"image": "example.org/worker:1", "autoscaling": {"maxReplicas": 3}}}), autoscaled=9
        ),
        ["Deployment orders"],
        ("False", "RollingOut"),
        "Reconciling",
        ["RollingOut"],
    ),
    Row(
        "the gateway is shut",
        SETTLED,
        stable(SETTLED, blocked_by="late-prices"),
        [],
        ("True", "GatewayBlocked"),
        "",
        ["GatewayBlocked"],
    ),
    Row("paused", SETTLED, stable(SETTLED, store=PAUSED), [], ("True", "Paused"), "", ["Paused"]),
    Row(
        "paused, and asked to go on",
        settled(annotations={"maestro-operator.io/unpause": "2"}, after={"lastHandledUnpause": "1"}),
        stable(SETTLED, store=PAUSED),
        ["unpause"],
        ("True", "Paused"),
        "",
        ["Paused"],
    ),
    Row(
        "asked to go on once before",
        settled(annotations={"maestro-operator.io/unpause": "1"}, after={"lastHandledUnpause": "1"}),
        stable(SETTLED, store=PAUSED),
        [],
        ("True", "Paused"),
        "",
        ["Paused"],
    ),
    Row(
        "paused, and the worker is a new one",
        automation({"worker": {"image": "i:2"}}, SETTLED.status.dump(), generation=2),
        stable(SETTLED, store=PAUSED),
        ["Deployment orders", "unpause"],
        ("True", "Paused"),
        "",
        ["Paused"],
    ),
    Row(
        "the schema can't be used",
        SETTLED,
        stable(SETTLED, schema_problem="properties.a: …"),
        [],
        ("False", "InvalidParameterSchema"),
        "Stalled",
        ["InvalidParameterSchema"],
    ),
    Row(
        "the template was refused",
        SETTLED,
        stable(SETTLED, refusals=_refusal("Deployment", SAME_GENERATION)),
        [],
        ("False", "InvalidTemplate"),
        "Stalled",
        ["InvalidTemplate"],
    ),
    Row(
        "another template was refused",
        SETTLED,
        stable(SETTLED, refusals=_refusal("Deployment", "another")),
    ),
    Row(
        "a quota refuses the Deployment",
        SETTLED,
        stable(SETTLED, refusals=_refusal("Deployment", SAME_GENERATION, final=False)),
        [],
        ("False", "Forbidden"),
        "Reconciling",
        ["Forbidden"],
    ),
    Row(
        "the template can't be merged",
        automation({"worker": {"image": "i", "template": {"spec": {"containers": {}}}}}),
        stable(NEW),
        [],
        ("False", "InvalidTemplate"),
        "Stalled",
        ["InvalidTemplate"],
    ),
    Row(
        "launch: Job without an image",
        automation({"launch": "Job", "worker": {}}),
        Observed(),
        [],
        ("False", "NoWorkerImage"),
        "Stalled",
        ["NoWorkerImage"],
    ),
    Row(
        "launch: Job, new",
        automation(JOB),
        Observed(),
        ["ServiceAccount orders", "try Job"],
        ("True", "Ready"),
        "",
        ["Ready"],
    ),
    Row(
        "a rollout",
        SETTLED,
        stable(SETTLED, deployment=deployment(SETTLED, ready=0)),
        [],
        ("False", "RollingOut"),
        "Reconciling",
        ["RollingOut"],
    ),
    Row(
        "a rollout past its deadline",
        SETTLED,
        stable(
            SETTLED,
            deployment=deployment(
                SETTLED,
                ready=0,
                conditions=[{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
            ),
        ),
        [],
        ("False", "ProgressDeadlineExceeded"),
        "Stalled",
        ["ProgressDeadlineExceeded"],
    ),
    Row(
        "a worker that exits",
        SETTLED,
        stable(
            SETTLED,
            broker=BrokerView(broker_state(SETTLED, queues={QUEUE: queue_state(consumers=0)})),
            deployment=deployment(SETTLED, ready=0),
            pods=[EXITED],
            had_consumer=False,
        ),
        [],
        ("False", "WorkerExits"),
        "Stalled",
        ["WorkerExits"],
    ),
    Row(
        "a worker that exited after it had worked",
        SETTLED,
        stable(SETTLED, deployment=deployment(SETTLED, ready=0), pods=[EXITED]),
        [],
        ("False", "RollingOut"),
        "Reconciling",
        ["RollingOut"],
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_table(row: Row) -> None:
    made = planned(row.of, row.seen, row.now)
    assert [said(action) for action in made.actions] == row.actions
    assert len(notes(made)) == len(row.repairs), notes(made)
    for note, words in zip(notes(made), row.repairs, strict=True):
        assert words in note
    assert [event.reason for event in made.events] == row.events
    if row.ready is None:
        assert made.status is None
        return
    assert condition(made) == row.ready
    for type_ in ("Reconciling", "Stalled"):
        assert condition(made, type_)[0] == ("True" if type_ == row.kstatus else "")
    assert made.status is not None
    assert made.status["observedGeneration"] == row.of.metadata.generation


def test_the_image_is_taken_away() -> None:
    of = automation(NO_IMAGE, SETTLED.status.dump(), generation=2)
    account = {**children.service_account(of), "automountServiceAccountToken": False}
    account["metadata"] = {**account["metadata"], "uid": "uid-s"}
    made = planned(of, stable(of, deployment=deployment(SETTLED), service_account=account))
    assert [said(action) for action in made.actions] == ["remove ServiceAccount orders", "remove Deployment orders"]


def test_nothing_is_planned_twice() -> None:
    """After a plan's status was written, the same world gives an empty plan."""
    for row in TABLE:
        made = planned(row.of, row.seen, row.now)
        if made.status is None or made.actions:
            continue
        status = {key: value for key, value in made.status.items() if value is not None}
        meta = row.of.metadata
        spec = row.of.spec.dump()
        again = automation(spec, status, generation=meta.generation, annotations=dict(meta.annotations))
        assert planned(again, row.seen, row.now).empty, row.name


def test_counters_wait_half_a_minute() -> None:
    busy = stable(SETTLED, broker=BrokerView(broker_state(SETTLED, queues={QUEUE: queue_state(messages=7)})))
    early = planned(SETTLED, replace(busy, counters_at=LATER - timedelta(seconds=20)))
    assert early.empty
    assert early.requeue_after == pytest.approx(10.0)
    due = planned(SETTLED, replace(busy, counters_at=LATER - timedelta(seconds=30)))
    assert due.counters
    assert due.status is not None
    assert due.status["queue"] == {"name": QUEUE, "messages": 7, "consumers": 1}
    assert due.events == ()
    # With something to say, they go along at once.
    both = planned(SETTLED, replace(busy, counters_at=LATER, blocked_by="x"))
    assert both.counters


def test_dead_letters_are_told_when_the_first_waits_and_when_the_last_is_gone() -> None:
    def with_letters(of: Automation, n: int) -> Plan:
        return planned(of, stable(of, store=StoreView(Summary(Counts(dead_lettered=n), None, ()))))

    some = with_letters(SETTLED, 3)
    assert some.status is not None
    assert some.status["runs"]["deadLettered"] == 3
    (event,) = some.events
    assert (event.type, event.reason) == ("Warning", "DeadLettered")
    assert "3 messages were given up" in event.message
    assert "/api/v1/dead-letters?automation=shop.orders" in event.message
    told = settled(after={"runs": some.status["runs"]})
    assert with_letters(told, 5).events == (), "there are some already"
    assert [event.reason for event in with_letters(told, 0).events] == ["NoDeadLetters"]
    early = stable(SETTLED, store=StoreView(Summary(Counts(dead_lettered=1), None, ())), counters_at=LATER)
    assert planned(SETTLED, early).events == (), "with the counters, and those wait"


def test_a_count_that_is_not_known_keeps_its_last_value() -> None:
    unknown = stable(SETTLED, broker=BrokerView(broker_state(SETTLED, queues={QUEUE: queue_state(messages=None)})))
    assert planned(SETTLED, unknown).empty


def test_runs_in_the_status() -> None:
    last = LastRun(UUID(int=1), RunState.RUNNING, NOW, None)
    failure = RecentFailure(UUID(int=2), "Timeout", NOW + timedelta(microseconds=5))
    counts = Counts(pending=2, queued=3, retrying=1, held=4, running=5, succeeded_24h=6, failed_24h=7)
    seen = stable(SETTLED, store=StoreView(Summary(counts, last, (failure,) * 9)))
    made = planned(SETTLED, seen)
    assert made.status is not None
    assert made.status["runs"] == {
        "waiting": 6, "held": 4, "running": 5, "succeeded24h": 6, "failed24h": 7, "deadLettered": 0,
    }  # fmt: skip
    assert made.status["lastRun"]["state"] == "Running"
    assert made.status["lastRun"]["finishedAt"] is None
    assert (
        made.status["recentFailures"]
        == [{"id": str(UUID(int=2)), "reason": "Timeout", "at": "2030-01-01T12:00:00Z"}] * 5
    )


def test_outages_are_looked_at_again_when_patience_ends() -> None:
    assert planned(SETTLED, stable(SETTLED, broker=DOWN)).requeue_after == pytest.approx(50.0)
    store = StoreView(None, LATER - timedelta(seconds=15), "away")
    assert planned(SETTLED, stable(SETTLED, store=store)).requeue_after == pytest.approx(45.0)


def test_transition_times_move_with_the_status_only() -> None:
    scaled = planned(SETTLED, stable(SETTLED, blocked_by="x"))
    assert scaled.status is not None
    times = {c["type"]: c["lastTransitionTime"] for c in scaled.status["conditions"]}
    assert times["Ready"] == "2030-01-01T12:00:00Z"  # still True, for another reason
    assert times["GatewayBlocked"] == "2030-01-01T13:00:00Z"


def test_no_password_in_what_is_shown() -> None:
    made = planned(NEW, NEW_WORLD)
    secret = next(action for action in made.actions if isinstance(action, Apply) and action.kind.kind == "Secret")
    assert decoded(secret.body)["password"] == FRESH
    assert FRESH not in repr(made)
    assert secret.body["data"]["password"] not in repr(made)
    assert "s3cret" not in repr(Login("u", "s3cret"))


def test_raw_arguments_are_declared_as_they_are() -> None:
    of = automation(RAW)
    made = planned(of, replace(NEW_WORLD, broker=BrokerView(broker_state(of, queues={}, users={}, permissions={}))))
    targets = [action.change.target for action in made.actions if isinstance(action, ChangeBroker)]
    assert targets[0] == Queue("older", {"x-dead-letter-exchange": "maestro.dlx"})
    assert isinstance(targets[1], User)
    assert targets[2] == Permission(LOGIN.user, "^older$", "^$", "^older$")
