"""Dead letters: what is read of a message, and by what one is told from another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from maestro.runs.letters import PUBLISHED, Unusable, parameters_of, read, redacted, shown

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"
DEATH = {
    "count": 3,
    "reason": "delivery_limit",
    "queue": "maestro.team.work",
    "time": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    "exchange": "",
    "routing-keys": ["maestro.team.work"],
}
OURS = {"maestro-store": "store", "maestro-epoch": 2, "maestro-pub": 7}


@dataclass(frozen=True)
class Message:
    connection: int = 1
    tag: int = 1
    redelivered: bool = False
    exchange: str = "maestro.dlx"
    routing_key: str = "maestro.team.work"
    headers: dict[str, Any] = field(default_factory=lambda: {"x-death": [DEATH], **OURS})
    message_id: str | None = RUN
    content_type: str | None = "application/json"
    body: bytes = json.dumps({"job_id": RUN}).encode()


def test_a_letter_of_a_run() -> None:
    letter = read(Message())
    assert (letter.queue, letter.reason, letter.count) == ("maestro.team.work", "delivery_limit", 3)
    assert letter.died_at == int(DEATH["time"].timestamp()) * 1_000_000  # type: ignore[attr-defined]
    assert (letter.run_id, letter.store, letter.pub) == (UUID(RUN), "store", 7)
    assert letter.distinct
    assert letter.headers["x-death"][0]["time"] == "2030-01-02T03:04:05+00:00"


def test_the_last_death_counts() -> None:
    elsewhere = {**DEATH, "queue": "somebody.elses", "reason": "expired"}
    letter = read(Message(headers={"x-death": [DEATH, elsewhere]}))
    assert (letter.queue, letter.reason) == ("maestro.team.work", "delivery_limit")


@pytest.mark.parametrize("headers", [{}, {"x-death": []}, {"x-death": "?"}, {"x-death": [5]}, {"x-death": [{}]}])
def test_what_no_queue_gave_up(headers: dict[str, Any]) -> None:
    letter = read(Message(headers=headers, message_id=None, body=b"\xff\x00"))
    assert (letter.queue, letter.reason, letter.count, letter.died_at) == ("", PUBLISHED, 1, None)
    assert (letter.run_id, letter.pub, letter.store) == (None, None, None)
    assert not letter.distinct


def test_a_letter_is_the_same_however_often_it_comes() -> None:
    first = read(Message())
    assert read(Message(connection=5, tag=9, redelivered=True)).identity == first.identity
    later = {**DEATH, "time": datetime(2030, 1, 2, 3, 4, 6, tzinfo=UTC)}
    others = [
        Message(headers={"x-death": [DEATH], **OURS, "maestro-pub": 8}),
        Message(headers={"x-death": [DEATH], **OURS, "maestro-store": "other"}),
        Message(headers={"x-death": [later], **OURS}),
        Message(headers={"x-death": [{**DEATH, "queue": "other"}], **OURS}),
        Message(message_id="other"),
        Message(body=b"other"),
    ]
    assert len({first.identity, *(read(other).identity for other in others)}) == len(others) + 1


def test_headers_become_json() -> None:
    headers = {
        "bytes": b"\xff",
        "text": b"text",
        "nested": {"list": [1, True, None, Decimal("1.5"), float("inf")]},
        "at": datetime(2030, 1, 1),
    }
    assert json.loads(json.dumps(read(Message(headers=headers)).headers)) == {
        "bytes": {"base64": "/w=="},
        "text": "text",
        "nested": {"list": [1, True, None, "1.5", "inf"]},
        "at": "2030-01-01T00:00:00+00:00",
    }


def test_odd_values_where_others_are_expected() -> None:
    death = {"queue": "a\0b\ud800", "reason": 5, "count": "many", "time": "yesterday"}
    headers = {"x-death": [death], "maestro-pub": True, "maestro-store": 7}
    letter = read(replace(Message(), headers=headers, message_id="x" * 36))
    assert (letter.queue, letter.reason, letter.count) == ("a\ufffdb?", PUBLISHED, 1)
    assert (letter.pub, letter.store, letter.run_id) == (None, None, UUID(RUN))


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        (b'{"url": "s3://a"}', {"url": "s3://a"}),
        (b'{"job_id": "x", "parameters": {"n": 1}}', {"n": 1}),
        (b'{"parameters": {"n": 1}, "other": 2}', {"n": 1}),
        (b"{}", {}),
    ],
)
def test_parameters_in_a_body(body: bytes, parameters: dict[str, Any]) -> None:
    assert parameters_of(body) == parameters


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "isn't a JSON object"),
        (b"\xff", "isn't a JSON object"),
        (b"[1]", "isn't a JSON object"),
        (b"[" * 100_000, "isn't a JSON object"),
        (b'{"job_id": "x", "attempt": 1}', "doesn't carry its parameters"),
    ],
)
def test_a_body_without_parameters_says_why(body: bytes, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        parameters_of(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": [1]}', ("json", {"a": [1]})),
        (b"NaN", ("text", "NaN")),
        ("Grüße\n".encode(), ("text", "Grüße\n")),
        (b"", ("text", "")),
        (b"\x00\x01", ("base64", "AAE=")),
        (b"\xff", ("base64", "/w==")),
    ],
)
def test_how_a_body_is_shown(body: bytes, expected: tuple[str, Any]) -> None:
    assert shown(body) == expected


def test_secret_parameters_are_hidden_wherever_they_stand() -> None:
    def redact(parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: "hidden" if name == "password" else value for name, value in parameters.items()}

    for body in (b'{"password": "x"}', b'{"parameters": {"password": "x"}}'):
        assert b"x" not in redacted(body, redact)
        assert b"hidden" in redacted(body, redact)
    for body in (b'{"url": 1}', b"\xff", b"[1]"):
        assert redacted(body, redact) is body
