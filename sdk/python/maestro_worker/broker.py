"""The AMQP connection: a thread of its own that consumes one queue and acknowledges what is settled."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pika
from pika.exceptions import AMQPError

from maestro_worker import delivery
from maestro_worker.backoff import Backoff
from maestro_worker.delivery import Delivery, NotARun
from maestro_worker.errors import UsageError

logger = logging.getLogger(__name__)

MOST_CONSUMERS = 16
ADJUST_PAUSE = 0.05
"""Seconds in which messages that are settled gather before the consumers are adjusted."""
HEARTBEAT = 20
"""Seconds; this thread answers whatever the functions do."""
_CONNECT_ERRORS = (AMQPError, OSError, UsageError)


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """What came over `connection` can't be acknowledged any more: the broker delivers it again."""

    connection: int


@dataclass(frozen=True, slots=True)
class ConsumerFailed:
    """A defect ended the consumer's thread: nothing will come any more."""

    error: BaseException


class Consumer:
    """Consumes a queue; connects again with growing pauses for as long as it isn't closed.

    Parameters
    ----------
    url
        Gives the broker's URL; asked before each connection.
    limit
        How many messages may be here without being acknowledged; see `set_limit`.
    receive
        Called in this thread with each Delivery, ConnectionLost and ConsumerFailed; must not block.
    """

    def __init__(
        self,
        url: Callable[[], str],
        queue: str,
        limit: int,
        receive: Callable[[Delivery | ConnectionLost | ConsumerFailed], object],
    ) -> None:
        self._url = url
        self._queue = queue
        self._limit = limit
        self._receive = receive
        self._thread = threading.Thread(target=self._run, name="maestro-amqp", daemon=True)
        self._lock = threading.Lock()  # over _connection as other threads see it
        self._connection: Any = None
        self._number = 0
        self._channel: Any = None
        self._consumers: dict[str, int] = {}  # AMQP consumers by their tags: how many messages each may bring
        self._unsettled: dict[int, str] = {}  # messages by their tags, in order: who brought them
        self._adjusting = self._announced = False
        self._taking = True
        self._closing = threading.Event()
        self._backoff = Backoff(first=0.5, longest=20.0)

    def start(self) -> None:
        """Begin to consume."""
        self._thread.start()

    def settle(self, connection: int, *, done: Sequence[int] = (), reject: Sequence[int] = ()) -> None:
        """Acknowledge messages (`done`) and send others to the dead letters (`reject`), all of one connection.

        What a connection that is gone had brought can't be settled: the broker delivers it again.
        """
        self._call(functools.partial(self._settle, connection, done, reject))

    def set_limit(self, limit: int, unstarted: Sequence[Delivery] = ()) -> None:
        """Change how many messages may be here; those of `unstarted` go back to the queue.

        AMQP fixes that number for a consumer's life, and quorum queues know none for a channel. So a lower limit ends
        the consumers, and new ones begin, with what is left of the limit beside the messages that are still here.
        """
        self._call(functools.partial(self._set_limit, limit, unstarted), otherwise=lambda: self._keep_limit(limit))

    def stop_taking(self, unstarted: Sequence[Delivery]) -> None:
        """Take no more messages; those of `unstarted`, and whatever still arrives, go back to the queue."""
        self._taking = False
        self._call(functools.partial(self._set_limit, 0, unstarted))

    def close(self, patience: float = 5.0) -> None:
        """Send what was settled, then disconnect; waits for the thread up to `patience` seconds."""
        self._closing.set()
        self._call(self._disconnect)
        self._thread.join(patience)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._consume_until_closed()
        except BaseException as error:
            self._receive(ConsumerFailed(error))

    def _consume_until_closed(self) -> None:
        # Once it takes nothing new, a lost connection isn't worth another: what it brought can't be settled on it.
        while self._taking and not self._closing.is_set():
            self._number += 1
            try:
                self._connect_and_consume()
            except _CONNECT_ERRORS as error:
                logger.warning("no connection to the broker: %s", _reason(error))
            self._receive(ConnectionLost(self._number))
            if not self._closing.is_set():
                self._closing.wait(self._backoff.pause())

    def _connect_and_consume(self) -> None:
        connection = pika.SelectConnection(
            _parameters(self._url()),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_open_error,
            on_close_callback=self._on_closed,
        )
        with self._lock:
            self._connection = connection
        try:
            if self._closing.is_set():
                self._disconnect()
            connection.ioloop.start()
        finally:
            with self._lock:
                self._connection = None
            self._channel = None
            self._consumers.clear()
            self._unsettled.clear()
            self._adjusting = self._announced = False
            connection.ioloop.close()

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_open_error(self, connection: Any, error: Exception) -> None:
        logger.warning("no connection to the broker: %s", _reason(error))
        connection.ioloop.stop()

    def _on_closed(self, connection: Any, error: Exception) -> None:
        if not self._closing.is_set():
            logger.warning("the connection to the broker was lost: %s", _reason(error))
        connection.ioloop.stop()

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_canceled)
        self._adjust()

    def _adjust(self) -> None:
        """Have consumers whose numbers, and what ended ones have brought, add up to the limit."""
        self._adjusting = False
        if self._channel is None or not self._channel.is_open:
            return
        room = self._room()
        if room < 0 or len(self._consumers) >= MOST_CONSUMERS:
            for tag in self._consumers:
                self._channel.basic_cancel(tag)
            self._consumers.clear()
            room = self._room()
        if room > 0 and self._taking:
            self._channel.basic_qos(prefetch_count=room)
            tag = self._channel.basic_consume(self._queue, self._on_message, callback=self._on_consuming)
            self._consumers[tag] = room

    def _room(self) -> int:
        """How many more messages the consumers might bring without reaching the limit; negative: too many."""
        orphans = sum(1 for tag in self._unsettled.values() if tag not in self._consumers)
        return self._limit - orphans - sum(self._consumers.values())

    def _adjust_soon(self) -> None:
        if not self._adjusting and self._connection is not None:
            self._adjusting = True
            self._connection.ioloop.call_later(ADJUST_PAUSE, self._adjust)

    def _on_consuming(self, _frame: Any) -> None:
        self._backoff.reset()
        if not self._announced:
            self._announced = True
            logger.info("working on queue %s", self._queue)

    def _on_channel_closed(self, channel: Any, error: Exception) -> None:
        if channel.connection.is_open:
            logger.warning("the broker closed the channel: %s", _reason(error))
            channel.connection.close()

    def _on_canceled(self, _frame: Any) -> None:
        logger.warning("the broker ended the consumer: queue %s was deleted or moved", self._queue)
        self._channel.connection.close()

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        tag = method.delivery_tag
        self._unsettled[tag] = method.consumer_tag
        if not self._taking:
            self._give_back([tag])
            return
        try:
            self._receive(delivery.read(self._number, tag, method.redelivered, properties.headers, body))
        except NotARun as error:
            logger.warning("a message of queue %s goes to the dead letters: %s", self._queue, error)
            self._settle(self._number, (), (tag,))

    def _settle(self, connection: int, done: Sequence[int], reject: Sequence[int]) -> None:
        if not self._usable(connection):
            return
        unsettled = self._unsettled
        finished = {tag for tag in done if tag in unsettled}
        # One frame acknowledges everything up to the first message that is still in hand.
        up_to = 0
        for tag in unsettled:
            if tag not in finished:
                break
            up_to = tag
        if up_to:
            self._channel.basic_ack(up_to, multiple=True)
        for tag in finished:
            del unsettled[tag]
            if tag > up_to:
                self._channel.basic_ack(tag)
        for tag in reject:
            if unsettled.pop(tag, None) is not None:
                self._channel.basic_reject(tag, requeue=False)
        if self._room() > 0:
            self._adjust_soon()

    def _keep_limit(self, limit: int) -> None:
        self._limit = limit

    def _set_limit(self, limit: int, unstarted: Sequence[Delivery]) -> None:
        self._limit = limit
        # In this order: what goes back before the consumers end would come here again.
        self._adjust()
        self._give_back([item.tag for item in unstarted if item.connection == self._number])
        self._adjust_soon()

    def _give_back(self, tags: Sequence[int]) -> None:
        if self._channel is None or not self._channel.is_open:
            return
        for tag in tags:
            if self._unsettled.pop(tag, None) is not None:
                self._channel.basic_nack(tag, requeue=True)

    def _usable(self, connection: int) -> bool:
        return connection == self._number and self._channel is not None and self._channel.is_open

    def _disconnect(self) -> None:
        connection = self._connection
        if connection is not None and not (connection.is_closing or connection.is_closed):
            connection.close()

    def _call(self, function: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
        """Run `function` in the connection's thread; without a connection `otherwise`, here and now."""
        with self._lock:
            if self._connection is not None:
                self._connection.ioloop.add_callback_threadsafe(function)
            elif otherwise is not None:
                otherwise()


def _parameters(url: str) -> Any:
    try:
        parameters = pika.URLParameters(url)
    except ValueError:  # its message may hold a part of the password
        raise UsageError("the broker's URL isn't of the form amqp://user:password@host:port/vhost") from None
    if parameters.heartbeat is None:
        parameters.heartbeat = HEARTBEAT
    return parameters


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
