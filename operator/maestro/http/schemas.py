"""JSON Schemas of the workers' wire, for the OpenAPI document; the checks themselves are in reports.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TEXT = {"type": "string"}
_LEVEL = {"type": "string", "enum": ["DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL"], "default": "INFO"}
_JOB = {"type": "string", "format": "uuid"}
_WORKER = {"type": "string", "minLength": 1, "maxLength": 256, "description": "`<pod uid>/<process uuid>`"}
_ATTEMPT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_COUNT = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**63 - 1}

_LINE_FIELDS: dict[str, Any] = {
    "level": _LEVEL,
    "message": _TEXT,
    "at": {"type": ["string", "null"], "format": "date-time"},
    "actionable": {"type": ["boolean", "null"]},
}
_FINISH_FIELDS: dict[str, Any] = {
    "status": {"type": "string", "enum": ["completed", "completed_no_invoices", "failed", "canceled"]},
    "result": {"description": "Free; `error`, `error_class` and `summary` are shown."},
    "error_class": {"type": ["string", "null"]},
    "kind": {"type": ["string", "null"], "enum": ["technical", "business", None]},
    "message": {"type": ["string", "null"]},
}
_WHO: dict[str, Any] = {
    "attempt": {**_ATTEMPT, "type": ["integer", "null"]},
    "worker": {**_WORKER, "type": ["string", "null"]},
}


def _item(op: str, fields: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    known = {"op": {"const": op}, "job": _JOB, "worker": _WORKER, **fields}
    return {"type": "object", "properties": known, "required": ["op", "job", "worker", *required]}


_OWN = {"attempt": _ATTEMPT}
_LINE: Schema = {"type": "object", "properties": _LINE_FIELDS, "required": ["message"]}

REPORT: Schema = {
    "oneOf": [
        _item(
            "start",
            {
                "pub": _COUNT,
                "epoch": _COUNT,
                "store": {"type": ["string", "null"]},
                "redelivered": {"type": ["boolean", "null"]},
            },
            [],
        ),
        _item(
            "log",
            {**_OWN, "lines": {"type": "array", "minItems": 1, "maxItems": 1000, "items": _LINE}},
            ["attempt", "lines"],
        ),
        _item(
            "progress",
            {
                **_OWN,
                "done": {"type": ["number", "null"]},
                "total": {"type": ["number", "null"]},
                "text": {"type": ["string", "null"]},
            },
            ["attempt"],
        ),
        _item("finish", {**_OWN, **_FINISH_FIELDS}, ["attempt", "status"]),
        _item("release", _OWN, ["attempt"]),
    ]
}
ANSWER: Schema = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "integer", "enum": [200, 403, 404, 409, 422, 429]},
        "reason": {
            "type": "string",
            "description": "running, ended, notDue, fenced, notRunning, NotYourRun, UnknownRun, InvalidReport; with "
            "429, which asks to say the start again a little later: alone, barred",
        },
        "message": _TEXT,
        "attempt": {"type": "integer"},
        "parameters": {"type": "object", "additionalProperties": True},
        "heartbeat_timeout": {"type": "number"},
        "timeout": {"type": "number"},
        "alone": {"type": "boolean", "description": "Nothing may run beside this Run in its pod"},
        "cancellation_requested": {"type": "boolean"},
    },
}
_LINE_WITH_WHO: Schema = {"type": "object", "properties": {**_LINE_FIELDS, **_WHO}, "required": ["message"]}
LOG: Schema = {
    "oneOf": [_LINE_WITH_WHO, {"type": "array", "minItems": 1, "maxItems": 1000, "items": _LINE_WITH_WHO}],
}
FINISH: Schema = {"type": "object", "properties": {**_FINISH_FIELDS, **_WHO}, "required": ["status"]}
