"""Ordering keys that are blocked after a failure, and how a person releases one."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission
from maestro.http.directory import Directory, split_id
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.errors import not_found
from maestro.http.models import Keys, KeysQuery
from maestro.http.query import query
from maestro.runs.store import RunStore

_KEY = re.compile(r"[0-9a-f]{32}")


class KeyRoutes:
    """The endpoints of an Automation's ordering keys."""

    def __init__(self, store: RunStore, directory: Directory, authenticator: Authenticator) -> None:
        self._store = store
        self._directory = directory
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path = "/api/v1/automations/{id}/keys"
        return [
            Endpoint(
                "GET", path, self.list_keys, "listKeys", "Ordering keys that are blocked, or all with open Runs",
                "person", {200: Answer("The keys", Keys)}, "automations", (404, 422), query=KeysQuery,
            ),
            Endpoint(
                "DELETE", f"{path}/{{key}}", self.release, "releaseKey", "Let the Runs of a blocked key go on",
                "person", {204: Answer("Released")}, "automations", (404,),
            ),
        ]  # fmt: skip

    async def list_keys(self, request: Request) -> Response:
        """Keys, by their hash: the values may be secret."""
        automation = await self._enter(request, "list")
        wanted = query(request, KeysQuery)
        found = await self._store.keys(automation, blocked=wanted.blocked, limit=wanted.limit)
        items = [
            {
                "key": key.key,
                "openRuns": key.open_runs,
                "blockedBy": None if key.blocked_by is None else str(key.blocked_by),
            }
            for key in found
        ]
        return json_answer({"items": items})

    async def release(self, request: Request) -> Response:
        """Unblock one key."""
        automation = await self._enter(request, "update")
        key = request.path_params["key"]
        if not _KEY.fullmatch(key) or not await self._store.release_key(automation, key):
            raise not_found("no key of this Automation is blocked under this name")
        return Response(status_code=204)

    async def _enter(self, request: Request, verb: str) -> int:
        person = await self._authenticator.person(request)
        automation_id = self._directory.full_id(request.path_params["id"])
        namespace, name = split_id(automation_id)
        await self._authenticator.require(person, Permission(verb, "automations", "runs", namespace, name))
        return (await self._directory.find(automation_id))[0]
