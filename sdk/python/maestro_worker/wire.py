"""The items of `POST /api/v1/worker/reports`, as JSON. No I/O.

Everything here is on the way of every Run, so items are put together from bytes that are encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from maestro_worker.outcome import Outcome
from maestro_worker.run import Line, Progress

MAX_ITEMS = 1_000
MAX_BYTES = 7_500_000
"""Of one request; the API takes 8 MB."""
MAX_LINES = 500
"""Log lines in one item."""
MAX_CHARACTERS = 500_000
"""Of the lines in one item: at six bytes each, the most that JSON takes for one, they fit into a request."""

Answer = Mapping[str, Any]
"""The answer to one item: `status` (an HTTP code), and what belongs to it; see the API's documentation."""


class Reporter:
    """Writes the reports of one worker."""

    def __init__(self, worker: str) -> None:
        self._worker = b',"worker":' + to_json(worker)

    def start(
        self, job: str, *, pub: int | None = None, epoch: int | None = None, store: str | None = None, redelivered: bool
    ) -> bytes:
        """The worker has a message of this Run and would begin an attempt."""
        given = _fields({"redelivered": redelivered, "pub": pub, "epoch": epoch, "store": store})
        return b'{"op":"start","job":%b%b%b}' % (to_json(job), self._worker, given)

    def attempt(self, job: str, attempt: int) -> Attempt:
        """Writes the reports about one attempt."""
        return Attempt(b',"job":%b%b,"attempt":%d' % (to_json(job), self._worker, attempt))


class Attempt:
    """Writes the reports about one attempt of a Run."""

    __slots__ = ("_who",)

    def __init__(self, who: bytes) -> None:
        self._who = who

    def log(self, lines: Sequence[Line]) -> bytes:
        """Lines of the Run's log; also a heartbeat."""
        items = [
            {"level": line.level, "message": line.message, "at": line.at}
            | ({"actionable": True} if line.actionable else {})
            for line in lines
        ]
        return b'{"op":"log"%b,"lines":%b}' % (self._who, to_json(items))

    def progress(self, progress: Progress | None = None) -> bytes:
        """How far the Run is; without `progress` a plain heartbeat."""
        if progress is None:
            return b'{"op":"progress"%b}' % self._who
        given = {"done": progress.done, "total": progress.total, "text": progress.text}
        return b'{"op":"progress"%b%b}' % (self._who, _fields(given))

    def finish(self, outcome: Outcome) -> bytes:
        """The attempt's end."""
        result = b"" if outcome.result is None else b',"result":' + outcome.result
        if outcome.status == "completed":
            return b'{"op":"finish"%b,"status":"completed"%b}' % (self._who, result)
        given = {
            "status": outcome.status,
            "error_class": outcome.error_class,
            "kind": outcome.kind,
            "message": outcome.message,
        }
        return b'{"op":"finish"%b%b%b}' % (self._who, _fields(given), result)

    def release(self) -> bytes:
        """The worker has to stop and hands the Run back; it costs no attempt."""
        return b'{"op":"release"%b}' % self._who


def _fields(given: Mapping[str, Any]) -> bytes:
    """`,"name":value` for each field that is set."""
    encoded = to_json({name: value for name, value in given.items() if value is not None})[1:-1]
    return b"," + encoded if encoded else b""


def portions(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """Lines in portions that one item takes."""
    first = characters = 0
    for at, line in enumerate(lines):
        if at - first == MAX_LINES or (at > first and characters + len(line.message) > MAX_CHARACTERS):
            yield lines[first:at]
            first, characters = at, 0
        characters += len(line.message)
    if first < len(lines):
        yield lines[first:]


def body(items: Sequence[bytes]) -> bytes:
    """The request's body."""
    return b"[" + b",".join(items) + b"]"


def answers(body: bytes, expected: int) -> list[Answer]:
    """The answers in a response's body.

    Raises
    ------
    ValueError
        It isn't a JSON list of `expected` answers.
    """
    items = from_json(body)
    if not isinstance(items, list) or len(items) != expected:
        raise ValueError(f"expected a list of {expected} answers")
    for item in items:
        if type(item) is not dict or type(item.get("status")) is not int:
            raise ValueError("an answer has no status")
    return items
