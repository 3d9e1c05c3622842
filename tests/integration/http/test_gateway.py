"""The gateway check: the statuses that proxies expect, from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.http.api import API_KEY, Api, Server

from maestro.http.app import create_gateway_app
from maestro.http.gateway import GatewayAnswer

PATH = "/v1.0.0/gateway/prices/proceed"


class Board:
    """A gateway whose answers the test writes."""

    def __init__(self) -> None:
        self.answers: dict[str, GatewayAnswer] = {}

    def answer(self, solution_id: str) -> GatewayAnswer:
        return self.answers.get(solution_id, GatewayAnswer("open"))


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def make(tmp_path: Path, board: Board) -> Iterator[Callable[..., Api]]:
    made: list[Api] = []

    def build(**settings: Any) -> Api:
        made.append(Api(tmp_path, gateway=board, **settings))
        return made[-1]

    yield build
    for api in made:
        api.close()


def test_open_is_200_without_a_body(make: Callable[..., Api]) -> None:
    api = make()
    answer = api.call("GET", PATH)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
    assert api.call("HEAD", PATH).status == 200


def test_blocked_is_403_with_the_reason_and_the_reprocessing(make: Callable[..., Api], board: Board) -> None:
    board.answers["team.prices"] = GatewayAnswer("blocked", "prices are replayed", "fix-march")
    api = make()
    answer = api.call("GET", PATH)
    assert answer.status == 403
    assert answer.json == {"status": "403", "message": "prices are replayed", "reprocessing": "fix-march"}
    assert answer.headers["X-Maestro-Reprocessing"] == "fix-march"
    assert api.call("GET", "/v1.0.0/gateway/team.prices/proceed").status == 403
    assert api.call("GET", "/v1.0.0/gateway/other.prices/proceed").status == 200


def test_what_cannot_be_known_is_503(make: Callable[..., Api], board: Board) -> None:
    board.answers["team.prices"] = GatewayAnswer("unknown", "the API server hasn't been heard for 75 s")
    answer = make().call("GET", PATH)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_it_needs_a_token_of_anyone_known(make: Callable[..., Api]) -> None:
    api = make()
    refused = api.call("GET", PATH, token=None)
    assert (refused.status, set(refused.json), refused.json["status"]) == (401, {"status", "message"}, "401")
    assert api.call("GET", PATH, token="wrong").status == 401
    assert api.call("GET", PATH, token="eve").status == 200
    assert api.call("GET", PATH, token="worker-video-1").status == 200
    assert api.call("GET", PATH, token=None, headers={"X-Worker-API-Key": API_KEY}).status == 200


def test_who_was_let_pass_is_stopped_at_once_when_the_gateway_shuts(make: Callable[..., Api], board: Board) -> None:
    api = make()
    for _ in range(3):
        assert api.call("GET", PATH, token="eve").status == 200
    assert api.call("GET", PATH, token="wrong").status == 401, (
        "another caller is looked at, however well known the path"
    )
    assert api.call("GET", PATH, token=None).status == 401
    assert api.call("GET", "/v1.0.0/gateway/other.prices/proceed", token="eve").status == 200
    board.answers["team.prices"] = GatewayAnswer("blocked", "prices are replayed", "fix-march")
    assert api.call("GET", PATH, token="eve").status == 403
    assert api.call("GET", "/v1.0.0/gateway/other.prices/proceed", token="eve").status == 200
    board.answers["team.prices"] = GatewayAnswer("unknown", "nobody knows")
    assert api.call("GET", PATH, token="eve").status == 503
    del board.answers["team.prices"]
    assert api.call("GET", PATH, token="eve").status == 200


def test_an_installation_may_leave_it_open(make: Callable[..., Api]) -> None:
    api = make(gateway_open=True)
    assert api.call("GET", PATH, token=None).status == 200
    assert api.call("GET", "/api/v1/jobs", token=None).status == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", PATH, 405),
        ("GET", "/v1.0.0/gateway//proceed", 400),
        ("GET", "/v1.0.0/gateway/a%2Fb/proceed", 400),
        ("GET", "/v1.0.0/gateway/a.b.c/proceed", 400),
        ("GET", "/v1.0.0/gateway/prices", 404),
    ],
)
def test_bad_requests_keep_the_older_form_of_errors(
    make: Callable[..., Api], method: str, path: str, status: int
) -> None:
    answer = make().call(method, path)
    assert answer.status == status
    assert set(answer.json) == {"status", "message"}
    assert answer.json["status"] == str(status)


def test_the_older_port_answers_nothing_else(make: Callable[..., Api], board: Board) -> None:
    api = make(gateway_open=True)
    server = Server(api.loop, create_gateway_app(api.services))
    try:
        base = f"http://127.0.0.1:{server.port}"
        assert api.http.request("GET", f"{base}{PATH}").status == 200
        assert api.http.request("GET", f"{base}/api/v1/health").status == 404
    finally:
        api.http.clear()
        server.close()
