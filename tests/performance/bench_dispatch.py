"""Accept and publish through the run store, against a raw asynchronous publisher on the same broker.

Both sides publish the same number of messages of the same size to a quorum queue: persistent, mandatory, with confirms;
the time ends with the last confirm. Maestro's side begins with parameters: it validates them, accepts the Runs in lists
of 500 (as execute-many does), claims and publishes them. The raw side has its messages ready and only publishes.

The two alternate, and what counts is the ratio within a pair: absolute rates differ from machine to machine.

    python -m tests.performance.bench_dispatch [--messages 40000] [--repeats 7]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import uvloop
from tests.cluster.rabbitmq import RabbitMQ

from maestro.broker.connection import Status, parameters
from maestro.broker.publisher import Publisher
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.messages import Message, MessageMaker, headers_of
from maestro.runs.model import Claimed, Leadership, NewRun, Registration, RunPolicy, new_run_id
from maestro.runs.parameters import ParameterValidator
from maestro.runs.store import RunStore

QUEUE = "maestro.bench.dispatch"
LIST = 500
CALLERS = 4
SCHEMA = {
    "type": "object",
    "properties": {"url": {"type": "string", "maxLength": 2000}, "width": {"type": "integer", "minimum": 1}},
    "required": ["url"],
    "additionalProperties": False,
}
GOAL = 0.8


@dataclass(frozen=True)
class Measured:
    """Messages a second, and µs of CPU that this process (not the broker) spent on each."""

    rate: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.rate:7.0f}/s ({self.cpu:4.1f} µs CPU)"


class Stopwatch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self, count: int) -> Measured:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Measured(count / wall, cpu / count * 1e6)


def connect(broker: RabbitMQ) -> pika.ConnectionParameters:
    return parameters("127.0.0.1", broker.amqp_port, "/", broker.user, broker.password)


def empty_queue(broker: RabbitMQ) -> None:
    broker.api("DELETE", f"/api/queues/%2F/{QUEUE}", missing_ok=True)
    broker.api("PUT", f"/api/queues/%2F/{QUEUE}", {"durable": True, "arguments": {"x-queue-type": "quorum"}})


def registration(messages: int) -> Registration:
    policy = RunPolicy(window=messages, max_pending=10 * messages)
    return Registration(uid="bench", namespace="bench", name="dispatch", queue=QUEUE, policy=policy)


# --- the raw side ----------------------------------------------------------------------------------------------------


class RawPublisher:
    """pika's SelectConnection used as its documentation does, with as many messages on the way as `ahead` allows."""

    def __init__(self, parameters_: pika.ConnectionParameters, messages: Sequence[Message], ahead: int) -> None:
        self._messages, self._ahead = messages, ahead
        self._next = 0
        self._confirmed = 0
        self._unconfirmed: set[int] = set()
        self._lowest = 1
        self.measured = Measured(0.0, 0.0)
        self._connection = pika.SelectConnection(parameters_, on_open_callback=self._on_open)

    def run(self) -> Measured:
        self._connection.ioloop.start()
        return self.measured

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_answer, lambda _frame: self._begin())

    def _on_return(self, *_: Any) -> None:
        raise AssertionError("a message came back")

    def _begin(self) -> None:
        self._watch = Stopwatch()
        self._fill()

    def _fill(self) -> None:
        while self._next < len(self._messages) and self._next - self._confirmed < self._ahead:
            message = self._messages[self._next]
            self._next += 1
            self._unconfirmed.add(self._next)
            properties = pika.BasicProperties(
                content_type="application/json",
                headers={"maestro-pub": message.pub, **message.headers},
                delivery_mode=2,
                message_id=message.message_id,
            )
            self._channel.basic_publish("", message.queue, message.body, properties, mandatory=True)

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        assert isinstance(method, pika.spec.Basic.Ack), "a message was refused"
        if method.multiple:
            for tag in range(self._lowest, method.delivery_tag + 1):
                if tag in self._unconfirmed:
                    self._unconfirmed.discard(tag)
                    self._confirmed += 1
            self._lowest = method.delivery_tag + 1
        else:
            self._unconfirmed.discard(method.delivery_tag)
            self._confirmed += 1
        if self._confirmed == len(self._messages):
            self.measured = self._watch.stop(self._confirmed)
            self._connection.add_on_close_callback(lambda *_: self._connection.ioloop.stop())
            self._connection.close()
        else:
            self._fill()


def raw_side(broker: RabbitMQ, count: int, ahead: int) -> Measured:
    """From the first message to the last confirm."""
    make = MessageMaker(registration(count), headers_of(Leadership(1, "0" * 36, 1, 0)))
    messages = [make(Claimed(pub, new_run_id(), 1, pub, 1, None)) for pub in range(1, count + 1)]
    empty_queue(broker)
    gc.collect()
    return RawPublisher(connect(broker), messages, ahead).run()


# --- Maestro's side --------------------------------------------------------------------------------------------------


def our_side(broker: RabbitMQ, count: int, batch: int) -> Measured:
    """From the first parameter checked to the last confirm."""
    empty_queue(broker)
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        return uvloop.run(_accept_and_publish(broker, Path(folder), count, batch))


async def _accept_and_publish(broker: RabbitMQ, folder: Path, count: int, batch: int) -> Measured:
    store = RunStore.open(f"sqlite:///{folder}/runs.db")
    key = await store.register(registration(count))
    publisher = Publisher(connect(broker))
    publisher.start()
    done = asyncio.Event()
    confirmed = 0

    def observe(result: str, number: int) -> None:
        nonlocal confirmed
        assert result == "Confirmed", f"{number} messages: {result}"
        confirmed += number
        if confirmed == count:
            done.set()

    dispatcher = Dispatcher(store, publisher, observe=observe, batch=batch)
    stop = asyncio.Event()
    running = asyncio.create_task(dispatcher.run(stop))
    while dispatcher.leadership is None or publisher.state.status is not Status.OPEN:
        await asyncio.sleep(0.01)
    validator = ParameterValidator(SCHEMA)
    starts = iter(range(0, count, LIST))

    async def caller() -> None:
        for start in starts:
            runs = [
                NewRun(key, validator.merge_and_check({"url": f"https://films.example.org/{n}.mkv", "width": 320}))
                for n in range(start, min(start + LIST, count))
            ]
            await store.accept(runs)

    watch = Stopwatch()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await done.wait()
    measured = watch.stop(count)
    stop.set()
    await running
    await asyncio.to_thread(publisher.stop)
    await store.close()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1000, help="Runs of one claim")
    parser.add_argument("--ahead", type=int, default=1000, help="unconfirmed messages of the raw side")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()  # as Maestro does once it is loaded
    with RabbitMQ() as broker:
        raw_side(broker, options.messages // 4, options.ahead)
        our_side(broker, options.messages // 4, options.batch)
        pairs: list[tuple[Measured, Measured]] = []
        for repeat in range(options.repeats):
            # Whoever goes second finds a warmer broker: they take turns at it.
            if repeat % 2:
                own = our_side(broker, options.messages, options.batch)
                raw = raw_side(broker, options.messages, options.ahead)
            else:
                raw = raw_side(broker, options.messages, options.ahead)
                own = our_side(broker, options.messages, options.batch)
            pairs.append((raw, own))
            print(f"raw {raw}   accept and publish {own}   ratio {own.rate / raw.rate:.2f}", flush=True)
    report(pairs, options.messages)


def report(pairs: Sequence[tuple[Measured, Measured]], messages: int) -> None:
    ratios = [own.rate / raw.rate for raw, own in pairs]
    raw, own = ([pair[side].rate for pair in pairs] for side in (0, 1))
    print(
        f"accept and publish / raw publisher: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f}, {len(pairs)} pairs of {messages}); goal {GOAL}\n"
        f"medians: raw {statistics.median(raw):.0f}/s, accept and publish {statistics.median(own):.0f}/s"
    )


if __name__ == "__main__":
    main()
