"""Logins and users as HTTP shows and takes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from maestro.http.logins.roles import Role
from maestro.http.models import Model, Text
from maestro.http.resource_models import Namespace

Username = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=63, to_lower=True, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$"
    ),
]
Email = Annotated[Text, StringConstraints(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
Password = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
DisplayName = Annotated[Text, StringConstraints(max_length=256)]
Namespaces = Annotated[list[Namespace], Field(max_length=64)]


class LoginRequest(Model):
    """A name or an e-mail address, and the password."""

    username: Annotated[Text, StringConstraints(min_length=1, max_length=254)] | None = None
    email: Annotated[Text, StringConstraints(min_length=1, max_length=254)] | None = None
    password: Password


class RefreshRequest(Model):
    """The refresh token of a login."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class ChangePasswordRequest(Model):
    """One's own password, the present one and the new one."""

    current_password: Password
    new_password: Password


class UserView(Model):
    """A login."""

    id: str
    username: str
    email: str | None
    display_name: str | None
    role: Role
    namespaces: list[str] = Field(description="Where the role counts; none: in all namespaces.")
    active: bool
    must_change_password: bool
    created_at: datetime | None
    password_changed_at: datetime | None


class UserViews(Model):
    """Logins, by name."""

    items: list[UserView]


class SessionView(BaseModel):
    """What a login gets: the bearer token of further requests, and what /auth/refresh takes before it is over."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="Seconds that the access token is good for.")
    user: UserView


class Me(Model):
    """Who calls."""

    username: str = Field(description="As Runs and decisions name the caller; `login:<name>` for a login.")
    groups: list[str]
    role: Role | None = Field(description="Of a login; null for a Kubernetes token, whose rights RBAC knows.")
    namespaces: list[str]
    must_change_password: bool
    user: UserView | None


class NewUser(Model):
    """A login to be made."""

    username: Username
    email: Email | None = None
    display_name: DisplayName | None = None
    role: Role = "viewer"
    namespaces: Namespaces = Field(default_factory=list)
    password: Password | None = Field(None, description="One is made and answered where none is given.")
    must_change_password: bool = Field(True, description="The password has to be changed at the first login.")


class UserChange(Model):
    """What a login is to be; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    email: Email | None = None
    display_name: DisplayName | None = None
    role: Role | None = None
    namespaces: Namespaces | None = None


class PasswordReset(Model):
    """A new password for somebody else."""

    password: Password | None = Field(None, description="One is made and answered where none is given.")


class UserWithPassword(UserView):
    """A login, with the password that was made for it; it is shown this once."""

    password: str | None
