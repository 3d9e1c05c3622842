"""A namespace of each test's own, and a helper to wait inside a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from tests.cluster.apiserver import ApiServer

from maestro.kube.kinds import Kind

T = TypeVar("T")


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """An API server of these tests' own: they freeze, kill and throttle it. They bring the definitions they need."""
    with ApiServer(crds=None) as server:
        yield server


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A fresh namespace."""
    with apiserver.namespace("kube") as name:
        yield name


def run(scenario: Coroutine[Any, Any, T], timeout: float = 120.0) -> T:
    """Run a scenario in a loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario, timeout))


async def until(what: str, condition: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout: float = 60.0) -> Any:
    """Wait until a condition is true; what it gives then."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {timeout:g} s") from None


def definition_of(kind: Kind) -> dict[str, Any]:
    """A definition that lets anything pass, with a status subresource."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced",
            "names": {"plural": kind.plural, "singular": kind.kind.lower(), "kind": kind.kind},
            "versions": [version],
        },
    }
