"""Which changes are worth a reconcile: pure functions over an object before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]

# What of a primary object's metadata its reconciler reads. A status is written by the reconciler alone.
_PRIMARY = ("uid", "generation", "annotations", "labels", "deletionTimestamp")

# Bookkeeping of the API server, which changes with every write, whoever's it is and whatever it says.
_BOOKKEEPING = frozenset({"resourceVersion", "managedFields", "generation"})


def wakes_primary(old: Object | None, new: Object | None) -> bool:
    """Whether a change of a resource itself is to be reconciled.

    A new object, a deletion, another spec (generation), other annotations or labels: yes. Only another status: no.
    """
    if old is None or new is None:
        return old is not new
    before, after = old.get("metadata", {}), new.get("metadata", {})
    return any((before.get(field) or None) != (after.get(field) or None) for field in _PRIMARY)


def wakes_owner(old: Object | None, new: Object | None) -> bool:
    """Whether a change of a child is to wake its owner: its content or status differs, whatever its version.

    One's own writes don't come here when their answers were put in the cache before (`ChildWatch.wrote`).
    """
    if old is None or new is None:
        return old is not new
    return _content(old) != _content(new)


def _content(obj: Object) -> dict[str, Any]:
    meta = {key: value for key, value in obj.get("metadata", {}).items() if key not in _BOOKKEEPING and value}
    # apiVersion and kind are missing where an object comes from a list.
    content = {key: value for key, value in obj.items() if key not in ("metadata", "apiVersion", "kind")}
    return {"metadata": meta, **content}
