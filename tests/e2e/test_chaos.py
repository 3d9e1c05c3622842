"""A short chaos: every fault once, on the Maestro that the other end-to-end tests use. `make chaos` is the long one."""

from __future__ import annotations

import secrets

import pytest
from tests.chaos.__main__ import chaos
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.e2e


def test_a_thousand_runs_while_everything_dies_once(maestro: Cluster, namespace: str) -> None:
    seed = secrets.randbelow(1_000_000)
    report = chaos(maestro, namespace, store="sqlite", runs=1000, pods=4, times=1, seed=seed)
    assert not report.broken, f"--seed {seed}"
