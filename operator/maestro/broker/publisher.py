"""Publishing with confirms: one connection, in a thread of its own.

Whoever publishes hands over batches from any thread and hears of every message exactly once, in the publisher's
thread: confirmed, returned (no such queue), or lost (refused, no answer in time, connection closed). A lost message may
still have arrived.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop

from maestro.broker.frames import PUB_HEADER, Encoder, Outgoing
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, Monotonic, monotonic, utcnow

log = logging.getLogger(__name__)

Pubs = Sequence[int]
Heard = Callable[[Pubs], None]

ANSWER_SECONDS = 30.0
_TICK_SECONDS = 1.0
_STOP_SECONDS = 10.0


class Status(StrEnum):
    """Where the connection stands."""

    CONNECTING = "Connecting"
    OPEN = "Open"
    BLOCKED = "Blocked"
    """Connected, but the broker takes nothing until its alarm (memory, disk) clears."""
    LOST = "Lost"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True)
class PublisherState:
    """For one condition of the installation, not one for each Automation."""

    status: Status
    since: datetime
    reason: str = ""

    @property
    def usable(self) -> bool:
        """True: what is handed over now is sent now."""
        return self.status is Status.OPEN


@dataclass(slots=True)
class _Sent:
    """A batch on the wire: the last of its delivery tags, and when it was handed to the socket."""

    last_tag: int
    at: float


def parameters(
    host: str, port: int, vhost: str, user: str, password: str, *, name: str = "maestro", heartbeat: int = 15
) -> pika.ConnectionParameters:
    """Return connection parameters that suit the publisher. `name` shows in the broker's list of connections."""
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=vhost,
        credentials=pika.PlainCredentials(user, password),
        heartbeat=heartbeat,
        blocked_connection_timeout=None,
        connection_attempts=1,
        socket_timeout=5.0,
        stack_timeout=10.0,
        client_properties={"connection_name": name},
    )


class Publisher:
    """Publishes to queues through the default exchange: persistent, mandatory, with confirms.

    Parameters
    ----------
    connect_to
        Connection parameters, or a function that returns them, asked before each attempt (rotated credentials).
    answer_seconds
        How long the broker may leave a message unanswered; time spent blocked doesn't count.
    max_outstanding
        How many messages may be handed over and unanswered; see `room`.
    observe
        Called with seconds from sending a batch to its last confirm, for a histogram.
    """

    def __init__(
        self,
        connect_to: pika.connection.Parameters | Callable[[], pika.connection.Parameters],
        *,
        on_confirm: Heard | None = None,
        on_return: Heard | None = None,
        on_lost: Heard | None = None,
        on_state: Callable[[PublisherState], None] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        max_outstanding: int = 10_000,
        backoff: Backoff | None = None,
        observe: Callable[[float], None] | None = None,
        clock: Clock = utcnow,
        monotonic: Monotonic = monotonic,
    ) -> None:
        self._connect_to = connect_to if callable(connect_to) else lambda: connect_to
        self._answer_seconds = answer_seconds
        self._max_outstanding = max_outstanding
        self._backoff = backoff or Backoff(initial=0.5, maximum=30.0)
        self._observe = observe
        self._clock = clock
        self._monotonic = monotonic
        self.listen(on_confirm=on_confirm, on_return=on_return, on_lost=on_lost, on_state=on_state)

        # Shared between threads: the state (replaced whole) and what is handed over and unsettled (under the lock).
        self._state = PublisherState(Status.STOPPED, clock())
        self._lock = threading.Lock()
        self._handed_over = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

        # Only touched in the publisher's thread.
        self._loop = IOLoop()
        self._connection: Any = None
        self._channel: Any = None
        self._encoder: Encoder | None = None
        self._failures = 0
        self._next_tag = 1
        self._lowest_tag = 1
        self._outstanding: dict[int, int] = {}
        self._sent: deque[_Sent] = deque()
        self._returned: set[int] = set()
        self._heard: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._telling = False

    # --- any thread --------------------------------------------------------------------------------------------------

    def listen(
        self,
        *,
        on_confirm: Heard | None = None,
        on_return: Heard | None = None,
        on_lost: Heard | None = None,
        on_state: Callable[[PublisherState], None] | None = None,
    ) -> None:
        """Say who hears of answers, each with publication numbers; called in the publisher's thread, so be short."""
        self._on_confirm = on_confirm
        self._on_return = on_return
        self._on_lost = on_lost
        self._on_state = on_state

    @property
    def state(self) -> PublisherState:
        return self._state

    @property
    def room(self) -> int:
        """How many messages may be handed over now; 0 while what is handed over can't be sent."""
        return max(0, self._max_outstanding - self._handed_over) if self._state.usable else 0

    @property
    def outstanding(self) -> int:
        """Messages handed over and not settled yet."""
        return self._handed_over

    def start(self) -> None:
        """Start the thread; it connects, and connects again, until `stop`."""
        if self._thread is not None:
            raise RuntimeError("the publisher was started before")
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the connection and end the thread. What is unanswered is told as lost. Blocks for at most 10 s."""
        with self._lock:
            self._stopping = True
        if self._thread is None:
            return
        self._loop.add_callback_threadsafe(self._begin_stop)
        self._thread.join(_STOP_SECONDS)

    def publish(self, batch: Sequence[Outgoing]) -> None:
        """Hand over a batch; one wake-up of the thread for all of it.

        Each message is settled exactly once through the listeners; at once as lost where there is no connection.
        `room` isn't enforced: it tells how much makes sense.
        """
        if not batch:
            return
        with self._lock:
            stopped = self._stopping or self._thread is None
            if not stopped:
                self._handed_over += len(batch)
                self._loop.add_callback_threadsafe(lambda: self._send(batch))
        if stopped and self._on_lost is not None:
            self._on_lost([message.pub for message in batch])

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._connect()
        self._loop.call_later(_TICK_SECONDS, self._tick)
        while True:
            try:
                self._loop.start()
            except Exception as error:
                # A bug here or in pika must not end dispatch for good: begin anew with another connection.
                log.exception("the publisher failed; it connects again")
                self._abandon(f"internal error: {type(error).__name__}")
                continue
            break
        self._loop.close()

    def _connect(self) -> None:
        if self._stopping:
            self._finish_stop()
            return
        self._become(Status.CONNECTING, self._state.reason)
        try:
            self._connection = pika.SelectConnection(
                self._connect_to(),
                on_open_callback=self._on_open,
                on_open_error_callback=self._on_closed,
                on_close_callback=self._on_closed,
                custom_ioloop=self._loop,
            )
        except Exception as error:
            self._connection = None
            self._reconnect_later(f"{type(error).__name__}: {error}")

    def _on_open(self, connection: Any) -> None:
        if connection is not self._connection or self._stopping:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_returned)
        channel.confirm_delivery(
            ack_nack_callback=self._on_answer, callback=lambda _frame: self._on_confirms_selected(channel)
        )

    def _on_confirms_selected(self, channel: Any) -> None:
        self._channel = channel
        self._encoder = Encoder(channel.channel_number, channel.connection.params.frame_max)
        self._next_tag = self._lowest_tag = 1
        self._failures = 0
        self._become(Status.OPEN, "")
        log.info("the publisher is connected")

    def _on_channel_closed(self, channel: Any, reason: Exception) -> None:
        if channel is not self._channel:
            return
        if not self._stopping:
            log.warning("the publisher's channel was closed: %s", reason)
        self._channel = None
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _on_closed(self, connection: Any, reason: BaseException) -> None:
        if connection is not self._connection:
            return
        self._abandon(_said(reason))

    def _abandon(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            connection.close()
        self._channel = self._encoder = None
        lost = list(self._outstanding.values())
        self._outstanding.clear()
        self._sent.clear()
        self._returned.clear()
        self._hear(lost=lost)
        self._reconnect_later(reason)

    def _reconnect_later(self, reason: str) -> None:
        if self._stopping:
            self._finish_stop()
            return
        self._failures += 1
        delay = self._backoff.delay(self._failures)
        self._become(Status.LOST, reason)
        log.warning("the publisher has no connection (%s); next try in %.1f s", reason, delay)
        self._loop.call_later(delay, self._connect)

    def _begin_stop(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        elif self._connection is None:
            self._finish_stop()
        # else: it is being opened or closed, and its callback ends the loop

    def _finish_stop(self) -> None:
        self._become(Status.STOPPED, "")
        self._tell()
        self._loop.stop()

    # --- sending -----------------------------------------------------------------------------------------------------

    def _send(self, batch: Sequence[Outgoing]) -> None:
        pubs = [message.pub for message in batch]
        if self._channel is None or self._encoder is None:
            self._hear(lost=pubs)
            return
        # Encoded before anything is written: a message that can't be encoded must not leave half a frame behind.
        try:
            pieces = list(self._encoder.encode(batch))
        except ValueError:
            log.exception("a batch of %d messages can't be encoded", len(batch))
            self._hear(lost=pubs)
            return
        # pika's own way from marshalled frames to the socket: it keeps count for the heartbeats.
        self._connection._output_marshaled_frames(pieces)
        self._outstanding.update(zip(range(self._next_tag, self._next_tag + len(batch)), pubs, strict=True))
        self._next_tag += len(batch)
        self._sent.append(_Sent(self._next_tag - 1, self._monotonic()))

    # --- answers -----------------------------------------------------------------------------------------------------

    def _on_returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        # The broker confirms a returned message too, always afterwards: what comes back is remembered until then.
        pub = (properties.headers or {}).get(PUB_HEADER)
        if pub is not None:
            self._returned.add(int(pub))
        log.debug("publication %s came back from %r: %s", pub, method.routing_key, method.reply_text)

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        pubs = self._settle(method.delivery_tag, method.multiple)
        if isinstance(method, pika.spec.Basic.Nack):
            self._returned.difference_update(pubs)
            self._hear(lost=pubs)
        elif self._returned:
            came_back = self._returned.intersection(pubs)
            self._returned -= came_back
            self._hear(confirmed=[pub for pub in pubs if pub not in came_back], returned=sorted(came_back))
        else:
            self._hear(confirmed=pubs)

    def _settle(self, tag: int, multiple: bool) -> list[int]:
        """Take the tags an answer is about out of what is outstanding; those given up before aren't there any more."""
        outstanding = self._outstanding
        if not multiple:
            pub = outstanding.pop(tag, None)
            found = [] if pub is None else [pub]
        else:
            found = [outstanding.pop(each) for each in range(self._lowest_tag, tag + 1) if each in outstanding]
            self._lowest_tag = max(self._lowest_tag, tag + 1)
        self._retire()
        return found

    def _retire(self) -> None:
        """Forget batches that are answered wholly."""
        if not self._sent:
            return
        # Tags are taken in order, so the first key is the lowest outstanding one.
        lowest = next(iter(self._outstanding), self._next_tag)
        now: float | None = None
        while self._sent and self._sent[0].last_tag < lowest:
            sent = self._sent.popleft()
            if self._observe is not None:
                now = self._monotonic() if now is None else now
                self._observe(now - sent.at)

    def _tick(self) -> None:
        self._loop.call_later(_TICK_SECONDS, self._tick)
        if self._state.status is not Status.BLOCKED:
            self._give_up_unanswered(self._monotonic() - self._answer_seconds)

    def _give_up_unanswered(self, before: float) -> None:
        last_tag = 0
        while self._sent and self._sent[0].at <= before:
            last_tag = self._sent.popleft().last_tag
        if not last_tag:
            return
        tags = []
        for tag in self._outstanding:
            if tag > last_tag:
                break
            tags.append(tag)
        lost = [self._outstanding.pop(tag) for tag in tags]
        if lost:
            log.warning("%d messages are unanswered after %g s", len(lost), self._answer_seconds)
            self._returned.difference_update(lost)
            self._hear(lost=lost)

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        if connection is self._connection:
            reason = getattr(frame.method, "reason", "") or "alarm"
            log.warning("the broker takes no messages: %s", reason)
            self._become(Status.BLOCKED, str(reason))

    def _on_unblocked(self, connection: Any, _frame: Any) -> None:
        if connection is self._connection:
            now = self._monotonic()
            for sent in self._sent:
                sent.at = now
            log.info("the broker takes messages again")
            self._become(Status.OPEN, "")

    # --- telling -----------------------------------------------------------------------------------------------------

    def _hear(self, *, confirmed: Pubs = (), returned: Pubs = (), lost: Pubs = ()) -> None:
        """Note what became of messages; listeners are told once for everything that one look at the socket brought."""
        for heard, pubs in zip(self._heard, (confirmed, returned, lost), strict=True):
            heard.extend(pubs)
        if not self._telling:
            self._telling = True
            self._loop.add_callback(self._tell)

    def _tell(self) -> None:
        self._telling = False
        heard, self._heard = self._heard, ([], [], [])
        with self._lock:
            self._handed_over -= sum(map(len, heard))
        for listener, pubs in zip((self._on_confirm, self._on_return, self._on_lost), heard, strict=True):
            if pubs and listener is not None:
                _guarded(listener, pubs)

    def _become(self, status: Status, reason: str) -> None:
        if (status, reason) == (self._state.status, self._state.reason):
            return
        self._state = PublisherState(status, self._clock(), reason)
        if self._on_state is not None:
            _guarded(self._on_state, self._state)


def _guarded(listener: Callable[[Any], None], what: Any) -> None:
    try:
        listener(what)
    except Exception:
        # The connection and the other listeners go on; the dispatcher's own state is its own to repair.
        log.exception("a listener of the publisher failed")


def _said(reason: BaseException) -> str:
    """The innermost cause in words for a condition: pika wraps it several times. Its exceptions hold no credentials."""
    inner = reason
    while (wrapped := _wrapped(inner)) is not None:
        inner = wrapped
    return f"{type(inner).__name__}: {inner}".removesuffix(": ")


def _wrapped(error: BaseException) -> BaseException | None:
    for candidate in (*getattr(error, "exceptions", ())[-1:], getattr(error, "exception", None), *error.args[:1]):
        if isinstance(candidate, BaseException):
            return candidate
    return None
