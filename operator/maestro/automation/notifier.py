"""Tells people: the leader looks for what is to be told, and sends it with Apprise."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Collection

import apprise
from pydantic import ValidationError

from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.errors import KubeError
from maestro.kube.kinds import SECRET
from maestro.resources import Automation
from maestro.resources.automation import Notification as Entry
from maestro.runs.errors import StaleEpoch, StoreUnavailable
from maestro.runs.model import to_micros
from maestro.runs.outbox import Notification, Outbox, Told, Watched
from maestro.runs.store import RunStore
from maestro.runtime import metrics
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.tasks import sleep_unless

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
_SEND_SECONDS = 30.0
# Apprise tells of failures with parts of the URL in them, and a URL holds a password.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)


class Unsent(Exception):  # noqa: N818 - what became of it
    """A notification couldn't be sent; the message says why, without the address."""


class Notifier:
    """The leader's loop of notifications.

    Parameters
    ----------
    secrets
        The names of Secrets whose URLs may be used; the installation says which.
    epoch
        The leadership; None while there is none.
    """

    def __init__(
        self,
        kube: KubeClient,
        store: RunStore,
        cache: ObjectCache,
        secrets: Collection[str],
        epoch: Callable[[], int | None],
        *,
        clock: Clock = utcnow,
    ) -> None:
        self._kube = kube
        self._store = store
        self._outbox = Outbox(store)
        self._cache = cache
        self._secrets = frozenset(secrets)
        self._epoch = epoch
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look and send until told to stop; outages are waited out."""
        while not await sleep_unless(stop, LOOK_SECONDS):
            if self._epoch() is None or not self._cache.synced:
                continue
            try:
                await self.once()
            except (StoreUnavailable, StaleEpoch) as error:
                log.warning("notifications wait: %s", error)

    async def once(self) -> None:
        """Write down what is to be told, and send what is due."""
        watched = await self._watched()
        if watched:
            await self._outbox.look(watched, to_micros(self._clock()), epoch=self._epoch())
        for notification in await self._outbox.due(to_micros(self._clock())):
            await self._treat(notification)

    async def _watched(self) -> list[Watched]:
        found = [automation for automation in map(_parsed, self._cache.values()) if automation is not None]
        wanted = {automation.metadata.uid: automation for automation in found if automation.spec.notifications}
        if not wanted:
            return []
        counts = await self._store.counts()
        made = []
        for uid, automation in sorted(wanted.items()):
            key = self._store.key_of(uid)
            if key is None:
                continue
            told = [Told(entry.name, frozenset(entry.events)) for entry in automation.spec.notifications or ()]
            made.append(Watched(key, automation.id, told, key in counts and counts[key].paused))
        return made

    async def _treat(self, notification: Notification) -> None:
        try:
            await self._send(notification)
        except Unsent as error:
            again = await self._outbox.failed(notification, to_micros(self._clock()), epoch=self._epoch())
            metrics.NOTIFICATIONS.labels(event=notification.event, result="again" if again else "given up").inc()
            log.warning("%s, to %s: %s; %s", notification.title, notification.target, error,
                        "trying again later" if again else "given up")  # fmt: skip
            return
        await self._outbox.done(notification, epoch=self._epoch())
        metrics.NOTIFICATIONS.labels(event=notification.event, result="sent").inc()

    async def _send(self, notification: Notification) -> None:
        registration = self._store.registration(notification.automation)
        found = registration and self._cache.get(registration.namespace, registration.name)
        automation = _parsed(found) if found else None
        entries = (automation.spec.notifications if automation else None) or ()
        entry = next((entry for entry in entries if entry.name == notification.target), None)
        if automation is None or entry is None:
            return  # nobody wants to know any more
        url = await self._url(automation.metadata.namespace, entry)
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                sent = await asyncio.to_thread(_notify, url, notification.title, notification.body)
        except TimeoutError:
            raise Unsent(f"no answer within {_SEND_SECONDS:.0f} s") from None
        if not sent:
            raise Unsent("the receiver didn't take it")

    async def _url(self, namespace: str, entry: Entry) -> str:
        reference = entry.url.secret_key_ref
        if reference.name not in self._secrets:
            raise Unsent(f"the Secret {reference.name} isn't among those that the installation lets Maestro read")
        try:
            data = (await self._kube.get(SECRET, namespace, reference.name)).get("data") or {}
            return base64.b64decode(data[reference.key]).decode().strip()
        except KubeError as error:
            raise Unsent(f"the Secret {namespace}/{reference.name} can't be read: {error.reason}") from None
        except (KeyError, binascii.Error, UnicodeDecodeError):
            raise Unsent(f"the Secret {namespace}/{reference.name} has no usable key {reference.key}") from None


def _notify(url: str, title: str, body: str) -> bool:
    sender = apprise.Apprise()
    if not sender.add(url):
        raise Unsent("the URL isn't one that Apprise knows")
    return bool(sender.notify(title=title, body=body))


def _parsed(found: dict[str, object]) -> Automation | None:
    try:
        return Automation.model_validate(found)
    except ValidationError:
        return None
