"""Request bodies: read within a limit, and parsed into JSON values; an error says what is wrong where."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from maestro.http.errors import BodyTooLargeError, HttpError, invalid

MIB = 1024 * 1024
PARAMETERS_LIMIT = MIB
BATCH_LIMIT = 8 * MIB
MAX_DEPTH = 64
_READ_SECONDS = 60.0
_SPACE = " \t\r\n"
# An escaped NUL (no text column of PostgreSQL takes it) or surrogate (half of one isn't a character at all).
_SUSPICIOUS = re.compile(r"\\u(0000|[dD][89a-fA-F])")
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")

JsonObject = dict[str, Any]


def _constant(name: str) -> object:
    raise HttpError(400, f"the body is not JSON: {name} is not a JSON value")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise HttpError(400, "the body holds a number that is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float)


async def read(request: Request, limit: int) -> bytes:
    """Read the body, at most `limit` bytes of it.

    Raises
    ------
    BodyTooLargeError
        Over the limit: at once when the length is announced, else as soon as it is passed.
    HttpError
        408 when it takes more than a minute.
    """
    announced = request.headers.get("content-length")
    if announced is not None and announced.isdecimal() and int(announced[:18]) > limit:
        raise BodyTooLargeError(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise BodyTooLargeError(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise HttpError(408, f"the body did not arrive within {_READ_SECONDS:.0f} seconds") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode(raw: bytes) -> str:
    """The body as text; 400 with the position where it isn't UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not UTF-8: byte {error.start} ({error.reason})") from None


def parse(raw: bytes) -> Any:
    """Parse a whole body: strict JSON in UTF-8, at most 64 levels deep, every text storable.

    Of a key that is there twice the last one counts.
    """
    text = decode(raw)
    value = _guarded(text, 0, whole=True)[0]
    check(value, text)
    return value


def parse_mended(raw: bytes) -> Any:
    """Parse the body of a report, which must not be lost: characters that can't be stored become U+FFFD.

    Levels aren't counted here: whoever keeps a free-form part of it does that.
    """
    text = decode(raw)
    value = _guarded(text, 0, whole=True)[0]
    return mend(value) if _SUSPICIOUS.search(text) else value


def check(value: object, text: str) -> None:
    """Refuse what is too deep or can't be stored as text; costs nothing where `text` shows no sign of it."""
    if text.count("{") + text.count("[") > MAX_DEPTH or _SUSPICIOUS.search(text):
        inspect(value)


def inspect(value: object, path: str = "") -> None:
    """Look at every level and every text of a value.

    Raises
    ------
    HttpError
        400: deeper than 64 levels, or a text with a NUL or half a surrogate pair.
    """
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[object] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.keys())
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, str) and _UNWRITABLE.search(item):
                raise invalid(path, "holds a text with a NUL or half a surrogate pair", status=400)
        if not deeper:
            return
        level = deeper
    raise invalid(path, f"is nested deeper than {MAX_DEPTH} levels", status=400)


def mend(value: Any) -> Any:
    """The value with characters that can't be stored replaced by U+FFFD."""
    if isinstance(value, str):
        return _UNWRITABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [mend(item) for item in value]
    if isinstance(value, dict):
        return {mend(key): mend(item) for key, item in value.items()}
    return value


def parse_object(raw: bytes) -> JsonObject:
    """Parse a body that must be a JSON object."""
    value = parse(raw)
    if not isinstance(value, dict):
        raise HttpError(400, f"the body must be a JSON object, not {kind(value)}")
    return value


def optional_object(raw: bytes) -> JsonObject:
    """Parse a body that may be absent; absent is an empty object."""
    return parse_object(raw) if raw.strip() else {}


def items(raw: bytes, most: int) -> Iterator[tuple[Any, str]]:
    """Go through a list, or through NDJSON (one value a line), value by value.

    Yields
    ------
    Each value and the text it was parsed from.

    Raises
    ------
    HttpError
        400 with the place; 413 as soon as there are more than `most`, without parsing the rest.
    """
    text = decode(raw)
    position = _skip(text, 0)
    if position == len(text):
        raise HttpError(400, "the body is empty; it must be a JSON list or one JSON object a line")
    found = _listed(text, position + 1) if text[position] == "[" else _lines(text)
    for count, (value, source) in enumerate(found, 1):
        if count > most:
            raise HttpError(413, f"more than {most} items, the limit of one request")
        yield value, source


def _listed(text: str, position: int) -> Iterator[tuple[Any, str]]:
    position = _skip(text, position)
    if text[position : position + 1] == "]":
        _end(text, position + 1)
        return
    while True:
        value, end = _guarded(text, position)
        yield value, text[position:end]
        position = _skip(text, end)
        separator = text[position : position + 1]
        if separator == "]":
            _end(text, position + 1)
            return
        if separator != ",":
            raise _broken(text, position, "Expecting ',' or ']'")
        position = _skip(text, position + 1)


def _lines(text: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _guarded(line, 0, whole=True)[0], line
            except HttpError as error:
                raise HttpError(error.status, f"line {number}: {error.message}") from None


def _end(text: str, position: int) -> None:
    if _skip(text, position) != len(text):
        raise _broken(text, position, "Extra data")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _guarded(text: str, position: int, *, whole: bool = False) -> tuple[Any, int]:
    try:
        return (_DECODER.decode(text), len(text)) if whole else _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _broken(text, error.pos, error.msg) from None
    except RecursionError:
        raise HttpError(400, f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise HttpError(400, f"the body is not usable JSON: {error}") from None


def _broken(text: str, position: int, what: str) -> HttpError:
    if not text.strip(_SPACE):
        return HttpError(400, "the body is empty; it must be JSON")
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return HttpError(400, f"the body is not JSON: {what} at line {line} column {column} (character {position})")


def kind(value: object) -> str:
    """The JSON word for a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
