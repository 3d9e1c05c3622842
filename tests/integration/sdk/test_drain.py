"""What a worker has taken and not begun goes to others as soon as it is told to stop, not when it has ended."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Iterator

import pika
import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.workers.processes import declare

from maestro_worker.broker import Consumer
from maestro_worker.delivery import Delivery

QUEUE, MESSAGES = "maestro.team.drain", 6


@pytest.fixture
def consumers(rabbitmq: RabbitMQ) -> Iterator[tuple[Consumer, Consumer, queue.SimpleQueue[object]]]:
    """Two consumers of a queue with a few messages, not started; what the second receives."""
    rabbitmq.reset()
    declare(rabbitmq, QUEUE)
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.amqp_url)) as connection:
        channel = connection.channel()
        for number in range(MESSAGES):
            body = f'{{"job_id": "{uuid.UUID(int=number)}", "automation_id": "team.drain", "parameters": {{}}}}'
            channel.basic_publish("", QUEUE, body.encode())
    taken: queue.SimpleQueue[object] = queue.SimpleQueue()
    heard: queue.SimpleQueue[object] = queue.SimpleQueue()
    leaving = Consumer(lambda: rabbitmq.amqp_url, QUEUE, MESSAGES, taken.put)
    staying = Consumer(lambda: rabbitmq.amqp_url, QUEUE, MESSAGES, heard.put)
    leaving.start()
    unstarted = [event for event in (taken.get(timeout=30) for _ in range(MESSAGES)) if isinstance(event, Delivery)]
    leaving.stop_taking(unstarted)
    yield leaving, staying, heard
    leaving.close()
    staying.close()


def others_get_them(staying: Consumer, heard: queue.SimpleQueue[object], patience: float) -> bool:
    staying.start()
    try:
        return all(isinstance(heard.get(timeout=patience), Delivery) for _ in range(MESSAGES))
    except queue.Empty:
        return False


def test_others_get_what_was_not_begun(
    consumers: tuple[Consumer, Consumer, queue.SimpleQueue[object]],
) -> None:
    _leaving, staying, heard = consumers
    assert others_get_them(staying, heard, 30)


class TestByCancelAlone:
    """A test of the test: with basic.cancel alone the messages stay with the worker that leaves."""

    @pytest.fixture(autouse=True)
    def _give_nothing_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Consumer, "_give_back", lambda self, tags: None)

    def test_they_stay(self, consumers: tuple[Consumer, Consumer, queue.SimpleQueue[object]]) -> None:
        leaving, staying, heard = consumers
        assert not others_get_them(staying, heard, 2), "the test above would have noticed"
        leaving.close()
        assert isinstance(heard.get(timeout=30), Delivery), "only its end gives them back"
