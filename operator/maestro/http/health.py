"""Whether the API answers; open to everyone. Readiness is on the port of the probes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.models import Health


async def _health(request: Request) -> Response:
    return json_answer({"status": "ok"})


def endpoints() -> list[Endpoint]:
    """This area's part of the table."""
    answers = {200: Answer("It answers", Health)}
    return [
        Endpoint("GET", "/api/v1/health", _health, "health", "Whether the API answers", "nobody", answers, "health"),
        Endpoint("GET", "/health", _health, "healthShort", "Whether the API answers", "nobody", answers, "health"),
    ]
