"""Reading the API server's audit log: who wrote what, how often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Request:
    """One request that the API server answered."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    status: int
    user_agent: str
    uri: str

    @property
    def is_write(self) -> bool:
        """Whether it may have changed something."""
        return self.verb in WRITES and "dryRun=" not in self.uri


class AuditLog:
    """A position in an audit log: `requests()` gives what came after `mark()`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._position = 0

    def mark(self) -> None:
        """Forget everything up to now."""
        self._position = self.file.stat().st_size if self.file.exists() else 0

    def requests(self, *, user: str | None = None, writes: bool | None = None) -> list[Request]:
        """Return the requests since the mark, complete lines only.

        Parameters
        ----------
        user
            Only those of this user (`system:serviceaccount:<namespace>:<name>` for pods).
        writes
            Only those that write, or only those that don't.
        """
        return [
            request
            for request in self._read()
            if (user is None or request.user == user) and (writes is None or request.is_write == writes)
        ]

    def _read(self) -> Iterator[Request]:
        if not self.file.exists():
            return
        with self.file.open("rb") as lines:
            lines.seek(self._position)
            for line in lines:
                if line.endswith(b"\n"):
                    yield _request(json.loads(line))


def _request(event: dict[str, Any]) -> Request:
    reference = event.get("objectRef", {})
    # Requests on behalf of somebody else count as theirs.
    user = event.get("impersonatedUser") or event["user"]
    return Request(
        user=user.get("username", ""),
        verb=event["verb"],
        group=reference.get("apiGroup", ""),
        resource=reference.get("resource", ""),
        subresource=reference.get("subresource", ""),
        namespace=reference.get("namespace", ""),
        name=reference.get("name", ""),
        status=event.get("responseStatus", {}).get("code", 0),
        user_agent=event.get("userAgent", ""),
        uri=event.get("requestURI", ""),
    )
