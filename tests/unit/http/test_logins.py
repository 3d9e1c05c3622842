"""Roles, tokens, the throttle and rules of passwords."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from maestro.http.logins import passwords, roles, tokens
from maestro.http.logins.throttle import Throttle
from maestro.http.logins.tokens import Holder

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
KEY, OTHER = b"k" * 64, b"o" * 64
ANA = Holder("ana", 3)


@pytest.mark.parametrize(
    ("permission", "expected"),
    [
        (("get", "automations"), "viewer operator admin"),
        (("list", "automations", "runs"), "viewer operator admin"),
        (("create", "automations", "execute"), "operator admin"),
        (("update", "automations", "runs"), "operator admin"),
        (("delete", "automations", "deadletters"), "operator admin"),
        (("approve", "reprocessings"), "operator admin"),
        (("create", "reprocessings"), "operator admin"),
        (("delete", "reprocessings"), "admin"),
        (("create", "automations"), "admin"),
        (("update", "schedules"), "admin"),
        (("list", "users"), "admin"),
        (("get", "secrets"), "admin"),
    ],
)
def test_what_roles_may(permission: tuple[str, ...], expected: str) -> None:
    assert {role for role in roles.ROLES if roles.may(role, *permission)} == set(expected.split())


def test_a_token_names_its_holder_until_it_is_over() -> None:
    token = tokens.issue(KEY, ANA, "access", lambda: NOW)
    assert tokens.holder_of(KEY, token, "access", lambda: NOW + timedelta(minutes=14)) == ANA
    assert tokens.holder_of(KEY, token, "access", lambda: NOW + timedelta(minutes=15)) is None
    assert tokens.holder_of(KEY, token, "refresh", lambda: NOW) is None
    assert tokens.holder_of(OTHER, token, "access", lambda: NOW) is None


def test_forged_tokens_name_nobody() -> None:
    claims = {"iss": "maestro", "sub": "ana", "ver": 3, "typ": "access", "iat": 0, "exp": 2**33}
    unsigned = jwt.encode(claims, "", algorithm="none")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    forged = [
        unsigned,
        f"{head}.{unsigned.split('.')[1]}.x",
        jwt.encode(claims, KEY, algorithm="HS384"),
        jwt.encode({**claims, "iss": "other"}, KEY, algorithm="HS256"),
        jwt.encode({key: value for key, value in claims.items() if key != "exp"}, KEY, algorithm="HS256"),
        jwt.encode({**claims, "ver": "3"}, KEY, algorithm="HS256"),
        "a.b.c",
        "",
        "\udcff",
    ]
    for token in forged:
        assert tokens.holder_of(KEY, tokens.PREFIX + token, "access", lambda: NOW) is None, token
    assert tokens.holder_of(KEY, jwt.encode(claims, KEY, algorithm="HS256"), "access", lambda: NOW) == ANA


def test_failures_wait_longer_each_time_and_are_forgotten() -> None:
    now = 0.0
    throttle = Throttle(clock=lambda: now)
    assert [throttle.begin("ana") for _ in range(3)] == [0.0, 0.0, 0.0]
    waits = []
    for _ in range(8):
        wait = throttle.begin("ana")
        assert wait > 0
        waits.append(wait)
        now += wait
        assert throttle.begin("ana") == 0.0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    throttle.succeeded("ana")
    assert throttle.begin("ana") == 0.0
    for _ in range(5):
        throttle.begin("cy")
    now += 1000
    assert throttle.begin("cy") == 0.0


def test_names_dont_pile_up() -> None:
    throttle = Throttle(size=10, clock=lambda: 0.0)
    for number in range(1000):
        throttle.begin(str(number))
    assert len(throttle._records) == 10


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short", "12 to 256"),
        ("x" * 257, "12 to 256"),
        ("margarida2026", "user's name"),
        ("aaaaaaaaaaaaaaa", "different"),
    ],
)
def test_weak_passwords_are_refused(password: str, words: str) -> None:
    assert words in (passwords.problem(password, "margarida") or "")
    assert passwords.problem(passwords.generated(), "margarida") is None
