"""Whether the gateway of a Solution is shut: computed from the Reprocessings and the time, never stored. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from maestro.resources import names
from maestro.resources.duration import Duration
from maestro.resources.reprocessing import TERMINAL_PHASES

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """May new work of a Solution go ahead? `unknown`: nobody can say now, and nobody guesses."""

    verdict: Literal["open", "blocked", "unknown"]
    reason: str = ""
    reprocessing: str | None = None


OPEN = GatewayAnswer("open")


@dataclass(frozen=True, slots=True)
class Block:
    """A Reprocessing that shuts its Solution's gateway.

    Attributes
    ----------
    order
        Of several the least is the one whose turn it is, or comes next.
    until
        When the gateway opens whatever happens (`maxBlock`); None: not before the Reprocessing's end.
    """

    order: tuple[bool, str, str]
    reprocessing: str
    answer: GatewayAnswer
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it still shuts the gateway."""
        return self.until is None or now < self.until


def solution_id_of(reprocessing: Object) -> str:
    """`<namespace>.<solution>` of a Reprocessing as the API server has it."""
    return names.solution_id(reprocessing["metadata"]["namespace"], str(reprocessing["spec"]["solution"]))


def has_begun(status: Object) -> bool:
    """Whether the replay has begun, as the status tells: from then on there is progress."""
    return status.get("phase") in ("Running", "RunningWithoutLock", "Stopped") or bool(status.get("progress"))


def is_approved(reprocessing: Object) -> bool:
    """Whether the plan that the status shows may run: decided so for this very plan, or approved ahead."""
    spec, status = reprocessing["spec"], reprocessing.get("status") or {}
    if spec.get("autoApprove"):
        return True
    plan_hash = (status.get("plan") or {}).get("hash")
    return spec.get("decision") == "Approved" and plan_hash is not None and spec.get("planHash") == plan_hash


def block_of(reprocessing: Object) -> Block | None:
    """How a Reprocessing, as the API server has it, shuts its Solution's gateway; None: not at all.

    It does from its approval to its end, so the gateway stays shut from one that is done to the next that waits. What
    ends it stands in `spec` (skipped, canceled, failed), so that nobody has to be alive to open the gateway.
    """
    spec, status = reprocessing["spec"], reprocessing.get("status") or {}
    if not spec.get("block", True) or spec.get("decision") == "Skipped" or spec.get("cancel") or spec.get("fail"):
        return None
    if status.get("phase") in TERMINAL_PHASES:
        return None
    begun = has_begun(status)
    if not begun and not is_approved(reprocessing):
        return None
    meta = reprocessing["metadata"]
    name = str(meta["name"])
    return Block(
        order=(not begun, str(meta.get("creationTimestamp") or ""), name),
        reprocessing=name,
        answer=GatewayAnswer("blocked", _reason(name, spec), name),
        until=_until(spec, status),
    )


def answer(blocks: Sequence[Block], now: datetime) -> GatewayAnswer:
    """The answer where these are the blocks of a Solution, the first one first."""
    for block in blocks:
        if block.holds(now):
            return block.answer
    return OPEN


def gateway(reprocessings: Iterable[Object], solution_id: str, now: datetime) -> GatewayAnswer:
    """The answer for `<namespace>.<solution>` where these are all Reprocessings that there are."""
    mine = (block_of(each) for each in reprocessings if solution_id_of(each) == solution_id)
    return answer(sorted((block for block in mine if block is not None), key=lambda block: block.order), now)


def _reason(name: str, spec: Object) -> str:
    why = f": {spec['reason']}" if spec.get("reason") else ""
    return f"Reprocessing {name} blocks Solution {spec['solution']}{why}"


def _until(spec: Object, status: Object) -> datetime | None:
    approved_at = (status.get("approval") or {}).get("at")
    if not spec.get("maxBlock") or not approved_at:
        return None
    return datetime.fromisoformat(approved_at) + timedelta(seconds=Duration(spec["maxBlock"]).seconds)
