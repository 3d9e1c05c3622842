"""The way of a Reprocessing: planned, approved, replayed in order behind a shut gateway, and held Runs go on."""

from __future__ import annotations

from tests.integration.reprocessing.conftest import Play
from tests.integration.reprocessing.world import World, condition

from maestro.runs.model import NewRun, RunState


def test_planned_approved_replayed_in_order_and_the_held_go_on(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 12)
        await world.create(reason="wrong price list", parameters={"list": "corrected"})

        pending = await world.phase("PendingApproval", reason="AwaitingApproval")
        assert pending["plan"]["total"] == 12
        assert [each["id"] for each in pending["plan"]["preview"]] == [str(run) for run in originals]
        assert pending["plan"]["preview"][0] == {
            "id": str(originals[0]),
            "automation": "invoices",
            "state": "Succeeded",
            "scheduledTime": "2026-03-01T00:01:00Z",
            "startedAt": pending["plan"]["preview"][0]["startedAt"],
        }
        assert condition(pending, "GatewayBlocked")["status"] == "False"
        assert world.gateways.answer(world.solution_id).verdict == "open"

        world.workers.hang.add(3)
        await world.approve()
        running = await world.phase("Running", reason="Replaying")
        assert condition(running, "GatewayBlocked")["status"] == "True"
        assert condition(running, "Ready")["status"] == "True"
        blocked = world.gateways.answer(world.solution_id)
        assert (blocked.verdict, blocked.reprocessing) == ("blocked", "fix")
        held = [each.id for each in await world.store.accept([NewRun(invoices, {"n": n}) for n in (101, 102, 103)])]
        await world.until("three are held", lambda: _all(world, held, RunState.HELD))

        world.workers.hang.clear()
        finished = await world.phase("Finished")
        assert condition(finished, "Complete")["status"] == "True"
        assert condition(finished, "GatewayBlocked")["status"] == "False"
        assert finished["progress"] == {"total": 12, "done": 12, "succeeded": 12, "failed": 0, "added": 0}
        assert finished["approval"]["decision"] == "Approved"
        assert (finished["approval"]["by"], finished["approval"]["via"]) == ("ana", "kubectl")
        assert [each["phase"] for each in finished["history"]] == ["PendingApproval", "Approved", "Running", "Finished"]
        assert [each.get("user") for each in finished["history"]] == [None, "ana", None, None]

        await world.until("the held Runs", lambda: world.all_ended(held))
        assert world.workers.numbers() == [*range(1, 13), 101, 102, 103]
        assert [given.get("list") for given, _ in world.workers.ended] == ["corrected"] * 12 + [None] * 3
        for run in originals:
            (replay,) = await world.replays_of(run)
            original = await world.store.get(run)
            assert original is not None
            assert (replay.state, replay.reprocessing, replay.tick) == (RunState.SUCCEEDED, "fix", original.tick)
            assert original.parameters == {"n": original.parameters["n"]}, "the original's record never changes"
        assert await world.events() == ["AwaitingApproval", "Approved", "Draining", "Replaying", "Replayed"]
        assert {body["reprocessing"] for body in world.workers.bodies[12:24]} == {"fix"}

    play(scenario)


async def _all(world: World, runs: list[object], state: RunState) -> bool:
    return (await world.states(runs))[state] == len(runs)  # type: ignore[arg-type]
