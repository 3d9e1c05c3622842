"""Broker, run store or API server away: the conditions say which, and everything comes back by itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import DEPLOYMENT
from maestro.runs.errors import StoreUnavailable
from maestro.runtime.clock import utcnow


def test_the_broker_is_away(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation())
        before = await world.ready()
        world.rabbitmq.stop()
        try:
            await world.until("the outage noticed", lambda: _down(world))
            # For a minute it isn't worth a write to every Automation.
            count = world.reconciled["orders"]
            await world.until("two more looks", lambda: _looked(world, count + 2))
            assert (await world.get())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
            # What doesn't need the broker goes on.
            await world.patch("orders", {"worker": {"replicas": 2}})
            await world.until("two workers", lambda: _replicas(world, 2))
            world.clock = lambda: utcnow() + timedelta(seconds=61)
            await world.until("the outage said", lambda: _reason(world, "BrokerUnavailable"))
            ready, queue = await world.condition(), await world.condition("QueueReady")
            assert ready["status"] == queue["status"] == "False"
            assert (await world.condition("Reconciling"))["reason"] == "BrokerUnavailable"
            # A new one has nothing to be patient about, and no workers before it has a queue.
            await world.apply(automation("second"))
            await world.until("said of the new one", lambda: _reason(world, "BrokerUnavailable", "second"))
            assert not await world.exists(DEPLOYMENT, "second")
        finally:
            world.rabbitmq.start()
        await world.ready()
        await world.ready("second")
        assert len(await world.events("BrokerUnavailable")) == 1

    play(scenario)


async def _down(world: World) -> bool:
    assert world.controller is not None
    return world.controller.broker.problem() is not None


async def _looked(world: World, count: int) -> bool:
    return world.reconciled["orders"] >= count


async def _replicas(world: World, count: int) -> bool:
    return bool((await world.deployment())["spec"]["replicas"] == count)


async def _reason(world: World, reason: str, name: str = "orders") -> bool:
    return bool((await world.condition("Ready", name)).get("reason") == reason)


def test_an_emptied_broker_is_whole_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        login = await world.login()
        lost: list[str] = []
        assert world.controller is not None
        world.controller.on_queue_lost(lost.append)
        await asyncio.to_thread(world.rabbitmq.reset)

        async def whole() -> bool:
            state = await world.state()
            names = {world.queue, "maestro.dead-letters"}
            return names <= set(state.queues) and login["username"] in state.permissions and bool(state.policies)

        await world.until("everything anew", whole)
        await world.ready()
        assert await world.login() == login
        assert lost == [world.queue]  # so that what was in it is published again

    play(scenario)


def test_the_api_server_is_away(play: Play) -> None:
    """Killed and started again: watches and writes go on."""

    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        await asyncio.to_thread(world.apiserver.kill)
        user = f"{world.queue}.a"
        world.broker("DELETE", f"/api/users/{user}")
        await world.until("looks that fail", lambda: _looked(world, world.reconciled["orders"]))
        await asyncio.to_thread(world.apiserver.resume)
        await world.until("the user again", lambda: _there(world, user))
        await world.patch("orders", {"worker": {"image": "example.org/worker:2"}})
        await world.ready()
        spec = (await world.deployment())["spec"]["template"]["spec"]
        assert spec["containers"][0]["image"] == "example.org/worker:2"

    play(scenario)


async def _there(world: World, user: str) -> bool:
    return user in (await world.state()).users


def test_the_store_is_away(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full or gone, as the store itself reports it."""

    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        with monkeypatch.context() as broken:

            async def unavailable(*_: object, **__: object) -> None:
                raise StoreUnavailable("database or disk is full")

            for method in ("register", "counts", "orphans"):
                broken.setattr(world.store, method, unavailable)
            count = world.reconciled["orders"]
            await world.until("looks", lambda: _looked(world, count + 2))
            assert await _reason(world, "Ready")
            world.clock = lambda: utcnow() + timedelta(seconds=61)
            await world.until("the outage said", lambda: _reason(world, "StoreUnavailable"))
            assert "disk is full" in (await world.condition())["message"]
            # The rest of the work goes on.
            await world.patch("orders", {"worker": {"replicas": 2}})
            await world.until("two workers", lambda: _replicas(world, 2))
        await world.ready()

    play(scenario)
