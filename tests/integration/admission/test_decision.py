"""Who may decide about a Reprocessing: what the API server itself refuses, with the mutating policy and without it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.admission.world import (
    HASH,
    JSON_PATCH,
    MERGE,
    NEXT_HASH,
    RefusedError,
    World,
)

Attack = Callable[[], Any]


def refused(words: str, attack: Attack, status: int | None = 403) -> str:
    """The message of a refusal; it has these words, and no field of the policy's own shows through."""
    with pytest.raises(RefusedError, match=words) as caught:
        attack()
    message = str(caught.value)
    assert status is None or caught.value.status == status, message
    assert "no such key" not in message
    assert "evaluation" not in message
    return message


# -- deciding


def test_an_approver_patches_the_decision(world: World) -> None:
    name = world.planned()
    if world.mutating:
        world.patch("ann", name, decision="Approved")
    else:
        # The refusal has the whole patch in it, which is then taken as it is.
        message = refused("names who decides", lambda: world.patch("ann", name, decision="Approved"))
        found = re.search(rf"kubectl patch reprocessing {name} -n {world.namespace} --type merge -p '(.*)'$", message)
        assert found, message
        world.server.kubectl(
            *("patch", "reprocessing", name, "-n", world.namespace, "--type", "merge", "-p", found[1], "--as=ann")
        )
    spec = world.spec(name)
    assert (spec["decision"], spec["decidedBy"], spec["planHash"]) == ("Approved", "ann", HASH)
    assert spec["requestedBy"] == "ed"


@pytest.mark.parametrize("decision", ["Approved", "Skipped"])
def test_an_editor_does_not_decide(world: World, decision: str) -> None:
    name = world.planned()
    message = refused("ed may not decide", lambda: world.decide("ed", name, decision))
    assert f"the verb approve on reprocessings in namespace {world.namespace}" in message
    assert f"{world.release}-approver" in message
    refused("vic", lambda: world.decide("vic", name, decision))
    assert "decision" not in world.spec(name)


def test_a_right_on_one_object_is_enough(world: World) -> None:
    one, other = world.planned(), world.planned()
    world.grant("cy", "get patch", "reprocessings")
    refused("cy may not decide", lambda: world.decide("cy", one))
    world.grant("cy", "approve", "reprocessings")
    world.decide("cy", one)
    assert world.spec(one)["decidedBy"] == "cy"
    assert "decision" not in world.spec(other)


def test_nobody_decides_in_another_name(world: World) -> None:
    name = world.planned()

    def attack() -> Any:
        return world.patch("ann", name, decision="Approved", decidedBy="bob", planHash=HASH)

    if world.mutating:
        assert attack()["decidedBy"] == "ann"
    else:
        refused('that is "ann"', attack)
        assert "decision" not in world.spec(name)


@pytest.mark.parametrize("planted", [{"decidedBy": "ann"}, {"planHash": "x"}, {"decisionReason": "fine"}])
def test_nothing_is_laid_out_for_who_decides_next(world: World, planted: dict[str, str]) -> None:
    name = world.planned()
    refused("only together with decision", lambda: world.patch("ed", name, **planted), 422)
    refused("only together with decision", lambda: world.create("ed", **planted), 422)


@pytest.mark.parametrize("who", ["ed", "ann", "api"])
def test_no_decision_at_creation(world: World, who: str) -> None:
    user = world.api if who == "api" else who
    refused(
        "without spec.decision",
        lambda: world.create(user, decision="Approved", decidedBy=user, planHash="none", requestedBy=user),
    )
    refused(
        "without spec.decision",
        lambda: world.create(
            user, decision="Approved", status={"phase": "PendingApproval", "plan": {"hash": HASH}}, planHash=HASH,
            decidedBy=user, requestedBy=user,
        ),
    )  # fmt: skip


def test_a_decision_is_about_the_plan_that_there_is(world: World) -> None:
    name = world.create()
    refused("plan isn't made yet", lambda: world.decide("ann", name, hash="none"))
    world.observe(name)
    message = refused("the plan is now sha256:one", lambda: world.decide("ann", name, hash="sha256:old"))
    assert '"planHash":"sha256:one"' in message
    assert "40 Runs" in message


@pytest.mark.parametrize("phase", ["Running", "Stopped", "Finished", "Skipped", "Canceled"])
def test_what_does_not_await_approval_is_not_decided(world: World, phase: str) -> None:
    name = world.planned()
    world.observe(name, phase)
    refused(f"its phase is {phase}", lambda: world.decide("ann", name))


def test_the_status_in_a_request_counts_for_nothing(world: World) -> None:
    name = world.planned()
    world.observe(name, "Running")
    found = world.get(name)
    found["status"] = {"phase": "PendingApproval", "plan": {"hash": "mine"}}
    found["spec"] |= {"decision": "Approved", "decidedBy": "ann", "planHash": "mine"}
    refused("its phase is Running", lambda: world.send("ann", "PUT", f"/{name}", found))


# -- a decision is final


def test_the_first_decision_wins(world: World) -> None:
    name = world.planned()
    world.decide("ann", name, decisionReason="numbers look right")
    refused("already Approved by ann", lambda: world.decide("bob", name, "Skipped"), 422)
    before = world.spec(name)
    if world.mutating:
        assert world.patch("bob", name, decision="Approved") == before
        assert world.patch("bob", name, decidedBy="bob") == before, "restored"
    else:
        refused("already Approved by ann", lambda: world.patch("bob", name, decidedBy="bob"), 422)
    refused("already Approved by ann", lambda: world.patch("ann", name, decisionReason="never mind"), 422)
    world.observe(name, "Running")
    refused("already Approved by ann", lambda: world.decide("bob", name, "Skipped"), None)
    refused("already Approved by ann", lambda: world.decide("bob", name, hash=NEXT_HASH))
    assert world.spec(name) == before


@pytest.mark.parametrize("who", ["ed", "ann", "root"])
def test_nobody_takes_a_decision_back(world: World, who: str) -> None:
    name = world.approved()
    before = world.spec(name)
    without = {"decision": None, "decidedBy": None, "planHash": None}
    remove = [{"op": "remove", "path": f"/spec/{field}"} for field in without]
    attacks: list[Attack] = [
        lambda: world.patch(who, name, **without),
        lambda: world.patch(who, name, decision=None),
        lambda: world.send(who, "PATCH", f"/{name}", remove, type=JSON_PATCH),
        lambda: world.send(who, "PUT", f"/{name}", _without(world.get(name), without)),
    ]
    for attack in attacks:
        if world.mutating:
            attack()
        else:
            refused("already Approved by ann", attack, 422)
        assert world.spec(name) == before


def _without(found: dict[str, Any], fields: dict[str, None]) -> dict[str, Any]:
    return {**found, "spec": {key: value for key, value in found["spec"].items() if key not in fields}}


def test_a_plan_that_changed_is_decided_anew(world: World) -> None:
    name = world.approved()
    world.observe(name, "PendingApproval", NEXT_HASH)
    refused("ed may not decide", lambda: world.patch("ed", name, planHash=NEXT_HASH, decidedBy="ed"))
    refused("the plan is now sha256:two", lambda: world.decide("bob", name, hash="sha256:three"))
    world.decide("bob", name, "Skipped", NEXT_HASH)
    spec = world.spec(name)
    assert (spec["decision"], spec["decidedBy"], spec["planHash"]) == ("Skipped", "bob", NEXT_HASH)


# -- what is decided about stays what it was


@pytest.mark.parametrize(
    ("before", "patch", "words"),
    [
        ({"parameters": {"a": 1}}, {"parameters": {"a": None, "b": 1}}, "parameters is immutable"),
        ({"parameters": {"a": {"b": 1}}}, {"parameters": {"a": {"b": None, "c": 1}}}, "parameters is immutable"),
        (
            {"select": {"parameters": {"a": 1}}},
            {"select": {"parameters": {"a": None, "b": 1}}},
            "select is immutable",
        ),
        ({}, {"select": {"states": ["Succeeded"]}}, "select is immutable"),
        ({}, {"parameters": {"x": 1}}, "parameters is immutable"),
        ({}, {"cascade": {"maxAdditions": 9}}, "cascade is immutable"),
        ({}, {"solution": "other"}, "solution is immutable"),
        ({}, {"autoApprove": True}, "autoApprove is immutable"),
    ],
)
def test_the_plan_is_not_changed(world: World, before: dict[str, Any], patch: dict[str, Any], words: str) -> None:
    name = world.planned("ed", **before)
    for _ in range(2):
        refused(words, lambda: world.patch("ann", name, **patch), 422)
        if "decision" not in world.spec(name):
            world.decide("ann", name)


@pytest.mark.parametrize(
    "patch",
    [{"resume": 1}, {"cancel": True}, {"fail": True}, {"suspend": True}, {"parallelism": 100}],
    ids=lambda patch: next(iter(patch)),
)
def test_steering_needs_the_right_to_approve(world: World, patch: dict[str, Any]) -> None:
    name = world.approved()
    (field,) = patch
    refused(f"ed may not set {field}", lambda: world.patch("ed", name, **patch))
    assert world.patch("ann", name, **patch)[field] == patch[field]


@pytest.mark.parametrize("field", ["cancel", "fail", "resume"])
def test_what_was_ordered_is_not_taken_back(world: World, field: str) -> None:
    name = world.approved()
    ordered = 2 if field == "resume" else True
    world.patch("ann", name, **{field: ordered})
    if world.mutating:
        assert world.patch("ed", name, **{field: None})[field] == ordered
    else:
        refused("resume only grows|can't be taken back", lambda: world.patch("ann", name, **{field: None}), 422)
    refused("only grows|can't be", lambda: world.patch("ann", name, **{field: 1 if field == "resume" else False}), 422)


@pytest.mark.parametrize(
    "spec", [{"autoApprove": True}, {"resume": 7}, {"cancel": True}, {"fail": True}], ids=lambda spec: next(iter(spec))
)
def test_orders_at_creation_need_the_right_to_approve(world: World, spec: dict[str, Any]) -> None:
    (field,) = spec
    refused(f"ed may not set {field}", lambda: world.create("ed", **spec))
    nameless = world.body("", spec, generateName="made-up-")
    del nameless["metadata"]["name"]
    refused(f"ed may not set {field}", lambda: world.send("ed", "POST", "", nameless))
    world.create("ann", **spec)
    world.create("ed", suspend=True, parallelism=4)


# -- who asked


def test_nobody_asks_in_another_name(world: World) -> None:
    if world.mutating:
        assert world.spec(world.create("ed", requestedBy="ann"))["requestedBy"] == "ed"
        assert world.spec(world.create("ed"))["requestedBy"] == "ed"
    else:
        refused('that is "ed"', lambda: world.create("ed", requestedBy="ann"))
        assert "requestedBy" not in world.spec(world.create("ed"))
    name = world.planned()
    before = world.spec(name)
    for user in ("ed", "ann"):
        if world.mutating:
            assert world.patch(user, name, requestedBy="bob") == before
        else:
            refused("requestedBy is immutable", lambda user=user: world.patch(user, name, requestedBy="bob"), 422)


def test_by_which_way_it_was_decided_is_told_by_the_api_alone(world: World) -> None:
    told = {"annotations": {"maestro-operator.io/decided-via": "http"}}
    refused("is written by the HTTP API only", lambda: world.create("ann", metadata=told))
    name = world.planned()
    for user in ("ed", "ann"):
        attack = {"metadata": told}
        refused(
            "is written by the HTTP API only",
            lambda user=user, attack=attack: world.send(user, "PATCH", f"/{name}", attack, type=MERGE),
        )
    world.send(world.api, "PATCH", f"/{name}", {"metadata": told}, type=MERGE)
    world.send("ed", "PATCH", f"/{name}", {"metadata": {"annotations": {"note": "mine"}}}, type=MERGE)


# -- status, deletion, owners


def test_status_is_the_controllers_word(world: World) -> None:
    name = world.planned()
    world.grant("mallory", "get patch update", "reprocessings/status")
    for user in ("mallory", "root"):
        attack = {"status": {"phase": "Approved", "plan": {"hash": "mine"}, "approval": {"by": "ann"}}}
        refused(
            "status is written by",
            lambda user=user, attack=attack: world.send(user, "PATCH", f"/{name}/status", attack, type=MERGE),
        )
    made = world.send("ed", "POST", "", {**world.body("planted", {}), "status": {"phase": "Approved"}}, dryRun="All")
    assert made["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize("phase", ["Approved", "Running", "RunningWithoutLock", "Stopped", "PendingApproval"])
def test_what_was_approved_is_not_deleted_by_an_editor(world: World, phase: str) -> None:
    # PendingApproval: the controller hasn't seen the decision yet.
    name = world.approved(phase)
    message = refused("ed may not delete", lambda: world.send("ed", "DELETE", f"/{name}"))
    assert f"phase {phase}" in message
    world.grant("sweeper", "deletecollection", "reprocessings")
    refused("sweeper may not delete", lambda: world.send("sweeper", "DELETE", ""))
    world.send("ann", "DELETE", f"/{name}")


@pytest.mark.parametrize("phase", ["PendingApproval", "Finished", "Canceled", "Skipped", "Failure"])
def test_what_holds_nothing_back_is_deleted_by_an_editor(world: World, phase: str) -> None:
    name = world.planned()
    world.observe(name, phase)
    world.send("ed", "DELETE", f"/{name}")


def test_kubernetes_own_collectors_may_delete(world: World) -> None:
    for account in ("generic-garbage-collector", "namespace-controller"):
        user = f"system:serviceaccount:kube-system:{account}"
        world.grant(user, "delete", "reprocessings")
        world.send(user, "DELETE", f"/{world.approved()}")


def test_deleted_and_made_again_it_is_undecided(world: World) -> None:
    name = world.approved("Finished")
    world.send("ed", "DELETE", f"/{name}")
    world.create("ed", name=name)
    assert "decision" not in world.spec(name)
    refused("plan isn't made yet", lambda: world.decide("ann", name))


def test_no_owner_is_slipped_in_whose_end_would_end_it(world: World) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "9d1f0b5c-0000-4000-8000-000000000000"}
    refused("ownerReferences", lambda: world.create("ed", metadata={"ownerReferences": [owner]}))
    name = world.approved()
    patch = {"metadata": {"ownerReferences": [owner]}}
    refused("ownerReferences", lambda: world.send("ed", "PATCH", f"/{name}", patch, type=MERGE))


# -- Git tools


def test_flux_takes_over_the_fields_of_kubectl(world: World) -> None:
    """Flux gives itself what `kubectl` managers own, then applies its manifest, which has no decision."""
    name = world.planned()
    world.apply("flux", name, "kustomize-controller", **({} if world.mutating else {"requestedBy": "ed"}))
    fields = (
        {"decision": "Approved"} if world.mutating else {"decision": "Approved", "decidedBy": "ann", "planHash": HASH}
    )
    world.send("ann", "PATCH", f"/{name}", {"spec": fields}, type=MERGE, fieldManager="kubectl-patch")
    world.send("ann", "PATCH", f"/{name}", {"spec": {"resume": 1}}, type=MERGE, fieldManager="kubectl-edit")
    before = world.spec(name)
    world.send("flux", "PATCH", f"/{name}", _taken_over(world.get(name)), type=JSON_PATCH)

    def sync() -> Any:
        return world.apply("flux", name, "kustomize-controller", **({} if world.mutating else {"requestedBy": "ed"}))

    if world.mutating:
        sync()
        sync()
    else:
        refused("already Approved by ann", sync, 422)
    assert world.spec(name) == before
    # `kustomize.toolkit.fluxcd.io/ssa: Merge`: it takes nothing over, and leaves what others own.


def _taken_over(found: dict[str, Any]) -> list[dict[str, Any]]:
    entries = found["metadata"]["managedFields"]
    taken: dict[str, Any] = {}
    for entry in entries:
        if entry["manager"].startswith("kubectl") or entry["manager"] == "kustomize-controller":
            taken = _union(taken, entry["fieldsV1"])
    mine = next(entry for entry in entries if entry["manager"] == "kustomize-controller")
    kept = [e for e in entries if not e["manager"].startswith("kubectl") and e is not mine]
    version = found["metadata"]["resourceVersion"]
    return [
        {"op": "replace", "path": "/metadata/managedFields", "value": [{**mine, "fieldsV1": taken}, *kept]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
    ]


def _union(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {key: _union(a.get(key) or {}, b.get(key) or {}) for key in {**a, **b}}


def test_flux_with_merge_leaves_a_decision_alone(world: World) -> None:
    name = world.approved()
    before = world.spec(name)
    world.apply("flux", name, "kustomize-controller")
    assert world.spec(name) == before


def test_a_decision_in_git_needs_the_right_too(world: World) -> None:
    name = world.planned()
    decided = {"decision": "Approved", "decidedBy": "flux", "planHash": HASH}
    refused("flux may not decide", lambda: world.apply("flux", name, "kustomize-controller", **decided))
    world.grant("argo", "approve patch create get", "reprocessings")
    world.apply("argo", name, "argocd-controller", **decided | {"decidedBy": "argo"})
    assert world.spec(name)["decidedBy"] == "argo"


# -- Maestro's own accounts


def test_the_api_says_who_decides_and_no_more(world: World) -> None:
    made = world.planned(world.api, requestedBy="login:maria")
    assert world.spec(made)["requestedBy"] == "login:maria"
    refused("the plan is now", lambda: world.decide(world.api, made, hash="x"))
    attack = {"status": {"phase": "Running"}}
    refused("cannot patch", lambda: world.send(world.api, "PATCH", f"/{made}/status", attack, type=MERGE))
    world.grant(world.api, "patch", "reprocessings/status")
    refused("status is written by", lambda: world.send(world.api, "PATCH", f"/{made}/status", attack, type=MERGE))
    refused("cannot delete", lambda: world.send(world.api, "DELETE", f"/{made}"))
    world.patch(world.api, made, decision="Approved", decidedBy="login:rita", planHash=HASH)
    assert world.spec(made)["decidedBy"] == "login:rita"
    refused("already Approved by login:rita", lambda: world.decide(world.api, made, "Skipped"), 422)
    world.observe(made, "Running")
    refused("its phase is Running", lambda: world.patch(world.api, made, planHash="x", decidedBy="login:eve"))
    refused("immutable", lambda: world.patch(world.api, made, parameters={"a": 1}), 422)


def test_the_controllers_account_decides_nothing(world: World) -> None:
    name = world.planned()
    refused("cannot patch", lambda: world.decide(world.controller, name))
    world.grant(world.controller, "patch", "reprocessings")
    refused("may not decide", lambda: world.decide(world.controller, name))


# -- four eyes


def test_four_eyes(four_eyes: World) -> None:
    world = four_eyes
    own = world.planned("ann")
    message = refused("four eyes: ann asked for it", lambda: world.decide("ann", own))
    assert "somebody else has to approve it" in message
    refused("ed may not decide", lambda: world.decide("ed", own))
    world.decide("bob", own)
    assert world.spec(own)["decidedBy"] == "bob"
    dropped = world.planned("ann")
    world.decide("ann", dropped, "Skipped")
    assert world.spec(dropped)["decision"] == "Skipped"


def test_four_eyes_and_auto_approve(four_eyes: World) -> None:
    world = four_eyes
    refused("four eyes: spec.autoApprove", lambda: world.create("ann", autoApprove=True, requestedBy="ann"))


def test_four_eyes_need_to_know_who_asked(four_eyes: World) -> None:
    world = four_eyes
    if world.mutating:
        assert world.spec(world.create("ann"))["requestedBy"] == "ann"
    else:
        refused('spec.requestedBy: "ann"', lambda: world.create("ann"))
        refused('that is "ann"', lambda: world.create("ann", requestedBy="bob"))


def test_four_eyes_over_http(four_eyes: World) -> None:
    world = four_eyes
    name = world.planned(world.api, requestedBy="login:maria")
    refused(
        "login:maria asked for it",
        lambda: world.patch(world.api, name, decision="Approved", decidedBy="login:maria", planHash=HASH),
    )
    world.patch(world.api, name, decision="Approved", decidedBy="login:rita", planHash=HASH)


# -- where it holds


def test_other_namespaces_are_left_alone(world: World, apiserver: ApiServer) -> None:
    with apiserver.namespace("other", labels={}) as namespace:
        other = World(apiserver, namespace, world.release, world.mutating)
        other.create("root", name="elsewhere", decision="Approved")
        assert other.spec("elsewhere")["decision"] == "Approved"
