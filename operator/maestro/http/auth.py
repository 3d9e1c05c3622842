"""Who calls, and what they may do: people by Kubernetes token, workers by projected token or by the shared key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from maestro.http.errors import HttpError, unavailable
from maestro.http.logins.roles import Role, may
from maestro.http.logins.tokens import PREFIX
from maestro.http.ttlcache import TtlCache
from maestro.kube.errors import KubeError
from maestro.resources import GROUP

log = logging.getLogger(__name__)

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
API_KEY_HEADER = "x-worker-api-key"

_CACHE_SIZE = 20_000
_PERSON_SECONDS = 10.0
_WORKER_SECONDS = 60.0
_REFUSED_SECONDS = 5.0
# While the API server is away a worker that was known goes on: refusing its heartbeats would end its leases.
_WORKER_STALE_SECONDS = 900.0
_MAX_TOKEN = 16 * 1024
_REVIEWS_AT_ONCE = 16
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Reviews(Protocol):
    """What of the Kubernetes client the authenticator needs."""

    async def token_review(self, token: str, audiences: tuple[str, ...] = ()) -> dict[str, Any]:
        """A TokenReview, answered."""

    async def subject_access_review(self, spec: dict[str, Any]) -> dict[str, Any]:
        """A SubjectAccessReview, answered."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The Automation at the end of a pod's chain of owners; the id is `<namespace>.<name>`."""

    uid: str
    automation_id: str


class PodOwners(Protocol):
    """Finds the Automation that a pod was made for."""

    async def automation_of(self, namespace: str, pod: str, pod_uid: str) -> Owner | None:
        """The Automation at the end of the pod's chain of owners; None where there is none."""


class LoginTokens(Protocol):
    """Knows the tokens of logins."""

    async def person(self, token: str) -> Person | None:
        """Who holds a token; None for one that is over or void."""


@dataclass(frozen=True, slots=True)
class Person:
    """A caller that the API server knows, or a login; `key` stands for the token, and is no secret."""

    key: bytes = field(repr=False)
    username: str
    uid: str
    groups: tuple[str, ...]
    extra: tuple[tuple[str, tuple[str, ...]], ...]
    role: Role | None = None
    """Of a login: its role says what it may do, in these namespaces (none: in all). RBAC isn't asked."""
    namespaces: tuple[str, ...] = ()
    must_change: bool = False
    """The password has to be changed before anything else."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker: its identity, and the one Automation it works for (None with the shared key: any)."""

    identity: str
    automation: Owner | None


@dataclass(frozen=True, slots=True)
class Permission:
    """A verb on a resource of the group, as RBAC knows it; an empty namespace or name means all."""

    verb: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {resource} {self._where()}"

    def _where(self) -> str:
        if self.name:
            return f"of {self.namespace}/{self.name}"
        return f"in namespace {self.namespace}" if self.namespace else "in all namespaces"


class ApiKey:
    """The key that workers outside share, in a file that may be replaced at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._digest: bytes | None = None

    @property
    def present(self) -> bool:
        """Whether there is a key at all."""
        return self._current() is not None

    def matches(self, given: str) -> bool:
        """Compare in constant time; False when the file is absent or empty."""
        digest = self._current()
        return digest is not None and hmac.compare_digest(digest, _digest(given))

    def _current(self) -> bytes | None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                key = self._path.read_text(encoding="utf-8").strip()
                self._stamp, self._digest = stamp, _digest(key) if key else None
        except OSError:
            self._stamp, self._digest = None, None
        return self._digest


class Authenticator:
    """Answers who calls and whether they may; remembers answers for seconds, by a hash of the token.

    Parameters
    ----------
    reviews
        The API server's TokenReview and SubjectAccessReview.
    owners
        From a pod to its Automation.
    audience
        The audience that workers' tokens must have been made for.
    api_key
        The shared key of workers that have no such token; None: not accepted.
    logins
        The installation's own logins; None: it has none.
    """

    def __init__(
        self,
        reviews: Reviews,
        owners: PodOwners,
        *,
        audience: str,
        api_key: ApiKey | None = None,
        logins: LoginTokens | None = None,
    ) -> None:
        self._reviews = reviews
        self._owners = owners
        self._audience = audience
        self._api_key = api_key
        self._logins = logins
        self._gate = asyncio.Semaphore(_REVIEWS_AT_ONCE)
        self._people: TtlCache[bytes, Person | None] = TtlCache(
            _CACHE_SIZE, lambda person: _PERSON_SECONDS if person else _REFUSED_SECONDS
        )
        self._workers: TtlCache[bytes, Worker | HttpError] = TtlCache(
            _CACHE_SIZE,
            lambda worker: _WORKER_SECONDS if isinstance(worker, Worker) else _REFUSED_SECONDS,
            stale_seconds=_WORKER_STALE_SECONDS,
            stale_on=(HttpError,),
        )
        self._verdicts: TtlCache[tuple[bytes, Permission], bool] = TtlCache(_CACHE_SIZE, lambda _: _PERSON_SECONDS)

    async def person(self, connection: HTTPConnection, *, with_any_password: bool = False) -> Person:
        """Who calls, by their Kubernetes bearer token or that of a login.

        Parameters
        ----------
        with_any_password
            Let logins pass that must change their password first.

        Raises
        ------
        HttpError
            401 without a token that the API server takes; 503 while the API server is away.
        """
        token = _bearer(connection.headers)
        if token is None:
            raise unauthorized("a Kubernetes bearer token is needed: Authorization: Bearer <token>")
        if token.startswith(PREFIX):
            return await self._login(token, with_any_password)
        key = _digest(token)
        person = await self._people.get(key, lambda: self._review_person(key, token))
        if person is None:
            raise unauthorized("the bearer token isn't valid: wrong, expired or made for another audience")
        return person

    async def worker(self, connection: HTTPConnection) -> Worker:
        """Which worker calls, by its projected token (audience of the installation) or the shared key.

        Raises
        ------
        HttpError
            401 without valid credentials; 403 for a valid token of a pod that no Automation owns; 503 while the API
            server is away and the token isn't known yet.
        """
        token = _bearer(connection.headers)
        if token is not None and token.startswith(PREFIX):
            raise unauthorized("a worker's token is needed, not that of a login")
        if token is not None:
            found = await self._workers.get(_digest(token), lambda: self._review_worker(token))
            if isinstance(found, HttpError):
                raise HttpError(found.status, found.message, headers=found.headers)
            return found
        key = connection.headers.get(API_KEY_HEADER)
        if key is None:
            raise unauthorized("a worker's token (Authorization: Bearer <token>) or X-Worker-API-Key is needed")
        if self._api_key is None or not self._api_key.present:
            raise unauthorized("this installation has no X-Worker-API-Key; a worker's token is needed")
        if not self._api_key.matches(key):
            raise unauthorized("X-Worker-API-Key isn't the key of this installation")
        return Worker(connection.client.host if connection.client else "unknown", None)

    async def anyone(self, connection: HTTPConnection) -> None:
        """Let pass whoever is known, person or worker; 401 else."""
        try:
            await self.worker(connection)
        except HttpError as error:
            if error.status not in (401, 403):
                raise
            if error.status == 401:
                await self.person(connection)

    async def allowed(self, person: Person, permission: Permission) -> bool:
        """Whether RBAC, or a login's role, gives the person this permission; 503 while the API server is away."""
        if person.role is not None:
            here = not person.namespaces or permission.namespace in person.namespaces
            return here and may(person.role, permission.verb, permission.resource, permission.subresource)
        return await self._verdicts.get((person.key, permission), lambda: self._review_access(person, permission))

    async def require(self, person: Person, permission: Permission) -> None:
        """403 that names the missing permission, unless the person has it."""
        if not await self.allowed(person, permission):
            raise HttpError(403, f"{person.username} may not {permission}")

    async def _login(self, token: str, with_any_password: bool) -> Person:
        person = None if self._logins is None else await self._logins.person(token)
        if person is None:
            raise unauthorized("the login is over or void; log in again")
        if person.must_change and not with_any_password:
            message = "change your password first: POST /api/v1/auth/change-password"
            raise HttpError(403, message, reason="PasswordChangeRequired")
        return person

    async def _review_person(self, key: bytes, token: str) -> Person | None:
        status = await self._token_review(token, ())
        return _person(key, status) if status.get("authenticated") else None

    async def _review_worker(self, token: str) -> Worker | HttpError:
        status = await self._token_review(token, (self._audience,))
        # An API server that knows nothing of audiences leaves them out of its answer; such a token isn't for us.
        if not status.get("authenticated") or self._audience not in status.get("audiences", ()):
            return unauthorized("the worker's token isn't valid: wrong, expired or made for another audience")
        user = status.get("user", {})
        extra = user.get("extra", {})
        pod, pod_uid = _first(extra.get(POD_NAME)), _first(extra.get(POD_UID))
        kind, _, account = str(user.get("username", "")).partition("system:serviceaccount:")
        if kind or not account or not pod or not pod_uid:
            return HttpError(403, "the token isn't bound to a pod: a worker needs a projected ServiceAccount token")
        namespace = account.partition(":")[0]
        try:
            automation = await self._owners.automation_of(namespace, pod, pod_uid)
        except KubeError as error:
            raise _away(error) from error
        if automation is None:
            return HttpError(403, f"the pod {namespace}/{pod} isn't a worker of any Automation")
        return Worker(pod_uid, automation)

    async def _review_access(self, person: Person, permission: Permission) -> bool:
        attributes = {
            "group": GROUP,
            "version": "*",
            "verb": permission.verb,
            "resource": permission.resource,
            "subresource": permission.subresource,
            "namespace": permission.namespace,
            "name": permission.name,
        }
        spec = {
            "user": person.username,
            "uid": person.uid,
            "groups": list(person.groups),
            "extra": {key: list(values) for key, values in person.extra},
            "resourceAttributes": {key: value for key, value in attributes.items() if value},
        }
        async with self._gate:
            try:
                review = await self._reviews.subject_access_review(spec)
            except KubeError as error:
                raise _away(error) from error
        return bool(_status(review).get("allowed"))

    async def _token_review(self, token: str, audiences: tuple[str, ...]) -> dict[str, Any]:
        async with self._gate:
            try:
                return _status(await self._reviews.token_review(token, audiences))
            except KubeError as error:
                raise _away(error) from error


def _away(error: KubeError) -> HttpError:
    log.warning("the API server didn't answer a review: %s", error)
    return unavailable("the Kubernetes API server, which checks tokens and permissions,")


def _status(review: dict[str, Any]) -> dict[str, Any]:
    status = review.get("status", {})
    return status if isinstance(status, dict) else {}


def _person(key: bytes, status: dict[str, Any]) -> Person:
    user = status.get("user", {})
    return Person(
        key=key,
        username=str(user.get("username", "")),
        uid=str(user.get("uid", "")),
        groups=tuple(user.get("groups") or ()),
        extra=tuple(sorted((key, tuple(values)) for key, values in (user.get("extra") or {}).items())),
    )


def _first(values: object) -> str | None:
    return str(values[0]) if isinstance(values, list) and values else None


def _bearer(headers: Headers) -> str | None:
    header = headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or len(token) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise unauthorized("the Authorization header must be: Bearer <token>")
    return token


def unauthorized(message: str) -> HttpError:
    """401."""
    return HttpError(401, message, headers={"WWW-Authenticate": "Bearer"})


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
