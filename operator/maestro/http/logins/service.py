"""Logging in, staying so, and changing one's password."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from maestro.http.auth import Person, unauthorized
from maestro.http.errors import HttpError, invalid
from maestro.http.logins import tokens
from maestro.http.logins.passwords import Passwords, problem
from maestro.http.logins.throttle import Throttle
from maestro.http.logins.tokens import Holder
from maestro.http.logins.users import Secrets, User, Users, changed
from maestro.runtime.clock import Clock, utcnow

log = logging.getLogger(__name__)

PREFIX = "login:"
"""How a login's name begins for everybody else, so that it can't be a Kubernetes name."""


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """What a login gets."""

    access_token: str
    refresh_token: str
    user: User


class Logins:
    """The logins of an installation."""

    @classmethod
    def of_secret(cls, client: Secrets, namespace: str, name: str, *, clock: Clock = utcnow) -> Logins:
        """The logins that a Secret holds."""
        passwords = Passwords()
        return cls(Users(client, namespace, name, passwords, clock=clock), passwords, Throttle(), clock=clock)

    def __init__(self, users: Users, passwords: Passwords, throttle: Throttle, *, clock: Clock) -> None:
        self.users = users
        self.passwords = passwords
        self._throttle = throttle
        self._clock = clock

    async def login(self, name: str, password: str) -> Session:
        """A session for a name (or e-mail address) and its password.

        Raises
        ------
        HttpError
            401, which doesn't say what was wrong; 429 after several failures; 503.
        """
        book = await self.users.book()
        user = book.find(name)
        await self._checked(name, user, password)
        if user is None or not user.active:
            raise _refused()
        log.info("login of %s", user.username)
        return self._session(book.signing_key, user)

    async def refresh(self, token: str) -> Session:
        """A new session for a refresh token; 401 where it is over or void."""
        book = await self.users.book()
        holder = tokens.holder_of(book.signing_key, token, "refresh", self._clock)
        user = None if holder is None else book.users.get(holder.username)
        if holder is None or user is None or not user.active or user.version != holder.version:
            raise unauthorized("the refresh token isn't valid any more; log in again")
        return self._session(book.signing_key, user)

    async def person(self, token: str) -> Person | None:
        """Who holds an access token; None where it is over or void. 503 where nobody can say."""
        book = await self.users.book()
        holder = tokens.holder_of(book.signing_key, token, "access", self._clock)
        user = None if holder is None else book.users.get(holder.username)
        if holder is None or user is None or not user.active or user.version != holder.version:
            return None
        return Person(
            key=hashlib.sha256(token.encode()).digest(),
            username=PREFIX + user.username,
            uid="",
            groups=(),
            extra=(),
            role=user.role,
            namespaces=user.namespaces,
            must_change=user.must_change,
        )

    async def user_of(self, person: Person) -> User:
        """The account behind a login; 409 for a caller with a Kubernetes token."""
        if person.role is None:
            raise HttpError(409, f"{person.username} isn't a login: its password isn't Maestro's to change")
        user = (await self.users.book()).users.get(person.username.removeprefix(PREFIX))
        if user is None:
            raise _refused()
        return user

    async def change_password(self, person: Person, current: str, new: str) -> Session:
        """Give oneself another password: every other session ends, and the answer is a new one."""
        user = await self.user_of(person)
        await self._checked(user.username, user, current)
        if current == new:
            raise invalid("newPassword", "must be another one than the current")
        check_new(new, user.username)
        hashed = await self.passwords.hashed(new)

        def write(users: dict[str, User]) -> User:
            known = users.get(user.username)
            if known is None or known.version != user.version:
                raise HttpError(409, "the account was changed meanwhile; log in again", reason="Conflict")
            users[user.username] = changed(known, self._clock(), password_hash=hashed, must_change=False)
            return users[user.username]

        made = await self.users.change(write)
        log.info("%s has changed the password", made.username)
        return self._session((await self.users.book()).signing_key, made)

    async def _checked(self, given: str, user: User | None, password: str) -> None:
        """401 for a wrong password, 429 for too many of them."""
        name = user.username if user is not None else given.strip().lower()
        wait = self._throttle.begin(name)
        if wait > 0:
            seconds = str(max(1, round(wait + 0.5)))
            raise HttpError(429, f"too many failed logins; try again in {seconds} s", headers={"Retry-After": seconds})
        if not await self.passwords.matches(None if user is None else user.password_hash, password):
            # A name that isn't known may be a password in the wrong field: it isn't written down.
            log.warning("failed login of %s", "a name that isn't known" if user is None else user.username)
            raise _refused()
        self._throttle.succeeded(name)

    def _session(self, key: bytes, user: User) -> Session:
        holder = Holder(user.username, user.version)
        access, refresh = (tokens.issue(key, holder, use, self._clock) for use in ("access", "refresh"))
        return Session(access, refresh, user)


def check_new(password: str, username: str, field: str = "newPassword") -> None:
    """422 for a password that breaks a rule."""
    rule = problem(password, username)
    if rule is not None:
        raise invalid(field, rule)


def _refused() -> HttpError:
    return unauthorized("the name or the password is wrong")
