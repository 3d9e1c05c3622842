"""The items of `POST /api/v1/worker/reports`, as JSON. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from maestro_worker.outcome import Outcome
from maestro_worker.run import Line, Progress

MAX_ITEMS = 1_000
MAX_BYTES = 7_500_000
"""Of one request; the API takes 8 MB."""
MAX_LINES = 500
"""Log lines in one item."""


def start(job: str, worker: str, *, pub: int | None, epoch: int | None, store: str | None, redelivered: bool) -> bytes:
    """The worker has a message of this Run and would begin an attempt."""
    item = {"op": "start", "job": job, "worker": worker, "redelivered": redelivered}
    given = {"pub": pub, "epoch": epoch, "store": store}
    return to_json(item | {key: value for key, value in given.items() if value is not None})


def log(job: str, attempt: int, worker: str, lines: Sequence[Line]) -> bytes:
    """Lines of the Run's log; also a heartbeat."""
    items = [
        {"level": line.level, "message": line.message, "at": line.at}
        | ({"actionable": True} if line.actionable else {})
        for line in lines
    ]
    return to_json({"op": "log", "job": job, "attempt": attempt, "worker": worker, "lines": items})


def progress(job: str, attempt: int, worker: str, progress: Progress | None = None) -> bytes:
    """How far the Run is; without `progress` a plain heartbeat."""
    item: dict[str, Any] = {"op": "progress", "job": job, "attempt": attempt, "worker": worker}
    if progress is not None:
        given = {"done": progress.done, "total": progress.total, "text": progress.text}
        item |= {key: value for key, value in given.items() if value is not None}
    return to_json(item)


def finish(job: str, attempt: int, worker: str, outcome: Outcome) -> bytes:
    """The attempt's end."""
    item: dict[str, Any] = {"op": "finish", "job": job, "attempt": attempt, "worker": worker, "status": outcome.status}
    given = {"error_class": outcome.error_class, "kind": outcome.kind, "message": outcome.message}
    item |= {key: value for key, value in given.items() if value is not None}
    encoded = to_json(item)
    return encoded if outcome.result is None else encoded[:-1] + b',"result":' + outcome.result + b"}"


def release(job: str, attempt: int, worker: str) -> bytes:
    """The worker has to stop and hands the Run back; it costs no attempt."""
    return to_json({"op": "release", "job": job, "attempt": attempt, "worker": worker})


def body(items: Sequence[bytes]) -> bytes:
    """The request's body."""
    return b"[" + b",".join(items) + b"]"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one item; `status` is an HTTP code."""

    status: int
    reason: str | None = None
    message: str | None = None
    attempt: int | None = None
    parameters: dict[str, Any] | None = None
    heartbeat_timeout: float | None = None
    timeout: float | None = None
    cancellation_requested: bool = False


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
    return [_answer(item) for item in items]


def _answer(item: Any) -> Answer:
    try:
        return Answer(
            item["status"],
            item.get("reason"),
            item.get("message"),
            item.get("attempt"),
            item.get("parameters"),
            item.get("heartbeat_timeout"),
            item.get("timeout"),
            bool(item.get("cancellation_requested")),
        )
    except (TypeError, KeyError, AttributeError):
        raise ValueError("an answer has no status") from None
