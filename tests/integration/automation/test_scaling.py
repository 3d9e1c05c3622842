"""Scaling down: idle pods go, and busy ones are marked for the cluster's autoscalers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from tests.integration.automation import rights
from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import POD
from maestro.resources.names import DO_NOT_DISRUPT
from maestro.runs.model import NewRun
from maestro.runs.reports import Report
from maestro.runtime.clock import utcnow

WORKER = {"image": "example.org/worker:1"}


async def pods(world: World) -> dict[str, Any]:
    """The pods that aren't going, by name."""
    found, _ = await world.kube.list(POD, world.namespace)
    return {pod["metadata"]["name"]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}


async def begin(world: World, *uids: str) -> list[UUID]:
    """A Run in the hands of each of these pods."""
    obj = await world.get()
    key = world.store.key_of(obj["metadata"]["uid"])
    assert key is not None
    runs = [accepted.id for accepted in await world.store.accept([NewRun(key) for _ in uids])]
    epoch = (await world.store.win_leadership()).epoch
    await world.store.claim(epoch, key, len(runs))
    starts = [Report("start", run, worker=f"{uid}/1") for run, uid in zip(runs, uids, strict=True)]
    assert {answer.status for answer in await world.store.reports(starts)} == {200}
    return runs


class Patched:
    """The pods that Maestro has written to since the last question, by name."""

    def __init__(self, world: World) -> None:
        self._audit = world.apiserver.audit()

    def __call__(self) -> list[str]:
        requests = self._audit.requests(user=rights.USER, writes=True)
        self._audit.mark()
        return sorted(request.name for request in requests if request.resource == "pods")


async def scaled(world: World, n: int) -> dict[str, Any]:
    """Wait until so many pods are left; them."""

    async def check() -> bool:
        return len(await pods(world)) == n

    await world.until(f"{n} pods", check)
    return await pods(world)


def test_idle_pods_go_first(play: Play) -> None:
    async def scenario(made: World) -> None:
        await made.apply(automation(worker={**WORKER, "replicas": 5}))
        await made.ready()
        before = await scaled(made, 5)
        busy = sorted(before)[1:3]
        await begin(made, *(before[name]["metadata"]["uid"] for name in busy))
        patched = Patched(made)

        await made.patch("orders", {"worker": {"replicas": 2}})
        assert sorted(await scaled(made, 2)) == busy
        assert patched() == busy, "only pods whose cost differs are written to"

        await made.patch("orders", {"worker": {"replicas": 1}})
        assert set(await scaled(made, 1)) < set(busy)
        await made.patch("orders", {"worker": {"replicas": 0}})
        await scaled(made, 0)

    play(scenario)


def test_busy_pods_are_marked_while_they_work(play: Play) -> None:
    async def scenario(made: World) -> None:
        await made.apply(automation(worker={**WORKER, "replicas": 2}))
        await made.ready()
        (name, pod), _ = sorted((await scaled(made, 2)).items())
        (run,) = await begin(made, pod["metadata"]["uid"])
        assert made.controller is not None
        patched = Patched(made)

        made.clock = lambda: utcnow() + timedelta(seconds=20)
        await made.controller.busy.look()
        annotations = (await pods(made))[name]["metadata"]["annotations"]
        assert DO_NOT_DISRUPT.items() <= annotations.items()

        await made.store.reports(
            [Report("finish", run, worker=f"{pod['metadata']['uid']}/1", attempt=1, status="completed")]
        )

        async def known() -> bool:
            obj = made.controller._pods.cache.get(made.namespace, name)  # type: ignore[union-attr]
            return obj is not None and DO_NOT_DISRUPT.keys() <= obj["metadata"].get("annotations", {}).keys()

        await made.until("the mark is seen", known)
        await made.controller.busy.look()
        made.clock = lambda: utcnow() + timedelta(seconds=60)
        await made.controller.busy.look()
        assert not DO_NOT_DISRUPT.keys() & (await pods(made))[name]["metadata"].get("annotations", {}).keys()
        assert patched() == [name, name]

    play(scenario)


def test_autoscaling_leaves_a_pod_whose_run_outlasts_the_drain(play: Play) -> None:
    async def scenario(made: World) -> None:
        scaling = {"minReplicas": 0, "maxReplicas": 4, "scaleDownDelay": "1s"}
        await made.apply(automation(worker={**WORKER, "concurrency": 4, "drainTimeout": "60s", "autoscaling": scaling}))
        await made.ready(reason="ScaledToZero")
        obj = await made.get()
        key = made.store.key_of(obj["metadata"]["uid"])
        assert key is not None
        await made.store.accept([NewRun(key) for _ in range(7)])
        there = await scaled(made, 2)
        epoch = (await made.store.win_leadership()).epoch
        claimed = await made.store.claim(epoch, key, 7)
        uids = [pod["metadata"]["uid"] for pod in there.values()]
        starts = [Report("start", run.id, worker=f"{uids[n % 2]}/1") for n, run in enumerate(claimed)]
        await made.store.reports(starts)
        made.clock = lambda: utcnow() + timedelta(seconds=90)
        assert made.controller is not None
        await made.controller.busy.look()
        ends = [
            Report("finish", run.id, worker=f"{uids[n % 2]}/1", attempt=1, status="completed")
            for n, run in enumerate(claimed)
            if n >= 2
        ]
        await made.store.reports(ends)
        await made.until("the end of five is known", lambda: _running(made, 2))
        assert len(await scaled(made, 2)) == 2, "one pod would do, but both have been at work for too long"
        rest = [
            Report("finish", run.id, worker=f"{uids[n]}/1", attempt=1, status="completed")
            for n, run in enumerate(claimed[:2])
        ]
        await made.store.reports(rest)
        await scaled(made, 0)

    play(scenario)


async def _running(world: World, n: int) -> bool:
    return bool((await world.get())["status"].get("runs", {}).get("running") == n)
