"""Nothing to do: no writes. And what the controller writes itself doesn't wake it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.cluster.audit import WRITES
from tests.integration.automation import rights
from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.broker.topology import Change
from maestro.kube.kinds import AUTOMATION, EVENT, ObjectKey
from maestro.runtime.clock import utcnow

COUNT = 200
ROUND_SECONDS = 30
ROUNDS = 3600 // ROUND_SECONDS
AT_ONCE = 16


def test_an_hour_of_resyncs_writes_nothing(play: Play) -> None:
    """200 unchanged Automations looked at every 30 s for an hour: no write in the API server's audit log."""

    async def scenario(world: World) -> None:
        names = [f"quiet-{number}" for number in range(COUNT)]
        for name in names:
            await world.apply(automation(name))
        await world.until("all ready", lambda: _all_ready(world), timeout=240)
        assert world.controller is not None
        keys = [ObjectKey(world.namespace, name) for name in names]
        written: list[Change] = []
        apply = world.management.apply

        async def counted(change: Change) -> None:
            written.append(change)
            await apply(change)

        world.management.apply = counted  # type: ignore[method-assign]
        begin = await _settled(world, keys)
        written.clear()
        log = world.apiserver.audit()
        for number in range(begin, begin + ROUNDS):
            await _round(world, keys, number)
        requests = log.requests(user=rights.USER)
        told = {reason for name in names[:3] for reason in await _told(world, name)}
        assert [request.uri for request in requests if request.verb in WRITES][:5] == [], told
        assert len([request for request in requests if request.resource == "secrets"]) >= COUNT * ROUNDS
        assert written == []

    play(scenario, timeout=900, resync_seconds=3600.0)


async def _settled(world: World, keys: list[ObjectKey]) -> int:
    """Look until the counters of the beginning are written; the number of the next round."""
    for number in range(1, 10):
        log = world.apiserver.audit()
        await _round(world, keys, number)
        if not log.requests(user=rights.USER, writes=True):
            return number + 1
    raise AssertionError("the Automations don't come to rest")


async def _round(world: World, keys: list[ObjectKey], number: int) -> None:
    """Look at every Automation, 30 s after the last time."""
    assert world.controller is not None
    world.clock = lambda: utcnow() + timedelta(seconds=number * ROUND_SECONDS)
    reconcile, todo = world.controller.reconciler.reconcile, iter(keys)

    async def some() -> None:
        for key in todo:
            await reconcile(key)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _told(world: World, name: str) -> list[str]:
    found, _ = await world.kube.list(EVENT, world.namespace)
    return [f"{e['eventTime']} {e['reason']}: {e['note']}" for e in found if e["regarding"]["name"] == name]


async def _all_ready(world: World) -> bool:
    """Whether all are ready, and the broker has counted what is in their queues (it takes its time for many)."""
    queues = (await world.state()).queues.values()
    if any(queue.messages is None for queue in queues):
        return False
    found, _ = await world.kube.list(AUTOMATION, world.namespace)
    return len(found) == COUNT and all(
        any(c["type"] == "Ready" and c["status"] == "True" for c in obj.get("status", {}).get("conditions", ()))
        for obj in found
    )


def test_own_writes_wake_nobody(play: Play) -> None:
    """Each edit is reconciled once, though a status, and a Deployment, are written because of it."""

    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        await world.stop()
        await world.start()  # all that the creation stirred up is over
        await world.until("nothing to do", lambda: _idle(world))
        before = world.reconciled["orders"]
        log = world.apiserver.audit()
        edits = 5
        for number in range(edits):
            await world.patch("orders", {"description": f"edit {number}"})
            await world.until("the status of the edit", lambda: _observed(world))
        assert world.reconciled["orders"] == before + edits
        patches = log.requests(user=rights.USER, writes=True)
        assert [(r.verb, r.resource, r.subresource) for r in patches] == [("patch", "automations", "status")] * edits

    play(scenario, resync_seconds=3600.0)


async def _idle(world: World) -> bool:
    """Whether everything was listed and looked at."""
    assert world.feed is not None
    assert world.controller is not None
    queue = world.feed.queue
    return world.controller.synced and "orders" in world.reconciled and not len(queue) and not queue._working


async def _observed(world: World) -> bool:
    obj = await world.get()
    cached = world.feed.cache.get(world.namespace, "orders") if world.feed is not None else None
    return (
        obj["status"]["observedGeneration"] == obj["metadata"]["generation"]
        and cached is not None
        and cached["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]
    )
