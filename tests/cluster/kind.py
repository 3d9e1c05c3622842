"""kind, where a Docker engine answers: pytest-kind's KindCluster with a newer kind and a pinned node image."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import binaries, images, paths
from tests.cluster.backends import docker_answers
from tests.cluster.cluster import Cluster, Health
from tests.cluster.errors import ClusterError, CommandError, UnsupportedError
from tests.cluster.locks import held
from tests.cluster.process import run
from tests.cluster.progress import step

NAME = "maestro"
# The node image that this release of kind was made with. pytest-kind's own defaults give Kubernetes 1.25, which has no
# ValidatingAdmissionPolicy.
NODE_IMAGE = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"


class Kind(Cluster):
    """The kind backend. Images are built by the Docker engine, from the Dockerfiles' own base images."""

    backend = "kind"

    def __init__(self) -> None:
        super().__init__(paths.kubeconfig())
        self._loaded_file = paths.BUILD / "kind-images.json"
        self._lock = Path(tempfile.gettempdir()) / "maestro-kind.lock"

    def up(self) -> None:
        """Create the cluster unless it exists, and wait for its node."""
        self._check_machine()
        with held(self._lock, "kind cluster"):
            health = self.health()
            if health.exists and not health.well:
                self._delete()
            if not self.health().exists:
                self._loaded_file.unlink(missing_ok=True)
            with step("kind cluster", 60):
                self._kind_cluster().create()
                self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
            self.kubeconfig.chmod(0o600)
            binaries.link(["kubectl", "helm"], paths.BUILD / "bin")

    def down(self) -> None:
        """Delete the cluster."""
        self._check_machine()
        with held(self._lock, "kind cluster"):
            if NAME in self._names():
                self._delete()
        self.kubeconfig.unlink(missing_ok=True)
        self._loaded_file.unlink(missing_ok=True)

    def health(self) -> Health:
        """Return whether the cluster exists and its node is Ready."""
        self._check_machine()
        if NAME not in self._names():
            return Health(exists=False, problems=["it doesn't exist"])
        if not self.kubeconfig.exists():
            return Health(exists=True, problems=[f"{self.kubeconfig} is missing"])
        try:
            nodes = self.get("nodes", "--request-timeout=10s")["items"]
        except CommandError as error:
            return Health(exists=True, problems=[str(error)])
        conditions = [c for node in nodes for c in node["status"].get("conditions", []) if c["type"] == "Ready"]
        ready = bool(conditions) and all(condition["status"] == "True" for condition in conditions)
        return Health(exists=True, problems=[] if ready else ["the node isn't Ready"])

    def load_image(self, name: str) -> str:
        """Build an image with Docker where it has a Dockerfile, pull it elsewhere, load it and return its reference."""
        if name.endswith(".tar"):
            return super().load_image(name)
        recipe = images.recipe_of(name)
        if self.has_image(recipe.reference, recipe.digest):
            return recipe.reference
        with step(f"image {recipe.reference}", recipe.usual_seconds):
            if recipe.dockerfile is None:
                if recipe.reference.startswith("localhost/"):
                    raise UnsupportedError(f"the image {name} is made for the native backend only")
                run(["docker", "pull", "--quiet", recipe.reference])
            else:
                run(
                    ["docker", "build", "--quiet", "-f", recipe.dockerfile, "-t", recipe.reference, str(recipe.context)]
                )
            self._kind_cluster().load_docker_image(recipe.reference)
            self.note_image(recipe.reference, recipe.digest)
        return recipe.reference

    def load_archive(self, archive: Path, reference: str) -> None:
        """Load an image archive."""
        run([binaries.find("kind"), "load", "image-archive", archive, "--name", NAME])

    def has_image(self, reference: str, digest: str) -> bool:
        """Say whether this very image was loaded since the cluster was created."""
        return self._loaded().get(reference) == digest

    def note_image(self, reference: str, digest: str) -> None:
        """Remember what was loaded under a reference."""
        paths.BUILD.mkdir(exist_ok=True)
        self._loaded_file.write_text(json.dumps({**self._loaded(), reference: digest}))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Be up for the block; it stays up after it (creating one takes a minute)."""
        self.up()
        yield

    def _loaded(self) -> dict[str, str]:
        return json.loads(self._loaded_file.read_text()) if self._loaded_file.exists() else {}

    def _check_machine(self) -> None:
        if shutil.which("docker") is None or not docker_answers():
            raise UnsupportedError("the kind backend needs a Docker engine, and none answers (docker info)")

    def _names(self) -> list[str]:
        return run([binaries.find("kind"), "get", "clusters"]).split()

    def _delete(self) -> None:
        self._kind_cluster().delete()

    def _kind_cluster(self) -> Any:
        # Imported here: pytest-kind has no types, and only this backend needs it.
        from pytest_kind import KindCluster

        # It makes a folder of that name in the working directory, whatever paths it is given.
        before = Path.cwd()
        paths.BUILD.mkdir(exist_ok=True)
        os.chdir(paths.BUILD)
        try:
            return KindCluster(
                NAME,
                kubeconfig=self.kubeconfig,
                image=NODE_IMAGE,
                kind_path=binaries.find("kind"),
                kubectl_path=binaries.find("kubectl"),
            )
        except OSError as error:
            raise ClusterError(f"kind: {error}") from error
        finally:
            os.chdir(before)
