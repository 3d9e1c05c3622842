"""A Schedule armed; a tick becomes a Run, a Job, a status. The pods are objects; a test says what becomes of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.integration.automation.world import automation
from tests.integration.schedule.conftest import Play
from tests.integration.schedule.world import ScheduleWorld, schedule

RUNNING = {"ready": True, "state": {"running": {"startedAt": "2030-01-01T00:00:00Z"}}}


def _ended(code: int, reason: str) -> dict[str, Any]:
    return {"ready": False, "state": {"terminated": {"exitCode": code, "reason": reason}}}


def _tick(obj: dict[str, Any]) -> dict[str, Any]:
    return dict(obj["status"]["recentTicks"][0])


async def _becomes(world: ScheduleWorld, container: dict[str, Any], phase: str = "Running") -> None:
    world.kubelet.states["orders"], world.kubelet.phases["orders"] = container, phase
    world.kubelet.look_again()


def test_a_tick_becomes_a_job_beside_the_automations_queue(play: Play) -> None:
    async def scenario(world: ScheduleWorld) -> None:
        world.kubelet.states["orders"] = RUNNING
        await world.apply(automation(defaultParameters={"region": "eu"}, worker={"image": "i", "replicas": 0}))
        await world.put(schedule(parameters={"day": "$(today)"}))
        obj = await world.says("Ready")
        tick = world.next_hour()
        assert obj["status"]["nextScheduleTime"] == tick.strftime("%Y-%m-%dT%H:%M:%SZ")
        world.set_clock(tick + timedelta(seconds=2))
        (job,) = await world.jobs(1)
        assert job["metadata"]["name"] == f"nightly-{int(tick.timestamp()) // 60}-1"
        (owner,) = job["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Schedule", obj["metadata"]["uid"])
        env = {v["name"]: v.get("value") for v in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["PARAM_DAY"] == tick.date().isoformat()
        assert env["PARAM_REGION"] == "eu"
        obj = await world.ticked("Started")
        assert obj["status"]["lastScheduleTime"] == tick.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert [active["name"] for active in obj["status"]["active"]] == [job["metadata"]["name"]]
        assert env["MAESTRO_RUN_ID"] == _tick(obj)["run"]

        await _becomes(world, _ended(0, "Completed"), "Succeeded")
        obj = await world.says("Succeeded", type_="LastRunSucceeded")
        assert obj["status"]["active"] == []
        assert obj["status"]["lastSuccessfulTime"]
        assert await world.events("Ready", "nightly") != []
        version = obj["metadata"]["resourceVersion"]
        assert world.schedules is not None
        for _ in range(3):  # nothing is written where nothing changed
            await world.schedules.look()
            await world.schedules.reconciler.reconcile(next(iter(world.schedules._feed.cache.keys())))
        assert (await world.see())["metadata"]["resourceVersion"] == version

    play(scenario)


def test_a_tick_becomes_a_message(play: Play) -> None:
    async def scenario(world: ScheduleWorld) -> None:
        await world.apply(automation(worker={"image": "i", "replicas": 0}))
        await world.ready(reason="ScaledToZero")
        await world.put(schedule(launch="Queue"))
        await world.says("Ready")
        world.set_clock(world.next_hour() + timedelta(seconds=1))
        obj = await world.ticked("Started")
        assert [active["kind"] for active in obj["status"]["active"]] == ["Run"]

        async def arrived() -> bool:
            found = world.broker("POST", f"/api/queues/%2F/{world.queue}/get", _GET)
            return bool(found) and _tick(obj)["run"] in found[0]["payload"]

        await world.until("the message", arrived)
        assert await world.jobs() == []

    play(scenario)


_GET = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
