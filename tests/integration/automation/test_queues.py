"""Queues that are somebody else's, or other than they should be."""

from __future__ import annotations

from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import AUTOMATION, DEPLOYMENT, SECRET


def test_a_taken_queue(play: Play) -> None:
    """The older one has it; the other gets it when the older one goes."""

    async def scenario(world: World) -> None:
        queue = {"name": f"shared.{world.namespace}"}
        await world.apply(automation(queue=queue))
        first = await world.ready()
        # Creation times are whole seconds; the uid decides within one.
        await world.apply(automation("second", queue=queue))
        second = await world.get("second")
        loser, winner = ("second", "orders") if _older(first, second) else ("orders", "second")
        condition = await world.stalled("QueueTaken", loser)
        assert f"{world.namespace}/{winner}" in condition["message"]
        assert (await world.condition("Ready", loser))["status"] == "False"
        await world.ready(winner)
        assert len(await world.events("QueueTaken", loser)) == 1
        if loser == "second":
            for kind, name in ((DEPLOYMENT, "second"), (SECRET, "second-broker")):
                assert not await world.exists(kind, name)
        await world.kube.delete(AUTOMATION, world.namespace, winner)
        await world.ready(loser)
        # What the gone one leaves behind is its users; the queue is the other's now.
        await world.until("reaped", lambda: _reaped(world))
        assert queue["name"] in (await world.state()).queues

    play(scenario)


def _older(first: dict[str, object], second: dict[str, object]) -> bool:
    def age(obj: dict[str, object]) -> tuple[str, str]:
        meta = obj["metadata"]
        assert isinstance(meta, dict)
        return meta["creationTimestamp"], meta["uid"]

    return age(first) < age(second)


async def _reaped(world: World) -> bool:
    known = [obj["metadata"]["uid"] for obj in (await world.kube.list(AUTOMATION, world.namespace))[0]]
    return await world.store.orphans(known) == []


def test_a_queue_of_others_outlives_an_automation_that_claimed_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        name = f"others.{world.namespace}"
        path = f"/api/queues/%2F/{name}"
        world.broker("PUT", path, {"durable": True, "auto_delete": False, "arguments": {"x-max-length": 10}})
        await world.apply(automation(queue={"name": name, "deletionPolicy": "Delete"}))
        await world.stalled("QueueArgumentsDiffer")
        await world.kube.delete(AUTOMATION, world.namespace, "orders")
        await world.until("reaped", lambda: _reaped(world))
        assert world.broker("GET", path)["arguments"]["x-max-length"] == 10
        world.broker("DELETE", path)

    play(scenario)


def test_differing_arguments_are_named_and_left_alone(play: Play) -> None:
    async def scenario(world: World) -> None:
        name = f"older.{world.namespace}"
        declared = {"x-queue-type": "classic", "x-max-length": 10}
        path = f"/api/queues/%2F/{name}"
        world.broker("PUT", path, {"durable": True, "auto_delete": False, "arguments": declared})
        await world.apply(automation(queue={"name": name}))
        message = (await world.stalled("QueueArgumentsDiffer"))["message"]
        assert "x-max-length: declared 10, wanted absent" in message
        assert "x-queue-type: declared 'classic', wanted 'quorum'" in message
        assert world.broker("GET", path)["arguments"] == declared
        assert not await world.exists(DEPLOYMENT, "orders")  # its workers could only crash
        world.broker("DELETE", path)
        await world.ready()
        assert world.broker("GET", path)["arguments"] == {"x-queue-type": "quorum"}

    play(scenario)
