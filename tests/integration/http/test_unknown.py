"""Runs that a restored store doesn't know: listed, accepted again under their id, discarded; by whoever may."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from tests.integration.http.api import API_KEY, Api

SCHEMA = {"type": "object", "properties": {"width": {"type": "integer"}}, "required": ["width"]}


def spoken_of(api: Api, automation: str = "video", **more: Any) -> UUID:
    """A worker of the Automation starts a Run that the store doesn't know."""
    run = uuid4()
    body = {"worker": f"worker-{automation}-1/1", "pub": 7, "epoch": 1, "store": "another", **more}
    answer = api.call("POST", f"/api/v1/worker/jobs/{run}/start", body, token=f"worker-{automation}-1")
    assert (answer.status, answer.json["reason"]) == (404, "UnknownRun")
    return run


def listed(api: Api, query: str = "", token: str = "ana") -> list[dict[str, Any]]:
    answer = api.call("GET", f"/api/v1/unknown-runs{query}", token=token)
    assert answer.status == 200, answer.body
    return list(answer.json["items"])


def test_what_is_known_of_it_is_shown(api: Api) -> None:
    api.automation()
    run = spoken_of(api)
    finish = [{"op": "finish", "job": str(run), "worker": "worker-video-1/1", "attempt": 1, "status": "failed"}]
    assert api.call("POST", "/api/v1/worker/reports", finish, token="worker-video-1").json[0]["status"] == 404
    (shown,) = [one for one in listed(api, "?automation=video") if one["id"] == str(run)]
    assert shown["automationId"] == "team.video"
    assert (shown["lastOperation"], shown["saidStatus"], shown["publication"]) == ("finish", "failed", 7)
    assert shown["parameters"] is None


def test_accepted_again_it_keeps_its_id_and_runs(api: Api) -> None:
    key = api.automation(parameterSchema=SCHEMA)
    run = spoken_of(api)
    path = f"/api/v1/unknown-runs/{run}/accept"
    refused = api.call("POST", path, {})
    assert (refused.status, refused.json["details"][0]["path"]) == (422, "parameters.width")
    answer = api.call("POST", path, {"parameters": {"width": 320}})
    assert (answer.status, answer.json) == (202, {"job_id": str(run), "status": "pending"})
    assert answer.headers["Location"] == f"/api/v1/jobs/{run}"
    assert str(run) not in {one["id"] for one in listed(api)}
    assert api.call("GET", f"/api/v1/jobs/{run}").json["parameters"] == {"width": 320}
    assert api.call("POST", path, {"parameters": {"width": 320}}).status == 404
    api.queued(key)
    started = api.call("POST", f"/api/v1/worker/jobs/{run}/start", {"worker": "w/1"}, token="worker-video-1")
    assert (started.status, started.json["parameters"]) == (200, {"width": 320})


def test_whose_run_it_is_must_be_said_where_nobody_knows(api: Api) -> None:
    api.automation()
    run = uuid4()
    headers = {"X-Worker-API-Key": API_KEY}
    told = {"worker": "outside/1", "pub": 3, "epoch": 1, "store": "another"}
    answer = api.call("POST", f"/api/v1/worker/jobs/{run}/start", told, token=None, headers=headers)
    assert answer.status == 404
    path = f"/api/v1/unknown-runs/{run}/accept"
    assert api.call("POST", path).json["details"] == [
        {"path": "automation", "rule": "is required: it isn't known whose Run this is"}
    ]
    assert api.call("POST", path, {"automation": "nobody"}).status == 404
    assert api.call("POST", path, {"automation": "team.video"}).status == 202


def test_anothers_automation_is_refused(api: Api) -> None:
    api.automation()
    api.automation("audio")
    answer = api.call("POST", f"/api/v1/unknown-runs/{spoken_of(api)}/accept", {"automation": "audio"})
    assert (answer.status, answer.json["details"][0]["path"]) == (422, "automation")


def test_discarded_it_is_forgotten(api: Api) -> None:
    api.automation()
    run = spoken_of(api)
    assert api.call("DELETE", f"/api/v1/unknown-runs/{run}").status == 204
    assert api.call("DELETE", f"/api/v1/unknown-runs/{run}").status == 404


def test_who_may_not(api: Api) -> None:
    api.automation()
    run = spoken_of(api)
    for token in ("bob", "eve"):
        assert api.call("GET", "/api/v1/unknown-runs", token=token).status == 403
        assert api.call("GET", "/api/v1/unknown-runs?automation=video", token=token).status == 403
        assert api.call("POST", f"/api/v1/unknown-runs/{run}/accept", token=token).status == 403
        assert api.call("DELETE", f"/api/v1/unknown-runs/{run}", token=token).status == 403
        assert api.call("DELETE", f"/api/v1/unknown-runs/{uuid4()}", token=token).status == 403
    assert api.call("GET", "/api/v1/unknown-runs", token=None).status == 401
    assert str(run) in {one["id"] for one in listed(api)}
