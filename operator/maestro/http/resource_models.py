"""Automations and Schedules as HTTP shows and takes them: one flat object, the spec's fields under their own names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from maestro.http.models import Model, Text

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
GivenName = Annotated[Text, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]
FreeObject = dict[str, Any]


class ResourcesQuery(Model):
    """Which objects."""

    namespace: Namespace | None = None


class ResourceView(Model):
    """What every custom resource shows of itself."""

    id: str
    namespace: str
    name: str
    uid: str
    generation: int
    created_at: str | None


class AutomationView(ResourceView):
    """An Automation: its object's identity, spec and status."""

    solution: str
    display_name: str | None
    description: str | None
    script_path: str | None
    queue_name: str | None
    launch: Literal["Queue", "Job"]
    suspended: bool
    default_params: FreeObject
    parameter_schema: FreeObject | None
    queue: FreeObject
    worker: FreeObject
    run: FreeObject
    reads: list[str]
    writes: list[str]
    history: FreeObject
    notifications: list[FreeObject]
    status: FreeObject


class AutomationViews(Model):
    """Automations, by namespace and name."""

    items: list[AutomationView]


class ScheduleView(ResourceView):
    """A Schedule: its object's identity, spec and status."""

    display_name: str | None = Field(description="The name that it was given over HTTP, where Kubernetes took another.")
    automation: str
    automation_id: str
    schedule: str | None
    schedules: list[str] | None
    time_zone: str
    dst: FreeObject
    start_at: str | None
    end_at: str | None
    exclude: FreeObject | None
    suspended: bool
    launch: Literal["Queue", "Job"]
    concurrency_policy: str
    starting_deadline_seconds: int | None
    missed: FreeObject
    jitter: str | None
    parameters: FreeObject
    successful_jobs_history_limit: int
    failed_jobs_history_limit: int
    next_schedule_time: str | None
    status: FreeObject


class ScheduleViews(Model):
    """Schedules, by namespace and name."""

    items: list[ScheduleView]


class ResourceBody(Model):
    """What a body may send of the object itself; what a view shows and nobody may change is taken and ignored."""

    name: GivenName | None = Field(
        None, description="A name that Kubernetes doesn't take becomes a slug, with the name kept as displayName."
    )
    namespace: Namespace | None = Field(None, description="The API's own default namespace where none is given.")
    suspend: bool | None = Field(None, description="Also under its name in a view, `suspended`.")
    suspended: bool | None = None
    id: Any = None
    uid: str | None = Field(None, max_length=64, description="Only if the object is this one.")
    generation: Any = None
    created_at: Any = None
    status: Any = None


class AutomationBody(ResourceBody):
    """An Automation; what is under a name of the spec has the form that the custom resource has."""

    display_name: str | None = None
    description: str | None = None
    script_path: str | None = None
    queue_name: str | None = Field(None, description="The spec's `queue.name`.")
    default_params: FreeObject | None = Field(None, description="The spec's `defaultParameters`, also under that name.")
    default_parameters: FreeObject | None = None
    parameter_schema: FreeObject | list[FreeObject] | None = Field(
        None,
        description="A JSON Schema (2020-12), or the older list of {name, label, type: text, date, number, select, "
        "boolean or list, itemType, required, options}, which is translated.",
    )
    solution: str | None = None
    launch: str | None = None
    queue: FreeObject | None = None
    worker: FreeObject | None = None
    run: FreeObject | None = None
    reads: list[str] | None = None
    writes: list[str] | None = None
    history: FreeObject | None = None
    notifications: list[FreeObject] | None = None


class ScheduleBody(ResourceBody):
    """A Schedule; fields have the form that the custom resource has."""

    automation: str | None = Field(None, description="The Automation's name, or its id `<namespace>.<name>`.")
    automation_id: str | None = Field(None, description="The same under its name in a view.")
    schedule: str | None = None
    schedules: list[str] | None = None
    time_zone: str | None = None
    dst: FreeObject | None = None
    start_at: str | None = None
    end_at: str | None = None
    exclude: FreeObject | None = None
    launch: str | None = None
    concurrency_policy: str | None = None
    starting_deadline_seconds: int | None = None
    missed: FreeObject | None = None
    jitter: str | None = None
    parameters: FreeObject | None = None
    successful_jobs_history_limit: int | None = None
    failed_jobs_history_limit: int | None = None
    display_name: Any = None
    next_schedule_time: Any = None
