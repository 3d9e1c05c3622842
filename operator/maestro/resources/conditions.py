"""Conditions of a status, by the rules that `kubectl wait`, `helm --wait` and GitOps tools (kstatus) go by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from maestro.resources.model import Model
from maestro.resources.rules import extra

ConditionStatus = Literal["True", "False", "Unknown"]
Settlement = Literal["Current", "InProgress", "Failed"]

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

_MAX_REASON = 1024
_MAX_MESSAGE = 32768
_ELLIPSIS = " …"


class Condition(Model):
    """One aspect of the object's state."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=316)] = Field(
        description="The aspect, such as Ready; at most one condition has a type."
    )
    status: ConditionStatus = Field(description="Whether the condition holds: True, False or Unknown.")
    observed_generation: Annotated[int, Field(ge=0)] = Field(
        0, description="The metadata.generation that the condition speaks of."
    )
    last_transition_time: datetime = Field(description="When status last changed from one value to another.")
    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=_MAX_REASON, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
    ] = Field(description="One word in CamelCase that says why; programs may go by it.")
    message: Annotated[str, StringConstraints(max_length=_MAX_MESSAGE)] = Field(
        "", description="A sentence for people that says what is so and, where something is wrong, what to do."
    )


Conditions = Annotated[
    list[Condition], Field(max_length=16, json_schema_extra=extra(list_type="map", list_map_keys=["type"]))
]


def find_condition(conditions: Sequence[Condition], type: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == type), None)


def set_condition(
    conditions: Sequence[Condition],
    type: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    observed_generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the conditions with this one in them, in its old place or at the end.

    `lastTransitionTime` is kept where the status is what it was; a message that is too long is cut.
    """
    old = find_condition(conditions, type)
    changed_at = old.last_transition_time if old and old.status == status else _whole_seconds(now)
    new = Condition(
        type=type,
        status=status,
        observed_generation=observed_generation,
        last_transition_time=changed_at,
        reason=reason,
        message=_cut(message),
    )
    if old is None:
        return [*conditions, new]
    return [new if condition.type == type else condition for condition in conditions]


def remove_condition(conditions: Sequence[Condition], type: str) -> list[Condition]:
    """Return the conditions without that type."""
    return [condition for condition in conditions if condition.type != type]


def settle(
    conditions: Sequence[Condition],
    settlement: Settlement,
    reason: str,
    message: str,
    observed_generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the conditions with `Ready`, `Reconciling` and `Stalled` as kstatus wants them together.

    - Current: Ready=True; also for an object that is suspended, blocked, paused or scaled to zero.
    - InProgress: Ready=False and Reconciling=True: Maestro still works on it, or waits for something.
    - Failed: Ready=False and Stalled=True: nothing changes until somebody changes something.

    `Reconciling` and `Stalled` are there only while they hold: tools take their mere presence for bad news.
    """
    result = set_condition(
        conditions, READY, "True" if settlement == "Current" else "False", reason, message, observed_generation, now
    )
    for type, holds in ((RECONCILING, settlement == "InProgress"), (STALLED, settlement == "Failed")):
        if holds:
            result = set_condition(result, type, "True", reason, message, observed_generation, now)
        else:
            result = remove_condition(result, type)
    return result


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - len(_ELLIPSIS)] + _ELLIPSIS


def _whole_seconds(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0)
