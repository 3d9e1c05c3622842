"""Where a replay stops, and how it goes on or ends: failures, suspension, timeouts, cancel, deletion."""

from __future__ import annotations

from uuid import UUID

from tests.integration.reprocessing.conftest import Play
from tests.integration.reprocessing.world import World, condition

from maestro.runs.model import NewRun, RunState


async def hold_some(world: World, automation: int, *numbers: int) -> list[UUID]:
    """New Runs, accepted while the gateway is shut."""
    held = [each.id for each in await world.store.accept([NewRun(automation, {"n": n}) for n in numbers])]

    async def are_held() -> bool:
        return (await world.states(held))[RunState.HELD] == len(held)

    await world.until("they are held", are_held)
    return held


def test_stop_at_the_17th_of_40_fix_and_resume(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 40)
        await world.create()
        world.workers.bad.add(17)
        await world.approve()

        stopped = await world.phase("Stopped", reason="RunFailed")
        assert stopped["progress"]["done"] == 17
        assert (stopped["progress"]["succeeded"], stopped["progress"]["failed"]) == (16, 1)
        stalled = condition(stopped, "Stalled")
        assert str(originals[16]) in stalled["message"]
        assert "spec.resume" in stalled["message"]
        assert world.workers.numbers() == list(range(1, 18))
        assert world.gateways.answer(world.solution_id).verdict == "blocked", "the block is kept"
        held = await hold_some(world, invoices, 101)

        world.workers.bad.clear()
        world.workers.ended.clear()
        await world.patch(resume=1)
        finished = await world.phase("Finished")
        assert finished["progress"]["succeeded"] == 40
        await world.until("the held one", lambda: world.all_ended(held))
        assert world.workers.numbers() == [*range(17, 41), 101], "the 17th to the 40th, and none before"
        states = [run.state for run in await world.replays_of(originals[16])]
        assert sorted(states) == [RunState.FAILED, RunState.SUCCEEDED]

    play(scenario)


def test_continue_counts_what_failed(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 6)
        world.workers.bad.update({2, 5})
        await world.create(onFailure="Continue", parallelism=3)
        await world.approve()
        finished = await world.phase("Finished")
        assert finished["progress"] == {"total": 6, "done": 6, "succeeded": 4, "failed": 2, "added": 0}
        assert "2 of them failed" in condition(finished, "Complete")["message"]

    play(scenario)


def test_cancel_fail_and_deletion_open_the_gateway_and_the_held_go_on(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 6)
        for name, end, phase in (
            ("canceled", {"cancel": True}, "Canceled"),
            ("failed", {"fail": True}, "Failure"),
            ("deleted", None, None),
        ):
            world.workers.ended.clear()
            world.workers.hang.add(3)
            await world.create(name, reason=name)
            await world.approve(name)
            await world.until(f"{name}: two are done", lambda: _numbers(world, 2))
            held = await hold_some(world, invoices, 101, 102)
            if end is None:
                await world.gone(name)
            else:
                await world.patch(name, **end)
                ended = await world.phase(phase or "", name)
                assert ended["progress"]["succeeded"] == 2, "what is done is kept"
                assert condition(ended, "GatewayBlocked")["status"] == "False"
            await world.until("the gateway opens", lambda: _verdict(world, "open"))
            world.workers.hang.clear()
            await world.ended(held)
            assert world.workers.numbers() == [1, 2, 3, 101, 102], "what hadn't begun doesn't"
            assert [len(await world.replays_of(run)) for run in originals[3:]] == [0, 0, 0]

    play(scenario)


def test_suspend_pauses_after_what_is_in_flight(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 5)
        world.workers.hang.add(2)
        await world.create()
        await world.approve()
        await world.until("one is done", lambda: _numbers(world, 1))
        await world.patch(suspend=True)
        status = await world.phase("Running", reason="Suspended")
        assert condition(status, "Ready")["status"] == "True"
        world.workers.hang.clear()
        await world.until("the one in flight", lambda: _numbers(world, 2))
        await world.until("it is counted", lambda: _done(world, 2))
        assert world.gateways.answer(world.solution_id).verdict == "blocked"
        await world.patch(suspend=False)
        await world.phase("Finished")
        assert world.workers.numbers() == [1, 2, 3, 4, 5]

    play(scenario)


def test_drain_timeout_and_resume_beside_what_still_runs(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        other = await world.automation("slow")
        await world.ran(invoices, 3)
        world.workers.hang.add("slow")
        (slow,) = await world.store.accept([NewRun(other, {"n": "slow"})])

        async def runs() -> bool:
            return (await world.states([slow.id]))[RunState.RUNNING] == 1

        await world.until("it runs", runs)
        await world.create(drainTimeout="1s")
        await world.approve()
        stopped = await world.phase("Stopped", reason="DrainTimeout")
        assert "1 Runs of the Solution are still running after 1s" in condition(stopped, "Stalled")["message"]
        assert world.workers.numbers() == []
        await world.patch(resume=1)
        await world.phase("Finished")
        assert world.workers.numbers() == [1, 2, 3]
        world.workers.hang.clear()
        await world.until("the slow one", lambda: world.all_ended([slow.id]))

    play(scenario)


def test_past_max_block_the_gateway_opens_and_the_replay_stops(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 4)
        world.workers.hang.add(2)
        await world.create(maxBlock="3s")
        await world.approve()
        await world.phase("Running", reason="Replaying")
        held = await hold_some(world, invoices, 101)
        await world.until("the gateway opens", lambda: _verdict(world, "open"))
        stopped = await world.phase("Stopped", reason="MaxBlock")
        assert condition(stopped, "GatewayBlocked")["status"] == "False"
        world.workers.hang.clear()
        await world.until("the held one", lambda: world.all_ended(held))
        await world.patch(resume=1)
        finished = await world.phase("Finished")
        assert "RunningWithoutLock" in [each["phase"] for each in finished["history"]]
        assert sorted(world.workers.numbers()) == [1, 2, 3, 4, 101]

    play(scenario)


def test_without_block_nothing_is_held(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 3)
        world.workers.hang.add(1)
        await world.create(block=False)
        await world.approve()
        status = await world.phase("RunningWithoutLock")
        assert condition(status, "GatewayBlocked")["status"] == "False"
        assert world.gateways.answer(world.solution_id).verdict == "open"
        world.workers.hang.clear()
        await world.phase("Finished")

    play(scenario)


def test_two_over_the_same_runs_go_one_after_the_other_and_it_stays_shut(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 4)
        world.workers.hang.add(2)
        await world.create("first", parameters={"by": "first"})
        await world.approve("first")
        await world.phase("Running", "first", reason="Replaying")
        await world.create("second", parameters={"by": "second"}, autoApprove=True)
        waits = await world.phase("Approved", "second", reason="WaitsForItsTurn")
        assert "first" in condition(waits, "Ready")["message"]
        assert waits["approval"]["via"] == "autoApprove"
        opened = []
        world.gateways.on_change(lambda solution: opened.append(world.gateways.answer(solution).verdict))
        world.workers.hang.clear()
        await world.phase("Finished", "second")
        assert [given["by"] for given, _ in world.workers.ended] == ["first"] * 4 + ["second"] * 4
        assert world.workers.numbers() == [1, 2, 3, 4] * 2, "replays aren't planned a second time"
        assert "open" not in opened[:-1], "shut from one to the next"
        assert [len(await world.replays_of(run)) for run in originals] == [2, 2, 2, 2]

    play(scenario)


async def _numbers(world: World, count: int) -> bool:
    return len(world.workers.ended) >= count


async def _done(world: World, count: int) -> bool:
    return bool((await world.status()).get("progress", {}).get("done") == count)


async def _verdict(world: World, verdict: str) -> bool:
    return world.gateways.answer(world.solution_id).verdict == verdict
