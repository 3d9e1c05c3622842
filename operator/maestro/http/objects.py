"""Custom resources written over HTTP: with Maestro's own account, after the caller's right was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from maestro.http.errors import HttpError, not_found, unavailable
from maestro.http.gitowner import git_owner
from maestro.http.specs import renamed
from maestro.kube import errors
from maestro.kube.cache import Object, ObjectCache
from maestro.kube.kinds import Kind, ObjectKey

MANAGER = "maestro-api"
"""The field manager of what is written over HTTP: what it wrote it may take away again, and nothing else."""

_SEEN_SECONDS = 2.0
_ADOPTIONS = 3
# `Invalid value: "x": the rule`: the rule is what helps, and a value may be a secret. CEL shows no value.
_VALUE = re.compile(
    r"^(?:Invalid value|Unsupported value|Duplicate value)"
    r'(?:: (?:"(?:[^"\\]|\\.)*"|[{\[].*?[}\]](?=: |$)|[^:\s]+(?=: |$)))?(?:: (?P<rule>.+))?$',
    re.S,
)
_POLICY = re.compile(r"denied request: (?P<rule>.+)$", re.S)


class Client(Protocol):
    """What of the Kubernetes client writing needs."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object; NotFound where there is none."""

    async def create(self, kind: Kind, namespace: str | None, body: Mapping[str, Any], *, manager: str) -> Object:
        """A new object."""

    async def apply(
        self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any], *, manager: str
    ) -> Object:
        """Server-side apply, by force."""

    async def patch(
        self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any], *, manager: str
    ) -> Object:
        """A JSON merge patch."""

    async def delete(self, kind: Kind, namespace: str | None, name: str, *, uid: str | None = None) -> None:
        """Delete an object."""


class Objects:
    """Creates, replaces, patches and deletes custom resources; refusals come out as answers to the caller.

    Nothing here asks what the caller may do: that is done before. What is written is waited for (shortly) in this
    process's caches, so that a caller who reads afterwards, or starts a Run, finds it.

    Every method raises HttpError: 403 (a policy or Maestro's own rights), 404, 409 (`reason` AlreadyExists,
    ManagedByGit or Conflict), 422 with path and rule, 503.
    """

    def __init__(self, client: Client, caches: Mapping[Kind, ObjectCache] | None = None) -> None:
        self._client = client
        self._seen = {kind: _Seen(cache) for kind, cache in (caches or {}).items()}

    async def create(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        spec: Mapping[str, Any],
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Object:
        """A new object, as the API server made it. `names`: see SpecChecker.check."""
        metadata: Object = {"name": name, "namespace": namespace}
        metadata |= {"labels": dict(labels)} if labels else {}
        metadata |= {"annotations": dict(annotations)} if annotations else {}
        with answering(kind, namespace, name, names):
            made = await self._client.create(kind, namespace, {"metadata": metadata, "spec": spec}, manager=MANAGER)
        await self._until_seen(kind, made)
        return made

    async def replace(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        spec: Mapping[str, Any],
        *,
        uid: str | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Object:
        """Make what HTTP wrote of the spec what `spec` says; what others own and it doesn't name stays.

        Parameters
        ----------
        uid
            Only if the object is this one.
        """
        live = await self.get(kind, namespace, name)
        refuse_git(kind, live)
        if uid is not None and live["metadata"]["uid"] != uid:
            raise HttpError(409, f"the {kind.kind} {namespace}.{name} is another one by now", reason="Conflict")
        live = await self._adopted(kind, live)
        body = {"metadata": {"name": name, "namespace": namespace, "uid": live["metadata"]["uid"]}, "spec": spec}
        with answering(kind, namespace, name, names):
            made = await self._client.apply(kind, namespace, name, body, manager=MANAGER)
        await self._until_seen(kind, made)
        return made

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        spec: Mapping[str, Any],
        *,
        resource_version: str | None = None,
        annotations: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Object:
        """Merge `spec` into the spec (None removes a field); with `resource_version` only over that version.

        For fields that belong to whoever decides, such as a Reprocessing's `decision`: who owns the object isn't
        asked (`refuse_git` does).
        """
        metadata: Object = {"annotations": dict(annotations)} if annotations else {}
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        body: Object = {"spec": spec, **({"metadata": metadata} if metadata else {})}
        with answering(kind, namespace, name, names):
            made = await self._client.patch(kind, namespace, name, body, manager=MANAGER)
        await self._until_seen(kind, made)
        return made

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete the object that has the name now; what depends on it goes in the background."""
        live = await self.get(kind, namespace, name)
        refuse_git(kind, live)
        uid: str = live["metadata"]["uid"]
        with answering(kind, namespace, name):
            await self._client.delete(kind, namespace, name, uid=uid)
        if kind in self._seen:
            await self._seen[kind].gone(ObjectKey(namespace, name), uid)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The object as the API server holds it, not as a cache does."""
        with answering(kind, namespace, name):
            return await self._client.get(kind, namespace, name)

    async def _adopted(self, kind: Kind, live: Object) -> Object:
        """The object, its fields that HTTP made (a create isn't an apply) turned into ones that an apply can remove."""
        meta = live["metadata"]
        for _ in range(_ADOPTIONS):
            fields = _as_applied(meta.get("managedFields") or [])
            if fields is None:
                return live
            body = {"metadata": {"resourceVersion": meta["resourceVersion"], "managedFields": fields}}
            try:
                with answering(kind, meta["namespace"], meta["name"]):
                    return await self._client.patch(kind, meta["namespace"], meta["name"], body, manager=MANAGER)
            except HttpError as error:
                if error.status != 409:
                    raise
            live = await self.get(kind, meta["namespace"], meta["name"])
            meta = live["metadata"]
        raise HttpError(409, f"the {kind.kind} {meta['name']} changes all the time; try again", reason="Conflict")

    async def _until_seen(self, kind: Kind, made: Object) -> None:
        if kind in self._seen:
            await self._seen[kind].made(made)


class _Seen:
    """Waits until a cache has what was written."""

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache
        self._waiting: dict[ObjectKey, list[asyncio.Event]] = {}
        cache.subscribe(self._wake)

    async def made(self, made: Object) -> None:
        meta = made["metadata"]

        def there() -> bool:
            found = (self._cache.get(meta["namespace"], meta["name"]) or {}).get("metadata", {})
            return bool(found.get("uid") == meta["uid"] and found.get("generation", 0) >= meta.get("generation", 0))

        await self._until(ObjectKey(meta["namespace"], meta["name"]), there)

    async def gone(self, key: ObjectKey, uid: str) -> None:
        await self._until(key, lambda: (self._cache.get(*key) or {}).get("metadata", {}).get("uid") != uid)

    async def _until(self, key: ObjectKey, true: Callable[[], bool]) -> None:
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(key, [])
        waiting.append(changed)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SEEN_SECONDS):
                    while not true():
                        changed.clear()
                        await changed.wait()
        finally:
            waiting.remove(changed)
            if not waiting:
                self._waiting.pop(key, None)

    def _wake(self, key: ObjectKey, found: object | None) -> None:
        for changed in self._waiting.get(key, ()):
            changed.set()


def refuse_git(kind: Kind, obj: Mapping[str, Any]) -> None:
    """409 ManagedByGit for an object that a Git tool owns."""
    owner = git_owner(obj)
    if owner is not None:
        name = f"{obj['metadata'].get('namespace')}.{obj['metadata'].get('name')}"
        message = f"the {kind.kind} {name} belongs to {owner}; change it in Git"
        raise HttpError(409, message, reason="ManagedByGit")


@contextlib.contextmanager
def answering(kind: Kind, namespace: str, name: str, names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn the API server's refusals into answers: which field breaks which rule, or what is in the way."""
    try:
        yield
    except errors.KubeError as error:
        raise _answer(error, f"the {kind.kind} {namespace}.{name}", names or {}) from error


def _answer(error: errors.KubeError, what: str, names: Mapping[str, str]) -> HttpError:
    match error:
        case errors.AlreadyExists():
            return HttpError(409, f"{what} exists already", reason="AlreadyExists")
        case errors.Conflict():
            return HttpError(409, f"{what} was changed by somebody else meanwhile; read it again", reason="Conflict")
        case errors.NotFound():
            missing = str(error.details.get("kind") or "")
            if missing == "namespaces":
                return not_found(f"there is no namespace {error.details.get('name')}")
            return not_found(f"there is no {what.removeprefix('the ')}")
        case errors.Forbidden():
            return HttpError(403, f"{what} was refused: {_policy(error.message)}")
        case errors.Invalid() | errors.BadRequest():
            return _invalid(error, what, names)
        case _:
            return unavailable("the Kubernetes API server", retry_after=error.retry_after or 5.0)


def _policy(message: str) -> str:
    """What an admission policy says, without the names of the policy and its binding."""
    found = _POLICY.search(message)
    return found["rule"] if found else message


def _invalid(error: errors.KubeError, what: str, names: Mapping[str, str]) -> HttpError:
    details = []
    for cause in error.causes:
        path = renamed(cause["field"].removeprefix("spec."), names)
        details.append({"path": "" if path == "<nil>" else path, "rule": _rule(cause["message"])})
    if not details:
        return HttpError(422, f"{what} was refused: {_policy(error.message)}")
    first = details[0]
    return HttpError(422, f"{first['path']}: {first['rule']}" if first["path"] else first["rule"], details=details)


def _rule(message: str) -> str:
    found = _VALUE.match(message)
    if found is None:
        return message.removeprefix("Forbidden: ").removeprefix("Required value: ")
    return found["rule"] or "isn't valid"


def _as_applied(entries: list[Object]) -> list[Object] | None:
    """`managedFields` in which what HTTP created or patched counts as applied by it; None where it does already."""

    def ours(entry: Object) -> bool:
        return entry.get("manager") == MANAGER and not entry.get("subresource")

    if not any(ours(entry) and entry.get("operation") == "Update" for entry in entries):
        return None
    fields: Object = {}
    for entry in filter(ours, entries):
        fields = _union(fields, entry.get("fieldsV1") or {})
    # Labels and annotations are given once, at the creation: an apply, which names none, mustn't take them away.
    fields.pop("f:metadata", None)
    kept = [entry for entry in entries if not ours(entry)]
    latest = next(entry for entry in entries if ours(entry))
    return [{**latest, "operation": "Apply", "fieldsV1": fields}, *kept]


def _union(a: Object, b: Object) -> Object:
    return {key: _union(a.get(key) or {}, b.get(key) or {}) for key in {**a, **b}}
