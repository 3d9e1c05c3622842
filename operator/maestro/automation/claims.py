"""Which Automation a queue belongs to: the older one, where two claim the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from maestro.automation.plan import claim_of
from maestro.broker.topology import QueueClaim
from maestro.kube.kinds import ObjectKey
from maestro.resources import Automation

log = logging.getLogger(__name__)

Object = dict[str, Any]


class _Claimant(NamedTuple):
    """Sorts by age; the uid breaks a tie."""

    created: str
    uid: str
    key: ObjectKey


class Claims:
    """The claims of all Automations, kept up by `changed`, which observes the cache.

    Parameters
    ----------
    wake
        Called with the other claimants of a queue when one of them comes, changes or goes.

    Attributes
    ----------
    version
        Grows whenever `all()` gives something else.
    """

    def __init__(self, wake: Callable[[ObjectKey], None]) -> None:
        self._wake = wake
        self._claims: dict[ObjectKey, tuple[QueueClaim, _Claimant]] = {}
        self._by_queue: dict[str, set[_Claimant]] = {}
        self.version = 0

    def all(self) -> list[QueueClaim]:
        """Every claim, taken queues once for each claimant."""
        return [claim for claim, _ in self._claims.values()]

    def holder(self, queue: str) -> ObjectKey | None:
        """The Automation whose queue it is; None where nobody claims it."""
        claimants = self._by_queue.get(queue)
        return min(claimants).key if claimants else None

    def taken_from(self, key: ObjectKey, queue: str) -> ObjectKey | None:
        """The older Automation that has the queue which `key` claims; None where it is its own."""
        holder = self.holder(queue)
        return holder if holder not in (None, key) else None

    def changed(self, key: ObjectKey, old: Object | None, new: Object | None) -> None:
        """Take in a change of an Automation: for `ObjectCache.observe`."""
        if old is not None and new is not None and _identity(old) == _identity(new):
            return
        before = self._claims.pop(key, None)
        if before is not None:
            self._leave(*before)
        claim = _claim(new) if new is not None else None
        if new is not None and claim is not None:
            meta = new["metadata"]
            claimant = _Claimant(str(meta.get("creationTimestamp", "")), str(meta.get("uid", "")), key)
            self._claims[key] = claim, claimant
            self._by_queue.setdefault(claim.queue, set()).add(claimant)
        after = self._claims.get(key)
        if before != after:
            self.version += 1
            self._wake_others(key, (found[0].queue for found in (before, after) if found is not None))

    def _leave(self, claim: QueueClaim, claimant: _Claimant) -> None:
        claimants = self._by_queue[claim.queue]
        claimants.discard(claimant)
        if not claimants:
            del self._by_queue[claim.queue]

    def _wake_others(self, key: ObjectKey, queues: Iterable[str]) -> None:
        for other in {claimant.key for queue in queues for claimant in self._by_queue.get(queue, ())} - {key}:
            self._wake(other)


def _identity(obj: Object) -> tuple[Any, Any]:
    return obj["metadata"].get("uid"), obj["metadata"].get("generation")


def _claim(obj: Object) -> QueueClaim | None:
    try:
        automation = Automation.model_validate(obj)
    except ValidationError:
        # Its own reconcile says what is wrong with it.
        log.debug("an Automation that can't be read claims nothing: %s", obj["metadata"].get("name"))
        return None
    return claim_of(automation) if automation.spec.launch == "Queue" else None
