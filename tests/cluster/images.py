"""Container images: built once, kept as archives in the cache under a hash of all that goes into them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from tests.cluster import archive, binaries, config, packages, paths, rootfs
from tests.cluster.archive import ImageConfig
from tests.cluster.errors import ClusterError, UnsupportedError
from tests.cluster.locks import held
from tests.cluster.process import check_disk, run, temporary
from tests.cluster.progress import step

# Part of every key: raise it when the way images are made changes.
RECIPE = 1
KEPT = 3
# A build of changed code adds two or three layers of up to 150 MB.
LAYERS_KEPT = 60
GIB = 2**30
BASE = "localhost/maestro-cluster/base:latest"
# What the machine's pip and TLS need to reach its package index; readable in the build, never part of the image.
BUILD_MOUNTS = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache.

    Attributes
    ----------
    reference
        What pods call it, fully qualified.
    archive
        The docker-archive.
    digest
        Of everything that went into it; another digest is another image.
    """

    reference: str
    archive: Path
    digest: str


@dataclass(frozen=True)
class Recipe:
    """How one image is made."""

    reference: str
    digest: str
    usual_seconds: float
    make: Callable[[Path], None] = field(repr=False)
    dockerfile: Path | None = None
    context: Path | None = None

    @property
    def archive(self) -> Path:
        """Where the archive is, or will be."""
        return paths.cache() / "images" / f"{self._name}-{self.digest[:12]}.tar"

    @property
    def lock(self) -> Path:
        """The lock of whoever makes it; one for all versions of the image."""
        return paths.cache() / "images" / f"{self._name}.lock"

    @property
    def _name(self) -> str:
        return re.sub(r"[^a-zA-Z0-9.]+", "-", self.reference.rpartition("/")[2])


def build(name: str) -> BuiltImage:
    """Return an image, built first when the cache doesn't have it.

    Parameters
    ----------
    name
        As in `Cluster.load_image`.
    """
    if name.endswith(".tar"):
        return _given(Path(name))
    recipe = recipe_of(name)
    file = recipe.archive
    file.parent.mkdir(parents=True, exist_ok=True)
    with held(recipe.lock, f"image {recipe.reference}", enough=file.exists):
        if not file.exists():
            _make(recipe, file)
    return BuiltImage(recipe.reference, file, recipe.digest)


def _make(recipe: Recipe, file: Path) -> None:
    check_disk(file.parent, GIB)
    target = temporary(file)
    with step(f"image {recipe.reference}", recipe.usual_seconds):
        recipe.make(target)
        target.replace(file)
    _forget_old(file)


def _forget_old(file: Path) -> None:
    """Keep the last few archives of an image: each is its full size, and each change of the code makes one."""
    name = file.name.rpartition("-")[0]
    versions = sorted(file.parent.glob(f"{name}-{'[0-9a-f]' * 12}.tar"), key=lambda path: path.stat().st_mtime)
    for old in versions[:-KEPT]:
        old.unlink(missing_ok=True)


def _given(file: Path) -> BuiltImage:
    listed = json.loads(run(["tar", "-xOf", file, "manifest.json"]))
    tags = listed[0].get("RepoTags") or []
    if not tags:
        raise ClusterError(f"{file}: the image in it has no name (RepoTags)")
    with file.open("rb") as content:
        return BuiltImage(qualified(tags[0]), file, hashlib.file_digest(content, "sha256").hexdigest())


def recipe_of(name: str) -> Recipe:
    """Return how an image is made; `name` as in `Cluster.load_image`."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    if name.startswith("example-"):
        folder = paths.REPOSITORY / "manifests" / "examples" / name.removeprefix("example-")
        if (folder / "Dockerfile").exists():
            return _from_dockerfile(qualified(f"maestro-{name}"), folder / "Dockerfile", paths.REPOSITORY)
    folder_text, _, reference = name.partition("=")
    folder = Path(folder_text)
    if (folder / "Dockerfile").exists():
        return _from_dockerfile(qualified(reference or folder.resolve().name), folder / "Dockerfile", _context(folder))
    known = ", ".join([*_BUILT_IN, "example-<name>"])
    raise ClusterError(f"no image {name!r}: neither one of {known}, nor a folder with a Dockerfile, nor a .tar file")


def _context(folder: Path) -> Path:
    """A Dockerfile whose context is the repository's root says so in a comment; else its folder is the context."""
    text = (folder / "Dockerfile").read_text()
    return paths.REPOSITORY if "Build from the repository's root" in text else folder


def qualified(reference: str) -> str:
    """Return an image reference as the node knows it: with registry, repository and tag."""
    name, _, tag = reference.rpartition(":") if ":" in reference.rpartition("/")[2] else (reference, "", "latest")
    first, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    return f"{name}:{tag}"


# -- images of whole root file systems ---------------------------------------------------------------------------------


def _from_rootfs(system: rootfs.RootFs, reference: str, settings: ImageConfig) -> Recipe:
    digest = _digest("rootfs", system.key, reference, repr(settings))
    return Recipe(reference, digest, 5, lambda file: archive.from_rootfs(system.tar(), reference, settings, file))


def _from_program(name: str, reference: str) -> Recipe:
    module = binaries.COREDNS_MODULE
    settings = ImageConfig(entrypoint=[f"/{name}"], user="65532:65532")
    digest = _digest("program", module.key, name, reference, repr(settings))
    return Recipe(
        reference, digest, 1, lambda file: archive.from_program(binaries.find(name), reference, settings, file)
    )


def _base() -> Recipe:
    return _from_rootfs(rootfs.PYTHON, BASE, ImageConfig(command=["python3"], environment=_PATH))


def _rabbitmq() -> Recipe:
    reference = _chart_values().get("rabbitmq", {}).get("image") or "docker.io/library/rabbitmq:4.0-management"
    environment = {"PATH": f"/usr/lib/rabbitmq/bin:{_PATH['PATH']}", "LANG": "C.UTF-8"}
    settings = ImageConfig(command=["rabbitmq-server"], environment=environment)
    return _from_rootfs(rootfs.RABBITMQ, qualified(reference), settings)


def _postgres() -> Recipe:
    environment = {"PATH": f"/usr/lib/postgresql/15/bin:{_PATH['PATH']}", "LANG": "C.UTF-8"}
    settings = ImageConfig(command=["postgres"], environment=environment)
    return _from_rootfs(rootfs.POSTGRES, "docker.io/library/postgres:15", settings)


def _maestro() -> Recipe:
    dockerfile = paths.REPOSITORY / "Dockerfile"
    return _from_dockerfile(maestro_reference(), dockerfile, paths.REPOSITORY)


def maestro_reference() -> str:
    """Return the reference under which the chart, with its default values, looks for Maestro's own image."""
    image = _chart_values().get("image", {})
    chart = yaml.safe_load((paths.REPOSITORY / "charts/maestro/Chart.yaml").read_text())
    return qualified(f"{image['repository']}:{image.get('tag') or chart['appVersion']}")


def _chart_values() -> dict:
    file = paths.REPOSITORY / "charts/maestro/values.yaml"
    return yaml.safe_load(file.read_text()) if file.exists() else {}


_PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_BUILT_IN: Mapping[str, Callable[[], Recipe]] = {
    "maestro": _maestro,
    "rabbitmq": _rabbitmq,
    "postgres": _postgres,
    "base": _base,
    "pause": lambda: _from_program("pause", config.PAUSE_IMAGE),
    "coredns": lambda: _from_program("coredns", config.COREDNS_IMAGE),
}


# -- images of a Dockerfile --------------------------------------------------------------------------------------------


def _from_dockerfile(reference: str, dockerfile: Path, context: Path) -> Recipe:
    base = _base()
    digest = _digest(
        "dockerfile", reference, base.digest, str(dockerfile.relative_to(context)), _content(dockerfile, context)
    )
    make = partial(_buildah, reference, dockerfile, context)
    return Recipe(reference, digest, 60, make, dockerfile, context)


def _buildah(reference: str, dockerfile: Path, context: Path, target: Path) -> None:
    if os.geteuid() != 0:
        raise UnsupportedError("images are built with buildah in a chroot: it needs root")
    packages.require("buildah")
    base = build("base")
    mounts = [part for file in BUILD_MOUNTS if file.exists() for part in ("-v", f"{file}:{file}:ro")]
    buildah = _buildah_command()
    # One build at a time: emptying the storage mustn't meet another build.
    with held(paths.cache() / "buildah.lock", "buildah's storage"), tempfile.TemporaryDirectory() as folder:
        _limit_storage()
        built = Path(folder) / "id"
        run(
            [
                *(*buildah, "bud", "--isolation", "chroot", "--layers", "--pull-never", "--format", "docker"),
                *("--build-arg", f"BASE_IMAGE={_in_storage(base)}", *mounts),
                *("-f", dockerfile, "--iidfile", built, context),
            ],
            writes=paths.cache(),
        )
        identity = built.read_text().strip()
        destination = f"docker-archive:{target}:{reference}"
        run([*buildah, "push", "--disable-compression", identity, destination], writes=target.parent)


def _in_storage(base: BuiltImage) -> str:
    """Return the base's name in buildah's storage, imported first when it isn't there."""
    name = f"localhost/maestro-cluster/base:{base.digest[:12]}"
    listed = json.loads(run([*_buildah_command(), "images", "--json"]) or "[]") or []
    if not any(name in (image.get("names") or []) for image in listed):
        run([*_buildah_command(), "pull", f"docker-archive:{base.archive}"], writes=paths.cache())
        run([*_buildah_command(), "tag", BASE, name])
    return name


def _limit_storage() -> None:
    """Empty buildah's storage when the layers of earlier builds have grown too many; the next build is a cold one."""
    layers = paths.cache() / "buildah" / "root" / "overlay"
    if layers.exists() and sum(1 for _ in layers.iterdir()) > LAYERS_KEPT:
        run([*_buildah_command(), "rmi", "--all", "--force"])


def _buildah_command() -> list[str]:
    """buildah with a storage of the harness's own."""
    folder = paths.cache() / "buildah"
    return [
        *("buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run")),
        *("--storage-driver", "overlay"),
    ]


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps([RECIPE, *parts]).encode()).hexdigest()


def _content(dockerfile: Path, context: Path) -> str:
    """Return a hash of the files that the build copies: names, modes and contents."""
    digest = hashlib.sha256()
    ignored = _ignored(dockerfile, context)
    copied = _copied(dockerfile.read_text())
    for file in sorted({dockerfile, *_files(context, lambda path: ignored(path) or not copied(path))}):
        relative = str(file.relative_to(context))
        content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        digest.update(f"{relative}\0{file.lstat().st_mode:o}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _copied(dockerfile: str) -> Callable[[str], bool]:
    """Return whether a path of the context is named by an instruction that copies from it."""
    patterns: list[re.Pattern[str]] = []
    for line in dockerfile.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].upper() not in ("COPY", "ADD") or any(word.startswith("--from=") for word in words):
            continue
        sources = [word for word in words[1:-1] if not word.startswith("--")]
        if "[" in line or "<<" in line or "." in sources or "./" in sources:
            # Forms that aren't taken apart here: every file may be meant.
            return lambda path: True
        patterns += [_pattern(source.removeprefix("./").strip("/")) for source in sources]
    return lambda path: any(_matches(pattern, path) for pattern in patterns)


def _matches(pattern: re.Pattern[str], path: str) -> bool:
    """Say whether a pattern names a path or one of the folders it is in."""
    parts = path.split("/")
    return any(pattern.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1))


def _files(context: Path, ignored: Callable[[str], bool]) -> Iterator[Path]:
    for folder, _, names in os.walk(context):
        for name in names:
            file = Path(folder) / name
            if not ignored(str(file.relative_to(context))):
                yield file


def _ignored(dockerfile: Path, context: Path) -> Callable[[str], bool]:
    """Return .dockerignore's decision: the last pattern that matches a path or one of its folders wins."""
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    file = own if own.exists() else context / ".dockerignore"
    rules: list[tuple[bool, re.Pattern[str]]] = []
    for raw in file.read_text().splitlines() if file.exists() else ():
        line = raw.strip()
        if line and not line.startswith("#"):
            exclude = not line.startswith("!")
            rules.append((exclude, _pattern(line.lstrip("!").strip("/"))))

    def decide(path: str) -> bool:
        decision = False
        for exclude, pattern in rules:
            if _matches(pattern, path):
                decision = exclude
        return decision

    return decide


def _pattern(text: str) -> re.Pattern[str]:
    parts = []
    for piece in re.split(r"(\*\*/?|\*|\?)", text):
        match piece:
            case "**/":
                parts.append(r"(?:.*/)?")
            case "**":
                parts.append(r".*")
            case "*":
                parts.append(r"[^/]*")
            case "?":
                parts.append(r"[^/]")
            case _:
                parts.append(re.escape(piece))
    return re.compile("".join(parts))
