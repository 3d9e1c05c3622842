"""From a worker's pod to the Automation it was made for, through the pod's chain of controlling owners."""

from __future__ import annotations

from typing import Any, Protocol

from maestro.http.auth import Owner
from maestro.http.ttlcache import TtlCache
from maestro.kube.errors import NotFound
from maestro.kube.kinds import AUTOMATION, DEPLOYMENT, JOB, POD, REPLICA_SET, SCHEDULE, Kind
from maestro.resources import GROUP

_LINKS = {("apps", "ReplicaSet"): REPLICA_SET, ("apps", "Deployment"): DEPLOYMENT, ("batch", "Job"): JOB}
_LONGEST_CHAIN = 4
_SIZE = 20_000
_FOUND_SECONDS = 3600.0
_ABSENT_SECONDS = 10.0


class Getter(Protocol):
    """What of the Kubernetes client the look-up needs."""

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """One object; NotFound where there is none."""


class KubePodOwners:
    """Walks pod → ReplicaSet → Deployment → Automation, pod → Job → Automation, or pod → Job → Schedule → Automation.

    Every step compares the UID of the owner reference with that of the object found, so that neither a label nor an
    object made anew under the same name leads to another Automation. A pod's owners don't change: what is found holds.
    """

    def __init__(self, client: Getter) -> None:
        self._client = client
        self._known: TtlCache[str, Owner | None] = TtlCache(
            _SIZE, lambda automation: _FOUND_SECONDS if automation else _ABSENT_SECONDS
        )

    async def automation_of(self, namespace: str, pod: str, pod_uid: str) -> Owner | None:
        """The Automation that the pod works for; None where the chain leads elsewhere."""
        return await self._known.get(pod_uid, lambda: self._walk(namespace, pod, pod_uid))

    async def _walk(self, namespace: str, name: str, uid: str) -> Owner | None:
        kind: Kind = POD
        for _ in range(_LONGEST_CHAIN):
            try:
                found = await self._client.get(kind, namespace, name)
            except NotFound:
                return None
            if found["metadata"].get("uid") != uid:
                return None
            owner = _controller(found)
            if owner is None:
                return None
            group = owner["apiVersion"].partition("/")[0]
            if group == GROUP and owner["kind"] == "Automation":
                return Owner(owner["uid"], f"{namespace}.{owner['name']}")
            if group == GROUP and owner["kind"] == "Schedule":
                return await self._of_schedule(namespace, owner)
            link = _LINKS.get((group, owner["kind"]))
            if link is None:
                return None
            kind, name, uid = link, owner["name"], owner["uid"]
        return None

    async def _of_schedule(self, namespace: str, owner: dict[str, Any]) -> Owner | None:
        """A Schedule owns the Jobs of its ticks; whose work they do, it names."""
        try:
            schedule = await self._client.get(SCHEDULE, namespace, owner["name"])
            if schedule["metadata"].get("uid") != owner["uid"]:
                return None
            automation = await self._client.get(AUTOMATION, namespace, schedule["spec"]["automation"])
        except NotFound:
            return None
        return Owner(automation["metadata"]["uid"], f"{namespace}.{automation['metadata']['name']}")


def _controller(found: dict[str, Any]) -> dict[str, Any] | None:
    references: list[dict[str, Any]] = found["metadata"].get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)
