"""What every kind of test cluster can do through its kubeconfig."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster import binaries
from tests.cluster.process import run, wait_for

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


class Kubectl:
    """A cluster seen through kubectl.

    Attributes
    ----------
    kubeconfig
        The file with an administrator's access.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float | None = 300) -> str:
        """Run kubectl and return what it prints; raises CommandError with its message when it fails."""
        return run(
            [binaries.find("kubectl"), "--kubeconfig", self.kubeconfig, *arguments],
            stdin=stdin,
            env=self.environment(),
            timeout=timeout,
        )

    def get(self, *arguments: str) -> Any:
        """Return `kubectl get … -o json`, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects (server-side)."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))

    def environment(self) -> dict[str, str]:
        """The environment in which a program finds this cluster and no other."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    def load_crds(self, folder: Path) -> None:
        """Apply every CustomResourceDefinition of a folder and wait until the API server serves them."""
        if not any(folder.glob("*.yaml")):
            return
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(folder))

    @contextlib.contextmanager
    def namespace(self, prefix: str = "test", labels: Mapping[str, str] = RESTRICTED) -> Iterator[str]:
        """Make a namespace for the block, by default one that enforces the restricted pod security standard.

        Its removal is asked for at the end and not waited for.
        """
        name = self.create_namespace(prefix, labels)
        try:
            yield name
        finally:
            self.delete_namespaces([name])

    def create_namespace(self, prefix: str = "test", labels: Mapping[str, str] = RESTRICTED) -> str:
        """Make a namespace with a fresh name, wait for its default ServiceAccount and return the name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}})
        wait_for(f"the ServiceAccount of {name}", lambda: self._has_service_account(name), timeout=60, every=0.1)
        return name

    def delete_namespaces(self, names: Iterable[str]) -> None:
        """Ask for the removal of namespaces."""
        self.kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *names)

    def _has_service_account(self, namespace: str) -> bool:
        name = "-o=name"
        return bool(self.kubectl("get", "serviceaccount", "default", "-n", namespace, "--ignore-not-found", name))
