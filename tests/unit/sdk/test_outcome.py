"""How a function's end becomes a finish report."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from maestro_worker import BusinessError, Canceled, Fenced, NothingToDo, TechnicalError, outcome, wire
from maestro_worker.outcome import Outcome, of_error, of_value, result_json
from maestro_worker.run import Line, Progress


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True, "é"]}, '{"a":[1,2.5,null,true,"é"]}'),
        (Point(1), '{"x":1}'),
        ([date(2026, 1, 2), Decimal("1.10"), Path("a/b"), {1}], '["2026-01-02","1.10","a/b",[1]]'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ("NaN is only a word here", '"NaN is only a word here"'),
    ],
)
def test_results(value: Any, text: str) -> None:
    assert result_json(value).decode() == text


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, object()]}, r"\$\.a\[1\] is a object"),
        ({"a": "\udcff"}, r"\$\.a isn't valid text"),
        ({"a": float("nan")}, "NaN"),
        ([float("inf")], "infinite"),
        (_circle(), "contains itself"),
        ("x" * (outcome.RESULT_LIMIT + 1), "bytes"),
    ],
)
def test_results_that_are_no_json_fail_the_attempt_and_name_the_place(value: Any, says: str) -> None:
    ended = of_value(value)
    assert (ended.status, ended.kind, ended.error_class) == ("failed", "technical", "InvalidResult")
    with pytest.raises(ValueError, match=says):
        result_json(value)


def test_ends() -> None:
    assert of_value(None) == Outcome("completed")
    assert of_value({"n": 1}) == Outcome("completed", b'{"n":1}')
    assert of_value(NothingToDo("none")) == Outcome("completed_no_invoices", message="none")
    assert of_error(NothingToDo(result=[1])) == Outcome("completed_no_invoices", b"[1]")
    assert of_error(Canceled()) == of_error(Fenced()) == Outcome("canceled")
    business = Outcome("failed", error_class="EMPTY_VIDEO", kind="business", message="no frames")
    assert of_error(BusinessError("EMPTY_VIDEO", "no frames")) == business


def test_technical_failures_carry_class_message_and_trace() -> None:
    try:
        raise ConnectionError("portal \udcff is down")
    except ConnectionError as error:
        ended = of_error(error)
    assert (ended.error_class, ended.kind, ended.message) == ("ConnectionError", "technical", "portal ? is down")
    assert ended.trace is not None
    assert "test_outcome.py" in ended.trace
    known = of_error(TechnicalError("RATE_LIMITED", "slow down"))
    assert (known.error_class, known.kind, known.message) == ("RATE_LIMITED", "technical", "slow down")


def test_an_exception_that_cannot_be_printed_is_still_reported() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert of_error(BrokenError()).message == "BrokenError"


def test_sys_exit_in_a_function_is_a_technical_failure() -> None:
    assert of_error(SystemExit(3)).kind == "technical"


def test_items_on_the_wire() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    reporter = wire.Reporter("w")
    attempt = reporter.attempt("j", 1)
    items = [
        reporter.start("j", pub=1, epoch=2, store="s", redelivered=True),
        reporter.start("j", redelivered=False),
        attempt.log([Line("INFO", "hello", at), Line("ERROR", "look", at, actionable=True)]),
        attempt.progress(Progress(0, 10, "begin")),
        attempt.progress(Progress()),
        attempt.progress(),
        attempt.finish(Outcome("completed")),
        attempt.finish(Outcome("completed", b'{"n":1}')),
        attempt.finish(Outcome("completed_no_invoices", b"[]", message="none")),
        attempt.finish(Outcome("failed", error_class="E", kind="business", message="m")),
        attempt.release(),
    ]
    held = {"job": "j", "attempt": 1, "worker": "w"}
    stamp = "2026-01-02T03:04:05Z"
    assert json.loads(wire.body(items)) == [
        {"op": "start", "job": "j", "worker": "w", "redelivered": True, "pub": 1, "epoch": 2, "store": "s"},
        {"op": "start", "job": "j", "worker": "w", "redelivered": False},
        {
            "op": "log",
            **held,
            "lines": [
                {"level": "INFO", "message": "hello", "at": stamp},
                {"level": "ERROR", "message": "look", "at": stamp, "actionable": True},
            ],
        },
        {"op": "progress", **held, "done": 0, "total": 10, "text": "begin"},
        {"op": "progress", **held},
        {"op": "progress", **held},
        {"op": "finish", **held, "status": "completed"},
        {"op": "finish", **held, "status": "completed", "result": {"n": 1}},
        {"op": "finish", **held, "status": "completed_no_invoices", "message": "none", "result": []},
        {"op": "finish", **held, "status": "failed", "error_class": "E", "kind": "business", "message": "m"},
        {"op": "release", **held},
    ]


def test_odd_ids_stay_json() -> None:
    odd = 'a"b\\c'
    assert json.loads(wire.Reporter(odd).attempt(odd, 1).progress())["job"] == odd


@pytest.mark.parametrize("body", [b"{}", b"[]", b"nonsense", b"[{}]", b"[1]", b'[{"status":"200"}]'])
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        wire.answers(body, 1)
