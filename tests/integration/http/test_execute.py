"""How Runs come in over HTTP."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.http.api import Api

SCHEMA = {
    "type": "object",
    "required": ["url"],
    "properties": {
        "url": {"type": "string", "pattern": "^https?://"},
        "width": {"type": "integer", "minimum": 1, "default": 320},
        "password": {"type": "string", "writeOnly": True},
    },
    "additionalProperties": False,
}
EXECUTE = "/api/v1/automations/video/execute"
URL = {"url": "https://example.org/a.mp4"}


def test_a_run_is_accepted_with_defaults_and_can_be_seen(api: Api) -> None:
    api.automation(parameterSchema=SCHEMA, defaultParameters={"width": 64})
    answer = api.call("POST", EXECUTE, URL)
    assert answer.status == 202
    assert answer.json["status"] == "pending"
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json['job_id']}"
    run = api.call("GET", answer.headers["Location"]).json
    assert run["parameters"] == {**URL, "width": 64}
    assert (run["automationId"], run["userId"], run["state"], run["status"]) == (
        "team.video",
        "ana",
        "Pending",
        "pending",
    )
    assert (run["retryCount"], run["attempts"], run["startedAt"]) == (0, [], None)
    assert run["createdAt"].endswith("Z")


def test_an_id_may_carry_its_namespace(api: Api) -> None:
    api.automation()
    assert api.call("POST", "/api/v1/automations/team.video/execute", {}).status == 202
    assert api.call("POST", "/api/v1/automations/other.video/execute", {}).status == 404


def test_no_body_is_no_parameters(api: Api) -> None:
    api.automation()
    assert api.call("POST", EXECUTE).status == 202


def test_the_content_type_does_not_matter(api: Api) -> None:
    api.automation()
    answer = api.call("POST", EXECUTE, {"a": 1}, headers={"Content-Type": "text/plain"})
    assert answer.status == 202


def test_an_edit_of_the_automation_counts_at_once(api: Api) -> None:
    api.automation()
    api.loop.run(_edit(api, {"parameterSchema": SCHEMA}))
    answer = api.call("POST", EXECUTE, {})
    assert answer.status == 422
    assert "url" in answer.json["message"]


async def _edit(api: Api, spec: dict[str, Any]) -> None:
    known = api.cache.get("team", "video")
    assert known is not None
    api.cache.upsert(
        {**known, "metadata": {**known["metadata"], "generation": 2, "resourceVersion": "2"}, "spec": spec}
    )


def test_a_repeated_idempotency_key_gives_the_same_run_whatever_the_spaces(api: Api) -> None:
    api.automation()
    headers = {"Idempotency-Key": "order-17"}
    first = api.call("POST", EXECUTE, raw=b'{"a": 1, "b": 2}', headers=headers)
    again = api.call("POST", EXECUTE, raw=b'{"b":2,"a":1}', headers=headers)
    assert (first.status, again.status) == (202, 202)
    assert first.json["job_id"] == again.json["job_id"]
    other = api.call("POST", EXECUTE, {"a": 2}, headers=headers)
    assert other.status == 422
    assert other.json["details"][0]["path"] == "Idempotency-Key"


def test_an_idempotency_key_has_a_length(api: Api) -> None:
    api.automation()
    for key in ("", "k" * 256):
        assert api.call("POST", EXECUTE, {}, headers={"Idempotency-Key": key}).status == 422


def test_too_long_a_backlog_is_429(api: Api) -> None:
    api.automation(run={"maxPending": 2})
    assert [api.call("POST", EXECUTE, {}).status for _ in range(3)] == [202, 202, 429]
    refused = api.call("POST", EXECUTE, {})
    assert int(refused.headers["Retry-After"]) > 0
    message = "1 Run of team.video sent while 2 wait; run.maxPending allows 2 to wait"
    assert refused.json["message"] == message


def test_many_that_can_never_fit_are_422(api: Api) -> None:
    api.automation(run={"maxPending": 2})
    refused = api.call("POST", "/api/v1/automations/video/execute-many", [{}, {}, {}])
    assert refused.status == 422
    assert "Retry-After" not in refused.headers
    assert refused.json["message"].startswith("3 Runs of team.video sent at once, but run.maxPending allows 2")
    assert refused.json["details"] == [{"path": "", "rule": "run.maxPending"}]


def test_a_run_may_carry_more(api: Api) -> None:
    api.automation()
    given = {
        "parameters": {"a": 1},
        "labels": {"team": "blue", "example.org/ticket": "T-1"},
        "reference": "order 17",
        "priority": 5,
        "notBefore": "2030-01-01T00:00:00Z",
        "expiresAt": "2030-01-02T00:00:00+01:00",
        "fairnessKey": "customer-1",
    }
    answer = api.call("POST", "/api/v1/automations/video/runs", given)
    assert answer.status == 202
    run = api.call("GET", f"/api/v1/jobs/{answer.json['job_id']}").json
    assert run["labels"] == given["labels"]
    assert (run["reference"], run["priority"], run["fairnessKey"]) == ("order 17", 5, "customer-1")
    assert (run["dueAt"], run["expiresAt"]) == ("2030-01-01T00:00:00.000Z", "2030-01-01T23:00:00.000Z")


def test_many_as_a_list_and_as_lines(api: Api) -> None:
    api.automation(parameterSchema=SCHEMA)
    lines = [{"parameters": {**URL, "width": number}} for number in range(1, 301)]
    path = "/api/v1/automations/video/execute-many"
    listed = api.call("POST", path, lines)
    ndjson = api.call("POST", path, raw="\n".join(json.dumps(line) for line in lines).encode())
    for answer in (listed, ndjson):
        assert answer.status == 202
        ids = [job["job_id"] for job in answer.json["items"]]
        assert len(set(ids)) == 300
        last = api.call("GET", f"/api/v1/jobs/{ids[-1]}").json
        assert last["parameters"]["width"] == 300


def test_of_many_all_are_accepted_or_none(api: Api) -> None:
    key = api.automation(parameterSchema=SCHEMA)
    lines = [{"parameters": URL}, {"parameters": {"url": "ftp://x"}}, {"parameters": URL, "priority": "high"}, 7]
    answer = api.call("POST", "/api/v1/automations/video/execute-many", lines)
    assert answer.status == 422
    assert [detail["path"] for detail in answer.json["details"]] == ["[1].parameters.url", "[2].priority", "[3]"]
    assert api.loop.run(api.store.counts())[key].waiting == 0


def test_many_repeated_under_one_key_are_the_same_runs(api: Api) -> None:
    api.automation()
    path, headers = "/api/v1/automations/video/execute-many", {"Idempotency-Key": "batch-1"}
    first = api.call("POST", path, [{}, {}], headers=headers)
    again = api.call("POST", path, [{}, {}], headers=headers)
    assert first.json == again.json
    assert api.call("POST", path, [{}], headers=headers).status == 422


def test_more_than_ten_thousand_lines_are_413(api: Api) -> None:
    api.automation()
    answer = api.call("POST", "/api/v1/automations/video/execute-many", raw=b"{}\n" * 10_001)
    assert answer.status == 413
    assert "10000" in answer.json["message"]
    assert api.call("POST", "/api/v1/automations/video/execute-many", raw=b"{}\n" * 10_000).status == 202


def test_last_parameters_are_the_callers_own_without_secrets(api: Api) -> None:
    api.automation(parameterSchema=SCHEMA)
    path = "/api/v1/automations/video/last-params"
    assert api.call("GET", path).json == {"parameters": None}
    api.call("POST", EXECUTE, {**URL, "password": "hunter2"})
    api.call("POST", EXECUTE, {"url": "http://bob"}, token="bob")
    shown = api.call("GET", path)
    assert shown.json["parameters"]["url"] == URL["url"]
    assert "hunter2" not in shown.body.decode()


def test_write_only_parameters_are_shown_to_nobody_but_the_worker(api: Api) -> None:
    key = api.automation(parameterSchema=SCHEMA)
    job = api.call("POST", EXECUTE, {**URL, "password": "hunter2"}).json["job_id"]
    for path in (f"/api/v1/jobs/{job}", "/api/v1/jobs"):
        assert "hunter2" not in api.call("GET", path).body.decode()
    api.queued(key)
    started = api.call("POST", f"/api/v1/worker/jobs/{job}/start", token="worker-video-1")
    assert started.json["parameters"]["password"] == "hunter2"


def test_a_schema_that_cannot_be_used_is_a_conflict(api: Api) -> None:
    api.automation(parameterSchema={"type": "object", "properties": {"a": {"pattern": "("}}})
    answer = api.call("POST", EXECUTE, {"a": "x"})
    assert answer.status == 409
    assert "parameterSchema" in answer.json["message"]
