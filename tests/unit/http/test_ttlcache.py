"""The cache of answers: expiry, bounds, one question for many askers, old answers in need."""

from __future__ import annotations

import asyncio

import pytest

from maestro.http.ttlcache import TtlCache


class AwayError(Exception):
    pass


class Source:
    """Answers `key.upper()`, counts how often, and can be away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def answer(self, key: str) -> str:
        self.asked.append(key)
        await asyncio.sleep(0)
        if self.away:
            raise AwayError
        return key.upper()


@pytest.fixture
def source() -> Source:
    return Source()


def test_an_answer_holds_until_its_time_is_over(source: Source) -> None:
    async def run() -> None:
        cache: TtlCache[str, str] = TtlCache(10, lambda _: 5.0, clock=source.clock)
        assert await cache.get("a", lambda: source.answer("a")) == "A"
        source.now = 4.9
        assert await cache.get("a", lambda: source.answer("a")) == "A"
        source.now = 5.0
        assert await cache.get("a", lambda: source.answer("a")) == "A"
        assert source.asked == ["a", "a"]

    asyncio.run(run())


def test_the_least_recently_used_answer_goes_first(source: Source) -> None:
    async def run() -> None:
        cache: TtlCache[str, str] = TtlCache(2, lambda _: 5.0, clock=source.clock)
        for key in ("a", "b", "a", "c", "a", "b"):
            await cache.get(key, lambda key=key: source.answer(key))  # type: ignore[misc]
        assert source.asked == ["a", "b", "c", "b"]
        assert len(cache) == 2

    asyncio.run(run())


def test_many_askers_cause_one_question_and_one_that_leaves_does_not_cancel_it(source: Source) -> None:
    async def run() -> None:
        cache: TtlCache[str, str] = TtlCache(2, lambda _: 5.0, clock=source.clock)
        askers = [asyncio.ensure_future(cache.get("a", lambda: source.answer("a"))) for _ in range(10)]
        await asyncio.sleep(0)
        askers[0].cancel()
        answers = await asyncio.gather(*askers, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == ["A"] * 9
        assert source.asked == ["a"]

    asyncio.run(run())


def test_a_failure_is_not_remembered(source: Source) -> None:
    async def run() -> None:
        cache: TtlCache[str, str] = TtlCache(2, lambda _: 5.0, clock=source.clock)
        source.away = True
        for _ in range(2):
            with pytest.raises(AwayError):
                await cache.get("a", lambda: source.answer("a"))
        source.away = False
        assert await cache.get("a", lambda: source.answer("a")) == "A"
        assert source.asked == ["a", "a", "a"]

    asyncio.run(run())


def test_an_old_answer_serves_for_a_while_when_nobody_can_be_asked(source: Source) -> None:
    async def run() -> None:
        cache: TtlCache[str, str] = TtlCache(
            2, lambda _: 5.0, stale_seconds=60, stale_on=(AwayError,), clock=source.clock
        )
        await cache.get("a", lambda: source.answer("a"))
        source.away = True
        source.now = 64.9
        assert await cache.get("a", lambda: source.answer("a")) == "A"
        source.now = 65.0
        with pytest.raises(AwayError):
            await cache.get("a", lambda: source.answer("a"))

    asyncio.run(run())
