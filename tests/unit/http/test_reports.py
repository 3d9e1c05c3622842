"""Workers' reports: what each field may be, and what the answers look like."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro.http.reports import InvalidReport, answer_of, refusal, report_of
from maestro.runs.reports import Report, ReportAnswer, ReportLine

JOB = "01890a5d-ac96-774b-bcce-b302099a8057"
RUN = UUID(JOB)
BASE = {"job": JOB, "worker": "pod/process", "attempt": 2}


def item(op: str, **more: Any) -> dict[str, Any]:
    return {"op": op, **BASE, **more}


def test_a_start_as_the_sdk_sends_it() -> None:
    start = {"op": "start", "job": JOB, "worker": "p/q", "pub": 7, "epoch": 3, "store": "s", "redelivered": True}
    assert report_of(start, 5) == Report(
        "start", RUN, "p/q", pub=7, epoch=3, store="s", redelivered=True, caller=5
    )  # fmt: skip


def test_log_lines_with_every_level_and_an_instant() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    lines = [
        {"level": "WARN", "message": "a"},
        {"level": "error", "message": "b", "at": "2026-01-02T03:04:05.678Z", "actionable": True},
        {"message": "c", "at": None, "actionable": None},
    ]
    report = report_of(item("log", lines=lines), None)
    assert report.lines == (
        ReportLine("WARNING", "a"),
        ReportLine("ERROR", "b", at, actionable=True),
        ReportLine("INFO", "c"),
    )
    assert (report.worker, report.attempt) == ("pod/process", 2)


def test_progress_may_say_nothing_but_that_it_lives() -> None:
    assert report_of(item("progress"), None) == Report("progress", RUN, "pod/process", 2)
    assert report_of(item("progress", done=1, total=2.5, text="x"), None).total == 2.5


def test_a_finish_takes_error_and_class_from_the_result_where_it_gives_none_itself() -> None:
    result = {"error": "no such portal", "error_class": "PORTAL_DOWN", "summary": {"ok": 1}}
    report = report_of(item("finish", status="failed", kind="technical", result=result), None)
    assert (report.status, report.kind, report.result) == ("failed", "technical", result)
    assert (report.error_class, report.message) == ("PORTAL_DOWN", "no such portal")
    explicit = report_of(item("finish", status="failed", result=result, error_class="IP_BLOCKED", message="m"), None)
    assert (explicit.error_class, explicit.message) == ("IP_BLOCKED", "m")


def test_a_long_message_is_cut_rather_than_refused() -> None:
    report = report_of(item("log", lines=[{"message": "x" * 100_000}]), None)
    assert len(report.lines[0].message) == 32 * 1024
    assert report.lines[0].message.endswith("…")


deep: Any = 1
for _ in range(70):
    deep = [deep]

BAD = [
    (3, ""),
    ({"op": "dance", "job": JOB}, "op"),
    ({"op": ["start"], "job": JOB}, "op"),
    ({"op": "start"}, "job"),
    ({"op": "start", "job": 5}, "job"),
    ({"op": "start", "job": "x"}, "job"),
    ({"op": "start", "job": JOB}, "worker"),
    ({"op": "start", "job": JOB, "worker": ""}, "worker"),
    ({"op": "start", "job": JOB, "worker": "w" * 300}, "worker"),
    ({"op": "start", "job": JOB, "worker": "w", "pub": "1"}, "pub"),
    ({"op": "start", "job": JOB, "worker": "w", "pub": True}, "pub"),
    ({"op": "start", "job": JOB, "worker": "w", "epoch": -1}, "epoch"),
    ({"op": "start", "job": JOB, "worker": "w", "epoch": 2**63}, "epoch"),
    ({"op": "start", "job": JOB, "worker": "w", "store": 1}, "store"),
    ({"op": "start", "job": JOB, "worker": "w", "redelivered": 1}, "redelivered"),
    ({"op": "log", "job": JOB, "worker": "w", "lines": [{"message": "m"}]}, "attempt"),
    (item("log"), "lines"),
    (item("log", lines=[]), "lines"),
    (item("log", lines=[{}] * 1001), "lines"),
    (item("log", lines=["x"]), "lines"),
    (item("log", lines=[{"message": 1}]), "message"),
    (item("log", lines=[{"level": "LOUD", "message": "m"}]), "level"),
    (item("log", lines=[{"level": 1, "message": "m"}]), "level"),
    (item("log", lines=[{"message": "m", "at": "yesterday"}]), "at"),
    (item("log", lines=[{"message": "m", "at": "2026-01-01T00:00:00"}]), "at"),
    (item("log", lines=[{"message": "m", "at": "0001-01-01T00:00:00+14:00"}]), "at"),
    (item("log", lines=[{"message": "m", "at": 17}]), "at"),
    (item("log", lines=[{"message": "m", "actionable": "yes"}]), "actionable"),
    (item("progress", done="3"), "done"),
    (item("progress", total=10**400), "total"),
    (item("progress", done=False), "done"),
    (item("progress", text=4), "text"),
    (item("finish"), "status"),
    (item("finish", status="ok"), "status"),
    (item("finish", status=["failed"]), "status"),
    (item("finish", status="failed", kind="human"), "kind"),
    (item("finish", status="failed", error_class=1), "error_class"),
    (item("finish", status="failed", message={}), "message"),
    (item("finish", status="completed", result=deep), "result"),
    (item("finish", status="completed", result="x" * (1024 * 1024 + 1)), "result"),
    (item("finish", status="completed", result={"x": ["y" * 1000] * 2000}), "result"),
    ({**item("release"), "attempt": "1"}, "attempt"),
    ({**item("release"), "attempt": -1}, "attempt"),
]


@pytest.mark.parametrize(("bad", "path"), BAD, ids=range(len(BAD)))
def test_a_bad_item_is_refused_by_field_and_rule(bad: object, path: str) -> None:
    with pytest.raises(InvalidReport) as caught:
        report_of(bad, None)
    answer = refusal(caught.value)
    assert answer["details"][0]["path"] == path
    assert answer["message"].startswith(path)
    assert (answer["status"], answer["reason"]) == (422, "InvalidReport")


def test_answers_leave_out_what_is_not_said() -> None:
    started = ReportAnswer(200, None, None, 1, {"a": 1}, 300.0, 14400.0, False)
    assert answer_of(started) == {
        "status": 200,
        "attempt": 1,
        "parameters": {"a": 1},
        "heartbeat_timeout": 300.0,
        "timeout": 14400.0,
        "cancellation_requested": False,
    }
    assert answer_of(ReportAnswer(409, "fenced")) == {"status": 409, "reason": "fenced"}


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.dictionaries(st.sampled_from(["message", "level", "at"]), st.text(max_size=5)), max_size=2),
)
fields = ["worker", "attempt", "pub", "epoch", "store", "redelivered", "lines", "done", "total", "text"]
fields += ["status", "result", "error_class", "kind", "message"]


@settings(deadline=None)
@given(
    st.sampled_from(["start", "log", "progress", "finish", "release"]),
    st.dictionaries(st.sampled_from(fields), anything),
)
def test_whatever_the_fields_hold_it_is_a_report_or_a_refusal(op: str, given_fields: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidReport):
        assert isinstance(report_of({"op": op, "job": JOB, **given_fields}, None), Report)
