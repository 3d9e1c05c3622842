"""How Runs come in: execute, runs, execute-many, and what a caller gave last time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maestro.http import body
from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import Detail, HttpError, described, invalid, invalid_model, invalid_parameters
from maestro.http.models import AcceptedRun, AcceptedRuns, LastParameters, RunRequest
from maestro.runs.errors import Backlog, IdempotencyConflict, NeverFits
from maestro.runs.model import Accepted, NewRun, Registration, older_status
from maestro.runs.parameters import InvalidParameters, ParameterValidator
from maestro.runs.store import RunStore
from maestro.runtime import metrics

MOST_LINES = 10_000
_MOST_DETAILS = 20
_LINES_AT_A_TIME = 200
_MAX_KEY = 255
_WHY: dict[type[Exception], str] = {Backlog: "Backlog", NeverFits: "Backlog", IdempotencyConflict: "Conflict"}


class Execute:
    """The endpoints that accept Runs."""

    def __init__(self, store: RunStore, directory: Directory, authenticator: Authenticator) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        accepted = {202: Answer("Accepted: from here on it can't be lost", AcceptedRun)}
        idempotency = {
            "Idempotency-Key": "Sent again with the same body it answers with the Run that it made the first time.",
            "traceparent": "W3C trace context; handed on to the worker.",
        }
        parameters = {"type": "object", "description": "The Run's parameters.", "additionalProperties": True}
        lines = {"type": "array", "maxItems": MOST_LINES, "items": {"$ref": "#/components/schemas/RunRequest"}}
        path = "/api/v1/automations/{id}"
        return [
            Endpoint(
                "POST", f"{path}/execute", self.execute, "executeAutomation", "Start a Run: the body is its parameters",
                "person", accepted, "automations", (404, 409, 422, 429),
                Body(parameters, body.PARAMETERS_LIMIT, required=False), headers=idempotency,
            ),
            Endpoint(
                "POST", f"{path}/runs", self.run, "createRun", "Start a Run with all that it may carry",
                "person", accepted, "automations", (404, 409, 422, 429),
                Body(RunRequest, body.PARAMETERS_LIMIT), headers=idempotency,
            ),
            Endpoint(
                "POST", f"{path}/execute-many", self.execute_many, "executeMany",
                f"Start up to {MOST_LINES} Runs, all or none: a list, or one object a line (NDJSON)",
                "person", {202: Answer("All accepted", AcceptedRuns)}, "automations", (404, 409, 422, 429),
                Body(lines, body.BATCH_LIMIT, ndjson=True), headers=idempotency,
            ),
            Endpoint(
                "GET", f"{path}/last-params", self.last_params, "lastParameters", "The caller's last parameters",
                "person", {200: Answer("writeOnly ones are redacted", LastParameters)}, "automations", (404,),
            ),
        ]  # fmt: skip

    async def execute(self, request: Request) -> Response:
        """The body is the parameters."""
        person, automation_id = await self._enter(request)
        given = body.optional_object(await body.read(request, body.PARAMETERS_LIMIT))
        key, registration = await self._directory.find(automation_id)
        run = NewRun(key, self._check(registration, given), user=person.username, traceparent=_traceparent(request))
        return await self._accept_one(request, run, given)

    async def run(self, request: Request) -> Response:
        """The body is a RunRequest."""
        person, automation_id = await self._enter(request)
        given = body.parse_object(await body.read(request, body.PARAMETERS_LIMIT))
        wanted = _wanted(given)
        key, registration = await self._directory.find(automation_id)
        parameters = self._check(registration, wanted.parameters, "parameters.")
        return await self._accept_one(request, _new_run(key, parameters, wanted, person, request), given)

    async def execute_many(self, request: Request) -> Response:
        """The body is a list, or lines, of RunRequests; either all are accepted or none."""
        person, automation_id = await self._enter(request)
        raw = await body.read(request, body.BATCH_LIMIT)
        key, registration = await self._directory.find(automation_id)
        runs = await self._lines(request, raw, key, self._directory.validator(registration), person)
        list_key = idempotency_key(request)
        if list_key is not None:
            # Each line's hash covers the whole list: the key with a longer or shorter list is a different body.
            digest = hashlib.sha256(raw).digest()
            for number, run in enumerate(runs):
                run.idempotency_key = f"{list_key}#{number}"
                run.body_hash = digest
        accepted = await self._accept(runs)
        return json_answer({"items": [_shown(one) for one in accepted]}, 202)

    async def last_params(self, request: Request) -> Response:
        """What this caller gave last time."""
        person, automation_id = await self._enter(request)
        key, registration = await self._directory.find(automation_id)
        parameters = await self._store.last_params(key, person.username)
        shown = None if parameters is None else self._directory.validator(registration).redact(parameters)
        return json_answer({"parameters": shown})

    async def _enter(self, request: Request) -> tuple[Person, str]:
        person = await self._authenticator.person(request)
        automation_id = self._directory.full_id(request.path_params["id"])
        namespace, name = split_id(automation_id)
        await self._authenticator.require(person, Permission("create", "automations", "execute", namespace, name))
        return person, automation_id

    def _check(self, registration: Registration, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        try:
            return self._directory.validator(registration).merge_and_check(dict(given))
        except InvalidParameters as error:
            metrics.RUNS_REFUSED.labels(why="InvalidParameters").inc()
            raise invalid_parameters(error, prefix) from None

    async def _lines(
        self, request: Request, raw: bytes, key: int, validator: ParameterValidator, person: Person
    ) -> list[NewRun]:
        runs: list[NewRun] = []
        details: list[Detail] = []
        for number, (given, text) in enumerate(body.items(raw, MOST_LINES)):
            try:
                _check_size(text)
                body.check(given, text)
                if not isinstance(given, dict):
                    raise invalid("", f"must be an object, not {body.kind(given)}")
                wanted = _wanted(given)
                try:
                    parameters = validator.merge_and_check(dict(wanted.parameters))
                except InvalidParameters as error:
                    raise invalid_parameters(error, "parameters.") from None
                runs.append(_new_run(key, parameters, wanted, person, request))
            except HttpError as error:
                found = error.details or [{"path": "", "rule": error.message}]
                details += [{**detail, "path": f"[{number}].{detail['path']}".rstrip(".")} for detail in found]
            if len(details) >= _MOST_DETAILS:
                break
            if number % _LINES_AT_A_TIME == _LINES_AT_A_TIME - 1:
                await asyncio.sleep(0)  # other requests get their turn
        if details:
            metrics.RUNS_REFUSED.labels(why="InvalidParameters").inc()
            raise HttpError(422, f"none was accepted: {described(details[0])}", details=details[:_MOST_DETAILS])
        if not runs:
            raise HttpError(422, "none was accepted: the list is empty", details=[{"path": "", "rule": "at least one"}])
        return runs

    async def _accept_one(self, request: Request, run: NewRun, given: Mapping[str, Any]) -> Response:
        run.idempotency_key = idempotency_key(request)
        if run.idempotency_key is not None:
            canonical = json.dumps([request.url.path.rsplit("/", 1)[1], given], sort_keys=True, separators=(",", ":"))
            run.body_hash = hashlib.sha256(canonical.encode()).digest()
        (accepted,) = await self._accept([run])
        return json_answer(_shown(accepted), 202, {"Location": f"/api/v1/jobs/{accepted.id}"})

    async def _accept(self, runs: list[NewRun]) -> list[Accepted]:
        try:
            return await self._store.accept(runs)
        except (Backlog, NeverFits, IdempotencyConflict) as error:
            metrics.RUNS_REFUSED.labels(why=_WHY[type(error)]).inc()
            raise


def _check_size(text: str) -> None:
    """What one Run may carry is the same in a list as alone."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > body.PARAMETERS_LIMIT:
        raise invalid("", f"is larger than {body.PARAMETERS_LIMIT} bytes (1 MiB), the limit of one Run")


def _wanted(given: dict[str, Any]) -> RunRequest:
    try:
        return RunRequest.model_validate(given)
    except ValidationError as error:
        raise invalid_model(error, RunRequest) from None


def _new_run(key: int, parameters: dict[str, Any], wanted: RunRequest, person: Person, request: Request) -> NewRun:
    return NewRun(
        key,
        parameters,
        labels=wanted.labels,
        reference=wanted.reference,
        priority=wanted.priority,
        not_before=wanted.not_before,
        expires_at=wanted.expires_at,
        fairness_key=wanted.fairness_key,
        notify=tuple(wanted.notify),
        user=person.username,
        traceparent=_traceparent(request),
    )


def _shown(accepted: Accepted) -> dict[str, str]:
    return {"job_id": str(accepted.id), "status": older_status(accepted.state)}


def idempotency_key(request: Request) -> str | None:
    """The caller's Idempotency-Key; 422 for one that breaks its rule."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY or not key.isprintable():
        raise invalid("Idempotency-Key", f"must have 1 to {_MAX_KEY} printable characters")
    return key


def _traceparent(request: Request) -> str | None:
    given = request.headers.get("traceparent")
    # Not ours to refuse a request for: tracing is a courtesy, and the header's grammar has a fixed length.
    return given if given is not None and len(given) <= 64 and given.isascii() and given.isprintable() else None
