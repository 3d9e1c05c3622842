"""Run inside namespaces of its own by test_lifecycle.py: a cluster's whole life, crashes included."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tests.cluster import config, leftovers
from tests.cluster.errors import ClusterError
from tests.cluster.native import NativeCluster
from tests.cluster.process import Identity, run, wait_for

POD = "keeper"


class Life:
    """One cluster and the state of the machine before it."""

    def __init__(self) -> None:
        self.cluster = NativeCluster()
        self.before = machine(self.cluster)

    def run(self) -> None:
        """Everything, in an order in which each part leaves what the next one needs."""
        self.comes_up()
        self.is_up_already()
        self.a_dead_kubelet_is_started_again()
        self.a_program_is_restarted()
        self.a_killed_cluster_is_resumed()
        self.a_rebooted_machine_is_no_obstacle()
        self.what_cannot_be_resumed_is_made_anew()
        self.a_killed_cluster_goes_down_without_a_trace()
        self.a_foreign_bridge_is_refused_and_left_alone()

    def comes_up(self) -> None:
        say("comes up")
        self.cluster.up()
        self.cluster.apply(keeper())
        self.wait_for_keeper()
        run(["ls", self.cluster.audit_log])
        address = self.cluster.in_pod_network("default", POD, "ip", "-4", "-br", "address", "show", "eth0")
        assert "10.244." in address, address

    def is_up_already(self) -> None:
        say("is up already")
        pids = self.pids()
        self.cluster.up()
        assert self.pids() == pids

    def a_dead_kubelet_is_started_again(self) -> None:
        say("a dead kubelet is started again")
        self.cluster.daemon("kubelet").kill()
        assert not self.cluster.health().well
        self.cluster.up()
        assert self.cluster.health().well

    def a_program_is_restarted(self) -> None:
        say("a program is restarted")
        before = self.cluster.daemon("kube-apiserver").identity
        self.cluster.restart_component("kube-apiserver", kill=True)
        after = self.cluster.daemon("kube-apiserver").identity
        assert before != after
        self.wait_for_keeper()

    def a_killed_cluster_is_resumed(self) -> None:
        say("a killed cluster is resumed")
        self.kill_everything(containers=True)
        self.cluster.up()
        self.wait_for_keeper()

    def a_rebooted_machine_is_no_obstacle(self) -> None:
        """A new boot: no process, mount, interface, cgroup or /run; and the pids of the pid files belong to others."""
        say("a rebooted machine is no obstacle")
        self.kill_everything(containers=True)
        for point in leftovers.mounts(self.cluster.folder):
            run(["umount", "--lazy", point])
        for namespace in leftovers.network_namespaces():
            run(["umount", namespace])
        leftovers.remove_bridge()
        leftovers.remove_nft_tables()
        leftovers.Cgroups(self.cluster.cgroup).remove()
        for entry in Path("/run").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        mine = Identity.of(os.getpid())
        assert mine is not None
        for daemon in self.cluster.daemons():
            daemon.pid_file.write_text(
                f'{{"pid": {mine.pid}, "start_ticks": {mine.start_ticks}, "boot_id": "another boot"}}'
            )
        self.cluster.up()
        self.wait_for_keeper()

    def what_cannot_be_resumed_is_made_anew(self) -> None:
        say("what cannot be resumed is made anew")
        self.kill_everything(containers=False)
        for file in (self.cluster.folder / "control-plane" / "etcd").rglob("*.wal"):
            file.write_bytes(b"not a log")
        self.cluster.up()
        assert POD not in self.cluster.kubectl("get", "pods", "-A")
        self.cluster.apply(keeper())
        self.wait_for_keeper()

    def a_killed_cluster_goes_down_without_a_trace(self) -> None:
        say("a killed cluster goes down without a trace")
        self.kill_everything(containers=False)
        self.cluster.down()
        assert not self.cluster.folder.exists()
        assert processes() == {os.getpid()}, processes()
        after = machine(self.cluster)
        for what, was in self.before.items():
            assert after[what] == was, f"{what}: {was} became {after[what]}"
        self.cluster.down()

    def a_foreign_bridge_is_refused_and_left_alone(self) -> None:
        say("a foreign bridge is refused and left alone")
        run(["ip", "link", "add", config.BRIDGE, "type", "bridge"])
        with pytest.raises(ClusterError, match=config.BRIDGE):
            self.cluster.up()
        self.cluster.down()
        run(["ip", "link", "show", config.BRIDGE])

    # -- helpers ---------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        identities = [daemon.identity for daemon in self.cluster.daemons()]
        assert all(identities)
        return [identity.pid for identity in identities if identity]

    def kill_everything(self, *, containers: bool) -> None:
        """SIGKILL for every program of the cluster, with or without the containers and what holds them."""
        for daemon in self.cluster.daemons():
            identity = daemon.identity
            if identity is not None:
                identity.end(number=signal.SIGKILL)
        if containers:
            for pid in processes() - {os.getpid()}:
                identity = Identity.of(pid)
                if identity is not None:
                    identity.end(number=signal.SIGKILL)

    def wait_for_keeper(self) -> None:
        def runs() -> bool:
            pods = self.cluster.get("pods", "-n", "default")["items"]
            states = [s.get("state", {}) for pod in pods for s in pod["status"].get("containerStatuses", [])]
            return any("running" in state for state in states)

        wait_for("the pod runs", runs, timeout=90, every=0.3)
        # That the API server says so could be from before: the node must answer for it.
        wait_for("the pod answers", lambda: "here" in self.cluster.kubectl("logs", "-n", "default", POD), timeout=60)
        self.cluster.kubectl("exec", "-n", "default", POD, "--", "true")


def keeper() -> dict:
    """A pod that goes on for ever, with a volume."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}],
            "containers": [
                {
                    "name": "main",
                    "image": "localhost/maestro-cluster/base:latest",
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", "echo here; exec sleep infinity"],
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                }
            ],
        },
    }


def processes() -> set[int]:
    """Every process of this process namespace."""
    return {pid for folder in Path("/proc").glob("[0-9]*") if Identity.of(pid := int(folder.name))}


def machine(cluster: NativeCluster) -> dict[str, object]:
    """What a cluster could leave behind."""
    return {
        "mounts": sorted(leftovers.mounts(Path("/"))),
        "interfaces": run(["ip", "-br", "link"]),
        "routes": run(["ip", "route"]),
        "packet filter": run(["nft", "list", "tables"]),
        "cgroups": leftovers.Cgroups(cluster.cgroup).present(),
        "kernel parameters": leftovers.sysctls(),
        "files": sorted(str(path) for folder in FOLDERS for path in Path(folder).rglob("*")),
    }


FOLDERS = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")


def say(text: str) -> None:
    """Print what comes next."""
    print(f"== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    Life().run()
    say("all done")
