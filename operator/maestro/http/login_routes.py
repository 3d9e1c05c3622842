"""The endpoints of logins: in, on, who am I, another password."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import invalid, not_found
from maestro.http.login_models import ChangePasswordRequest, LoginRequest, Me, RefreshRequest, SessionView
from maestro.http.logins import tokens
from maestro.http.logins.service import Logins, Session
from maestro.http.logins.users import User
from maestro.http.resources import given
from maestro.http.views import moment

SMALL_BODY = 16 * 1024
_UNCACHED = {"Cache-Control": "no-store"}


class LoginRoutes:
    """The endpoints under /api/v1/auth."""

    def __init__(self, logins: Logins | None, authenticator: Authenticator) -> None:
        self._found = logins
        self._authenticator = authenticator

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        path, session = "/api/v1/auth", {200: Answer("A session", SessionView)}
        return [
            Endpoint(
                "POST", f"{path}/login", self.login, "login", "Log in with a name or an e-mail address and a password",
                "nobody", session, "logins", (401, 404, 422, 429, 503), Body(LoginRequest, SMALL_BODY),
            ),
            Endpoint(
                "POST", f"{path}/refresh", self.refresh, "refreshLogin", "A new session for a refresh token",
                "nobody", session, "logins", (401, 404, 422, 503), Body(RefreshRequest, SMALL_BODY),
            ),
            Endpoint(
                "GET", f"{path}/me", self.me, "whoAmI", "Who calls; for Kubernetes tokens too",
                "person", {200: Answer("The caller", Me)}, "logins",
            ),
            Endpoint(
                "POST", f"{path}/change-password", self.change_password, "changePassword",
                "Give oneself another password; every other session ends",
                "person", session, "logins", (404, 409, 422, 429), Body(ChangePasswordRequest, SMALL_BODY),
            ),
        ]  # fmt: skip

    async def login(self, request: Request) -> Response:
        """Log in."""
        logins = self._logins
        wanted = await given(request, LoginRequest, SMALL_BODY)
        name = wanted.username or wanted.email
        if name is None or (wanted.username and wanted.email):
            raise invalid("username", "exactly one of username and email is needed")
        return _session(await logins.login(name, wanted.password))

    async def refresh(self, request: Request) -> Response:
        """Stay logged in."""
        logins = self._logins
        wanted = await given(request, RefreshRequest, SMALL_BODY)
        return _session(await logins.refresh(wanted.refresh_token))

    async def me(self, request: Request) -> Response:
        """Who calls."""
        person = await self._authenticator.person(request, with_any_password=True)
        user = await self._logins.user_of(person) if person.role is not None else None
        shown = {
            "username": person.username,
            "groups": list(person.groups),
            "role": person.role,
            "namespaces": list(person.namespaces),
            "mustChangePassword": person.must_change,
            "user": None if user is None else shown_user(user),
        }
        return json_answer(shown, headers=_UNCACHED)

    async def change_password(self, request: Request) -> Response:
        """Another password."""
        person = await self._authenticator.person(request, with_any_password=True)
        wanted = await given(request, ChangePasswordRequest, SMALL_BODY)
        return _session(await self._logins.change_password(person, wanted.current_password, wanted.new_password))

    @property
    def _logins(self) -> Logins:
        if self._found is None:
            raise not_found("this installation has no logins; use a Kubernetes token")
        return self._found


def shown_user(user: User) -> dict[str, Any]:
    """A login without its secret."""
    return {
        "id": user.username,
        "username": user.username,
        "email": user.email,
        "displayName": user.display_name,
        "role": user.role,
        "namespaces": list(user.namespaces),
        "active": user.active,
        "mustChangePassword": user.must_change,
        "createdAt": moment(user.created_at),
        "passwordChangedAt": moment(user.changed_at),
    }


def _session(session: Session) -> Response:
    shown = {
        "access_token": session.access_token,
        "refresh_token": session.refresh_token,
        "token_type": "bearer",
        "expires_in": int(tokens.ACCESS.total_seconds()),
        "user": shown_user(session.user),
    }
    return json_answer(shown, headers=_UNCACHED)
