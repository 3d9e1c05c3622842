"""Maestro on the cluster: images built and loaded, the chart installed or upgraded and waited for.

`python -m tests.e2e.installation` does it by hand; the end-to-end tests and the demo use the same.
"""

from __future__ import annotations

import subprocess
import sys
import time

from tests.cluster import backends, images, paths
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError
from tests.cluster.kubectl import RESTRICTED
from tests.cluster.prepare import prepare

NAMESPACE = "maestro"
RELEASE = "maestro"
EXAMPLES = ("example-video", "example-reprocessing")
CHART = paths.REPOSITORY / "charts" / "maestro"


def install(cluster: Cluster, *arguments: str) -> float:
    """Install or upgrade the chart in the namespace `maestro`, which enforces the restricted profile.

    `arguments` go to helm. Returns the seconds that `helm upgrade --install --wait` took.
    """
    subprocess.run([paths.REPOSITORY / "scripts" / "render-crds"], check=True)
    prepare([], ["maestro", "rabbitmq"])
    for name in ("maestro", "rabbitmq"):
        cluster.load_image(name)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    began = time.monotonic()
    # The tag stays the same from build to build: the digest makes an upgrade roll exactly when the image changed.
    digest = images.build("maestro").digest[:12]
    cluster.helm(
        *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--wait", "--timeout", "5m"),
        *("--set-string", f"podAnnotations.maestro-operator\\.io/image-digest={digest}", *arguments),
    )
    return time.monotonic() - began


def main() -> int:
    """Install on the cluster that is up, with the examples' images."""
    try:
        cluster = backends.choose()
        prepare([], ["maestro", *EXAMPLES])
        for example in EXAMPLES:
            cluster.load_image(example)
        print(f"helm install --wait returned after {install(cluster, *sys.argv[1:]):.1f} s")
    except ClusterError as error:
        print(f"maestro: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
