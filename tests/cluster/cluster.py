"""What the three backends have in common: the object behind the `cluster` fixture and the command line."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import binaries, images, paths
from tests.cluster.errors import UnsupportedError
from tests.cluster.kubectl import Kubectl
from tests.cluster.process import run
from tests.cluster.progress import step


@dataclass(frozen=True)
class Health:
    """How a cluster is: well when it exists and nothing is wrong."""

    exists: bool
    problems: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether tests can run on it."""
        return self.exists and not self.problems


class Cluster(Kubectl, abc.ABC):
    """A cluster with a node: pods really run.

    Attributes
    ----------
    backend
        `native`, `kind` or `existing`.
    kubeconfig
        The file with an administrator's access.
    """

    backend: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kubeconfig={self.kubeconfig})"

    @abc.abstractmethod
    def up(self) -> None:
        """Bring the cluster up; fast when it is up already."""

    @abc.abstractmethod
    def down(self) -> None:
        """Take the cluster down, if this backend made it."""

    @abc.abstractmethod
    def health(self) -> Health:
        """Return how the cluster is."""

    @abc.abstractmethod
    def load_archive(self, archive: Path, reference: str) -> None:
        """Put the image of a docker-archive file on the node."""

    @abc.abstractmethod
    def has_image(self, reference: str, digest: str) -> bool:
        """Say whether the node has exactly this image."""

    @abc.abstractmethod
    def note_image(self, reference: str, digest: str) -> None:
        """Remember what was loaded under a reference."""

    def keep(self) -> None:
        """From now on the cluster is a person's: no test session takes it down."""

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Be up for the block."""
        self.up()
        yield

    def load_image(self, name: str) -> str:
        """Build an image where needed, load it where the node lacks it and return its reference.

        Parameters
        ----------
        name
            `maestro`, `rabbitmq`, `postgres`, `base`, `example-<folder below manifests/examples>`, the path of a folder
            with a Dockerfile, or the path of a docker-archive.
        """
        image = images.build(name)
        if not self.has_image(image.reference, image.digest):
            with step(f"loading {image.reference}", 10):
                self.load_archive(image.archive, image.reference)
                self.note_image(image.reference, image.digest)
        return image.reference

    def helm(self, *arguments: str, timeout: float | None = 900) -> str:
        """Run helm against this cluster and return what it prints; its caches stay below build/."""
        folder = paths.BUILD / "helm"
        homes = {f"HELM_{kind.upper()}_HOME": str(folder / kind) for kind in ("cache", "config", "data")}
        return run([binaries.find("helm"), *arguments], env={**self.environment(), **homes}, timeout=timeout)

    def in_pod_network(self, namespace: str, pod: str, *argv: str) -> str:
        """Run a program in a pod's network namespace, as root and with this machine's tools; return its output."""
        raise UnsupportedError(f"the {self.backend} backend gives no access to a pod's network; use the native one")

    def pod_network(self, namespace: str, pod: str) -> Callable[..., str]:
        """Return what runs a program (its arguments; `stdin`) in the network that a pod has now, as `in_pod_network`.

        It still does when the pod's name can't be looked up any more.
        """
        raise UnsupportedError(f"the {self.backend} backend gives no access to a pod's network; use the native one")

    def pod_processes(self, namespace: str, pod: str) -> list[int]:
        """Return the pids, on this machine, of everything that runs in a pod's containers."""
        raise UnsupportedError(f"the {self.backend} backend gives no access to a pod's processes; use the native one")

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """End one of Kubernetes' programs, with SIGTERM or as a crash would."""
        raise UnsupportedError(f"the {self.backend} backend can't stop {name}; use the native one")

    def start_component(self, name: str) -> None:
        """Start one of Kubernetes' programs again and wait until the cluster is well."""
        raise UnsupportedError(f"the {self.backend} backend can't start {name}; use the native one")

    def restart_component(self, name: str, *, kill: bool = False) -> None:
        """End one of Kubernetes' programs and start it again."""
        self.stop_component(name, kill=kill)
        self.start_component(name)
