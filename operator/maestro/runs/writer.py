"""Group commit: one thread writes, many callers share a transaction."""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maestro.runs.database import Database, Retry, Transaction
from maestro.runs.errors import Refused, StoreUnavailable
from maestro.runtime import metrics

BatchHandler = Callable[[Transaction, list[Any]], Sequence[Any]]
"""Treats the requests of one kind in one transaction; an answer for each, or a Refused in its place."""

BATCH_WEIGHT = 1000
"""Rows that a transaction takes on before it commits; a longer list of one caller stays whole."""
TRIES = 10
_FAILURE_SECONDS = 30.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Request:
    kind: str
    payload: Any
    weight: int
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Writer:
    """The thread that writes. While a commit waits for the disk the next requests gather, and go in one transaction.

    `counted`: the kinds of requests whose weights are items of work, for the metrics.
    """

    def __init__(
        self, database: Database, handlers: Mapping[str, BatchHandler], *, counted: Collection[str] = ()
    ) -> None:
        self._database = database
        self._counted = frozenset(counted)
        self._handlers = dict(handlers)
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closed = False
        self._failed: tuple[float, str] | None = None
        self._thread = threading.Thread(target=self._run, name="run-store-writer", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """Why accepts and reports can't be written, where the last try failed within the last half minute. A small
        write may find room on a disk that is full for all others."""
        failed = self._failed
        return None if failed is None or time.monotonic() - failed[0] > _FAILURE_SECONDS else failed[1]

    def submit(self, kind: str, payload: Any, weight: int = 1) -> asyncio.Future[Any]:
        """Hands a request over; the future gets its answer once it is durable. Must be called on a running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the run store is closed"))
            return future
        self._inbox.put(_Request(kind, payload, weight, future, loop))
        return future

    def close(self) -> None:
        """Writes what was handed over before, then ends the thread. Blocks."""
        self._closed = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch, last = self._gather()
            if batch:
                self._answer(batch, self._write(batch))
            if last:
                return

    def _gather(self) -> tuple[list[_Request], bool]:
        """At least one request, and what has come meanwhile; True when it was the last."""
        first = self._inbox.get()
        if first is None:
            return [], True
        batch, weight = [first], first.weight
        while weight < BATCH_WEIGHT:
            try:
                request = self._inbox.get_nowait()
            except queue.Empty:
                break
            if request is None:
                return batch, True
            batch.append(request)
            weight += request.weight
        return batch, False

    def _write(self, batch: list[_Request]) -> list[Any]:
        """An answer or an exception for each request."""
        try:
            return self._transact(batch)
        except StoreUnavailable as error:
            if self._items(batch) and not error.gone:
                self._failed = (time.monotonic(), str(error))
            return [error] * len(batch)
        except Exception as error:
            if len(batch) == 1:
                _log.exception("a write to the run store failed", extra={"kind": batch[0].kind})
                return [error]
            # one of them is at fault, and the others must not suffer for it
            return [self._write([request])[0] for request in batch]

    def _transact(self, batch: list[_Request]) -> list[Any]:
        for tries in range(1, TRIES + 1):
            begun = time.perf_counter()
            try:
                with self._database.write() as transaction:
                    answers = self._treat(transaction, batch)
            except Retry as race:
                if tries == TRIES:
                    raise StoreUnavailable(f"the run store is too busy: {race}") from race
                time.sleep(random.uniform(0, 0.002 * 2**tries))  # noqa: S311 - only spreads the tries
            else:
                self._observe(batch, time.perf_counter() - begun)
                return answers
        raise AssertionError("unreachable")

    def _observe(self, batch: list[_Request], seconds: float) -> None:
        metrics.COMMIT_SECONDS.observe(seconds)
        items = self._items(batch)
        if items:
            self._failed = None
            metrics.COMMIT_SIZE.observe(items)

    def _items(self, batch: list[_Request]) -> int:
        return sum(request.weight for request in batch if request.kind in self._counted)

    def _treat(self, transaction: Transaction, batch: list[_Request]) -> list[Any]:
        by_kind: dict[str, list[int]] = defaultdict(list)
        for position, request in enumerate(batch):
            by_kind[request.kind].append(position)
        answers: list[Any] = [None] * len(batch)
        for kind, positions in by_kind.items():
            treated = self._handlers[kind](transaction, [batch[position].payload for position in positions])
            for position, answer in zip(positions, treated, strict=True):
                answers[position] = answer
        return answers

    def _answer(self, batch: list[_Request], answers: list[Any]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = defaultdict(list)
        for request, answer in zip(batch, answers, strict=True):
            by_loop[request.loop].append((request.future, answer))
        for loop, settled in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle, settled)
            except RuntimeError:
                _log.debug("nobody waits for these answers any more: their loop is closed")


def _settle(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in settled:
        if future.cancelled():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def single(action: Callable[[Transaction, Any], Any]) -> BatchHandler:
    """A handler that treats requests one after the other; a Refused is the answer to its own request only."""

    def handler(transaction: Transaction, payloads: list[Any]) -> list[Any]:
        return [_refusable(action, transaction, payload) for payload in payloads]

    return handler


def _refusable(action: Callable[[Transaction, Any], Any], transaction: Transaction, payload: Any) -> Any:
    try:
        return action(transaction, payload)
    except Refused as refusal:
        return refusal
