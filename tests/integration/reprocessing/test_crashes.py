"""The controller ends between any two of its writes, broker and API server are restarted: order kept, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.integration.reprocessing.conftest import Play
from tests.integration.reprocessing.world import World

from maestro.kube.errors import KubeError
from maestro.kube.kinds import REPROCESSING
from maestro.runs.model import NewRun, RunState

SHUTS = ("Approved", "Running", "Stopped")
OPENS = ("Finished", "Skipped", "Failure", "Canceled")


LAGS, SHUT_LAGS = 200, 20
"""Looks, 50 ms apart, in which an answer must have followed; the second: that the gateway is shut."""


class Prober:
    """Asks the gateway all the time, and what the phase is before and after: between two equal ones it must fit."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self.wrong: list[tuple[str, str]] = []
        self.answers: list[str] = []

    async def run(self) -> None:
        while True:
            before = await self._phase()
            answer = self._world.gateways.answer(self._world.solution_id).verdict
            after = await self._phase()
            self.answers.append(answer)
            if before == after and before is not None and not await self._fits(before):
                self.wrong.append((before, answer))

    async def _fits(self, phase: str) -> bool:
        """Whether the answer is that of the phase. It rests on a watch of its own, which may be a moment behind what
        the API server says, longer where that was restarted."""
        fits = {"blocked"} if phase in SHUTS else {"open"} if phase in OPENS else {"open", "blocked"}
        for _ in range(SHUT_LAGS if phase in SHUTS else LAGS):
            if self._world.gateways.answer(self._world.solution_id).verdict in fits or await self._phase() != phase:
                return True
            await asyncio.sleep(0.05)
        return False

    async def _phase(self) -> str | None:
        try:
            found: str | None = (await self._world.status(self._name)).get("phase")
        except KubeError:
            return None
        return found


@contextlib.asynccontextmanager
async def probing(world: World, name: str = "fix") -> AsyncIterator[Prober]:
    prober = Prober(world, name)
    task = asyncio.create_task(prober.run())
    try:
        yield prober
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert prober.wrong == []
    assert "blocked" in prober.answers


def test_killed_before_each_of_its_writes(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation(writes=["stock/$(params.list)"])
        readers = await world.automation("reports", reads=["stock/$(params.list)"])
        world.start()
        originals = await world.ran(invoices, 3, list="a")
        originals += await world.ran(readers, 1, first=9, list="a")
        await world.stop()
        points = 0
        killed = True
        while killed:
            name = f"fix-{points}"
            world.workers.ended.clear()
            world.kill_at = points
            await world.create(name, reason=name)
            world.start()
            killed = False
            approving = asyncio.create_task(world.approve(name))
            while (phase := (await world.status(name)).get("phase")) != "Finished":
                if await world.killed():
                    killed, world.kill_at = True, None
                    world.start()
                assert phase not in ("Stopped", *OPENS)
                await asyncio.sleep(0.02)
            await approving
            await world.stop()
            world.kill_at = None
            assert world.workers.numbers() == [1, 2, 3, 9], f"killed before write {points}"
            points += 1
            for run in originals:
                assert len(await world.replays_of(run)) == points, f"killed before write {points - 1}"
        assert points > 15, "so many writes it has at least"

    play(scenario, start=False, timeout=280)


def test_broker_and_api_server_are_restarted_meanwhile(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 24)
        world.workers.seconds = 0.05
        await world.create()
        await world.phase("PendingApproval")
        async with probing(world):
            await world.approve()
            await world.until("some are done", lambda: _ended(world, 4))
            held = [each.id for each in await world.store.accept([NewRun(invoices, {"n": n}) for n in (101, 102)])]
            await asyncio.to_thread(world.rabbitmq.restart)
            await world.until("it goes on", lambda: _ended(world, 9))
            await asyncio.to_thread(world.apiserver.restart)
            await world.until("it goes on", lambda: _ended(world, 16))
            await world.kill()
            world.start()
            await world.phase("Finished")
            await world.until("the held ones", lambda: world.all_ended(held))
        assert world.workers.numbers() == [*range(1, 25), 101, 102]
        assert [len(await world.replays_of(run)) for run in originals] == [1] * 24

    play(scenario, timeout=280)


def test_a_controller_that_is_away_neither_opens_nor_keeps_the_gateway(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 3)
        await world.create()
        world.workers.hang.add(2)
        await world.approve()
        await world.phase("Running", reason="Replaying")
        (held,) = await world.store.accept([NewRun(invoices, {"n": 101})])
        await world.until("it is held", lambda: _held(world, held.id))
        await world.kill()
        world.workers.hang.clear()
        assert world.gateways.answer(world.solution_id).verdict == "blocked"
        await world.patch(cancel=True)
        await world.until("a cancel opens it", lambda: _open(world))
        assert (await world.status())["phase"] == "Running", "nobody was there to say so"
        world.start()
        await world.phase("Canceled")
        await world.until("the held one", lambda: world.all_ended([held.id]))

    play(scenario)


def test_a_deletion_that_nobody_saw(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 4)
        await world.create()
        world.workers.hang.add(2)
        await world.approve()
        await world.until("one is done", lambda: _ended(world, 1))
        (held,) = await world.store.accept([NewRun(invoices, {"n": 101})])
        await world.until("it is held", lambda: _held(world, held.id))
        await world.kill()
        await world.kube.delete(REPROCESSING, world.namespace, "fix")
        world.workers.hang.clear()
        world.start()
        await world.until("the held one", lambda: world.all_ended([held.id]))
        assert [len(await world.replays_of(run)) for run in originals] == [1, 1, 0, 0]
        await world.create("next")
        await world.approve("next")
        await world.phase("Finished", "next")

    play(scenario)


def test_a_store_that_was_restored_is_noticed(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 6)
        await world.create()
        world.workers.hang.add(4)
        await world.approve()
        await world.until("three are counted", lambda: _done(world, 3))
        await world.patch(suspend=True)
        world.workers.hang.clear()
        await world.until("the fourth is counted", lambda: _done(world, 4))
        await world.stop()
        # As a backup from before the third would have it.
        await world.store.write(_forget_two)
        await world.patch(suspend=False)
        world.start()
        stopped = await world.phase("Stopped", reason="StoreRestored")
        assert stopped["progress"]["succeeded"] == 2
        assert world.gateways.answer(world.solution_id).verdict == "blocked"
        assert world.workers.numbers() == [1, 2, 3, 4]
        await world.patch(resume=1)
        await world.phase("Finished")
        assert world.workers.numbers() == [1, 2, 3, 4, 3, 4, 5, 6]

    play(scenario)


def _forget_two(transaction: object) -> None:
    from maestro.runs.database import Sql

    run = transaction.run  # type: ignore[attr-defined]
    run(
        Sql(
            "UPDATE replay_item SET state = 0, new_seq = NULL WHERE (at, run_id) IN "
            "(SELECT at, run_id FROM replay_item WHERE state = 2 ORDER BY at DESC LIMIT 2)"
        )
    )
    run(Sql("UPDATE replay SET succeeded = succeeded - 2"))


async def _ended(world: World, count: int) -> bool:
    return len(world.workers.ended) >= count


async def _done(world: World, count: int) -> bool:
    return bool((await world.status()).get("progress", {}).get("done", 0) >= count)


async def _held(world: World, run: object) -> bool:
    return (await world.states([run]))[RunState.HELD] == 1  # type: ignore[list-item]


async def _open(world: World) -> bool:
    return world.gateways.answer(world.solution_id).verdict == "open"
