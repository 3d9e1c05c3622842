"""The token bucket."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.runtime.clocks import FakeClock

from maestro.runtime.ratelimit import TokenBucket


def test_a_burst_then_the_rate() -> None:
    clock = FakeClock()
    bucket = TokenBucket(10.0, 3, clock=clock)
    assert [bucket.reserve() for _ in range(5)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])
    clock.advance(0.2)
    assert not bucket.try_take()
    clock.advance(0.1)
    assert bucket.try_take()


def test_a_pause_fills_it_up_to_the_burst_only() -> None:
    clock = FakeClock()
    bucket = TokenBucket(10.0, 2, clock=clock)
    clock.advance(3600.0)
    assert [bucket.try_take() for _ in range(3)] == [True, True, False]


def test_a_cancelled_wait_gives_its_token_back() -> None:
    clock = FakeClock()
    bucket = TokenBucket(0.001, 1, clock=clock)

    async def scenario() -> None:
        await bucket.take()
        waiting = asyncio.create_task(bucket.take())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    clock.advance(1000.0)
    assert bucket.try_take()


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_refuses_nonsense(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(rate, burst)
