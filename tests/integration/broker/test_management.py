"""Topology and management API on a real RabbitMQ: what is made, what is allowed, and what the broker then does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pika
import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.broker.conftest import Channel, channel_of, management, wait_until

from maestro.broker import topology
from maestro.broker.errors import BrokerRefused, BrokerUnavailable
from maestro.broker.management import ManagementClient
from maestro.broker.topology import DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, Queue, QueueClaim, Topology

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NIGHTLY = QueueClaim("shop", "nightly", "maestro.shop.nightly", longest=14430.0)
OLDER = QueueClaim(
    "shop",
    "invoices",
    "invoices+v1.0",
    type="classic",
    arguments={"x-dead-letter-exchange": DEAD_LETTER_EXCHANGE},
    longest=14430.0,
)


def on(rabbitmq: RabbitMQ, work: Callable[[ManagementClient], Coroutine[Any, Any, Any]]) -> Any:
    """Run coroutines with a client of their own."""

    async def run() -> Any:
        async with management(rabbitmq) as client:
            return await work(client)

    return asyncio.run(run())


async def until(look: Callable[[], Coroutine[Any, Any, Any]], enough: Callable[[Any], bool]) -> Any:
    """Look again until it is enough: the broker's counts are some seconds old."""
    async with asyncio.timeout(30):
        while not enough(seen := await look()):
            await asyncio.sleep(0.1)
    return seen


async def bring_about(client: ManagementClient, *wanted: Topology) -> list[str]:
    state = await client.snapshot(NOW)
    changes = [change for topology_ in wanted for change in topology.changes(state, topology_)]
    await client.apply_all(changes)
    return [change.what for change in changes]


def everything(version: topology.Version = (4, 0)) -> list[Topology]:
    return [
        topology.base([NIGHTLY, OLDER], version),
        topology.for_automation(NIGHTLY, "maestro.shop.nightly.a", "secret-one"),
        topology.for_automation(OLDER, "maestro.shop.invoices.a", "secret-two"),
    ]


def test_everything_is_made_once_and_then_nothing_is_left_to_do(broker: RabbitMQ) -> None:
    async def work(client: ManagementClient) -> None:
        assert len(await bring_about(client, *everything())) == 12
        assert await bring_about(client, *everything()) == []
        state = await client.snapshot(NOW)
        assert state.version >= (3, 13)
        assert (await until(lambda: client.snapshot(NOW), lambda state: state.uptime > 0)).alarms == ()
        assert state.queues[NIGHTLY.queue].type == "quorum"
        assert state.queues[OLDER.queue].arguments == {**(OLDER.arguments or {}), "x-queue-type": "classic"}
        for claim in (NIGHTLY, OLDER):
            wanted = Queue(claim.queue, topology.queue_arguments(claim))
            assert topology.differences(state.queues[claim.queue], wanted) == []
            assert topology.overridden(state, Topology(queues=(wanted,))) == []
        # The broker shows a queue's policy with its first counts, some seconds after the declaration.
        policies = {
            queue: (await until(lambda queue=queue: client.queue(queue), lambda there: there.policy)).policy
            for queue in (NIGHTLY.queue, OLDER.queue, DEAD_LETTER_QUEUE)
        }
        assert policies == {
            NIGHTLY.queue: topology.WORK_POLICY,
            OLDER.queue: topology.CLASSIC_POLICY,
            DEAD_LETTER_QUEUE: topology.DEAD_LETTER_POLICY,
        }

    on(broker, work)


def test_what_somebody_changed_is_seen_and_put_right(broker: RabbitMQ) -> None:
    async def work(client: ManagementClient) -> None:
        await bring_about(client, *everything())
        broker.api("DELETE", "/api/queues/%2F/maestro.shop.nightly")
        broker.api("DELETE", "/api/users/maestro.shop.invoices.a")
        broker.api("PUT", "/api/users/maestro.shop.nightly.a", {"password": "other", "tags": ""})
        rights = {"configure": ".*", "write": "^$", "read": ".*"}
        broker.api("PUT", "/api/permissions/%2F/maestro.shop.nightly.a", rights)
        broker.api("DELETE", f"/api/exchanges/%2F/{DEAD_LETTER_EXCHANGE}")
        broker.api(
            "PUT",
            f"/api/policies/%2F/{topology.WORK_POLICY}",
            {"pattern": "^x", "definition": {"delivery-limit": 3}, "apply-to": "queues", "priority": 0},
        )
        said = await bring_about(client, *everything())
        assert said == [
            "exchange maestro.dlx was missing",
            "policy maestro-work differed in pattern, apply_to, consumer-timeout, dead-letter-exchange, "
            "dead-letter-strategy, delivery-limit, overflow",
            "binding of maestro.dead-letters to maestro.dlx was missing",
            "queue maestro.shop.nightly was missing",
            "password or tags of user maestro.shop.nightly.a differed",
            "permissions of user maestro.shop.nightly.a differed",
            "user maestro.shop.invoices.a was missing",
            "permissions of user maestro.shop.invoices.a were missing",
        ]
        assert await bring_about(client, *everything()) == []

    on(broker, work)


def test_a_queue_with_other_arguments_is_named_and_left_alone(broker: RabbitMQ) -> None:
    async def work(client: ManagementClient) -> None:
        there = {"x-queue-type": "classic", "x-message-ttl": 60000}
        await client.declare_queue(Queue(NIGHTLY.queue, there))
        state = await client.snapshot(NOW)
        wanted = topology.for_automation(NIGHTLY, "u", "p")
        assert [str(each) for each in topology.differences(state.queues[NIGHTLY.queue], wanted.queues[0])] == [
            "x-message-ttl: declared 60000, wanted absent",
            "x-queue-type: declared 'classic', wanted 'quorum'",
        ]
        assert not [change for change in topology.changes(state, wanted) if change.target is wanted.queues[0]]
        with pytest.raises(BrokerRefused, match="inequivalent arg") as refused:
            await client.declare_queue(wanted.queues[0])
        assert refused.value.status == 400

    on(broker, work)


def test_a_workers_user_reads_its_queue_and_nothing_else(broker: RabbitMQ) -> None:
    on(broker, lambda client: bring_about(client, *everything()))
    name, password = "maestro.shop.nightly.a", "secret-one"

    def denied(action: Callable[[Channel], object]) -> bool:
        with channel_of(broker, name, password) as channel:
            try:
                action(channel)
                channel.queue_declare(NIGHTLY.queue, passive=True)
            except pika.exceptions.ChannelClosedByBroker as closed:
                return closed.reply_code == 403
        return False

    def publish(exchange: str, key: str) -> Callable[[Channel], object]:
        return lambda channel: (channel.confirm_delivery(), channel.basic_publish(exchange, key, b"x"))

    assert denied(publish("", NIGHTLY.queue))
    assert denied(publish(DEAD_LETTER_EXCHANGE, "x"))
    assert denied(lambda channel: channel.queue_declare("maestro.mine", durable=True))
    assert denied(
        lambda channel: channel.queue_declare(NIGHTLY.queue, durable=True, arguments={"x-queue-type": "quorum"})
    )
    assert denied(lambda channel: channel.queue_delete(NIGHTLY.queue))
    assert denied(lambda channel: channel.queue_bind(NIGHTLY.queue, "amq.fanout"))
    assert denied(lambda channel: channel.basic_get(DEAD_LETTER_QUEUE))
    assert denied(lambda channel: channel.basic_get(OLDER.queue))
    assert not denied(lambda channel: channel.basic_get(NIGHTLY.queue))
    assert not denied(lambda channel: channel.queue_declare(OLDER.queue, passive=True))


def test_an_older_worker_declares_its_own_queue_and_no_other(broker: RabbitMQ) -> None:
    on(broker, lambda client: bring_about(client, *everything()))
    with channel_of(broker, "maestro.shop.invoices.a", "secret-two") as channel:
        channel.queue_declare(OLDER.queue, durable=True, arguments=dict(OLDER.arguments or {}))
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            # The dots and the plus of its name are no wildcards.
            channel.queue_declare("invoices+v1x0", durable=True)


def test_dead_letters_are_kept_until_their_queue_is_there(broker: RabbitMQ, channel: Channel) -> None:
    on(broker, lambda client: bring_about(client, *everything()))
    channel.basic_publish(
        "",
        NIGHTLY.queue,
        b"poison",
        pika.BasicProperties(message_id="run-1", headers={"maestro-pub": 7}, delivery_mode=2),
    )
    delivered = get(channel, NIGHTLY.queue)
    channel.basic_reject(delivered, requeue=False)
    tag, properties, body = get_whole(channel, DEAD_LETTER_QUEUE)
    assert (body, properties.message_id, properties.headers["maestro-pub"]) == (b"poison", "run-1", 7)
    death = properties.headers["x-death"][0]
    assert (death["reason"], death["count"], death["queue"]) == ("rejected", 1, NIGHTLY.queue)
    assert properties.headers["x-first-death-queue"] == NIGHTLY.queue
    channel.basic_ack(tag)

    # At least once: without a route nothing is dropped.
    channel.queue_unbind(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE, "")
    channel.basic_publish("", NIGHTLY.queue, b"kept", pika.BasicProperties(delivery_mode=2))
    channel.basic_reject(get(channel, NIGHTLY.queue), requeue=False)
    wait_until(
        lambda: (
            (broker.api("GET", "/api/queues/%2F/maestro.shop.nightly").get("messages"), 0)
            == (1, channel.queue_declare(NIGHTLY.queue, passive=True).method.message_count)
        ),
        "the message is counted and not ready",
    )


def test_the_dead_letter_queue_never_drops_what_is_looked_at_often(broker: RabbitMQ, channel: Channel) -> None:
    on(broker, lambda client: bring_about(client, *everything()))
    channel.basic_publish(DEAD_LETTER_EXCHANGE, "any", b"letter", pika.BasicProperties(delivery_mode=2))
    for _ in range(60):
        channel.basic_nack(get(channel, DEAD_LETTER_QUEUE), requeue=True)
    _, properties, _ = get_whole(channel, DEAD_LETTER_QUEUE)
    assert properties.headers["x-delivery-count"] == 60


def test_a_message_that_kills_its_workers_is_dead_lettered_after_the_limit(broker: RabbitMQ, channel: Channel) -> None:
    on(broker, lambda client: bring_about(client, *everything()))
    channel.basic_publish("", NIGHTLY.queue, b"poison", pika.BasicProperties(delivery_mode=2))
    for _ in range(topology.DELIVERY_LIMIT + 1):
        channel.basic_nack(get(channel, NIGHTLY.queue), requeue=True)
    _, properties, _ = get_whole(channel, DEAD_LETTER_QUEUE)
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def test_purging_leaves_what_is_unacknowledged(broker: RabbitMQ, channel: Channel) -> None:
    async def purge(client: ManagementClient) -> None:
        await client.purge(NIGHTLY.queue)

    on(broker, lambda client: bring_about(client, *everything()))
    for body in (b"held", b"ready"):
        channel.basic_publish("", NIGHTLY.queue, body, pika.BasicProperties(delivery_mode=2))
    tag = get(channel, NIGHTLY.queue)
    on(broker, purge)
    channel.basic_nack(tag, requeue=True)
    _, _, body = get_whole(channel, NIGHTLY.queue)
    assert body == b"held"
    assert channel.basic_get(NIGHTLY.queue)[0] is None


def test_deleting_a_queue_only_when_it_is_empty(broker: RabbitMQ, channel: Channel) -> None:
    async def work(client: ManagementClient) -> None:
        await bring_about(client, *everything())
        channel.confirm_delivery()
        channel.basic_publish("", NIGHTLY.queue, b"{}", pika.BasicProperties(message_id="run-1", delivery_mode=2))
        await until(lambda: client.queue(NIGHTLY.queue), lambda there: there is not None and there.messages == 1)
        assert not await client.delete_queue(NIGHTLY.queue, if_empty=True)
        assert [(each.message_id, each.payload) for each in await client.peek(NIGHTLY.queue, 10)] == [("run-1", "{}")]
        await client.purge(NIGHTLY.queue)
        await until(lambda: client.delete_queue(NIGHTLY.queue, if_empty=True), bool)
        assert await client.queue(NIGHTLY.queue) is None
        assert await client.delete_queue(NIGHTLY.queue)

    on(broker, work)


def test_declaring_while_deleting_leaves_a_queue_behind(broker: RabbitMQ) -> None:
    queue = Queue("maestro.t.flicker", {"x-queue-type": "quorum"})

    async def work(client: ManagementClient) -> None:
        for _ in range(10):
            await client.declare_queue(queue)
            deleting = asyncio.create_task(client.delete_queue(queue.name))
            declaring = asyncio.create_task(client.declare_queue(queue))
            await asyncio.gather(deleting, declaring, return_exceptions=True)
            if declaring.exception() is None:
                # It said that the queue stays; the deletion was over by then.
                assert await client.queue(queue.name) is not None

    on(broker, work)


def test_rotating_between_two_users(broker: RabbitMQ) -> None:
    async def work(client: ManagementClient) -> None:
        await bring_about(client, *everything())
        second = topology.user_name("shop", "nightly", topology.other_slot("maestro.shop.nightly.a"))
        await bring_about(client, topology.for_automation(NIGHTLY, second, "secret-three"))
        for user, password in (("maestro.shop.nightly.a", "secret-one"), (second, "secret-three")):
            with channel_of(broker, user, password) as channel:
                channel.basic_get(NIGHTLY.queue)
        await client.delete_user("maestro.shop.nightly.a")
        with (
            pytest.raises(pika.exceptions.AMQPConnectionError),
            channel_of(broker, "maestro.shop.nightly.a", "secret-one"),
        ):
            pass

    on(broker, work)


def test_hundreds_of_claimed_names_fit_into_policies(broker: RabbitMQ) -> None:
    claims = [QueueClaim("shop", f"a{i}", f"team-{i}.queue.{'x' * 60}", arguments={}) for i in range(600)]

    async def work(client: ManagementClient) -> None:
        base = topology.base(claims, (4, 0))
        await bring_about(client, base)
        assert len(base.policies) > 3
        wanted = topology.for_automation(claims[599], "u", "p").queues[0]
        await client.declare_queue(wanted)
        await until(lambda: client.queue(wanted.name), lambda there: there is not None and there.policy is not None)
        assert topology.overridden(await client.snapshot(NOW), Topology(queues=(wanted,))) == []
        few = topology.base(claims[:3], (4, 0))
        await client.apply_all(topology.stale_policies(await client.snapshot(NOW), few))
        assert set((await client.snapshot(NOW)).policies) == {policy.name for policy in few.policies}

    on(broker, work)


def test_definitions_make_users_that_can_log_in(broker: RabbitMQ) -> None:
    made = topology.definitions([topology.User("maestro-admin", "pass-word", ("administrator",))])
    broker.api("POST", "/api/definitions", made)

    async def work() -> None:
        async with ManagementClient(broker.management_url, "maestro-admin", "pass-word") as client:
            assert (await client.overview())["rabbitmq_version"]

    asyncio.run(work())


def test_a_broker_that_is_away_and_one_that_refuses_are_told_apart(broker: RabbitMQ) -> None:
    async def work() -> None:
        async with ManagementClient(broker.management_url, broker.user, "wrong-password") as client:
            with pytest.raises(BrokerRefused) as refused:
                await client.snapshot(NOW)
            assert refused.value.status == 401
            assert "wrong-password" not in f"{refused.value!r}{client!r}"
        async with ManagementClient(f"http://127.0.0.1:{broker.amqp_port}", "u", "wrong-password") as client:
            with pytest.raises(BrokerUnavailable) as away:
                await client.overview()
            assert "wrong-password" not in repr(away.value)
        broker.pause()
        try:
            async with ManagementClient(broker.management_url, broker.user, broker.password, timeout=0.5) as client:
                with pytest.raises(BrokerUnavailable, match="no answer within"):
                    await client.overview()
        finally:
            broker.resume()

    asyncio.run(work())


def get(channel: Channel, queue: str) -> int:
    return get_whole(channel, queue)[0]


def get_whole(channel: Channel, queue: str) -> tuple[int, pika.BasicProperties, bytes]:
    """Take a message as soon as there is one."""
    found: list[tuple[int, pika.BasicProperties, bytes]] = []

    def there() -> bool:
        method, properties, body = channel.basic_get(queue)
        if method is not None:
            found.append((method.delivery_tag, properties, body))
        return bool(found)

    wait_until(there, f"a message in {queue}")
    return found[0]
