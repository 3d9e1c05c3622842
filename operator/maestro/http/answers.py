"""How every answer is written: compact JSON in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(content: object) -> bytes:
    """Write a value as JSON; what isn't Unicode (a lone surrogate in an old record) becomes a question mark."""
    return _ENCODER.encode(content).encode("utf-8", "replace")


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON value."""
    return Response(encode(content), status, headers, "application/json")
