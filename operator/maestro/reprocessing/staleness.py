"""What a replay makes stale, looked up in the store: for the Run that has just ended, and ahead for a whole plan."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from maestro.reprocessing.cascade import Templates, key_hash, keys
from maestro.reprocessing.plan import replay_parameters
from maestro.resources.reprocessing import ReprocessingSpec
from maestro.runs import replays, selection
from maestro.runs.database import Transaction
from maestro.runs.replays import Item
from maestro.runs.store import RunStore

MAX_PREDICTED = 100_000
"""Further predicted additions aren't counted."""
_NONE = Templates()
_PAGE = 1000


def written(spec: ReprocessingSpec, templates: Templates, original: Mapping[str, Any]) -> list[UUID]:
    """The keys (hashes) that a replay of a Run with these parameters changes: what it wrote, and what it will write."""
    if not templates.writes:
        return []
    now = replay_parameters(spec, original)
    return [key_hash(key) for key in sorted(keys(templates.writes, original) | keys(templates.writes, now))]


class Staleness:
    """Finds what becomes stale for one replay; keeps in mind which keys it has looked at.

    Items must be given in order. What the first writer of a key makes stale stands after it, and so holds all that
    later writers would: one look for each key is enough, and circles end.
    """

    def __init__(self, pk: int, spec: ReprocessingSpec, templates: Mapping[int, Templates]) -> None:
        self._pk = pk
        self._spec = spec
        self._templates = templates
        self._first: dict[UUID, Item] = {}
        self._tentative: dict[UUID, Item] = {}

    def by(self, transaction: Transaction, item: Item, automation: int, parameters: str) -> list[Item]:
        """Runs that aren't in the plan and that this one makes stale, in order."""
        found: list[Item] = []
        for key in written(self._spec, self._templates.get(automation, _NONE), json.loads(parameters)):
            first = self._tentative.get(key) or self._first.get(key)
            if first is None or item < first:
                self._tentative[key] = item
                found += self._readers(transaction, key, item)
        return sorted(set(found))

    def begin(self) -> None:
        """A transaction begins; what the one before looked at and didn't `keep` is looked at again."""
        self._tentative.clear()

    def keep(self) -> None:
        """What was found is durable."""
        self._first.update(self._tentative)
        self._tentative.clear()

    def _readers(self, transaction: Transaction, key: UUID, item: Item) -> list[Item]:
        found: list[Item] = []
        page = [item]
        while page and len(found) <= MAX_PREDICTED:
            page = replays.readers(transaction, self._pk, key, page[-1], _PAGE)
            known = replays.planned(transaction, self._pk, [each.run_seq for each in page])
            found += [each for each in page if each.run_seq not in known]
        return found


async def predict(store: RunStore, spec: ReprocessingSpec, templates: Mapping[int, Templates], pk: int) -> int:
    """How many Runs would join if every Run of the plan wrote again what it wrote; the items and reads are there."""
    forecast = _Forecast(Staleness(pk, spec, templates))
    after: Item | None = None
    while not forecast.full:
        page = await store.read(_items_after(pk, after))
        await store.read(forecast.following(page))
        if not page:
            break
        after = page[-1]
    return len(forecast.joined)


class _Forecast:
    """Goes through a plan in order, with what joins merged in where its turn comes."""

    def __init__(self, staleness: Staleness) -> None:
        self._staleness = staleness
        self._pending: list[Item] = []
        self.joined: set[Item] = set()

    @property
    def full(self) -> bool:
        return len(self.joined) >= MAX_PREDICTED

    def following(self, page: Sequence[Item]) -> Callable[[Transaction], None]:
        """The next items of the plan; none: it has ended, and only what joins is left."""

        def look(transaction: Transaction) -> None:
            known = replays.parameters_of(transaction, [item.run_seq for item in page])
            for item in page:
                self._catch_up(transaction, item)
                self._take(transaction, item, known.get(item.run_seq))
            if not page:
                self._catch_up(transaction, None)

        return look

    def _catch_up(self, transaction: Transaction, upto: Item | None) -> None:
        while self._pending and not self.full and (upto is None or self._pending[0] < upto):
            item = heapq.heappop(self._pending)
            known = replays.parameters_of(transaction, [item.run_seq])
            self._take(transaction, item, known.get(item.run_seq))

    def _take(self, transaction: Transaction, item: Item, known: tuple[int, str] | None) -> None:
        if known is None:
            return
        for stale in self._staleness.by(transaction, item, *known):
            if stale not in self.joined:
                self.joined.add(stale)
                heapq.heappush(self._pending, stale)


def _items_after(pk: int, after: Item | None) -> Callable[[Transaction], list[Item]]:
    place = None if after is None else (after.at, after.run_id)
    return lambda transaction: [item for _, item, _ in replays.page(transaction, pk, place, selection.PAGE)]
