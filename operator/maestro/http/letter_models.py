"""Queries, bodies and answers of the endpoints of dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from maestro.http.models import Instant, Limit, Model, RunStatus, Text

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class LetterSelection(Model):
    """Which dead letters; all that is given must match."""

    automation: str | None = Field(
        None, max_length=128, description="`<name>` or `<namespace>.<name>`; of one that is gone too."
    )
    namespace: Namespace | None = Field(None, description="Of the Automation.")
    queue: Text | None = Field(None, max_length=256, description="The queue that gave it up.")
    reason: Text | None = Field(
        None, max_length=64, description="rejected, expired, maxlen, delivery_limit or published."
    )
    run: UUID | None = Field(None, description="The Run that it is about.")
    since: Instant | None = Field(None, description="Recorded at or after.")
    until: Instant | None = Field(None, description="Recorded before.")

    @property
    def selects(self) -> bool:
        """Something is given, so that it isn't about all that there are."""
        return any(getattr(self, name) is not None for name in LetterSelection.model_fields)


class LettersQuery(LetterSelection):
    """Which dead letters a page shows."""

    redriven: bool | None = Field(None, description="true: only redriven ones; false: only those that still wait.")
    limit: Limit = 50
    cursor: str | None = Field(None, max_length=256)


class DiscardQuery(LetterSelection):
    """Which dead letters are discarded; at least one filter must be given."""

    redriven: bool | None = Field(None, description="true: only redriven ones; false: only those that still wait.")
    limit: Limit = 500


class RedriveRequest(Model):
    """What a redrive changes."""

    parameters: dict[str, Any] | None = Field(
        None, description="Merged over the parameters of the letter's Run, or of the message."
    )


class RedriveManyRequest(LetterSelection):
    """Which letters are redriven, of those that still wait; at least one filter must be given."""

    parameters: dict[str, Any] | None = Field(None, description="Merged over the parameters of each.")
    limit: Limit = 100
    cursor: str | None = Field(None, max_length=256)


class ListedLetter(Model):
    """A dead letter without its body."""

    id: int
    automation_id: str | None = Field(description="Whose Run, or whose queue, it is about; null: nobody's.")
    run_id: UUID | None
    queue: str = Field(description="The queue that gave it up; empty where none did.")
    reason: str
    count: int = Field(description="How often that queue has given it up for that reason.")
    publication: int | None = Field(description="The number of the publication; null where Maestro didn't send it.")
    message_id: str | None
    content_type: str | None
    headers: dict[str, Any]
    size: int = Field(description="Of the body, in bytes.")
    died_at: datetime | None
    recorded_at: datetime
    redriven_at: datetime | None
    redriven_as: UUID | None = Field(description="The Run that goes in its place.")
    redriven_by: str | None


class LetterBody(Model):
    """A body as people read it."""

    encoding: Literal["json", "text", "base64", "none"] = Field(
        description="What `content` is; none: too large to be shown here, `getDeadLetterBody` has it."
    )
    content: Any
    redacted: bool = Field(description="Values of `writeOnly` parameters were replaced.")


class Letter(ListedLetter):
    """A dead letter with its body."""

    body: LetterBody


class Letters(Model):
    """A page of dead letters, newest first."""

    items: list[ListedLetter]
    next: str | None = Field(description="The `cursor` that asks for the next page; null ends.")


class RedrivenRun(Model):
    """The Run that goes now."""

    job_id: UUID = Field(alias="job_id")
    status: RunStatus
    again: bool = Field(description="true: the letter's own Run, whose message is published again; false: a new one.")


class RedrivenLetter(Model):
    """What became of one letter: the Run that goes now, or why none does."""

    id: int
    job_id: UUID | None = Field(alias="job_id")
    error: str | None


class RedrivenLetters(Model):
    """What became of each letter."""

    items: list[RedrivenLetter]
    redriven: int
    refused: int
    next: str | None = Field(description="The `cursor` that goes on with older ones; null: there are none.")


class Discarded(Model):
    """How many letters were deleted."""

    discarded: int
    more: bool = Field(description="There are more: ask again.")
