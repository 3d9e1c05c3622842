"""From the JSON of a worker's reports to the store's words and back: the hot path, so plain code, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from maestro.http import body
from maestro.http.errors import HttpError
from maestro.runs.reports import FinishStatus, Report, ReportAnswer, ReportLine

MOST_ITEMS = 1000
MOST_LINES = 1000
MAX_RESULT = body.MIB
_MAX_WORKER = 256
_MAX_LINE = 32 * 1024
_MAX_MESSAGE = 8 * 1024
_MAX_TEXT = 1024
_MAX_CLASS = 128
_MAX_NUMBER = 2**63 - 1

LEVELS = {
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "WARNING": "WARNING",
    "WARN": "WARNING",
    "ERROR": "ERROR",
    "CRITICAL": "CRITICAL",
}
_STATUSES = frozenset({"completed", "completed_no_invoices", "failed", "canceled"})
_KINDS = frozenset({"technical", "business"})
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

Item = dict[str, Any]


class InvalidReport(HttpError):  # noqa: N818 - the word of the answer
    """A report breaks a rule; names the field and the rule. In a list it is the answer to its item alone."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(422, f"{path}: {rule}" if path else rule, details=[{"path": path, "rule": rule}])


def report_of(item: object, caller: int | None) -> Report:
    """One item of a list of reports.

    Parameters
    ----------
    item
        The parsed JSON.
    caller
        The key of the worker's Automation; None where any is allowed.

    Raises
    ------
    InvalidReport
        A field is missing, or of the wrong type, or out of bounds.
    """
    if type(item) is not dict:
        raise InvalidReport("", f"must be an object, not {body.kind(item)}")
    op = item.get("op")
    build = _BUILDERS.get(op) if type(op) is str else None
    if build is None:
        raise InvalidReport("op", f"must be one of {', '.join(_BUILDERS)}")
    job = item.get("job")
    try:
        run = UUID(job)
    except (ValueError, TypeError, AttributeError):
        raise InvalidReport("job", "must be the UUID of a Run") from None
    return build(item, run, caller)


def start_of(item: Item, run: UUID, caller: int | None) -> Report:
    """A start with a worker's identity."""
    return Report(
        "start",
        run,
        worker_of(item),
        pub=_count(item, "pub"),
        epoch=_count(item, "epoch"),
        store=_text(item, "store", 64),
        redelivered=_flag(item, "redelivered"),
        caller=caller,
    )


def lines_of(lines: object) -> tuple[ReportLine, ...]:
    """The lines of a log report, one at least."""
    if type(lines) is not list:
        raise InvalidReport("lines", f"must be a list, not {body.kind(lines)}")
    if not 0 < len(lines) <= MOST_LINES:
        raise InvalidReport("lines", f"must hold 1 to {MOST_LINES} lines")
    return tuple([line_of(line) for line in lines])


def line_of(line: object) -> ReportLine:
    """One log line: `{level, message, at?, actionable?}`."""
    if type(line) is not dict:
        raise InvalidReport("lines", f"must hold objects, not {body.kind(line)}")
    level = line.get("level", "INFO")
    known = LEVELS.get(level) or LEVELS.get(level.upper()) if type(level) is str else None
    if known is None:
        raise InvalidReport("level", f"must be one of {', '.join(LEVELS)}")
    message = line.get("message")
    if type(message) is not str:
        raise InvalidReport("message", f"must be a string, not {body.kind(message)}")
    at = line.get("at")
    return ReportLine(known, _cut(message, _MAX_LINE), None if at is None else _moment(at), _flag(line, "actionable"))


def finish_fields(item: Item) -> Item:
    """The checked fields of a finish, as arguments of Report."""
    status = item.get("status")
    if type(status) is not str or status not in _STATUSES:
        raise InvalidReport("status", f"must be one of {', '.join(sorted(_STATUSES))}")
    kind = item.get("kind")
    if kind is not None and (type(kind) is not str or kind not in _KINDS):
        raise InvalidReport("kind", "must be technical or business")
    result = item.get("result")
    if type(result) in (dict, list, str):
        _check_result(result)
    error_class, message = _text(item, "error_class", _MAX_CLASS), _text(item, "message", _MAX_MESSAGE)
    if type(result) is dict:
        error_class = error_class or _shown(result.get("error_class"), _MAX_CLASS)
        message = message or _shown(result.get("error"), _MAX_MESSAGE)
    return {
        "status": cast(FinishStatus, status),
        "result": result,
        "error_class": error_class,
        "kind": kind,
        "message": message,
    }


def attempt_of(item: Item) -> int:
    """The attempt that a report is about."""
    attempt = item.get("attempt")
    if type(attempt) is not int or not 0 <= attempt < 2**31:
        raise InvalidReport("attempt", "must be the number that start answered with")
    return attempt


def worker_of(item: Item) -> str:
    """The identity that a worker gives itself."""
    worker = item.get("worker")
    if type(worker) is not str or not 0 < len(worker) <= _MAX_WORKER:
        raise InvalidReport("worker", f"must be a string of 1 to {_MAX_WORKER} characters")
    return worker


def answer_of(answer: ReportAnswer) -> Item:
    """An answer as the worker gets it: what isn't set is left out."""
    shown: Item = {"status": answer.status}
    if answer.reason is not None:
        shown["reason"] = answer.reason
    if answer.message is not None:
        shown["message"] = answer.message
    if answer.attempt is not None:
        shown["attempt"] = answer.attempt
        shown["parameters"] = answer.parameters
        shown["heartbeat_timeout"] = answer.heartbeat_timeout
        shown["timeout"] = answer.timeout
        if answer.alone is not None:
            shown["alone"] = answer.alone
    if answer.cancellation_requested is not None:
        shown["cancellation_requested"] = answer.cancellation_requested
    if answer.accepted is not None:
        shown["accepted"] = answer.accepted
    return shown


def refusal(error: InvalidReport) -> Item:
    """The answer to an item that breaks a rule."""
    return {"status": 422, "reason": "InvalidReport", "message": error.message, "details": error.details}


def _log(item: Item, run: UUID, caller: int | None) -> Report:
    lines = lines_of(item.get("lines"))
    return Report("log", run, worker_of(item), attempt_of(item), lines=lines, caller=caller)


def _progress(item: Item, run: UUID, caller: int | None) -> Report:
    return Report(
        "progress",
        run,
        worker_of(item),
        attempt_of(item),
        done=_number(item, "done"),
        total=_number(item, "total"),
        text=_text(item, "text", _MAX_TEXT),
        caller=caller,
    )


def _finish(item: Item, run: UUID, caller: int | None) -> Report:
    return Report("finish", run, worker_of(item), attempt_of(item), caller=caller, **finish_fields(item))


def _release(item: Item, run: UUID, caller: int | None) -> Report:
    return Report("release", run, worker_of(item), attempt_of(item), caller=caller)


_BUILDERS: dict[str, Callable[[Item, UUID, int | None], Report]] = {
    "start": start_of,
    "log": _log,
    "progress": _progress,
    "finish": _finish,
    "release": _release,
}


OPS = frozenset(_BUILDERS)


def _check_result(result: object) -> None:
    try:
        body.inspect(result, "result")
        size = len(json.dumps(result, ensure_ascii=False)) if _is_long(result) else 0
    except HttpError as error:
        raise InvalidReport("result", error.details[0]["rule"] if error.details else error.message) from None
    if size > MAX_RESULT:
        raise InvalidReport("result", f"is larger than {MAX_RESULT} characters of JSON")


def _is_long(result: object) -> bool:
    """Whether it may be worth measuring; most results are a handful of short values."""
    if isinstance(result, str):
        return len(result) > _MAX_LINE
    values = list(result.values()) if isinstance(result, dict) else result
    assert isinstance(values, list)
    return len(values) > 32 or any(
        isinstance(v, (dict, list)) or (isinstance(v, str) and len(v) > 1024) for v in values
    )


def _count(item: Item, name: str) -> int | None:
    value = item.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= _MAX_NUMBER):
        raise InvalidReport(name, "must be an integer, 0 or more")
    return value


def _number(item: Item, name: str) -> float | None:
    value = item.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not -_MAX_NUMBER <= value <= _MAX_NUMBER:
        raise InvalidReport(name, "must be a number")
    return float(value)


def _flag(item: Item, name: str) -> bool:
    value = item.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise InvalidReport(name, "must be true or false")
    return value


def _text(item: Item, name: str, most: int) -> str | None:
    value = item.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise InvalidReport(name, f"must be a string, not {body.kind(value)}")
    return _cut(value, most)


def _shown(value: object, most: int) -> str | None:
    return _cut(value, most) if isinstance(value, str) and value else None


def _cut(text: str, most: int) -> str:
    # Cut rather than refused: the end of a long message is worth less than the report.
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise InvalidReport("at", "must be a timestamp as in RFC 3339") from None
    if moment.tzinfo is None or not _EARLIEST <= moment < _LATEST:
        raise InvalidReport("at", "must be a timestamp with an offset, between 1970 and 2200")
    return moment
