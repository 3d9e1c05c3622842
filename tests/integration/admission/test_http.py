"""Reprocessings over HTTP: the API, with the rights of its own account, before a real API server with the policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.process import wait_for
from tests.integration.admission.world import HASH, NEXT_HASH, RefusedError, World
from tests.integration.http.api import Answer, Api
from tests.integration.http.test_kubernetes import kubernetes_authenticator

from maestro.kube.client import KubeClient

PATH = "/api/v1/reprocessings"
OLDER = "/v1.0.0/reprocessing"
FAILED = {"select": {"states": ["Failed"]}}


@dataclass
class Desk:
    """The API, and people with tokens: `ed` is editor; `ann` and `bob` are editors and approvers; `vic` only looks."""

    world: World
    api: Api
    tokens: dict[str, str]

    def user(self, person: str) -> str:
        return f"system:serviceaccount:{self.world.namespace}:{person}"

    def call(self, person: str, method: str, path: str, content: Any = None) -> Answer:
        return self.api.call(method, path, content, token=self.tokens[person])

    def create(self, person: str = "ed", **body: Any) -> Answer:
        return self.call(person, "POST", PATH, {"solution": "shop", **FAILED, **body})

    def planned(self, person: str = "ed", **body: Any) -> str:
        """One that awaits approval; its name."""
        made = self.create(person, **body)
        assert made.status == 201, made.body
        name: str = made.json["name"]
        self.world.observe(name)
        return name

    def order(self, person: str, name: str, order: str, content: Any = None) -> Answer:
        return self.call(person, "POST", f"{PATH}/{name}/{order}", content)


def desk_of(world: World, folder: Path) -> Iterator[Desk]:
    async def writer() -> KubeClient:
        return await KubeClient.connect(world.server.kubeconfig_for(world.api))

    tokens = {}
    for person, roles in {"ed": "editor", "vic": "viewer", "ann": "editor approver", "bob": "editor approver"}.items():
        tokens[person] = world.account(person, *(f"{world.release}-{role}" for role in roles.split()))
    api = Api(
        folder, kubernetes_authenticator(world.server), writer=writer, default_namespace=world.namespace,
        watch_namespaces=(world.namespace,),
    )  # fmt: skip
    try:
        yield Desk(world, api, tokens)
    finally:
        api.close()


@pytest.fixture(scope="module")
def desk(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield from desk_of(world, tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def strict_desk(four_eyes: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    yield from desk_of(four_eyes, tmp_path_factory.mktemp("strict"))


def test_made_and_looked_at(desk: Desk) -> None:
    made = desk.create(
        solution=f"{desk.world.namespace}.shop", name="Prices of March", reason="The list was wrong.", maxBlock="2h"
    )
    assert made.status == 201, made.body
    assert made.headers["Location"] == f"{PATH}/{desk.world.namespace}.prices-of-march"
    assert made.json["requestedBy"] == desk.user("ed")
    assert (made.json["solution"], made.json["maxBlock"], made.json["phase"]) == ("shop", "2h", None)
    nameless = desk.create()
    assert re.fullmatch(r"shop-\d{8}-\d{6}-[0-9a-f]{4}", nameless.json["name"])
    desk.world.observe(nameless.json["name"])

    def listed(query: str) -> list[str]:
        answer = desk.call("vic", "GET", f"{PATH}?{query}")
        assert answer.status == 200, answer.body
        return [each["name"] for each in answer.json["items"]]

    wait_for("the list to show the phase", lambda: nameless.json["name"] in listed("phase=PendingApproval"), timeout=30)
    assert "prices-of-march" in listed("solution=shop")
    assert listed("solution=other") == []
    one = desk.call("vic", "GET", f"{PATH}/prices-of-march")
    assert (one.status, one.json["reason"]) == (200, "The list was wrong.")
    assert desk.call("vic", "GET", f"{PATH}/nothing").status == 404
    assert desk.create(name="Prices of March").json["reason"] == "AlreadyExists"


def test_who_may_decide(desk: Desk) -> None:
    name = desk.planned()
    for person in ("ed", "vic"):
        refused = desk.order(person, name, "approve")
        assert refused.status == 403
        assert f"may not approve reprocessings of {desk.world.namespace}/{name}" in refused.json["message"]
    assert desk.create("vic").status == 403
    approved = desk.order("ann", name, "approve", {"user": "maria", "reason": "numbers look right"})
    assert approved.status == 202, approved.body
    spec = desk.world.spec(name)
    assert (spec["decision"], spec["decidedBy"], spec["planHash"]) == ("Approved", desk.user("ann"), HASH)
    assert spec["decisionReason"] == "numbers look right (on behalf of maria)"
    assert desk.world.get(name)["metadata"]["annotations"]["maestro-operator.io/decided-via"] == "http"
    again = desk.order("bob", name, "skip")
    assert (again.status, again.json["reason"]) == (409, "AlreadyDecided")
    assert f"already Approved by {desk.user('ann')}" in again.json["message"]


def test_of_two_who_decide_at_once_one_is_told_about_the_other(desk: Desk) -> None:
    for _ in range(5):
        name = desk.planned()
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(desk.order, ("ann", "bob"), (name, name), ("approve", "skip")))
        assert sorted(answer.status for answer in answers) == [202, 409]
        winner = desk.world.spec(name)["decidedBy"]
        loser = next(answer for answer in answers if answer.status == 409)
        assert f"by {winner}" in loser.json["message"]


def test_only_what_awaits_approval_is_decided(desk: Desk) -> None:
    name = desk.create().json["name"]
    early = desk.order("ann", name, "approve")
    assert (early.status, early.json["reason"]) == (409, "NotPlanned")
    desk.world.observe(name)
    stale = desk.order("ann", name, "approve", {"planHash": "sha256:seen"})
    assert (stale.status, stale.json["reason"]) == (409, "StalePlan")
    assert HASH in stale.json["message"]
    assert desk.order("ann", name, "approve", {"planHash": HASH}).status == 202
    desk.world.observe(name, "Running")
    late = desk.order("bob", name, "approve")
    assert (late.status, late.json["reason"]) == (409, "AlreadyDecided")
    assert "its phase is Running" in late.json["message"]
    desk.world.observe(name, "PendingApproval", NEXT_HASH)
    assert desk.order("bob", name, "skip").status == 202
    assert desk.world.spec(name)["decidedBy"] == desk.user("bob")
    assert desk.order("ann", "nothing", "approve").status == 404


def test_auto_approve_needs_the_right_to_approve(desk: Desk) -> None:
    refused = desk.create("ed", autoApprove=True)
    assert (refused.status, "may not approve reprocessings" in refused.json["message"]) == (403, True)
    assert desk.create("ann", autoApprove=True).status == 201


def test_steering(desk: Desk) -> None:
    name = desk.planned()
    assert desk.order("ann", name, "approve").status == 202
    desk.world.observe(name, "Running")
    for order in ("suspend", "resume", "cancel", "fail"):
        assert desk.order("ed", name, order).status == 403
    refused = desk.order("ann", name, "resume")
    assert (refused.status, refused.json["reason"]) == (409, "NotStopped")
    assert desk.order("ann", name, "suspend").json["suspended"] is True
    assert desk.order("bob", name, "resume").json["suspended"] is False
    desk.world.observe(name, "Stopped")
    assert [desk.order("ann", name, "resume").json["resume"] for _ in range(2)] == [1, 2]
    assert desk.order("ann", name, "cancel").json["cancel"] is True
    assert desk.order("ann", name, "cancel").status == 202
    desk.world.observe(name, "Canceled")
    late = desk.order("ann", name, "fail")
    assert (late.status, late.json["reason"]) == (409, "Ended")
    assert "its phase is Canceled" in late.json["message"]


@pytest.mark.parametrize(
    ("body", "path", "rule"),
    [
        ({"solution": None}, "solution", "required"),
        ({"solution": "A shop"}, "solution", "pattern"),
        ({"solution": "elsewhere.shop", "namespace": "here"}, "namespace", "elsewhere"),
        ({"select": None}, "select", "required"),
        ({"select": {}}, "select", "at least one of runs"),
        ({"select": {"from": "2026-02-02T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}, "select.from", "later than to"),
        ({"select": {"from": "yesterday"}}, "select.from", ""),
        ({"select": {"runs": ["1"]}}, "select.runs.0", "pattern"),
        ({"select": {"states": ["Running"]}}, "select.states.0", "enum"),
        ({"select": {"statuses": ["Failed"]}}, "select.statuses", "unknown field"),
        ({"maxBlock": "0s"}, "maxBlock", "at least 1s"),
        ({"drainTimeout": "soon"}, "drainTimeout", "pattern"),
        ({"parallelism": 0}, "parallelism", "minimum"),
        ({"onFailure": "Ignore"}, "onFailure", "enum"),
        ({"decision": "Approved"}, "decision", "unknown field"),
        ({"requestedBy": "ann"}, "requestedBy", "unknown field"),
    ],
)
def test_bad_input(desk: Desk, body: dict[str, Any], path: str, rule: str) -> None:
    answer = desk.create(**body)
    assert answer.status == 422, answer.body
    (detail, *_) = answer.json["details"]
    assert detail["path"] == path, answer.body
    assert rule in detail["rule"] or rule in answer.json["message"], answer.body


def test_older_clients(desk: Desk) -> None:
    first, second, third = desk.planned(), desk.planned(), desk.planned()
    other = desk.planned(solution="warehouse")

    def named(path: str) -> list[str]:
        answer = desk.call("vic", "GET", f"{OLDER}/{path}")
        assert answer.status == 200, answer.body
        return [each["name"] for each in answer.json]

    wait_for("the three to await approval", lambda: {first, second, third} <= set(named("shop/pending")), timeout=30)
    assert named("warehouse/pending") == [other]
    approved = desk.call("ann", "POST", f"{OLDER}/{first}/approve", {"user": "maria"})
    assert (approved.status, approved.json["decision"]) == (202, "Approved")
    assert approved.json["decidedBy"] == desk.user("ann")
    assert approved.json["decisionReason"] == "on behalf of maria"
    skipped = desk.call("ann", "POST", f"{OLDER}/{desk.world.namespace}.{second}/skip", {"user": "maria"})
    assert (skipped.status, skipped.json["decision"]) == (202, "Skipped")
    refused = desk.call("bob", "POST", f"{OLDER}/{second}/skip", {"user": "maria"})
    assert (refused.status, refused.json["status"]) == (409, "409")
    assert set(refused.json) == {"status", "message"}
    assert "already Skipped by" in refused.json["message"]
    assert desk.call("ed", "POST", f"{OLDER}/{third}/approve", {"user": "ann"}).status == 403

    none = desk.call("ann", "POST", f"{OLDER}/failure", {"systemId": "warehouse"})
    assert (none.status, none.json["status"]) == (404, "404")
    desk.world.observe(first, "Running")
    wait_for("it to run", lambda: named("shop/find?status=running") == [first], timeout=30)
    assert desk.call("ed", "POST", f"{OLDER}/failure", {"systemId": "shop"}).status == 403
    failed = desk.call("ann", "POST", f"{OLDER}/failure", {"systemId": "shop"})
    assert (failed.status, failed.json["name"], failed.json["fail"]) == (202, first, True)
    desk.world.observe(first, "Failure")
    wait_for("it to have failed", lambda: first in named("shop/find?status=Failure,Skipped"), timeout=30)
    bad = desk.call("vic", "GET", f"{OLDER}/shop/find?status=lost")
    assert (bad.status, bad.json["status"], "PendingApproval" in bad.json["message"]) == (400, "400", True)


def test_four_eyes_are_told_to_the_caller(strict_desk: Desk) -> None:
    desk = strict_desk
    name = desk.planned("ann")
    refused = desk.order("ann", name, "approve")
    assert refused.status == 403
    assert f"four eyes: {desk.user('ann')} asked for it" in refused.json["message"]
    assert desk.order("bob", name, "approve").status == 202
    assert desk.create("ann", autoApprove=True).status == 403


def test_kubectl_and_http_see_one_decision(desk: Desk) -> None:
    name = desk.planned()
    desk.world.decide("bob", name)
    refused = desk.order("ann", name, "skip")
    assert (refused.status, "already Approved by bob" in refused.json["message"]) == (409, True)
    with pytest.raises(RefusedError, match="already Approved by bob"):
        desk.world.decide("ann", name, "Skipped")
