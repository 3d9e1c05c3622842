"""A Schedule armed; a tick becomes a Run, a Job, a status. The pods are objects; a test says what becomes of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from tests.integration.automation.world import automation
from tests.integration.schedule.conftest import Play
from tests.integration.schedule.world import ScheduleWorld, schedule

from maestro.kube.kinds import AUTOMATION, JOB, SCHEDULE
from maestro.runs.model import RunState

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


async def _armed(world: ScheduleWorld, **spec: Any) -> None:
    world.kubelet.states["orders"] = RUNNING
    await world.apply(automation(worker={"image": "i", "replicas": 0}))
    await world.put(schedule(**spec))
    await world.says("Ready")


async def _pass_hour(world: ScheduleWorld) -> None:
    world.set_clock(world.next_hour() + timedelta(seconds=1))


def test_suspend_resume_edit_run_now_delete(play: Play) -> None:
    async def scenario(world: ScheduleWorld) -> None:
        await _armed(world, missed={"onResume": "Latest"})
        await world.edit({"suspend": True})
        await world.says("Suspended")
        await _pass_hour(world)
        await _pass_hour(world)
        assert await world.jobs() == []
        await world.edit({"suspend": False})
        await world.ticked("Started", "Skipped/Suspended")
        (job,) = await world.jobs(1)
        await _pass_hour(world)  # while a Job runs
        await world.ticked("Skipped/Concurrency", "Started")
        await world.edit({"schedule": "30 * * * *", "concurrencyPolicy": "Allow"})
        await world.until("an Event", lambda: world.events("Rescheduled", "nightly"))
        obj = await world.says("Ready")
        assert obj["status"]["nextScheduleTime"].endswith(":30:00Z")
        patch = {"metadata": {"annotations": {"maestro-operator.io/run-now": "once"}}}
        await world.kube.patch(SCHEDULE, world.namespace, "nightly", patch)
        jobs = await world.jobs(2)
        assert any("-n" in found["metadata"]["name"] for found in jobs)
        await world.edit({"successfulJobsHistoryLimit": 5})
        assert len(await world.jobs()) == 2
        runs = [found["metadata"]["labels"]["maestro-operator.io/run"] for found in jobs]
        await world.kube.delete(SCHEDULE, world.namespace, "nightly")
        for found in jobs:  # the garbage collector's work, which no API server does alone
            await world.kube.delete(JOB, world.namespace, found["metadata"]["name"])
        await world.until("its end", lambda: _gone(world))
        for run in runs:

            async def canceled(run: str = run) -> bool:
                view = await world.store.get(UUID(run))
                return view is not None and view.state is RunState.CANCELED and view.reason == "ScheduleDeleted"

            await world.until("the Run's end", canceled)
        assert job["metadata"]["name"] in {found["metadata"]["name"] for found in jobs}

    play(scenario)


async def _gone(world: ScheduleWorld) -> bool:
    assert world.schedules is not None
    await world.schedules.clear_away()
    return await world.schedules.ledger.known() == {}


def test_the_gateway(play: Play) -> None:
    async def scenario(world: ScheduleWorld) -> None:
        await _armed(world)
        world.shut.add(f"{world.namespace}.{world.namespace}")
        await world.says("GatewayBlocked")
        await _pass_hour(world)
        await _pass_hour(world)
        await world.ticked("Skipped/Gateway")
        assert await world.jobs() == []
        world.shut.clear()
        await world.ticked("Started", "Skipped/Gateway")
        await world.jobs(1)

    play(scenario)


def test_replace_cancels_and_waits(play: Play) -> None:
    async def scenario(world: ScheduleWorld) -> None:
        await _armed(world, concurrencyPolicy="Replace")
        await _pass_hour(world)
        obj = await world.ticked("Started")
        first = UUID(_tick(obj)["run"])
        await world.jobs(1)
        await _pass_hour(world)

        async def asked() -> bool:
            run = await world.store.get(first)
            return run is not None and (run.cancel_requested_at is not None or run.state.ended)

        await world.until("the wish to stop", asked)
        await world.store.cancel(first, why="Replaced", force=True)
        await world.ticked("Started", "Started")

    play(scenario)


def test_an_outage_and_an_automation_made_anew(play: Play) -> None:
    async def scenario(world: ScheduleWorld) -> None:
        await _armed(world, concurrencyPolicy="Allow")
        await world.stop()
        world.set_clock(world.next_hour(3) + timedelta(minutes=5))
        await world.start()
        obj = await world.ticked("Started", "Missed/Outage", "Missed/Outage")
        assert obj["status"]["ticks"] == {"started": 1, "skipped": 0, "missed": 2}
        await world.jobs(1)
        await world.kube.delete(AUTOMATION, world.namespace, "orders")
        await world.says("AutomationNotFound")
        await _pass_hour(world)
        await world.ticked("Skipped/AutomationNotFound", "Started")
        await world.apply(automation(worker={"image": "i", "replicas": 0}))
        await world.says("Ready")
        await _pass_hour(world)
        await world.ticked("Started", "Skipped/AutomationNotFound")

    play(scenario)


BAD: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({"schedule": "61 * * * *"}, "InvalidRule", ("minute", "61")),
    ({"schedule": "0 0 30 2 *"}, "InvalidRule", ("never",)),
    ({"schedules": ["0 1 * * *", "* *"]}, "InvalidRule", ("fields",)),
    ({"timeZone": "Europe/Lisboa"}, "UnknownTimeZone", ("spec.timeZone", "Lisboa")),
    ({"parameters": {"period": {"from": "$(yesterdy)"}}}, "InvalidPlaceholder", ("spec.parameters.period.from",)),
    ({"exclude": {"configMap": {"name": "holidays"}}}, "CalendarNotFound", ("spec.exclude.configMap", "holidays")),
    ({"automation": "robot"}, "NoWorkerImage", ("spec.launch", "worker.image")),
    ({"automation": "batch", "launch": "Queue"}, "LaunchMismatch", ("spec.launch", "batch")),
    ({"automation": "nobody"}, "AutomationNotFound", ("nobody",)),
]


def test_bad_input(play: Play) -> None:
    """Each bad Schedule says what is wrong with it; the others go on."""

    async def scenario(world: ScheduleWorld) -> None:
        await world.apply(automation("robot", worker={"replicas": 1}))
        await world.apply(automation("batch", launch="Job"))
        await world.ready("batch")
        await _armed(world)
        for number, (spec, _reason, _words) in enumerate(BAD):
            await world.put(schedule(f"bad-{number}", **spec))
        for number, (_spec, reason, words) in enumerate(BAD):
            obj = await world.says(reason, f"bad-{number}")
            (message,) = [c["message"] for c in obj["status"]["conditions"] if c["type"] == "Ready"]
            assert all(word in message for word in words), message
            assert "nextScheduleTime" not in obj["status"]
        await _pass_hour(world)
        await world.ticked("Started")
        await world.edit({"schedule": "5 * * * *"}, "bad-0")
        await world.says("Ready", "bad-0")

    play(scenario)
