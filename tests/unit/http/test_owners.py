"""From a pod to its Automation: every link is checked by UID."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from maestro.http.auth import Owner
from maestro.http.owners import KubePodOwners
from maestro.kube.errors import NotFound, Unavailable
from maestro.kube.kinds import Kind


def obj(uid: str, owner: tuple[str, str, str, str] | None = None, *, controller: bool = True) -> dict[str, Any]:
    """An object; `owner` is (apiVersion, kind, name, uid)."""
    metadata: dict[str, Any] = {"uid": uid}
    if owner is not None:
        version, kind, name, owner_uid = owner
        metadata["ownerReferences"] = [
            {"apiVersion": version, "kind": kind, "name": name, "uid": owner_uid, "controller": controller}
        ]
    return {"metadata": metadata}


AUTOMATION = ("maestro-operator.io/v1alpha1", "Automation", "video", "automation-uid")
REPLICA_SET = ("apps/v1", "ReplicaSet", "video-1", "rs-uid")
DEPLOYMENT = ("apps/v1", "Deployment", "video", "deploy-uid")

WORLD = {
    ("Pod", "worker"): obj("pod-uid", REPLICA_SET),
    ("ReplicaSet", "video-1"): obj("rs-uid", DEPLOYMENT),
    ("Deployment", "video"): obj("deploy-uid", AUTOMATION),
    ("Pod", "job-pod"): obj("job-pod-uid", ("batch/v1", "Job", "run-1", "job-uid")),
    ("Job", "run-1"): obj("job-uid", AUTOMATION),
    ("Pod", "loner"): obj("loner-uid"),
    ("Pod", "guest"): obj("guest-uid", AUTOMATION, controller=False),
    ("Pod", "impostor"): obj("impostor-uid", ("apps/v1", "ReplicaSet", "video-1", "another-uid")),
    ("Pod", "orphan"): obj("orphan-uid", ("apps/v1", "ReplicaSet", "gone", "gone-uid")),
    ("Pod", "other"): obj("other-uid", ("apps/v1", "DaemonSet", "agent", "ds-uid")),
    ("Pod", "lookalike"): obj("lookalike-uid", ("example.org/v1", "Automation", "video", "automation-uid")),
}


class Api:
    """The world as `get` of the Kubernetes client shows it."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        self.asked += 1
        assert namespace == "team"
        if self.away:
            raise Unavailable(0, "Unavailable", "away")
        found = WORLD.get((kind.kind, name))
        if found is None:
            raise NotFound(404, "NotFound", name)
        return found


@pytest.mark.parametrize(
    ("pod", "uid", "owner"),
    [
        ("worker", "pod-uid", Owner("automation-uid", "team.video")),
        ("job-pod", "job-pod-uid", Owner("automation-uid", "team.video")),
        ("worker", "an-older-pod", None),
        ("loner", "loner-uid", None),
        ("guest", "guest-uid", None),
        ("impostor", "impostor-uid", None),
        ("orphan", "orphan-uid", None),
        ("other", "other-uid", None),
        ("lookalike", "lookalike-uid", None),
        ("absent", "absent-uid", None),
    ],
)
def test_only_a_whole_chain_of_controllers_leads_to_an_automation(pod: str, uid: str, owner: Owner | None) -> None:
    assert asyncio.run(KubePodOwners(Api()).automation_of("team", pod, uid)) == owner


def test_what_was_found_is_not_asked_again_and_a_failure_is() -> None:
    async def run() -> None:
        api = Api()
        owners = KubePodOwners(api)
        api.away = True
        with pytest.raises(Unavailable):
            await owners.automation_of("team", "worker", "pod-uid")
        api.away = False
        assert await owners.automation_of("team", "worker", "pod-uid") is not None
        asked = api.asked
        assert await owners.automation_of("team", "worker", "pod-uid") is not None
        assert api.asked == asked

    asyncio.run(run())
