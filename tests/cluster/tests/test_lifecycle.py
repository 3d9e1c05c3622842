"""Up, crash, reboot, down: on a cluster of the test's own, in namespaces of its own, beside the shared one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import leftovers, paths

pytestmark = [pytest.mark.e2e, pytest.mark.harness]

# What the node writes to fixed places goes to file systems that only this test sees.
PRIVATE = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: the kubelet's sockets lie deep below it."""
    with tempfile.TemporaryDirectory(prefix="maestro-life-") as folder:
        yield Path(folder)


def test_a_cluster_lives_crashes_comes_back_and_leaves_nothing(short: Path) -> None:
    assert sys.platform.startswith("linux"), "the native cluster needs Linux"
    assert os.geteuid() == 0, "the native cluster needs root"
    state = short / "state"
    made = [folder for folder in map(Path, PRIVATE) if not folder.exists()]
    for folder in made:
        folder.mkdir(parents=True)
    mounts = "; ".join(f"mount -t tmpfs tmpfs {folder}" for folder in PRIVATE)
    python = shlex.join([sys.executable, "-m", "tests.cluster.tests.lifecycle"])
    script = f"set -e; {mounts}; ip link set lo up; {python}"
    try:
        done = subprocess.run(
            [
                *("unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", "bash", "-c", script),
            ],
            cwd=paths.REPOSITORY,
            env={
                **os.environ,
                "MAESTRO_CLUSTER_STATE": str(state),
                "MAESTRO_CLUSTER_KUBECONFIG": str(short / "kubeconfig"),
                "TMPDIR": str(short),
            },
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    finally:
        # Control groups have no namespace here: what a failed run leaves is visible to everybody.
        groups = leftovers.Cgroups(leftovers.cgroup_of(state))
        groups.kill()
        groups.remove()
        for folder in made:
            folder.rmdir()
    print(done.stderr)
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]
