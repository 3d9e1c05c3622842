"""Objects that Maestro made, watched so that a change of theirs wakes their owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maestro.kube.cache import Object, ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.filters import wakes_owner
from maestro.kube.informer import Informer
from maestro.kube.kinds import Kind, ObjectKey
from maestro.runtime.clock import Monotonic

ToKey = Callable[[Mapping[str, Any]], ObjectKey | None]


def owner_by_label(label: str) -> ToKey:
    """A function from a child to its owner: the object in the same namespace whose name is the label's value."""

    def to_key(child: Mapping[str, Any]) -> ObjectKey | None:
        meta = child.get("metadata") or {}
        name = (meta.get("labels") or {}).get(label)
        return ObjectKey(str(meta.get("namespace") or ""), str(name)) if name else None

    return to_key


class ChildWatch:
    """The children of one kind: a cache that an informer feeds, and the waking of their owners.

    Attributes
    ----------
    cache
        The children as they are. Its reader can trust it for what it wrote itself, if it told `wrote`.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        namespaces: Sequence[str] | None,
        label_selector: str,
        to_key: ToKey,
        wake: Callable[[ObjectKey], None],
        clock: Monotonic = time.monotonic,
    ) -> None:
        self.cache = ObjectCache(kind, namespaces=namespaces, clock=clock)
        self._informer = Informer(client, kind, self.cache, namespaces=namespaces, label_selector=label_selector)
        self._to_key = to_key
        self._wake = wake
        self._own_write = False
        self.cache.observe(self._on_change)

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set."""
        await self._informer.run(stop)

    def wrote(self, obj: Object) -> None:
        """Note the API server's answer to one's own write: the event that follows then wakes nobody."""
        self._own_write = True
        try:
            self.cache.upsert(obj)
        finally:
            self._own_write = False

    def removed(self, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Note one's own deletion, likewise."""
        self._own_write = True
        try:
            self.cache.remove(namespace, name, uid=uid)
        finally:
            self._own_write = False

    def _on_change(self, _: ObjectKey, old: Object | None, new: Object | None) -> None:
        if self._own_write or not wakes_owner(old, new):
            return
        # Both: a child that was given to another owner concerns the old one too.
        for key in {self._to_key(obj) for obj in (old, new) if obj is not None} - {None}:
            if key is not None:
                self._wake(key)


def watch_children(
    client: KubeClient,
    kind: Kind,
    *,
    namespaces: Sequence[str] | None,
    label_selector: str,
    to_key: ToKey,
    wake: Callable[[ObjectKey], None],
) -> ChildWatch:
    """A watch over the children of a kind that match `label_selector`; run it with `run(stop)`.

    `wake(owner)` is called when a child appears, goes, or changes otherwise than by a write told to `wrote`: the spec
    or data that somebody edited, or a status such as the ready replicas of a Deployment.
    """
    return ChildWatch(client, kind, namespaces=namespaces, label_selector=label_selector, to_key=to_key, wake=wake)
