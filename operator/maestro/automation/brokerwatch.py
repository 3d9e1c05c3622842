"""The broker as all Automations share it: one look for all, what all need kept in place, outages noticed once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from maestro.automation.world import BrokerView
from maestro.broker import topology
from maestro.broker.errors import BrokerError, BrokerUnavailable
from maestro.broker.passwords import HASHING_ALGORITHM, hash_password
from maestro.broker.topology import BrokerState, Change, QueueClaim, QueueState, UserState
from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.tasks import sleep_unless

log = logging.getLogger(__name__)

_HISTORY_SECONDS = 90.0


class Management(Protocol):
    """What of the management client is used."""

    async def snapshot(self, now: datetime) -> BrokerState: ...
    async def apply(self, change: Change) -> None: ...
    async def put_user(self, name: str, password_hash: str, tags: Sequence[str] = ()) -> None: ...


class ClaimSource(Protocol):
    """Which queues are claimed; `version` grows with each change."""

    @property
    def version(self) -> int: ...

    def all(self) -> list[QueueClaim]: ...


Tell = Callable[[str], Awaitable[None]]


class BrokerWatch:
    """Looks at the broker at most every `max_age` seconds, whoever asks, and repairs what all Automations share.

    Parameters
    ----------
    on_recovery
        Called when the broker answers again after an outage.
    on_lost
        Called with a queue's name when the queue had to be declared anew: what was in it is gone.
    tell
        Called with a sentence for each repair of what all share.
    """

    def __init__(
        self,
        client: Management,
        claims: ClaimSource,
        *,
        clock: Clock = utcnow,
        max_age: float = 5.0,
        on_recovery: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda _queue: None,
        tell: Tell | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._claims = claims
        self._clock = clock
        self._max_age = timedelta(seconds=max_age)
        self._on_recovery = on_recovery
        self._on_lost = on_lost
        self._tell = tell
        self._backoff = backoff or Backoff(initial=1.0, maximum=15.0)
        self._lock = asyncio.Lock()
        self._view = BrokerView()
        self._history: deque[BrokerState] = deque()
        self._failures = 0
        self._not_before: datetime | None = None
        self._based_on: int | None = None
        # Own writes while a look is under way, which may show the broker from before them.
        self._meanwhile: list[Change] = []

    @property
    def view(self) -> BrokerView:
        """What is known now, however old."""
        return self._view

    def problem(self) -> str | None:
        """What is wrong with the broker, for readiness; None: nothing."""
        return self._view.problem if self._view.down_since is not None else None

    async def run(self, stop: asyncio.Event, *, every: float = 15.0) -> None:
        """Look every so many seconds until `stop` is set: an outage shows even where nobody asks."""
        while not await sleep_unless(stop, every):
            await self.look()

    async def look(self) -> BrokerView:
        """The broker as it is now, or was a few seconds ago. Never raises for an outage: the view says so."""
        if not self._current():
            async with self._lock:
                if not self._current():  # another may have looked while this one waited
                    await self._refresh()
        return self._view

    async def apply(self, change: Change) -> None:
        """Write to the broker, and to what is known of it.

        Raises
        ------
        BrokerUnavailable, BrokerRefused
            As the management client.
        """
        try:
            await self._client.apply(change)
        except BrokerUnavailable as error:
            self._down(error)
            raise
        self._fold(change)
        if isinstance(change.target, topology.Queue) and change.verb == "put":
            self._on_lost(change.target.name)

    def doubt(self) -> None:
        """Look anew next time, however young the last look is."""
        if self._view.state is not None:
            self._view = replace(self._view, state=None)

    # -- looking

    def _current(self) -> bool:
        now, state = self._clock(), self._view.state
        if self._not_before is not None and now < self._not_before:
            return True
        if self._view.down_since is not None or state is None:
            return False
        return now - state.at < self._max_age and self._based_on == self._claims.version

    async def _refresh(self) -> None:
        now = self._clock()
        version = self._claims.version
        try:
            self._meanwhile.clear()
            state = await self._client.snapshot(now)
            self._view = replace(self._view, state=_mutable(state))
            for change in self._meanwhile[:]:
                self._fold(change)
            await self._keep_base(first=self._based_on is None)
        except BrokerError as error:
            self._down(error)
            return
        self._based_on = version
        self._remember(state)
        await self._heal_zombies()
        metrics.UP.labels(dependency="broker").set(1)
        recovered = self._view.down_since is not None
        self._view = replace(self._view, down_since=None, problem="")
        self._failures, self._not_before = 0, None
        if recovered:
            log.info("the broker answers again")
            self._on_recovery()

    def _down(self, error: BrokerError) -> None:
        now = self._clock()
        self._failures += 1
        self._not_before = now + timedelta(seconds=self._backoff.delay(self._failures))
        if self._view.down_since is None:
            log.warning("the broker doesn't answer: %s", error)
            metrics.UP.labels(dependency="broker").set(0)
        self._view = replace(self._view, down_since=self._view.down_since or now, problem=str(error))

    # -- what all share

    async def _keep_base(self, *, first: bool) -> None:
        state = self._view.state
        assert state is not None
        wanted = topology.base(self._claims.all(), state.version)
        changes = topology.changes(state, wanted)
        for change in [*changes, *topology.stale_policies(state, wanted)]:
            await self._client.apply(change)
            self._fold(change)
        if not changes:
            return
        # What is missing at the first look is a new broker, most likely; later it is somebody's doing. A policy that
        # only follows the claims is neither.
        said = [change.what for change in changes if self._based_on == self._claims.version]
        log.info("the broker was prepared: %s", "; ".join(change.what for change in changes))
        if said and not first and self._tell is not None:
            await self._tell(f"{'; '.join(said)}: repaired")

    def _remember(self, state: BrokerState) -> None:
        self._history.append(state)
        while (state.at - self._history[0].at).total_seconds() > _HISTORY_SECONDS:
            self._history.popleft()

    async def _heal_zombies(self) -> None:
        """Delete queues that lost their log; their Automations declare them anew."""
        for name in topology.zombies(list(self._history)):
            log.warning(
                "queue %s runs but has lost its log (no count of messages): it is deleted and declared anew", name
            )
            target = topology.Queue(name, {})
            try:
                await self._client.apply(Change("delete", target, f"queue {name} was unreachable"))
            except BrokerError as error:
                self._down(error)
                return
            self._fold(Change("delete", target, ""))
            self._history.clear()

    # -- own writes

    def _fold(self, change: Change) -> None:
        """Enter an own write into what is known, so that nobody makes it twice before the next look."""
        if self._lock.locked():
            self._meanwhile.append(change)
        state = self._view.state
        if state is None:
            return
        target = change.target
        put = change.verb == "put"
        match target:
            case topology.Queue():
                _set(state.queues, target.name, _declared(target) if put else None)
            case topology.User():
                hashed = hash_password(target.password) if put else ""
                user = UserState(target.name, hashed, HASHING_ALGORITHM, target.tags)
                _set(state.users, target.name, user if put else None)
                if not put:
                    _set(state.permissions, target.name, None)
            case topology.Permission():
                _set(state.permissions, target.user, target if put else None)
            case topology.Policy():
                _set(state.policies, target.name, target if put else None)
            case topology.Exchange():
                _set(state.exchanges, target.name, target if put else None)
            case topology.Binding():
                bindings = state.bindings | {target} if put else state.bindings - {target}
                self._view = replace(self._view, state=replace(state, bindings=bindings))


def _mutable(state: BrokerState) -> BrokerState:
    return replace(
        state,
        queues=dict(state.queues),
        users=dict(state.users),
        permissions=dict(state.permissions),
        policies=dict(state.policies),
        exchanges=dict(state.exchanges),
    )


def _set(mapping: object, key: str, value: object | None) -> None:
    assert isinstance(mapping, dict)
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _declared(queue: topology.Queue) -> QueueState:
    return QueueState(
        name=queue.name,
        type=str(queue.arguments.get("x-queue-type", "classic")),
        durable=queue.durable,
        auto_delete=queue.auto_delete,
        exclusive=False,
        arguments=dict(queue.arguments),
        policy=None,
        state="running",
        messages=None,
        ready=None,
        unacknowledged=None,
        consumers=0,
    )
