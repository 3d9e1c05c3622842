"""What somebody changes or deletes is put right, and said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.integration.automation.conftest import Play
from tests.integration.automation.world import World, automation

from maestro.kube.kinds import DEPLOYMENT, EVENT, SECRET, SERVICE_ACCOUNT


def test_drift_of_the_brokers_part(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        user = (await world.login())["username"]

        world.broker("DELETE", f"/api/queues/%2F/{world.queue}")
        await world.repaired("queue", "missing")
        assert world.broker("GET", f"/api/queues/%2F/{world.queue}") is not None

        world.broker("DELETE", f"/api/users/{user}")
        await world.repaired(f"user {user} was missing")
        await world.repaired("permissions", "were missing")
        world.broker("PUT", f"/api/users/{user}", {"password": "guessed", "tags": "administrator"})
        await world.repaired("password or tags", user)
        assert world.broker("GET", f"/api/users/{user}")["tags"] == []

        world.broker("PUT", f"/api/permissions/%2F/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        await world.repaired("permissions", "differed")
        assert world.broker("GET", f"/api/permissions/%2F/{user}")["write"] == "^$"
        await world.ready()
        assert (await world.login())["username"] == user

    play(scenario)


def test_drift_of_what_all_share(play: Play) -> None:
    """Policies, the dead-letter exchange, its queue and their binding; told on the installation's broker Secret."""

    async def scenario(world: World) -> None:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "maestro-broker"}}
        await world.apply({**secret, "type": "maestro-operator.io/broker", "stringData": {"password": "unseen"}})
        await world.apply(automation())
        await world.ready()

        async def told(words: str) -> bool:
            found, _ = await world.kube.list(EVENT, world.namespace)
            return any(e["regarding"]["name"] == "maestro-broker" and words in e["note"] for e in found)

        async def broken_and_repaired(method: str, path: str, words: str, body: object = None) -> None:
            world.broker(method, path, body)
            await world.until(f"{words} told", lambda: told(words))

        policy = {"pattern": "^nothing$", "definition": {"max-length": 1}, "priority": 0, "apply-to": "queues"}
        await broken_and_repaired("PUT", "/api/policies/%2F/maestro-work", "maestro-work differed", policy)
        await broken_and_repaired(
            "DELETE", "/api/policies/%2F/maestro-dead-letters", "maestro-dead-letters was missing"
        )
        binding = "/api/bindings/%2F/e/maestro.dlx/q/maestro.dead-letters"
        await broken_and_repaired("DELETE", f"{binding}/~", "binding of maestro.dead-letters")
        await broken_and_repaired("DELETE", "/api/queues/%2F/maestro.dead-letters", "queue maestro.dead-letters")
        await broken_and_repaired("DELETE", "/api/exchanges/%2F/maestro.dlx", "exchange maestro.dlx")
        state = await world.state()
        assert state.bindings
        assert "max-length" not in state.policies["maestro-work"].definition

    play(scenario)


def test_drift_of_the_deployment(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(worker={"image": "example.org/worker:1", "replicas": 2}))
        await world.ready()

        async def put_right(patch: dict[str, object], *words: str) -> None:
            await world.kube.patch(DEPLOYMENT, world.namespace, "orders", patch, type="strategic")
            await world.repaired(*words)
            await world.ready()

        worker = {"name": "worker", "image": "example.org/evil:1"}
        await put_right({"spec": {"template": {"spec": {"containers": [worker]}}}}, "containers[worker].image")
        await put_right({"spec": {"replicas": 5}}, "spec.replicas")
        await put_right({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}, "metadata.labels")
        await put_right({"metadata": {"ownerReferences": [{"$patch": "replace"}]}}, "metadata.ownerReferences")
        deployment = await world.deployment()
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/worker:1"
        assert deployment["spec"]["replicas"] == 2

        await world.kube.delete(DEPLOYMENT, world.namespace, "orders")
        await world.repaired("Deployment orders was missing")
        await world.ready()
        # Marks of others are theirs: `kubectl rollout restart` works.
        world.apiserver.kubectl("rollout", "restart", "-n", world.namespace, "deployment/orders")
        await world.until("a restart", lambda: _restarted(world))
        await world.ready()
        assert await _restarted(world)

        await world.kube.delete(SERVICE_ACCOUNT, world.namespace, "orders")
        await world.repaired("ServiceAccount orders was missing")

    play(scenario)


async def _restarted(world: World) -> bool:
    meta = (await world.deployment())["spec"]["template"]["metadata"]
    return "kubectl.kubernetes.io/restartedAt" in meta.get("annotations", {})


def test_drift_of_the_secret(play: Play) -> None:
    """A password that is lost is made anew for the other user; the pods don't roll, their file is renewed in place."""

    async def scenario(world: World) -> None:
        await world.apply(automation())
        await world.ready()
        first, template = await world.login(), (await world.deployment())["spec"]["template"]

        await world.kube.patch(SECRET, world.namespace, "orders-broker", {"data": {"host": None, "queue": "eA=="}})
        await world.repaired("orders-broker", "host", "queue")
        assert await world.login() == first

        await world.kube.delete(SECRET, world.namespace, "orders-broker")
        await world.repaired("orders-broker", "was missing", "new password")
        second = await world.login()
        assert second["username"] == f"{world.queue}.b" != first["username"] == f"{world.queue}.a"
        assert second["password"] != first["password"]
        state = await world.state()
        assert {first["username"], second["username"]} <= set(state.users)  # the old one, until nobody needs it
        assert second["username"] in state.permissions
        assert (await world.deployment())["spec"]["template"] == template

        await world.kube.patch(SECRET, world.namespace, "orders-broker", {"data": {"password": ""}})
        await world.repaired("no password of the Automation's own")
        assert (await world.login())["username"] == first["username"]
        await world.ready()

    play(scenario)


def test_the_replaced_user_goes_in_time(play: Play) -> None:
    async def scenario(world: World) -> None:
        from datetime import timedelta

        from maestro.runtime.clock import utcnow

        await world.apply(automation())
        await world.ready()
        await world.kube.delete(SECRET, world.namespace, "orders-broker")
        await world.repaired("new password")
        old, new = f"{world.queue}.a", f"{world.queue}.b"
        assert old in (await world.state()).users
        world.clock = lambda: utcnow() + timedelta(minutes=16)
        await world.until("the old user's end", _missing(world, old))
        assert new in (await world.state()).users

    play(scenario)


def _missing(world: World, user: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return user not in (await world.state()).users

    return check


def test_a_replaced_user_rolls_older_workers(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.apply(automation(queue={"name": f"older.{world.namespace}", "arguments": {}}))
        await world.ready()
        await world.kube.delete(SECRET, world.namespace, "orders-broker")

        async def rolled() -> bool:
            meta = (await world.deployment())["spec"]["template"]["metadata"]
            return bool(meta["annotations"]["maestro-operator.io/broker-user"].endswith(".b"))

        await world.until("a rollout with the other user", rolled)
        await world.ready()

    play(scenario)
