"""An Automation comes to be: its objects, its queue, its status."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import AUTOMATION, DEPLOYMENT, SECRET, SERVICE_ACCOUNT


def test_everything_is_made(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(worker={"image": "example.org/worker:1", "replicas": 2, "concurrency": 3}))
        obj = await world.ready()
        status, state = obj["status"], await world.state()
        assert state.queues[world.queue].arguments == {"x-queue-type": "quorum"}
        await world.until("the class policy on the queue", lambda: _policy(world))
        assert {"maestro-work", "maestro-dead-letters"} <= set(state.policies)
        login = await world.login()
        user = login["username"]
        assert user in state.users
        assert not state.users[user].tags
        permission = state.permissions[user]
        assert (permission.configure, permission.write) == ("^$", "^$")
        url = urlsplit(login["url"])
        assert (unquote(url.username or ""), unquote(url.password or "")) == (user, login["password"])
        assert login["queue"] == world.queue == status["queue"]["name"]
        assert (await world.secret())["type"] == "maestro-operator.io/broker"
        deployment = await world.deployment()
        assert deployment["spec"]["replicas"] == status["replicas"] == status["readyReplicas"] == 2
        assert status["selector"] == "maestro-operator.io/automation=orders"
        assert status["solution"] == world.namespace
        for kind, name in ((DEPLOYMENT, "orders"), (SERVICE_ACCOUNT, "orders"), (SECRET, "orders-broker")):
            child = await world.kube.get(kind, world.namespace, name)
            assert [owner["uid"] for owner in child["metadata"]["ownerReferences"]] == [obj["metadata"]["uid"]]
        pods = [pod for pod in world.kubelet.cache.values() if pod["metadata"]["labels"]]
        assert len(pods) == 2  # in a namespace that enforces the restricted standard
        assert {"Ready"} <= {condition["type"] for condition in status["conditions"]}
        assert not {"Reconciling", "Stalled"} & {condition["type"] for condition in status["conditions"]}

    play(scenario)


async def _policy(world: World) -> bool:
    return (await world.state()).queues[world.queue].policy == "maestro-work"


def test_without_an_image_workers_live_elsewhere(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(worker={}))
        obj = await world.ready()
        assert (await world.condition("WorkersReady"))["reason"] == "WorkersElsewhere"
        assert (await world.login())["username"] in (await world.state()).users
        for kind in (DEPLOYMENT, SERVICE_ACCOUNT):
            assert not await world.exists(kind, "orders")
        assert "selector" not in obj["status"]

        await world.patch("orders", {"worker": {"image": "example.org/worker:1"}})
        await world.ready()
        assert await world.exists(DEPLOYMENT, "orders")
        await world.patch("orders", {"worker": {"image": None}})
        await world.ready()
        for kind in (DEPLOYMENT, SERVICE_ACCOUNT):
            assert not await world.exists(kind, "orders")

    play(scenario)


def test_launch_job_has_no_queue(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(launch="Job"))
        obj = await world.ready()
        assert "queue" not in obj["status"]
        state = await world.state()
        assert not [name for name in state.queues if "orders" in name]
        assert not [name for name in state.users if "orders" in name]
        for kind, name in ((DEPLOYMENT, "orders"), (SECRET, "orders-broker")):
            assert not await world.exists(kind, name)
        assert await world.exists(SERVICE_ACCOUNT, "orders")
        await world.apply(automation("nothing", launch="Job", worker={}))
        assert (await world.stalled("NoWorkerImage", "nothing"))["message"] == "launch: Job needs worker.image"
        assert not await world.exists(SERVICE_ACCOUNT, "nothing")

    play(scenario)


def test_an_older_worker_declares_its_queue_itself(play: Play) -> None:
    """Raw arguments: exactly these, and a user who may configure that one name."""

    async def scenario(world: World) -> None:
        name, arguments = f"older.{world.namespace}", {"x-dead-letter-exchange": "maestro.dlx"}
        await world.apply(automation(queue={"name": name, "arguments": arguments}))
        await world.ready()
        state, login = await world.state(), await world.login()
        assert {k: v for k, v in state.queues[name].arguments.items() if k != "x-queue-type"} == arguments
        assert state.permissions[login["username"]].configure == state.permissions[login["username"]].read
        policy = state.policies["maestro-work"].pattern
        assert name.replace(".", r"\.").replace("-", r"\-") in policy
        template = (await world.deployment())["spec"]["template"]
        assert template["metadata"]["annotations"]["maestro-operator.io/broker-user"] == login["username"]

    play(scenario)


def test_what_stands_in_the_way_is_named(play: Play) -> None:
    """A Deployment or ServiceAccount of that name that is somebody else's is left alone."""

    async def scenario(world: World) -> None:
        labels = {"app": "mine"}
        pod = {"containers": [{"name": "c", "image": "example.org/mine:1"}]}
        spec = {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        await world.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "orders"}, "spec": spec})
        await world.apply(automation())
        assert "Deployment orders exists" in (await world.stalled("NameTaken"))["message"]
        assert (await world.deployment())["spec"]["selector"]["matchLabels"] == labels
        await world.kube.delete(DEPLOYMENT, world.namespace, "orders")
        await world.ready()
        found = await world.kube.get(AUTOMATION, world.namespace, "orders")
        assert "Stalled" not in {condition["type"] for condition in found["status"]["conditions"]}

    play(scenario)
