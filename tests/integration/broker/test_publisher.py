"""The publisher on a real RabbitMQ: every message settled once, whatever the broker does."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.broker.conftest import Channel, Message, Settled, channel_of, parameters_of, wait_until

from maestro.broker.connection import Status
from maestro.broker.publisher import Publisher

QUORUM = {"x-queue-type": "quorum"}


def declare(channel: Channel, queue: str, **arguments: object) -> None:
    channel.queue_declare(queue, durable=True, arguments={**QUORUM, **arguments})


def batches(queue: str, first: int, count: int, size: int = 100) -> list[list[Message]]:
    return [
        [Message(queue, pub) for pub in range(start, min(start + size, first + count))]
        for start in range(first, first + count, size)
    ]


class Ahead:
    """A monotonic clock that can be put ahead."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def test_every_message_is_confirmed_and_arrives_in_order(
    channel: Channel, publisher: Publisher, settled: Settled
) -> None:
    declare(channel, "maestro.t.order")
    for batch in batches("maestro.t.order", 1, 2000):
        publisher.publish(batch)
    wait_until(lambda: settled.count == 2000, "2,000 answers")
    assert sorted(settled.confirmed) == list(range(1, 2001))
    assert publisher.outstanding == 0
    method, properties, body = channel.basic_get("maestro.t.order")
    assert method is not None
    assert properties.headers == {"maestro-pub": 1, "maestro-epoch": 1, "maestro-store": "test"}
    assert (properties.delivery_mode, properties.content_type, properties.message_id) == (
        2,
        "application/json",
        "run-1",
    )
    assert body == b"{}"
    seen = [channel.basic_get("maestro.t.order")[1].headers["maestro-pub"] for _ in range(1999)]
    assert seen == list(range(2, 2001))


def test_publishing_from_many_threads(channel: Channel, publisher: Publisher, settled: Settled) -> None:
    declare(channel, "maestro.t.threads")

    def publish(first: int) -> None:
        for batch in batches("maestro.t.threads", first, 500, 7):
            publisher.publish(batch)

    threads = [threading.Thread(target=publish, args=(first,)) for first in (1, 1001, 2001, 3001)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: settled.count == 2000, "2,000 answers")
    assert len(set(settled.confirmed)) == 2000


def test_a_message_without_a_queue_comes_back(channel: Channel, publisher: Publisher, settled: Settled) -> None:
    declare(channel, "maestro.t.there")
    mixed = [Message("maestro.t.there" if pub % 2 else "maestro.t.nowhere", pub) for pub in range(1, 501)]
    publisher.publish(mixed)
    wait_until(lambda: settled.count == 500, "500 answers")
    assert sorted(settled.returned) == list(range(2, 501, 2))
    assert sorted(settled.confirmed) == list(range(1, 501, 2))


def test_a_full_queue_refuses(channel: Channel, publisher: Publisher, settled: Settled) -> None:
    declare(channel, "maestro.t.full", **{"x-max-length": 5, "x-overflow": "reject-publish"})
    # The limit is soft: refusals begin once the queue has told the publisher's channel that it is full.
    pub = 0
    while not settled.lost:
        pub += 1
        publisher.publish([Message("maestro.t.full", pub)])
        wait_until(lambda sent=pub: settled.count == sent, "an answer")
        assert pub < 1000, "the queue refuses beyond its limit"
    assert len(settled.confirmed) >= 5
    assert settled.returned == []


def test_a_large_body_takes_several_frames(channel: Channel, publisher: Publisher, settled: Settled) -> None:
    declare(channel, "maestro.t.large")
    body = bytes(range(256)) * 4000
    publisher.publish([Message("maestro.t.large", 1, body), Message("maestro.t.large", 2, b"")])
    wait_until(lambda: settled.count == 2, "two answers")
    assert channel.basic_get("maestro.t.large", auto_ack=True)[2] == body
    assert channel.basic_get("maestro.t.large", auto_ack=True)[2] == b""


def test_a_killed_broker_loses_what_is_unanswered_and_the_publisher_comes_back(
    broker: RabbitMQ, publisher: Publisher, settled: Settled
) -> None:
    with channel_of(broker) as channel:
        declare(channel, "maestro.t.kill")
    # A quorum queue that is killed within some two seconds of its declaration may come back as a zombie: the orderly
    # restart writes it down for good.
    broker.restart()
    wait_until(lambda: publisher.state.status is Status.OPEN, "the publisher reconnects", 60)
    for batch in batches("maestro.t.kill", 1, 3000):
        publisher.publish(batch)
    wait_until(lambda: settled.count > 0, "a first answer")
    broker.kill()
    wait_until(lambda: settled.count == 3000, "every message is settled")
    wait_until(lambda: publisher.state.status is Status.LOST, "the loss is noticed")
    assert publisher.room == 0

    publisher.publish([Message("maestro.t.kill", 5000)])
    wait_until(lambda: 5000 in settled.lost, "without a connection a message is lost at once")

    broker.start()
    wait_until(lambda: publisher.state.status is Status.OPEN, "the publisher reconnects", 60)
    publisher.publish([Message("maestro.t.kill", 6000)])
    wait_until(lambda: 6000 in settled.confirmed, "the new connection publishes")
    # Confirmed means kept, across the kill.
    with channel_of(broker) as channel:
        kept = channel.queue_declare("maestro.t.kill", passive=True).method.message_count
    assert kept >= len(settled.confirmed)


def test_a_restart_keeps_quorum_queues_and_their_messages(
    broker: RabbitMQ, channel: Channel, publisher: Publisher, settled: Settled
) -> None:
    declare(channel, "maestro.t.restart")
    publisher.publish([Message("maestro.t.restart", pub) for pub in range(1, 101)])
    wait_until(lambda: len(settled.confirmed) == 100, "100 confirms")
    broker.restart()
    wait_until(lambda: publisher.state.status is Status.OPEN, "the publisher reconnects", 60)
    publisher.publish([Message("maestro.t.restart", 101)])
    wait_until(lambda: len(settled.confirmed) == 101, "the 101st confirm")
    with channel_of(broker) as again:
        kept = [again.basic_get("maestro.t.restart")[1].headers["maestro-pub"] for _ in range(101)]
    assert kept == list(range(1, 102))


def test_a_memory_alarm_blocks_and_clears(broker: RabbitMQ, channel: Channel, settled: Settled) -> None:
    declare(channel, "maestro.t.alarm")
    clock = Ahead()
    publisher = Publisher(lambda: parameters_of(broker), monotonic=clock)
    settled.attach(publisher)
    publisher.start()
    try:
        wait_until(lambda: publisher.state.status is Status.OPEN, "the publisher connects")
        broker.rabbitmqctl("set_vm_memory_high_watermark", "0")
        # The broker says so to those who publish.
        publisher.publish([Message("maestro.t.alarm", 1)])
        wait_until(lambda: publisher.state.status is Status.BLOCKED, "connection.blocked")
        assert publisher.room == 0
        assert "memory" in publisher.state.reason
        publisher.publish([Message("maestro.t.alarm", 2)])
        # Much more than the time for an answer passes: being blocked isn't silence.
        clock.ahead = 1000.0
        broker.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "2GiB")
        wait_until(lambda: settled.count == 2, "both are answered")
        assert sorted(settled.confirmed) == [1, 2]
        assert publisher.state.status is Status.OPEN
    finally:
        broker.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "2GiB")
        publisher.stop()


def test_a_frozen_broker_answers_nothing_and_its_messages_are_given_up(
    broker: RabbitMQ, channel: Channel, settled: Settled
) -> None:
    declare(channel, "maestro.t.frozen")
    publisher = Publisher(lambda: parameters_of(broker), answer_seconds=1.0)
    settled.attach(publisher)
    publisher.start()
    try:
        wait_until(lambda: publisher.state.status is Status.OPEN, "the publisher connects")
        broker.pause()
        try:
            publisher.publish([Message("maestro.t.frozen", pub) for pub in range(1, 11)])
            wait_until(lambda: len(settled.lost) == 10, "ten messages are given up")
        finally:
            broker.resume()
        # Late confirms of what was given up are nobody's news.
        publisher_open = lambda: publisher.state.status is Status.OPEN  # noqa: E731
        wait_until(publisher_open, "the connection is there, old or new", 60)
        publisher.publish([Message("maestro.t.frozen", 11)])
        wait_until(lambda: 11 in settled.confirmed or 11 in settled.lost, "the next is answered", 60)
        assert settled.count == 11
    finally:
        publisher.stop()


def test_stopping_settles_everything_and_tells_it_once(
    channel: Channel, publisher: Publisher, settled: Settled
) -> None:
    declare(channel, "maestro.t.stop")
    for batch in batches("maestro.t.stop", 1, 1000):
        publisher.publish(batch)
    publisher.stop()
    publisher.publish([Message("maestro.t.stop", 1001)])
    every = settled.confirmed + settled.returned + settled.lost
    assert sorted(every) == list(range(1, 1002))
    assert publisher.state.status is Status.STOPPED


def test_a_wrong_password_is_said_without_it(
    broker: RabbitMQ, settled: Settled, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter2-very-secret"
    publisher = Publisher(lambda: parameters_of(broker, password=secret))
    settled.attach(publisher)
    publisher.start()
    try:
        wait_until(lambda: publisher.state.status is Status.LOST, "the refusal is noticed")
        assert "ACCESS_REFUSED" in publisher.state.reason
        assert secret not in publisher.state.reason + repr(publisher) + repr(publisher.state) + caplog.text
    finally:
        publisher.stop()
