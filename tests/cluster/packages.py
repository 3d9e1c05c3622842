"""Debian packages that the harness needs: looked for first, installed with apt when missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.errors import UnsupportedError
from tests.cluster.locks import held
from tests.cluster.process import run
from tests.cluster.progress import step

# Each package by a file or program that shows it is there, however it came.
_EVIDENCE: Mapping[str, str] = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "nftables": "nft",
    "iptables": "iptables",
    "iproute2": "ip",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "lua5.1": "lua5.1",
    "nginx-light": "nginx",
    "openssl": "openssl",
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",
    "python3-venv": "/usr/share/doc/python3-venv",
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def present(package: str) -> bool:
    """Say whether a package's program is on this machine."""
    evidence = _EVIDENCE[package]
    if evidence.startswith("/"):
        return Path(evidence).exists()
    return shutil.which(evidence, path=_SYSTEM_PATH) is not None


def require(*names: str) -> None:
    """Install those packages that are missing.

    Raises
    ------
    UnsupportedError
        One is missing and this machine isn't Debian-like or we aren't root.
    """
    if all(present(name) for name in names):
        return
    with held(Path(tempfile.gettempdir()) / "maestro-apt.lock", "apt"):
        missing = [name for name in names if not present(name)]
        if missing:
            _install(missing)


def _install(missing: list[str]) -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        why = "apt-get isn't here" if shutil.which("apt-get") is None else "this user isn't root"
        raise UnsupportedError(f"missing on this machine: {', '.join(missing)}; they can't be installed because {why}")
    with step(f"apt packages {', '.join(missing)}", 40):
        # A build machine's apt may just be busy; its own lock has a wait for that.
        options = ["-q", "-o", "DPkg::Lock::Timeout=300"]
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", *options], env=environment)
        run(["apt-get", "install", "-y", "--no-install-recommends", *options, *missing], env=environment)
