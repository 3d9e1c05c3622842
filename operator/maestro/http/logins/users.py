"""The users of an installation, in one Secret: read often, written seldom, never over somebody else's change."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from maestro.http.errors import HttpError, unavailable
from maestro.http.logins.passwords import Passwords, generated
from maestro.http.logins.roles import Role
from maestro.kube.errors import Conflict, KubeError
from maestro.kube.kinds import SECRET, Kind
from maestro.runtime.clock import Clock, Monotonic

log = logging.getLogger(__name__)

FIRST = "admin"
USERS_KEY, SIGNING_KEY, FIRST_PASSWORD_KEY = "users.json", "signing-key", "initial-password"

_FRESH_SECONDS = 5.0
_TRIES = 5
_KEY_BYTES = 32
_MOST_BYTES = 900_000

T = TypeVar("T")
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class User:
    """A login. `version` grows with each change that makes older tokens void; no namespaces: all of them."""

    username: str
    password_hash: str
    role: Role
    email: str | None = None
    display_name: str | None = None
    namespaces: tuple[str, ...] = ()
    active: bool = True
    must_change: bool = False
    version: int = 1
    created_at: AwareDatetime | None = None
    changed_at: AwareDatetime | None = None


_USERS = TypeAdapter(dict[str, User])


@dataclass(frozen=True, slots=True)
class Book:
    """What the Secret holds."""

    users: Mapping[str, User]
    signing_key: bytes
    resource_version: str
    first_password: bool

    def find(self, name: str) -> User | None:
        """A user by name or e-mail address, whatever its case."""
        wanted = name.strip().lower()
        by_name = self.users.get(wanted)
        if by_name is not None:
            return by_name
        return next((user for user in self.users.values() if user.email and user.email.lower() == wanted), None)


class Secrets(Protocol):
    """What of the Kubernetes client is needed."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object."""

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any]) -> Object:
        """A JSON merge patch."""


class Users:
    """The users of the Secret `namespace`/`name`, which the chart makes empty.

    Who finds it empty makes the signing key and the user `admin`, whose one-time password is put beside it.
    """

    def __init__(
        self,
        client: Secrets,
        namespace: str,
        name: str,
        passwords: Passwords,
        *,
        clock: Clock,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._passwords = passwords
        self._clock = clock
        self._monotonic = monotonic
        self._book: Book | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def book(self, *, fresh: bool = False) -> Book:
        """Every user; at most some seconds old. Raises HttpError 503 where the Secret can't be read."""
        async with self._reading:
            old = self._monotonic() - self._read_at > _FRESH_SECONDS
            if self._book is None or fresh or old:
                self._book = await self._read()
                self._read_at = self._monotonic()
            return self._book

    async def change(self, action: Callable[[dict[str, User]], T]) -> T:
        """Run `action` over the users and write what it made of them; again, where somebody else wrote meanwhile."""
        for _ in range(_TRIES):
            book = await self.book(fresh=True)
            users = dict(book.users)
            result = action(users)
            data: Object = {USERS_KEY: _encoded(_dumped(users))}
            if book.first_password and _hash_of_first(users) != _hash_of_first(book.users):
                data[FIRST_PASSWORD_KEY] = None  # it opens nothing any more
            if await self._written(data, book.resource_version):
                return result
        raise HttpError(409, "the users are changed by others all the time; try again", reason="Conflict")

    async def _read(self) -> Book:
        for _ in range(_TRIES):
            secret = await self._asked(self._client.get(SECRET, self._namespace, self._name))
            data = secret.get("data") or {}
            version = secret["metadata"]["resourceVersion"]
            if USERS_KEY in data and SIGNING_KEY in data:
                return self._parsed(data, version)
            await self._begin(data, version)
        raise unavailable(f"the Secret {self._namespace}/{self._name}")

    def _parsed(self, data: Mapping[str, str], version: str) -> Book:
        try:
            users = _USERS.validate_json(base64.b64decode(data[USERS_KEY]))
            key = base64.b64decode(data[SIGNING_KEY])
        except (ValidationError, binascii.Error):
            log.error("the Secret %s/%s: users.json or signing-key can't be read", self._namespace, self._name)
            raise unavailable("the list of users") from None
        return Book(users, key, version, FIRST_PASSWORD_KEY in data)

    async def _begin(self, data: Mapping[str, str], version: str) -> None:
        """Make what is missing. Without a signing key: a new one, and every token is void."""
        made: Object = {}
        if SIGNING_KEY not in data:
            made[SIGNING_KEY] = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        if USERS_KEY not in data:
            password = generated()
            hashed = await self._passwords.hashed(password)
            first = User(FIRST, hashed, "admin", must_change=True, created_at=self._clock())
            made |= {USERS_KEY: _encoded(_dumped({FIRST: first})), FIRST_PASSWORD_KEY: _encoded(password.encode())}
        if await self._written(made, version) and USERS_KEY in made:
            log.info(
                "the first login is %s; its one-time password is in the Secret %s/%s, key %s",
                FIRST, self._namespace, self._name, FIRST_PASSWORD_KEY,
            )  # fmt: skip

    async def _written(self, data: Object, version: str) -> bool:
        """False where the Secret is another by now."""
        body = {"metadata": {"resourceVersion": version}, "data": data}
        try:
            await self._asked(self._client.patch(SECRET, self._namespace, self._name, body))
        except Conflict:
            return False
        finally:
            self._book = None
        return True

    async def _asked(self, answer: Awaitable[Object]) -> Object:
        try:
            return await answer
        except Conflict:
            raise
        except KubeError as error:
            log.warning("the Secret %s/%s with the users: %s", self._namespace, self._name, error.reason)
            raise unavailable("the Secret with the users") from error


def changed(user: User, at: datetime, **fields: Any) -> User:
    """The user with other fields and every token void."""
    return replace(user, version=user.version + 1, changed_at=at, **fields)


def _hash_of_first(users: Mapping[str, User]) -> str | None:
    first = users.get(FIRST)
    return None if first is None else first.password_hash


def _dumped(users: Mapping[str, User]) -> bytes:
    text = json.dumps(_USERS.dump_python(dict(users), mode="json"), separators=(",", ":")).encode()
    if len(text) > _MOST_BYTES:
        raise HttpError(409, "there are as many users as the Secret can hold")
    return text


def _encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()
