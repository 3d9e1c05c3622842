"""Bodies, queries and answers as models: they check what comes in, and describe the API in its OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from maestro.runs.model import PRIORITIES, RunState

MAX_LABELS = 32
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
RunStatus = Literal["pending", "running", "completed", "completed_no_invoices", "failed", "canceled"]


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _in_range(value: datetime) -> datetime:
    # Far from any sane use, and near the ends of the calendar another offset can't be written any more.
    if not _EARLIEST <= value < _LATEST:
        raise ValueError("must lie between 1970 and 2200")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range)]
Text = Annotated[str, AfterValidator(_no_nul)]
LabelKey = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$")
]
LabelValue = Annotated[Text, StringConstraints(max_length=256)]
Labels = dict[LabelKey, LabelValue]


class Model(BaseModel):
    """camelCase outside, snake_case inside; either is taken; what isn't known is refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class RunRequest(Model):
    """A Run with all that it may carry."""

    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Merged over the Automation's defaultParameters and checked against its schema.",
    )
    labels: Labels = Field(default_factory=dict, max_length=MAX_LABELS)
    reference: Annotated[Text, StringConstraints(min_length=1, max_length=256)] | None = Field(
        None, description="The caller's own name for what the Run is about."
    )
    priority: int = Field(0, ge=PRIORITIES.start, lt=PRIORITIES.stop, description="Higher goes first.")
    not_before: Instant | None = Field(None, description="It isn't started before this instant.")
    expires_at: Instant | None = Field(None, description="Not started by then: Canceled with reason Expired.")
    fairness_key: Annotated[Text, StringConstraints(min_length=1, max_length=256)] | None = Field(
        None, description="Runs of different keys take turns."
    )
    notify: list[Annotated[Text, StringConstraints(min_length=1, max_length=2048)]] = Field(
        default_factory=list, max_length=16, description="Adds to the Automation's notifications."
    )


class AcceptedRun(BaseModel):
    """What was accepted; older name `job` for a Run."""

    job_id: UUID
    status: RunStatus


class AcceptedRuns(BaseModel):
    """An id for each line, in order."""

    items: list[AcceptedRun]


class LastParameters(Model):
    """The caller's last parameters for this Automation; null before the first Run."""

    parameters: dict[str, Any] | None


class Attempt(Model):
    """One attempt of a Run."""

    attempt: int
    pod: str | None = Field(description="UID of the worker's pod, or the address of a worker without one.")
    worker: str | None
    exit_code: int | None = Field(description="Of the container, for a Run that a Job executed; the last attempt's.")
    outcome: str | None
    reason: str | None
    message: str | None
    started_at: datetime | None
    ended_at: datetime | None


class RunProgress(Model):
    """How far a Run says it is."""

    done: float | None
    total: float | None
    text: str | None
    at: datetime


class ListedRun(Model):
    """A Run as a list shows it: all but its attempts. `writeOnly` parameters are redacted."""

    id: UUID
    automation_id: str
    solution_id: str
    user_id: str | None
    status: RunStatus
    state: RunState
    reason: str | None
    message: str | None
    error_class: str | None
    parameters: dict[str, Any] | None
    result: Any
    retry_count: int = Field(description="Attempts after the first, without those that draining workers gave back.")
    max_attempts: int
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    due_at: datetime | None
    expires_at: datetime | None
    cancellation_requested_at: datetime | None
    last_heartbeat_at: datetime | None
    schedule: str | None
    scheduled_time: datetime | None
    copy_of: UUID | None
    replay_of: UUID | None
    held_by: str | None = Field(description="The Reprocessing that shuts the gateway, of a held Run.")
    reprocessing: str | None = Field(description="The Reprocessing that replays it, of a replay.")
    labels: dict[str, str]
    reference: str | None
    priority: int
    fairness_key: str | None
    progress: RunProgress | None


class Run(ListedRun):
    """A Run with its attempts. `writeOnly` parameters are redacted."""

    attempts: list[Attempt]


class Runs(Model):
    """A page of Runs, newest first, without their attempts: `getRun` has those."""

    items: list[ListedRun]
    next: str | None = Field(description="The `cursor` that asks for the next page; null ends.")


def _split(value: object) -> object:
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


RunStatusOrState = Literal[
    "pending",
    "running",
    "completed",
    "completed_no_invoices",
    "failed",
    "canceled",
    "Held",
    "Pending",
    "Queued",
    "Running",
    "Retrying",
    "Succeeded",
    "Failed",
    "Canceled",
]
Limit = Annotated[int, Field(ge=1, le=500, description="Most items of a page.")]


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("must be <key>=<value>, several separated by commas")
    return {key: text for key, _, text in pairs}


class RunFields(Model):
    """Which Runs; all that is given must match."""

    status: Annotated[list[RunStatusOrState], BeforeValidator(_split)] | None = Field(
        None,
        description="Statuses or states, separated by commas. `completed` is every Run that succeeded, "
        "`completed_no_invoices` only those that found nothing to do.",
    )
    automation: str | None = Field(
        None, max_length=128, description="`<name>` or `<namespace>.<name>`; of one that is gone too."
    )
    user: Text | None = Field(None, max_length=512)
    reference: Text | None = Field(None, max_length=256)
    schedule: Text | None = Field(None, max_length=128)
    since: Instant | None = Field(None, description="Accepted at or after.")
    until: Instant | None = Field(None, description="Accepted before.")
    labels: Labels | None = Field(None, max_length=MAX_LABELS)


class RunsQuery(RunFields):
    """A page of Runs."""

    labels: (
        Annotated[
            Labels,
            BeforeValidator(_pairs),
            WithJsonSchema({"type": "string", "description": "`<key>=<value>`, several separated by commas."}),
        ]
        | None
    ) = Field(None, max_length=MAX_LABELS)
    limit: Limit = 50
    cursor: str | None = Field(None, max_length=256)


class LogsQuery(Model):
    """Which lines of a Run's log."""

    after: int = Field(0, ge=0, le=2**62, description="Only lines with a greater number.")
    limit: Annotated[int, Field(ge=1, le=5000)] = 500


class LogEntry(Model):
    """One line of a Run's log."""

    number: int
    at: datetime
    level: str
    message: str
    actionable: bool
    attempt: int


class LogEntries(Model):
    """Lines of a Run's log in order."""

    items: list[LogEntry]
    after: int = Field(description="Asks for the lines that come next.")


class CancelQuery(Model):
    """How to cancel."""

    force: bool = Field(False, description="End a running Run at once, and fence its worker.")


class Canceled(Model):
    """What became of a cancel: `canceled` now, or asked for (`running` until the worker obeys)."""

    job_id: UUID = Field(alias="job_id")
    status: RunStatus
    cancellation_requested: bool = Field(alias="cancellation_requested")


class RetryRequest(Model):
    """What a retry changes."""

    parameters: dict[str, Any] | None = Field(
        None, description="In place of the parameters of the Run that is retried."
    )


class UnknownQuery(Model):
    """Which unknown Runs."""

    automation: Annotated[Text, StringConstraints(max_length=128)] | None = None
    limit: Limit = 100


class UnknownAccept(Model):
    """With what an unknown Run is accepted again: what it was accepted with the first time, nobody knows any more."""

    automation: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="Needed where it isn't known whose Run it is."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Merged over the Automation's defaultParameters and checked against its schema.",
    )


class UnknownRun(Model):
    """A Run that workers speak of and the store doesn't know."""

    id: UUID
    automation_id: str | None = Field(description="Whose worker spoke of it; null: nobody can tell.")
    first_seen_at: datetime
    last_seen_at: datetime
    last_operation: str = Field(description="What was said last: start, log, progress, poll, finish or release.")
    worker: str | None = Field(description="Who said it.")
    said_status: str | None = Field(description="How it ended, by a worker that finished it; null: none has.")
    store: str | None = Field(description="The store's id in the message that it was started from.")
    publication: int | None
    parameters: None = Field(None, description="Always null: they aren't known.")


class UnknownRuns(Model):
    """Runs that the store doesn't know, the last one spoken of first."""

    items: list[UnknownRun]


class KeysQuery(Model):
    """Which ordering keys."""

    blocked: bool = Field(True, description="Only blocked ones; false: all that have Runs which haven't ended.")
    limit: Limit = 100


class Key(Model):
    """An ordering key."""

    key: str = Field(description="The hash of its values; releases it.")
    open_runs: int
    blocked_by: UUID | None = Field(description="The Run whose failure blocks it.")


class Keys(Model):
    """Ordering keys."""

    items: list[Key]


class Health(BaseModel):
    """The API answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """Every error."""

    class Detail(BaseModel):
        """Which field breaks which rule."""

        path: str
        rule: str = Field(description="The rule in words, or the keyword of the JSON Schema.")
        message: str | None = Field(None, description="With a keyword: the rule in words.")

    status: int
    message: str
    details: list[Detail] = []
    reason: str | None = Field(None, description="A word for programs, where several causes share the status.")


class OlderProblem(BaseModel):
    """Errors of the version 1.0.0 paths."""

    status: str
    message: str


class StartRequest(BaseModel):
    """What an SDK worker says when it starts a Run; the older contract sends no body."""

    worker: Annotated[Text, StringConstraints(min_length=1, max_length=256)] | None = None
    pub: int | None = Field(None, ge=0, lt=2**63)
    epoch: int | None = Field(None, ge=0, lt=2**63)
    store: Annotated[Text, StringConstraints(max_length=64)] | None = None
    redelivered: bool = False


class Started(BaseModel):
    """The attempt that begins."""

    attempt: int
    parameters: dict[str, Any]
    heartbeat_timeout: float
    timeout: float
    cancellation_requested: bool
    alone: bool | None = None


class Refusal(Problem):
    """A report that doesn't count (any more)."""

    reason: str


class Noted(BaseModel):
    """A report that counts."""

    accepted: bool = True
    cancellation_requested: bool | None = None


class WorkerStatus(BaseModel):
    """What the older contract's workers check before they start."""

    status: RunStatus
    terminal: bool
    started_at: datetime | None
    completed_at: datetime | None
    last_heartbeat_at: datetime | None
    cancellation_requested_at: datetime | None
    retry_count: int


class CancellationQuery(BaseModel):
    """Who polls; the older contract gives neither."""

    model_config = ConfigDict(extra="forbid")

    attempt: int | None = Field(None, ge=0, lt=2**31)
    worker: Annotated[Text, StringConstraints(min_length=1, max_length=256)] | None = None


class Cancellation(BaseModel):
    """Whether the worker should stop."""

    cancellation_requested: bool
