"""A queue of keys: each waits once, is worked on by one worker at a time, and comes back later when that failed."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Monotonic

Key = TypeVar("Key", bound=Hashable)


class ShutDown(Exception):  # noqa: N818 - it isn't an error: the queue was told to end
    """The queue was shut down, and nothing comes any more."""


class WorkQueue(Generic[Key]):
    """Keys to be worked on. For one event loop: other threads go through `loop.call_soon_threadsafe(queue.add, key)`.

    - A key that waits isn't added a second time.
    - A key that is being worked on and is added again runs again afterwards, never at the same time.
    - `done(key, failed=True)` brings it back after its own, growing delay; a success forgets the failures.
    - Of several delays for one key the earliest counts, and an `add` overtakes them all.
    """

    def __init__(
        self, name: str = "queue", *, backoff: Backoff | None = None, clock: Monotonic = time.monotonic
    ) -> None:
        self.name = name
        self._backoff = backoff or Backoff(initial=0.5, maximum=300.0)
        self._clock = clock
        self._ready: deque[Key] = deque()
        self._since: dict[Key, float] = {}
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._failures: dict[Key, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._down = False
        self._depth = metrics.QUEUE_DEPTH.labels(queue=name)
        self._delayed = metrics.QUEUE_DELAYED.labels(queue=name)
        self._adds = metrics.QUEUE_ADDS.labels(queue=name)
        self._retries = metrics.QUEUE_RETRIES.labels(queue=name)
        self._wait = metrics.QUEUE_SECONDS.labels(queue=name)

    def __len__(self) -> int:
        """How many keys are ready and wait for a worker."""
        return len(self._ready)

    def failures(self, key: Key) -> int:
        """How often in a row the key has failed."""
        return self._failures.get(key, 0)

    def add(self, key: Key) -> None:
        """Put a key on the queue; it waits at most once."""
        if self._down:
            return
        self._adds.inc()
        self._forget_delay(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._since:
            self._since[key] = self._clock()
            self._ready.append(key)
            self._depth.set(len(self._ready))
            self._wake()

    def add_after(self, key: Key, seconds: float) -> None:
        """Put a key on the queue in so many seconds, unless it is due earlier anyway."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock() + seconds
        if self._down or key in self._since or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._delayed.set(len(self._due))
        self._arm()

    async def get(self) -> Key:
        """The next key, waiting for one; `done` must be called for it.

        Raises
        ------
        ShutDown
            The queue was shut down and is empty.
        """
        while True:
            self._release_due()
            if self._ready:
                key = self._ready.popleft()
                self._depth.set(len(self._ready))
                self._wait.observe(max(0.0, self._clock() - self._since.pop(key)))
                self._working.add(key)
                return key
            if self._down:
                raise ShutDown
            await self._wait_for_work()

    def done(self, key: Key, *, failed: bool = False) -> None:
        """The work on a key has ended; a failure brings the key back after its backoff."""
        self._working.discard(key)
        if failed:
            self._failures[key] = self._failures.get(key, 0) + 1
            self._retries.inc()
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            # Something new was seen in the meantime, but a key that fails doesn't get to spin because of it.
            if not failed:
                self.add(key)
                return
        if failed:
            self.add_after(key, self._backoff.delay(self._failures[key]))

    def shut_down(self) -> None:
        """Take no more keys; what waits is dropped, and every waiting `get` raises `ShutDown`."""
        self._down = True
        self._ready.clear()
        self._since.clear()
        self._due.clear()
        self._heap.clear()
        self._depth.set(0)
        self._delayed.set(0)
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- waiting and delays

    async def _wait_for_work(self) -> None:
        self._arm()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # This one was woken for a key that it won't take: another must.
                self._wake()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _forget_delay(self, key: Key) -> None:
        # Its entry in the heap is skipped when its time comes.
        if self._due.pop(key, None) is not None:
            self._delayed.set(len(self._due))

    def _arm(self) -> None:
        """Have the loop wake a worker when the earliest delay is over."""
        if not self._heap:
            return
        loop = asyncio.get_running_loop()
        wait = max(0.0, self._heap[0][0] - self._clock())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._release_due()
        self._arm()

    def _release_due(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)
