"""The client of the Kubernetes API: raw JSON in and out, a timeout on every call, typed errors."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject

from maestro.kube.credentials import Credentials, load_credentials
from maestro.kube.errors import KubeError, NotFound, TooManyRequests, Unauthorized, Unavailable, error_of
from maestro.kube.events import event_body
from maestro.kube.kinds import EVENT, POD, SUBJECT_ACCESS_REVIEW, TOKEN_REVIEW, Kind, ObjectKey
from maestro.kube.stream import watch_events
from maestro.resources.names import FIELD_MANAGER
from maestro.runtime import metrics
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.ratelimit import TokenBucket

log = logging.getLogger(__name__)

Object = dict[str, Any]
Objects = list[Object]

USER_AGENT = "maestro"

# The API server sends a bookmark about once a minute: a watch that is silent for longer is dead.
WATCH_SILENCE = 70.0
# What a load balancer answers when no API server is behind it.
_NOBODY_BEHIND = frozenset({502, 503, 504})

PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


@dataclass(frozen=True, slots=True)
class Rate:
    """The client's own limits.

    Attributes
    ----------
    qps, burst
        Requests a second, and how many may go at once after a pause.
    events_qps, events_burst
        The same for Events, which are dropped rather than waited for.
    retries
        How often a request that was answered 429 is sent again.
    longest_wait
        Seconds beyond which a `Retry-After` isn't waited for: the caller gets `TooManyRequests`.
    """

    qps: float = 50.0
    burst: int = 100
    events_qps: float = 5.0
    events_burst: int = 100
    retries: int = 3
    longest_wait: float = 10.0


class KubeClient:
    """One connection pool to one API server. Belongs to the event loop in which it is first used."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        rate: Rate | None = None,
        timeout: float = 10.0,
        clock: Clock = utcnow,
    ) -> None:
        """`timeout`: seconds for a whole call, where the call isn't given its own."""
        self._credentials = credentials
        self._rest: Any = RESTClientObject(credentials.configuration)
        self._up = metrics.UP.labels(dependency="kube")
        self._rate = rate or Rate()
        self._timeout = timeout
        self._clock = clock
        self._bucket = TokenBucket(self._rate.qps, self._rate.burst)
        self._event_bucket = TokenBucket(self._rate.events_qps, self._rate.events_burst)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | Path | None = None,
        context: str | None = None,
        *,
        rate: Rate | None = None,
        timeout: float = 10.0,
        clock: Clock = utcnow,
    ) -> KubeClient:
        """A client from the named kubeconfig; without one, in-cluster when in a pod, else from `KUBECONFIG`.

        Nothing is sent yet. Raises `ConfigException` when there is no usable configuration.
        """
        return cls(await load_credentials(kubeconfig, context), rate=rate, timeout=timeout, clock=clock)

    @property
    def credentials(self) -> Credentials:
        """Address and identity, for another client to the same API server."""
        return self._credentials

    async def close(self) -> None:
        """Close every connection."""
        await self._rest.close()

    # -- reading ----------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str | None, name: str, *, timeout: float | None = None) -> Object:
        """One object. Raises `NotFound`."""
        return await self._json("GET", kind.path(namespace, name), timeout=timeout)

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
        timeout: float | None = None,
    ) -> tuple[Objects, str]:
        """Every object of a kind, page by page.

        Parameters
        ----------
        namespace
            None: of all namespaces.
        limit
            Objects in a page.
        timeout
            Seconds for each page.

        Returns
        -------
        The objects, each with its apiVersion and kind, and the resourceVersion to watch from.

        Raises
        ------
        Expired
            The list changed too much while it was read; begin again.
        """
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": limit, "continue": None}
        objects: Objects = []
        while True:
            page = await self._json("GET", kind.path(namespace), query=query, timeout=timeout)
            for item in page.get("items") or []:
                # Items of a list of built-in kinds don't name their kind.
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
                objects.append(item)
            meta = page.get("metadata") or {}
            query["continue"] = meta.get("continue") or None
            if not query["continue"]:
                return objects, str(meta.get("resourceVersion", ""))

    async def probe(self, kind: Kind, namespace: str | None = None, *, timeout: float | None = None) -> None:
        """Ask for one object of a kind, whichever it is: returns when the API server answers, raises `KubeError`."""
        await self._json("GET", kind.path(namespace), query={"limit": 1}, timeout=timeout)

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: int = 290,
        label_selector: str | None = None,
        field_selector: str | None = None,
        silence: float = WATCH_SILENCE,
    ) -> AsyncIterator[tuple[str, Object]]:
        """What changes from a resourceVersion on: pairs of ADDED, MODIFIED, DELETED or BOOKMARK and the object.

        Ends by itself after `timeout_seconds`. The first pair is always a BOOKMARK made here, as soon as the server
        has accepted the watch: it says 'connected', and carries the resourceVersion that was asked for.

        Raises
        ------
        Expired
            The resourceVersion is too old: list anew.
        Unavailable
            The connection broke, or nothing (not even a bookmark) came for `silence` seconds.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": timeout_seconds,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=silence)
        return self._watch(kind, self._url(kind.path(namespace), query), resource_version, timeout)

    async def _watch(
        self, kind: Kind, url: str, resource_version: str, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[tuple[str, Object]]:
        response = await self._send("GET", url, None, {}, timeout)
        try:
            if response.status != 200:
                error = error_of(response.status, await _read(response), retry_after=_retry_after(response.headers))
                if isinstance(error, Unauthorized):
                    self._credentials.expire()
                raise error
            yield (
                "BOOKMARK",
                {
                    "apiVersion": kind.api_version,
                    "kind": kind.kind,
                    "metadata": {"resourceVersion": resource_version},
                },
            )
            async for event in watch_events(response):
                yield event
        finally:
            # A watch is never read to its end: only closing the connection stops the server.
            response.close()

    async def openapi(self, group_version: str, *, timeout: float = 30.0) -> Object:
        """The API server's OpenAPI v3 document of a group and version, such as `apis/apps/v1`."""
        return await self._json("GET", f"/openapi/v3/{group_version}", timeout=timeout)

    async def pod_log(
        self, namespace: str, pod: str, *, container: str | None = None, tail_lines: int = 20, previous: bool = False
    ) -> str:
        """The last lines of a container's log (at most 64 KiB)."""
        query = {
            "container": container,
            "tailLines": tail_lines,
            "limitBytes": 65_536,
            "previous": "true" if previous else None,
        }
        body = await self._request("GET", POD.path(namespace, pod, "log"), query=query)
        return body.decode("utf-8", "replace")

    # -- writing ----------------------------------------------------------------------------------------------------

    async def create(
        self,
        kind: Kind,
        namespace: str | None,
        body: Mapping[str, Any],
        *,
        manager: str = FIELD_MANAGER,
        timeout: float | None = None,
    ) -> Object:
        """A new object. Raises `AlreadyExists`, `Invalid`, `Forbidden`."""
        query = {"fieldManager": manager}
        return await self._json("POST", kind.path(namespace), query=query, body=_typed(kind, body), timeout=timeout)

    async def replace(
        self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any], *, timeout: float | None = None
    ) -> Object:
        """Write a whole object; with `metadata.resourceVersion` only over that version. Raises `Conflict`."""
        query = {"fieldManager": FIELD_MANAGER}
        path = kind.path(namespace, name)
        return await self._json("PUT", path, query=query, body=_typed(kind, body), timeout=timeout)

    async def apply(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Mapping[str, Any],
        *,
        manager: str = FIELD_MANAGER,
        force: bool = True,
        timeout: float | None = None,
    ) -> Object:
        """Server-side apply: create the object, or make the fields of `body` what they say. Returns the whole object.

        Raises
        ------
        Invalid
            A field breaks a rule; `causes` names it. `metadata.uid`: `body` has one, and the object is another by now.
        Conflict
            Without `force`: another manager owns a field. With a `metadata.resourceVersion` in `body`: the object has
            changed.
        """
        return await self._apply(kind, namespace, name, body, manager, force, timeout, dry=False)

    async def apply_dry(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Mapping[str, Any],
        *,
        manager: str = FIELD_MANAGER,
        force: bool = True,
        timeout: float | None = None,
    ) -> Object:
        """What `apply` would answer, with nothing written."""
        return await self._apply(kind, namespace, name, body, manager, force, timeout, dry=True)

    async def _apply(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Mapping[str, Any],
        manager: str,
        force: bool,
        timeout: float | None,
        *,
        dry: bool,
    ) -> Object:
        query = {"fieldManager": manager, "force": "true" if force else None, "dryRun": "All" if dry else None}
        return await self._json(
            "PATCH",
            kind.path(namespace, name),
            query=query,
            body=_typed(kind, body),
            content_type=PATCH_TYPES["apply"],
            timeout=timeout,
        )

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        type: Literal["merge", "strategic", "json"] = "merge",
        subresource: str | None = None,
        manager: str = FIELD_MANAGER,
        timeout: float | None = None,
    ) -> Object:
        """Patch an object (JSON merge patch, strategic merge patch, or a JSON patch's list of operations)."""
        return await self._json(
            "PATCH",
            kind.path(namespace, name, subresource),
            query={"fieldManager": manager},
            body=body,
            content_type=PATCH_TYPES[type],
            timeout=timeout,
        )

    async def patch_status(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        status: Mapping[str, Any],
        *,
        resource_version: str,
        timeout: float | None = None,
    ) -> Object:
        """Merge `status` into the status subresource, if the object still has this resourceVersion.

        A field is removed by None; lists are replaced whole. Raises `Conflict` when somebody wrote in between.
        """
        if not resource_version:
            raise ValueError("resource_version: a status is only written over a known version")
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return await self.patch(kind, namespace, name, body, subresource="status", timeout=timeout)

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        timeout: float | None = None,
    ) -> None:
        """Delete an object; one that is gone already is fine.

        With `uid` only that very object: raises `Conflict` when the name belongs to another one by now.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._json("DELETE", kind.path(namespace, name), body=options, timeout=timeout)
        except NotFound:
            return

    # -- questions and Events ---------------------------------------------------------------------------------------

    async def token_review(self, token: str, audiences: Sequence[str] = (), *, timeout: float | None = None) -> Object:
        """Who a token belongs to: the whole TokenReview; `status.authenticated` says whether it counts."""
        spec: Object = {"token": token}
        if audiences:
            spec["audiences"] = [*audiences]
        answer = await self._json(
            "POST", TOKEN_REVIEW.path(), body=_typed(TOKEN_REVIEW, {"spec": spec}), timeout=timeout
        )
        # The answer repeats the token, which has no business in anybody's log.
        answer.pop("spec", None)
        return answer

    async def subject_access_review(self, spec: Mapping[str, Any], *, timeout: float | None = None) -> Object:
        """Whether somebody may do something: the whole SubjectAccessReview; `status.allowed` is the answer."""
        body = _typed(SUBJECT_ACCESS_REVIEW, {"spec": spec})
        return await self._json("POST", SUBJECT_ACCESS_REVIEW.path(), body=body, timeout=timeout)

    async def event(
        self,
        involved: Mapping[str, Any],
        *,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        action: str = "Reconcile",
        reporter: str = "maestro",
    ) -> None:
        """Tell about an object's transition in an Event. Never raises: an Event that can't be sent is only counted.

        Callers tell of transitions, not of states; beyond the client's rate Events are dropped.
        """
        if not self._event_bucket.try_take():
            metrics.KUBE_EVENTS_DROPPED.labels(why="rate").inc()
            return
        body = event_body(involved, type, reason, message, action, reporter, self._clock())
        try:
            await self.create(EVENT, body["metadata"]["namespace"], body)
        except KubeError as error:
            metrics.KUBE_EVENTS_DROPPED.labels(why="refused" if error.status else "unavailable").inc()
            log.warning("an Event %s for %s wasn't taken: %s", reason, _key_of(involved), error)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Object:
        answer = await self._request(method, path, query=query, body=body, content_type=content_type, timeout=timeout)
        try:
            parsed = json.loads(answer)
        except ValueError as error:
            raise Unavailable(0, "NotJSON", f"{method} {path}: the answer isn't JSON") from error
        if not isinstance(parsed, dict):
            raise Unavailable(0, "NotAnObject", f"{method} {path}: the answer isn't an object")
        return parsed

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> bytes:
        url = self._url(path, query)
        limits = aiohttp.ClientTimeout(total=self._timeout if timeout is None else timeout)
        refused = throttled = 0
        while True:
            await self._bucket.take()
            response = await self._send(method, url, body, {"Content-Type": content_type}, limits)
            answer = await _read(response)
            if response.status < 300:
                return answer
            error = error_of(response.status, answer, retry_after=_retry_after(response.headers))
            if isinstance(error, Unauthorized) and not refused and self._credentials.expire():
                refused += 1
                continue
            if isinstance(error, TooManyRequests) and throttled < self._rate.retries:
                wait = error.retry_after or 1.0
                if wait <= self._rate.longest_wait:
                    throttled += 1
                    await asyncio.sleep(wait * random.uniform(1.0, 1.25))  # noqa: S311 - spreads load, keeps no secret
                    continue
            raise error

    async def _send(
        self, method: str, url: str, body: Any, headers: dict[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers |= {"Accept": "application/json", "User-Agent": USER_AGENT}
        headers |= await self._credentials.headers()
        try:
            response = await self._rest.request(method, url, headers=headers, body=body, _request_timeout=timeout)
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            metrics.KUBE_REQUESTS.labels(method=method, code="none").inc()
            self._up.set(0)
            raise _unreachable(method, url, error) from error
        metrics.KUBE_REQUESTS.labels(method=method, code=str(response.status)).inc()
        self._up.set(response.status not in _NOBODY_BEHIND)
        answered: aiohttp.ClientResponse = response.response
        return answered

    def _url(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return f"{self._credentials.server}{path}" + (f"?{urlencode(given)}" if given else "")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _unreachable(response.method, str(response.url), error) from error


def _unreachable(method: str, url: str, error: BaseException) -> Unavailable:
    what = "timed out" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
    return Unavailable(0, "Unreachable", f"{method} {url.partition('?')[0]}: {what}")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return float(headers["Retry-After"])
    except (KeyError, ValueError):
        return None


def _typed(kind: Kind, body: Mapping[str, Any]) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body}


def _key_of(obj: Mapping[str, Any]) -> ObjectKey:
    meta = obj.get("metadata") or {}
    return ObjectKey(str(meta.get("namespace", "")), str(meta.get("name", "")))
