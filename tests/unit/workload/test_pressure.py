"""Requests under way: more while they go well, fewer when they are pushed back."""

from __future__ import annotations

import asyncio

from maestro.workload.pressure import Pressure


def test_it_grows_and_gives_way() -> None:
    pressure = Pressure(initial=4, most=8)
    for _ in range(4):
        pressure.eased()
    assert pressure.limit == 8
    pressure.eased()
    assert pressure.limit == 8
    pressure.pushed_back()
    assert pressure.limit == 4
    for _ in range(4):
        pressure.eased()
    assert pressure.limit == 4, "slowly now"
    for _ in range(10):
        pressure.pushed_back()
    assert pressure.limit == 1


def test_no_more_than_the_limit_at_a_time() -> None:
    async def scenario() -> None:
        pressure, under_way, most = Pressure(initial=3, most=3), 0, 0

        async def one() -> None:
            nonlocal under_way, most
            async with pressure:
                under_way += 1
                most = max(most, under_way)
                try:
                    await asyncio.sleep(0)
                finally:
                    under_way -= 1

        given_up = [asyncio.create_task(one()) for _ in range(5)]
        done = asyncio.gather(*(one() for _ in range(50)))
        await asyncio.sleep(0)
        for task in given_up[2:]:
            task.cancel()
        await done
        assert most == 3
        assert under_way == 0

    asyncio.run(scenario())
