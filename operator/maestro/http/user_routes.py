"""The endpoints of users, for admins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import HttpError, invalid, not_found
from maestro.http.login_models import NewUser, PasswordReset, UserChange, UserView, UserViews, UserWithPassword
from maestro.http.login_routes import SMALL_BODY, shown_user
from maestro.http.logins.passwords import generated
from maestro.http.logins.service import Logins, check_new
from maestro.http.logins.users import User, changed
from maestro.http.resources import given
from maestro.runtime.clock import Clock

log = logging.getLogger(__name__)

_UNCACHED = {"Cache-Control": "no-store"}
Users = dict[str, User]


class UserRoutes:
    """The endpoints under /api/v1/users. Needed is the role admin, or the verb on `users` in Maestro's namespace."""

    def __init__(self, logins: Logins | None, authenticator: Authenticator, namespace: str, clock: Clock) -> None:
        self._found = logins
        self._authenticator = authenticator
        self._namespace = namespace
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path, one = "/api/v1/users", {200: Answer("The user", UserView)}
        password = Answer("The user, with the password where one was made", UserWithPassword)
        return [
            Endpoint(
                "GET", path, self.list_users, "listUsers", "Logins, by name",
                "person", {200: Answer("The users", UserViews)}, "users", (404,),
            ),
            Endpoint(
                "POST", path, self.create, "createUser", "Make a login",
                "person", {201: password}, "users", (404, 409, 422), Body(NewUser, SMALL_BODY),
            ),
            Endpoint("GET", f"{path}/{{id}}", self.one, "getUser", "One login", "person", one, "users", (404,)),
            Endpoint(
                "PUT", f"{path}/{{id}}", self.change, "changeUser", "Change a login; what is left out stays",
                "person", one, "users", (404, 409, 422), Body(UserChange, SMALL_BODY),
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, "deleteUser", "Delete a login",
                "person", {204: Answer("Deleted")}, "users", (404, 409),
            ),
            Endpoint(
                "POST", f"{path}/{{id}}/deactivate", self.deactivate, "deactivateUser",
                "End a login's sessions, and let it in no more", "person", one, "users", (404, 409),
            ),
            Endpoint(
                "POST", f"{path}/{{id}}/reactivate", self.reactivate, "reactivateUser", "Let a login in again",
                "person", one, "users", (404, 409),
            ),
            Endpoint(
                "POST", f"{path}/{{id}}/reset-password", self.reset_password, "resetPassword",
                "Give a login a new password, to be changed at the next login; its sessions end",
                "person", {200: password}, "users", (404, 409, 422), Body(PasswordReset, SMALL_BODY, required=False),
            ),
        ]  # fmt: skip

    async def list_users(self, request: Request) -> Response:
        """All of them."""
        await self._entered(request, "list")
        users = (await self._logins.users.book()).users
        return json_answer({"items": [shown_user(users[name]) for name in sorted(users)]})

    async def one(self, request: Request) -> Response:
        """One of them."""
        await self._entered(request, "get")
        return json_answer(shown_user(_known((await self._logins.users.book()).users, _name(request))))

    async def create(self, request: Request) -> Response:
        """A new one."""
        person = await self._entered(request, "create")
        wanted = await given(request, NewUser, SMALL_BODY)
        password = self._chosen(wanted.password, wanted.username)
        user = User(
            username=wanted.username,
            password_hash=await self._logins.passwords.hashed(password),
            role=wanted.role,
            email=wanted.email,
            display_name=wanted.display_name,
            namespaces=tuple(wanted.namespaces),
            must_change=wanted.must_change_password,
            created_at=self._clock(),
        )

        def write(users: Users) -> User:
            if user.username in users:
                raise HttpError(409, f"there is a user {user.username} already", reason="AlreadyExists")
            _check_email(users, user)
            users[user.username] = user
            return user

        made = await self._changed(person, "made", write)
        answer = {**shown_user(made), "password": None if wanted.password else password}
        return json_answer(answer, 201, {"Location": f"/api/v1/users/{made.username}", **_UNCACHED})

    async def change(self, request: Request) -> Response:
        """Another address, name, role or other namespaces."""
        person = await self._entered(request, "update")
        wanted = await given(request, UserChange, SMALL_BODY)
        fields = {name: getattr(wanted, name) for name in wanted.model_fields_set}
        if fields.get("role", "") is None:
            raise invalid("role", "must be admin, operator or viewer")
        if "namespaces" in fields:
            fields["namespaces"] = tuple(fields["namespaces"] or ())

        def write(users: Users) -> User:
            user = replace(_known(users, _name(request)), **fields)
            _check_email(users, user)
            users[user.username] = user
            return user

        return json_answer(shown_user(await self._changed(person, "changed", write)))

    async def delete(self, request: Request) -> Response:
        """Gone; a new one of the same name has none of its sessions."""
        person = await self._entered(request, "delete")
        await self._changed(person, "deleted", lambda users: users.pop(_known(users, _name(request)).username))
        return Response(status_code=204)

    async def deactivate(self, request: Request) -> Response:
        """Shut out."""
        return await self._activated(request, "deactivated", active=False)

    async def reactivate(self, request: Request) -> Response:
        """Let in again."""
        return await self._activated(request, "reactivated", active=True)

    async def reset_password(self, request: Request) -> Response:
        """Another password."""
        person = await self._entered(request, "update")
        wanted = await given(request, PasswordReset, SMALL_BODY, optional=True)
        known = _known((await self._logins.users.book()).users, _name(request))
        password = self._chosen(wanted.password, known.username)
        hashed = await self._logins.passwords.hashed(password)
        user = await self._change_one(request, person, "has a new password:", password_hash=hashed, must_change=True)
        return json_answer({**shown_user(user), "password": None if wanted.password else password}, headers=_UNCACHED)

    async def _activated(self, request: Request, word: str, *, active: bool) -> Response:
        person = await self._entered(request, "update")
        return json_answer(shown_user(await self._change_one(request, person, word, active=active)))

    async def _change_one(self, request: Request, person: Person, word: str, **fields: Any) -> User:
        def write(users: Users) -> User:
            user = changed(_known(users, _name(request)), self._clock(), **fields)
            users[user.username] = user
            return user

        return await self._changed(person, word, write)

    async def _changed(self, person: Person, word: str, write: Callable[[Users], User]) -> User:
        """Write, unless nobody could administrate any more; and say in the log who did."""

        def guarded(users: Users) -> User:
            user = write(users)
            if not any(u.role == "admin" and u.active and not u.namespaces for u in users.values()):
                raise HttpError(409, "the last admin who may act everywhere can't be taken away", reason="LastAdmin")
            return user

        user = await self._logins.users.change(guarded)
        log.info("user %s %s by %s", user.username, word, person.username)
        return user

    def _chosen(self, password: str | None, username: str) -> str:
        if password is None:
            return generated()
        check_new(password, username, "password")
        return password

    async def _entered(self, request: Request, verb: str) -> Person:
        person = await self._authenticator.person(request)
        name = _name(request) if "id" in request.path_params else ""
        await self._authenticator.require(person, Permission(verb, "users", "", self._namespace, name))
        return person

    @property
    def _logins(self) -> Logins:
        if self._found is None:
            raise not_found("this installation has no logins")
        return self._found


def _name(request: Request) -> str:
    name: str = request.path_params["id"]
    return name.lower()


def _known(users: Any, name: str) -> User:
    user: User | None = users.get(name)
    if user is None:
        raise not_found(f"there is no user {name[:64]!r}")
    return user


def _check_email(users: Users, user: User) -> None:
    if user.email is None:
        return
    wanted = user.email.lower()
    if any(u.email and u.email.lower() == wanted and u.username != user.username for u in users.values()):
        raise HttpError(409, "another user has this e-mail address", reason="AlreadyExists",
                        details=[{"path": "email", "rule": "is another user's"}])  # fmt: skip
