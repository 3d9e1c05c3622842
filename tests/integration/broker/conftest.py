"""The broker's tests: a clean RabbitMQ for each, clients, and a listener that notes what became of messages."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel
from tests.cluster.rabbitmq import RabbitMQ

from maestro.broker.connection import ConnectionState, Status, parameters
from maestro.broker.management import ManagementClient
from maestro.broker.publisher import Publisher

PATIENCE = 30.0


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition; fail with its name."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {patience:g} s")
        threading.Event().wait(0.02)


@dataclass
class Message:
    queue: str
    pub: int
    body: bytes = b"{}"
    headers: dict[str, int | str] = field(default_factory=lambda: {"maestro-epoch": 1, "maestro-store": "test"})

    @property
    def message_id(self) -> str:
        return f"run-{self.pub}"


class Settled:
    """Notes every answer; each publication must come exactly once."""

    def __init__(self) -> None:
        self.confirmed: list[int] = []
        self.returned: list[int] = []
        self.lost: list[int] = []
        self.states: list[ConnectionState] = []

    @property
    def count(self) -> int:
        return len(self.confirmed) + len(self.returned) + len(self.lost)

    def attach(self, publisher: Publisher) -> None:
        publisher.listen(
            on_confirm=self.confirmed.extend,
            on_return=self.returned.extend,
            on_lost=self.lost.extend,
            on_state=self.states.append,
        )


def parameters_of(
    rabbitmq: RabbitMQ, user: str | None = None, password: str | None = None
) -> pika.ConnectionParameters:
    return parameters(
        "127.0.0.1", rabbitmq.amqp_port, "/", user or rabbitmq.user, password or rabbitmq.password, heartbeat=5
    )


@asynccontextmanager
async def management(rabbitmq: RabbitMQ) -> AsyncIterator[ManagementClient]:
    async with ManagementClient(rabbitmq.management_url, rabbitmq.user, rabbitmq.password) as client:
        yield client


@contextmanager
def channel_of(rabbitmq: RabbitMQ, user: str | None = None, password: str | None = None) -> Iterator[Channel]:
    """A channel on a connection of its own; the broker may go away meanwhile."""
    connection = pika.BlockingConnection(parameters_of(rabbitmq, user, password))
    try:
        yield connection.channel()
    finally:
        with suppress(pika.exceptions.AMQPError):
            connection.close()


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> RabbitMQ:
    """The session's RabbitMQ, running and emptied."""
    if not rabbitmq.alive():
        rabbitmq.start()
    rabbitmq.reset()
    return rabbitmq


@pytest.fixture
def channel(broker: RabbitMQ) -> Iterator[Channel]:
    with channel_of(broker) as made:
        yield made


@pytest.fixture
def settled() -> Settled:
    return Settled()


@pytest.fixture
def publisher(broker: RabbitMQ, settled: Settled) -> Iterator[Publisher]:
    made = Publisher(lambda: parameters_of(broker))
    settled.attach(made)
    made.start()
    wait_until(lambda: made.state.status is Status.OPEN, "the publisher connects")
    yield made
    made.stop()
