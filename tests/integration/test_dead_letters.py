"""Dead letters from a real broker into the store: whatever goes away in between, each is kept once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pika
import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.broker.conftest import management
from tests.integration.test_dispatcher import connect, opened, until

from maestro.broker import topology
from maestro.broker.consumer import Consumer
from maestro.broker.topology import DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, QueueClaim
from maestro.runs.collector import DeadLetterCollector
from maestro.runs.deadletters import DeadLetter, DeadLetters, LetterFilter
from maestro.runs.errors import StaleEpoch, StoreUnavailable
from maestro.runs.letters import Letter
from maestro.runs.model import Leadership, NewRun, Registration, RunState
from maestro.runs.store import RunStore
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import utcnow

NIGHTLY = Registration(uid="u-nightly", namespace="shop", name="nightly", queue="maestro.shop.nightly")
CLAIM = QueueClaim("shop", "nightly", "maestro.shop.nightly")
QUICKLY = Backoff(initial=0.1, maximum=0.5)


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> RabbitMQ:
    """The broker as Maestro prepares it, with one Automation's queue."""
    if not rabbitmq.alive():
        rabbitmq.start()
    rabbitmq.reset()
    asyncio.run(prepare(rabbitmq))
    return rabbitmq


async def prepare(broker: RabbitMQ) -> None:
    async with management(broker) as client:
        state = await client.snapshot(utcnow())
        for wanted in (
            topology.base([CLAIM], state.version),
            topology.for_automation(CLAIM, "maestro.shop.nightly.a", "secret"),
        ):
            for change in topology.changes(state, wanted):
                await client.apply(change)


class Collecting:
    """A collector on a consumer of its own."""

    def __init__(self, broker: RabbitMQ, store: RunStore, leadership: Leadership, letters: DeadLetters) -> None:
        self.leadership: Leadership | None = leadership
        self.consumer = Consumer(lambda: connect(broker), DEAD_LETTER_QUEUE, backoff=QUICKLY)
        self.collector = DeadLetterCollector(letters, self.consumer, lambda: self.leadership, backoff=QUICKLY)
        self.stop = asyncio.Event()
        self.consumer.start()
        self.task = asyncio.create_task(self.collector.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(self.task, return_exceptions=True)
        await asyncio.to_thread(self.consumer.stop)

    async def kill(self) -> None:
        """As a crash: nothing more is written or acknowledged."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await asyncio.to_thread(self.consumer.stop)


@asynccontextmanager
async def collecting(
    broker: RabbitMQ, store: RunStore, leadership: Leadership, letters: DeadLetters | None = None
) -> AsyncIterator[Collecting]:
    made = Collecting(broker, store, leadership, letters or DeadLetters(store))
    try:
        yield made
    finally:
        await made.end()


def channel_of(broker: RabbitMQ) -> Any:
    return pika.BlockingConnection(connect(broker)).channel()


def dead_letter(broker: RabbitMQ, *bodies: bytes, queue: str = "maestro.shop.nightly", **properties: Any) -> None:
    """Publish messages to a queue, and reject each."""
    channel = channel_of(broker)
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))
    left = len(bodies)
    for method, _, _ in channel.consume(queue, inactivity_timeout=30):
        assert method is not None, "the message arrives"
        channel.basic_reject(method.delivery_tag, requeue=False)
        left -= 1
        if not left:
            break
    channel.connection.close()


async def kept(store: RunStore) -> list[DeadLetter]:
    return list((await DeadLetters(store).page(LetterFilter(), limit=1000)).items)


async def in_queue(broker: RabbitMQ) -> int:
    """Messages of the queue of dead letters, those that a consumer has included; -1: not counted yet."""
    found = await asyncio.to_thread(broker.api, "GET", f"/api/queues/%2F/{DEAD_LETTER_QUEUE}", missing_ok=True)
    return int((found or {}).get("messages", -1))


def test_whatever_is_in_a_letter_is_kept_as_it_is(broker: RabbitMQ, tmp_path: Path) -> None:
    bodies = {
        "json": json.dumps({"url": "s3://a"}).encode(),
        "text": "Grüße".encode(),
        "binary": bytes(range(256)) * 16,
        "large": b"\xff\x00" * 2_500_000,
        "empty": b"",
    }

    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.register(NIGHTLY)
            leadership = await store.win_leadership()
            async with collecting(broker, store, leadership):
                for name, body in bodies.items():
                    await asyncio.to_thread(
                        dead_letter, broker, body, message_id=name, content_type="x/y", headers={"of": name, "n": 1}
                    )
                await until(lambda: async_is(kept(store), lambda found: len(found) == len(bodies)), "all are kept")
                await until(lambda: async_is(in_queue(broker), lambda n: n == 0), "all are acknowledged")
            for letter in await kept(store):
                whole = await DeadLetters(store).get(letter.seq)
                assert whole is not None
                assert whole.body == bodies[str(letter.message_id)]
                assert (letter.queue, letter.reason, letter.automation_id) == (NIGHTLY.queue, "rejected", NIGHTLY.id)
                assert (letter.headers["of"], letter.content_type) == (letter.message_id, "x/y")
                assert letter.died_at is not None

    asyncio.run(main())


async def async_is(value: Awaitable[Any], condition: Callable[[Any], bool]) -> bool:
    return condition(await value)


def test_a_message_that_kills_its_workers_costs_its_run_an_attempt(broker: RabbitMQ, tmp_path: Path) -> None:
    """The real way through the delivery limit, with the headers that the dispatcher's message has."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            leadership = await store.win_leadership()
            (run,) = await store.accept([NewRun(key)])
            (claimed,) = await store.claim(leadership.epoch, key, 10)
            headers = {
                "maestro-pub": claimed.pub,
                "maestro-epoch": leadership.epoch,
                "maestro-store": leadership.store_id,
            }
            body = json.dumps({"job_id": str(run.id)}).encode()

            def kill_every_worker() -> None:
                channel = channel_of(broker)
                properties = pika.BasicProperties(delivery_mode=2, headers=headers, message_id=str(run.id))
                channel.basic_publish("", str(NIGHTLY.queue), body, properties)
                deliveries = 0
                for method, _, _ in channel.consume(str(NIGHTLY.queue), inactivity_timeout=2):
                    if method is None:
                        break
                    deliveries += 1
                    channel.basic_nack(method.delivery_tag, requeue=True)
                assert deliveries == topology.DELIVERY_LIMIT + 1
                channel.connection.close()

            async with collecting(broker, store, leadership):
                await asyncio.to_thread(kill_every_worker)
                await until(lambda: state_is(store, run.id, RunState.RETRYING, RunState.PENDING), "it is tried again")
            (letter,) = await kept(store)
            assert (letter.reason, letter.run_id) == ("delivery_limit", run.id)
            view = await store.get(run.id)
            assert view is not None
            assert [attempt.reason for attempt in view.attempts] == ["DeadLettered"]

    asyncio.run(main())


async def state_is(store: RunStore, run: UUID, *states: RunState) -> bool:
    view = await store.get(run)
    return view is not None and view.state in states


class Breaking(DeadLetters):
    """Letters of a store that works, or doesn't; `after`: it breaks once it has committed, before anybody hears."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self.away = False
        self.dies_after_commit = False
        self.tries = 0

    async def record(self, letters: Any, *, epoch: int | None, store_id: str) -> int:
        self.tries += 1
        if self.away:
            raise StoreUnavailable("away")
        recorded = await super().record(letters, epoch=epoch, store_id=store_id)
        if self.dies_after_commit:
            await asyncio.Event().wait()
        return recorded


def test_a_crash_between_commit_and_acknowledgement_makes_no_second_letter(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.register(NIGHTLY)
            letters = Breaking(store)
            letters.dies_after_commit = True
            first = Collecting(broker, store, await store.win_leadership(), letters)
            await asyncio.to_thread(dead_letter, broker, b"one", b"one", b"two")
            await until(lambda: async_is(kept(store), lambda found: len(found) >= 1), "some are kept")
            await first.kill()
            before = len(await kept(store))
            async with collecting(broker, store, await store.win_leadership()):
                await until(lambda: async_is(in_queue(broker), lambda n: n == 0), "all are acknowledged")
            after = await kept(store)
            assert 1 <= before <= len(after)
            assert {letter.size for letter in after} == {3}
            assert len(after) in (2, 3), "of twins without an id one may be taken for the other, and only then"

    asyncio.run(main())


def test_a_store_that_is_away_is_waited_out(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.register(NIGHTLY)
            letters = Breaking(store)
            letters.away = True
            async with collecting(broker, store, await store.win_leadership(), letters):
                await asyncio.to_thread(dead_letter, broker, *(b"%d" % n for n in range(20)))
                await until(lambda: letters.tries >= 3, "it is tried again")
                assert await kept(store) == []
                letters.away = False
                await until(lambda: async_is(kept(store), lambda found: len(found) == 20), "all are kept")
                await until(lambda: async_is(in_queue(broker), lambda n: n == 0), "all are acknowledged")

    asyncio.run(main())


def test_a_broker_that_goes_and_comes_back_emptied(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.register(NIGHTLY)
            async with collecting(broker, store, await store.win_leadership()) as made:
                await asyncio.to_thread(dead_letter, broker, b"before")
                await until(lambda: async_is(kept(store), lambda found: len(found) == 1), "the first is kept")
                # in order: a quorum queue that was declared a moment before a kill may come back dead
                await asyncio.to_thread(broker.stop)
                await until(lambda: not made.consumer.state.usable, "the loss is noticed")
                await asyncio.to_thread(broker.start)
                await until(lambda: made.consumer.state.usable, "it consumes again")
                await asyncio.to_thread(broker.api, "DELETE", f"/api/queues/%2F/{DEAD_LETTER_QUEUE}")
                await until(lambda: not made.consumer.state.usable, "the queue's loss is noticed")
                await prepare(broker)
                await until(lambda: made.consumer.state.usable, "it consumes the new queue")
                await asyncio.to_thread(dead_letter, broker, b"after")
                await until(lambda: async_is(kept(store), lambda found: len(found) == 2), "the second is kept")

    asyncio.run(main())


def test_a_leader_of_before_records_nothing_and_ends(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.register(NIGHTLY)
            old = await store.win_leadership()
            new = await store.win_leadership()
            async with collecting(broker, store, old) as made:
                await asyncio.to_thread(dead_letter, broker, b"one")
                with pytest.raises(StaleEpoch):
                    await made.task
                assert await kept(store) == []
            async with collecting(broker, store, new):
                await until(lambda: async_is(kept(store), lambda found: len(found) == 1), "the leader keeps it")

    asyncio.run(main())


class Unrecordable(DeadLetters):
    """A store that chokes on one letter, as on a defect."""

    async def record(self, letters: Any, *, epoch: int | None, store_id: str) -> int:
        if any(isinstance(letter, Letter) and letter.body == b"poison" for letter in letters):
            raise ValueError("a defect")
        return await super().record(letters, epoch=epoch, store_id=store_id)


def test_a_letter_that_cannot_be_recorded_stays_and_costs_the_others_nothing(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.register(NIGHTLY)
            async with collecting(broker, store, await store.win_leadership(), Unrecordable(store)):
                await asyncio.to_thread(dead_letter, broker, b"a", b"poison", b"b")
                await until(lambda: async_is(kept(store), lambda found: len(found) == 2), "the others are kept")
            await until(lambda: async_is(in_queue(broker), lambda n: n == 1), "it stays in the queue")

    asyncio.run(main())


def test_what_is_sent_straight_to_the_dead_letters(broker: RabbitMQ, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            async with collecting(broker, store, await store.win_leadership()):

                def publish() -> None:
                    channel = channel_of(broker)
                    channel.basic_publish(DEAD_LETTER_EXCHANGE, "any", b"hello", pika.BasicProperties(delivery_mode=2))
                    channel.connection.close()

                await asyncio.to_thread(publish)
                await until(lambda: async_is(kept(store), lambda found: len(found) == 1), "it is kept")
            (letter,) = await kept(store)
            assert (letter.queue, letter.reason, letter.automation) == ("", "published", None)

    asyncio.run(main())
