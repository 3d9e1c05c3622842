"""Workers that take keys from a queue and reconcile them, one worker for a key at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from maestro.runtime import metrics
from maestro.runtime.tasks import run_until
from maestro.runtime.workqueue import ShutDown, WorkQueue

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Reconcile = Callable[[Key], Awaitable[float | None]]


class Controller(Generic[Key]):
    """Runs `reconcile(key)` for each key of a queue.

    What `reconcile` returns is the time in seconds until the key is looked at again; None: not before something
    happens. An exception is logged and brings the key back after its backoff.

    Parameters
    ----------
    name
        For logs and metrics.
    workers
        How many keys are worked on at the same time.
    timeout
        Seconds after which one reconcile is given up as failed.
    expected
        Exceptions that are told in one line, without a traceback: outages of what is reconciled against.
    """

    def __init__(
        self,
        name: str,
        queue: WorkQueue[Key],
        reconcile: Reconcile[Key],
        *,
        workers: int = 4,
        timeout: float = 120.0,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self.queue = queue
        self._reconcile = reconcile
        self._workers = workers
        self._timeout = timeout
        self._expected = expected
        self._seconds = metrics.RECONCILE_SECONDS.labels(controller=name)
        self._running = metrics.RECONCILES_RUNNING.labels(controller=name)
        self._ok = metrics.RECONCILES.labels(controller=name, result="ok")
        self._error = metrics.RECONCILES.labels(controller=name, result="error")

    async def run(self, stop: asyncio.Event, *, grace: float = 10.0) -> None:
        """Work until `stop` is set; what is under way then may go on for `grace` seconds."""
        try:
            await run_until(stop, *(self._work() for _ in range(self._workers)), self._shut_down(stop), grace=grace)
        finally:
            self.queue.shut_down()

    async def _shut_down(self, stop: asyncio.Event) -> None:
        # Lets idle workers end at once, and busy ones after the key they have.
        await stop.wait()
        self.queue.shut_down()

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except ShutDown:
                return
            await self._one(key)

    async def _one(self, key: Key) -> None:
        begun = time.monotonic()
        failed = True
        again: float | None = None
        self._running.inc()
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                again = await self._reconcile(key)
            failed = False
        except Exception as error:
            if limit.expired():
                log.error("%s: %s didn't end within %g s, will be tried again", self.name, key, self._timeout)
            elif isinstance(error, self._expected):
                log.warning("%s: %s failed, will be tried again: %s", self.name, key, error)
            else:
                log.exception("%s: %s failed, will be tried again", self.name, key)
        finally:
            self._running.dec()
            self._seconds.observe(time.monotonic() - begun)
            (self._error if failed else self._ok).inc()
            self.queue.done(key, failed=failed)
        if again is not None:
            self.queue.add_after(key, again)
