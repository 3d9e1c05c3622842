"""Cancel and retry by filter: counts, what is refused, and going on where a request ended."""

from __future__ import annotations

from typing import Any

from tests.integration.http.api import Api
from tests.integration.http.test_runs import EXECUTE, WORKER, running

CANCEL, RETRY = "/api/v1/jobs/cancel", "/api/v1/jobs/retry"


def failed(api: Api, key: int, **parameters: Any) -> str:
    job = running(api, key, **parameters)
    api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "failed", "error_class": "PORTAL_DOWN"}, **WORKER)
    return job


def status(api: Api, job: str) -> str:
    shown: str = api.call("GET", f"/api/v1/jobs/{job}").json["status"]
    return shown


def test_a_filter_cancels_many_in_bounded_steps(api: Api) -> None:
    key = api.automation()
    api.automation("other")
    works = running(api, key)
    many = [{"labels": {"batch": "a"}} for _ in range(1200)]
    api.call("POST", "/api/v1/automations/video/execute-many", many)
    spared = api.call("POST", "/api/v1/automations/other/execute", {}).json["job_id"]
    counted = api.call("POST", CANCEL, {"automation": "video", "limit": 5000, "dryRun": True}).json
    assert (counted["matched"], counted["canceled"]) == (1201, 0)

    canceled, cursor, requests = 0, None, 0
    while True:
        wanted = {"automation": "video", "limit": 700} | ({"cursor": cursor} if cursor else {})
        answer = api.call("POST", CANCEL, wanted)
        assert answer.status == 200, answer.body
        requests += 1
        canceled += answer.json["canceled"]
        asked = answer.json["requested"]
        cursor = answer.json["next"]
        if cursor is None:
            break
    assert (canceled, asked, requests) == (1200, 1, 2)
    assert status(api, works) == "running"
    assert status(api, spared) == "pending"
    again = api.call("POST", CANCEL, {"labels": {"batch": "a"}, "status": "canceled"}).json
    assert again["canceled"] == 0
    assert again["refused"]["byReason"] == {"ended": 1000}
    assert len(again["refused"]["items"]) == 20
    assert again["next"] is not None


def test_who_may_not_touch_all_touches_their_own(api: Api) -> None:
    api.automation()
    anas = api.call("POST", EXECUTE, {}).json["job_id"]
    bobs = api.call("POST", EXECUTE, {}, token="bob").json["job_id"]
    answer = api.call("POST", CANCEL, {"automation": "video"}, token="bob")
    assert answer.json["canceled"] == 1
    assert (status(api, anas), status(api, bobs)) == ("pending", "canceled")
    assert api.call("POST", CANCEL, {"user": "ana"}, token="bob").status == 403


def test_failed_runs_are_retried_once_for_each_key(api: Api) -> None:
    key = api.automation()
    jobs = [failed(api, key, n=n) for n in range(3)]
    headers = {"Idempotency-Key": "after-the-outage"}
    first = api.call("POST", RETRY, {"automation": "video", "limit": 2}, headers=headers)
    assert first.status == 200, first.body
    assert (first.json["matched"], first.json["accepted"]) == (2, 2)
    assert [item["copyOf"] for item in first.json["items"]] == jobs[:2]
    # The answer got lost: the same request makes no second copies, and the next one goes on.
    again = api.call("POST", RETRY, {"automation": "video", "limit": 2}, headers=headers).json
    assert again["items"] == first.json["items"]
    wanted = {"automation": "video", "limit": 2, "cursor": first.json["next"]}
    rest = api.call("POST", RETRY, wanted, headers=headers).json
    assert [item["copyOf"] for item in rest["items"]] == jobs[2:]
    assert rest["next"] is None
    copy = api.call("GET", f"/api/v1/jobs/{rest['items'][0]['job_id']}").json
    assert (copy["parameters"], copy["copyOf"]) == ({"n": 2}, jobs[2])


def test_what_doesnt_fit_is_left_for_later(api: Api) -> None:
    key = api.automation()
    jobs = [failed(api, key, n=n) for n in range(4)]
    api.automation(version="2", run={"maxPending": 2})
    api.cache.get("team", "video")["metadata"]["generation"] = 2  # type: ignore[index]
    found = api.call("POST", RETRY, {"automation": "video"})
    assert found.status == 200, found.body
    assert (found.json["matched"], found.json["accepted"]) == (2, 2)
    assert found.json["refused"]["byReason"] == {"Backlog": 1}
    full = api.call("POST", RETRY, {"automation": "video", "cursor": found.json["next"]})
    assert full.status == 429
    assert "Retry-After" in full.headers
    api.call("POST", CANCEL, {"automation": "video"})
    rest = api.call("POST", RETRY, {"automation": "video", "cursor": found.json["next"]}).json
    assert [item["copyOf"] for item in rest["items"]] == jobs[2:]


def test_figures_by_hour_automation_and_error_class(api: Api) -> None:
    key = api.automation(displayName="Films")
    failed(api, key)
    done = running(api, key)
    api.call("POST", f"/api/v1/worker/jobs/{done}/finish", {"status": "completed"}, **WORKER)
    hours = api.call("GET", "/api/v1/metrics/jobs-per-hour?hours=2").json["items"]
    assert len(hours) == 2
    assert sum(hour["total"] for hour in hours) == 2
    (figures,) = api.call("GET", "/api/v1/metrics/automations").json["items"]
    assert (figures["name"], figures["succeeded"], figures["failed"], figures["successRate"]) == ("Films", 1, 1, 0.5)
    assert figures["recent"] == ["completed", "failed"]
    classes = api.call("GET", "/api/v1/metrics/error-classes?automation=video").json["items"]
    assert classes == [{"errorClass": "PORTAL_DOWN", "count": 1}]
    assert api.call("GET", "/api/v1/metrics/automations", token="bob").status == 403
    assert api.call("GET", "/api/v1/metrics/error-classes?automation=never").status == 404
