"""The broker's administrator over time: a password that is rotated in the Secret is used from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from maestro.automation.installation import BrokerAdmin, InvalidBrokerSecret
from maestro.kube.errors import KubeError
from maestro.runtime.tasks import sleep_unless

log = logging.getLogger(__name__)


class AdminWatch:
    """Reads the Secret from time to time: the right to watch it would be the right to watch every Secret.

    Parameters
    ----------
    read
        Reads the Secret.
    admin
        What it said at the start.
    every
        Seconds between two looks.
    on_change
        Called with other credentials.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[BrokerAdmin]],
        admin: BrokerAdmin,
        *,
        every: float,
        on_change: Callable[[BrokerAdmin], None] = lambda _admin: None,
    ) -> None:
        self.current = admin
        """The administrator as the last look has found it. Any thread may read it."""
        self._read = read
        self._every = every
        self._on_change = on_change
        self._problem = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set."""
        while not await sleep_unless(stop, self._every):
            await self.look()

    async def look(self) -> None:
        """Look once. What can't be read or used leaves everything as it is, and is said."""
        try:
            found = await self._read()
        except (KubeError, InvalidBrokerSecret) as error:
            self._say(f"the broker's Secret can't be read, what it said before is used: {error}")
            return
        known = self.current
        if replace(found, username=known.username, password=known.password) != known:
            # Every Automation's Secret and the clients carry it; a start is what sets all of it anew.
            self._say("the broker's address in its Secret was changed: it is used after a restart of Maestro")
            return
        self._say("")
        if found != known:
            log.info("the broker's administrator has other credentials from now on")
            self.current = found
            self._on_change(found)

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning(problem)
        self._problem = problem
