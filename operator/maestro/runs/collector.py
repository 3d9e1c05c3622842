"""The leader's collecting of dead letters: from their queue into the store, acknowledged once they are durable."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from maestro.runs.deadletters import DeadLetters
from maestro.runs.errors import StaleEpoch, StoreUnavailable
from maestro.runs.letters import Arrived, read
from maestro.runs.model import Leadership
from maestro.runtime.backoff import Backoff
from maestro.runtime.tasks import run_until

log = logging.getLogger(__name__)

BATCH = 100
_LEADERSHIP_POLL = 0.1


class Source(Protocol):
    """Where dead letters come from; see `maestro.broker.consumer.Consumer`."""

    def listen(self, receive: Callable[[Arrived], object]) -> None:
        """Whatever comes goes to `receive`, in any thread."""

    def settle(self, connection: int, tags: Sequence[int]) -> None:
        """What is acknowledged doesn't come again."""


class DeadLetterCollector:
    """Records what the source brings while this process leads; `run` it once.

    A broker that is away brings nothing, and what wasn't acknowledged again later; a store that is away is tried until
    it works: the source holds the rest back meanwhile.

    Parameters
    ----------
    leadership
        Whose epoch the writes carry; None: not won yet.
    """

    def __init__(
        self,
        letters: DeadLetters,
        source: Source,
        leadership: Callable[[], Leadership | None],
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self._letters = letters
        self._source = source
        self._leadership = leadership
        self._backoff = backoff or Backoff(initial=0.2, maximum=15.0)
        self._arrived: deque[Arrived] = deque()
        self._some = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        source.listen(self._hear)

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop` is set. Raises StaleEpoch: another leader has taken the store."""
        self._loop = asyncio.get_running_loop()
        if self._arrived:
            self._some.set()
        try:
            await run_until(stop, self._collect())
        finally:
            self._loop = None

    def _hear(self, arrived: Arrived) -> None:
        self._arrived.append(arrived)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._some.set)

    async def _collect(self) -> None:
        while True:
            await self._some.wait()
            leadership = self._leadership()
            if leadership is None:
                await asyncio.sleep(_LEADERSHIP_POLL)
                continue
            self._some.clear()
            while self._arrived:
                batch = [self._arrived.popleft() for _ in range(min(BATCH, len(self._arrived)))]
                await self._record(batch, leadership)

    async def _record(self, batch: list[Arrived], leadership: Leadership) -> None:
        letters = [read(arrived) for arrived in batch]
        failures = 0
        while True:
            try:
                await self._letters.record(letters, epoch=leadership.epoch, store_id=leadership.store_id)
            except StoreUnavailable as error:
                failures += 1
                log.warning("dead letters wait: the run store is away: %s", error)
                await asyncio.sleep(self._backoff.delay(failures))
            except StaleEpoch:
                raise
            except Exception:
                await self._one_by_one(batch, leadership)
                return
            else:
                self._settle(batch)
                return

    async def _one_by_one(self, batch: list[Arrived], leadership: Leadership) -> None:
        """One of them can't be recorded: it stays in the broker, the others don't."""
        if len(batch) > 1:
            for arrived in batch:
                await self._record([arrived], leadership)
        else:
            log.exception("a dead letter can't be recorded and stays in its queue")

    def _settle(self, batch: Sequence[Arrived]) -> None:
        tags: dict[int, list[int]] = defaultdict(list)
        for arrived in batch:
            tags[arrived.connection].append(arrived.tag)
        for connection, of_connection in tags.items():
            self._source.settle(connection, of_connection)
