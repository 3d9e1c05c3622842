"""Dead letters: list, look, redrive, discard; one by its number, or many by a filter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from maestro.http import body
from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, invalid_model, translate
from maestro.http.letter_models import (
    Discarded,
    DiscardQuery,
    Letter,
    Letters,
    LetterSelection,
    LettersQuery,
    RedriveManyRequest,
    RedrivenLetters,
    RedrivenRun,
    RedriveRequest,
)
from maestro.http.models import Model
from maestro.http.query import query
from maestro.http.views import moment
from maestro.runs import letters
from maestro.runs.deadletters import DeadLetter, DeadLetters, LetterFilter, LetterPage
from maestro.runs.errors import NoSuchLetter, NotRedrivable, Refused
from maestro.runs.model import RunState, older_status
from maestro.runs.parameters import InvalidParameters, InvalidSchema
from maestro.runs.redrive import Redrive, Redriven
from maestro.runs.store import RunStore

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)

SHOWN_BYTES = body.MIB
"""Larger bodies are left out where a letter is shown."""
_BYTES = {"type": "string", "format": "binary"}
_RESOURCE = ("automations", "deadletters")
_LARGEST_ID = 2**63


class DeadLetterRoutes:
    """The endpoints under /api/v1/dead-letters.

    Looking needs `get` or `list`, discarding `delete`, redriving `update` on `automations/deadletters` of the letter's
    Automation, and redriving `create automations/execute` too. Letters of no Automation need the right everywhere.
    """

    def __init__(self, store: RunStore, directory: Directory, authenticator: Authenticator) -> None:
        self._store = store
        self._letters = DeadLetters(store)
        self._directory = directory
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path = "/api/v1/dead-letters"
        whole = Answer("The bytes; `writeOnly` values are redacted", _BYTES, "application/octet-stream")
        return [
            Endpoint(
                "GET", path, self.list_letters, "listDeadLetters", "Dead letters that the caller may see, newest first",
                "person", {200: Answer("A page", Letters)}, "dead letters", (404, 422), query=LettersQuery,
            ),
            Endpoint(
                "DELETE", path, self.discard_many, "discardDeadLetters", "Delete dead letters by a filter, for good",
                "person", {200: Answer("What is gone", Discarded)}, "dead letters", (404, 422), query=DiscardQuery,
            ),
            Endpoint(
                "POST", f"{path}/redrive", self.redrive_many, "redriveDeadLetters",
                "Let the Runs of dead letters go again, by a filter",
                "person", {200: Answer("What became of each", RedrivenLetters)}, "dead letters", (404, 422),
                Body(RedriveManyRequest, body.PARAMETERS_LIMIT),
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.one, "getDeadLetter", "A dead letter with its body",
                "person", {200: Answer("The letter", Letter)}, "dead letters", (404,),
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.discard, "discardDeadLetter", "Delete a dead letter, for good",
                "person", {204: Answer("It is gone")}, "dead letters", (404,),
            ),
            Endpoint(
                "GET", f"{path}/{{id}}/body", self.content, "getDeadLetterBody", "The body of a dead letter as it came",
                "person", {200: whole}, "dead letters", (404,),
            ),
            Endpoint(
                "POST", f"{path}/{{id}}/redrive", self.redrive, "redriveDeadLetter",
                "Let the letter's Run go again, or make it one",
                "person", {202: Answer("The Run that goes now", RedrivenRun)}, "dead letters", (404, 409, 422, 429),
                Body(RedriveRequest, body.PARAMETERS_LIMIT, required=False),
            ),
        ]  # fmt: skip

    # -- looking

    async def list_letters(self, request: Request) -> Response:
        """A page of letters."""
        person = await self._authenticator.person(request)
        wanted = query(request, LettersQuery)
        page = await self._page(person, "list", wanted, wanted.redriven, wanted.limit, wanted.cursor)
        return json_answer({"items": [_listed(letter) for letter in page.items], "next": page.cursor})

    async def one(self, request: Request) -> Response:
        """One letter."""
        _, letter = await self._open(request, "get")
        return json_answer({**_listed(letter), "body": self._body(letter)})

    async def content(self, request: Request) -> Response:
        """The body alone, for a program. Never as what it claims to be: whoever sent it isn't to be trusted."""
        _, letter = await self._open(request, "get")
        headers = {
            "Content-Disposition": f'attachment; filename="dead-letter-{letter.seq}"',
            "X-Content-Type-Options": "nosniff",
        }
        return Response(self._visible(letter), 200, headers, "application/octet-stream")

    # -- redriving

    async def redrive(self, request: Request) -> Response:
        """One letter's Run goes again."""
        person, letter = await self._open(request, "update")
        given = body.optional_object(await body.read(request, body.PARAMETERS_LIMIT))
        redriven = await self._redrive(person, letter, _as(RedriveRequest, given).parameters)
        shown = {"job_id": str(redriven.run_id), "status": older_status(redriven.state), "again": redriven.again}
        return json_answer(shown, 202, {"Location": f"/api/v1/jobs/{redriven.run_id}"})

    async def redrive_many(self, request: Request) -> Response:
        """A page of letters; each alone, so that one that can't go costs the others nothing."""
        person = await self._authenticator.person(request)
        wanted = _as(RedriveManyRequest, body.parse_object(await body.read(request, body.PARAMETERS_LIMIT)))
        _needs_filter(wanted)
        page = await self._page(person, "update", wanted, False, wanted.limit, wanted.cursor)
        items = [await self._try_to_redrive(person, letter.seq, wanted.parameters) for letter in page.items]
        refused = sum(1 for item in items if item["error"] is not None)
        log.info("dead letters redriven", extra={"by": person.username, "n": len(items) - refused, "refused": refused})
        shown = {"items": items, "redriven": len(items) - refused, "refused": refused, "next": page.cursor}
        return json_answer(shown)

    async def _try_to_redrive(self, person: Person, seq: int, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            letter = await self._letters.get(seq)
            if letter is None:
                raise NoSuchLetter(seq)
            redriven = await self._redrive(person, letter, changes)
        except (Refused, HttpError, InvalidParameters, InvalidSchema) as error:
            problem = translate(error)
            if problem is None or problem.status == 503:
                raise
            return {"id": seq, "job_id": None, "error": problem.message}
        return {"id": seq, "job_id": str(redriven.run_id), "error": None}

    async def _redrive(self, person: Person, letter: DeadLetter, changes: Mapping[str, Any] | None) -> Redriven:
        """Raises what says why it can't go: NotRedrivable, InvalidParameters, Backlog, HttpError."""
        if letter.automation is None or letter.automation_id is None:
            raise NotRedrivable("its queue belongs to no Automation")
        namespace, name = split_id(letter.automation_id)
        await self._authenticator.require(person, Permission("create", "automations", "execute", namespace, name))
        wish = await self._wish(person, letter, letter.automation_id, changes)
        redriven = await self._letters.redrive(wish)
        log.info("dead letter redriven", extra={"letter": letter.seq, "by": person.username, "run": redriven.run_id})
        return redriven

    async def _wish(
        self, person: Person, letter: DeadLetter, automation_id: str, changes: Mapping[str, Any] | None
    ) -> Redrive:
        """The parameters with which it would go, checked as those of any Run."""
        run = None if letter.run_id is None else await self._store.get(letter.run_id)
        if run is not None and run.state is RunState.QUEUED:
            return Redrive(letter.seq, {}, bool(changes), person.username)
        try:
            key, registration = await self._directory.find(automation_id)
        except HttpError as error:
            if error.status != 404:
                raise
            key = None
        if key != letter.automation:
            raise NotRedrivable(f"its Automation {automation_id} is gone")
        given = run.parameters if run is not None else _parameters(letter, changes)
        parameters = self._directory.validator(registration).merge_and_check({**given, **(changes or {})})
        return Redrive(letter.seq, parameters, bool(changes), person.username)

    # -- discarding

    async def discard(self, request: Request) -> Response:
        """One letter."""
        person, letter = await self._open(request, "delete")
        await self._letters.discard([letter.seq])
        log.info("dead letter discarded", extra={"letter": letter.seq, "by": person.username})
        return Response(status_code=204)

    async def discard_many(self, request: Request) -> Response:
        """A batch; `more` says that there are others."""
        person = await self._authenticator.person(request)
        wanted = query(request, DiscardQuery)
        _needs_filter(wanted)
        page = await self._page(person, "delete", wanted, wanted.redriven, wanted.limit, None)
        discarded = await self._letters.discard([letter.seq for letter in page.items])
        log.info("dead letters discarded", extra={"by": person.username, "n": discarded})
        return json_answer({"discarded": discarded, "more": page.cursor is not None})

    # -- whose they are

    async def _open(self, request: Request, verb: str) -> tuple[Person, DeadLetter]:
        """The caller and the letter of the path; 401, 403 or 404 else."""
        person = await self._authenticator.person(request)
        given = request.path_params["id"]
        number = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else _LARGEST_ID
        letter = None if number >= _LARGEST_ID else await self._letters.get(number)
        if letter is None:
            raise HttpError(404, "there is no such dead letter")
        namespace, name = split_id(letter.automation_id or "")
        await self._authenticator.require(person, Permission(verb, *_RESOURCE, namespace, name))
        return person, letter

    async def _page(
        self, person: Person, verb: str, wanted: LetterSelection, redriven: bool | None, limit: int, cursor: str | None
    ) -> LetterPage:
        selection = LetterFilter(
            automations=await self._scope(person, verb, wanted),
            queue=wanted.queue,
            reason=wanted.reason,
            run_id=wanted.run,
            since=wanted.since,
            until=wanted.until,
            redriven=redriven,
        )
        try:
            return await self._letters.page(selection, limit, cursor)
        except ValueError:
            raise invalid("cursor", "isn't a cursor that a page of dead letters gave") from None

    async def _scope(self, person: Person, verb: str, wanted: LetterSelection) -> frozenset[int] | None:
        """The Automations whose letters are meant and may be: None is all, and those of none too."""
        if wanted.automation is not None:
            automation_id = self._directory.full_id(wanted.automation)
            namespace, name = split_id(automation_id)
            await self._authenticator.require(person, Permission(verb, *_RESOURCE, namespace, name))
            keys = await self._directory.keys_named(automation_id)
            return keys if wanted.namespace in (None, namespace) else frozenset()
        if wanted.namespace is not None:
            await self._authenticator.require(person, Permission(verb, *_RESOURCE, wanted.namespace))
            return self._keys_in({wanted.namespace})
        if await self._authenticator.allowed(person, Permission(verb, *_RESOURCE)):
            return None
        namespaces = {known.registration.namespace for known in self._store.registry.everything()}
        return self._keys_in(
            {
                namespace
                for namespace in namespaces
                if await self._authenticator.allowed(person, Permission(verb, *_RESOURCE, namespace))
            }
        )

    def _keys_in(self, namespaces: set[str]) -> frozenset[int]:
        known = self._store.registry.everything()
        return frozenset(each.pk for each in known if each.registration.namespace in namespaces)

    # -- how they are shown

    def _body(self, letter: DeadLetter) -> dict[str, Any]:
        visible = self._visible(letter)
        redacted = visible != letter.body
        if len(visible) > SHOWN_BYTES:
            return {"encoding": "none", "content": None, "redacted": redacted}
        encoding, content = letters.shown(visible)
        return {"encoding": encoding, "content": content, "redacted": redacted}

    def _visible(self, letter: DeadLetter) -> bytes:
        """The body without the values of secret parameters."""
        registration = None if letter.automation is None else self._store.registration(letter.automation)
        if registration is None:
            return letter.body
        try:
            validator = self._directory.validator(registration)
        except InvalidSchema:
            # nobody can say what is secret
            return letter.body if registration.parameter_schema is None else b""
        return letters.redacted(letter.body, validator.redact) if validator.has_secrets else letter.body


def _parameters(letter: DeadLetter, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of the message; where it has none, all must be given."""
    if letter.size > body.PARAMETERS_LIMIT:
        raise NotRedrivable(
            f"its body has {letter.size} bytes; a Run's parameters have at most {body.PARAMETERS_LIMIT}"
        )
    try:
        given = letters.parameters_of(letter.body)
    except letters.Unusable as error:
        if changes is None:
            raise NotRedrivable(f"{error}; give `parameters`") from None
        return {}
    body.inspect(given, "parameters")
    return given


def _listed(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.seq,
        "automationId": letter.automation_id,
        "runId": None if letter.run_id is None else str(letter.run_id),
        "queue": letter.queue,
        "reason": letter.reason,
        "count": letter.count,
        "publication": letter.pub,
        "messageId": letter.message_id,
        "contentType": letter.content_type,
        "headers": dict(letter.headers),
        "size": letter.size,
        "diedAt": moment(letter.died_at),
        "recordedAt": moment(letter.at),
        "redrivenAt": moment(letter.redriven_at),
        "redrivenAs": None if letter.redriven_as is None else str(letter.redriven_as),
        "redrivenBy": letter.redriven_by,
    }


def _needs_filter(wanted: LetterSelection) -> None:
    if not wanted.selects:
        raise invalid("", "name at least one filter: automation, namespace, queue, reason, run, since or until")


def _as(model: type[M], given: dict[str, Any]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid_model(error, model) from None
