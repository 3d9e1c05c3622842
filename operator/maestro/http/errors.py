"""Errors of the API and the one place that turns the errors of the layers below into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from maestro.http.answers import encode
from maestro.kube.errors import KubeError
from maestro.runs.errors import (
    Backlog,
    IdempotencyConflict,
    NeverFits,
    NoSuchLetter,
    NotRedrivable,
    StoreUnavailable,
    UnknownAutomation,
    UnknownRun,
)
from maestro.runs.parameters import InvalidParameters, InvalidSchema, is_unknown

OLDER_PREFIX = "/v1.0.0/"
RETRY_AFTER_SECONDS = 5
_MOST_DESCRIBED = 3
_DISCARDED_BYTES = 32 * 1024 * 1024

Detail = dict[str, str]


class HttpError(Exception):
    """An answer that isn't the one the caller hoped for.

    Parameters
    ----------
    status
        The HTTP status.
    message
        What is wrong and what to do, for people; never holds a secret or a value of a parameter.
    details
        For input: which field (`path`) breaks which rule (`rule`).
    reason
        A word for programs, where several causes share the status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        details: Iterable[Detail] = (),
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.message = message
        self.details = list(details)
        self.headers = dict(headers or {})


class BodyTooLargeError(HttpError):
    """The body is over its limit; the rest of it is not read into memory."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than {limit} bytes ({limit // (1024 * 1024)} MiB), the limit here")


def unavailable(what: str, *, retry_after: float = RETRY_AFTER_SECONDS) -> HttpError:
    """503: something that the answer needs is away for now."""
    return HttpError(503, f"{what} can't be reached at the moment; try again", headers=_retry(retry_after))


def not_found(message: str) -> HttpError:
    """404."""
    return HttpError(404, message)


def invalid(path: str, rule: str, *, status: int = 422) -> HttpError:
    """One field breaks one rule."""
    return HttpError(status, f"{path}: {rule}" if path else rule, details=[{"path": path, "rule": rule}])


def invalid_model(error: ValidationError, model: type[BaseModel]) -> HttpError:
    """A body or query that its pydantic model refuses; the rules are named, the values aren't repeated."""
    known = [field.alias or name for name, field in model.model_fields.items()]
    details = [
        {"path": ".".join(map(str, e["loc"])), "rule": _rule(e["type"], e["msg"], known if len(e["loc"]) == 1 else ())}
        for e in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return HttpError(422, "; ".join(map(described, details[:_MOST_DESCRIBED])), details=details)


def _rule(kind: str, message: str, known: Iterable[str]) -> str:
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return is_unknown(known)
        case _:
            return message


def invalid_parameters(error: InvalidParameters, prefix: str = "") -> HttpError:
    """Parameters that don't match their schema; `prefix` is the path of the parameters in the body, ending in a dot."""
    details = [{**detail, "path": f"{prefix}{detail['path']}".rstrip(".")} for detail in error.details]
    return HttpError(422, "; ".join(map(described, details[:_MOST_DESCRIBED])), details=details)


def described(detail: Detail) -> str:
    """One detail in words."""
    words = detail.get("message") or detail["rule"]
    return f"{detail['path']}: {words}" if detail["path"] else words


def translate(error: Exception) -> HttpError | None:
    """The answer for an error of the layers below; None where it is unexpected, a defect."""
    match error:
        case HttpError():
            return error
        case StoreUnavailable():
            return unavailable("the run store")
        case Backlog():
            return HttpError(429, str(error), headers=_retry(error.retry_after))
        case NeverFits():
            return HttpError(422, str(error), details=[{"path": "", "rule": "run.maxPending"}])
        case IdempotencyConflict():
            return HttpError(422, str(error), details=[{"path": "Idempotency-Key", "rule": str(error)}])
        case UnknownRun() | NoSuchLetter():
            return not_found(str(error))
        case NotRedrivable():
            return HttpError(409, f"the dead letter can't be redriven: {error}")
        case UnknownAutomation():
            return not_found(str(error))
        case InvalidParameters():
            return invalid_parameters(error)
        case InvalidSchema():
            return HttpError(409, f"the Automation's parameterSchema can't be used: {error}")
        case KubeError():
            return unavailable("the Kubernetes API server")
        case _:
            return None


def _retry(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(seconds)))}


def error_answer(error: HttpError, path: str) -> Response:
    """Render an error: `{status, message, details}`; on the version 1.0.0 paths `{"status": "400", "message"}`."""
    if path.startswith(OLDER_PREFIX):
        body: dict[str, object] = {"status": str(error.status), "message": error.message}
    else:
        body = {"status": error.status, "message": error.message, "details": error.details}
        if error.reason is not None:
            body["reason"] = error.reason
    answer = DiscardingResponse if isinstance(error, BodyTooLargeError) else Response
    return answer(encode(body), error.status, error.headers, "application/json")


class DiscardingResponse(Response):
    """Answers at once, then lets the client finish sending, within bounds, before the connection is closed.

    A close with unread data resets the connection, and most clients then never see the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        seen = 0
        while seen < _DISCARDED_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                break
            seen += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})
