"""What a replay makes stale joins it: once each, in order, up to a limit."""

from __future__ import annotations

from tests.integration.reprocessing.conftest import Play
from tests.integration.reprocessing.world import World, condition

SELECT_LOADS = {"automations": ["loads"]}


async def a_chain(world: World) -> None:
    """loads write prices, invoices read prices and write sums, reports read sums and (a circle) write prices."""
    loads = await world.automation("loads", writes=["price/$(params.list)"])
    invoices = await world.automation("invoices", reads=["price/$(params.list)"], writes=["sum/$(params.list)"])
    reports = await world.automation("reports", reads=["sum/$(params.list)"], writes=["price/$(params.list)"])
    await world.ran(invoices, 1, first=1, list="a")  # before the load: it isn't stale
    await world.ran(loads, 1, first=2, list="a")
    await world.ran(invoices, 3, first=3, list="a")
    await world.ran(reports, 1, first=6, list="a")
    await world.ran(invoices, 1, first=7, list="b")  # another list: it isn't stale
    await world.ran(invoices, 1, first=8, list="a")


def test_stale_runs_join_once_each_in_order_and_are_predicted(play: Play) -> None:
    async def scenario(world: World) -> None:
        await a_chain(world)
        await world.create(select=SELECT_LOADS)
        pending = await world.phase("PendingApproval")
        assert (pending["plan"]["total"], pending["plan"]["predictedAdditions"]) == (1, 5)
        assert "5 more are expected to join" in condition(pending, "Ready")["message"]
        await world.approve()
        finished = await world.phase("Finished")
        assert world.workers.numbers() == [2, 3, 4, 5, 6, 8]
        assert (finished["progress"]["total"], finished["progress"]["added"]) == (6, 5)

    play(scenario)


def test_past_max_additions_it_awaits_a_new_approval(play: Play) -> None:
    async def scenario(world: World) -> None:
        await a_chain(world)
        await world.create(select=SELECT_LOADS, cascade={"maxAdditions": 3})
        first = (await world.phase("PendingApproval"))["plan"]["hash"]
        await world.approve()
        grown = await world.phase("PendingApproval", reason="PlanGrown")
        assert grown["plan"]["hash"] != first
        assert grown["plan"]["total"] == 5
        assert world.workers.numbers() == [2], "what is done is kept, and nothing more begins"
        assert world.gateways.answer(world.solution_id).verdict == "blocked"
        assert condition(grown, "GatewayBlocked")["status"] == "True"
        await world.approve()
        await world.phase("Finished")
        assert world.workers.numbers() == [2, 3, 4, 5, 6, 8]

    play(scenario)


def test_without_a_cascade_nothing_joins(play: Play) -> None:
    async def scenario(world: World) -> None:
        await a_chain(world)
        await world.create(select=SELECT_LOADS, cascade={"enabled": False})
        pending = await world.phase("PendingApproval")
        assert pending["plan"]["predictedAdditions"] == 0
        await world.approve()
        await world.phase("Finished")
        assert world.workers.numbers() == [2]

    play(scenario)


def test_corrected_parameters_make_other_keys_stale_too(play: Play) -> None:
    async def scenario(world: World) -> None:
        await a_chain(world)
        await world.create(select=SELECT_LOADS, parameters={"list": "b"})
        pending = await world.phase("PendingApproval")
        assert pending["plan"]["predictedAdditions"] == 6
        await world.approve()
        await world.phase("Finished")
        assert [given["n"] for given, _ in world.workers.ended] == [2, 3, 4, 5, 6, 7, 8]

    play(scenario)
