"""Ports for test servers that don't collide with those of another test session."""

from __future__ import annotations

import random
import socket
import tempfile
from pathlib import Path

from tests.cluster.locks import Lock

# Below the kernel's range for outgoing connections, so that no client takes a port between choice and use.
LOWEST, HIGHEST = 20000, 32000

_mine: list[Lock] = []


def reserve() -> int:
    """Return a free loopback port that no other process of the harness will choose while this one lives."""
    folder = Path(tempfile.gettempdir()) / "maestro-ports"
    for _ in range(200):
        port = random.randrange(LOWEST, HIGHEST)
        lock = Lock(folder / str(port))
        if not lock.try_acquire():
            continue
        if _bindable(port):
            _mine.append(lock)
            return port
        lock.release()
    raise OSError(f"no free port between {LOWEST} and {HIGHEST}")


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
