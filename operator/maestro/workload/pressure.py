"""How much the API server is asked at a time: as much as it takes, and less as soon as it says 429."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Pressure:
    """A gate for requests of one kind. Each that goes well lets one more through until the first is pushed back, which
    lets half through; from then on it takes a whole round for one more.

    Parameters
    ----------
    initial, most
        Requests under way at first, and at most.
    """

    def __init__(self, *, initial: int = 32, most: int = 128) -> None:
        self._limit = float(initial)
        self._most = most
        self._steep = True
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many may be under way now."""
        return int(self._limit)

    def eased(self) -> None:
        """A request went well."""
        self._limit = min(self._limit + (1.0 if self._steep else 1 / self._limit), self._most)

    def pushed_back(self) -> None:
        """The API server wants less (priority and fairness)."""
        self._steep = False
        self._limit = max(self._limit / 2, 1.0)

    async def __aenter__(self) -> None:
        while self._under_way >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        self._under_way += 1
        self._next()

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._under_way -= 1
        self._next()

    def _next(self) -> None:
        if self._under_way >= self.limit:
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
