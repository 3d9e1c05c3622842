"""Folders of throw-away test servers, and the removal of those whose owner was killed before it could."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from tests.cluster.process import Identity

PREFIX = "maestro-test-"
OWNER = "owner.json"


def make(kind: str) -> Path:
    """Make a folder for one server of this process; sweep what dead processes left first."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
    folder.chmod(0o755)
    identity = Identity.of(os.getpid())
    assert identity is not None
    identity.save(folder / OWNER)
    return folder


def remove(folder: Path) -> None:
    """Kill whatever still runs in the folder and remove it."""
    for pid_file in folder.glob("*.pid"):
        identity = Identity.load(pid_file)
        if identity is not None:
            identity.end(number=signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the servers of processes that are gone."""
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{OWNER}"):
        identity = Identity.load(owner)
        if identity is not None and not identity.alive():
            remove(owner.parent)
