"""The OpenAPI document: valid, complete, and open to read."""

from __future__ import annotations

from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.integration.http.api import Api


def test_the_document_is_valid_openapi(api: Api) -> None:
    answer = api.call("GET", "/openapi.json", token=None)
    assert answer.status == 200
    document = answer.json
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()


def test_each_operation_says_who_may_call_it_and_how_it_fails(api: Api) -> None:
    document = api.call("GET", "/openapi.json", token=None).json
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    open_ones = {path for (_, path), operation in operations.items() if operation["security"] == []}
    logging_in = {"/api/v1/auth/login", "/api/v1/auth/refresh"}
    assert open_ones == {"/health", "/api/v1/health", "/openapi.json"} | logging_in
    for (method, path), operation in operations.items():
        assert operation["summary"], path
        if operation["security"]:
            assert "401" in operation["responses"], path
        if "requestBody" in operation:
            assert {"400", "413"} <= set(operation["responses"]), path
        # What is described is there: without a token it is refused, not unknown.
        answer = api.call(
            method.upper(), path.replace("{id}", "x").replace("{key}", "x").replace("{solution}", "x"), token=None
        )
        # Where there are no logins, that is said.
        open_status = 404 if path in logging_in else 200
        assert answer.status == (401 if operation["security"] else open_status), path


def test_health_is_open(api: Api) -> None:
    for path in ("/health", "/api/v1/health"):
        answer = api.call("GET", path, token=None)
        assert (answer.status, answer.json) == (200, {"status": "ok"})
