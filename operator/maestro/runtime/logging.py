"""How Maestro logs: one JSON object a line, or text for people; to standard error, and never a secret."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal, TextIO

# What every record has; anything else came in `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Nobody should log these. Libraries do, in tracebacks and at level DEBUG.
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[-A-Za-z0-9._~+/]{8,}=*"), r"\1 …"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@"), r"\1:…@"),
    (re.compile(r"\beyJ[-A-Za-z0-9_]{8,}\.[-A-Za-z0-9_]+\.[-A-Za-z0-9_]*"), "…"),
    (
        re.compile(r"""(?i)(["']?(?:password|passwd|secret|token|api[-_]?key)["']?\s*[:=]\s*)(["']?)[^\s"',;}]+"""),
        r"\1\2…",
    ),
)

# Libraries that tell of each of their steps at INFO.
_QUIET = ("kopf", "aiohttp", "urllib3", "asyncio", "alembic", "uvicorn.access")
# pika tells one refused connection in seven errors; its users tell it in one line.
_SILENT = ("pika",)


def redact(text: str) -> str:
    """`text` without what looks like a token, a password in a URL, or the value of a key called password or such."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without secrets."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """For machines: `time`, `level`, `logger`, `message`, `error` (the traceback), and what was given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON, without secrets."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = redact("".join(traceback.format_exception(*record.exc_info)))
        for key, value in vars(record).items():
            if key not in _STANDARD and not key.startswith("_"):
                line[key] = value if isinstance(value, int | float | bool | None) else redact(str(value))
        return json.dumps(line, ensure_ascii=False)


def configure(level: str = "INFO", format: Literal["json", "text"] = "json", *, stream: TextIO | None = None) -> None:
    """Set up logging for the process, in place of whatever was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
