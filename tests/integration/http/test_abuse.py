"""Workers and callers that misbehave: what they do costs others nothing, and they are told what is wrong."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tests.integration.http.api import Api

EXECUTE = "/api/v1/automations/video/execute"
REPORTS = "/api/v1/worker/reports"
HOLDER = "uid-worker-video-1/process"
MIB = 1024 * 1024


def report(api: Api, *items: dict[str, Any], token: str = "worker-video-1") -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = api.call("POST", REPORTS, list(items), token=token).json
    return answers


@pytest.fixture
def job(api: Api) -> str:
    """A Run that HOLDER works on."""
    key = api.automation()
    run: str = api.call("POST", EXECUTE, {}).json["job_id"]
    api.queued(key)
    assert report(api, {"op": "start", "job": run, "worker": HOLDER})[0]["status"] == 200
    return run


def test_nobody_finishes_the_runs_of_others(api: Api, job: str) -> None:
    api.automation("other")
    finish = {"op": "finish", "job": job, "attempt": 1, "status": "completed", "result": "stolen"}
    tries = [
        ("worker-other-1", {**finish, "worker": HOLDER}, 403, "NotYourRun"),
        ("worker-other-1", {**finish, "worker": "uid-worker-other-1/p"}, 403, "NotYourRun"),
        ("worker-video-2", {**finish, "worker": "uid-worker-video-2/p"}, 409, "fenced"),
        ("worker-video-1", {**finish, "worker": "uid-worker-video-1/another"}, 409, "fenced"),
        ("worker-video-1", {**finish, "worker": HOLDER, "attempt": 2}, 409, "fenced"),
        ("worker-video-1", {**finish, "worker": HOLDER, "attempt": 0}, 409, "fenced"),
    ]
    for token, item, status, reason in tries:
        (answer,) = report(api, item, token=token)
        assert (answer["status"], answer["reason"]) == (status, reason), item
        (answer,) = report(api, {"op": "release", **{k: item[k] for k in ("job", "attempt", "worker")}}, token=token)
        assert (answer["status"], answer["reason"]) == (status, reason), item
    older = f"/api/v1/worker/jobs/{job}/finish"
    for token, status in (("worker-other-1", 403), ("worker-video-2", 409)):
        assert api.call("POST", older, {"status": "failed"}, token=token).status == status
    with_key = {"headers": {"X-Worker-API-Key": "wrong"}, "token": None}
    assert api.call("POST", older, {"status": "failed"}, **with_key).status == 401
    shown = api.call("GET", f"/api/v1/jobs/{job}").json
    assert (shown["state"], shown["result"]) == ("Running", None)

    assert report(api, {**finish, "worker": HOLDER, "result": "mine"})[0]["status"] == 200
    for token, item, _, _ in tries:
        assert report(api, item, token=token)[0]["status"] in (403, 409), item
    assert api.call("GET", f"/api/v1/jobs/{job}").json["result"] == "mine"


def test_a_million_log_lines_of_one_run_are_bounded_and_told(api: Api, job: str) -> None:
    who = {"op": "log", "job": job, "attempt": 1, "worker": HOLDER}
    limit, sent = 10_000, 0
    for _ in range(4):
        items = [{**who, "lines": [{"message": "m"}] * 1_000}] * 250
        sent += sum(len(item["lines"]) for item in items)
        assert {answer["status"] for answer in report(api, *items)} == {200}
    assert sent == 1_000_000
    logs = api.call("GET", f"/api/v1/jobs/{job}/logs?after={limit - 1}&limit=5000").json["items"]
    assert [(line["number"], line["level"]) for line in logs] == [(limit, "INFO"), (limit + 1, "WARNING")]
    assert logs[-1]["message"] == f"further lines are not kept: history.logLines is {limit}"
    finish = {**who, "op": "finish", "status": "completed"}
    assert report(api, finish)[0]["status"] == 200, "it costs the Run nothing"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("execute", {"url": "x" * 5 * MIB}),
        ("runs", {"parameters": {"url": "x" * 5 * MIB}}),
        ("execute-many", [{"parameters": {"n": 1}}, {"parameters": {"url": "x" * 5 * MIB}}]),
        ("execute-many", [{"parameters": {"n": 1}}, {"parameters": {"url": "ü" * (MIB // 2)}}]),
    ],
)
def test_parameters_of_five_megabytes_are_refused_by_their_limit(api: Api, path: str, content: Any) -> None:
    api.automation()
    raw = json.dumps(content, ensure_ascii=False).encode()
    answer = api.call("POST", f"/api/v1/automations/video/{path}", raw=raw)
    assert answer.status == (422 if path == "execute-many" else 413)
    assert "1048576 bytes (1 MiB)" in answer.json["message"]
    if path == "execute-many":
        assert answer.json["details"][0]["path"] == "[1]"
    assert api.call("GET", "/api/v1/jobs").json["items"] == [], "nothing of it was accepted"


def test_a_message_for_an_unknown_run_is_refused_and_noted(api: Api) -> None:
    key = api.automation()
    unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
    for op, more in (("start", {}), ("finish", {"attempt": 1, "status": "completed"})):
        (answer,) = report(api, {"op": op, "job": unknown, "worker": HOLDER, **more})
        assert (answer["status"], answer["reason"]) == (404, "UnknownRun")

    def noted(transaction: Any) -> Any:
        from maestro.runs.database import Sql

        return transaction.all(Sql("SELECT op, worker FROM unknown_run"))

    assert api.loop.run(api.store.read(noted)) == [("finish", HOLDER)]
    assert api.queued(key) == []


def test_reports_without_end_cost_no_others(api: Api, job: str) -> None:
    """A worker that sends nonsense at full speed, and one whose heartbeat must get through."""
    nonsense = itertools.cycle([b"not json", b"[" * 100_000, b"\xff" * MIB, b'[{"op": "start"}]', b"[5]", b"{}"])
    for raw in itertools.islice(nonsense, 60):
        assert api.call("POST", REPORTS, raw=raw, token="worker-video-1").status in (200, 400, 413)
    beat = {"op": "progress", "job": job, "attempt": 1, "worker": HOLDER}
    assert report(api, beat)[0]["status"] == 200
