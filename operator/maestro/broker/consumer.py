"""Taking messages from one queue: what is received is acknowledged only when somebody says that it is settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maestro.broker.connection import Connection, ConnectTo, guarded
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, utcnow

PREFETCH = 8
"""Messages that may be here without being settled: the broker counts messages, not bytes, and each may be large."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came.

    Attributes
    ----------
    connection, tag
        Where it has to be acknowledged: a tag means something only on the connection that brought it.
    redelivered
        True: it was delivered before, and may have been treated before.
    headers
        As AMQP has them: texts, numbers, times, bytes, lists and tables of these.
    """

    connection: int
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    message_id: str | None
    content_type: str | None
    body: bytes


class Consumer(Connection):
    """Consumes a queue. While the queue isn't there (an emptied or replaced broker) it connects again, with growing
    pauses, until it is.
    """

    def __init__(
        self,
        connect_to: ConnectTo,
        queue: str,
        *,
        prefetch: int = PREFETCH,
        backoff: Backoff | None = None,
        clock: Clock = utcnow,
    ) -> None:
        super().__init__(
            connect_to, name=f"consumer of {queue}", backoff=backoff or Backoff(initial=0.5, maximum=15.0), clock=clock
        )
        self._queue = queue
        self._prefetch = prefetch
        self._receive: Callable[[Delivery], object] = lambda _delivery: None
        # Only touched in the connection's thread.
        self._number = 0

    # --- any thread --------------------------------------------------------------------------------------------------

    def listen(self, receive: Callable[[Delivery], object]) -> None:
        """Say who gets the messages; before `start`. Called in the consumer's thread, so be short."""
        self._receive = receive

    def settle(self, connection: int, tags: Sequence[int]) -> None:
        """Acknowledge messages of one connection. Of one that is gone they can't be: the broker delivers them again."""
        with self._lock:
            if not self._stopping and self._thread is not None:
                self._loop.add_callback_threadsafe(lambda: self._settle(connection, tags))

    # --- the thread --------------------------------------------------------------------------------------------------

    def _on_channel(self, channel: Any) -> None:
        self._number += 1
        channel.add_on_cancel_callback(lambda _frame: channel.close())
        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(self._queue, self._on_message, callback=lambda _frame: self._ready(channel))

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        delivery = Delivery(
            self._number,
            method.delivery_tag,
            bool(method.redelivered),
            method.exchange,
            method.routing_key,
            properties.headers or {},
            properties.message_id,
            properties.content_type,
            body,
        )
        guarded(self._receive, delivery)

    def _settle(self, connection: int, tags: Sequence[int]) -> None:
        if connection == self._number and self._channel is not None and self._channel.is_open:
            for tag in tags:
                self._channel.basic_ack(tag)
