"""The cheaper cluster, without a node: etcd, API server and controller manager, for tests of controllers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.cluster import binaries, instances, paths, ports
from tests.cluster.audit import AuditLog
from tests.cluster.controlplane import ControlPlane, Settings
from tests.cluster.errors import UnsupportedError
from tests.cluster.kubectl import Kubectl
from tests.cluster.process import Daemon

PROGRAMS = ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager")


class ApiServer(Kubectl):
    """A real API server with the project's CRDs; Deployments get pods as objects, but nothing runs them.

    Several may run side by side. Use it as a context manager, or call `start()` and at the end `close()`.

    Attributes
    ----------
    kubeconfig
        The file with an administrator's access (client certificate).
    url
        `https://127.0.0.1:port`.
    certificate_authority, client_certificate, client_key
        PEM files, for clients that want no kubeconfig.
    audit_log
        The file; `audit()` reads it.
    """

    def __init__(self, crds: Path | None = paths.REPOSITORY / "crds") -> None:
        if not sys.platform.startswith("linux"):
            raise UnsupportedError("the API server of the tests is started here as a program: it needs Linux")
        binaries.ensure(PROGRAMS)
        self.folder = instances.make("apiserver")
        api, etcd, peer, controllers = (ports.reserve() for _ in range(4))
        settings = Settings(api_port=api, etcd_port=etcd, etcd_peer_port=peer, controller_port=controllers)
        self._plane = ControlPlane(self.folder, settings)
        self._crds = crds
        super().__init__(self._plane.kubeconfig)
        self.url = settings.url
        self.certificate_authority = self._plane.authority.pair.certificate
        self.client_certificate = self._plane.authority.folder / "admin.crt"
        self.client_key = self._plane.authority.folder / "admin.key"
        self.audit_log = self._plane.audit_log

    def __repr__(self) -> str:
        return f"ApiServer({self.url}, kubeconfig={self.kubeconfig})"

    def __enter__(self) -> ApiServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start everything and load the CRDs."""
        self._plane.start()
        if self._crds is not None:
            self.load_crds(self._crds)

    def audit(self) -> AuditLog:
        """Return a reader of the audit log that begins now."""
        log = AuditLog(self.audit_log)
        log.mark()
        return log

    def stop(self) -> None:
        """End the API server; etcd and the controllers go on. Watches get 2 s (it would wait 60 for them)."""
        self._api_server.stop(patience=2.0)

    def kill(self) -> None:
        """End the API server with SIGKILL."""
        self._api_server.kill()

    def resume(self) -> None:
        """Start the API server again, or let a paused one go on, and wait until it is ready."""
        identity = self._api_server.identity
        if identity is not None:
            identity.send(signal.SIGCONT)
        self._plane.start_api_server()

    def pause(self) -> None:
        """Freeze the API server: connections stay, nothing answers. Undo with `resume()`."""
        identity = self._api_server.identity
        assert identity is not None, "the API server was never started"
        identity.send(signal.SIGSTOP)

    def restart(self) -> None:
        """Kill the API server and start it again."""
        self.kill()
        self.resume()

    def kubeconfig_for(self, user: str, *groups: str) -> Path:
        """Return a kubeconfig with a client certificate for another user, who has no rights but those you bind."""
        name = f"user-{user}".replace(":", "-").replace(os.sep, "-")
        pair = self._plane.authority.client(name, user, groups)
        return self._plane.authority.kubeconfig(self.folder / f"{name}.kubeconfig", self.url, pair)

    def close(self) -> None:
        """Kill everything and remove the folder."""
        self._plane.kill()
        instances.remove(self.folder)

    @property
    def _api_server(self) -> Daemon:
        return self._plane.api_server
