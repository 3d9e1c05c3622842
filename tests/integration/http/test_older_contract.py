"""Workers of the older contract over HTTP: the cells that their code depends on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.http.api import API_KEY, Answer, Api

ONE, TWO = "worker-video-1", "worker-video-2"


class OlderWorker:
    """Calls the API as a worker of the older contract does: no attempt, no identity, only its credentials."""

    def __init__(self, api: Api, job: str, token: str | None, headers: dict[str, str] | None = None) -> None:
        self._api = api
        self._base = f"/api/v1/worker/jobs/{job}"
        self._who: dict[str, Any] = {"token": token, "headers": headers}

    def status(self) -> Any:
        return self._api.call("GET", f"{self._base}/status", **self._who).json

    def start(self, content: Any = None) -> Answer:
        return self._api.call("POST", f"{self._base}/start", content, **self._who)

    def log(self, message: str) -> Answer:
        return self._api.call("POST", f"{self._base}/log", {"level": "INFO", "message": message}, **self._who)

    def canceled(self) -> bool:
        answer = self._api.call("GET", f"{self._base}/cancellation", **self._who)
        assert answer.status == 200
        requested: bool = answer.json["cancellation_requested"]
        return requested

    def finish(self, status: str, **more: Any) -> Answer:
        return self._api.call("POST", f"{self._base}/finish", {"status": status, **more}, **self._who)


@pytest.fixture
def job(api: Api) -> str:
    """A Run whose message is on its way."""
    key = api.automation()
    accepted: str = api.call("POST", "/api/v1/automations/video/execute", {"n": 1}).json["job_id"]
    api.queued(key)
    return accepted


def state(api: Api, job: str) -> tuple[str, str | None]:
    run = api.call("GET", f"/api/v1/jobs/{job}").json
    return run["state"], run["reason"]


def test_the_whole_way(api: Api, job: str) -> None:
    worker = OlderWorker(api, job, ONE)
    before = worker.status()
    assert (before["status"], before["terminal"], before["retry_count"]) == ("pending", False, 0)
    assert worker.start().status == 200
    assert worker.status()["status"] == "running"
    assert worker.log("working").status == 200
    assert worker.canceled() is False
    assert worker.finish("completed", result={"summary": {"ok": 3}}).status == 200
    after = worker.status()
    assert (after["status"], after["terminal"]) == ("completed", True)
    run = api.call("GET", f"/api/v1/jobs/{job}").json
    assert run["result"] == {"summary": {"ok": 3}}
    assert run["startedAt"] <= run["completedAt"]


def test_an_empty_object_is_no_body(api: Api, job: str) -> None:
    assert OlderWorker(api, job, ONE).start({}).status == 200
    assert state(api, job)[0] == "Running"


def test_a_run_without_invoices_is_a_success_of_its_own_word(api: Api, job: str) -> None:
    worker = OlderWorker(api, job, ONE)
    worker.start()
    worker.finish("completed_no_invoices")
    assert worker.status()["status"] == "completed_no_invoices"
    assert state(api, job)[0] == "Succeeded"


def test_their_failed_is_final(api: Api, job: str) -> None:
    worker = OlderWorker(api, job, ONE)
    worker.start()
    assert worker.finish("failed", result={"error": "x", "error_class": "PORTAL_DOWN"}).status == 200
    assert state(api, job)[0] == "Failed"


def test_a_stranger_is_refused_and_told_to_stop(api: Api, job: str) -> None:
    assert OlderWorker(api, job, ONE).start().status == 200
    stranger = OlderWorker(api, job, TWO)
    refused = stranger.start()
    assert (refused.status, refused.json["reason"]) == (409, "running")
    assert stranger.log("x").status == 409
    assert stranger.finish("failed").status == 409
    assert stranger.canceled() is True
    assert state(api, job)[0] == "Running"
    assert OlderWorker(api, job, ONE).canceled() is False


def test_a_refused_canceled_is_no_error_for_a_handler_without_a_try(api: Api, job: str) -> None:
    OlderWorker(api, job, ONE).start()
    refused = OlderWorker(api, job, TWO).finish("canceled")
    assert (refused.status, refused.json["accepted"]) == (200, False)
    assert state(api, job)[0] == "Running"


def test_a_start_before_its_time_is_not_due(api: Api) -> None:
    api.automation()
    job = api.call("POST", "/api/v1/automations/video/execute", {}).json["job_id"]
    refused = OlderWorker(api, job, ONE).start()
    assert (refused.status, refused.json["reason"]) == (409, "notDue")


def test_after_the_end_a_start_is_refused_and_a_poll_says_stop(api: Api, job: str) -> None:
    worker = OlderWorker(api, job, ONE)
    worker.start()
    worker.finish("completed")
    refused = worker.start()
    assert (refused.status, refused.json["reason"]) == (409, "ended")
    assert worker.canceled() is True
    assert worker.log("too late").status == 409
    assert worker.finish("completed").status == 200, "the same end again"
    assert worker.finish("failed").status == 409
    assert worker.finish("canceled").json["accepted"] is False


def test_a_container_that_began_anew_gets_a_new_attempt(api: Api, job: str) -> None:
    worker = OlderWorker(api, job, ONE)
    assert worker.start().json["attempt"] == 1
    assert worker.start().json["attempt"] == 2
    assert worker.status()["retry_count"] == 1


def test_with_the_shared_key_the_address_is_the_identity(api: Api, job: str) -> None:
    worker = OlderWorker(api, job, None, {"X-Worker-API-Key": API_KEY})
    assert worker.start().status == 200
    assert worker.finish("completed").status == 200
    attempts = api.call("GET", f"/api/v1/jobs/{job}").json["attempts"]
    assert [attempt["pod"] for attempt in attempts] in ([], ["127.0.0.1"])


def test_the_older_routes_take_the_sdks_identity_too(api: Api, job: str) -> None:
    base = f"/api/v1/worker/jobs/{job}"
    who = {"worker": "uid-of-a-pod/process", "attempt": 1}
    start = {"worker": who["worker"], "pub": 1, "epoch": 1, "store": "s", "redelivered": False}
    assert api.call("POST", f"{base}/start", start, token=ONE).json["attempt"] == 1
    fenced = api.call("POST", f"{base}/log", {"message": "x", "worker": "another/p", "attempt": 1}, token=ONE)
    assert (fenced.status, fenced.json["reason"]) == (409, "fenced")
    assert api.call("POST", f"{base}/log", [{"message": "x", **who}, {"message": "y"}], token=ONE).status == 200
    poll = api.call("GET", f"{base}/cancellation?attempt=1&worker=uid-of-a-pod/process", token=ONE)
    assert poll.json == {"cancellation_requested": False}
    assert api.call("GET", f"{base}/cancellation?attempt=2&worker=uid-of-a-pod/process", token=ONE).json == {
        "cancellation_requested": True
    }
    assert api.call("POST", f"{base}/finish", {"status": "completed", **who}, token=ONE).status == 200
    assert state(api, job)[0] == "Succeeded"
