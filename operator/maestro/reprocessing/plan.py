"""What a Reprocessing's plan is: which Runs, in which order, known by which hash. No I/O."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from maestro.reprocessing.cascade import Templates, keys
from maestro.resources.reprocessing import PlannedRun, Reprocessing, ReprocessingSpec, Select
from maestro.runs.model import RunState, from_micros, to_micros
from maestro.runs.selection import Found, Selection

PREVIEW = 50
_MODULUS = 1 << 512
_SHOWN = 5


class InvalidPlan(Exception):  # noqa: N818 - what the selection asks for can't be planned
    """The selection names what isn't there. `reason` is a word for the condition, the text a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Digest:
    """A set of Runs as a number: the same whatever order they are found in, so that nothing has to be sorted for it."""

    total: int = 0
    value: int = 0

    def add(self, run_id: UUID) -> None:
        """One more Run."""
        self.total += 1
        self.value = (self.value + int.from_bytes(hashlib.sha512(run_id.bytes).digest())) % _MODULUS

    @property
    def text(self) -> str:
        """For the store: what `of` takes."""
        return f"{self.value:x}"

    @classmethod
    def of(cls, total: int, text: str) -> Digest:
        """The digest that was stored."""
        return cls(total, int(text, 16))


@dataclass(slots=True)
class Survey:
    """What one look over the store has found: how many, their digest, the first of them in order."""

    digest: Digest = field(default_factory=Digest)
    first: list[Found] = field(default_factory=list)

    def add(self, page: Iterable[Found]) -> None:
        """Takes in Runs, in any order."""
        runs = list(page)
        for run in runs:
            self.digest.add(run.id)
        self.first = heapq.nsmallest(PREVIEW, [*self.first, *runs], key=lambda run: (run.at, run.id))


def plan_hash(fields: Mapping[str, Any], digest: Digest) -> str:
    """The hash over every immutable field and the Runs."""
    body = {"spec": fields, "runs": digest.text, "total": digest.total}
    return "sha256:" + hashlib.sha256(_canonical(body)).hexdigest()


def spec_hash(reprocessing: Reprocessing) -> str:
    """A hash over what somebody asked for, whoever it was: by it one that is made again from Git is recognized."""
    fields = {name: value for name, value in reprocessing.immutable_fields().items() if name != "requestedBy"}
    return hashlib.sha256(_canonical(fields)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str).encode()


def selection_of(select: Select, automations: Mapping[int, str], namespace: str, *, parameters: bool) -> Selection:
    """The selection of a Reprocessing among a Solution's Automations (key → `<namespace>.<name>`).

    `parameters`: they are read along.

    Raises
    ------
    InvalidPlan
        It names an Automation that the Solution doesn't have.
    """
    chosen = tuple(automations)
    if select.automations is not None:
        wanted = {f"{namespace}.{name}" for name in select.automations}
        missing = sorted(wanted - set(automations.values()))
        if missing:
            raise InvalidPlan(
                "UnknownAutomation", f"spec.select.automations: the Solution has no Automation {_some(missing)}"
            )
        chosen = tuple(pk for pk, name in automations.items() if name in wanted)
    return Selection(
        automations=chosen,
        runs=None if select.runs is None else tuple(dict.fromkeys(map(UUID, select.runs))),
        states=None if select.states is None else frozenset(RunState(state).code for state in select.states),
        since=None if select.from_ is None else to_micros(select.from_),
        until=None if select.to is None else to_micros(select.to),
        by_start=select.time_field == "startedAt",
        references=None if select.references is None else frozenset(select.references),
        parameters=select.parameters or {},
        labels=select.labels or {},
        dead_lettered=select.dead_lettered,
        wants_parameters=parameters or select.reads is not None,
    )


def reads_one_of(
    page: Iterable[Found], wanted: Iterable[str] | None, templates: Mapping[int, Templates]
) -> list[Found]:
    """Those Runs that depend on one of the keys (None: all). `templates` by the Automations' keys."""
    if wanted is None:
        return list(page)
    given = set(wanted)
    none = Templates()
    return [run for run in page if keys(templates.get(run.automation, none).reads, run.parameters) & given]


def check_named(ids: Iterable[UUID], known: Mapping[UUID, tuple[int, int]], automations: Mapping[int, str]) -> None:
    """That each Run which is named is one of the Solution, and has ended.

    Parameters
    ----------
    known
        Automation and state of those that there are.

    Raises
    ------
    InvalidPlan
        `UnknownRuns` or `RunsNotEnded`, naming the first few.
    """
    unknown, open_ = [], []
    for run_id in ids:
        found = known.get(run_id)
        if found is None or found[0] not in automations:
            unknown.append(str(run_id))
        elif not RunState.of(found[1]).ended:
            open_.append(str(run_id))
    if unknown:
        raise InvalidPlan("UnknownRuns", f"spec.select.runs: the Solution has no Run {_some(unknown)}")
    if open_:
        raise InvalidPlan("RunsNotEnded", f"spec.select.runs: only ended Runs are run again, not {_some(open_)}")


def preview(runs: Iterable[Found], automations: Mapping[int, str]) -> list[PlannedRun]:
    """What is shown of the first Runs of a plan; never their parameters."""
    return [
        PlannedRun(
            id=str(run.id),
            automation=automations.get(run.automation, "").rpartition(".")[2] or None,
            state=RunState.of(run.state).value,
            scheduled_time=None if run.tick is None else from_micros(run.tick),
            started_at=None if run.started_at is None else from_micros(run.started_at),
        )
        for run in runs
    ]


def replay_parameters(spec: ReprocessingSpec, original: Mapping[str, Any]) -> dict[str, Any]:
    """A Run's parameters with the Reprocessing's over them."""
    return {**original, **(spec.parameters or {})}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
