"""A one-node Kubernetes on this machine without Docker: the control plane and a real node, as background programs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.cluster import binaries, config, leftovers, packages, paths
from tests.cluster.audit import AuditLog
from tests.cluster.cluster import Cluster, Health
from tests.cluster.containers import Containers
from tests.cluster.controlplane import ControlPlane, Settings
from tests.cluster.dns import resolves
from tests.cluster.errors import ClusterError, CommandError, UnsupportedError
from tests.cluster.locks import held
from tests.cluster.prepare import prepare
from tests.cluster.process import Daemon, check_disk, disk_full_named, run, wait_for
from tests.cluster.progress import duration, say, step

PACKAGES = (
    *("containerd", "runc", "containernetworking-plugins", "nftables", "iproute2", "conntrack", "ethtool"),
    *("iptables", "socat", "openssl", "mmdebstrap", "buildah"),
)
READY_SECONDS = 120.0
GIB = 2**30
# A socket's path has room for 107 bytes, and the kubelet adds up to 40.
LONGEST_STATE_PATH = 64
SYSTEM_IMAGES = ("pause", "coredns", "base")


class NativeCluster(Cluster):
    """The native backend. Its state folder outlives processes and reboots; what is dead in it is started again."""

    backend = "native"

    def __init__(self) -> None:
        super().__init__(paths.kubeconfig())
        self.folder = paths.state()
        self._node = self.folder / "node"
        self._state_file = self.folder / "state.json"
        self._lock = Path(tempfile.gettempdir()) / "maestro-cluster.lock"

    # -- up, down, health ----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring the cluster up, whatever state it is in; fast when it is up already."""
        self._check_machine()
        with held(self._lock, "native cluster"):
            if self._prepared() and not self._problems():
                self._publish()
                return
            started = time.monotonic()
            self._prepare_machine()
            existed = self._prepared()
            try:
                self._start()
            except ClusterError as error:
                if not existed:
                    raise
                say(f"the earlier cluster can't be resumed, it is made anew: {str(error).splitlines()[0]}")
                self._tear_down()
                self._start()
            say(f"up after {duration(time.monotonic() - started)}")

    def down(self) -> None:
        """Take the cluster down; nothing of it stays on the machine but the cache."""
        self._check_machine()
        with held(self._lock, "native cluster"):
            if self.folder.exists():
                with step("taking the cluster down"):
                    self._tear_down()
        paths.kubeconfig().unlink(missing_ok=True)

    def health(self) -> Health:
        """Return what runs and what is wrong."""
        if not self._prepared():
            return Health(exists=self.folder.exists(), problems=["it was never started"])
        return Health(exists=True, problems=self._problems(), details=self._details())

    def _problems(self) -> list[str]:
        dead = [f"{daemon.name} doesn't run" for daemon in self.daemons() if not daemon.alive()]
        if dead:
            return dead
        if not self._plane.ready():
            return ["the API server isn't ready"]
        try:
            return self._node_problems()
        except CommandError as error:
            return [str(error)]

    def _node_problems(self) -> list[str]:
        problems = []
        if not _node_is_ready(self.get("nodes")["items"], since=self._kubelet.pid_file.stat().st_mtime):
            problems.append("the node isn't Ready")
        deployment = self.kubectl("get", "deployment/coredns", "-n", "kube-system", "--ignore-not-found", "-o", "json")
        if not deployment or not json.loads(deployment)["status"].get("availableReplicas"):
            problems.append("CoreDNS isn't available")
        elif not resolves(config.DNS_ADDRESS, "kubernetes.default.svc.cluster.local"):
            problems.append("cluster DNS doesn't answer")
        return problems

    def _details(self) -> list[str]:
        rows = []
        for daemon in self.daemons():
            identity = daemon.identity
            rows.append(f"{daemon.name:<24} {f'pid {identity.pid}' if identity and daemon.alive() else 'dead'}")
        return rows

    # -- what one does with it -----------------------------------------------------------------------------------------

    @property
    def audit_log(self) -> Path:
        """The API server's audit log."""
        return self._plane.audit_log

    def audit(self) -> AuditLog:
        """Return a reader of the audit log that begins now."""
        log = AuditLog(self.audit_log)
        log.mark()
        return log

    def load_archive(self, archive: Path, reference: str) -> None:
        """Import an image archive into containerd."""
        self._containers.load(archive)

    def has_image(self, reference: str, digest: str) -> bool:
        """Say whether the node has exactly this image."""
        return self._loaded().get(reference) == digest and reference in self._containers.images()

    def note_image(self, reference: str, digest: str) -> None:
        """Remember what was loaded under a reference."""
        temporary = self._loaded_file.with_suffix(".partial")
        temporary.write_text(json.dumps({**self._loaded(), reference: digest}, indent=1))
        temporary.replace(self._loaded_file)

    def in_pod_network(self, namespace: str, pod: str, *argv: str) -> str:
        """Run a program of this machine in a pod's network namespace and return its output."""
        return self.pod_network(namespace, pod)(*argv)

    def pod_network(self, namespace: str, pod: str) -> Callable[..., str]:
        """Return what runs a program of this machine (its arguments; `stdin`) in the network that a pod has now."""
        file = self._containers.pod_network_namespace(namespace, pod)
        return lambda *argv, stdin=None: run(["nsenter", f"--net={file}", *argv], stdin=stdin)

    def pod_processes(self, namespace: str, pod: str) -> list[int]:
        """Return the pids of everything that runs in a pod's containers."""
        return self._containers.pod_processes(namespace, pod)

    def daemons(self) -> list[Daemon]:
        """Return its programs in the order in which they start."""
        return [self._containers.daemon, *self._plane.daemons, self._kubelet, self._kube_proxy]

    def daemon(self, name: str) -> Daemon:
        """Return one of its programs."""
        for daemon in self.daemons():
            if daemon.name == name:
                return daemon
        raise ClusterError(f"no program {name!r}; there are {', '.join(daemon.name for daemon in self.daemons())}")

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """End one program, with SIGTERM or as a crash would."""
        daemon = self.daemon(name)
        if kill:
            daemon.kill()
        else:
            daemon.stop(patience=5.0)

    def start_component(self, name: str) -> None:
        """Start one program again and wait until the cluster is well."""
        self.daemon(name).start()
        wait_for(f"the cluster is well after {name} came back", self._well, timeout=READY_SECONDS, every=0.3)

    def keep(self) -> None:
        """From now on the cluster is a person's: no test session takes it down."""
        self._remember(owner="person")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Be up for the block; whoever leaves last takes it down if it was a test session that had started it."""
        self._check_machine()
        users = Path(tempfile.gettempdir()) / "maestro-cluster.users"
        with users.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            started_here = not self._prepared() or bool(self._problems())
            self.up()
            if started_here and not os.environ.get("MAESTRO_CLUSTER_KEEP"):
                self._remember(owner="tests")
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._state().get("owner") == "tests":
                        self.down()

    # -- starting ------------------------------------------------------------------------------------------------------

    def _check_machine(self) -> None:
        if not sys.platform.startswith("linux"):
            raise UnsupportedError("the native cluster needs Linux; elsewhere start a Docker engine (backend kind)")
        if os.geteuid() != 0:
            raise UnsupportedError("the native cluster needs root; without it start a Docker engine (backend kind)")
        if len(str(self.folder)) > LONGEST_STATE_PATH:
            raise UnsupportedError(
                f"MAESTRO_CLUSTER_STATE={self.folder} is too long: at most {LONGEST_STATE_PATH} characters, "
                f"because the kubelet's sockets lie below it"
            )

    def _prepare_machine(self) -> None:
        packages.require(*PACKAGES)
        prepare(binaries.native_names(), SYSTEM_IMAGES)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        check_disk(self.folder.parent, 3 * GIB)
        leftovers.check_foreign()

    def _start(self) -> None:
        if self._state().get("key", self._key()) != self._key():
            say("the cluster that is here was made by another version of the harness: it is made anew")
            self._tear_down()
        with disk_full_named(self.folder.parent):
            self._write_configuration()
        leftovers.set_sysctls({"net.ipv4.ip_forward": "1"})
        leftovers.make_bridge()
        self._cgroups.make()
        self._containers.start()
        with ThreadPoolExecutor(max_workers=1) as pool, step("control plane and system images"):
            loading = pool.submit(self._load_system_images)
            self._plane.start()
            loading.result()
        self._kubelet.start()
        self._kube_proxy.start()
        self._publish()
        self.apply(*config.storage(self.folder / "volumes"))
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(paths.HERE / "manifests/coredns.yaml"))
        with step("node and cluster DNS"):
            wait_for("the node is Ready and CoreDNS answers", self._well, timeout=READY_SECONDS, every=0.3)
        self._remember(key=self._key())

    def _well(self) -> bool:
        problems = self._problems()
        dead = [problem for problem in problems if problem.endswith("doesn't run")]
        if dead:
            logs = "\n".join(f"{d.log}:\n{d.log_tail()}" for d in self.daemons() if not d.alive())
            raise ClusterError(f"{', '.join(dead)}\n{logs}")
        return not problems

    def _write_configuration(self) -> None:
        if "sysctls" not in self._state():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._remember(sysctls=leftovers.sysctls(), fixed_places=leftovers.fixed_places())
        for folder in ("cni", "volume-plugins", "pod-logs", "kubelet"):
            (self._node / folder).mkdir(parents=True, exist_ok=True)
        for number in range(config.VOLUMES):
            volume = self.folder / "volumes" / f"volume-{number:02d}"
            volume.mkdir(parents=True, exist_ok=True)
            # Pods run as users of their own, and nobody adapts the owner of a host folder to them.
            volume.chmod(0o777)
        self._plane.prepare()
        authority = self._plane.authority
        settings = self._plane.settings
        kubelet = authority.client("kubelet", f"system:node:{config.NODE}", ["system:nodes"])
        authority.kubeconfig(self._node / "kubelet.kubeconfig", settings.url, kubelet)
        proxy = authority.client("kube-proxy", "system:kube-proxy")
        proxy_kubeconfig = authority.kubeconfig(self._node / "kube-proxy.kubeconfig", settings.url, proxy)
        files = {
            "containerd.toml": config.containerd(self._node, self._socket),
            "cni/10-maestro.conflist": config.cni(self._node),
            "kubelet.json": config.kubelet(self._node, self._socket, authority.pair.certificate, self._cgroups.name),
            "kube-proxy.json": config.kube_proxy(proxy_kubeconfig),
            "recycler.json": config.recycler(),
            "resolv.conf": "",
        }
        for name, content in files.items():
            (self._node / name).write_text(content)

    def _load_system_images(self) -> None:
        for name in SYSTEM_IMAGES:
            self.load_image(name)

    def _publish(self) -> None:
        """Put kubeconfig, kubectl and helm where people and scripts look for them."""
        content = self._plane.kubeconfig.read_text()
        paths.BUILD.mkdir(exist_ok=True)
        temporary = paths.kubeconfig().with_name(f".kubeconfig.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(content)
        temporary.replace(paths.kubeconfig())
        binaries.link(["kubectl", "helm"], paths.BUILD / "bin")

    # -- taking down ---------------------------------------------------------------------------------------------------

    def _tear_down(self) -> None:
        if not self._prepared():
            self._remove_state()
            return
        self._kubelet.stop(patience=5.0)
        self._end_containers()
        self._containers.daemon.stop(patience=5.0)
        # A shim notices the end of its containerd only when it has one to talk to.
        self._containers.kill_shims()
        self._cgroups.kill()
        self._kube_proxy.stop(patience=2.0)
        self._plane.kill()
        self._remove_state()

    def _end_containers(self) -> None:
        if not self._containers.daemon.alive():
            try:
                self._containers.start()
            except ClusterError as error:
                # Its shims and containers are then found by their command line and cgroup.
                say(f"containerd doesn't come up to be cleared: {str(error).splitlines()[0]}")
                return
        self._containers.kill_tasks()

    def _remove_state(self) -> None:
        before = self._state()
        leftovers.remove_network_namespaces(leftovers.network_namespaces())
        leftovers.remove_bridge()
        leftovers.remove_nft_tables()
        leftovers.unmount(self.folder)
        self._cgroups.remove()
        leftovers.remove_files(self._node / "pod-logs", before.get("fixed_places", []))
        leftovers.set_sysctls(before.get("sysctls", {}))
        # The state file last: as long as it is there, another `down` knows that something is left to do.
        for entry in sorted(self.folder.iterdir(), key=lambda path: path == self._state_file):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.folder.rmdir()
        shutil.rmtree(self._socket.parent, ignore_errors=True)

    # -- the parts -----------------------------------------------------------------------------------------------------

    @property
    def cgroup(self) -> str:
        """The name of its control groups."""
        return leftovers.cgroup_of(self.folder)

    @property
    def _cgroups(self) -> leftovers.Cgroups:
        return leftovers.Cgroups(self.cgroup)

    @property
    def _socket(self) -> Path:
        return Path("/run/maestro-cluster/containerd.sock")

    @property
    def _containers(self) -> Containers:
        return Containers(self._node, self._socket, self._node / "containerd.toml")

    @property
    def _plane(self) -> ControlPlane:
        settings = Settings(
            address=config.ADDRESS,
            service_range=config.SERVICE_RANGE,
            node=True,
            extra_controller_flags=(f"--pv-recycler-pod-template-filepath-hostpath={self._node / 'recycler.json'}",),
        )
        return ControlPlane(self.folder / "control-plane", settings)

    @property
    def _kubelet(self) -> Daemon:
        argv: Sequence[str | Path] = [
            binaries.find("kubelet"),
            f"--config={self._node / 'kubelet.json'}",
            f"--kubeconfig={self._node / 'kubelet.kubeconfig'}",
            f"--root-dir={self._node / 'kubelet'}",
            f"--cert-dir={self._node / 'kubelet-pki'}",
            f"--hostname-override={config.NODE}",
            f"--node-ip={config.ADDRESS}",
        ]
        return Daemon("kubelet", argv, self._node)

    @property
    def _kube_proxy(self) -> Daemon:
        return Daemon(
            "kube-proxy", [binaries.find("kube-proxy"), f"--config={self._node / 'kube-proxy.json'}"], self._node
        )

    @property
    def _loaded_file(self) -> Path:
        return self.folder / "images.json"

    def _loaded(self) -> dict[str, str]:
        return _json(self._loaded_file)

    def _prepared(self) -> bool:
        return "key" in self._state() or (self._node / "containerd.toml").exists()

    def _state(self) -> dict[str, Any]:
        return _json(self._state_file)

    def _remember(self, **facts: object) -> None:
        temporary = self._state_file.with_suffix(".partial")
        temporary.write_text(json.dumps({**self._state(), **facts}, indent=1))
        temporary.replace(self._state_file)

    def _key(self) -> str:
        digest = hashlib.sha256((paths.HERE / "config.py").read_bytes()).hexdigest()[:12]
        return "+".join([*(module.key for module in (binaries.KUBERNETES_MODULE, binaries.COREDNS_MODULE)), digest])


def _node_is_ready(nodes: list[dict[str, Any]], since: float) -> bool:
    """Say whether the one node is Ready by a word of the kubelet that runs now, not of one before it."""
    for node in nodes:
        for condition in node["status"].get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                # Whole seconds in the object, fractions in the file's time.
                return datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp() >= int(since)
    return False


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
