"""Logins against a real API server: the users' Secret, what sessions are good for, and how they end."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.http.api import Answer, Api
from tests.integration.http.test_kubernetes import kubernetes_authenticator

from maestro.http.logins.service import Logins
from maestro.kube.client import KubeClient

SECRET, USER = "maestro-users", "maestro-logins"
AUTH, USERS = "/api/v1/auth", "/api/v1/users"
PASSWORD = "correct horse battery"


def rights(namespace: str) -> list[dict[str, Any]]:
    """What the chart gives the API's account on the Secret, and nothing else."""
    api = "rbac.authorization.k8s.io"
    meta = {"name": USER, "namespace": namespace}
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "patch"]},
        {"apiGroups": ["maestro-operator.io"], "resources": ["automations", "schedules", "reprocessings"],
         "verbs": ["get", "list", "watch"]},
    ]  # fmt: skip
    return [
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": USER},
            "subjects": [{"apiGroup": api, "kind": "User", "name": USER}],
        },
    ]


@dataclass
class World:
    server: ApiServer
    namespace: str
    api: Api

    def secret(self) -> dict[str, str]:
        found = self.server.get("secret", SECRET, "--namespace", self.namespace).get("data") or {}
        return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in found.items()}

    def login(self, name: str, password: str, field: str = "username") -> Answer:
        return self.api.call("POST", f"{AUTH}/login", {field: name, "password": password}, token=None)

    def admin(self) -> str:
        """The first admin's token, after the first password was changed."""
        first = self.login("admin", self.secret()["initial-password"])
        assert first.status == 200, first.body
        return self.changed(first.json["access_token"], self.secret()["initial-password"])

    def changed(self, token: str, current: str, new: str = PASSWORD) -> str:
        body = {"currentPassword": current, "newPassword": new}
        answer = self.api.call("POST", f"{AUTH}/change-password", body, token=token)
        assert answer.status == 200, answer.body
        found: str = answer.json["access_token"]
        return found

    def user(self, admin: str, name: str, role: str, **more: Any) -> str:
        """A user who has logged in; the token."""
        body = {"username": name, "role": role, "password": PASSWORD, "mustChangePassword": False, **more}
        assert self.api.call("POST", USERS, body, token=admin).status == 201
        found: str = self.login(name, PASSWORD).json["access_token"]
        return found


@pytest.fixture
def world(apiserver: ApiServer, tmp_path: Path) -> Iterator[World]:
    with apiserver.namespace("logins", labels={}) as namespace:
        empty = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": namespace},
            "type": "maestro-operator.io/users",
        }
        apiserver.apply(empty, *rights(namespace))
        kubeconfig = apiserver.kubeconfig_for(USER)

        async def writer() -> KubeClient:
            return await KubeClient.connect(kubeconfig)

        api = Api(
            tmp_path,
            kubernetes_authenticator(apiserver),
            writer=writer,
            namespace=namespace,
            watch_namespaces=namespace,
            users_secret=SECRET,
        )
        try:
            assert api.services.logins is not None
            api.loop.run(api.services.logins.users.book())  # as the process does when it starts
            yield World(apiserver, namespace, api)
        finally:
            api.close()


def test_the_first_admin_comes_in_by_the_password_in_the_secret(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = world.api
    assert world.login("admin", "a wrong password").status == 401
    first_password = world.secret()["initial-password"]
    session = world.login("admin", first_password)
    assert session.status == 200, session.body
    assert session.json["user"]["mustChangePassword"] is True
    token = session.json["access_token"]
    held = api.call("GET", USERS, token=token)
    assert (held.status, held.json["reason"]) == (403, "PasswordChangeRequired")
    assert api.call("GET", f"{AUTH}/me", token=token).json["mustChangePassword"] is True
    for new, words in (("short", "12 to 256"), (first_password, "another one")):
        body = {"currentPassword": first_password, "newPassword": new}
        refused = api.call("POST", f"{AUTH}/change-password", body, token=token)
        assert refused.status == 422
        assert words in refused.json["message"]
    admin = world.changed(token, first_password)
    assert "initial-password" not in world.secret()
    assert "$argon2id$" in world.secret()["users.json"]
    assert PASSWORD not in world.secret()["users.json"]
    assert api.call("GET", USERS, token=token).status == 401, "the older session ended"
    assert [user["username"] for user in api.call("GET", USERS, token=admin).json["items"]] == ["admin"]
    me = api.call("GET", f"{AUTH}/me", token=admin).json
    assert (me["username"], me["role"]) == ("login:admin", "admin")
    for secret in (first_password, PASSWORD, token, admin, "$argon2id$"):
        assert secret not in caplog.text


def test_roles_say_what_a_login_may(world: World) -> None:
    api, admin = world.api, world.admin()
    api.automation("video")
    viewer, operator = (
        world.user(admin, "vera", "viewer"),
        world.user(admin, "otto", "operator", email="Otto@films.org"),
    )
    bound = world.user(admin, "nina", "operator", namespaces=["elsewhere"])
    assert world.login("otto@FILMS.org", PASSWORD, "email").status == 200
    execute = "/api/v1/automations/team.video/execute"
    assert api.call("POST", execute, {}, token=viewer).status == 403
    assert api.call("POST", execute, {}, token=bound).status == 403
    run = api.call("POST", execute, {}, token=operator)
    assert run.status == 202, run.body
    shown = api.call("GET", f"/api/v1/jobs/{run.json['job_id']}", token=viewer)
    assert shown.json["userId"] == "login:otto"
    assert api.call("POST", "/api/v1/automations", {"name": "x"}, token=operator).status == 403
    assert api.call("GET", USERS, token=operator).status == 403
    assert api.call("GET", "/api/v1/jobs", token=bound).json["items"] == []
    assert api.call("GET", "/api/v1/automations", token=bound).json["items"] == []
    assert len(api.call("GET", "/api/v1/automations", token=viewer).json["items"]) == 1
    report = api.call("POST", "/api/v1/worker/reports", [], token=operator)
    assert report.status == 401


def test_sessions_are_refreshed_and_end_with_the_account(world: World) -> None:
    api, admin = world.api, world.admin()
    world.user(admin, "vera", "viewer")
    session = world.login("vera", PASSWORD).json
    refreshed = api.call("POST", f"{AUTH}/refresh", {"refreshToken": session["refresh_token"]}, token=None)
    assert refreshed.status == 200
    assert api.call("GET", f"{AUTH}/me", token=refreshed.json["access_token"]).status == 200
    swapped = api.call("POST", f"{AUTH}/refresh", {"refresh_token": session["access_token"]}, token=None)
    assert swapped.status == 401
    assert api.call("GET", f"{AUTH}/me", token=session["refresh_token"]).status == 401

    assert api.call("POST", f"{USERS}/vera/deactivate", token=admin).json["active"] is False
    assert api.call("GET", f"{AUTH}/me", token=session["access_token"]).status == 401
    assert api.call("POST", f"{AUTH}/refresh", {"refresh_token": session["refresh_token"]}, token=None).status == 401
    assert world.login("vera", PASSWORD).status == 401
    assert api.call("POST", f"{USERS}/vera/reactivate", token=admin).status == 200
    assert world.login("vera", PASSWORD).status == 200
    reset = api.call("POST", f"{USERS}/vera/reset-password", token=admin)
    assert reset.status == 200, reset.body
    assert world.login("vera", PASSWORD).status == 401
    assert world.login("vera", reset.json["password"]).json["user"]["mustChangePassword"] is True
    assert api.call("PUT", f"{USERS}/vera", {"role": "operator", "email": None}, token=admin).json["role"] == "operator"
    assert api.call("DELETE", f"{USERS}/vera", token=admin).status == 204
    assert world.login("vera", reset.json["password"]).status == 401
    # A new signing key ends every session.
    world.server.kubectl(
        *("-n", world.namespace, "patch", "secret", SECRET, "--type=json"),
        *("-p", '[{"op": "remove", "path": "/data/signing-key"}]'),
    )
    assert api.services.logins is not None
    api.loop.run(api.services.logins.users.book(fresh=True))
    assert api.call("GET", f"{AUTH}/me", token=admin).status == 401
    assert world.login("admin", PASSWORD).status == 200


def test_the_last_admin_stays(world: World) -> None:
    api, admin = world.api, world.admin()
    world.user(admin, "nina", "admin", namespaces=["elsewhere"])
    for method, path, body in (
        ("DELETE", f"{USERS}/admin", None),
        ("POST", f"{USERS}/admin/deactivate", None),
        ("PUT", f"{USERS}/admin", {"role": "viewer"}),
        ("PUT", f"{USERS}/admin", {"namespaces": ["team"]}),
    ):
        refused = api.call(method, path, body, token=admin)
        assert (refused.status, refused.json["reason"]) == (409, "LastAdmin"), refused.body
    world.user(admin, "second", "admin")
    assert api.call("DELETE", f"{USERS}/admin", token=admin).status == 204


def test_failed_logins_slow_down(world: World) -> None:
    admin = world.admin()
    world.user(admin, "vera", "viewer")

    def wrong(_: int) -> int:
        return world.login("vera", "a wrong password").status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(wrong, range(12)))
    assert statuses.count(401) == 3
    assert statuses.count(429) == 9
    locked = world.login("vera", PASSWORD)
    assert locked.status == 429
    assert int(locked.headers["Retry-After"]) >= 1
    unknown = [world.login("nobody-here", "a wrong password").status for _ in range(4)]
    assert unknown == [401, 401, 401, 429], "a name that isn't known answers like one that is"
    assert world.login("admin", PASSWORD).status == 200


def test_two_replicas_never_write_over_each_other(world: World) -> None:
    admin = world.admin()

    async def other() -> list[str]:
        client = await KubeClient.connect(world.server.kubeconfig_for(USER))
        try:
            users = Logins.of_secret(client, world.namespace, SECRET).users
            for number in range(8):
                await users.change(lambda found, n=number: found.update({f"b{n}": found["admin"]}))
            return sorted((await users.book(fresh=True)).users)
        finally:
            await client.close()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        changing = pool.submit(asyncio.run, other())
        for number in range(4):
            body = {"username": f"a{number}", "password": PASSWORD}
            assert world.api.call("POST", USERS, body, token=admin).status == 201
        changing.result(60)
    expected = {"admin", *(f"a{n}" for n in range(4)), *(f"b{n}" for n in range(8))}
    assert set(json.loads(world.secret()["users.json"])) == expected
