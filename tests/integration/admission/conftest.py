"""Two releases of the chart in two namespaces: with the mutating policy (Kubernetes 1.36) and without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.admission.world import World, install, uninstall


@pytest.fixture(scope="module", params=[True, False], ids=["mutating", "validating"])
def world(apiserver: ApiServer, request: pytest.FixtureRequest) -> Iterator[World]:
    with apiserver.namespace("decide", labels={}) as namespace:
        installed = install(apiserver, namespace, mutating=request.param)
        try:
            yield installed
        finally:
            uninstall(installed)


@pytest.fixture(scope="module", params=[True, False], ids=["mutating", "validating"])
def four_eyes(apiserver: ApiServer, request: pytest.FixtureRequest) -> Iterator[World]:
    with apiserver.namespace("eyes", labels={}) as namespace:
        installed = install(apiserver, namespace, "--set=admission.fourEyes=true", mutating=request.param)
        try:
            yield installed
        finally:
            uninstall(installed)
