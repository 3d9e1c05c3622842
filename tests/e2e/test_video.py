"""The example as a new user applies it: films in, pictures out, by real pods in a restricted namespace."""

from __future__ import annotations

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.paths import REPOSITORY
from tests.cluster.process import wait_for
from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

EXAMPLE = REPOSITORY / "manifests" / "examples" / "video"
FILMS = 10


def columns(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    """What `kubectl get automation` shows, by column."""
    header, row = cluster.kubectl("-n", namespace, "get", "automation", name).splitlines()
    names, starts = header.split(), [header.index(word) for word in header.split()]
    ends = [*starts[1:], None]
    return {word: row[start:end].strip() for word, start, end in zip(names, starts, ends, strict=True)}


def test_two_hundred_runs_through_four_pods(maestro: Cluster, namespace: str, api: Client) -> None:
    maestro.kubectl("-n", namespace, "apply", "-f", str(EXAMPLE))
    maestro.kubectl("-n", namespace, "wait", "--for=condition=Ready", "automation", "--all", "--timeout=120s")

    encode, thumbnails = f"{namespace}.video-encode", f"{namespace}.video-thumbnails"
    (encoded,) = api.ended(encode, [api.execute(encode, {"films": FILMS, "seconds": 1})])
    assert encoded["state"] == "Succeeded", encoded
    assert len(encoded["result"]["films"]) == FILMS

    maestro.kubectl("-n", namespace, "scale", "automation", "video-thumbnails", "--replicas=4")
    maestro.kubectl("-n", namespace, "wait", "--for=jsonpath={.status.readyReplicas}=4", "automation/video-thumbnails",
                    "--timeout=120s")  # fmt: skip
    wanted = [{"source": f"film-{n % FILMS:02}.mp4", "width": 100 + n} for n in range(200)]
    runs = api.ended(thumbnails, api.execute_many(thumbnails, wanted))

    assert {run["state"] for run in runs} == {"Succeeded"}
    assert len({run["result"]["pod"] for run in runs}) == 4, "every pod had a share"
    shown = {}

    def shows_it() -> bool:
        shown.update(columns(maestro, namespace, "video-thumbnails"))
        return (shown["STATUS"], shown["WAITING"], shown["RUNNING"], shown["LAST"]) == ("Ready", "0", "0", "Succeeded")

    wait_for("the columns to show the end", shows_it, timeout=60)
    assert shown["WORKERS"] == "4"
    assert shown["FAILED-24H"] == "0"

    events = maestro.kubectl("-n", namespace, "describe", "automation", "video-thumbnails")
    assert "QueueReady" in events
