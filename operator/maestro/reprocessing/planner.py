"""Makes plans: walks over the run store page by page, so that memory stays flat however many Runs there are.

For the HTTP API: `preview_of` plans a selection before any Reprocessing exists, `Replays.items` (of `runs.replays`)
pages through the plan of one that does.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from maestro.kube.cache import ObjectCache
from maestro.reprocessing.cascade import Templates, key_hash, keys, templates_of
from maestro.reprocessing.plan import (
    Digest,
    InvalidPlan,
    Survey,
    check_named,
    plan_hash,
    preview,
    reads_one_of,
    selection_of,
)
from maestro.reprocessing.staleness import predict
from maestro.resources.reprocessing import Plan, PlannedRun, Reprocessing
from maestro.runs import replays, selection
from maestro.runs.database import Transaction
from maestro.runs.model import to_micros
from maestro.runs.replays import Item, Replay, Replays
from maestro.runs.selection import Found, Selection
from maestro.runs.store import RunStore

PREVIEW_UID = "preview:"
"""Rows whose UID begins so belong to previews; what a crash leaves of them the leader deletes."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The Solution as it is while a plan is made: its Automations by key, and what their Runs read and write."""

    automations: Mapping[int, str]
    templates: Mapping[int, Templates]

    @property
    def cascades(self) -> bool:
        """Whether anything can become stale by anything."""
        templates = self.templates.values()
        return any(each.reads for each in templates) and any(each.writes for each in templates)


def scope_of(store: RunStore, automations: ObjectCache, reprocessing: Reprocessing) -> Scope:
    """The present scope of a Reprocessing.

    Raises
    ------
    InvalidPlan
        `UnknownSolution`: no Automation belongs to it.
    """
    namespace, solution = reprocessing.metadata.namespace, reprocessing.spec.solution
    mine = {
        pk: known.id for pk, known in store.registrations().items() if known.solution_id == reprocessing.solution_id
    }
    if not mine:
        raise InvalidPlan("UnknownSolution", f"spec.solution: no Automation of {namespace} belongs to {solution}")
    by_id = templates_of(automations.values(namespace), namespace, solution)
    return Scope(mine, {pk: by_id[id_] for pk, id_ in mine.items() if id_ in by_id})


async def measure(store: RunStore, reprocessing: Reprocessing, scope: Scope) -> Survey:
    """Selects without writing anything. Raises InvalidPlan."""
    survey = Survey()
    async for page in _pages(store, reprocessing, scope):
        survey.add(page)
    return survey


async def make(
    store_of: Replays, reprocessing: Reprocessing, scope: Scope, replay: Replay
) -> tuple[Survey, int | None]:
    """Selects and writes the items; what was found, and how many more are expected to join.

    Raises
    ------
    InvalidPlan
        The selection names what isn't there.
    """
    store, pk = store_of.store, replay.pk
    await store_of.clear(pk)
    survey = Survey()
    async for page in _pages(store, reprocessing, scope):
        survey.add(page)
        await store_of.write(_adding(pk, [Item(run.at, run.id, run.seq) for run in page]), len(page))
    if not (reprocessing.spec.cascade.enabled and scope.cascades and survey.digest.total):
        return survey, 0
    await note_reads(store_of, reprocessing, scope, pk)
    return survey, await predict(store, reprocessing.spec, scope.templates, pk)


async def note_reads(
    store_of: Replays, reprocessing: Reprocessing, scope: Scope, pk: int, *, ended_since: int | None = None
) -> None:
    """Notes what the Solution's ended Runs depend on; only those that ended since, where that is given."""
    readers = tuple(each for each, templates in scope.templates.items() if templates.reads)
    wanted = Selection(
        readers,
        by_start=reprocessing.spec.select.time_field == "startedAt",
        wants_parameters=True,
        ended_since=ended_since,
    )
    async for page in _walk(store_of.store, wanted):
        reads = [
            (key_hash(key), Item(run.at, run.id, run.seq))
            for run in page
            for key in keys(scope.templates[run.automation].reads, run.parameters)
        ]
        await store_of.write(_noting(pk, reads), len(reads) + 1)


async def preview_of(store: RunStore, automations: ObjectCache, reprocessing: Reprocessing) -> Plan:
    """The plan that a Reprocessing would have if it were made now: hash, total, predicted additions, first Runs.

    Parameters
    ----------
    automations
        The cache of the Automations.
    reprocessing
        One that needn't exist: `Reprocessing.model_validate` of its manifest.

    Raises
    ------
    InvalidPlan
        The selection names what isn't there (`reason`: UnknownSolution, UnknownAutomation, UnknownRuns, RunsNotEnded).
    StoreUnavailable
        The run store is away.
    """
    scope = scope_of(store, automations, reprocessing)
    if not (reprocessing.spec.cascade.enabled and scope.cascades):
        survey = await measure(store, reprocessing, scope)
        return plan_of(reprocessing, survey.digest, 0, preview(survey.first, scope.automations))
    area = Replays(store)
    uid = f"{PREVIEW_UID}{uuid.uuid4()}"
    scratch = await area.create(uid, uid, uid, reprocessing.solution_id, "", to_micros(store.clock()))
    try:
        survey, predicted = await make(area, reprocessing, scope, scratch)
    finally:
        await area.forget(scratch.pk)
    return plan_of(reprocessing, survey.digest, predicted, preview(survey.first, scope.automations))


def plan_of(reprocessing: Reprocessing, digest: Digest, predicted: int | None, first: list[PlannedRun]) -> Plan:
    """The plan as the status shows it."""
    return Plan(
        hash=plan_hash(reprocessing.immutable_fields(), digest),
        total=digest.total,
        predicted_additions=predicted,
        preview=first,
    )


# -- walking --------------------------------------------------------------------------------------------------------


async def _pages(store: RunStore, reprocessing: Reprocessing, scope: Scope) -> AsyncIterator[list[Found]]:
    select = reprocessing.spec.select
    wanted = selection_of(select, scope.automations, reprocessing.metadata.namespace, parameters=False)
    if wanted.runs is not None:
        ids = wanted.runs
        check_named(ids, await store.read(lambda transaction: selection.states_of(transaction, ids)), scope.automations)
    async for page in _walk(store, wanted):
        found = reads_one_of(page, select.reads, scope.templates)
        if found:
            yield found


async def _walk(store: RunStore, wanted: Selection) -> AsyncIterator[list[Found]]:
    if wanted.runs is not None:
        ids = wanted.runs
        for start in range(0, len(ids), selection.PAGE):
            yield await store.read(_named(wanted, ids[start : start + selection.PAGE]))
        return
    for automation in wanted.automations:
        after: int | None = 0
        while after is not None:
            page, after = await store.read(_page(wanted, automation, after))
            yield page


def _page(wanted: Selection, automation: int, after: int) -> Callable[[Transaction], tuple[list[Found], int | None]]:
    return lambda transaction: selection.page(transaction, wanted, automation, after)


def _named(wanted: Selection, ids: Sequence[UUID]) -> Callable[[Transaction], list[Found]]:
    return lambda transaction: selection.named(transaction, wanted, ids)


def _adding(pk: int, items: Sequence[Item]) -> Callable[[Transaction], int]:
    return lambda transaction: replays.add_items(transaction, pk, items)


def _noting(pk: int, reads: Sequence[tuple[UUID, Item]]) -> Callable[[Transaction], None]:
    return lambda transaction: replays.add_reads(transaction, pk, reads)
