"""Runs over HTTP: who sees which, pages, cancel, retry, logs and their stream."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from tests.integration.http.api import Api

EXECUTE = "/api/v1/automations/video/execute"
WORKER = {"token": "worker-video-1"}


def running(api: Api, key: int, **parameters: Any) -> str:
    """A Run that a worker of the older contract has started."""
    job: str = api.call("POST", EXECUTE, parameters).json["job_id"]
    api.queued(key)
    assert api.call("POST", f"/api/v1/worker/jobs/{job}/start", **WORKER).status == 200
    return job


def test_runs_are_listed_newest_first_page_by_page(api: Api) -> None:
    api.automation()
    jobs = [api.call("POST", EXECUTE, {"n": n}).json["job_id"] for n in range(5)]
    first = api.call("GET", "/api/v1/jobs?limit=2").json
    second = api.call("GET", f"/api/v1/jobs?limit=2&cursor={first['next']}").json
    third = api.call("GET", f"/api/v1/jobs?limit=2&cursor={second['next']}").json
    pages = [run["id"] for page in (first, second, third) for run in page["items"]]
    assert pages == jobs[::-1]
    assert third["next"] is None


def test_runs_are_found_by_status_automation_and_time(api: Api) -> None:
    key = api.automation()
    api.automation("other")
    job = running(api, key)
    waiting = api.call("POST", "/api/v1/automations/other/execute", {}).json["job_id"]

    def found(query: str) -> list[str]:
        return [run["id"] for run in api.call("GET", f"/api/v1/jobs?{query}").json["items"]]

    assert found("status=running") == [job]
    assert found("status=pending,Running") == [waiting, job]
    assert found("status=Queued") == []
    assert found("automation=other") == [waiting]
    assert found("automation=team.video&status=pending") == []
    accepted = api.call("GET", f"/api/v1/jobs/{waiting}").json["createdAt"]
    assert found("until=2020-01-01T00:00:00Z") == []
    assert waiting in found(f"since={accepted}")


def test_runs_that_found_nothing_to_do_are_found(api: Api) -> None:
    key = api.automation()
    idle, done = running(api, key), running(api, key)
    api.call("POST", f"/api/v1/worker/jobs/{idle}/finish", {"status": "completed_no_invoices"}, **WORKER)
    api.call("POST", f"/api/v1/worker/jobs/{done}/finish", {"status": "completed"}, **WORKER)
    failed = running(api, key)
    api.call("POST", f"/api/v1/worker/jobs/{failed}/finish", {"status": "failed"}, **WORKER)
    for status, expected in (
        ("completed_no_invoices", [idle]),
        ("failed,completed_no_invoices", [failed, idle]),
        ("completed", [done, idle]),
        ("completed,completed_no_invoices", [done, idle]),
        ("Succeeded,completed_no_invoices", [done, idle]),
    ):
        found = api.call("GET", f"/api/v1/jobs?status={status}").json["items"]
        assert [run["id"] for run in found] == expected, status


def test_a_list_leaves_attempts_out(api: Api) -> None:
    job = running(api, api.automation())
    (listed,) = api.call("GET", "/api/v1/jobs").json["items"]
    shown = api.call("GET", f"/api/v1/jobs/{job}").json
    assert set(shown) - set(listed) == {"attempts"}
    schemas = api.call("GET", "/openapi.json").json["components"]["schemas"]
    assert (set(schemas["ListedRun"]["properties"]), set(schemas["Run"]["properties"])) == (set(listed), set(shown))


def test_runs_of_an_automation_that_is_gone_are_still_found(api: Api) -> None:
    def listed() -> list[str]:
        return [run["id"] for run in api.call("GET", "/api/v1/jobs?automation=video").json["items"]]

    api.automation()
    first = api.call("POST", EXECUTE, {}).json["job_id"]
    api.forget("video")
    assert listed() == [first]
    api.automation(uid="another-uid", version="2")
    second = api.call("POST", EXECUTE, {}).json["job_id"]
    assert listed() == [second, first]
    api.forget("video", uid="another-uid")
    assert listed() == [second, first]
    assert api.call("POST", EXECUTE, {}).status == 404
    assert api.call("GET", "/api/v1/jobs?automation=never").status == 404
    assert api.call("GET", "/api/v1/jobs?automation=video", token="eve").json["items"] == []


def test_who_may_not_list_all_sees_their_own(api: Api) -> None:
    api.automation()
    anas = api.call("POST", EXECUTE, {}).json["job_id"]
    bobs = api.call("POST", EXECUTE, {}, token="bob").json["job_id"]
    assert [run["id"] for run in api.call("GET", "/api/v1/jobs", token="bob").json["items"]] == [bobs]
    assert [run["id"] for run in api.call("GET", "/api/v1/jobs?user=bob").json["items"]] == [bobs]
    assert api.call("GET", f"/api/v1/jobs/{bobs}", token="bob").status == 200
    refused = api.call("GET", f"/api/v1/jobs/{anas}", token="bob")
    assert (refused.status, refused.json["message"]) == (403, "bob may not get automations/runs of team/video")
    assert api.call("POST", f"/api/v1/jobs/{anas}/cancel", token="bob").status == 403
    assert api.call("GET", f"/api/v1/jobs/{anas}/logs", token="bob").status == 403


def test_a_waiting_run_is_canceled_at_once_and_only_once(api: Api) -> None:
    api.automation()
    job = api.call("POST", EXECUTE, {}).json["job_id"]
    canceled = api.call("POST", f"/api/v1/jobs/{job}/cancel")
    assert (canceled.status, canceled.json["status"]) == (200, "canceled")
    again = api.call("POST", f"/api/v1/jobs/{job}/cancel")
    assert again.status == 409
    assert "Canceled" in again.json["message"]


def test_a_running_run_is_asked_to_stop_and_its_worker_hears_of_it(api: Api) -> None:
    job = running(api, api.automation())
    asked = api.call("POST", f"/api/v1/jobs/{job}/cancel")
    assert (asked.status, asked.json["status"]) == (202, "running")
    assert api.call("GET", f"/api/v1/worker/jobs/{job}/cancellation", **WORKER).json == {"cancellation_requested": True}
    assert api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "canceled"}, **WORKER).status == 200
    run = api.call("GET", f"/api/v1/jobs/{job}").json
    assert run["state"] == "Canceled"
    assert run["cancellationRequestedAt"] is not None


def test_force_ends_a_running_run_now_and_fences_its_worker(api: Api) -> None:
    job = running(api, api.automation())
    assert api.call("POST", f"/api/v1/jobs/{job}/cancel?force=true").status == 200
    late = api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "completed"}, **WORKER)
    assert late.status == 409
    assert api.call("GET", f"/api/v1/jobs/{job}").json["state"] == "Canceled"


def test_a_retry_is_a_linked_copy_of_an_ended_run(api: Api) -> None:
    key = api.automation()
    job = running(api, key, n=1)
    assert api.call("POST", f"/api/v1/jobs/{job}/retry").status == 409
    result = {"error": "the portal is down", "error_class": "PORTAL_DOWN"}
    api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "failed", "result": result}, **WORKER)
    failed = api.call("GET", f"/api/v1/jobs/{job}").json
    assert (failed["status"], failed["errorClass"], failed["result"]) == ("failed", "PORTAL_DOWN", result)
    retried = api.call("POST", f"/api/v1/jobs/{job}/retry")
    assert retried.status == 202
    copy = api.call("GET", f"/api/v1/jobs/{retried.json['job_id']}").json
    assert (copy["copyOf"], copy["parameters"], copy["state"]) == (job, {"n": 1}, "Pending")
    changed = api.call("POST", f"/api/v1/jobs/{job}/retry", {"parameters": {"n": 2}}).json["job_id"]
    assert api.call("GET", f"/api/v1/jobs/{changed}").json["parameters"] == {"n": 2}


def test_a_log_is_read_page_by_page(api: Api) -> None:
    job = running(api, api.automation())
    lines = [{"level": "WARN" if n % 2 else "INFO", "message": f"line {n}", "actionable": n == 3} for n in range(5)]
    assert api.call("POST", f"/api/v1/worker/jobs/{job}/log", lines, **WORKER).status == 200
    first = api.call("GET", f"/api/v1/jobs/{job}/logs?limit=3").json
    rest = api.call("GET", f"/api/v1/jobs/{job}/logs?after={first['after']}").json
    shown = first["items"] + rest["items"]
    assert [line["message"] for line in shown] == [f"line {n}" for n in range(5)]
    assert shown[3]["actionable"] is True
    assert shown[3]["level"] == "WARNING"
    assert api.call("GET", f"/api/v1/jobs/{job}/logs?after={rest['after']}").json == {
        "items": [],
        "after": rest["after"],
    }


class Events:
    """A reader of a stream of server-sent events."""

    def __init__(self, api: Api, job: str, last: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=30)
        headers = {"Authorization": "Bearer ana"} | ({"Last-Event-ID": last} if last else {})
        self._connection.request("GET", f"/api/v1/jobs/{job}/logs/stream", headers=headers)
        self.answer = self._connection.getresponse()

    def next(self) -> dict[str, Any]:
        """The next event: `id` and `event` as they came, `data` decoded; empty at the end of the stream."""
        event: dict[str, Any] = {}
        while (line := self.answer.readline().decode().rstrip("\n")) or not event:
            if not line:
                return event
            name, _, value = line.partition(": ")
            if name:
                event[name] = json.loads(value) if name == "data" else value
        return event

    def close(self) -> None:
        self._connection.close()


def test_a_stream_follows_the_log_resumes_and_ends_with_the_run(api: Api) -> None:
    job = running(api, api.automation())
    log = f"/api/v1/worker/jobs/{job}/log"
    api.call("POST", log, {"message": "one"}, **WORKER)
    stream = Events(api, job)
    assert stream.answer.headers["Content-Type"].startswith("text/event-stream")
    one = stream.next()
    assert (one["event"], one["data"]["message"]) == ("log", "one")
    api.call("POST", log, {"message": "two"}, **WORKER)
    assert stream.next()["data"]["message"] == "two"
    stream.close()
    resumed = Events(api, job, one["id"])
    assert resumed.next()["data"]["message"] == "two"
    api.call("POST", log, {"message": "three"}, **WORKER)
    api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "completed"}, **WORKER)
    assert resumed.next()["data"]["message"] == "three"
    assert resumed.next() == {"event": "end", "data": {"status": "completed"}}
    assert resumed.next() == {}
    resumed.close()


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30])
def test_a_stream_refuses_an_odd_last_event_id(api: Api, last: str) -> None:
    job = running(api, api.automation())
    stream = Events(api, job, last)
    assert stream.answer.status == 422
    stream.close()


def test_a_stream_ends_when_the_server_stops(api: Api) -> None:
    job = running(api, api.automation())
    stream = Events(api, job)
    assert stream.answer.status == 200
    api.loop.loop.call_soon_threadsafe(api.stopping.set)
    assert stream.next() == {}
    stream.close()


def test_figures_add_up(api: Api) -> None:
    key = api.automation()
    job = running(api, key)
    api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "completed"}, **WORKER)
    running(api, key)
    api.call("POST", EXECUTE, {})
    stats = api.call("GET", "/api/v1/stats").json
    assert (stats["running"], stats["pending"], stats["succeededLast24h"], stats["failedLast24h"]) == (1, 1, 1, 0)
    assert (stats["totalLast24h"], stats["successRate24h"]) == (1, 1.0)


def test_automations_are_shown_to_who_may_see_them(api: Api) -> None:
    api.automation(displayName="Thumbnails", scriptPath="a.py", defaultParameters={"width": 1})
    api.automation("audio")
    shown = api.call("GET", "/api/v1/automations").json["items"]
    assert [automation["id"] for automation in shown] == ["team.audio", "team.video"]
    one = api.call("GET", "/api/v1/automations/video").json
    assert (one["displayName"], one["scriptPath"], one["queueName"]) == ("Thumbnails", "a.py", "maestro.team.video")
    assert one["defaultParams"] == {"width": 1}
    assert api.call("GET", "/api/v1/automations", token="eve").json == {"items": []}
    assert api.call("GET", "/api/v1/automations?namespace=team", token="eve").status == 403
    assert api.call("GET", "/api/v1/automations?namespace=elsewhere").json == {"items": []}


def test_a_blocked_key_is_listed_and_released(api: Api) -> None:
    key = api.automation(run={"orderingKey": ["customer"], "onKeyFailure": "Block"})
    job = running(api, key, customer=1)
    second = api.call("POST", EXECUTE, {"customer": 1}).json["job_id"]
    path = "/api/v1/automations/video/keys"
    assert api.call("GET", path).json == {"items": []}
    assert [found["openRuns"] for found in api.call("GET", f"{path}?blocked=false").json["items"]] == [2]
    api.call("POST", f"/api/v1/worker/jobs/{job}/finish", {"status": "failed"}, **WORKER)
    assert api.queued(key) == []
    (blocked,) = api.call("GET", path).json["items"]
    assert blocked["blockedBy"] == job
    assert api.call("DELETE", f"{path}/{blocked['key']}", token="bob").status == 403
    assert api.call("DELETE", f"{path}/{blocked['key']}").status == 204
    assert api.call("DELETE", f"{path}/{blocked['key']}").status == 404
    assert api.call("DELETE", f"{path}/nonsense").status == 404
    assert [str(claimed.id) for claimed in api.queued(key)] == [second]


def test_a_worker_of_an_automation_that_was_made_anew_keeps_to_the_old_ones_runs(api: Api) -> None:
    """The name is the same, the UID is not."""
    old = running(api, api.automation(), n=1)
    waiting = api.call("POST", EXECUTE, {}).json["job_id"]
    api.loop.run(api.store.deregister("uid-of-video"))
    key = api.automation(uid="another-uid", version="2")
    new = api.call("POST", EXECUTE, {}).json["job_id"]
    api.queued(key)
    refused = api.call("POST", f"/api/v1/worker/jobs/{new}/start", **WORKER)
    assert (refused.status, refused.json["reason"]) == (403, "NotYourRun")
    assert api.call("POST", f"/api/v1/worker/jobs/{old}/finish", {"status": "completed"}, **WORKER).status == 200
    assert api.call("GET", f"/api/v1/jobs/{waiting}").json["reason"] == "AutomationDeleted"
    shown = api.call("GET", f"/api/v1/jobs/{old}").json
    assert (shown["state"], shown["parameters"]) == ("Succeeded", {"n": 1})
