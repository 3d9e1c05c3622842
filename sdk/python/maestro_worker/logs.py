"""The logging handler that brings log records of a Run's code into the Run's log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from maestro_worker.run import LEVELS, MESSAGE_LIMIT, Line, current_run, plain


class RunLogHandler(logging.Handler):
    """Sends records to the current Run's log; records from outside of a Run pass by.

    `main()` puts one on the root logger. The current Run belongs to the thread or task that the function runs in, and
    to the tasks it starts; a thread that the function starts inherits it by `contextvars.copy_context().run`.
    `extra={"actionable": True}` marks a line that a person should look at.
    """

    def emit(self, record: logging.LogRecord) -> None:
        run = current_run()
        if run is None:
            return
        try:
            message = plain(self.format(record))[:MESSAGE_LIMIT]
            at = datetime.fromtimestamp(record.created, UTC)
            run.add_line(Line(_level(record.levelno), message, at, bool(getattr(record, "actionable", False))))
        except Exception:
            self.handleError(record)


def _level(number: int) -> str:
    """The level's name of the wire: levels of one's own count as the nearest below."""
    return LEVELS[min(max(number // 10 - 1, 0), len(LEVELS) - 1)]
