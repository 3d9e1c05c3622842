"""What people change is followed; what can't be followed is said, and what was there goes on."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.runs.model import NewRun
from maestro.workload.merge import BUILT_IN, table_of


def test_edits(play: Play) -> None:
    """Image, variables, resources, template, replicas, kubectl scale."""

    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        template = {
            "metadata": {"annotations": {"team": "a"}},
            "spec": {
                "nodeSelector": {"disk": "ssd"},
                "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
                "containers": [
                    {"name": "worker", "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]},
                    {
                        "name": "sidecar",
                        "image": "example.org/sidecar:1",
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    },
                ],
            },
        }
        worker = {
            "image": "example.org/worker:2",
            "env": [{"name": "LEVEL", "value": "debug"}],
            "resources": {"requests": {"cpu": "0.1", "memory": "64Mi"}, "limits": {"memory": "0.5Gi"}},
            "replicas": 3,
            "template": template,
        }
        await world.patch("orders", {"worker": worker})
        await world.ready()
        deployment = await world.deployment()
        pod = deployment["spec"]["template"]
        container, sidecar = pod["spec"]["containers"]
        assert deployment["spec"]["replicas"] == 3
        assert container["image"] == "example.org/worker:2"
        assert {"name": "LEVEL", "value": "debug"} in container["env"]
        assert container["resources"]["requests"] == {"cpu": "100m", "memory": "64Mi"}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/run/secrets/maestro", "/scratch"}
        assert sidecar["name"] == "sidecar"
        assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
        assert pod["metadata"]["annotations"]["team"] == "a"

        # What is taken away goes, too.
        await world.patch("orders", {"worker": {"env": None, "template": None}})
        await world.ready()
        pod = (await world.deployment())["spec"]["template"]
        assert [c["name"] for c in pod["spec"]["containers"]] == ["worker"]
        assert "LEVEL" not in {variable["name"] for variable in pod["spec"]["containers"][0]["env"]}
        assert "nodeSelector" not in pod["spec"]

        world.apiserver.kubectl("scale", "-n", world.namespace, "automation/orders", "--replicas=4")
        await world.ready()
        assert (await world.deployment())["spec"]["replicas"] == 4
        assert (await world.get())["status"]["replicas"] == 4
        world.apiserver.kubectl("scale", "-n", world.namespace, "automation/orders", "--replicas=0")
        await world.ready(reason="ScaledToZero")
        assert (await world.deployment())["spec"]["replicas"] == 0
        # Nothing of all this was anybody's drift.
        assert await world.events("Repaired") == []

    play(scenario)


def test_suspend_scales_to_zero_when_idle(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(worker={"image": "example.org/worker:1", "replicas": 2}))
        obj = await world.ready()
        key = await _run_running(world)
        await world.patch("orders", {"suspend": True})
        await world.ready(reason="Suspended")
        assert (await world.deployment())["spec"]["replicas"] == 2  # one still runs
        assert world.store.registrations()[key].suspended
        await _finish_running(world)

        async def idle() -> bool:
            return (await world.deployment())["spec"]["replicas"] == 0

        await world.until("no worker", idle)
        await world.ready(reason="Suspended")
        await world.patch("orders", {"suspend": False})
        await world.ready()
        assert (await world.deployment())["spec"]["replicas"] == 2
        status = (await world.get())["status"]
        assert status["lastRun"]["state"] == "Succeeded"
        assert status["runs"]["succeeded24h"] == 1
        assert obj["status"]["runs"]["running"] == 0
        assert await world.events("Repaired") == []

    play(scenario)


async def _run_running(world: World) -> int:
    """A Run that a worker holds; the Automation's key in the store."""
    live = world.store.live(f"{world.namespace}.orders")
    assert live is not None
    accepted = await world.store.accept([NewRun(automation=live[0])])
    leadership = await world.store.win_leadership()
    (claimed,) = await world.store.claim(leadership.epoch, live[0], 1)
    answer = await _report(world, op="start", job=accepted[0].id, worker="pod/1", pub=claimed.pub)
    assert answer.status == 200
    world.held = accepted[0].id  # type: ignore[attr-defined]
    return live[0]


async def _finish_running(world: World) -> None:
    held = world.held  # type: ignore[attr-defined]
    answer = await _report(world, op="finish", job=held, worker="pod/1", attempt=1, status="completed")
    assert answer.status == 200


async def _report(world: World, **fields: Any) -> Any:
    from maestro.runs.reports import Report

    (answer,) = await world.store.reports([Report(**fields)])
    return answer


def test_bad_specs_are_named_and_harm_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        before = (await world.deployment())["spec"]["template"]

        async def template(spec: dict[str, Any] | None) -> None:
            await world.patch("orders", {"worker": {"template": {"spec": spec} if spec is not None else None}})

        mount = [{"name": "nothing", "mountPath": "/x"}]
        bad = (
            ({"containers": [{"name": "worker", "volumeMounts": mount}]}, "volumeMounts[1].name"),
            ({"containers": [{"name": "worker", "bogus": 1}]}, "bogus"),
            ({"containers": [{"image": "example.org/x:1"}]}, "spec.containers[0].name"),
            ({"containers": [{"name": "worker", "ports": [{"containerPort": "http"}]}]}, "containerPort"),
            ({"restartPolicy": "Never"}, "restartPolicy"),
        )
        for spec, words in bad:
            await template(spec)
            condition = await world.stalled("InvalidTemplate")
            generation = (await world.get())["metadata"]["generation"]
            await world.until("the status of this generation", lambda g=generation: _observed(world, g))
            condition = await world.condition("Stalled")
            assert words in condition["message"], condition
            assert (await world.deployment())["spec"]["template"] == before
            await template(None)
            await world.ready()

        await world.patch("orders", {"parameterSchema": {"type": "object", "properties": {"a": {"type": "strin"}}}})
        assert "parameterSchema" in (await world.stalled("InvalidParameterSchema"))["message"]
        await world.patch("orders", {"parameterSchema": None})
        await world.ready()
        await world.patch("orders", {"parameterSchema": {"$ref": "https://example.org/schema.json"}})
        assert "ref" in (await world.stalled("InvalidParameterSchema"))["message"]
        await world.patch("orders", {"parameterSchema": None})
        await world.ready()
        refused = await world.events("InvalidTemplate")
        assert len(refused) == len(bad), json.dumps(refused)

    play(scenario)


async def _observed(world: World, generation: int) -> bool:
    return (await world.get())["status"]["observedGeneration"] == generation


def test_a_job_template_is_tried_out_before_the_first_run(play: Play) -> None:
    async def scenario(world: World) -> None:
        worker = {"image": "example.org/any:1", "template": {"spec": {"restartPolicy": "Always"}}}
        await world.apply(automation(launch="Job", worker=worker))
        assert "restartPolicy" in (await world.stalled("InvalidTemplate"))["message"]
        await world.patch("orders", {"worker": {"template": None}})
        await world.ready()

    play(scenario)


def test_pods_say_why_they_are_not_ready(play: Play) -> None:
    async def scenario(world: World) -> None:
        waiting = {"reason": "ErrImagePull", "message": "rpc error: not found"}
        world.kubelet.states["orders"] = {"ready": False, "state": {"waiting": waiting}}
        await world.apply(automation())

        async def told() -> bool:
            return "ImagePullBackOff" in (await world.condition("WorkersReady")).get("message", "")

        await world.until("the reason in the condition", told)
        ready = await world.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "RollingOut")
        assert (await world.condition("Reconciling"))["status"] == "True"

    play(scenario)


def test_a_worker_that_exits_gets_the_advice(play: Play) -> None:
    async def scenario(world: World) -> None:
        ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        world.kubelet.states["orders"] = {
            "ready": False,
            "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": ended,
        }
        await world.apply(automation())
        assert "launch: Job" in (await world.stalled("WorkerExits"))["message"]

    play(scenario)


def test_a_rollout_past_its_deadline_is_stalled(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.kubelet.states["orders"] = {"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}
        await world.apply(automation())
        await world.until("a rollout", lambda: world.events("RollingOut"))
        # The Deployment's own deadline, made short; Maestro doesn't set the field.
        from maestro.kube.kinds import DEPLOYMENT

        await world.kube.patch(DEPLOYMENT, world.namespace, "orders", {"spec": {"progressDeadlineSeconds": 1}})
        assert "0 of 1" in (await world.stalled("ProgressDeadlineExceeded"))["message"]

    play(scenario)


def test_the_built_in_merge_rules_are_the_servers(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert table_of(await world.kube.openapi("apis/apps/v1")) == BUILT_IN

    play(scenario)
