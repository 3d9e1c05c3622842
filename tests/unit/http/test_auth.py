"""The authenticator against reviews in memory: what is asked, how often, and what the caller hears."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from maestro.http.auth import POD_NAME, POD_UID, ApiKey, Authenticator, Owner, Permission, Person, Worker
from maestro.http.errors import HttpError
from maestro.kube.errors import Forbidden, Unavailable

OWNER = Owner("automation-uid", "team.video")
EXECUTE = Permission("create", "automations", "execute", "team", "video")


def connection(**headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": ("10.1.2.3", 4711)})


def bearer(token: str) -> HTTPConnection:
    return connection(authorization=f"Bearer {token}")


def pod_user(uid: str = "pod-uid") -> dict[str, Any]:
    extra = {POD_NAME: ["worker"], POD_UID: [uid]}
    return {"username": "system:serviceaccount:team:video", "uid": "u", "groups": ["g"], "extra": extra}


class Cluster:
    """Reviews and owners in memory: tokens by (token, audience), permissions by user."""

    def __init__(self) -> None:
        self.users: dict[tuple[str, str], dict[str, Any]] = {
            ("ana", ""): {"username": "ana", "uid": "1", "groups": ["dev"], "extra": {"scopes": ["a", "b"]}},
            ("worker", "maestro"): pod_user(),
            ("stranger", "maestro"): pod_user("stranger-uid"),
            ("account", "maestro"): {"username": "system:serviceaccount:team:video"},
            ("person", "maestro"): {"username": "ana"},
        }
        self.error: Exception | None = None
        self.reviewed: list[tuple[str, tuple[str, ...]]] = []
        self.access: list[dict[str, Any]] = []
        self.allowed = {"ana"}
        self.knows_audiences = True

    async def token_review(self, token: str, audiences: tuple[str, ...] = ()) -> dict[str, Any]:
        self.reviewed.append((token, audiences))
        if self.error is not None:
            raise self.error
        user = self.users.get((token, audiences[0] if audiences else ""))
        status: dict[str, Any] = {"authenticated": user is not None, "user": user or {}}
        if audiences and user and self.knows_audiences:
            status["audiences"] = list(audiences)
        return {"status": status}

    async def subject_access_review(self, spec: dict[str, Any]) -> dict[str, Any]:
        self.access.append(spec)
        if self.error is not None:
            raise self.error
        return {"status": {"allowed": spec["user"] in self.allowed}}

    async def automation_of(self, namespace: str, pod: str, pod_uid: str) -> Owner | None:
        if self.error is not None:
            raise self.error
        return OWNER if (namespace, pod, pod_uid) == ("team", "worker", "pod-uid") else None


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("s3cret-key\n")
    return path


@pytest.fixture
def authenticator(cluster: Cluster, key_file: Path) -> Authenticator:
    return Authenticator(cluster, cluster, audience="maestro", api_key=ApiKey(key_file))


def refused(call: Coroutine[Any, Any, Any]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        asyncio.run(call)
    return caught.value


def test_a_person_is_reviewed_once_for_a_while(authenticator: Authenticator, cluster: Cluster) -> None:
    async def run() -> Person:
        await authenticator.person(bearer("ana"))
        return await authenticator.person(bearer("ana"))

    person = asyncio.run(run())
    assert person == Person(person.key, "ana", "1", ("dev",), (("scopes", ("a", "b")),))
    assert "key" not in repr(person)
    assert cluster.reviewed == [("ana", ())]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "ana"},
        {"authorization": "Basic ana"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer a b"},
        {"authorization": "Bearer " + "a" * 20_000},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer worker"},
        {"x_worker_api_key": "s3cret-key"},
    ],
)
def test_what_is_not_a_persons_token_is_401(authenticator: Authenticator, headers: dict[str, str]) -> None:
    error = refused(authenticator.person(connection(**headers)))
    assert error.status == 401
    assert error.headers["WWW-Authenticate"] == "Bearer"


def test_what_cannot_be_a_token_is_not_even_asked_for(authenticator: Authenticator, cluster: Cluster) -> None:
    refused(authenticator.person(bearer("not a token")))
    assert cluster.reviewed == []


def test_permissions_are_asked_as_rbac_knows_them(authenticator: Authenticator, cluster: Cluster) -> None:
    async def run() -> None:
        person = await authenticator.person(bearer("ana"))
        await authenticator.require(person, EXECUTE)
        await authenticator.require(person, EXECUTE)

    asyncio.run(run())
    assert cluster.access == [
        {
            "user": "ana",
            "uid": "1",
            "groups": ["dev"],
            "extra": {"scopes": ["a", "b"]},
            "resourceAttributes": {
                "group": "maestro-operator.io",
                "version": "*",
                "verb": "create",
                "resource": "automations",
                "subresource": "execute",
                "namespace": "team",
                "name": "video",
            },
        }
    ]


def test_a_missing_permission_is_named(authenticator: Authenticator, cluster: Cluster) -> None:
    cluster.allowed = set()

    async def run() -> None:
        await authenticator.require(await authenticator.person(bearer("ana")), EXECUTE)

    error = refused(run())
    assert (error.status, error.message) == (403, "ana may not create automations/execute of team/video")


def test_a_permission_says_how_far_it_reaches() -> None:
    assert str(Permission("list", "automations", "runs")) == "list automations/runs in all namespaces"
    assert str(Permission("list", "automations", namespace="team")) == "list automations in namespace team"
    assert str(EXECUTE) == "create automations/execute of team/video"


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_where_no_key_is_set_that_is_said(cluster: Cluster, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "unset"
    if content is not None:
        file.write_text(content)
    for api_key in (None, ApiKey(file)):
        keyless = Authenticator(cluster, cluster, audience="maestro", api_key=api_key)
        error = refused(keyless.worker(connection(x_worker_api_key="guess")))
        assert (error.status, error.message.split(";")[0]) == (401, "this installation has no X-Worker-API-Key")


def test_a_wrong_key_is_said_to_be_wrong(authenticator: Authenticator) -> None:
    error = refused(authenticator.worker(connection(x_worker_api_key="guess")))
    assert error.message == "X-Worker-API-Key isn't the key of this installation"


def test_a_worker_is_known_by_its_pod(authenticator: Authenticator, cluster: Cluster) -> None:
    assert asyncio.run(authenticator.worker(bearer("worker"))) == Worker("pod-uid", OWNER)
    assert cluster.reviewed == [("worker", ("maestro",))]


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        ("wrong", 401, "isn't valid"),
        ("ana", 401, "another audience"),
        ("account", 403, "isn't bound to a pod"),
        ("person", 403, "isn't bound to a pod"),
        ("stranger", 403, "isn't a worker of any Automation"),
    ],
)
def test_other_tokens_are_no_workers(authenticator: Authenticator, token: str, status: int, words: str) -> None:
    error = refused(authenticator.worker(bearer(token)))
    assert error.status == status
    assert words in error.message


def test_an_api_server_that_ignores_audiences_proves_nothing(authenticator: Authenticator, cluster: Cluster) -> None:
    cluster.knows_audiences = False
    assert refused(authenticator.worker(bearer("worker"))).status == 401


def test_the_shared_key_lets_in_by_address_and_may_be_replaced(authenticator: Authenticator, key_file: Path) -> None:
    assert asyncio.run(authenticator.worker(connection(x_worker_api_key="s3cret-key"))) == Worker("10.1.2.3", None)
    assert refused(authenticator.worker(connection(x_worker_api_key="wrong"))).status == 401
    key_file.write_text("a-longer-key-now")
    assert refused(authenticator.worker(connection(x_worker_api_key="s3cret-key"))).status == 401
    assert asyncio.run(authenticator.worker(connection(x_worker_api_key="a-longer-key-now"))).automation is None


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_no_key_or_an_empty_one_lets_nobody_in(
    authenticator: Authenticator, key_file: Path, content: str | None
) -> None:
    key_file.unlink()
    if content is not None:
        key_file.write_text(content)
    for given in ("", " ", "s3cret-key"):
        assert refused(authenticator.worker(connection(x_worker_api_key=given))).status == 401


def test_without_a_key_file_the_header_counts_for_nothing(cluster: Cluster) -> None:
    authenticator = Authenticator(cluster, cluster, audience="maestro")
    assert refused(authenticator.worker(connection(x_worker_api_key="s3cret-key"))).status == 401


@pytest.mark.parametrize(
    "error", [Unavailable(0, "Unavailable", "away"), Forbidden(403, "Forbidden", "no tokenreviews")]
)
def test_an_api_server_that_does_not_answer_is_503(
    authenticator: Authenticator, cluster: Cluster, error: Exception
) -> None:
    cluster.error = error
    for call in (authenticator.person, authenticator.worker):
        answer = refused(call(bearer("worker")))
        assert answer.status == 503
        assert "Retry-After" in answer.headers


def test_anyone_is_a_worker_or_a_person(authenticator: Authenticator) -> None:
    for known in (bearer("ana"), bearer("worker"), bearer("account"), connection(x_worker_api_key="s3cret-key")):
        asyncio.run(authenticator.anyone(known))
    assert refused(authenticator.anyone(bearer("wrong"))).status == 401
    assert refused(authenticator.anyone(connection())).status == 401


def test_no_token_reaches_a_log_or_a_message(
    authenticator: Authenticator, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    messages = [refused(authenticator.person(bearer("tok3n-x"))).message]
    messages.append(refused(authenticator.worker(bearer("tok3n-x"))).message)
    messages.append(refused(authenticator.worker(connection(x_worker_api_key="tok3n-x"))).message)
    cluster.error = Unavailable(0, "Unavailable", "away")
    messages.append(refused(authenticator.person(bearer("tok3n-x2"))).message)
    assert "tok3n" not in caplog.text + "".join(messages)
