"""An Automation goes: nothing holds it back, and nothing of it is left but what its policy keeps."""

from __future__ import annotations

import json

import pytest
from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import AUTOMATION, NAMESPACE
from maestro.runs.model import NewRun, RunState
from maestro.runs.reports import Report


async def _delete(world: World, name: str = "orders") -> None:
    await world.kube.delete(AUTOMATION, world.namespace, name)
    await world.until("the object's end", lambda: _no_object(world, name), timeout=10)


async def _no_object(world: World, name: str) -> bool:
    return not await world.exists(AUTOMATION, name)


async def _users_gone(world: World) -> bool:
    return not [name for name in (await world.state()).users if name.startswith(f"{world.queue}.")]


async def _queue_gone(world: World) -> bool:
    return world.broker("GET", f"/api/queues/%2F/{world.queue}") is None


async def _reaped(world: World) -> bool:
    return await world.store.orphans([]) == []


def _publish(world: World, headers: dict[str, object]) -> None:
    properties = {"headers": headers, "delivery_mode": 2}
    body = {"properties": properties, "routing_key": world.queue, "payload": "{}", "payload_encoding": "string"}
    assert world.broker("POST", "/api/exchanges/%2F/amq.default/publish", body)["routed"]


async def _messages(world: World, count: int) -> None:
    async def there() -> bool:
        return bool((await world.state()).queues[world.queue].messages == count)

    await world.until(f"{count} messages counted", there)


@pytest.mark.parametrize("policy", ["Delete", "IfEmpty", "Retain"])
def test_deletion_policies(play: Play, policy: str) -> None:
    """With a foreign message and one of a Run's in the queue, and a Run that waits."""

    async def scenario(world: World) -> None:
        await world.apply(automation(queue={"deletionPolicy": policy}))
        await world.ready()
        live = world.store.live(f"{world.namespace}.orders")
        assert live is not None
        (waiting,) = await world.store.accept([NewRun(automation=live[0])])
        _publish(world, {"maestro-store": "this", "maestro-pub": 1})
        _publish(world, {})
        await _messages(world, 2)
        await _delete(world)
        await world.until("the users' end", lambda: _users_gone(world))
        run = await world.store.get(waiting.id)
        assert run is not None
        assert (run.state, run.reason) == (RunState.CANCELED, "AutomationDeleted")
        if policy == "Delete":
            await world.until("the queue's end", lambda: _queue_gone(world))
        elif policy == "Retain":
            await world.until("reaped", lambda: _reaped(world))
            assert not await _queue_gone(world)
        else:
            assert len(await world.store.orphans([])) == 1  # kept: one message isn't Maestro's
            world.broker("DELETE", f"/api/queues/%2F/{world.queue}/contents")
            _publish(world, {"maestro-store": "this", "maestro-pub": 1})
            await _messages(world, 1)
            assert world.controller is not None
            world.controller.reaper.wake()
            await world.until("the queue's end", lambda: _queue_gone(world))
        await world.until("reaped", lambda: _reaped(world))
        assert world.store.live(f"{world.namespace}.orders") is None

    play(scenario)


def test_a_running_run_keeps_its_user_until_it_ends(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        live = world.store.live(f"{world.namespace}.orders")
        assert live is not None
        (accepted,) = await world.store.accept([NewRun(automation=live[0])])
        leadership = await world.store.win_leadership()
        await world.store.claim(leadership.epoch, live[0], 1)
        (started,) = await world.store.reports([Report(op="start", job=accepted.id, worker="pod/1")])
        assert started.status == 200
        await _delete(world)

        async def deregistered() -> bool:
            return [orphan.deregistered for orphan in await world.store.orphans([])] == [True]

        await world.until("deregistered", deregistered)
        assert not await _users_gone(world)
        end = Report(op="finish", job=accepted.id, worker="pod/1", attempt=1, status="completed")
        (finished,) = await world.store.reports([end])
        assert finished.status == 200
        assert world.controller is not None
        world.controller.reaper.wake()
        await world.until("the users' end", lambda: _users_gone(world))

    play(scenario)


def test_deleted_while_the_controller_is_away(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(queue={"deletionPolicy": "Delete"}))
        await world.ready()
        await world.stop()
        await _delete(world)
        assert not await _queue_gone(world)
        await world.start()
        await world.until("reaped", lambda: _reaped(world))
        assert await _queue_gone(world)
        assert await _users_gone(world)

    play(scenario)


def test_deleted_while_the_broker_is_down(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        world.rabbitmq.stop()
        try:
            await _delete(world)

            async def deregistered() -> bool:
                return [orphan.deregistered for orphan in await world.store.orphans([])] == [True]

            await world.until("deregistered", deregistered)
        finally:
            world.rabbitmq.start()
        await world.until("reaped", lambda: _reaped(world))
        assert await _queue_gone(world)
        assert await _users_gone(world)

    play(scenario)


def test_the_whole_namespace_is_deleted(play: Play) -> None:
    """With the controller's own rights in it, which go with it, too."""

    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        await world.kube.delete(NAMESPACE, None, world.namespace)

        async def gone() -> bool:
            found, _ = await world.kube.list(NAMESPACE, field_selector=f"metadata.name={world.namespace}")
            return not found

        await world.until("the namespace's end", gone)
        await world.until("reaped", lambda: _reaped(world))
        assert await _queue_gone(world)
        assert await _users_gone(world)

    play(scenario)


@pytest.mark.parametrize("away", [False, True])
def test_made_again_under_the_same_name(play: Play, away: bool) -> None:
    """A new one: its queue is the retained one, its Runs and its password are its own."""

    async def scenario(world: World) -> None:
        await world.apply(automation(queue={"deletionPolicy": "Retain"}))
        first = await world.ready()
        login = await world.login()
        live = world.store.live(f"{world.namespace}.orders")
        assert live is not None
        (old_run,) = await world.store.accept([NewRun(automation=live[0])])
        _publish(world, {})
        await _messages(world, 1)
        if away:
            await world.stop()
        await _delete(world)
        await world.apply(automation(queue={"deletionPolicy": "Delete"}))
        if away:
            await world.start()
        second = await world.ready()
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        await world.until("the first one reaped", lambda: _first_reaped(world, first["metadata"]["uid"]))
        now = world.store.live(f"{world.namespace}.orders")
        assert now is not None
        assert now[1].uid == second["metadata"]["uid"]
        run = await world.store.get(old_run.id)
        assert run is not None
        assert run.state is RunState.CANCELED
        await _messages(world, 1)  # the queue is the same one
        await world.ready()
        fresh = await world.login()
        assert fresh["password"] != login["password"]
        assert fresh["username"] in (await world.state()).users
        for child in (await world.deployment(), await world.secret()):
            owners = child["metadata"]["ownerReferences"]
            assert [owner["uid"] for owner in owners] == [second["metadata"]["uid"]], json.dumps(owners)

    play(scenario)


async def _first_reaped(world: World, uid: str) -> bool:
    return uid not in {orphan.registration.uid for orphan in await world.store.orphans([])} and (
        world.store.live(f"{world.namespace}.orders") is not None
    )
