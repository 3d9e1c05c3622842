"""A bounded cache whose entries expire, and that asks once for many who want the same thing at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """Remembers what a slow question answered; the least recently used entry goes when it is full.

    Parameters
    ----------
    size
        Most entries.
    seconds
        How long an answer holds, as a function of the answer.
    stale_seconds
        How much longer an expired answer still serves when asking again fails with one of `stale_on`.
    """

    def __init__(
        self,
        size: int,
        seconds: Callable[[V], float],
        *,
        stale_seconds: float = 0.0,
        stale_on: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._stale_seconds = stale_seconds
        self._stale_on = stale_on
        self._clock = clock
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The remembered answer, else that of `ask`, whose errors are not remembered."""
        entry = self._entries.get(key)
        now = self._clock()
        if entry is not None and entry[0] > now:
            self._entries.move_to_end(key)
            return entry[1]
        try:
            return await self._once(key, ask)
        except self._stale_on:
            if entry is not None and entry[0] + self._stale_seconds > now:
                return entry[1]
            raise

    async def _once(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        task = self._asking.get(key)
        if task is None:
            task = asyncio.ensure_future(self._ask(key, ask))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        # Shielded: a caller that goes away must not cancel the answer of the others.
        return await asyncio.shield(task)

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        value = await ask()
        self._entries[key] = (self._clock() + self._seconds(value), value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return value
