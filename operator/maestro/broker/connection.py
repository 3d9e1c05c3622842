"""A connection to the broker with a thread of its own: it connects, and connects again, until it is told to stop.

What is done with it stands in the classes built on it, the publisher and the consumer: they say what happens once a
channel is open and once it is gone, both in the connection's thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

import pika
from pika.adapters.select_connection import IOLoop

from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, utcnow

log = logging.getLogger(__name__)

ConnectTo: TypeAlias = "pika.connection.Parameters | Callable[[], pika.connection.Parameters]"
"""Connection parameters, or a function that returns them, asked before each attempt (rotated credentials)."""

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
class ConnectionState:
    """For one condition of the installation, not one for each Automation."""

    status: Status
    since: datetime
    reason: str = ""

    @property
    def usable(self) -> bool:
        """True: what is handed over now is sent now."""
        return self.status is Status.OPEN


def parameters(
    host: str, port: int, vhost: str, user: str, password: str, *, name: str = "maestro", heartbeat: int = 15
) -> pika.ConnectionParameters:
    """Return connection parameters that suit a thread of its own. `name` shows in the broker's list of connections."""
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


class Connection:
    """The thread, the connection in it, and one channel.

    Parameters
    ----------
    name
        What the thread and the log call it.
    """

    def __init__(
        self, connect_to: ConnectTo, *, name: str, backoff: Backoff | None = None, clock: Clock = utcnow
    ) -> None:
        self._connect_to = connect_to if callable(connect_to) else lambda: connect_to
        self._name = name
        self._backoff = backoff or Backoff(initial=0.5, maximum=30.0)
        self._clock = clock

        # Shared between threads: the state is replaced as a whole, the rest is read and written under the lock.
        self._state = ConnectionState(Status.STOPPED, clock())
        self._lock = threading.Lock()
        self._stopping = False
        self._thread: threading.Thread | None = None

        # Only touched in the connection's thread.
        self._loop = IOLoop()
        self._connection: Any = None
        self._channel: Any = None
        self._failures = 0

    # --- any thread --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        return self._state

    def start(self) -> None:
        """Start the thread; it connects, and connects again, until `stop`."""
        if self._thread is not None:
            raise RuntimeError(f"the {self._name} was started before")
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the connection and end the thread. Blocks for at most 10 s."""
        with self._lock:
            self._stopping = True
        if self._thread is None:
            return
        self._loop.add_callback_threadsafe(self._begin_stop)
        self._thread.join(_STOP_SECONDS)

    # --- what is built on it says; all in the thread -----------------------------------------------------------------

    def _begun(self) -> None:
        """The thread has begun."""

    def _on_channel(self, channel: Any) -> None:
        """A channel is open: prepare it, then call `_ready`."""
        raise NotImplementedError

    def _gone(self) -> None:
        """The channel is gone, with all that was under way on it."""

    def _changed(self, state: ConnectionState) -> None:
        """The state is another one."""

    def _unblocked(self) -> None:
        """The broker takes messages again."""

    def _ended(self) -> None:
        """Nothing happens any more."""

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._connect()
        self._begun()
        while True:
            try:
                self._loop.start()
            except Exception as error:
                # A bug here or in pika must not end the work for good: begin anew with another connection.
                log.exception("the %s failed; it connects again", self._name)
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
        self._on_channel(channel)

    def _ready(self, channel: Any) -> None:
        """The channel is prepared: from here on it is used."""
        self._channel = channel
        self._failures = 0
        self._become(Status.OPEN, "")
        log.info("the %s is connected", self._name)

    def _on_channel_closed(self, channel: Any, reason: Exception) -> None:
        connection = channel.connection
        if connection is not self._connection:
            return
        if not self._stopping:
            log.warning("the %s's channel was closed: %s", self._name, reason)
        self._channel = None
        if connection.is_open:
            connection.close()

    def _on_closed(self, connection: Any, reason: BaseException) -> None:
        if connection is not self._connection:
            return
        self._abandon(_said(reason))

    def _abandon(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            connection.close()
        self._channel = None
        self._gone()
        self._reconnect_later(reason)

    def _reconnect_later(self, reason: str) -> None:
        if self._stopping:
            self._finish_stop()
            return
        self._failures += 1
        delay = self._backoff.delay(self._failures)
        self._become(Status.LOST, reason)
        log.warning("the %s has no connection (%s); next try in %.1f s", self._name, reason, delay)
        self._loop.call_later(delay, self._connect)

    def _begin_stop(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        elif self._connection is None:
            self._finish_stop()
        # else: it is being opened or closed, and its callback ends the loop

    def _finish_stop(self) -> None:
        self._become(Status.STOPPED, "")
        self._ended()
        self._loop.stop()

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        if connection is self._connection:
            reason = getattr(frame.method, "reason", "") or "alarm"
            log.warning("the broker takes no messages: %s", reason)
            self._become(Status.BLOCKED, str(reason))

    def _on_unblocked(self, connection: Any, _frame: Any) -> None:
        if connection is self._connection:
            self._unblocked()
            log.info("the broker takes messages again")
            self._become(Status.OPEN, "")

    def _become(self, status: Status, reason: str) -> None:
        if (status, reason) != (self._state.status, self._state.reason):
            self._state = ConnectionState(status, self._clock(), reason)
            self._changed(self._state)


def guarded(listener: Callable[[Any], object], what: Any) -> None:
    """Tell a listener; whatever it raises is logged, and the connection and the other listeners go on."""
    try:
        listener(what)
    except Exception:
        log.exception("a listener of the broker's connection failed")


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
