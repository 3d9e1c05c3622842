"""etcd, API server, controllers and scheduler: alone for tests of controllers, or as a node's control plane."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries, paths
from tests.cluster.pki import Authority
from tests.cluster.process import Daemon, wait_for

START_SECONDS = 120.0
DNS_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True)
class Settings:
    """Where a control plane listens, and whether it has a node.

    Attributes
    ----------
    address
        The address of the API server; on it, and nowhere else, it listens.
    node
        Whether pods run here: adds the scheduler and what the kubelet needs.
    """

    address: str = "127.0.0.1"
    api_port: int = 6443
    etcd_port: int = 12379
    etcd_peer_port: int = 12380
    controller_port: int = 10257
    scheduler_port: int = 10259
    service_range: str = "10.96.0.0/16"
    service_address: str = "10.96.0.1"
    node: bool = False
    extra_controller_flags: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.api_port}"


class ControlPlane:
    """The programs of one control plane in one folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.logs = folder / "logs"
        self.audit_log = folder / "logs" / "audit.log"
        self.authority = Authority(folder / "pki")
        self.kubeconfig = folder / "kubeconfig"
        self.etcd = Daemon("etcd", self._etcd(), folder)
        self.api_server = Daemon("kube-apiserver", self._api_server(), folder)
        self.controller_manager = Daemon("kube-controller-manager", self._controller_manager(), folder)
        self.scheduler = Daemon("kube-scheduler", self._scheduler(), folder) if settings.node else None

    @property
    def daemons(self) -> list[Daemon]:
        """Its programs, in the order in which they start."""
        return [self.etcd, self.api_server, self.controller_manager, *([self.scheduler] if self.scheduler else [])]

    def prepare(self) -> None:
        """Make certificates and kubeconfigs, those that don't exist yet."""
        self.logs.mkdir(parents=True, exist_ok=True)
        settings, authority = self.settings, self.authority
        authority.make()
        addresses = sorted({"127.0.0.1", settings.address, settings.service_address})
        authority.server("kube-apiserver", addresses, DNS_NAMES)
        authority.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
        admin = authority.client("admin", "admin", ["system:masters"])
        authority.kubeconfig(self.kubeconfig, settings.url, admin)
        for component in ("kube-controller-manager", *(("kube-scheduler",) if settings.node else ())):
            pair = authority.client(component, f"system:{component}")
            authority.kubeconfig(self._component_kubeconfig(component), settings.url, pair)

    def start(self) -> None:
        """Start what doesn't run and wait until the API server is ready and the controllers answer."""
        self.prepare()
        self.etcd.start()
        self.start_api_server()
        self.controller_manager.start()
        if self.scheduler:
            self.scheduler.start()
        wait_for(
            "kube-controller-manager answers",
            lambda: answers("127.0.0.1", self.settings.controller_port, "/healthz"),
            timeout=START_SECONDS,
            needs=self.daemons,
        )

    def start_api_server(self) -> None:
        """Start the API server (etcd runs) and wait until it is ready."""
        self.api_server.start()
        wait_for("kube-apiserver is ready", self.ready, timeout=START_SECONDS, needs=[self.etcd, self.api_server])

    def ready(self) -> bool:
        """Say whether the API server calls itself ready."""
        return answers(self.settings.address, self.settings.api_port, "/readyz", self.authority.pair.certificate)

    def stop(self) -> None:
        """End the programs, the last one started first."""
        for daemon in reversed(self.daemons):
            daemon.stop()

    def kill(self) -> None:
        """End the programs with SIGKILL."""
        for daemon in reversed(self.daemons):
            daemon.kill()

    # -- command lines -------------------------------------------------------------------------------------------------

    def _component_kubeconfig(self, component: str) -> Path:
        return self.folder / f"{component}.kubeconfig"

    def _etcd(self) -> list[str]:
        client = f"http://127.0.0.1:{self.settings.etcd_port}"
        peer = f"http://127.0.0.1:{self.settings.etcd_peer_port}"
        return [
            str(binaries.find("etcd")),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _api_server(self) -> list[str]:
        settings, pki = self.settings, self.authority
        return [
            str(binaries.find("kube-apiserver")),
            f"--etcd-servers=http://127.0.0.1:{settings.etcd_port}",
            f"--bind-address={settings.address}",
            f"--advertise-address={settings.address}",
            f"--secure-port={settings.api_port}",
            f"--service-cluster-ip-range={settings.service_range}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--tls-cert-file={pki.folder / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={pki.folder / 'kube-apiserver.key'}",
            f"--client-ca-file={pki.pair.certificate}",
            f"--service-account-key-file={pki.service_account_public_key}",
            f"--service-account-signing-key-file={pki.service_account_key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--kubelet-client-certificate={pki.folder / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={pki.folder / 'apiserver-kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={paths.HERE / 'manifests' / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=2000",
            # A server without a node has no address that a pod could reach, so it must not list one.
            *([] if settings.node else ["--endpoint-reconciler-type=none"]),
        ]

    def _controller_manager(self) -> list[str]:
        pki = self.authority
        kubeconfig = self._component_kubeconfig("kube-controller-manager")
        return [
            str(binaries.find("kube-controller-manager")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.settings.controller_port}",
            f"--cert-dir={self.folder / 'controller-manager'}",
            "--use-service-account-credentials",
            f"--root-ca-file={pki.pair.certificate}",
            f"--service-account-private-key-file={pki.service_account_key}",
            f"--cluster-signing-cert-file={pki.pair.certificate}",
            f"--cluster-signing-key-file={pki.pair.key}",
            "--leader-elect=false",
            # The default of 20 a second makes a test that creates many objects wait for the controllers.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            *self.settings.extra_controller_flags,
        ]

    def _scheduler(self) -> list[str]:
        kubeconfig = self._component_kubeconfig("kube-scheduler")
        return [
            str(binaries.find("kube-scheduler")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.settings.scheduler_port}",
            f"--cert-dir={self.folder / 'scheduler'}",
            "--leader-elect=false",
        ]


def answers(address: str, port: int, path: str, authority: Path | None = None) -> bool:
    """Say whether an HTTPS server answers 200; without an authority its certificate isn't checked (health ports)."""
    if authority is None:
        context = ssl._create_unverified_context()
    elif authority.exists():
        context = ssl.create_default_context(cafile=str(authority))
    else:
        return False
    connection = http.client.HTTPSConnection(address, port, timeout=2, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
