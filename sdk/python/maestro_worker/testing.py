"""A Run without broker and cluster, for plain tests of workers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from maestro_worker.run import Line, Message, Progress, Run


class FakeRun(Run):
    """Records what a worker's function says about its Run.

    >>> from maestro_worker import worker
    >>> @worker
    ... def count(run, n: int):
    ...     for i in range(n):
    ...         run.progress(i + 1, n)
    >>> fake = FakeRun()
    >>> count.run(fake, n=2)
    >>> [p.done for p in fake.reports]
    [1, 2]

    Parameters
    ----------
    canceled
        The Run is canceled already: the first `progress` raises Canceled. `cancel()` does it later.

    Attributes
    ----------
    reports
        Every call of `progress`.
    lines
        Every log line.
    """

    __slots__ = ("lines", "reports")

    def __init__(
        self,
        *,
        id: str | None = None,
        attempt: int = 1,
        scheduled_time: datetime | None = None,
        reprocessing: str | None = None,
        canceled: bool = False,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        content = {
            "automation_id": "test.automation",
            "solution": "test.test",
            "scheduled_time": None if scheduled_time is None else scheduled_time.isoformat(),
            "reprocessing": reprocessing,
        }
        message = Message(id or str(uuid.uuid4()), content)
        super().__init__(message, attempt=attempt, parameters=parameters or {}, touch=FakeRun._record)
        self.reports: list[Progress] = []
        self.lines: list[Line] = []
        if canceled:
            self.cancel()

    @property
    def messages(self) -> list[str]:
        """The text of every log line."""
        return [line.message for line in self.lines]

    def _record(self: Run) -> None:
        assert isinstance(self, FakeRun)
        self.taken()
        self.lines.extend(self.take_lines())
        progress = self.take_progress()
        if progress is not None:
            self.reports.append(progress)
