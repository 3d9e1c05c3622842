"""A run store with a clock of the test's own, and short words for what a test does to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from maestro.runs.model import Accepted, Claimed, Due, NewRun, Registration, RunPolicy, RunState, RunView, Unpublished
from maestro.runs.reports import Report, ReportAnswer, ReportLine
from maestro.runs.store import RunStore

T = TypeVar("T")
WORKER = "pod-1/process-1"
OTHER = "pod-2/process-1"
_numbers = itertools.count(1)


class World:
    """Everything a test needs of one store. Each `automation` is new, so that tests may share a store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = datetime(2030, 1, 1, tzinfo=UTC)
        self.loop = asyncio.new_event_loop()
        self.store = self.open()
        self.epoch = self.do(self.store.win_leadership()).epoch
        self.solution = ""

    def open(self) -> RunStore:
        """Another process' view of the same database."""
        return RunStore.open(self.url, clock=lambda: self.now)

    def close(self) -> None:
        self.do(self.store.close())
        self.loop.close()

    def do(self, awaitable: Awaitable[T]) -> T:
        async def run() -> T:
            return await awaitable

        return self.loop.run_until_complete(run())

    def together(self, *awaitables: Awaitable[Any]) -> list[Any]:
        """All at once; exceptions are among the answers."""

        async def run() -> list[Any]:
            return await asyncio.gather(*awaitables, return_exceptions=True)

        return self.loop.run_until_complete(run())

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- Automations and Runs --------------------------------------------------------------------------------------

    def registration(self, *, launch: str = "Queue", **policy: Any) -> Registration:
        number = next(_numbers)
        return Registration(
            uid=f"uid-{number}",
            namespace="team",
            name=f"robot-{number}",
            solution=f"solution-{number}",
            launch=launch,  # type: ignore[arg-type]
            queue=f"maestro.team.robot-{number}",
            policy=RunPolicy(**{"pause_after_failures": 0, **policy}),
        )

    def automation(self, **policy: Any) -> int:
        registration = self.registration(**policy)
        self.solution = registration.solution_id
        return self.do(self.store.register(registration))

    def accept(self, automation: int, n: int = 1, **more: Any) -> list[UUID]:
        return [accepted.id for accepted in self.accept_all([NewRun(automation, **more) for _ in range(n)])]

    def accept_all(self, runs: list[NewRun]) -> list[Accepted]:
        return self.do(self.store.accept(runs))

    def claim(self, automation: int, limit: int = 100, **more: Any) -> list[Claimed]:
        return self.do(self.store.claim(self.epoch, automation, limit, **more))

    def running(self, automation: int, **more: Any) -> UUID:
        """A Run that WORKER holds."""
        (run,) = self.accept(automation, **more)
        self.claim(automation)
        assert self.start(run).status == 200
        return run

    # -- what workers do ---------------------------------------------------------------------------------------------

    def report(self, op: str, run: UUID, worker: str = WORKER, **more: Any) -> ReportAnswer:
        return self.do(self.store.reports([Report(op, run, worker=worker, **more)]))[0]  # type: ignore[arg-type]

    def start(self, run: UUID, worker: str = WORKER, **more: Any) -> ReportAnswer:
        return self.report("start", run, worker, **more)

    def finish(self, run: UUID, status: str = "completed", attempt: int | None = 1, **more: Any) -> ReportAnswer:
        return self.report("finish", run, status=status, attempt=attempt, **more)

    def heartbeat(self, run: UUID, worker: str = WORKER, attempt: int | None = 1, **more: Any) -> ReportAnswer:
        return self.report("progress", run, worker, attempt=attempt, **more)

    def log(self, run: UUID, *messages: str, attempt: int = 1) -> ReportAnswer:
        lines = tuple(ReportLine("INFO", message) for message in messages)
        return self.report("log", run, attempt=attempt, lines=lines)

    def finish_all(self, automation: int, worker: str = WORKER) -> None:
        """Starts and finishes whatever is Queued."""
        for queued in self.do(self.store.queued_runs(automation, 1000)):
            run = next(claimed.id for claimed in self._queued(automation) if claimed.seq == queued.seq)
            attempt = self.start(run, worker).attempt
            self.finish(run, attempt=attempt, worker=worker)

    def _queued(self, automation: int) -> list[Claimed]:
        everything = self.do(self.store.queued_after(self.epoch, 0, 1_000_000))
        return [claimed for claimed in everything if claimed.automation == automation]

    # -- the clock and the broker ------------------------------------------------------------------------------------

    def due(self) -> Due:
        return self.do(self.store.due(self.now, epoch=self.epoch))

    def unpublished(self, claimed: Claimed, reason: str = "NoQueue") -> int:
        return self.do(self.store.unpublished(self.epoch, [Unpublished(claimed.seq, claimed.pub, reason)]))

    # -- looking -----------------------------------------------------------------------------------------------------

    def get(self, run: UUID) -> RunView:
        view = self.do(self.store.get(run))
        assert view is not None
        return view

    def state(self, run: UUID) -> RunState:
        return self.get(run).state

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Straight from the tables, past the store."""
        with self.store._database.readers.connect() as connection:
            import sqlalchemy as sa

            return [tuple(row) for row in connection.execute(sa.text(sql), params or {})]
