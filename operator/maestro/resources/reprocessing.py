"""The kind Reprocessing: a plan to run a set of finished Runs of one Solution again, after a person has approved it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, WithJsonSchema

from maestro.resources import names
from maestro.resources.conditions import Conditions
from maestro.resources.duration import Duration
from maestro.resources.fields import (
    ATOMIC,
    AutomationName,
    FreeObject,
    Hash,
    Key,
    RunId,
    ShortText,
    SolutionName,
    UserName,
    section,
)
from maestro.resources.model import Model, Resource
from maestro.resources.rules import Rule, extra, immutable, immutable_optional, object_name, rule

Phase = Literal[
    "PendingApproval",
    "Approved",
    "Running",
    "RunningWithoutLock",
    "Stopped",
    "Finished",
    "Skipped",
    "Failure",
    "Canceled",
]
TERMINAL_PHASES: frozenset[Phase] = frozenset({"Finished", "Skipped", "Failure", "Canceled"})

CRITERIA = (
    "runs",
    "automations",
    "states",
    "from",
    "to",
    "parameters",
    "labels",
    "references",
    "deadLettered",
    "reads",
)
_MUTABLE = (
    "decision",
    "decided_by",
    "decision_reason",
    "plan_hash",
    "suspend",
    "resume",
    "cancel",
    "fail",
    "parallelism",
)

_LABELS = WithJsonSchema(
    {"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": 1024}}
)


class Select(Model):
    """Which Runs are run again: those that match everything that is given."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            rule(
                " || ".join(f"has(self.{criterion})" for criterion in CRITERIA),
                f"at least one of {', '.join(CRITERIA)} must be given",
            ),
            rule(
                "!has(self.from) || !has(self.to) || self.from <= self.to",
                "from must not be later than to",
                field=".from",
            ),
        )
    )

    runs: Annotated[list[RunId], Field(min_length=1, max_length=10_000, json_schema_extra=ATOMIC)] | None = Field(
        None, description="The ids of the Runs, at most 10000."
    )
    automations: (
        Annotated[list[AutomationName], Field(min_length=1, max_length=1000, json_schema_extra=ATOMIC)] | None
    ) = Field(None, description="Runs of these Automations, by name. Defaults to all of the Solution.")
    states: (
        Annotated[
            list[Literal["Succeeded", "Failed", "Canceled"]],
            Field(min_length=1, max_length=3, json_schema_extra=ATOMIC),
        ]
        | None
    ) = Field(None, description="Runs that ended so. Defaults to any end.")
    from_: datetime | None = Field(
        None, alias="from", description="Runs whose timeField is at this instant or later. Defaults to no limit."
    )
    to: datetime | None = Field(
        None, description="Runs whose timeField is at this instant or earlier. Defaults to no limit."
    )
    time_field: Literal["scheduledTime", "startedAt"] = Field(
        "scheduledTime",
        description="The time that from and to speak of: scheduledTime, the tick that a Run stands for (the default), "
        "or startedAt, when it really began.",
    )
    parameters: FreeObject | None = Field(None, description="Runs whose parameters have these values.")
    labels: Annotated[dict[str, str], _LABELS] | None = Field(None, description="Runs that carry these labels.")
    references: Annotated[list[ShortText], Field(min_length=1, max_length=1000, json_schema_extra=ATOMIC)] | None = (
        Field(None, description="Runs that were accepted with one of these references.")
    )
    dead_lettered: bool | None = Field(
        None, description="true: only Runs whose message was given up by the queue; false: only others."
    )
    reads: Annotated[list[Key], Field(min_length=1, max_length=256, json_schema_extra=ATOMIC)] | None = Field(
        None, description="Runs that depend on one of these keys, as their Automation's reads say."
    )


class Origin(Model):
    """What made the Reprocessing necessary."""

    run: RunId | None = Field(None, description="The id of the Run that brought the late or corrected data.")
    event: ShortText | None = Field(None, description="The event, in words of the system that it came from.")


class Cascade(Model):
    """Runs that become stale by what is run again."""

    enabled: bool = Field(
        True, description="Whether Runs that read what a replayed Run wrote join the plan, once each. Defaults to true."
    )
    max_additions: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        1000,
        description="How many may join. Past that the replay waits for a new approval, with what is done kept. "
        "Defaults to 1000.",
    )


def _same(name: str) -> str:
    return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"


def _only_with_decision(name: str) -> Rule:
    # Else somebody could lay one out for whoever decides next.
    return rule(
        f"has(self.decision) || !has(self.{name})",
        f"{name} may be given only together with decision",
        field=f".{name}",
    )


def _decision_is_final() -> Rule:
    unchanged = " && ".join(_same(name) for name in ("decision", "decidedBy", "decisionReason", "planHash"))
    decided_anew = (
        "has(self.decision) && has(self.planHash) && (!has(oldSelf.planHash) || self.planHash != oldSelf.planHash)"
    )
    return rule(
        f"!has(oldSelf.decision) || ({unchanged}) || ({decided_anew})",
        "decision is final for its plan: it can be changed only together with a new planHash",
        message_expression="'already ' + oldSelf.decision + ' by ' + "
        "(has(oldSelf.decidedBy) ? oldSelf.decidedBy : 'somebody') + "
        "': a decision is final for its plan (decision, decidedBy, decisionReason and planHash stay); "
        "another plan is decided together with spec.planHash, the value of status.plan.hash'",
        field=".decision",
    )


def _one_way(name: str) -> Rule:
    return rule(
        f"!has(oldSelf.{name}) || !oldSelf.{name} || (has(self.{name}) && self.{name})",
        f"{name} can't be taken back",
        field=f".{name}",
    )


class ReprocessingSpec(Model):
    """What is run again, how, and what was decided about it."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            immutable_optional("reason"),
            immutable_optional("parameters"),
            immutable_optional("origin"),
            immutable_optional("maxBlock"),
            immutable_optional("requestedBy"),
            *(_only_with_decision(name) for name in ("decidedBy", "decisionReason", "planHash")),
            _decision_is_final(),
            rule(
                "!has(oldSelf.resume) || (has(self.resume) && self.resume >= oldSelf.resume)",
                "resume only grows: add 1 to it to go on once more",
                field=".resume",
            ),
            _one_way("cancel"),
            _one_way("fail"),
        )
    )

    solution: SolutionName = Field(
        description="The Solution whose Runs are run again; it belongs to the Reprocessing's namespace. Immutable.",
        json_schema_extra=extra(immutable("solution")),
    )
    reason: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        None, description="Why, in a sentence; whoever approves reads it. Immutable."
    )
    select: Select = Field(
        description="Which finished Runs are run again: all given fields must match. Immutable.",
        json_schema_extra=extra(immutable("select")),
    )
    parameters: FreeObject | None = Field(
        None, description="Parameters that are merged over those of each Run. Defaults to none. Immutable."
    )
    origin: Origin | None = Field(
        None, description="What made the Reprocessing necessary. For now it only informs. Immutable."
    )
    parallelism: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1, description="How many replayed Runs are in flight at once. Defaults to 1, which keeps strict order."
    )
    block: bool = Field(
        True,
        description="Whether the Solution's gateway is blocked while the replay runs, so that new Runs are held. "
        "Defaults to true; false leaves it open, and the phase is then RunningWithoutLock. Immutable.",
        json_schema_extra=extra(immutable("block")),
    )
    max_block: Duration | None = Field(
        None,
        description="After so long, counted from the approval, the gateway opens whatever happens, and the replay "
        "suspends itself. Defaults to none: it stays blocked until the end. Immutable.",
    )
    drain_timeout: Duration = Field(
        Duration("15m"),
        description="How long Runs in flight are waited for before the replay starts. Past it the phase is Stopped "
        "with reason DrainTimeout, and resume starts anyway. Defaults to 15m. Immutable.",
        json_schema_extra=extra(immutable("drainTimeout")),
    )
    cascade: Cascade = section(
        Cascade,
        "Runs that become stale by what is run again, and join the plan. Immutable.",
        immutable("cascade"),
    )
    on_failure: Literal["Stop", "Continue"] = Field(
        "Stop",
        description="What a replayed Run that fails does. Stop, the default: the phase is Stopped; the place and the "
        "block are kept until resume or cancel. Continue: the next one runs. Immutable.",
        json_schema_extra=extra(immutable("onFailure")),
    )
    auto_approve: bool = Field(
        False,
        description="Whether the plan runs without a decision. Defaults to false; whoever sets it needs the right to "
        "approve. Immutable.",
        json_schema_extra=extra(immutable("autoApprove")),
    )
    decision: Literal["Approved", "Skipped"] | None = Field(
        None,
        description="What was decided: Approved runs the plan, Skipped drops it. Absent while it awaits approval. "
        "Final "
        'for its plan. kubectl patch reprocessing NAME --type merge -p \'{"spec":{"decision":"Approved"}}\'.',
    )
    decided_by: UserName | None = Field(
        None, description="Who decided. The API server stamps or checks it; it can't be somebody else."
    )
    decision_reason: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        None, description="Why it was decided so, in a sentence. Final with the decision."
    )
    plan_hash: Hash | None = Field(
        None,
        description="The plan that the decision is about: the value of status.plan.hash when it was made. A plan that "
        "grew or went stale has another one and is decided anew.",
    )
    requested_by: UserName | None = Field(
        None, description="Who made the Reprocessing. The API server stamps or checks it. Immutable."
    )
    suspend: bool = Field(
        False,
        description="Whether the replay pauses after the Runs in flight; the gateway stays as it is. Defaults to "
        "false.",
    )
    # Without defaults: the API server restores these two where a Git tool applies without them, and must see that.
    resume: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = Field(
        None, description="Add 1 to let a Stopped replay go on. Defaults to 0; only grows."
    )
    cancel: bool | None = Field(
        None,
        description="Set to true to end it as Canceled, with what is done kept; the gateway opens. Defaults to false; "
        "can't be taken back.",
    )
    fail: bool | None = Field(
        None,
        description="Set to true to end it as Failure, with what is done kept; the gateway opens. Defaults to false; "
        "can't be taken back.",
    )


class PlannedRun(Model):
    """A Run in the plan."""

    id: RunId = Field(description="The Run's id.")
    automation: ShortText | None = Field(None, description="The name of its Automation.")
    state: ShortText | None = Field(None, description="How it ended.")
    scheduled_time: datetime | None = Field(None, description="The tick that it stands for.")
    started_at: datetime | None = Field(None, description="When it began.")


class Plan(Model):
    """What is run again."""

    hash: Hash | None = Field(None, description="A hash over every immutable field and the Runs; a decision names it.")
    total: int | None = Field(None, description="How many Runs.")
    predicted_additions: int | None = Field(
        None, description="How many more are expected to join because they become stale."
    )
    preview: Annotated[list[PlannedRun], Field(max_length=50, json_schema_extra=ATOMIC)] | None = Field(
        None, description="The first 50 Runs, without their parameters."
    )


class Progress(Model):
    """How far the replay is."""

    total: int | None = Field(None, description="How many Runs there are to replay, joined ones included.")
    done: int | None = Field(None, description="How many have ended.")
    succeeded: int | None = Field(None, description="How many of them succeeded.")
    failed: int | None = Field(None, description="How many of them failed.")
    added: int | None = Field(None, description="How many joined because they became stale.")
    per_second: Annotated[float, Field(ge=0)] | None = Field(
        None, description="How many end in a second, over the last minutes."
    )
    estimated_end: datetime | None = Field(None, description="When it ends, if it goes on so.")


class Approval(Model):
    """The decision as the controller took it."""

    decision: Literal["Approved", "Skipped"] | None = Field(None, description="Approved or Skipped.")
    by: UserName | None = Field(None, description="Who decided.")
    at: datetime | None = Field(None, description="When the controller saw it; maxBlock counts from here.")
    via: ShortText | None = Field(None, description="By which way: kubectl, http or autoApprove.")


class HistoryEntry(Model):
    """A phase that was entered."""

    phase: Phase = Field(description="The phase.")
    user: UserName | None = Field(None, description="Who caused it; absent where nobody did.")
    time: datetime = Field(description="When it was entered.")


class ReprocessingStatus(Model):
    """What the Reprocessing is, as its controller last saw it."""

    observed_generation: int = Field(
        -1, description="The metadata.generation that the status speaks of; -1 while nobody has looked at the object."
    )
    phase: Phase | None = Field(
        None,
        description="Where it is: PendingApproval, Approved (waits for its turn), Running, RunningWithoutLock, "
        "Stopped, and the ends Finished, Skipped, Failure and Canceled.",
    )
    plan: Plan | None = Field(None, description="What is run again.")
    progress: Progress | None = Field(None, description="How far the replay is.")
    approval: Approval | None = Field(None, description="The decision as the controller took it.")
    history: Annotated[list[HistoryEntry], Field(max_length=50, json_schema_extra=ATOMIC)] | None = Field(
        None, description="The phases so far, at most the last 50."
    )
    conditions: Conditions = Field(
        default_factory=list,
        description="Ready (true from PendingApproval on), Approved, GatewayBlocked and Complete; Reconciling while "
        "the plan is made, Stalled where it is Stopped or somebody has to change something.",
    )


class Reprocessing(Resource):
    """A plan to run a set of finished Runs of one Solution again; a person approves or skips it."""

    model_config = ConfigDict(json_schema_extra=extra(object_name(names.MAX_NAME)))

    kind: Literal["Reprocessing"] = "Reprocessing"
    spec: ReprocessingSpec = Field(description="What is run again, how, and what was decided about it.")
    status: ReprocessingStatus = Field(
        default_factory=ReprocessingStatus,
        description="What the Reprocessing is, as its controller last saw it. Only Maestro writes it.",
        json_schema_extra={"default": {"observedGeneration": -1}},
    )

    @property
    def solution_id(self) -> str:
        """`<namespace>.<solution>`."""
        return names.solution_id(self.metadata.namespace, self.spec.solution)

    def immutable_fields(self) -> dict[str, Any]:
        """The immutable part of the spec as JSON; the plan's hash is over it."""
        return self.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(_MUTABLE))
