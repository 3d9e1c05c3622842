"""What can go wrong in the harness, each with a message that says what to do."""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """Base of everything that the harness raises on purpose."""


class UnsupportedError(ClusterError):
    """This machine cannot do what was asked for (no root, not Linux, no Docker engine, …)."""


class CommandError(ClusterError):
    """A program that the harness ran ended with an error; the message carries the end of its output."""


class DiskFullError(ClusterError):
    """There is no room left below a folder that the harness writes to."""

    def __init__(self, folder: Path, free: int, need: int | None = None) -> None:
        wanted = f", {need / 2**30:.1f} GiB are needed" if need else ""
        super().__init__(
            f"the disk that holds {folder} is full: {free / 2**30:.2f} GiB free{wanted}; make room there or set "
            f"XDG_CACHE_HOME (cache), MAESTRO_CLUSTER_STATE (cluster) or TMPDIR (test servers) to another disk"
        )
