"""The configuration files of the native node, as plain data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NODE = "node1"
ADDRESS = "10.244.0.1"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
BRIDGE = "cni0"
NETWORK = "maestro-cluster"
PAUSE_IMAGE = "localhost/maestro-cluster/pause:latest"
COREDNS_IMAGE = "localhost/maestro-cluster/coredns:latest"
STORAGE_CLASS = "maestro-local"
VOLUMES = 20
EVICTION_SIGNALS = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available")


def containerd(folder: Path, socket: Path) -> str:
    """Return containerd's configuration (TOML); everything it writes is below `folder`."""
    return f"""version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = "{folder}/containerd/runc"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{folder}/cni"
"""


def cni(folder: Path) -> str:
    """Return the pods' network: a bridge that is also the node's address, not masqueraded: there is no outside."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": POD_RANGE, "rangeStart": "10.244.0.10"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(folder / "cni-leases"),
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": NETWORK, "plugins": [bridge]}, indent=2)


def kubelet(folder: Path, socket: Path, authority: Path, cgroup: str) -> str:
    """Return the kubelet's configuration; no eviction and no image removal, whatever the disk of the machine says."""
    return _document(
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        {
            "address": ADDRESS,
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "maxOpenFiles": 20000,
            "maxPods": 250,
            "evictionHard": dict.fromkeys(EVICTION_SIGNALS, "0%"),
            "imageGCHighThresholdPercent": 100,
            "enforceNodeAllocatable": [],
            # Otherwise it makes chains in the machine's own tables.
            "makeIPTablesUtilChains": False,
            "resolvConf": str(folder / "resolv.conf"),
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{socket}",
            "podLogsDir": str(folder / "pod-logs"),
            "volumePluginDir": str(folder / "volume-plugins"),
            "serializeImagePulls": False,
        },
    )


def kube_proxy(kubeconfig: Path) -> str:
    """Return kube-proxy's configuration: nftables, and the machine's connection tracking left as it is."""
    return _document(
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        {
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": NODE,
            "clusterCIDR": POD_RANGE,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "nftables": {"minSyncPeriod": "100ms"},
        },
    )


def storage(volumes: Path) -> list[dict[str, Any]]:
    """Return the default StorageClass and its volumes: folders of the node, wiped and offered again after use."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    return [storage_class, *(_volume(f"volume-{number:02d}", volumes) for number in range(VOLUMES))]


def recycler() -> str:
    """Return the pod that empties a volume whose claim is gone; the controller manager fills in the volume."""
    script = "find /scrub -mindepth 1 -delete"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "recycler", "namespace": "kube-system"},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "volumes": [{"name": "vol", "hostPath": {"path": "/replaced"}}],
                "containers": [
                    {
                        "name": "recycler",
                        "image": "localhost/maestro-cluster/base:latest",
                        "imagePullPolicy": "Never",
                        "command": ["/bin/sh", "-c", script],
                        "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}],
                    }
                ],
            },
        },
        indent=2,
    )


def _volume(name: str, folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Recycle",
            "hostPath": {"path": str(folder / name), "type": "Directory"},
        },
    }


def _document(version: str, kind: str, content: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, **content}, indent=2)
