"""What a node leaves on the machine beyond its processes, each removed only where it is known to be the node's own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

from tests.cluster.config import ADDRESS, BRIDGE, NETWORK, POD_RANGE, SERVICE_RANGE
from tests.cluster.errors import ClusterError, CommandError
from tests.cluster.process import Identity, run

MOUNTS = Path("/proc/self/mountinfo")
CGROUPS = Path("/sys/fs/cgroup")
NETNS = Path("/run/netns")
CNI_RESULTS = Path("/var/lib/cni/results")
CONTAINER_LOGS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
SHIM_SOCKETS = Path("/run/containerd/s")
# The deepest first, so that a folder is empty when its turn comes.
FIXED_PLACES = (
    *(DEVICE_PLUGINS, DEVICE_PLUGINS.parent, CNI_RESULTS, CNI_RESULTS.parent, CONTAINER_LOGS),
    *(SHIM_SOCKETS, SHIM_SOCKETS.parent, NETNS),
)
NFT_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
# Written by the kubelet and kube-proxy, or by us; put back as they were when the node goes.
SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.bridge.bridge-nf-call-iptables",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)


def sysctls() -> dict[str, str]:
    """Return the present values of what a node changes in the kernel."""
    return {name: file.read_text().strip() for name in SYSCTLS if (file := _sysctl(name)).exists()}


def set_sysctls(values: dict[str, str]) -> None:
    """Set kernel parameters, those that differ."""
    for name, value in values.items():
        file = _sysctl(name)
        if file.exists() and file.read_text().strip() != value:
            file.write_text(value)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


# -- the bridge --------------------------------------------------------------------------------------------------------


def make_bridge() -> None:
    """Make the bridge with the node's address, and the route that keeps Service addresses on this machine."""
    if _bridge_owner() is None:
        run(["ip", "link", "add", BRIDGE, "address", "02:4d:41:45:53:54", "type", "bridge"])
        run(["ip", "link", "set", BRIDGE, "alias", NETWORK])
    run(["ip", "address", "replace", f"{ADDRESS}/16", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    run(["ip", "route", "replace", SERVICE_RANGE, "dev", BRIDGE])


def remove_bridge() -> None:
    """Remove the bridge, if it is ours; the addresses and the route go with it."""
    if _bridge_owner() == NETWORK:
        run(["ip", "link", "delete", BRIDGE])


def _bridge_owner() -> str | None:
    """The alias of the bridge, empty where somebody else made it, None where there is none."""
    try:
        (link,) = json.loads(run(["ip", "-json", "link", "show", BRIDGE]))
    except CommandError:
        return None
    return str(link.get("ifalias", ""))


def check_foreign() -> None:
    """Raise ClusterError when another cluster's network is in the way."""
    owner = _bridge_owner()
    if owner is not None and owner != NETWORK:
        raise ClusterError(
            f"a network bridge {BRIDGE} that this harness didn't make is in the way (ip link show {BRIDGE})"
        )


# -- packet filter, mounts, namespaces, cgroups, files -----------------------------------------------------------------


def remove_nft_tables() -> None:
    """Remove kube-proxy's tables."""
    for family, name in present_nft_tables():
        run(["nft", "delete", "table", family, name])


def present_nft_tables() -> list[tuple[str, str]]:
    """Return kube-proxy's tables that exist."""
    listed = run(["nft", "list", "tables"]).splitlines()
    return [(family, name) for family, name in NFT_TABLES if f"table {family} {name}" in listed]


def mounts(folder: Path) -> list[str]:
    """Return the mount points below a folder, the deepest first."""
    prefix = f"{folder}/"
    points = []
    for line in MOUNTS.read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point.startswith(prefix):
            points.append(point)
    return sorted(points, reverse=True)


def unmount(folder: Path) -> None:
    """Unmount everything below a folder."""
    # A path may carry several mounts on top of each other: ask again until none is left.
    for _ in range(5):
        points = mounts(folder)
        if not points:
            return
        for point in points:
            try:
                run(["umount", point])
            except CommandError:
                # Still in use by a process that is just ending; detached, it goes when that has gone.
                run(["umount", "--lazy", point])
    raise ClusterError(f"can't be unmounted: {', '.join(mounts(folder))}")


def network_namespaces() -> list[Path]:
    """Return the network namespaces of this node's pods: those with an address in its range."""
    found = []
    for namespace in NETNS.glob("cni-*") if NETNS.exists() else ():
        try:
            text = run(["nsenter", f"--net={namespace}", "ip", "-json", "-4", "address", "show", "scope", "global"])
        except CommandError:
            # Not a namespace any more: its mount went, for example with a reboot, the file stayed.
            found.append(namespace)
            continue
        addresses = [info["local"] for link in json.loads(text or "[]") for info in link.get("addr_info", [])]
        if any(ip_address(address) in ip_network(POD_RANGE) for address in addresses):
            found.append(namespace)
    return found


def remove_network_namespaces(namespaces: list[Path]) -> None:
    """Remove network namespaces by their files."""
    for namespace in namespaces:
        with contextlib.suppress(CommandError):
            run(["umount", namespace])
        namespace.unlink(missing_ok=True)


def cgroup_of(state: Path) -> str:
    """Return the name of a cluster's control groups; another state folder is another cluster, with other groups."""
    return f"{NETWORK}-{hashlib.sha256(str(state).encode()).hexdigest()[:8]}"


class Cgroups:
    """The control groups of one node: a folder of its own in every hierarchy, told to the kubelet as its root.

    Attributes
    ----------
    name
        The folder's name; what runs below it is the node's and nobody else's.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self) -> None:
        """Make the folders."""
        for hierarchy in _hierarchies():
            folder = hierarchy / self.name
            folder.mkdir(exist_ok=True)
            # A group of version 1's cpuset begins empty, and nothing can run in it.
            for file in (folder / "cpuset.cpus", folder / "cpuset.mems"):
                if file.exists() and (hierarchy / file.name).exists() and not file.read_text().strip():
                    file.write_text((hierarchy / file.name).read_text())
            _delegate(hierarchy)

    def present(self) -> list[Path]:
        """Return the folders that exist."""
        return [folder for hierarchy in _hierarchies() if (folder := hierarchy / self.name).is_dir()]

    def kill(self) -> None:
        """Kill whatever still runs in the groups (containers whose shim is gone)."""
        deadline = time.monotonic() + 10
        while pids := set(self._pids()):
            for pid in pids:
                identity = Identity.of(pid)
                if identity is not None:
                    identity.send(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(f"processes in the pods' cgroups don't die: {sorted(pids)}")
            time.sleep(0.05)

    def remove(self) -> None:
        """Remove the groups; nothing runs in them any more."""
        for top in self.present():
            for folder, _, _ in os.walk(top, topdown=False):
                _remove_cgroup(Path(folder))

    def _pids(self) -> Iterator[int]:
        for top in self.present():
            for file in top.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    yield from (int(pid) for pid in file.read_text().split() if Identity.of(int(pid)))


def _hierarchies() -> list[Path]:
    """The top of each hierarchy: one of version 2, or version 1's, one for each set of controllers."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if folder.is_dir() and not folder.is_symlink() and folder.is_mount()]


def _delegate(hierarchy: Path) -> None:
    """Version 2: let groups below the top use every controller; in version 1 they do."""
    control = hierarchy / "cgroup.subtree_control"
    if not control.exists():
        return
    missing = set((hierarchy / "cgroup.controllers").read_text().split()) - set(control.read_text().split())
    if missing:
        control.write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _remove_cgroup(folder: Path) -> None:
    # The kernel takes a moment to let go of a group whose last process has just ended.
    deadline = time.monotonic() + 5
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def fixed_places() -> list[str]:
    """Return those of the places that a node writes to, wherever its state is, that exist now."""
    return [str(folder) for folder in FIXED_PLACES if folder.exists()]


def remove_files(log_folder: Path, before: list[str]) -> None:
    """Remove what containerd and the kubelet write to fixed places.

    Parameters
    ----------
    log_folder
        Where this node's pods log to.
    before
        The `fixed_places()` of before the node: they stay, with what others have in them.
    """
    for result in CNI_RESULTS.glob(f"{NETWORK}-*"):
        container = result.name.removeprefix(f"{NETWORK}-").rpartition("-")[0]
        for file in CNI_RESULTS.glob(f"*-{container}-*"):
            file.unlink(missing_ok=True)
    for link in CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{log_folder}/"):
            link.unlink()
    if str(DEVICE_PLUGINS) not in before:
        shutil.rmtree(DEVICE_PLUGINS, ignore_errors=True)
    for folder in FIXED_PLACES:
        if str(folder) not in before:
            _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
