"""Where the harness keeps things: the repository, its build folder, the cache outside of it and the node's state."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = REPOSITORY / "build"


def cache() -> Path:
    """Return the folder for what is built once and shared by every checkout on this machine; made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "maestro-cluster"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state() -> Path:
    """Return the folder of the native cluster's state (etcd, certificates, containers, logs)."""
    return Path(os.environ.get("MAESTRO_CLUSTER_STATE", "/var/lib/maestro-cluster"))


def kubeconfig() -> Path:
    """Return where the kubeconfig of a cluster that the harness has made is put."""
    return Path(os.environ.get("MAESTRO_CLUSTER_KUBECONFIG", BUILD / "kubeconfig"))
