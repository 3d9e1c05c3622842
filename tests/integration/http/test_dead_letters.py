"""Dead letters over HTTP: who sees which, how they are shown, redriven and discarded."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from tests.integration.http.api import Api, FakeCluster

from maestro.runs.deadletters import DeadLetters
from maestro.runs.letters import Letter, read
from maestro.runs.model import Claimed

LETTERS = "/api/v1/dead-letters"
QUEUE = "maestro.team.video"
SCHEMA = {
    "type": "object",
    "properties": {"url": {"type": "string", "maxLength": 10}, "password": {"type": "string", "writeOnly": True}},
    "required": ["url"],
    "additionalProperties": False,
}
_numbers = itertools.count(1)


class Message:
    """What a consumer would have brought."""

    def __init__(self, body: bytes, queue: str = QUEUE, reason: str = "rejected", **headers: Any) -> None:
        number = next(_numbers)
        self.connection, self.tag, self.redelivered = 1, number, False
        self.exchange, self.routing_key = "maestro.dlx", queue
        self.headers = {"x-death": [{"queue": queue, "reason": reason, "count": 1}], **headers}
        self.message_id, self.content_type, self.body = f"message-{number}", "application/json", body


class Box:
    """Puts dead letters into an API's store, as the leader does."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.leadership = api.loop.run(api.store.win_leadership())

    def put(self, *bodies: bytes, **message: Any) -> list[int]:
        """Record messages; their numbers, the newest first."""
        self.record([read(Message(body, **message)) for body in bodies])
        return self.ids()

    def of(self, run: Claimed, **message: Any) -> int:
        """Record a rejected publication of a Run."""
        headers = {"maestro-pub": run.pub, "maestro-epoch": 1, "maestro-store": self.leadership.store_id}
        return self.put(json.dumps({"job_id": str(run.id)}).encode(), **headers, **message)[0]

    def record(self, letters: list[Letter]) -> None:
        record = DeadLetters(self.api.store).record(letters, epoch=None, store_id=self.leadership.store_id)
        self.api.loop.run(record)

    def ids(self, asked: str = "") -> list[int]:
        return [letter["id"] for letter in self.api.call("GET", f"{LETTERS}?{asked}").json["items"]]


@pytest.fixture
def box(api: Api) -> Box:
    return Box(api)


def queued(api: Api, key: int, **parameters: Any) -> Claimed:
    """A Run that is on its queue."""
    api.call("POST", "/api/v1/automations/video/execute", parameters)
    run: Claimed = api.queued(key)[-1]
    return run


def test_a_letter_is_listed_and_shown_with_its_run(api: Api, box: Box) -> None:
    run = queued(api, api.automation(), url="s3://a")
    letter = box.of(run)
    (listed,) = api.call("GET", LETTERS).json["items"]
    shown = api.call("GET", f"{LETTERS}/{letter}").json
    assert set(shown) - set(listed) == {"body"}
    assert (shown["automationId"], shown["runId"], shown["queue"]) == ("team.video", str(run.id), QUEUE)
    assert (shown["reason"], shown["count"], shown["publication"]) == ("rejected", 1, run.pub)
    assert shown["body"] == {"encoding": "json", "content": {"job_id": str(run.id)}, "redacted": False}
    failed = api.call("GET", f"/api/v1/jobs/{run.id}").json
    assert (failed["state"], failed["reason"]) == ("Failed", "DeadLettered")
    assert f"dead letter {letter}" in failed["message"]


@pytest.mark.parametrize(
    ("body", "encoding", "content"),
    [
        (b'{"a": [1, "\\u00e4"]}', "json", {"a": [1, "ä"]}),
        (b"plain text", "text", "plain text"),
        (b"\x89PNG\x00", "base64", base64.b64encode(b"\x89PNG\x00").decode()),
    ],
)
def test_how_a_body_is_shown(api: Api, box: Box, body: bytes, encoding: str, content: Any) -> None:
    api.automation()
    (letter,) = box.put(body)
    shown = api.call("GET", f"{LETTERS}/{letter}").json
    assert (shown["body"]["encoding"], shown["body"]["content"], shown["size"]) == (encoding, content, len(body))
    whole = api.call("GET", f"{LETTERS}/{letter}/body")
    assert (whole.body, whole.headers["content-type"]) == (body, "application/octet-stream")


def test_a_large_body_is_there_as_a_whole_only(api: Api, box: Box) -> None:
    api.automation()
    body = b"\x00" * 5_000_000
    (letter,) = box.put(body)
    assert api.call("GET", f"{LETTERS}/{letter}").json["body"]["encoding"] == "none"
    assert api.call("GET", f"{LETTERS}/{letter}/body").body == body
    refused = api.call("POST", f"{LETTERS}/{letter}/redrive", {"parameters": {"url": "x"}})
    assert (refused.status, "at most 1048576" in refused.json["message"]) == (409, True)


def test_secret_parameters_are_shown_to_nobody(api: Api, box: Box) -> None:
    api.automation(parameterSchema=SCHEMA)
    letter = box.put(json.dumps({"url": "s3", "password": "hush"}).encode())[0]
    shown = api.call("GET", f"{LETTERS}/{letter}").json["body"]
    assert (shown["content"]["url"], shown["redacted"]) == ("s3", True)
    for path in ("", "/body"):
        assert b"hush" not in api.call("GET", f"{LETTERS}/{letter}{path}").body
    job = api.call("POST", f"{LETTERS}/{letter}/redrive").json["job_id"]
    (run,) = api.queued(api.store.live("team.video")[0])  # type: ignore[index]
    assert str(run.id) == job
    assert api.loop.run(api.store.get(run.id)).parameters["password"] == "hush", "the Run has it all the same"  # type: ignore[union-attr]


def test_letters_are_found_by_what_they_are_about(api: Api, box: Box) -> None:
    run = queued(api, api.automation(), url="s3://a")
    api.automation("other")
    first = box.of(run)
    second = box.put(b"{}", reason="expired", queue="maestro.team.other")[0]
    third = box.put(b"{}", queue="nobodys")[0]
    assert box.ids() == [third, second, first]
    assert box.ids("automation=video") == [first]
    assert box.ids("automation=team.other&namespace=team") == [second]
    assert box.ids("automation=team.other&namespace=shop") == []
    assert box.ids("namespace=team") == [second, first]
    assert box.ids("queue=nobodys") == [third]
    assert box.ids("reason=rejected") == [third, first]
    assert box.ids(f"run={run.id}") == [first]
    assert box.ids("until=2020-01-01T00:00:00Z") == []
    assert box.ids("since=2020-01-01T00:00:00Z&redriven=true") == []
    page = api.call("GET", f"{LETTERS}?limit=2").json
    assert box.ids(f"limit=2&cursor={page['next']}") == [first]
    for bad in ("cursor=x", "run=x", "reason=" + "x" * 65, "namespace=.", "colour=red"):
        assert api.call("GET", f"{LETTERS}?{bad}").status == 422, bad
    assert api.call("GET", f"{LETTERS}?automation=never").status == 404


class Namespaced(FakeCluster):
    """`bob` may do everything with dead letters of the namespace `team`, and nothing else."""

    async def subject_access_review(self, spec: dict[str, Any]) -> dict[str, Any]:
        wanted = spec["resourceAttributes"]
        ours = wanted.get("namespace") == "team" and wanted.get("subresource") == "deadletters"
        return {"status": {"allowed": spec["user"] == "ana" or (spec["user"] == "bob" and ours)}}


def test_everybody_sees_the_letters_of_their_namespaces(api: Api, box: Box) -> None:
    api.authenticator._reviews = Namespaced()
    api.automation()
    (ours,) = box.put(b'{"url": "x"}')
    theirs = box.put(b"{}", queue="nobodys")[0]

    def seen(asked: str = "", token: str = "bob") -> Any:
        return [letter["id"] for letter in api.call("GET", f"{LETTERS}?{asked}", token=token).json["items"]]

    assert seen() == seen("namespace=team") == seen("automation=video") == [ours]
    assert seen("queue=nobodys") == []
    assert seen(token="eve") == []
    refused = api.call("GET", f"{LETTERS}?namespace=shop", token="bob")
    assert (refused.status, refused.json["message"]) == (
        403,
        "bob may not list automations/deadletters in namespace shop",
    )
    refused = api.call("GET", f"{LETTERS}/{theirs}", token="bob")
    assert refused.json["message"] == "bob may not get automations/deadletters in all namespaces"
    for method, path in (("GET", ""), ("GET", "/body"), ("DELETE", ""), ("POST", "/redrive")):
        assert api.call(method, f"{LETTERS}/{ours}{path}", token="eve").status == 403
    refused = api.call("POST", f"{LETTERS}/{ours}/redrive", token="bob")
    assert refused.json["message"] == "bob may not create automations/execute of team/video"
    many = api.call("POST", f"{LETTERS}/redrive", {"namespace": "team"}, token="bob").json
    assert (many["refused"], many["items"][0]["error"]) == (1, "bob may not create automations/execute of team/video")
    assert api.call("DELETE", f"{LETTERS}?since=2020-01-01T00:00:00Z", token="bob").json["discarded"] == 1
    assert box.ids() == [theirs]


def test_a_failed_run_goes_again_with_other_parameters(api: Api, box: Box) -> None:
    run = queued(api, api.automation(parameterSchema=SCHEMA), url="s3://a", password="hush")
    letter = box.of(run)
    wrong = api.call("POST", f"{LETTERS}/{letter}/redrive", {"parameters": {"url": "far too long"}})
    assert (wrong.status, wrong.json["details"][0]["path"]) == (422, "url")
    answer = api.call("POST", f"{LETTERS}/{letter}/redrive", {"parameters": {"url": "s3://b"}})
    assert (answer.status, answer.json["status"], answer.json["again"]) == (202, "pending", False)
    copy = api.call("GET", answer.headers["Location"]).json
    assert (copy["copyOf"], copy["parameters"]["url"], copy["userId"]) == (str(run.id), "s3://b", "ana")
    shown = api.call("GET", f"{LETTERS}/{letter}").json
    assert (shown["redrivenAs"], shown["redrivenBy"]) == (copy["id"], "ana")
    again = api.call("POST", f"{LETTERS}/{letter}/redrive")
    assert (again.status, copy["id"] in again.json["message"]) == (409, True)
    assert box.ids("redriven=false") == []


def test_a_run_that_is_queued_still_is_published_again(api: Api, box: Box) -> None:
    run = queued(api, api.automation(), url="s3://a")
    old = Claimed(run.seq, run.id, run.automation, 0, 1, None)
    letter = box.of(old)
    assert api.call("POST", f"{LETTERS}/{letter}/redrive", {"parameters": {"url": "b"}}).status == 409
    answer = api.call("POST", f"{LETTERS}/{letter}/redrive").json
    assert (answer["job_id"], answer["again"]) == (str(run.id), True)
    (again,) = api.queued(run.automation)
    assert (again.id, again.pub > run.pub) == (run.id, True)


def test_a_foreign_message_becomes_a_run_when_its_parameters_fit(api: Api, box: Box) -> None:
    key = api.automation(parameterSchema=SCHEMA)
    letter = box.put(b'{"url": "s3://c"}')[0]
    job = api.call("POST", f"{LETTERS}/{letter}/redrive").json["job_id"]
    run = api.call("GET", f"/api/v1/jobs/{job}").json
    assert (run["automationId"], run["parameters"], run["copyOf"]) == ("team.video", {"url": "s3://c"}, None)
    assert len(api.queued(key)) == 1


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"\xff\x00", 409, "isn't a JSON object; give `parameters`"),
        (b"[1]", 409, "isn't a JSON object"),
        (b'{"job_id": "00000000-0000-7000-8000-000000000000", "attempt": 1}', 409, "doesn't carry its parameters"),
        (b'{"url": 5}', 422, "url: the value is not of type"),
        (b'{"colour": "red", "url": "x"}', 422, "colour"),
        (b'{"url": "a\\u0000b"}', 400, "NUL"),
        (b'{"url": ' + b'{"a": ' * 200 + b"1" + b"}" * 201, 400, "64 levels"),
    ],
)
def test_a_message_that_cannot_become_a_run_says_why(api: Api, box: Box, body: bytes, status: int, why: str) -> None:
    api.automation(parameterSchema=SCHEMA)
    letter = box.put(body)[0]
    refused = api.call("POST", f"{LETTERS}/{letter}/redrive")
    assert refused.status == status
    assert why in refused.json["message"]
    assert box.ids("redriven=false") == [letter]


def test_what_a_message_lacks_may_be_given(api: Api, box: Box) -> None:
    api.automation(parameterSchema=SCHEMA)
    letter = box.put(b"not json")[0]
    job = api.call("POST", f"{LETTERS}/{letter}/redrive", {"parameters": {"url": "s3://d"}}).json["job_id"]
    assert api.call("GET", f"/api/v1/jobs/{job}").json["parameters"] == {"url": "s3://d"}


def test_letters_of_nobody_and_of_what_is_gone_cannot_go(api: Api, box: Box) -> None:
    api.automation()
    letter = box.put(b"{}", queue="nobodys")[0]
    refused = api.call("POST", f"{LETTERS}/{letter}/redrive")
    assert (refused.status, "belongs to no Automation" in refused.json["message"]) == (409, True)
    letter = box.put(b"{}")[0]
    api.forget("video")
    refused = api.call("POST", f"{LETTERS}/{letter}/redrive")
    assert (refused.status, "team.video is gone" in refused.json["message"]) == (409, True)
    api.automation(uid="another", version="2")
    assert "team.video is gone" in api.call("POST", f"{LETTERS}/{letter}/redrive").json["message"]
    assert box.ids("automation=video") == [letter], "letters outlive their Automation"


def test_many_are_redriven_each_for_itself(api: Api, box: Box) -> None:
    api.automation(parameterSchema=SCHEMA)
    good = box.put(b'{"url": "a"}', b'{"url": "b"}', b"?", b'{"url": "c"}')
    assert api.call("POST", f"{LETTERS}/redrive", {}).status == 422, "not all that there are, by an oversight"
    answer = api.call(
        "POST", f"{LETTERS}/redrive", {"automation": "video", "limit": 3, "parameters": {"password": "p"}}
    )
    assert answer.status == 200, answer.body
    found = answer.json
    assert [item["id"] for item in found["items"]] == good[:3]
    assert (found["redriven"], found["refused"]) == (2, 1)
    assert [item["error"] for item in found["items"]] == [None, "url: is required", None]
    rest = api.call("POST", f"{LETTERS}/redrive", {"automation": "video", "cursor": found["next"]}).json
    assert (rest["redriven"], rest["refused"], rest["next"]) == (1, 0, None)
    (left,) = api.call("POST", f"{LETTERS}/redrive", {"queue": QUEUE}).json["items"]
    assert (left["id"], "isn't a JSON object" in left["error"]) == (good[1], True)
    done = api.call("POST", f"{LETTERS}/redrive", {"queue": QUEUE, "parameters": {"url": "d"}}).json
    assert (done["redriven"], done["refused"]) == (1, 0)


def test_past_max_pending_nothing_is_redriven(api: Api, box: Box) -> None:
    api.automation(run={"maxPending": 1})
    api.call("POST", "/api/v1/automations/video/execute", {})
    letter = box.put(b"{}")[0]
    refused = api.call("POST", f"{LETTERS}/{letter}/redrive")
    assert (refused.status, "Retry-After" in refused.headers) == (429, True)
    assert box.ids("redriven=false") == [letter]


def test_letters_are_discarded_one_or_many(api: Api, box: Box) -> None:
    api.automation()
    letters = box.put(*[b"{}"] * 5)
    assert api.call("DELETE", f"{LETTERS}/{letters[0]}").status == 204
    assert api.call("DELETE", f"{LETTERS}/{letters[0]}").status == 404
    assert api.call("DELETE", LETTERS).status == 422
    assert api.call("DELETE", f"{LETTERS}?automation=video&limit=3").json == {"discarded": 3, "more": True}
    assert api.call("DELETE", f"{LETTERS}?automation=video").json == {"discarded": 1, "more": False}
    assert box.ids() == []


@pytest.mark.parametrize("given", ["0", "x", "9" * 30, "-1", "1.5", "%00"])
def test_what_is_no_letter_is_not_found(api: Api, given: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/body"), ("POST", "/redrive")):
        assert api.call(method, f"{LETTERS}/{given}{path}").status == 404
