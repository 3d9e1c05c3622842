"""The real servers that tests run against. Where a machine can't run one, the tests that need it fail and say why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tests.cluster import backends
from tests.cluster.apiserver import ApiServer
from tests.cluster.cluster import Cluster
from tests.cluster.errors import UnsupportedError
from tests.cluster.postgres import Postgres
from tests.cluster.rabbitmq import RabbitMQ


@contextlib.contextmanager
def _shown(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let progress through to the terminal: what is built here for the first time takes minutes."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    context = manager.global_and_fixture_disabled() if manager else contextlib.nullcontext()
    with context:
        try:
            yield
        except UnsupportedError as error:
            pytest.fail(f"this machine can't run the tests that need {request.fixturename}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A Kubernetes with a node, brought up where it isn't: pods run.

    A cluster that was up before stays up; one that the tests started is taken down by the session that ends last
    (MAESTRO_CLUSTER_KEEP=1 keeps it).
    """
    with contextlib.ExitStack() as stack:
        with _shown(request):
            chosen = backends.choose()
            stack.enter_context(chosen.in_use())
        yield chosen


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the cluster for one test; it enforces the restricted pod security standard."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def apiserver(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A Kubernetes API server (etcd, API server, controllers, no node) of this test session's own, with the CRDs."""
    with contextlib.ExitStack() as stack:
        with _shown(request):
            server = stack.enter_context(ApiServer())
        yield server


@pytest.fixture(scope="session")
def rabbitmq(request: pytest.FixtureRequest) -> Iterator[RabbitMQ]:
    """A RabbitMQ 4.x of this test session's own, on 127.0.0.1; `rabbitmq.reset()` empties it between tests."""
    with contextlib.ExitStack() as stack:
        with _shown(request):
            broker = stack.enter_context(RabbitMQ())
        yield broker


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL 15 of this test session's own, on 127.0.0.1; `with postgres.database() as url` for each test."""
    with contextlib.ExitStack() as stack:
        with _shown(request):
            server = stack.enter_context(Postgres())
        yield server
