"""The Lease that the leader elector asks for, through the ordinary client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from maestro.kube.client import KubeClient, Object, Rate
from maestro.kube.errors import Conflict, NotFound
from maestro.kube.kinds import LEASE


class KubeLease:
    """One Lease object; a `LeaseClient` of the elector."""

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name

    async def get(self) -> Object | None:
        """The Lease; None where there is none."""
        try:
            return await self._client.get(LEASE, self._namespace, self._name)
        except NotFound:
            return None

    async def create(self, spec: dict[str, Any]) -> Object | None:
        """A new Lease; None when somebody else was faster."""
        try:
            body = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": spec}
            return await self._client.create(LEASE, self._namespace, body)
        except Conflict:
            return None

    async def replace(self, lease: Object) -> Object | None:
        """Write over the version that `lease` carries; None when somebody else was faster."""
        try:
            return await self._client.replace(LEASE, self._namespace, self._name, lease)
        except (Conflict, NotFound):
            return None

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()


def lease_connector(
    namespace: str,
    name: str,
    *,
    kubeconfig: str | Path | None = None,
    context: str | None = None,
    timeout: float = 5.0,
) -> Callable[[], Awaitable[KubeLease]]:
    """What a `LeaderElector` connects with: a client of its own, which never waits, made in the elector's loop."""

    async def connect() -> KubeLease:
        rate = Rate(qps=50.0, burst=50, retries=0)
        client = await KubeClient.connect(kubeconfig, context, rate=rate, timeout=timeout)
        return KubeLease(client, namespace, name)

    return connect
