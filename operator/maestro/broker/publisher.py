"""Publishing with confirms: one connection, in a thread of its own.

Whoever publishes hands over batches from any thread and hears of every message exactly once, in the publisher's
thread: confirmed, returned (no such queue), or lost (refused, no answer in time, connection closed). A lost message may
still have arrived.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pika

from maestro.broker.connection import Connection, ConnectionState, ConnectTo, Status, guarded
from maestro.broker.frames import PUB_HEADER, Encoder, Outgoing
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, Monotonic, monotonic, utcnow

log = logging.getLogger(__name__)

Pubs = Sequence[int]
Heard = Callable[[Pubs], None]

ANSWER_SECONDS = 30.0
_TICK_SECONDS = 1.0


@dataclass(slots=True)
class _Sent:
    """A batch on the wire: the last of its delivery tags, and when it was handed to the socket."""

    last_tag: int
    at: float


class Publisher(Connection):
    """Publishes to queues through the default exchange: persistent, mandatory, with confirms. What is unanswered when
    it is stopped is told as lost.

    Parameters
    ----------
    answer_seconds
        How long the broker may leave a message unanswered; time spent blocked doesn't count.
    max_outstanding
        How many messages may be handed over and unanswered; see `room`.
    observe
        Called with seconds from sending a batch to its last confirm, for a histogram.
    """

    def __init__(
        self,
        connect_to: ConnectTo,
        *,
        on_confirm: Heard | None = None,
        on_return: Heard | None = None,
        on_lost: Heard | None = None,
        on_state: Callable[[ConnectionState], None] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        max_outstanding: int = 10_000,
        backoff: Backoff | None = None,
        observe: Callable[[float], None] | None = None,
        clock: Clock = utcnow,
        monotonic: Monotonic = monotonic,
    ) -> None:
        super().__init__(connect_to, name="publisher", backoff=backoff, clock=clock)
        self._answer_seconds = answer_seconds
        self._max_outstanding = max_outstanding
        self._observe = observe
        self._monotonic = monotonic
        self.listen(on_confirm=on_confirm, on_return=on_return, on_lost=on_lost, on_state=on_state)

        # What is handed over and unsettled; shared between threads, under the lock.
        self._handed_over = 0

        # Only touched in the publisher's thread.
        self._encoder: Encoder | None = None
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
        on_state: Callable[[ConnectionState], None] | None = None,
    ) -> None:
        """Say who hears of answers, each with publication numbers; called in the publisher's thread, so be short."""
        self._on_confirm = on_confirm
        self._on_return = on_return
        self._on_lost = on_lost
        self._on_state = on_state

    @property
    def room(self) -> int:
        """How many messages may be handed over now; 0 while what is handed over can't be sent."""
        return max(0, self._max_outstanding - self._handed_over) if self._state.usable else 0

    @property
    def outstanding(self) -> int:
        """Messages handed over and not settled yet."""
        return self._handed_over

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

    def _begun(self) -> None:
        self._loop.call_later(_TICK_SECONDS, self._tick)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_return_callback(self._on_returned)
        channel.confirm_delivery(
            ack_nack_callback=self._on_answer, callback=lambda _frame: self._on_confirms_selected(channel)
        )

    def _on_confirms_selected(self, channel: Any) -> None:
        self._encoder = Encoder(channel.channel_number, channel.connection.params.frame_max)
        self._next_tag = self._lowest_tag = 1
        self._ready(channel)

    def _gone(self) -> None:
        self._encoder = None
        lost = list(self._outstanding.values())
        self._outstanding.clear()
        self._sent.clear()
        self._returned.clear()
        self._hear(lost=lost)

    def _unblocked(self) -> None:
        now = self._monotonic()
        for sent in self._sent:
            sent.at = now

    def _changed(self, state: ConnectionState) -> None:
        if self._on_state is not None:
            guarded(self._on_state, state)

    def _ended(self) -> None:
        self._tell()

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
                guarded(listener, pubs)
