"""Runs as Kubernetes Jobs: made once, followed to their end. The pods are objects; a test says what becomes of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import JOB
from maestro.runs.dispatcher import JobRefused
from maestro.runs.model import NewRun, Registration, RunState, RunView
from maestro.runtime.clock import utcnow

RUNNING = {"ready": True, "state": {"running": {"startedAt": "2030-01-01T00:00:00Z"}}}


async def _launched(world: World, **parameters: Any) -> tuple[Any, Registration]:
    """A Run accepted, claimed and launched."""
    live = world.store.live(f"{world.namespace}.orders")
    assert live is not None
    await world.store.accept([NewRun(automation=live[0], parameters=parameters)])
    leadership = await world.store.win_leadership()
    assert world.controller is not None
    world.controller.fenced_by(lambda: leadership.epoch)
    (claimed,) = await world.store.claim(leadership.epoch, live[0], 1)
    await world.controller.launcher.launch(claimed, live[1])
    return claimed, live[1]


async def _run(world: World, claimed: Any, *states: RunState) -> RunView:
    async def reached() -> RunView | None:
        run = await world.store.get(claimed.id)
        return run if run is not None and run.state in states else None

    found: RunView = await world.until(f"a Run {states}", reached, show=lambda: world.store.get(claimed.id))
    return found


async def _says(world: World, container: dict[str, Any], phase: str = "Running") -> None:
    world.kubelet.states["orders"], world.kubelet.phases["orders"] = container, phase
    world.kubelet.look_again()


async def _prepared(world: World, **spec: Any) -> None:
    world.kubelet.states["orders"] = RUNNING
    await world.apply(automation(launch="Job", **spec))
    await world.ready()


def _ended(code: int, reason: str) -> dict[str, Any]:
    return {"ready": False, "state": {"terminated": {"exitCode": code, "reason": reason}}}


def test_success(play: Play) -> None:
    async def scenario(world: World) -> None:
        schema = {"type": "object", "properties": {"key": {"type": "string", "writeOnly": True}}}
        await _prepared(world, parameterSchema=schema, worker={"image": "example.org/any:1", "args": ["$(PARAM_URL)"]})
        claimed, registration = await _launched(world, url="https://example.org/$(KEY)", key="hunter2", list=[1])
        name = f"{claimed.id}-1"
        job = await world.kube.get(JOB, world.namespace, name)
        container = job["spec"]["template"]["spec"]["containers"][0]
        env = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert env["MAESTRO_RUN_ID"] == str(claimed.id)
        assert env["PARAM_URL"] == "https://example.org/$$(KEY)"
        assert not {"PARAM_KEY", "PARAM_LIST", "MAESTRO_BROKER_URL"} & set(env)
        assert "hunter2" not in str(job)
        assert world.controller is not None
        await world.controller.launcher.launch(claimed, registration)  # a second leader: the same Job
        assert len((await world.kube.list(JOB, world.namespace))[0]) == 1

        running = await _run(world, claimed, RunState.RUNNING)
        pod = next(iter(world.kubelet.cache.values()))
        assert running.holder == pod["metadata"]["uid"]
        await _says(world, _ended(0, "Completed"), "Succeeded")
        done = await _run(world, claimed, RunState.SUCCEEDED)
        assert done.result == {"exitCode": 0, "reason": "Completed"}
        assert done.attempt == 1

        async def kept_for_a_while() -> bool:
            job = await world.kube.get(JOB, world.namespace, name)
            return bool(job["spec"].get("ttlSecondsAfterFinished") == 600)

        await world.until("a time to live", kept_for_a_while)

    play(scenario)


def test_failure(play: Play) -> None:
    async def scenario(world: World) -> None:
        await _prepared(world, run={"retry": {"attempts": 1}})
        claimed, _ = await _launched(world)
        await _run(world, claimed, RunState.RUNNING)
        await _says(world, _ended(137, "OOMKilled"), "Failed")
        failed = await _run(world, claimed, RunState.FAILED)
        assert failed.error_class == "OOMKilled"
        assert failed.message is not None
        assert "exit code 137" in failed.message

    play(scenario)


def test_a_vanished_job_is_a_lost_attempt(play: Play) -> None:
    async def scenario(world: World) -> None:
        await _prepared(world)
        claimed, _ = await _launched(world)
        await _run(world, claimed, RunState.RUNNING)
        await world.kube.delete(JOB, world.namespace, f"{claimed.id}-1")
        lost = await _run(world, claimed, RunState.RETRYING, RunState.PENDING)
        assert [(end.attempt, end.reason) for end in lost.attempts][:1] == [(1, "WorkerLost")]

    play(scenario)


def test_a_job_that_vanished_unseen(play: Play) -> None:
    """Deleted while the controller was away, of a Run that ran and of one that was only queued."""

    async def scenario(world: World) -> None:
        await _prepared(world)
        running, _ = await _launched(world)
        await _run(world, running, RunState.RUNNING)
        world.kubelet.away = True
        queued, _ = await _launched(world)
        await world.stop()
        world.apiserver.kubectl("delete", "jobs", "-n", world.namespace, "--all", "--wait=true")
        await world.start()
        world.clock = lambda: utcnow() + timedelta(minutes=2)
        leadership = await world.store.win_leadership()
        assert world.controller is not None
        world.controller.fenced_by(lambda: leadership.epoch)
        await world.until("the watch", _synced(world))
        await world.controller.follower.sweep()
        await _run(world, running, RunState.RETRYING, RunState.PENDING)
        again = await _run(world, queued, RunState.PENDING)
        assert again.attempt == 0  # it never began: that costs no attempt

    play(scenario)


def _synced(world: World) -> Any:
    async def check() -> bool:
        assert world.controller is not None
        return world.controller.follower.watch.cache.synced

    return check


@pytest.mark.parametrize("running", [False, True])
def test_a_canceled_run_takes_its_job_along(play: Play, running: bool) -> None:
    async def scenario(world: World) -> None:
        world.kubelet.away = not running
        await _prepared(world, run={"cancelGrace": "1s"})
        claimed, _ = await _launched(world)
        if running:
            await _run(world, claimed, RunState.RUNNING)
        await world.store.cancel(claimed.id)
        assert world.controller is not None

        async def gone() -> bool:
            follower = world.controller.follower  # type: ignore[union-attr]
            for key in follower.watch.cache.keys():  # noqa: SIM118
                follower.queue.add(key)
            return not (await world.kube.list(JOB, world.namespace))[0]

        await world.until("the Job's end", gone)
        await _run(world, claimed, RunState.CANCELED)

    play(scenario)


def test_an_image_that_cannot_be_had(play: Play) -> None:
    async def scenario(world: World) -> None:
        await _prepared(world, run={"retry": {"attempts": 1}})
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
        world.kubelet.states["orders"] = {"ready": False, "state": waiting}
        world.kubelet.phases["orders"] = "Pending"
        claimed, _ = await _launched(world)
        world.clock = lambda: utcnow() + timedelta(minutes=3)

        async def failed() -> bool:
            follower = world.controller.follower  # type: ignore[union-attr]
            for key in follower.watch.cache.keys():  # noqa: SIM118
                follower.queue.add(key)
            run = await world.store.get(claimed.id)
            return run is not None and run.state is RunState.FAILED

        await world.until("the Run's failure", failed)
        run = await world.store.get(claimed.id)
        assert run is not None
        assert run.error_class == "ImagePullBackOff"

    play(scenario)


def test_what_kubernetes_refuses(play: Play) -> None:
    async def scenario(world: World) -> None:
        await _prepared(world)
        claimed, registration = await _launched(world)
        assert world.controller is not None
        launcher = world.controller.launcher
        other = type(registration)(**{**_fields(registration), "uid": "another"})
        with pytest.raises(JobRefused) as refused:
            await launcher.launch(claimed, other)
        assert not refused.value.final
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
        world.apiserver.apply(
            {
                **quota,
                "metadata": {"name": "none", "namespace": world.namespace},
                "spec": {"hard": {"count/jobs.batch": 0}},
            }
        )
        live = world.store.live(f"{world.namespace}.orders")
        assert live is not None
        await world.store.accept([NewRun(automation=live[0])])
        leadership = await world.store.win_leadership()
        (next_one,) = await world.store.claim(leadership.epoch, live[0], 1)

        async def refused_by_quota() -> bool:
            try:
                await launcher.launch(next_one, registration)
            except JobRefused as refusal:
                return not refusal.final and "quota" in str(refusal)
            await world.kube.delete(JOB, world.namespace, f"{next_one.id}-1")
            return False

        await world.until("a refusal by quota", refused_by_quota)

    play(scenario)


def _fields(registration: Registration) -> dict[str, Any]:
    from dataclasses import fields

    return {field.name: getattr(registration, field.name) for field in fields(registration)}
