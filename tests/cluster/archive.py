"""Container images as docker-archive files, put together without a builder: one layer and a configuration."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.process import disk_full_named

CHUNK = 1 << 20


@dataclass(frozen=True)
class ImageConfig:
    """How a container of the image starts."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_directory: str = ""


def from_rootfs(tar: Path, reference: str, config: ImageConfig, target: Path) -> None:
    """Write the docker-archive of an image whose only layer is a root file system's tar."""
    with disk_full_named(target.parent), tar.open("rb") as layer, target.open("wb") as output:
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        layer.seek(0)
        with tarfile.open(fileobj=output, mode="w") as archive:
            entry = tarfile.TarInfo("layer.tar")
            entry.size = tar.stat().st_size
            archive.addfile(entry, layer)
            _describe(archive, digest, reference, config)


def from_program(program: Path, reference: str, config: ImageConfig, target: Path) -> None:
    """Write the docker-archive of an image that holds one static program, at the root, and nothing else."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as content, program.open("rb") as source:
        entry = tarfile.TarInfo(program.name)
        entry.size, entry.mode = program.stat().st_size, 0o755
        content.addfile(entry, source)
    data = layer.getvalue()
    with disk_full_named(target.parent), tarfile.open(target, mode="w") as archive:
        _add(archive, "layer.tar", data)
        _describe(archive, hashlib.sha256(data).hexdigest(), reference, config)


def _describe(archive: tarfile.TarFile, layer_digest: str, reference: str, config: ImageConfig) -> None:
    content = {
        "architecture": "amd64",
        "os": "linux",
        # No time stamp: the same layer gives the same image.
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.command),
            "Env": [f"{name}={value}" for name, value in config.environment.items()],
            "User": config.user,
            "WorkingDir": config.working_directory,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "maestro test cluster"}],
    }
    _add(archive, "config.json", json.dumps(content).encode())
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    _add(archive, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
