"""Leader election by a Lease of coordination.k8s.io.

The elector lives in a thread with an event loop of its own, so that a busy main loop can't make it miss a renewal. It
trusts no clock but its own monotonic one: a Lease of somebody else counts as abandoned when it hasn't changed for its
duration since it was first *seen* so, and one's own counts as lost when it couldn't be renewed in time, measured from
before the last successful request was sent. A process that loses the Lease ends at once: whatever it still had in hand
must not be written beside the new leader. (The store's epoch and the resourceVersion in each status write refuse what
slips through.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from maestro.runtime import metrics
from maestro.runtime.backoff import jittered
from maestro.runtime.clock import Clock, Monotonic, monotonic, utcnow

log = logging.getLogger(__name__)

Lease = dict[str, Any]


class LeaseClient(Protocol):
    """Reads and writes the one Lease. Each call takes a bounded time; any exception means: it didn't work out."""

    async def get(self) -> Lease | None:
        """The Lease; None where there is none."""

    async def create(self, spec: dict[str, Any]) -> Lease | None:
        """A new Lease; None when somebody else was faster."""

    async def replace(self, lease: Lease) -> Lease | None:
        """Write over the version that `lease` carries; None when somebody else was faster."""

    async def close(self) -> None:
        """Give the connection back."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long things take, in seconds.

    Attributes
    ----------
    duration
        An unchanged Lease is free for others after this.
    renew_within
        The holder gives up, and ends, after this without a successful renewal; well below `duration`.
    retry
        Between two looks or renewals.
    request
        For one request.
    """

    duration: float = 15.0
    renew_within: float = 10.0
    retry: float = 2.0
    request: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew_within < self.duration:
            raise ValueError("lease times: retry < renew_within < duration")


def process_identity(name: str = "") -> str:
    """A name for this very process: a pod that is started again under the same name is another holder."""
    return f"{name or socket.gethostname()}_{uuid4()}"


class Candidate:
    """The rules of the election for one candidate, one step at a time; everything that waits is outside.

    Attributes
    ----------
    deadline
        Until when (on the monotonic clock) this candidate is the leader; None: it isn't.
    """

    def __init__(
        self,
        client: LeaseClient,
        identity: str,
        *,
        times: LeaseTimes | None = None,
        clock: Clock = utcnow,
        ticks: Monotonic = monotonic,
    ) -> None:
        self.identity = identity
        self.deadline: float | None = None
        self._client = client
        self._times = times or LeaseTimes()
        self._clock = clock
        self._ticks = ticks
        self._seen: tuple[str, str, str] | None = None
        self._seen_at = 0.0

    async def step(self) -> bool:
        """Try to get or renew the Lease; whether this candidate holds it now. Raises what the client raises."""
        begun = self._ticks()
        async with asyncio.timeout(self._times.request):
            lease = await self._client.get()
            if lease is None:
                written = await self._client.create(self._spec(transitions=0, acquired=None))
            elif self._mine(lease) or self._free(lease):
                written = await self._client.replace({**lease, "spec": self._next_spec(lease)})
            else:
                # Also when it was one's own until now: somebody has taken it.
                self.deadline = None
                return False
        self.deadline = begun + self._times.renew_within if written is not None else self._still()
        return self.leading

    @property
    def leading(self) -> bool:
        """Whether the Lease is held, and was renewed in time."""
        return self.deadline is not None and self._ticks() < self.deadline

    async def release(self) -> None:
        """Give the Lease back, if it is held, so that the next one needn't wait. Raises what the client raises."""
        self.deadline = None
        async with asyncio.timeout(self._times.request):
            lease = await self._client.get()
            if lease is not None and self._mine(lease):
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._now()}
                await self._client.replace({**lease, "spec": spec})

    def _still(self) -> float | None:
        # Lost a race for the write: what was held before is held until its deadline, as nobody else could take it.
        return self.deadline if self.leading else None

    def _mine(self, lease: Lease) -> bool:
        return bool(lease["spec"].get("holderIdentity") == self.identity)

    def _free(self, lease: Lease) -> bool:
        spec = lease["spec"]
        if not spec.get("holderIdentity"):
            return True
        seen = (str(spec["holderIdentity"]), str(spec.get("renewTime")), str(lease["metadata"].get("resourceVersion")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._ticks()
        duration = float(spec.get("leaseDurationSeconds") or self._times.duration)
        return self._ticks() - self._seen_at > duration

    def _next_spec(self, lease: Lease) -> dict[str, Any]:
        spec = lease["spec"]
        transitions = int(spec.get("leaseTransitions") or 0)
        if self._mine(lease):
            return self._spec(transitions=transitions, acquired=spec.get("acquireTime"))
        return self._spec(transitions=transitions + 1, acquired=None)

    def _spec(self, *, transitions: int, acquired: str | None) -> dict[str, Any]:
        now = self._now()
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._times.duration)),
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _now(self) -> str:
        return self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaderElector:
    """Runs for election in a thread of its own until it is stopped, or ends the process when the Lease is lost.

    Parameters
    ----------
    connect
        Makes the client; called in the elector's thread and loop.
    identity
        See `process_identity`.
    on_started
        Called once, in the elector's thread, when the Lease is won: hand it on with `loop.call_soon_threadsafe`.
    exit
        What ends the process; tests give another. It is called in the elector's thread, and the elector ends after it.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[LeaseClient]],
        identity: str,
        on_started: Callable[[], None],
        *,
        times: LeaseTimes | None = None,
        exit: Callable[[int], object] = os._exit,
        clock: Clock = utcnow,
        ticks: Monotonic = monotonic,
    ) -> None:
        self.identity = identity
        self._connect = connect
        self._on_started = on_started
        self._times = times or LeaseTimes()
        self._exit = exit
        self._clock = clock
        self._ticks = ticks
        self._candidate: Candidate | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stop_asked = False
        self._thread = threading.Thread(target=self._main, name="leader-elector", daemon=True)

    def start(self) -> None:
        """Begin to run for election."""
        self._thread.start()

    @property
    def is_leader(self) -> bool:
        """Whether the Lease is held at this moment. Any thread may ask."""
        candidate = self._candidate
        return candidate is not None and candidate.leading

    def stop(self, timeout: float = 10.0) -> None:
        """End the election and give the Lease back. Call it when nothing of the leader's work goes on any more."""
        with self._lock:
            self._stop_asked = True
            if self._loop is not None and self._stop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:
            # Without its elector a leader would go on for ever.
            log.critical("the leader elector failed", exc_info=True)
            self._exit(1)
        finally:
            metrics.LEADER.set(0)

    async def _run(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._stop_asked:
                return
        client = await self._connect()
        try:
            candidate = Candidate(client, self.identity, times=self._times, clock=self._clock, ticks=self._ticks)
            self._candidate = candidate
            await self._win(candidate, stop)
            if candidate.leading and not await self._hold(candidate, stop):
                return
            if candidate.deadline is not None:
                await self._give_back(candidate)
        finally:
            await client.close()

    async def _win(self, candidate: Candidate, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if await self._try(candidate):
                log.info("won the Lease as %s", self.identity)
                metrics.LEADER.set(1)
                self._on_started()
                return
            await _pause(stop, jittered(self._times.retry))

    async def _hold(self, candidate: Candidate, stop: asyncio.Event) -> bool:
        """Renew until stopped; False when the Lease was lost."""
        while not await _pause(stop, max(0.0, min(self._times.retry, self._left(candidate)))):
            await self._try(candidate)
            if not candidate.leading:
                log.critical("lost the Lease as %s: this process ends", self.identity)
                metrics.LEADER.set(0)
                self._exit(1)
                return False
        return True

    async def _try(self, candidate: Candidate) -> bool:
        # What is left until the deadline is all that an attempt may take: a hanging request must not outlast it.
        try:
            async with asyncio.timeout(max(0.0, self._left(candidate))):
                return await candidate.step()
        except TimeoutError:
            log.warning("the Lease couldn't be read or written in time")
        except Exception as error:
            log.warning("the Lease couldn't be read or written: %s", error)
        return candidate.leading

    def _left(self, candidate: Candidate) -> float:
        return self._times.request if candidate.deadline is None else candidate.deadline - self._ticks()

    async def _give_back(self, candidate: Candidate) -> None:
        try:
            await candidate.release()
        except Exception as error:
            log.warning("the Lease couldn't be given back, others wait until it runs out: %s", error)


async def _pause(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
