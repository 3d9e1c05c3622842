"""Watched namespaces that aren't there: nothing is in them, and they must not keep the others waiting."""

from __future__ import annotations

from maestro.kube.client import KubeClient
from maestro.kube.errors import KubeError, NotFound
from maestro.kube.kinds import NAMESPACE


async def is_absent(client: KubeClient, namespace: str | None) -> bool:
    """Whether a namespace isn't there. Ask when something in it is forbidden: its Roles went with it.

    False where that can't be found out.
    """
    if namespace is None:
        return False
    try:
        await client.get(NAMESPACE, None, namespace)
    except NotFound:
        return True
    except KubeError:
        return False
    return False
