"""What workers call: the batch of reports, the parameters of a Job, and the routes of the older contract."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from maestro.http import body
from maestro.http.answers import encode, json_answer
from maestro.http.auth import Authenticator, Worker
from maestro.http.directory import Directory
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError
from maestro.http.models import Cancellation, CancellationQuery, Noted, Started, StartRequest, WorkerStatus
from maestro.http.query import query, run_id
from maestro.http.reports import (
    MOST_ITEMS,
    OPS,
    InvalidReport,
    Item,
    answer_of,
    attempt_of,
    finish_fields,
    line_of,
    lines_of,
    refusal,
    report_of,
    start_of,
    worker_of,
)
from maestro.http.schemas import ANSWER, FINISH, LOG, REPORT
from maestro.http.views import moment
from maestro.runs.errors import UnknownRun
from maestro.runs.model import RunView
from maestro.runs.reports import Report, ReportAnswer
from maestro.runs.store import RunStore
from maestro.runtime import metrics

_SAID = {
    "running": "another worker holds this Run",
    "ended": "the Run has ended",
    "notDue": "the Run isn't due: it waits, or was taken back",
    "notRunning": "the Run isn't running",
    "fenced": "this worker no longer holds the Run",
    "alone": "the Run must run alone: ask again when this pod has nothing else in hand",
    "barred": "a Run that must run alone is in this pod: ask again when it has ended",
    "NotYourRun": "the Run belongs to another Automation than this worker",
    "UnknownRun": "no such Run",
}


class WorkerRoutes:
    """The endpoints under /api/v1/worker."""

    def __init__(self, store: RunStore, directory: Directory, authenticator: Authenticator) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        job = "/api/v1/worker/jobs/{id}"
        noted = {200: Answer("It counts", Noted)}
        reports = {"type": "array", "maxItems": MOST_ITEMS, "items": REPORT}
        answers = {"type": "array", "items": ANSWER}
        return [
            Endpoint(
                "POST", "/api/v1/worker/reports", self.reports, "report",
                f"Up to {MOST_ITEMS} starts, log lines, progress and ends; an answer for each, in order",
                "worker", {200: Answer("An answer for each", answers)}, "workers", (),
                Body(reports, body.BATCH_LIMIT),
            ),
            Endpoint(
                "POST", f"{job}/start", self.start, "startRun", "Begin an attempt; without a body: the older contract",
                "worker", {200: Answer("The attempt", Started)}, "workers", (404, 409, 422, 429),
                Body(StartRequest, body.PARAMETERS_LIMIT, required=False),
            ),
            Endpoint(
                "POST", f"{job}/log", self.log, "logLines", "One log line, or a list of them; renews the lease",
                "worker", noted, "workers", (404, 409, 422), Body(LOG, body.BATCH_LIMIT),
            ),
            Endpoint(
                "POST", f"{job}/finish", self.finish, "finishRun", "End the attempt",
                "worker", noted, "workers", (404, 409, 422), Body(FINISH, body.BATCH_LIMIT),
            ),
            Endpoint(
                "GET", f"{job}/status", self.status, "getRunStatus", "Where the Run stands",
                "worker", {200: Answer("The status", WorkerStatus)}, "workers", (404,),
            ),
            Endpoint(
                "GET", f"{job}/cancellation", self.cancellation, "pollCancellation",
                "Whether to stop; is also the heartbeat",
                "worker", {200: Answer("Whether to stop", Cancellation)}, "workers", (404, 422),
                query=CancellationQuery,
            ),
            Endpoint(
                "GET", f"{job}/parameters", self.parameters, "getRunParameters", "The parameters, for a Run's Job",
                "worker", {200: Answer("The parameters", {"type": "object", "additionalProperties": True})},
                "workers", (404,),
            ),
        ]  # fmt: skip

    async def reports(self, request: Request) -> Response:
        """A list of reports: whatever of it is well-formed counts, the rest is answered with its fault."""
        worker = await self._authenticator.worker(request)
        raw = await body.read(request, body.BATCH_LIMIT)
        items = body.parse_mended(raw)
        if not isinstance(items, list):
            raise HttpError(400, f"the body must be a JSON list of reports, not {body.kind(items)}")
        if len(items) > MOST_ITEMS:
            raise HttpError(413, f"more than {MOST_ITEMS} reports, the limit of one request")
        caller = await self._caller(worker)
        answers: list[Item | None] = [None] * len(items)
        reports: list[Report] = []
        places: list[int] = []
        for place, item in enumerate(items):
            try:
                reports.append(report_of(item, caller))
                places.append(place)
            except InvalidReport as error:
                answers[place] = refusal(error)
        if reports:
            for place, answer in zip(places, await self._store.reports(reports), strict=True):
                answers[place] = answer_of(answer)
        _count(items, answers)
        return Response(encode(answers), 200, None, "application/json")

    async def start(self, request: Request) -> Response:
        """Begin an attempt."""
        worker, run, caller = await self._enter(request)
        given = body.optional_object(await body.read(request, body.PARAMETERS_LIMIT))
        # The older contract sends no body, or an empty object; its worker is known by the token's pod alone.
        report = (
            start_of(given, run, caller) if given else Report("start", run, worker.identity, older=True, caller=caller)
        )
        answer = await self._report(report)
        return json_answer(
            {
                "attempt": answer.attempt,
                "parameters": answer.parameters,
                "heartbeat_timeout": answer.heartbeat_timeout,
                "timeout": answer.timeout,
                "cancellation_requested": bool(answer.cancellation_requested),
                **({"alone": True} if answer.alone else {}),
            }
        )

    async def log(self, request: Request) -> Response:
        """Log lines."""
        worker, run, caller = await self._enter(request)
        given = body.parse_mended(await body.read(request, body.BATCH_LIMIT))
        listed = isinstance(given, list)
        lines = lines_of(given) if listed else (line_of(given),)
        first = given[0] if listed else given
        who = _who(first, worker)
        answer = await self._report(Report("log", run, lines=lines, caller=caller, **who))
        return _noted(answer)

    async def finish(self, request: Request) -> Response:
        """End the attempt."""
        worker, run, caller = await self._enter(request)
        given = body.parse_mended(await body.read(request, body.BATCH_LIMIT))
        if not isinstance(given, dict):
            raise HttpError(400, f"the body must be a JSON object, not {body.kind(given)}")
        who = _who(given, worker)
        fields = finish_fields(given)
        return _noted(await self._report(Report("finish", run, caller=caller, **who, **fields)))

    async def status(self, request: Request) -> Response:
        """Where the Run stands."""
        run = await self._own_run(request)
        return json_answer(
            {
                "status": run.status,
                "terminal": run.state.ended,
                "started_at": moment(run.started_at),
                "completed_at": moment(run.ended_at),
                "last_heartbeat_at": moment(run.last_heartbeat_at),
                "cancellation_requested_at": moment(run.cancel_requested_at),
                "retry_count": run.retry_count,
            }
        )

    async def cancellation(self, request: Request) -> Response:
        """Whether to stop."""
        worker, run, caller = await self._enter(request)
        wanted = query(request, CancellationQuery)
        who = _who(wanted.model_dump(), worker)
        answer = await self._report(Report("poll", run, caller=caller, **who))
        return json_answer({"cancellation_requested": bool(answer.cancellation_requested)})

    async def parameters(self, request: Request) -> Response:
        """The Run's parameters, secrets included: for the init container of its Job."""
        run = await self._own_run(request)
        return json_answer(run.parameters, headers={"Cache-Control": "no-store"})

    async def _enter(self, request: Request) -> tuple[Worker, UUID, int | None]:
        worker = await self._authenticator.worker(request)
        return worker, run_id(request), await self._caller(worker)

    async def _caller(self, worker: Worker) -> int | None:
        owner = worker.automation
        return None if owner is None else await self._directory.key_of(owner.uid, owner.automation_id)

    async def _own_run(self, request: Request) -> RunView:
        _, run, caller = await self._enter(request)
        found = await self._store.get(run)
        if found is None:
            raise UnknownRun(run)
        if caller is not None and found.automation != caller:
            raise _refused(403, "NotYourRun")
        return found

    async def _report(self, report: Report) -> ReportAnswer:
        (answer,) = await self._store.reports([report])
        metrics.REPORTS.labels(op=report.op, status=answer.status).inc()
        if answer.status != 200:
            raise _refused(answer.status, answer.reason or "", answer.message)
        return answer


def _count(items: list[Any], answers: list[Any]) -> None:
    """One increment for each kind of answer, not for each item."""
    for (op, status), count in Counter([(_op(i), a["status"]) for i, a in zip(items, answers, strict=True)]).items():
        metrics.REPORTS.labels(op=op, status=status).inc(count)


def _op(item: Any) -> str:
    op = item.get("op") if type(item) is dict else None
    return op if type(op) is str and op in OPS else "invalid"


def _refused(status: int, reason: str, message: str | None = None) -> HttpError:
    headers = {"Retry-After": "2"} if status == 429 else None
    return HttpError(status, message or _SAID.get(reason, reason), reason=reason, headers=headers)


def _noted(answer: ReportAnswer) -> Response:
    shown: dict[str, Any] = {"accepted": answer.accepted is not False}
    if answer.cancellation_requested is not None:
        shown["cancellation_requested"] = answer.cancellation_requested
    return json_answer(shown)


def _who(given: object, worker: Worker) -> dict[str, Any]:
    """Who reports: attempt and worker, as the SDK says them, or the older contract's identity."""
    item = given if isinstance(given, dict) else {}
    if item.get("attempt") is None and item.get("worker") is None:
        return {"worker": worker.identity, "older": True}
    return {"worker": worker_of(item), "attempt": attempt_of(item)}
