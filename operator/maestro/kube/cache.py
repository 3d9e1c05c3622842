"""What the API server holds of one kind, in memory. Two feeders know it: kopf's handlers and the informer."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from maestro.kube.kinds import Kind, ObjectKey
from maestro.runtime import metrics
from maestro.runtime.clock import Monotonic

log = logging.getLogger(__name__)

Object = dict[str, Any]
Subscriber = Callable[[ObjectKey, Object | None], None]
Observer = Callable[[ObjectKey, Object | None, Object | None], None]

# How many deletions are remembered, so that a list or an event from before one can't bring its object back.
REMEMBERED_DELETIONS = 10_000


def key_of(obj: Mapping[str, Any]) -> ObjectKey:
    """The key of an object; a cluster-wide one has an empty namespace."""
    meta = obj["metadata"]
    return ObjectKey(str(meta.get("namespace") or ""), str(meta["name"]))


def without_bookkeeping(obj: Object) -> Object:
    """The same object with its `metadata.managedFields` taken out: often half of it, and read by nobody here."""
    obj["metadata"].pop("managedFields", None)
    return obj


class ObjectCache:
    """The objects of one kind by namespace and name. For one event loop; hands out its own objects: don't change them.

    Parameters
    ----------
    namespaces
        What it is fed from: each of these namespaces by itself, or (None) the whole cluster at once.
    """

    def __init__(
        self,
        kind: Kind | None = None,
        *,
        namespaces: Sequence[str] | None = None,
        clock: Monotonic = time.monotonic,
    ) -> None:
        self.kind = kind
        self._clock = clock
        self._heard: dict[str | None, float] = dict.fromkeys(namespaces or (None,), float("-inf"))
        self._listed: set[str | None] = set()
        self._objects: dict[ObjectKey, Object] = {}
        self._by_namespace: dict[str, dict[str, Object]] = {}
        self._deleted: OrderedDict[str, str | None] = OrderedDict()
        self._observers: list[Observer] = []

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._objects

    # -- reading

    @property
    def namespaces(self) -> list[str] | None:
        """What the cache is fed from: each of these namespaces, or (None) the whole cluster at once."""
        return None if None in self._heard else [scope for scope in self._heard if scope is not None]

    @property
    def synced(self) -> bool:
        """Whether everything that feeds the cache has given it a whole list."""
        return self._heard.keys() <= self._listed

    @property
    def last_heard(self) -> float:
        """When the API server was last heard about every namespace (monotonic seconds); -inf before the first time."""
        return min(self._heard.values())

    def get(self, namespace: str, name: str) -> Object | None:
        """The object of that name, or None."""
        return self._objects.get(ObjectKey(namespace, name))

    def values(self, namespace: str | None = None) -> list[Object]:
        """All objects, or those of one namespace."""
        if namespace is None:
            return list(self._objects.values())
        return list(self._by_namespace.get(namespace, {}).values())

    def keys(self) -> list[ObjectKey]:
        """The keys of all objects."""
        return list(self._objects)

    def silent_for(self) -> float:
        """Seconds since the API server was last heard; infinite before the first time."""
        return self._clock() - self.last_heard

    def fresh(self, within: float) -> bool:
        """Whether the cache is whole, and the API server was heard in the last `within` seconds."""
        return self.synced and self.silent_for() <= within

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback(key, object)` after each change; the object is None when it is gone."""
        self._observers.append(lambda key, _, new: callback(key, new))

    def observe(self, callback: Observer) -> None:
        """Call `callback(key, old, new)` after each change; old is None for a new object, new for one that is gone."""
        self._observers.append(callback)

    # -- feeding

    def heard(self, namespace: str | None = None) -> None:
        """Note that the API server has spoken about a namespace (None: about all), if only in a bookmark."""
        now = self._clock()
        for scope in (namespace,) if namespace in self._heard else tuple(self._heard):
            self._heard[scope] = now

    def upsert(self, obj: Object) -> bool:
        """Take in an object; whether that changed anything.

        Ignored is what is older than what the cache has (by resourceVersion), or belongs to a deleted object.
        """
        key = key_of(obj)
        meta = obj["metadata"]
        uid, version = meta.get("uid"), meta.get("resourceVersion")
        if uid in self._deleted:
            # What leaves a label selector is deleted for its watchers, and may come back: as a later version.
            if not _newer(version, self._deleted[uid]):
                return False
            del self._deleted[uid]
        known = self._objects.get(key)
        if known is not None and not _supersedes(meta, known["metadata"]):
            return False
        self._objects[key] = obj
        self._by_namespace.setdefault(key.namespace, {})[key.name] = obj
        self._changed(key, known, obj)
        return True

    def remove(self, namespace: str, name: str, *, uid: str | None = None, resource_version: str | None = None) -> bool:
        """Take out an object; with `uid` only if it is that one. Whether it was there.

        A list or an event from before the deletion (before `resource_version`, where it is known) doesn't bring the
        object back.
        """
        key = ObjectKey(namespace, name)
        known = self._objects.get(key)
        gone = uid or (known or {}).get("metadata", {}).get("uid")
        if gone:
            self._deleted[gone] = resource_version
            while len(self._deleted) > REMEMBERED_DELETIONS:
                self._deleted.popitem(last=False)
        if known is None or (uid is not None and known["metadata"].get("uid") != uid):
            return False
        self._drop(key)
        return True

    def replace(
        self, objects: Iterable[Object], *, resource_version: str | None = None, namespace: str | None = None
    ) -> list[ObjectKey]:
        """Take in a whole list, and take out what it doesn't have.

        Parameters
        ----------
        resource_version
            The list's: what the cache got after it stays.
        namespace
            The namespace that was listed; None: all of them.

        Returns
        -------
        The keys that were taken out.
        """
        listed: dict[ObjectKey, Object] = {key_of(obj): obj for obj in objects}
        mine = (
            self._objects
            if namespace is None
            else {ObjectKey(namespace, n) for n in self._by_namespace.get(namespace, {})}
        )
        pruned = [
            key
            for key in list(mine)
            if key not in listed and not _newer(self._objects[key]["metadata"].get("resourceVersion"), resource_version)
        ]
        for key in pruned:
            # Not remembered as deleted: that a list lacks an object proves less than an event does.
            self._drop(key)
        for obj in listed.values():
            self.upsert(obj)
        if pruned and self.kind is not None:
            metrics.CACHE_PRUNED.labels(kind=self.kind.kind).inc(len(pruned))
        self._listed.update((namespace,) if namespace in self._heard else self._heard)
        self.heard(namespace)
        return pruned

    def _drop(self, key: ObjectKey) -> None:
        old = self._objects.pop(key)
        siblings = self._by_namespace[key.namespace]
        del siblings[key.name]
        if not siblings:
            del self._by_namespace[key.namespace]
        self._changed(key, old, None)

    def _changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        if self.kind is not None:
            metrics.CACHE_OBJECTS.labels(kind=self.kind.kind).set(len(self._objects))
        for callback in self._observers:
            try:
                callback(key, old, new)
            except Exception:
                # One listener's mistake must not keep the object from the others.
                log.exception("an observer of the cache failed at %s", key)


def _supersedes(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    if new.get("uid") != old.get("uid"):
        # Another object of the same name: the later one counts, and creation times are only good to the second.
        return not _newer(old.get("resourceVersion"), new.get("resourceVersion"))
    return new.get("resourceVersion") != old.get("resourceVersion") and not _newer(
        old.get("resourceVersion"), new.get("resourceVersion")
    )


def _newer(version: Any, than: Any) -> bool:
    """Whether a resourceVersion is later than another; only decimal numbers, which Kubernetes' are, can be compared."""
    a, b = str(version or ""), str(than or "")
    return a.isdecimal() and b.isdecimal() and int(a) > int(b)
