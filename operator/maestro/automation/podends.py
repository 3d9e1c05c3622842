"""A pod, or the program in it, that came to its end loses what it held: no lease has to run out first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from maestro.automation.storewatch import StoreWatch
from maestro.kube.cache import ObjectCache
from maestro.kube.pods import PodEnd
from maestro.resources import names
from maestro.runs.errors import StoreUnavailable
from maestro.runtime.backoff import Backoff

log = logging.getLogger(__name__)


class LosingStore(Protocol):
    """What of the run store is used."""

    async def pod_gone(
        self,
        pod_uid: str,
        *,
        automation: int | None = None,
        before: datetime | None = None,
        told: bool = False,
        epoch: int | None = None,
    ) -> int: ...


class PodEnds:
    """Tells the run store of the ends of workers' pods. Not of Jobs' pods: their Job says how they ended.

    Parameters
    ----------
    keys
        Knows the Automations' keys in the store.
    """

    def __init__(
        self,
        store: LosingStore,
        keys: StoreWatch,
        automations: ObjectCache,
        *,
        epoch: Callable[[], int | None] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._automations = automations
        self._epoch = epoch
        self._backoff = backoff or Backoff(initial=0.5, maximum=15.0)
        self._ends: asyncio.Queue[PodEnd] = asyncio.Queue()

    def add(self, end: PodEnd) -> None:
        """Take in an end."""
        if names.LABEL_RUN not in end.labels:
            self._ends.put_nowait(end)

    async def run(self, stop: asyncio.Event) -> None:
        """Tell each, however long the store is away, until `stop` is set."""
        telling = asyncio.create_task(self._tell_all())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([telling, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            telling.cancel()
            await asyncio.gather(telling, stopped, return_exceptions=True)
        if not telling.cancelled():
            telling.result()

    async def _tell_all(self) -> None:
        while True:
            end = await self._ends.get()
            failures = 0
            while not await self._tell(end):
                failures += 1
                await asyncio.sleep(self._backoff.delay(failures))

    async def _tell(self, end: PodEnd) -> bool:
        obj = self._automations.get(end.namespace, end.labels.get(names.LABEL_AUTOMATION, ""))
        # The label may lie about whose pod it is, but its uid doesn't: it holds nothing of other Automations.
        key = self._keys.key(obj["metadata"]["uid"]) if obj is not None else None
        before = None if end.gone else end.at
        try:
            lost = await self._store.pod_gone(
                end.uid, automation=key, before=before, told=end.told, epoch=self._epoch()
            )
        except StoreUnavailable as error:
            log.warning("the end of pod %s/%s waits: %s", end.namespace, end.name, error)
            return False
        if lost:
            what = "Runs go on elsewhere" if end.told else "attempts are lost"
            log.info("pod %s/%s ended (%s): %d %s", end.namespace, end.name, end.reason or "gone", lost, what)
        return True
