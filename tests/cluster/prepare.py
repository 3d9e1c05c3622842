"""Programs and images side by side: compilers and package managers leave each other room on two cores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import binaries, images
from tests.cluster.images import BuiltImage


def prepare(programs: Sequence[str], names: Sequence[str]) -> tuple[dict[str, Path], list[BuiltImage]]:
    """Return programs and images, those built that the cache doesn't have.

    Parameters
    ----------
    programs
        Names as in `binaries.every_name()`.
    names
        Images, as in `Cluster.load_image`.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        compiling = pool.submit(binaries.ensure, programs)
        if any(not name.endswith(".tar") for name in names):
            # What is built from a Dockerfile starts from it.
            images.build("base")
        # Images that hold one of our programs wait for it by its module's lock.
        built = list(pool.map(images.build, names))
        return compiling.result(), built
