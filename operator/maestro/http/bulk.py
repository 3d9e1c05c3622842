"""Cancel and retry of many Runs by a filter: bounded in one request, and gone on with where that one ended."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid
from maestro.http.execute import idempotency_key
from maestro.http.models import Model, RunFields
from maestro.http.resources import BODY_LIMIT, given
from maestro.http.runfilter import RunFilters
from maestro.runs import bulk
from maestro.runs.errors import Backlog, IdempotencyConflict, NeverFits, UnknownAutomation
from maestro.runs.model import Accepted, NewRun, RunFilter, copy_of
from maestro.runs.store import RunStore

log = logging.getLogger(__name__)

MOST_RUNS = 10_000
_SHOWN_REFUSALS = 20
_CANCEL_BATCH = 500
# The originals come with their parameters, up to a MiB each: few at a time.
_RETRY_BATCH = 50
_FILTERS = ("status", "automation", "user", "reference", "schedule", "since", "until", "labels")

T = TypeVar("T", bound="BulkRequest")


class BulkRequest(RunFields):
    """Which Runs, and how many of them in this request."""

    limit: Annotated[int, Field(ge=1, le=MOST_RUNS)] = Field(1000, description="Most Runs that one request treats.")
    cursor: str | None = Field(None, max_length=64, description="`next` of the answer before, to go on.")
    dry_run: bool = Field(False, description="Only count what would be treated.")


class BulkCancelRequest(BulkRequest):
    """Which Runs to cancel; without `status` all that haven't ended."""

    force: bool = Field(False, description="End running Runs at once, and fence their workers.")


class BulkRetryRequest(BulkRequest):
    """Which ended Runs to run again; without `status` the failed ones."""


class Refused(Model):
    """A Run that wasn't treated."""

    job_id: UUID = Field(alias="job_id")
    reason: str = Field(description="ended, Backlog, Forbidden, AutomationDeleted, NotEnded or Conflict")


class Refusals(Model):
    """What wasn't treated: how many for which reason, and some of them."""

    count: int
    by_reason: dict[str, int]
    items: list[Refused]


class BulkCanceled(Model):
    """What became of a bulk cancel."""

    matched: int
    canceled: int = Field(description="Waited, and are canceled now.")
    requested: int = Field(description="Run; their workers were asked to stop.")
    refused: Refusals
    next: str | None = Field(description="The `cursor` that goes on; null: nothing more matches.")


class Retried(Model):
    """A copy that was accepted."""

    job_id: UUID = Field(alias="job_id")
    copy_of: UUID


class BulkRetried(Model):
    """What became of a bulk retry."""

    matched: int
    accepted: int
    items: list[Retried]
    refused: Refusals
    next: str | None = Field(description="The `cursor` that goes on; null: nothing more matches.")


@dataclass
class _Refusals:
    """Counts what is refused, and keeps some of it."""

    count: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    items: list[dict[str, str]] = field(default_factory=list)

    def add(self, run: UUID, reason: str) -> None:
        self.count += 1
        self.by_reason[reason] = self.by_reason.get(reason, 0) + 1
        if len(self.items) < _SHOWN_REFUSALS:
            self.items.append({"job_id": str(run), "reason": reason})

    def shown(self) -> dict[str, Any]:
        return {"count": self.count, "byReason": self.by_reason, "items": self.items}


class BulkRoutes:
    """The endpoints that cancel and retry by filter."""

    def __init__(self, store: RunStore, directory: Directory, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator
        self._filters = RunFilters(directory, authenticator)

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        return [
            Endpoint(
                "POST", "/api/v1/jobs/cancel", self.cancel, "cancelRuns",
                "Cancel the Runs that a filter chooses, the newest first",
                "person", {200: Answer("What became of it", BulkCanceled)}, "runs", (404, 422),
                Body(BulkCancelRequest, BODY_LIMIT),
            ),
            Endpoint(
                "POST", "/api/v1/jobs/retry", self.retry, "retryRuns",
                "Run the ended Runs that a filter chooses again, the oldest first, as linked copies",
                "person", {200: Answer("What became of it", BulkRetried)}, "runs", (404, 422, 429),
                Body(BulkRetryRequest, BODY_LIMIT),
                headers={"Idempotency-Key": "Sent again with it, a Run that was retried already isn't retried twice."},
            ),
        ]  # fmt: skip

    async def cancel(self, request: Request) -> Response:
        """Cancel the newest first: so what is canceled frees nothing for a Run that is about to be."""
        person, wanted = await self._entered(request, BulkCancelRequest)
        chosen = await self._filters.made(person, _with_status(wanted, ("pending", "running")), "update")
        below = _number(wanted.cursor) if wanted.cursor else await self._latest() + 1
        matched = canceled = requested = 0
        refused = _Refusals()
        more = True
        while more and matched < wanted.limit:
            batch = await self._newest(chosen, min(_CANCEL_BATCH, wanted.limit - matched), below)
            more = bool(batch)
            matched += len(batch)
            below = batch[-1].seq if batch else below
            if wanted.dry_run or not batch:
                continue
            for run, answer in await self._cancel(batch, wanted.force):
                canceled += answer == 200
                requested += answer == 202
                if answer not in (200, 202):
                    refused.add(run, "ended")
        if canceled or requested:
            log.info("canceled %d Runs, asked %d to stop", canceled, requested, extra={"by": person.username})
        shown = {"matched": matched, "canceled": canceled, "requested": requested, "refused": refused.shown()}
        return json_answer({**shown, "next": str(below) if more else None})

    async def retry(self, request: Request) -> Response:
        """Retry the oldest first: so copies keep the order of their originals."""
        person, wanted = await self._entered(request, BulkRetryRequest)
        chosen = await self._filters.made(person, _with_status(wanted, ("failed",)), "list")
        # Copies may end, and match, before this is through: what was accepted after its beginning is left alone.
        above, until = _span(wanted.cursor) if wanted.cursor else (0, await self._latest())
        retrying = _Retrying(self._store, self._authenticator, person, idempotency_key(request))
        matched, more = 0, True
        while more and matched < wanted.limit and retrying.backlog is None:
            batch = await self._oldest(chosen, min(_RETRY_BATCH, wanted.limit - matched), above, until)
            more = bool(batch)
            done = len(batch) if wanted.dry_run else await retrying.treat([run.id for run in batch])
            matched += done
            above = batch[done - 1].seq if done else above
        if retrying.backlog is not None and not retrying.accepted:
            raise retrying.backlog
        shown = {"matched": matched, "accepted": len(retrying.accepted), "items": retrying.accepted}
        place = f"{above}-{until}" if more else None
        return json_answer({**shown, "refused": retrying.refused.shown(), "next": place})

    async def _entered(self, request: Request, model: type[T]) -> tuple[Person, T]:
        person = await self._authenticator.person(request)
        wanted = await given(request, model)
        if all(getattr(wanted, name) is None for name in _FILTERS):
            rule = f"give at least one of: {', '.join(_FILTERS)}"
            raise HttpError(422, f"a filter that chooses nothing would mean every Run; {rule}", details=[
                {"path": "", "rule": rule},
            ])  # fmt: skip
        return person, wanted

    async def _latest(self) -> int:
        return await self._store.read(bulk.latest)

    async def _newest(self, chosen: RunFilter, limit: int, below: int) -> list[bulk.Chosen]:
        return await self._store.read(lambda transaction: bulk.newest(transaction, chosen, limit, below))

    async def _oldest(self, chosen: RunFilter, limit: int, above: int, until: int) -> list[bulk.Chosen]:
        return await self._store.read(lambda transaction: bulk.oldest(transaction, chosen, limit, above, until))

    async def _cancel(self, batch: list[bulk.Chosen], force: bool) -> list[tuple[UUID, int]]:
        """The status for each: 200 canceled, 202 asked, 409 ended."""
        seqs = [run.seq for run in batch]
        answers = await self._store.write(
            lambda transaction: bulk.cancel(self._store.changes(transaction), seqs, force=force), len(seqs)
        )
        return [(run.id, answers[run.seq].status if run.seq in answers else 404) for run in batch]


class _Retrying:
    """The retries of one request."""

    def __init__(self, store: RunStore, authenticator: Authenticator, person: Person, key: str | None) -> None:
        self._store = store
        self._authenticator = authenticator
        self._person = person
        self._key = key
        self.accepted: list[dict[str, str]] = []
        self.refused = _Refusals()
        self.backlog: Backlog | NeverFits | None = None
        """Set when no more fit: what comes after is left for a later request."""

    async def treat(self, runs: list[UUID]) -> int:
        """Retry these, in order; how many of them are done with (less than all: the rest doesn't fit now)."""
        copies: list[tuple[UUID, NewRun]] = []
        for run in runs:
            made = await self._copy(run)
            if made is not None:
                copies.append((run, made))
        try:
            self._note(copies, await self._store.accept([copy for _, copy in copies]))
        except (Backlog, NeverFits, UnknownAutomation, IdempotencyConflict):
            # All or none: one by one, to see which it was.
            return await self._one_by_one(runs, dict(copies))
        return len(runs)

    async def _one_by_one(self, runs: list[UUID], copies: dict[UUID, NewRun]) -> int:
        for done, run in enumerate(runs):
            if run not in copies:
                continue
            try:
                self._note([(run, copies[run])], await self._store.accept([copies[run]]))
            except (Backlog, NeverFits) as error:
                self.backlog = error
                self.refused.add(run, "Backlog")
                return done
            except UnknownAutomation:
                self.refused.add(run, "AutomationDeleted")
            except IdempotencyConflict:
                self.refused.add(run, "Conflict")
        return len(runs)

    async def _copy(self, run: UUID) -> NewRun | None:
        original = await self._store.get(run)
        if original is None:
            return None
        namespace, name = split_id(original.automation_id)
        if not original.state.ended:
            self.refused.add(run, "NotEnded")
            return None
        if not await self._authenticator.allowed(
            self._person, Permission("create", "automations", "execute", namespace, name)
        ):
            self.refused.add(run, "Forbidden")
            return None
        copy = copy_of(original, by=self._person.username)
        if self._key is not None:
            # One key for each Run: the page may be cut elsewhere the second time.
            copy.idempotency_key = f"retry:{run}:{hashlib.sha256(self._key.encode()).hexdigest()[:32]}"
            copy.body_hash = hashlib.sha256(run.bytes).digest()
        return copy

    def _note(self, copies: Iterable[tuple[UUID, NewRun]], accepted: list[Accepted]) -> None:
        for (run, _), made in zip(copies, accepted, strict=True):
            self.accepted.append({"job_id": str(made.id), "copyOf": str(run)})


def _with_status(wanted: T, statuses: tuple[str, ...]) -> T:
    return wanted if wanted.status else wanted.model_copy(update={"status": list(statuses)})


def _number(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise invalid("cursor", "isn't one that an answer gave as `next`")
    return int(cursor)


def _span(cursor: str) -> tuple[int, int]:
    above, _, until = cursor.partition("-")
    return _number(above), _number(until)
