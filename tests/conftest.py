"""The real servers that tests run against. Where a machine can't run one, the tests that need it fail and say why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.apiserver import ApiServer
from tests.cluster.postgres import Postgres
from tests.cluster.rabbitmq import RabbitMQ


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ 4.x of this test session's own, on 127.0.0.1; `rabbitmq.reset()` empties it between tests."""
    with RabbitMQ() as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL 15 of this test session's own, on 127.0.0.1; `with postgres.database() as url` for each test."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """A Kubernetes API server (etcd, API server, controllers, no node) of this test session's own, with the CRDs."""
    with ApiServer() as server:
        yield server
