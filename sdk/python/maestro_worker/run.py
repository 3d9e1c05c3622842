"""What a worker's function sees of the Run it works on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from maestro_worker.errors import Canceled, Fenced

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MESSAGE_LIMIT = 16_000
"""Characters of one log line; the rest is cut off."""
LINES_LIMIT = 10_000
"""Log lines of one Run that wait to be sent; while the API is away, or slower than they come, the oldest give way."""

_current: ContextVar[Run | None] = ContextVar("maestro_run", default=None)


def current_run() -> Run | None:
    """The Run that the calling thread or task works on; None outside of one."""
    return _current.get()


def enter(run: Run) -> None:
    """Make `run` the current one of this context."""
    _current.set(run)


def plain(text: str) -> str:
    """The text as JSON can carry it: lone surrogates (from odd file names) are replaced."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Line:
    """A log line on its way."""

    level: str
    message: str
    at: datetime
    actionable: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a Run is: `done` of `total`, and a few words."""

    done: float | None = None
    total: float | None = None
    text: str | None = None


class Message:
    """What the message of a Run (or the environment of its Job) says about it.

    Parameters
    ----------
    job
        The Run's id.
    content
        The message's body; fields are read when they are asked for, as most functions ask for none.
    """

    __slots__ = ("_content", "job")

    def __init__(self, job: str, content: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.job = job
        self._content = content

    def __repr__(self) -> str:
        return f"Message(job={self.job!r})"

    def text(self, name: str) -> str | None:
        """A text field; None where it is absent or something else."""
        value = self._content.get(name)
        return value if isinstance(value, str) else None

    def time(self, name: str) -> datetime | None:
        """A timestamp; None where it is absent or something else."""
        value = self.text(name)
        try:
            return None if value is None else datetime.fromisoformat(value)
        except ValueError:
            return None

    @property
    def parameters(self) -> Mapping[str, Any] | None:
        """The Run's parameters, where the message carries them."""
        value = self._content.get("parameters")
        return value if isinstance(value, dict) else None


class Run:
    """One Run in hand. All its methods may be called from any thread or task.

    Attributes
    ----------
    id, attempt
        The Run's id, and which attempt of it this is, from 1.
    parameters
        As they were accepted, before the function's types were applied.
    automation, solution
        `<namespace>.<name>`.
    scheduled_time
        The tick that this Run belongs to; None when no Schedule made it.
    reprocessing
        Name of the Reprocessing that replays this Run; None otherwise.
    timeout
        Seconds that this attempt may take.
    """

    __slots__ = (
        "_canceled",
        "_dirty",
        "_fenced",
        "_lines",
        "_lost_lines",
        "_message",
        "_progress",
        "_touch",
        "attempt",
        "parameters",
        "timeout",
    )

    def __init__(
        self,
        message: Message,
        *,
        attempt: int,
        parameters: Mapping[str, Any],
        timeout: float | None = None,
        touch: Callable[[Run], None] | None = None,
    ) -> None:
        self._message = message
        self._touch = touch
        self._lines: deque[Line] = deque(maxlen=LINES_LIMIT)
        self._lost_lines = 0
        self._dirty = False
        self._progress: Progress | None = None
        self._canceled = False
        self._fenced = False
        self.attempt = attempt
        self.parameters = parameters
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"Run(id={self.id!r}, attempt={self.attempt})"

    @property
    def id(self) -> str:
        return self._message.job

    @property
    def automation(self) -> str | None:
        return self._message.text("automation_id")

    @property
    def solution(self) -> str | None:
        return self._message.text("solution")

    @property
    def script_path(self) -> str | None:
        return self._message.text("script_path")

    @property
    def scheduled_time(self) -> datetime | None:
        return self._message.time("scheduled_time")

    @property
    def reprocessing(self) -> str | None:
        return self._message.text("reprocessing")

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context of whoever submitted the Run."""
        return self._message.text("traceparent")

    @property
    def cancelled(self) -> bool:
        """True once the Run is to be given up: a cancel, its timeout, or a worker that has to stop."""
        return self._canceled or self._fenced

    def progress(self, done: float | None = None, total: float | None = None, text: str | None = None) -> None:
        """Say how far the Run is; also the point where a cancellation takes effect.

        Cheap and never blocks: call it as often as you like, the latest is sent.

        Raises
        ------
        Canceled
            The Run is to be given up (Fenced: another worker has it by now).
        """
        self._progress = Progress(done, total, None if text is None else plain(text)[:MESSAGE_LIMIT])
        self._touched()
        self.check()

    def check(self) -> None:
        """Raise Canceled if the Run is to be given up."""
        if self._fenced:
            raise Fenced(f"Run {self.id} was given to another worker")
        if self._canceled:
            raise Canceled(f"Run {self.id} is to be given up")

    def log(self, message: str, level: str = "INFO", *, actionable: bool = False) -> None:
        """Add a line to the Run's log.

        Parameters
        ----------
        level
            DEBUG, INFO, WARNING, ERROR or CRITICAL.
        actionable
            A person should look at it.
        """
        if level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
        self.add_line(Line(level, plain(message)[:MESSAGE_LIMIT], datetime.now(UTC), actionable))

    def add_line(self, line: Line) -> None:
        """Add a line that a logging handler has made."""
        if len(self._lines) == LINES_LIMIT:
            self._lost_lines += 1  # a deque at its maxlen drops the oldest
        self._lines.append(line)
        self._touched()

    # -- for the engine ----------------------------------------------------------------------------------------------

    def take_lines(self) -> list[Line]:
        """The lines that wait to be sent, in order; they are the caller's from now on."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if self._lost_lines and lines:
            note = f"{self._lost_lines} older lines were dropped: they came faster than Maestro took them"
            lines.insert(0, Line("WARNING", note, lines[0].at))
            self._lost_lines = 0
        return lines

    def take_progress(self) -> Progress | None:
        """The latest progress if it waits to be sent; it is the caller's from now on."""
        progress, self._progress = self._progress, None
        return progress

    @property
    def has_news(self) -> bool:
        """Lines or progress wait to be taken."""
        return self._dirty

    def taken(self) -> None:
        """Say that lines and progress are about to be taken: the next ones are worth a new `touch`."""
        self._dirty = False

    def cancel(self) -> None:
        """Ask the function to give up."""
        self._canceled = True

    def fence(self) -> None:
        """Note that the attempt is another worker's."""
        self._fenced = True

    @property
    def fenced(self) -> bool:
        return self._fenced

    def _touched(self) -> None:
        if self._touch is not None and not self._dirty:
            self._dirty = True
            self._touch(self)
