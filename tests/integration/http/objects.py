"""Custom resources in memory, for tests of HTTP alone: names, versions and conflicts, but no schema and no owners."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from maestro.kube.errors import AlreadyExists, NotFound, Unavailable
from maestro.kube.kinds import Kind

Object = dict[str, Any]


class MemoryObjects:
    """What `maestro.http.objects` needs of an API server; `seen` hears of each change, as a watch would."""

    def __init__(self, seen: Callable[[Kind, str, str, Object | None], None] | None = None) -> None:
        self.away = False
        self.found: dict[tuple[str, str, str], Object] = {}
        self._versions = itertools.count(1)
        self._seen = seen or (lambda kind, namespace, name, made: None)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        if self.away:
            raise Unavailable(0, "Unreachable", "away")
        found = self.found.get((kind.plural, namespace or "", name))
        if found is None:
            raise NotFound(404, "NotFound", f"{kind.plural} {name!r} not found", {"kind": kind.plural, "name": name})
        return {**found, "metadata": {"resourceVersion": "0", **found["metadata"]}}

    async def create(self, kind: Kind, namespace: str | None, body: Mapping[str, Any], *, manager: str) -> Object:
        name = body["metadata"]["name"]
        if (kind.plural, namespace or "", name) in self.found:
            raise AlreadyExists(409, "AlreadyExists", f"{kind.plural} {name!r} already exists")
        meta = {**body["metadata"], "uid": f"uid-of-{name}-{next(self._versions)}", "generation": 0}
        return self._write(kind, {**body, "metadata": meta})

    async def apply(
        self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any], *, manager: str
    ) -> Object:
        return self._write(kind, {**(await self.get(kind, namespace, name)), "spec": body["spec"]})

    async def patch(
        self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any], *, manager: str = "maestro"
    ) -> Object:
        found = await self.get(kind, namespace, name)
        merged = {part: {**found.get(part, {}), **body[part]} for part in ("spec", "data") if part in body}
        return self._write(kind, {**found, **merged})

    async def delete(self, kind: Kind, namespace: str | None, name: str, *, uid: str | None = None) -> None:
        if self.found.pop((kind.plural, namespace or "", name), None) is not None:
            self._seen(kind, namespace or "", name, None)

    def _write(self, kind: Kind, body: Object) -> Object:
        meta = {**body["metadata"], "resourceVersion": str(next(self._versions))}
        meta["generation"] += 1
        made = {"apiVersion": kind.api_version, "kind": kind.kind, **body, "metadata": meta}
        self.found[kind.plural, meta["namespace"], meta["name"]] = made
        self._seen(kind, meta["namespace"], meta["name"], made)
        return made
