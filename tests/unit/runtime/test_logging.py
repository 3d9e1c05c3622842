"""What is logged, and what never is."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from maestro.runtime.logging import configure, redact


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    configure("INFO", "json", stream=stream)
    logging.getLogger("maestro.x").info("two\nlines", extra={"automation": "ns.a", "runs": 3})
    logging.getLogger("maestro.x").debug("not this")
    try:
        raise ValueError("amqp://user:hunter2@broker/")
    except ValueError:
        logging.getLogger("maestro.x").exception("it failed")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "maestro.x", "two\nlines")
    assert (first["automation"], first["runs"]) == ("ns.a", 3)
    assert "ValueError" in second["error"]
    assert "hunter2" not in stream.getvalue()


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    configure("DEBUG", "text", stream=stream)
    logging.getLogger("maestro.x").warning("hello")
    assert "WARNING maestro.x: hello" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ("postgresql+psycopg://maestro:s3cret@db:5432/maestro failed", "s3cret"),
        ("the token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl was refused", "eyJpc3MiOiJrdWJlIn0"),
        ('{"password": "hunter2", "user": "x"}', "hunter2"),
        ("password=hunter2", "hunter2"),
    ],
)
def test_secrets_are_taken_out(text: str, secret: str) -> None:
    assert secret not in redact(text)


@pytest.mark.parametrize(
    "text",
    ["GET https://10.0.0.1:443/api/v1: timed out", "the Secret orders-broker is missing", "ns.a: 3 runs at 10:00"],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text) == text
