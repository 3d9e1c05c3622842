"""A cluster that somebody else runs, named by KUBECONFIG: used, never started or stopped."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster import binaries, paths
from tests.cluster.cluster import Cluster, Health
from tests.cluster.errors import ClusterError, CommandError, UnsupportedError


class ExistingCluster(Cluster):
    """The existing backend. Images must be where its nodes can pull them; nothing is loaded."""

    backend = "existing"

    def __init__(self) -> None:
        given = os.environ.get("KUBECONFIG", "")
        if not given:
            raise UnsupportedError("the existing backend needs KUBECONFIG, the path of a kubeconfig file")
        if os.pathsep in given or not Path(given).is_file():
            raise UnsupportedError(f"KUBECONFIG={given}: the existing backend needs the path of one file")
        super().__init__(Path(given))

    def up(self) -> None:
        """Check that the cluster answers, and put kubectl and helm into build/bin."""
        health = self.health()
        if not health.well:
            raise ClusterError(f"the cluster of {self.kubeconfig} can't be used: {'; '.join(health.problems)}")
        binaries.link(["kubectl", "helm"], paths.BUILD / "bin")

    def down(self) -> None:
        """Do nothing: the cluster isn't ours."""

    def health(self) -> Health:
        """Return whether its API server and at least one node are ready."""
        try:
            self.kubectl("get", "--raw=/readyz", timeout=20)
            nodes = self.get("nodes")["items"]
        except CommandError as error:
            return Health(exists=True, problems=[str(error)])
        ready = [
            node["metadata"]["name"]
            for node in nodes
            if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
        ]
        return Health(exists=True, problems=[] if ready else ["no node is Ready"], details=[f"node {n}" for n in ready])

    def load_image(self, name: str) -> str:
        """Refuse: how images come to somebody else's nodes is theirs to say."""
        raise UnsupportedError(
            f"the existing backend can't load the image {name}: push it to a registry that the nodes can reach "
            f"(`python -m tests.cluster build {name}` builds it)"
        )

    def load_archive(self, archive: Path, reference: str) -> None:
        """Never called: see `load_image`."""
        raise UnsupportedError(f"the existing backend can't load {archive}")

    def has_image(self, reference: str, digest: str) -> bool:
        """Never called: see `load_image`."""
        return False

    def note_image(self, reference: str, digest: str) -> None:
        """Never called: see `load_image`."""
