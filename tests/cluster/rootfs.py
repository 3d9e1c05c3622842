"""Debian root file systems made with mmdebstrap: each built once, as a tar in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import packages, paths
from tests.cluster.locks import held
from tests.cluster.process import check_disk, disk_full_named, run, temporary
from tests.cluster.progress import step

# Part of every key: raise it when the way root file systems are made changes.
RECIPE = 1
GIB = 2**30


@dataclass(frozen=True)
class RootFs:
    """A Debian release with some packages."""

    name: str
    release: str
    include: Sequence[str]
    usual_seconds: float

    @property
    def key(self) -> str:
        """What the tar is called in the cache: other packages, other name."""
        content = json.dumps([RECIPE, self.release, sorted(self.include)])
        return f"{self.name}-{self.release}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def tar(self) -> Path:
        """Return the tar, built first when the cache doesn't have it."""
        file = paths.cache() / "rootfs" / f"{self.key}.tar"
        if file.exists():
            return file
        with held(file.with_suffix(".lock"), f"root file system {self.name}", enough=file.exists):
            if not file.exists():
                self._build(file)
        return file

    def _build(self, file: Path) -> None:
        packages.require("mmdebstrap")
        check_disk(file.parent, 2 * GIB)
        target = temporary(file)
        with step(f"root file system {self.name} ({self.release})", self.usual_seconds):
            run(
                [
                    "mmdebstrap",
                    "--format=tar",
                    "--variant=minbase",
                    f"--include={','.join(self.include)}",
                    self.release,
                    target,
                ],
                writes=file.parent,
            )
            target.replace(file)

    def folder(self) -> Path:
        """Return the root file system unpacked, for programs that run in a chroot on this machine."""
        folder = paths.cache() / "rootfs" / self.key
        if folder.exists():
            return folder
        tar = self.tar()
        with held(folder.with_suffix(".lock"), f"root file system {self.name}", enough=folder.exists):
            if not folder.exists():
                self._unpack(tar, folder)
        return folder

    def _unpack(self, tar: Path, folder: Path) -> None:
        target = temporary(folder)
        check_disk(folder.parent, GIB)
        with disk_full_named(folder.parent):
            target.mkdir(mode=0o755)
            run(
                ["tar", "--extract", "--file", tar, "--directory", target, "--exclude=./dev/*"],
                writes=folder.parent,
            )
            target.chmod(0o755)
            target.rename(folder)


PYTHON = RootFs("python", "bookworm", ("python3", "python3-venv", "ca-certificates"), usual_seconds=40)
RABBITMQ = RootFs("rabbitmq", "trixie", ("rabbitmq-server",), usual_seconds=40)
POSTGRES = RootFs("postgres", "bookworm", ("postgresql-15",), usual_seconds=45)
