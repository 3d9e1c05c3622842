"""What an answer of the API server becomes."""

from __future__ import annotations

import json

import pytest

from maestro.kube import errors
from maestro.kube.errors import error_of


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadRequest", errors.BadRequest),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Expired),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.Unavailable),
        (503, "ServiceUnavailable", errors.Unavailable),
        (504, "Timeout", errors.Unavailable),
        (418, "Teapot", errors.KubeError),
    ],
)
def test_each_status_has_its_exception(status: int, reason: str, expected: type[errors.KubeError]) -> None:
    error = error_of(status, json.dumps({"kind": "Status", "reason": reason, "message": "m"}).encode())
    assert type(error) is expected
    assert (error.status, error.reason, error.message) == (status, reason, "m")


def test_an_invalid_field_is_named() -> None:
    status = {
        "kind": "Status",
        "reason": "Invalid",
        "message": "is invalid",
        "details": {"causes": [{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.x"}]},
    }
    error = error_of(422, json.dumps(status).encode())
    assert error.causes == [{"field": "spec.x", "message": "Required value", "reason": "FieldValueRequired"}]


def test_a_proxy_may_answer_in_plain_text() -> None:
    error = error_of(502, b"<html>bad gateway</html>")
    assert isinstance(error, errors.Unavailable)
    assert "bad gateway" in error.message
    assert error.reason == "Unavailable"


def test_json_that_is_no_status_gives_no_words() -> None:
    assert error_of(404, b'{"kind": "Other", "message": "x"}').message == "the API server answered 404"


def test_the_wait_comes_from_the_header_or_the_details() -> None:
    body = json.dumps({"kind": "Status", "details": {"retryAfterSeconds": 7}}).encode()
    assert error_of(429, body).retry_after == 7
    assert error_of(429, body, retry_after=2.0).retry_after == 2.0
