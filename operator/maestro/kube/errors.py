"""What the API server can answer instead of an object, as one exception for each case that callers tell apart."""

# ruff: noqa: N818 - the names are the API server's own reasons
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class KubeError(Exception):
    """The API server refused a request, or couldn't be asked.

    Attributes
    ----------
    status
        The HTTP status; 0 when there was no answer.
    reason
        The machine-readable reason of the API's Status (`AlreadyExists`, `FieldValueInvalid`, …).
    message
        Its text for people.
    details
        Its `details` as they came: kind, name, causes, retryAfterSeconds.
    retry_after
        Seconds the server asks to wait, where it says so.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{reason or 'KubeError'} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after

    @property
    def causes(self) -> list[dict[str, str]]:
        """What is wrong with which field: a list of {field, message, reason}."""
        return [
            {"field": c.get("field", ""), "message": c.get("message", ""), "reason": c.get("reason", "")}
            for c in self.details.get("causes") or []
        ]


class BadRequest(KubeError):
    """400: the request itself is malformed."""


class Unauthorized(KubeError):
    """401: the credentials are missing, wrong or expired."""


class Forbidden(KubeError):
    """403: RBAC, a quota or an admission policy says no."""


class NotFound(KubeError):
    """404: there is no such object, or no such kind."""


class Conflict(KubeError):
    """409: the object is another one by now (resourceVersion, uid), or another manager owns a field."""


class AlreadyExists(Conflict):
    """409: an object of that name exists."""


class Expired(KubeError):
    """410: the resourceVersion (or a list's continue token) is too old; list anew."""


class Invalid(KubeError):
    """422: the object breaks a rule of its schema; `causes` names the fields."""


class TooManyRequests(KubeError):
    """429, after the client's own retries; `retry_after` says when to come again."""


class Unavailable(KubeError):
    """No usable answer: connection refused or lost, timeout, 5xx."""


_BY_STATUS: dict[int, type[KubeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def error_of(status: int, body: bytes | Mapping[str, Any], *, retry_after: float | None = None) -> KubeError:
    """The exception for an answer.

    Parameters
    ----------
    status
        The HTTP status, or the `code` of a Status that came inside a watch.
    body
        The answer's body: a Status as JSON where it is the API server that speaks, anything else otherwise.
    retry_after
        The value of the header of that name.
    """
    answer = _status_object(body)
    reason = str(answer.get("reason") or "")
    message = str(answer.get("message") or f"the API server answered {status}")
    details = answer.get("details") or {}
    retry_after = retry_after if retry_after is not None else details.get("retryAfterSeconds")
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 or status == 408 else KubeError)
    if status == 409 and reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(status, reason or kind.__name__, message, details, retry_after)


def _status_object(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(body, Mapping):
        return body
    try:
        parsed = json.loads(body)
    except ValueError:
        # A proxy in between, or an aggregated API, may answer with plain text.
        return {"message": body[:500].decode("utf-8", "replace").strip()}
    return parsed if isinstance(parsed, dict) and parsed.get("kind") == "Status" else {}
