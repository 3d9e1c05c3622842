"""How a function's end becomes the end of a Run's attempt."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json, to_json

from maestro_worker.errors import BusinessError, Canceled, NothingToDo, TechnicalError
from maestro_worker.run import plain

MESSAGE_LIMIT = 2_000
RESULT_LIMIT = 1_000_000
"""Bytes of a result's JSON; larger things belong into files of which the result gives the place."""

Status = Literal["completed", "completed_no_invoices", "failed", "canceled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt, as `finish` reports it.

    Attributes
    ----------
    result
        JSON, or None.
    kind
        Of a failure: a technical one is tried again, a business one is final.
    trace
        The traceback of a technical failure, for the Run's log.
    """

    status: Status
    result: bytes | None = None
    error_class: str | None = None
    kind: Literal["technical", "business"] | None = None
    message: str | None = None
    trace: str | None = None


COMPLETED = Outcome("completed")
CANCELED = Outcome("canceled")


def of_value(value: Any) -> Outcome:
    """The end of a function that returned `value`."""
    if value is None:
        return COMPLETED
    if isinstance(value, NothingToDo):
        return of_error(value)
    try:
        return Outcome("completed", result_json(value))
    except ValueError as error:
        return Outcome("failed", error_class="InvalidResult", kind="technical", message=_short(str(error)))


def of_error(error: BaseException) -> Outcome:
    """The end of a function that raised `error`."""
    if isinstance(error, NothingToDo):
        ended = of_value(error.result)
        if ended.status != "completed":
            return ended
        return Outcome("completed_no_invoices", ended.result, message=_short(error.message) or None)
    if isinstance(error, Canceled):
        return CANCELED
    if isinstance(error, BusinessError):
        return Outcome("failed", error_class=error.error_class, kind="business", message=_short(error.message))
    name = error.error_class if isinstance(error, TechnicalError) else type(error).__name__
    message = error.message if isinstance(error, TechnicalError) else _text(error)
    trace = plain("".join(traceback.format_exception(error)))
    return Outcome("failed", error_class=name, kind="technical", message=_short(message), trace=trace)


def result_json(value: Any) -> bytes:
    """The JSON of a function's result.

    Beside JSON's own types: dataclasses, pydantic models, dates, UUIDs, Decimals, paths, sets, enums.

    Raises
    ------
    ValueError
        The value, or a part of it, can't be JSON, or it is too large; names the place.
    """
    try:
        encoded = to_json(value)
    except ValueError as error:
        place = _culprit(value, "$")
        raise ValueError(f"the result can't be written as JSON: {place or error}") from None
    if len(encoded) > RESULT_LIMIT:
        raise ValueError(f"the result has {len(encoded)} bytes as JSON; at most {RESULT_LIMIT} are kept")
    if b"NaN" in encoded or b"Infinity" in encoded:
        try:
            from_json(encoded, allow_inf_nan=False)
        except ValueError:
            raise ValueError("the result can't be written as JSON: it holds a NaN or an infinite number") from None
    return encoded


def _culprit(value: Any, path: str, depth: int = 0) -> str | None:
    """The first part of `value` that JSON can't carry, with the path to it."""
    if depth > 20:
        return f"{path} is nested too deeply, or contains itself"
    if isinstance(value, Mapping):
        parts = ((f"{path}.{key}", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = ((f"{path}[{index}]", part) for index, part in enumerate(value))
    else:
        try:
            to_json(value)
        except ValueError:
            return f"{path} is a {type(value).__name__}" if not isinstance(value, str) else f"{path} isn't valid text"
        return None
    return next((found for name, part in parts if (found := _culprit(part, name, depth + 1))), None)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception whose __str__ is broken must not break the report of it
        return type(error).__name__


def _short(text: str) -> str:
    return plain(text)[:MESSAGE_LIMIT]
