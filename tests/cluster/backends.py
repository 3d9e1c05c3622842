"""Which cluster: native, kind or an existing one."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.cluster.cluster import Cluster
from tests.cluster.errors import UnsupportedError

VARIABLE = "MAESTRO_CLUSTER_BACKEND"


def choose(name: str | None = None) -> Cluster:
    """Return the cluster of a backend.

    Parameters
    ----------
    name
        `native`, `kind` or `existing`; None takes MAESTRO_CLUSTER_BACKEND, and without it kind where a Docker engine
        answers, native elsewhere.
    """
    name = name or os.environ.get(VARIABLE) or ("kind" if docker_answers() else "native")
    match name:
        case "native":
            from tests.cluster.native import NativeCluster

            return NativeCluster()
        case "kind":
            from tests.cluster.kind import Kind

            return Kind()
        case "existing":
            from tests.cluster.existing import ExistingCluster

            return ExistingCluster()
    raise UnsupportedError(f"{VARIABLE}: no backend {name!r}; there are native, kind and existing")


def docker_answers() -> bool:
    """Say whether a Docker engine answers, not only whether its client is installed."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
