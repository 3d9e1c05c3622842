"""Reprocessings as HTTP shows and takes them: one flat object, the spec's fields under their own names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from maestro.http.models import Model, Text
from maestro.http.resource_models import FreeObject, GivenName, Namespace, ResourcesQuery, ResourceView
from maestro.resources.reprocessing import Phase

SOLUTION_ID = r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
SolutionId = Annotated[str, StringConstraints(max_length=127, pattern=SOLUTION_ID)]


class ReprocessingView(ResourceView):
    """A Reprocessing: its object's identity, what was asked for, what was decided, and its status."""

    solution: str
    solution_id: str
    phase: Phase | None = Field(description="None until its controller has looked at it.")
    reason: str | None
    select: FreeObject
    parameters: FreeObject
    origin: FreeObject | None
    parallelism: int
    block: bool
    max_block: str | None
    drain_timeout: str
    cascade: FreeObject
    on_failure: Literal["Stop", "Continue"]
    auto_approve: bool
    requested_by: str | None
    decision: Literal["Approved", "Skipped"] | None
    decided_by: str | None
    decision_reason: str | None
    plan_hash: str | None = Field(description="The plan that was decided about.")
    suspended: bool
    resume: int
    cancel: bool
    fail: bool
    status: FreeObject


class ReprocessingViews(Model):
    """Reprocessings, oldest first."""

    items: list[ReprocessingView]


class ReprocessingsQuery(ResourcesQuery):
    """Which Reprocessings."""

    solution: SolutionId | None = Field(None, description="Of this Solution: `<name>` or `<namespace>.<name>`.")
    phase: Annotated[Text, StringConstraints(max_length=256)] | None = Field(
        None, description="In one of these phases, separated by commas."
    )


class ReprocessingBody(Model):
    """What is to be run again; fields have the form that the custom resource has."""

    name: GivenName | None = Field(
        None, description="The object's name; made of the Solution's and the time where none is given."
    )
    namespace: Namespace | None = Field(None, description="Where the Solution is; its id may say so, too.")
    solution: SolutionId | None = Field(None, description="The Solution: `<name>` or `<namespace>.<name>`.")
    reason: str | None = None
    select: FreeObject | None = None
    parameters: FreeObject | None = None
    origin: FreeObject | None = None
    parallelism: int | None = None
    block: bool | None = None
    max_block: str | None = None
    drain_timeout: str | None = None
    cascade: FreeObject | None = None
    on_failure: str | None = None
    auto_approve: bool | None = Field(None, description="Needs the right to approve.")
    suspend: bool | None = None


class PlanView(Model):
    """Which Runs would be run again."""

    hash: str
    total: int
    predicted_additions: int | None = Field(description="How many more are expected to join because they become stale.")
    preview: list[FreeObject] = Field(description="The first 50, without their parameters.")


class ItemView(Model):
    """A Run of a plan."""

    run: str
    automation_id: str | None
    run_state: str | None = Field(description="How the Run itself ended; its record never changes.")
    scheduled_time: str | None
    started_at: str | None
    state: str = Field(description="Waiting, InFlight, Succeeded or Failed.")
    replayed_by: str | None = Field(description="The new Run that runs it again.")
    reason: str | None
    added: bool = Field(description="It joined because another made it stale.")


class ItemViews(Model):
    """Runs of a plan, in their order."""

    items: list[ItemView]
    next: str | None = Field(description="The `cursor` of the next page.")


class ItemsQuery(Model):
    """Which page."""

    limit: int = Field(100, ge=1, le=1000)
    cursor: Annotated[Text, StringConstraints(max_length=64)] | None = None


class DecisionBody(Model):
    """What may be said about a decision."""

    user: Annotated[Text, StringConstraints(max_length=256)] | None = Field(
        None, description="For whom the caller decides: a label, kept in the reason. Who decided is who authenticated."
    )
    reason: Annotated[Text, StringConstraints(max_length=700)] | None = Field(None, description="Why, in a sentence.")
    plan_hash: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="Decide only if the plan is still this one, `status.plan.hash`."
    )


class FailureBody(Model):
    """Whose running Reprocessing ends as Failure."""

    model_config = ConfigDict(extra="ignore")

    system_id: SolutionId = Field(description="The Solution: `<name>` or `<namespace>.<name>`.")


class OlderDecisionBody(Model):
    """For whom the caller decides."""

    model_config = ConfigDict(extra="ignore")

    user: Annotated[Text, StringConstraints(max_length=256)] | None = Field(
        None, description="A label, kept in the reason. Who decided is who authenticated."
    )


class OlderFindQuery(Model):
    """Which Reprocessings of the Solution."""

    status: Annotated[Text, StringConstraints(max_length=256)] | None = Field(
        None, description="Phases, separated by commas, in any case; none: all."
    )
