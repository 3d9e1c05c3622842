"""Where functions run: threads for sync ones, tasks of one event loop for async ones."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from maestro_worker import outcome
from maestro_worker.outcome import Outcome
from maestro_worker.run import Run
from maestro_worker.worker import Worker

Ended = Callable[[Run, Outcome], object]


class Executor(Protocol):
    """Runs the worker's function; `ended` is told in whatever thread it ends."""

    def submit(self, runs: Sequence[Run]) -> None:
        """Begin work on `runs`. Never more at a time than the concurrency it was made for."""


def executor(worker: Worker[Any, Any], concurrency: int, ended: Ended) -> Executor:
    """The executor that fits the worker's function."""
    return LoopExecutor(worker, ended) if worker.is_async else ThreadExecutor(worker, concurrency, ended)


class ThreadExecutor:
    """Threads, started as needed; daemons, so that a function that can't be stopped doesn't hold up the exit."""

    def __init__(self, worker: Worker[Any, Any], concurrency: int, ended: Ended) -> None:
        self._worker = worker
        self._concurrency = concurrency
        self._ended = ended
        self._runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._lock = threading.Lock()

    def submit(self, runs: Sequence[Run]) -> None:
        with self._lock:
            self._busy += len(runs)
            missing = min(self._busy, self._concurrency) - self._threads
            self._threads += max(missing, 0)
        for run in runs:
            self._runs.put(run)
        for _ in range(missing):
            threading.Thread(target=self._work, name=f"maestro-{self._worker.name}", daemon=True).start()

    def _work(self) -> None:
        while True:
            run = self._runs.get()
            ended = contextvars.Context().run(self._call, run)
            with self._lock:
                self._busy -= 1
            self._ended(run, ended)

    def _call(self, run: Run) -> Outcome:
        try:
            return outcome.of_value(self._worker.call(run, run.parameters))
        except BaseException as error:  # whatever it is, it is this Run's end, not the thread's
            return outcome.of_error(error)


class LoopExecutor:
    """One event loop in a thread of its own; each Run is a task."""

    def __init__(self, worker: Worker[Any, Any], ended: Ended) -> None:
        self._worker = worker
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="maestro-loop", daemon=True).start()

    def submit(self, runs: Sequence[Run]) -> None:
        self._loop.call_soon_threadsafe(self._begin, runs)

    def _begin(self, runs: Sequence[Run]) -> None:
        for run in runs:
            task = self._loop.create_task(self._work(run), context=contextvars.Context())
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._tasks.discard)

    async def _work(self, run: Run) -> None:
        try:
            ended = outcome.of_value(await self._worker.call_async(run, run.parameters))
        except BaseException as error:  # whatever it is, it is this Run's end, not the loop's
            ended = outcome.of_error(error)
        self._ended(run, ended)
