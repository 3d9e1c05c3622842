"""containerd of the native node: images in, pods found, every task ended."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

from tests.cluster.errors import ClusterError, CommandError
from tests.cluster.process import Daemon, Identity, run, wait_for

NAMESPACE = "k8s.io"
START_SECONDS = 60.0


class Containers:
    """One containerd with a socket of its own."""

    def __init__(self, folder: Path, socket: Path, configuration: Path) -> None:
        self.socket = socket
        self.daemon = Daemon("containerd", ["containerd", "--config", str(configuration)], folder)

    def ctr(self, *arguments: str | Path) -> str:
        """Run containerd's client in Kubernetes' namespace."""
        return run(["ctr", "--address", self.socket, "--namespace", NAMESPACE, *arguments])

    def start(self) -> None:
        """Start containerd and wait until it answers."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.daemon.start()
        wait_for("containerd answers", self.answers, timeout=START_SECONDS, needs=[self.daemon])

    def answers(self) -> bool:
        """Say whether containerd answers on its socket."""
        try:
            self.ctr("--connect-timeout", "2s", "version")
        except CommandError:
            return False
        return True

    def images(self) -> dict[str, str]:
        """Return the images by reference, with the digest of each."""
        lines = [line.split() for line in self.ctr("images", "ls").splitlines()[1:]]
        return {fields[0]: fields[2] for fields in lines if len(fields) > 2}

    def load(self, archive: Path) -> None:
        """Import an image archive."""
        self.ctr("images", "import", archive)

    def pod_network_namespace(self, namespace: str, pod: str) -> Path:
        """Return the file of a running pod's network namespace."""
        for name, labels in self._sandboxes().items():
            if labels.get("io.kubernetes.pod.namespace") == namespace and labels.get("io.kubernetes.pod.name") == pod:
                spec = json.loads(self.ctr("containers", "info", name))["Spec"]
                for entry in spec["linux"]["namespaces"]:
                    if entry["type"] == "network" and entry.get("path") and Path(entry["path"]).exists():
                        return Path(entry["path"])
        raise ClusterError(f"no running pod {namespace}/{pod} with a network of its own on this node")

    def pod_processes(self, namespace: str, pod: str) -> list[int]:
        """Return the pids of everything that runs in a pod's containers; its sandbox doesn't count."""
        pids: list[int] = []
        filters = [
            'labels."io.cri-containerd.kind"==container',
            f'labels."io.kubernetes.pod.namespace"=={namespace}',
            f'labels."io.kubernetes.pod.name"=={pod}',
        ]
        for name in self.ctr("containers", "ls", "-q", ",".join(filters)).split():
            # One that has ended has no task any more.
            with contextlib.suppress(CommandError):
                pids += [int(line.split()[0]) for line in self.ctr("tasks", "ps", name).splitlines()[1:]]
        return pids

    def kill_tasks(self) -> None:
        """End every container at once; the shims go with them."""
        wait_for("every container to end", self._no_task_left, timeout=30, every=0.2)

    def _no_task_left(self) -> bool:
        for task in self.ctr("tasks", "ls", "-q").split():
            # One that ends by itself just now, or whose shim does, gives an error: what counts is that it goes.
            for action in (("kill", "-s", "SIGKILL"), ("rm", "-f")):
                with contextlib.suppress(CommandError):
                    self.ctr("tasks", *action, task)
        return not self.ctr("tasks", "ls", "-q").split()

    def shims(self) -> list[Identity]:
        """Return the shims that serve this containerd, told by its socket in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"shim" in arguments[0] and str(self.socket).encode() in arguments:
                identity = Identity.of(int(folder.name))
                if identity is not None:
                    found.append(identity)
        return found

    def kill_shims(self) -> None:
        """End shims that have outlived their containerd."""
        for shim in self.shims():
            shim.end(number=signal.SIGKILL)

    def _sandboxes(self) -> dict[str, dict[str, str]]:
        listed = self.ctr("containers", "ls", "-q", 'labels."io.cri-containerd.kind"==sandbox').split()
        # The newest last: an older sandbox of the same pod may still be listed, without its namespace.
        return {name: json.loads(self.ctr("containers", "info", name)).get("Labels", {}) for name in listed}
