"""One installation of Maestro for all end-to-end tests: the chart, with its defaults, on the cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import Cluster
from tests.e2e.client import Client, client_of
from tests.e2e.installation import install


@pytest.fixture(scope="session")
def maestro(cluster: Cluster) -> Cluster:
    """The cluster, with Maestro installed by the chart's defaults."""
    cluster.load_image("example-video")
    install(cluster)
    return cluster


@pytest.fixture
def namespace(maestro: Cluster) -> Iterator[str]:
    """A namespace of the test's own that enforces the restricted profile."""
    with maestro.namespace("e2e") as name:
        yield name


@pytest.fixture
def api(maestro: Cluster, namespace: str) -> Iterator[Client]:
    """The HTTP API through a port-forward, as a person who may edit in the test's namespace."""
    with client_of(maestro, namespace) as client:
        yield client
