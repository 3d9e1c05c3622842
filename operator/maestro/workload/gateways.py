"""The gateways of all Solutions, in memory: follows the cache of Reprocessings and answers without asking anybody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import ObjectKey
from maestro.runs.gateway import OPEN, Block, GatewayAnswer, answer, block_of, solution_id_of
from maestro.runtime.clock import Clock, utcnow

log = logging.getLogger(__name__)

FRESH_SECONDS = 75.0
"""So long nothing may have been heard of the API server: longer than the time between two bookmarks of a watch."""

OnChange = Callable[[str], None]
"""Called with the id of a Solution whose gateway may answer otherwise now, in the cache's thread."""

_UNSYNCED = GatewayAnswer("unknown", "the Reprocessings aren't listed yet")
_STALE = GatewayAnswer("unknown", f"the API server hasn't been heard for {FRESH_SECONDS:g} s")


class Gateways:
    """Answers for every Solution. Feed the cache that it is made with; nothing else is needed.

    An answer costs one look into a dictionary, however many Reprocessings there are: each change of one updates the
    few blocks of its Solution.
    """

    def __init__(self, reprocessings: ObjectCache, clock: Clock = utcnow) -> None:
        self._cache = reprocessings
        self._clock = clock
        self._blocks: dict[str, tuple[Block, ...]] = {}
        self._callbacks: list[OnChange] = []
        for obj in reprocessings.values():
            self._take_in(None, obj)
        reprocessings.observe(lambda _key, old, new: self._take_in(old, new))

    def on_change(self, callback: OnChange) -> None:
        """Have `callback` called after each change of a Reprocessing that moves a gateway. (That `maxBlock` has passed
        is no change: whoever must see that looks from time to time.)"""
        self._callbacks.append(callback)

    @property
    def synced(self) -> bool:
        """Whether the Reprocessings were listed once; until then nothing is known of any gateway."""
        return self._cache.synced

    def answer(self, solution_id: str) -> GatewayAnswer:
        """The answer for `<namespace>.<solution>`: for those who ask from outside, `unknown` rather than a guess."""
        if not self._cache.fresh(FRESH_SECONDS):
            return _STALE if self._cache.synced else _UNSYNCED
        return self.last_known(solution_id)

    def last_known(self, solution_id: str) -> GatewayAnswer:
        """The answer from what was heard last, however long ago: for the leader, whose replays rest on the same
        knowledge as its dispatch, so that an API server that is away stops neither."""
        blocks = self._blocks.get(solution_id)
        return OPEN if blocks is None else answer(blocks, self._clock())

    def shut(self, solution_id: str) -> bool:
        """Whether the gateway is shut, from what was heard last."""
        return self.last_known(solution_id).verdict == "blocked"

    def blocked_by(self, solution_id: str) -> str | None:
        """The name of the Reprocessing that shuts the gateway, from what was heard last; None: nothing does."""
        return self.last_known(solution_id).reprocessing

    def shut_solutions(self) -> list[str]:
        """The ids of all Solutions whose gateway is shut now."""
        now = self._clock()
        return [solution for solution, blocks in self._blocks.items() if answer(blocks, now) is not OPEN]

    def next_opening(self, solution_id: str) -> datetime | None:
        """When `maxBlock` next opens a block of this Solution; None: none has one."""
        now = self._clock()
        pending = [block.until for block in self._blocks.get(solution_id, ()) if block.until and block.until > now]
        return min(pending, default=None)

    def _take_in(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        changed = set()
        for obj in (old, new):
            if obj is not None:
                solution_id = solution_id_of(obj)
                if self._recompute(solution_id, ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"]), new):
                    changed.add(solution_id)
        for solution_id in changed:
            for callback in self._callbacks:
                callback(solution_id)

    def _recompute(self, solution_id: str, key: ObjectKey, new: dict[str, Any] | None) -> bool:
        """Put in, replace or take out the block of one Reprocessing; whether that changed anything."""
        before = self._blocks.get(solution_id, ())
        others = [block for block in before if block.reprocessing != key.name]
        mine = block_of(new) if new is not None and solution_id_of(new) == solution_id else None
        after = tuple(sorted([*others, mine] if mine else others, key=lambda block: block.order))
        if after == before:
            return False
        if after:
            self._blocks[solution_id] = after
        else:
            self._blocks.pop(solution_id, None)
        return True
