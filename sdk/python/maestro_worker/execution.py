"""Where functions run: threads for sync ones, tasks of one event loop for async ones."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections import deque
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
        """Work on `runs`, in their order, and never on more at a time than the concurrency it was made for."""

    def first_waiting(self) -> Run | None:
        """The next Run to be begun; None when all that were submitted have begun."""

    def take_back(self) -> list[Run]:
        """Every Run that hasn't begun; they are not worked on any more."""


def executor(worker: Worker[Any, Any], concurrency: int, ended: Ended) -> Executor:
    """The executor that fits the worker's function."""
    kind = LoopExecutor if worker.is_async else ThreadExecutor
    return kind(worker, concurrency, ended)


class _Waiting:
    """Runs that wait for a free function; deques may be used from both ends by any thread."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()

    def first_waiting(self) -> Run | None:
        try:
            return self._runs[0]
        except IndexError:
            return None

    def take_back(self) -> list[Run]:
        taken: list[Run] = []
        while (run := self._next()) is not None:
            taken.append(run)
        return taken

    def _next(self) -> Run | None:
        try:
            return self._runs.popleft()
        except IndexError:
            return None


class ThreadExecutor(_Waiting):
    """Threads, started as needed; daemons, so that a function that can't be stopped doesn't hold up the exit."""

    def __init__(self, worker: Worker[Any, Any], concurrency: int, ended: Ended) -> None:
        super().__init__()
        self._worker = worker
        self._concurrency = concurrency
        self._ended = ended
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each Run that was submitted
        self._threads = 0
        self._busy = 0
        self._lock = threading.Lock()

    def submit(self, runs: Sequence[Run]) -> None:
        with self._lock:
            self._busy += len(runs)
            missing = max(min(self._busy, self._concurrency) - self._threads, 0)
            self._threads += missing
        self._runs.extend(runs)
        for _ in runs:
            self._calls.put(None)
        for _ in range(missing):
            threading.Thread(target=self._work, name=f"maestro-{self._worker.name}", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._calls.get()
            run = self._next()
            ended = None if run is None else contextvars.Context().run(self._call, run)
            with self._lock:
                self._busy -= 1
            if run is not None and ended is not None:
                self._ended(run, ended)

    def _call(self, run: Run) -> Outcome:
        try:
            return outcome.of_value(self._worker.call(run, run.parameters))
        except BaseException as error:  # whatever it is, it is this Run's end, not the thread's
            return outcome.of_error(error)


class LoopExecutor(_Waiting):
    """One event loop in a thread of its own; each Run is a task."""

    def __init__(self, worker: Worker[Any, Any], concurrency: int, ended: Ended) -> None:
        super().__init__()
        self._worker = worker
        self._concurrency = concurrency
        self._ended = ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="maestro-loop", daemon=True).start()

    def submit(self, runs: Sequence[Run]) -> None:
        self._runs.extend(runs)
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        while len(self._tasks) < self._concurrency and (run := self._next()) is not None:
            task = self._loop.create_task(self._work(run), context=contextvars.Context())
            self._tasks.add(task)  # the loop itself keeps only a weak reference
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._begin()

    async def _work(self, run: Run) -> None:
        try:
            ended = outcome.of_value(await self._worker.call_async(run, run.parameters))
        except BaseException as error:  # whatever it is, it is this Run's end, not the loop's
            ended = outcome.of_error(error)
        self._ended(run, ended)
