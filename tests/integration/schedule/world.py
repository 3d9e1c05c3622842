"""The controllers of Schedules and Automations and the dispatcher in this process, on real servers; a clock that can be
set, and a kubelet's stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.cluster.apiserver import ApiServer
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.automation import rights
from tests.integration.automation.world import World, world_of

from maestro.broker import connection as amqp
from maestro.broker.publisher import Publisher
from maestro.handlers import Feed
from maestro.kube.informer import Informer
from maestro.kube.kinds import JOB, SCHEDULE
from maestro.runs.dispatcher import Dispatcher
from maestro.runtime.clock import utcnow
from maestro.runtime.workqueue import WorkQueue
from maestro.schedule.wiring import Schedules

Object = dict[str, Any]

RIGHTS = [
    *rights.WORK,
    rights._rule("maestro-operator.io", "schedules", "get list watch"),
    rights._rule("maestro-operator.io", "schedules/status", "patch"),
    rights._rule("", "configmaps", "get"),
]


def schedule(name: str = "nightly", *, annotations: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """A Schedule of the Automation `orders`, hourly unless `schedule` says otherwise."""
    meta: Object = {"name": name}
    if annotations:
        meta["annotations"] = dict(annotations)
    given = {"automation": "orders", **spec}
    if "schedules" not in given:
        given.setdefault("schedule", "0 * * * *")
    return {"apiVersion": "maestro-operator.io/v1alpha1", "kind": "Schedule", "metadata": meta, "spec": given}


@dataclass
class ScheduleWorld(World):
    """A namespace with everything at work in it.

    Attributes
    ----------
    offset
        How far the controllers' clock is ahead of the wall's.
    shut
        Solutions whose gateway is shut.
    """

    offset: timedelta = timedelta()
    shut: set[str] = field(default_factory=set)
    schedules: Schedules | None = None
    dispatcher: Dispatcher | None = None
    publisher: Publisher | None = None

    def now(self) -> datetime:
        """The controllers' time."""
        return utcnow() + self.offset

    def set_clock(self, to: datetime) -> None:
        """Set the controllers' clock."""
        self.offset = to - utcnow()
        if self.schedules is not None:
            self.schedules.loop._changed.set()

    def next_hour(self, hours: int = 1) -> datetime:
        """The full hour that comes."""
        return self.now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=hours)

    async def start(self) -> None:
        """Start everything, as after a restart of its process."""
        self.clock = self.now
        await super().start()
        assert self.controller is not None
        assert self.feed is not None
        broker = amqp.parameters("127.0.0.1", self.rabbitmq.amqp_port, "/", self.rabbitmq.user, self.rabbitmq.password)
        self.publisher = Publisher(broker)
        self.publisher.start()
        self.dispatcher = dispatcher = Dispatcher(
            self.store, self.publisher, self.controller.launcher, gateway=self.shut.__contains__
        )

        def epoch() -> int | None:
            return dispatcher.leadership.epoch if dispatcher.leadership else None

        self.controller.fenced_by(epoch)
        # How old a Job is goes by the API server's clock, which nobody sets.
        self.controller.follower._clock = utcnow
        kube = self._clients[-1]
        feed = Feed(SCHEDULE, WorkQueue("schedule"), namespaces=[self.namespace])
        self.schedules = Schedules(
            kube=kube,
            store=self.store,
            feed=feed,
            automations=self.feed.cache,
            jobs=self.controller.follower.watch.cache,
            epoch=epoch,
            gateway=self.shut.__contains__,
            clock=self.now,
        )
        informer = Informer(kube, SCHEDULE, feed.cache, namespaces=[self.namespace])
        self._tasks += [
            asyncio.create_task(informer.run(self._stop)),
            asyncio.create_task(dispatcher.run(self._stop)),
            asyncio.create_task(self.schedules.run(self._stop)),
        ]

    async def stop(self) -> None:
        await super().stop()
        if self.publisher is not None:
            await asyncio.to_thread(self.publisher.stop)
            self.publisher = None

    # -- Schedules

    async def put(self, obj: Object) -> Object:
        """Apply a Schedule as a user would."""
        return await self.kube.apply(SCHEDULE, self.namespace, obj["metadata"]["name"], obj, manager="someone")

    async def edit(self, spec: Object, name: str = "nightly") -> Object:
        """Change a Schedule's spec (merge patch)."""
        return await self.kube.patch(SCHEDULE, self.namespace, name, {"spec": spec})

    async def see(self, name: str = "nightly") -> Object:
        return await self.kube.get(SCHEDULE, self.namespace, name)

    async def says(self, reason: str, name: str = "nightly", type_: str = "Ready") -> Object:
        """Wait until a condition of the Schedule has that reason, for its present generation; the object."""

        async def check() -> Object | None:
            obj = await self.see(name)
            status = obj.get("status", {})
            if status.get("observedGeneration") != obj["metadata"]["generation"]:
                return None
            found = {condition["type"]: condition["reason"] for condition in status.get("conditions", [])}
            return obj if found.get(type_) == reason else None

        return await self.until(f"{name}: {type_} {reason}", check, show=lambda: self.see(name))

    async def ticked(self, *words: str, name: str = "nightly") -> Object:
        """Wait until the newest records of a Schedule are these (`Started`, `Skipped/Gateway`), the newest first."""

        async def check() -> Object | None:
            obj = await self.see(name)
            found = [
                "/".join(filter(None, (tick["outcome"], tick.get("reason"))))
                for tick in obj.get("status", {}).get("recentTicks", [])
            ]
            return obj if found[: len(words)] == list(words) else None

        return await self.until(f"{name}: {words}", check, show=lambda: self.see(name))

    async def jobs(self, n: int | None = None) -> list[Object]:
        """The Jobs of the namespace, by name; `n`: wait until there are so many."""

        async def check() -> list[Object] | None:
            found, _ = await self.kube.list(JOB, self.namespace)
            found = [job for job in found if not job["metadata"].get("deletionTimestamp")]
            return sorted(found, key=lambda job: str(job["metadata"]["name"])) if n in (None, len(found)) else None

        if n is None or n == 0:
            return await check() or []
        jobs: list[Object] = await self.until(f"{n} Jobs", check, show=lambda: self.kube.list(JOB, self.namespace))
        return jobs


@contextlib.asynccontextmanager
async def world(
    apiserver: ApiServer, rabbitmq: RabbitMQ, namespace: str, folder: Path, *, start: bool = True, **settings: Any
) -> AsyncIterator[ScheduleWorld]:
    """A world with everything at work."""
    apiserver.apply(*rights.bound(namespace, RIGHTS))
    async with world_of(ScheduleWorld, apiserver, rabbitmq, namespace, folder, start=start, **settings) as made:
        yield made


__all__ = ["RIGHTS", "ScheduleWorld", "schedule", "world"]
