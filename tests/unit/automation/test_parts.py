"""Small pure parts: claims, troubles of pods, autoscaling; and the shared look at the broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit.workload.states import terminated, waiting

from maestro.automation.autoscale import Recommendations
from maestro.automation.brokerwatch import BrokerWatch
from maestro.automation.claims import Claims
from maestro.automation.pods import exited_cleanly, troubles
from maestro.broker.errors import BrokerUnavailable
from maestro.broker.topology import BrokerState, Change, QueueClaim, User, base
from maestro.kube.kinds import ObjectKey
from maestro.runtime.backoff import Backoff

NOW = datetime(2030, 1, 1, tzinfo=UTC)


# --- claims ----------------------------------------------------------------------------------------------------------


def _object(name: str, queue: str | None, *, created: int, uid: str = "", launch: str = "Queue") -> dict[str, Any]:
    stamp = f"2030-01-01T00:00:0{created}Z"
    meta = {"name": name, "namespace": "shop", "uid": uid or name, "creationTimestamp": stamp, "generation": 1}
    spec: dict[str, Any] = {"launch": launch}
    if queue is not None:
        spec["queue"] = {"name": queue}
    return {"metadata": meta, "spec": spec}


def _key(name: str) -> ObjectKey:
    return ObjectKey("shop", name)


def test_the_older_claim_counts() -> None:
    woken: list[ObjectKey] = []
    claims = Claims(woken.append)
    late, early = _object("late", "q", created=2), _object("early", "q", created=1)
    claims.changed(_key("late"), None, late)
    assert claims.taken_from(_key("late"), "q") is None
    claims.changed(_key("early"), None, early)
    assert claims.taken_from(_key("late"), "q") == _key("early")
    assert claims.taken_from(_key("early"), "q") is None
    assert woken == [_key("late")]
    claims.changed(_key("early"), early, None)
    assert claims.holder("q") == _key("late")
    assert woken == [_key("late"), _key("late")]
    claims.changed(_key("late"), late, None)
    assert claims.holder("q") is None
    assert claims.all() == []


def test_of_one_second_the_uid_decides() -> None:
    claims = Claims(lambda _key: None)
    claims.changed(_key("x"), None, _object("x", "q", created=1, uid="b"))
    claims.changed(_key("y"), None, _object("y", "q", created=1, uid="a"))
    assert claims.holder("q") == _key("y")


def test_the_version_moves_with_the_claims_only() -> None:
    claims = Claims(lambda _key: None)
    one = _object("one", None, created=1)
    claims.changed(_key("one"), None, one)
    version = claims.version
    other_status = {**one, "status": {"observedGeneration": 1}}
    claims.changed(_key("one"), one, other_status)
    edited = {**one, "metadata": {**one["metadata"], "generation": 2}}
    claims.changed(_key("one"), one, edited)
    assert claims.version == version
    claims.changed(_key("job"), None, _object("job", None, created=1, launch="Job"))
    claims.changed(_key("bad"), None, {"metadata": {"name": "bad"}, "spec": {"launch": 3}})
    assert [claim.queue for claim in claims.all()] == ["maestro.shop.one"]
    assert claims.version == version


# --- pods ------------------------------------------------------------------------------------------------------------


def _of(container: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {"metadata": meta, "status": {"containerStatuses": [{"name": "worker", "image": "i:1", **container}]}}


PULLING = _of({"state": waiting("ErrImagePull")})
BACKING_OFF = _of({"state": waiting("ImagePullBackOff")})
CRASHED = {"ready": False, "restartCount": 2, "lastState": terminated(1, "Error")}
CRASHING = _of({**CRASHED, "state": waiting("CrashLoopBackOff")})
RESTARTED = _of({**CRASHED, "state": {"running": {}}})


def test_troubles_are_steady() -> None:
    """What alternates while one thing goes on gives one phrase, or each retry would be a write."""
    assert troubles([PULLING]) == troubles([BACKING_OFF]) == ["1 pod: ImagePullBackOff (worker: i:1)"]
    assert troubles([CRASHING]) == troubles([RESTARTED]) == ["1 pod: CrashLoopBackOff (worker: Error, exit code 1)"]
    assert troubles([PULLING, BACKING_OFF])[0].startswith("2 pods: ")


def test_what_is_no_trouble() -> None:
    ready = {"ready": True, "restartCount": 3, "state": {"running": {}}, "lastState": terminated(1, "Error")}
    fine = [_of(ready), _of({"state": waiting("ContainerCreating")}), {"metadata": {}}, {}]
    assert troubles(fine) == []
    assert troubles([_of(CRASHED, deletionTimestamp="2030-01-01T00:00:00Z")]) == []


def test_a_pod_that_finds_no_node() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert troubles([{"metadata": {}, "status": {"conditions": [condition]}}]) == ["1 pod: Unschedulable (0/1 nodes)"]


def test_clean_exits() -> None:
    ended = terminated(0, "Completed")
    assert exited_cleanly([_of({"state": ended})])
    assert exited_cleanly([_of({"state": {"running": {}}, "lastState": ended})])
    assert not exited_cleanly([_of({"state": ended}, deletionTimestamp="x"), CRASHING, {}])


# --- autoscaling -----------------------------------------------------------------------------------------------------


def test_up_at_once_down_after_a_while() -> None:
    past = Recommendations()

    def after(seconds: float, runs: int) -> int:
        now = NOW + timedelta(seconds=seconds)
        return past.recommend(runs=runs, per_pod=10, delay=300.0, present=2, now=now)

    assert after(0, 0) == 2  # after a restart none is taken away
    assert after(10, 41) == 5
    assert after(20, 30) == 5
    assert after(200, 11) == 5
    assert after(309, 0) == 5
    assert after(310, 0) == 3  # 30 Runs until 20 s
    assert after(321, 0) == 2
    assert after(500, 0) == 0
    assert after(501, 1) == 1


# --- the look at the broker ------------------------------------------------------------------------------------------


class Broker:
    """A broker that is what it was told to be."""

    def __init__(self) -> None:
        self.looks = 0
        self.applied: list[Change] = []
        self.error: Exception | None = None
        self.state = BrokerState(NOW, (4, 0), 1000.0)
        self.during = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def snapshot(self, now: datetime) -> BrokerState:
        self.looks += 1
        self.during.set()
        state = self.state
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return BrokerState(now, state.version, state.uptime, dict(state.queues), users=dict(state.users))

    async def apply(self, change: Change) -> None:
        self.applied.append(change)


class Claimed:
    version = 1

    def all(self) -> list[QueueClaim]:
        return []


def _watch(broker: Broker, **more: Any) -> tuple[BrokerWatch, list[datetime]]:
    time = [NOW]
    backoff = Backoff(initial=1.0, jitter=0.0)
    return BrokerWatch(broker, Claimed(), clock=lambda: time[-1], backoff=backoff, **more), time


def test_one_look_for_all() -> None:
    async def scenario() -> None:
        broker = Broker()
        watch, time = _watch(broker)
        await asyncio.gather(*(watch.look() for _ in range(50)))
        assert broker.looks == 1
        made = [change.target for change in broker.applied]
        wanted = base([], (4, 0))
        assert len(broker.applied) == len(wanted.exchanges + wanted.queues + wanted.bindings + wanted.policies)
        assert wanted.bindings[0] in made
        time.append(NOW + timedelta(seconds=4))
        await watch.look()
        assert broker.looks == 1
        time.append(NOW + timedelta(seconds=6))
        await watch.look()
        assert broker.looks == 2

    asyncio.run(scenario())


def test_an_own_write_during_a_look_is_not_forgotten() -> None:
    async def scenario() -> None:
        broker = Broker()
        watch, time = _watch(broker)
        await watch.look()
        time.append(NOW + timedelta(seconds=10))
        broker.during.clear()
        broker.go_on.clear()
        look = asyncio.create_task(watch.look())
        await broker.during.wait()  # what it shows is from before the write
        await watch.apply(Change("put", User("u", "p"), ""))
        broker.go_on.set()
        view = await look
        assert view.state is not None
        assert "u" in view.state.users

    asyncio.run(scenario())


def test_an_outage_is_not_hammered_and_its_end_is_told() -> None:
    async def scenario() -> None:
        broker, recovered = Broker(), []
        watch, time = _watch(broker, on_recovery=lambda: recovered.append(1))
        await watch.look()
        broker.error = BrokerUnavailable("refused")
        time.append(NOW + timedelta(seconds=10))
        down = await watch.look()
        assert down.down_since == time[-1]
        assert watch.problem() == "refused"
        await watch.look()
        assert broker.looks == 2  # not before the backoff is over
        time.append(NOW + timedelta(seconds=12))
        assert (await watch.look()).down_since == NOW + timedelta(seconds=10)
        broker.error = None
        time.append(NOW + timedelta(seconds=60))
        assert (await watch.look()).down_since is None
        assert watch.problem() is None
        assert recovered == [1]

    asyncio.run(scenario())
