"""What is left of Automations whose object is gone: their waiting Runs, their broker users, their queue.

No finalizer holds an object back. The run store remembers each Automation by its uid, with its queue and deletion
policy; whatever is remembered and no longer there is treated here, whether its deletion was seen, missed while Maestro
was away, or came with its whole namespace. Each step may be repeated, and is, until all of them have worked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from maestro.automation.brokerwatch import BrokerWatch
from maestro.automation.claims import Claims
from maestro.broker import topology
from maestro.broker.errors import BrokerError
from maestro.broker.management import Peeked
from maestro.broker.topology import BrokerState, Change, QueueState
from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.errors import Forbidden, KubeError, NotFound
from maestro.kube.kinds import AUTOMATION, NAMESPACE, ObjectKey
from maestro.runs.errors import StoreUnavailable
from maestro.runs.model import Orphan, Registration
from maestro.runtime.backoff import Backoff, jittered
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.tasks import sleep_unless

log = logging.getLogger(__name__)

STORE_HEADER = "maestro-store"
"""The header by which a message is known to be Maestro's own."""

_PEEK_LIMIT = 2500
"""More than a window of messages isn't looked through: a queue with more in it waits until it is shorter."""
_UNSURE = Backoff(initial=2.0, maximum=60.0)
"""Between two looks at whether an object is gone that nobody could tell."""
_RUNNING_FOR = timedelta(hours=1)
"""How long the Runs that a gone Automation's pods still finish keep their user."""


class OrphanStore(Protocol):
    """What of the run store is used."""

    async def orphans(self, known_uids: Collection[str]) -> list[Orphan]: ...
    async def deregister(self, uid: str, *, epoch: int | None = None) -> bool: ...
    async def reaped(self, uid: str, *, epoch: int | None = None) -> None: ...


class Peeker(Protocol):
    """What of the management client is used."""

    async def peek(self, queue: str, count: int) -> list[Peeked]: ...


@dataclass(slots=True)
class _Case:
    """What is remembered of one that is gone; all of it may be lost."""

    since: datetime
    told: bool = False
    looked_through: int | None = None
    unsure: int = 0
    not_before: datetime | None = None


class Reaper:
    """Treats what is left of Automations that are gone; `run` it, and `wake` it when one goes.

    Parameters
    ----------
    epoch
        Of the leadership that writes to the store; None: not fenced.
    every
        Seconds between two looks that nobody asked for.
    """

    def __init__(
        self,
        kube: KubeClient,
        automations: ObjectCache,
        store: OrphanStore,
        broker: BrokerWatch,
        peeker: Peeker,
        claims: Claims,
        *,
        clock: Clock = utcnow,
        epoch: Callable[[], int | None] = lambda: None,
        every: float = 10.0,
    ) -> None:
        self._kube = kube
        self._automations = automations
        self._store = store
        self._broker = broker
        self._peeker = peeker
        self._claims = claims
        self._clock = clock
        self._epoch = epoch
        self._every = every
        self._cases: dict[str, _Case] = {}
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Look now."""
        self._wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look from time to time, and when woken, until `stop` is set. Outages are waited out."""
        while not stop.is_set():
            self._wanted.clear()
            try:
                await self.step()
            except (StoreUnavailable, KubeError, BrokerError) as error:
                log.warning("what is left of deleted Automations waits: %s", error)
                await sleep_unless(stop, jittered(2.0, 0.5))
            await self._pause(stop)

    async def _pause(self, stop: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._wanted, stop)]
        try:
            await asyncio.wait(waits, timeout=jittered(self._every), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def step(self) -> None:
        """Look once. Raises what stands in the way of the first that couldn't be treated; the others were tried."""
        if not self._automations.synced:
            return
        known = {obj["metadata"]["uid"] for obj in self._automations.values()}
        problem: Exception | None = None
        for orphan in await self._store.orphans(known):
            try:
                await self._treat(orphan)
            except (StoreUnavailable, KubeError, BrokerError) as error:
                problem = problem or error
        if problem is not None:
            raise problem

    async def _treat(self, orphan: Orphan) -> None:
        registration, now = orphan.registration, self._clock()
        case = self._cases.setdefault(registration.uid, _Case(now))
        if case.not_before is not None and now < case.not_before:
            return
        if not orphan.deregistered:
            if not await self._gone(registration):
                case.unsure += 1
                case.not_before = now + timedelta(seconds=_UNSURE.delay(case.unsure))
                return
            await self._store.deregister(registration.uid, epoch=self._epoch())
            log.info("Automation %s is gone: its waiting Runs are canceled", registration.id)
            self.wake()  # the next look counts the Runs that are still open
            return
        if await self._broker_part(orphan, case):
            await self._store.reaped(registration.uid, epoch=self._epoch())
            self._cases.pop(registration.uid, None)
            log.info("nothing is left of Automation %s", registration.id)

    async def _gone(self, registration: Registration) -> bool:
        """Whether the object is gone for sure: the API server itself says so, about this very object.

        A 404 that doesn't name it may come from an API server that hasn't loaded the definition yet; a namespace that
        may no longer be looked into says nothing.
        """
        if self._automations.get(registration.namespace, registration.name) is not None:
            return True  # another one of that name: this uid is gone
        try:
            found = await self._kube.get(AUTOMATION, registration.namespace, registration.name)
        except NotFound as error:
            return error.details.get("name") == registration.name
        except Forbidden:
            return await self._namespace_gone(registration.namespace)
        return bool(found["metadata"].get("uid") != registration.uid)

    async def _namespace_gone(self, namespace: str) -> bool:
        """Whether the rights are missing because they went with their namespace."""
        try:
            await self._kube.get(NAMESPACE, None, namespace)
        except NotFound as error:
            return error.details.get("name") == namespace
        except Forbidden:
            return False
        return False

    # -- the broker's part

    async def _broker_part(self, orphan: Orphan, case: _Case) -> bool:
        """Remove users and queue; whether nothing is left to do."""
        registration = orphan.registration
        if registration.queue is None:
            return True
        view = await self._broker.look()
        if view.down_since is not None or view.state is None:
            return False
        alive = self._automations.get(registration.namespace, registration.name) is not None
        queue_done = await self._remove_queue(registration, view.state, case)
        users_done = alive or await self._remove_users(orphan, view.state, case)
        return queue_done and users_done

    async def _remove_users(self, orphan: Orphan, state: BrokerState, case: _Case) -> bool:
        registration, now = orphan.registration, self._clock()
        if orphan.open_runs and now - case.since < _RUNNING_FOR:
            return False  # its pods are finishing what they hold, and would lose their connection
        slots: tuple[topology.Slot, ...] = ("a", "b")
        for slot in slots:
            name = topology.user_name(registration.namespace, registration.name, slot)
            if name in state.users:
                await self._broker.apply(Change("delete", topology.User(name, ""), f"user {name} is no longer needed"))
        return True

    async def _remove_queue(self, registration: Registration, state: BrokerState, case: _Case) -> bool:
        name = registration.queue
        assert name is not None
        queue = state.queues.get(name)
        if queue is None or registration.deletion_policy == "Retain" or self._claims.holder(name) is not None:
            return True
        if topology.differences(queue, topology.Queue(name, registration.queue_arguments)):
            log.info("queue %s is kept: Automation %s didn't declare it so", name, registration.id)
            return True
        if registration.deletion_policy == "IfEmpty" and not await self._only_ours(queue, case):
            return False
        await self._broker.apply(Change("delete", topology.Queue(name, {}), f"queue {name} is no longer needed"))
        log.info("queue %s of Automation %s was deleted (%s)", name, registration.id, registration.deletion_policy)
        return True

    async def _only_ours(self, queue: QueueState, case: _Case) -> bool:
        """Whether nothing is in a queue but messages that Maestro sent; their Runs have all ended."""
        if queue.messages == 0:
            return True
        if queue.messages is None or queue.unacknowledged or queue.consumers:
            return False  # somebody still takes from it
        if queue.messages > _PEEK_LIMIT or queue.messages == case.looked_through:
            return False  # each look counts as a delivery: once for what is in it
        case.looked_through = queue.messages
        found = await self._peeker.peek(queue.name, queue.messages + 1)
        foreign = [message for message in found if STORE_HEADER not in message.headers]
        if foreign and not case.told:
            case.told = True
            log.info("queue %s is kept: %d messages in it aren't Maestro's", queue.name, len(foreign))
        return not foreign


def gone_by(automations: ObjectCache, wake: Callable[[], None]) -> None:
    """Wake the reaper whenever an Automation goes, or another one takes its name."""

    def observe(_: ObjectKey, old: dict[str, object] | None, new: dict[str, object] | None) -> None:
        if old is not None and (new is None or _uid(old) != _uid(new)):
            wake()

    automations.observe(observe)


def _uid(obj: dict[str, object]) -> object:
    meta = obj["metadata"]
    return meta.get("uid") if isinstance(meta, dict) else None
