"""The OpenAPI 3.1 document, made from the table of endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from maestro import __version__
from maestro.http.endpoint import Answer, Body, Endpoint
from maestro.http.errors import OLDER_PREFIX
from maestro.http.models import OlderProblem, Problem, RunRequest

_REF = "#/components/schemas/{model}"
_STATUS_TEXT = {
    400: "The body isn't usable JSON",
    401: "No valid credentials",
    403: "The caller may not do this",
    404: "There is no such thing",
    405: "Not with this method",
    408: "The body took too long",
    409: "The present state doesn't allow it",
    413: "The body is over its limit",
    422: "A field breaks a rule; `details` says which",
    429: "Later: too many Runs wait already, or this one has to wait",
    431: "The header fields are over their limit",
    503: "Something that the answer needs is away; try again after `Retry-After`",
}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The document for these endpoints and the gateway check."""
    table = list(endpoints)
    definitions = _definitions(table)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    paths["/v1.0.0/gateway/{solution}/proceed"] = {"get": _gateway()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Maestro",
            "version": __version__,
            "description": "Automations on Kubernetes: start Runs, follow them, and what workers report.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in sorted({endpoint.tag for endpoint in table} | {"gateway"})],
        "paths": paths,
        "components": {"schemas": definitions, "securitySchemes": _SECURITY},
    }


_SECURITY = {
    "login": {
        "type": "http",
        "scheme": "bearer",
        "description": "The access token of a login (`/api/v1/auth/login`); its role decides.",
    },
    "kubernetesToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A Kubernetes token; RBAC on the group maestro-operator.io decides.",
    },
    "workerToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A worker pod's projected ServiceAccount token, made for Maestro's audience.",
    },
    "workerKey": {"type": "apiKey", "in": "header", "name": "X-Worker-API-Key"},
}
_SECURITY_OF: dict[str, list[dict[str, list[str]]]] = {
    "nobody": [],
    "person": [{"kubernetesToken": []}, {"login": []}],
    "worker": [{"workerToken": []}, {"workerKey": []}],
}


def _definitions(table: list[Endpoint]) -> dict[str, Any]:
    inputs: set[type[BaseModel]] = {RunRequest}
    outputs: set[type[BaseModel]] = {Problem, OlderProblem}
    for endpoint in table:
        if endpoint.body is not None and isinstance(endpoint.body.schema, type):
            inputs.add(endpoint.body.schema)
        outputs |= {a.schema for a in endpoint.answers.values() if isinstance(a.schema, type)}
    modes = [(model, "validation") for model in inputs] + [(model, "serialization") for model in outputs]
    ordered = sorted(modes, key=lambda pair: pair[0].__name__)
    _, schema = models_json_schema(ordered, by_alias=True, ref_template=_REF)  # type: ignore[arg-type]
    found: dict[str, Any] = schema.get("$defs", {})
    return found


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": _SECURITY_OF[endpoint.caller],
        "responses": _responses(endpoint),
    }
    parameters = [*_path_parameters(endpoint.path), *_query_parameters(endpoint.query), *_headers(endpoint.headers)]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint.body)
    return operation


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    errors = {*endpoint.errors, 431}
    if endpoint.caller != "nobody":
        errors |= {401, 403, 503}
    if endpoint.body is not None:
        errors |= {400, 408, 413}
    responses = {str(status): _answer(answer) for status, answer in endpoint.answers.items()}
    for status in sorted(errors):
        responses[str(status)] = _problem(
            status, "OlderProblem" if endpoint.path.startswith(OLDER_PREFIX) else "Problem"
        )
    return dict(sorted(responses.items()))


def _answer(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.text}
    if answer.schema is not None:
        shown["content"] = {answer.media: {"schema": _schema(answer.schema)}}
    return shown


def _problem(status: int, model: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": _STATUS_TEXT[status],
        "content": {"application/json": {"schema": {"$ref": _REF.format(model=model)}}},
    }
    if status in (429, 503):
        shown["headers"] = _RETRY
    return shown


def _schema(schema: type[BaseModel] | Mapping[str, Any]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=schema.__name__)} if isinstance(schema, type) else dict(schema)


def _request_body(body: Body) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _schema(body.schema)}}
    if body.ndjson:
        content["application/x-ndjson"] = {"schema": {"type": "string", "description": "One object a line."}}
    return {"required": body.required, "description": f"At most {body.limit} bytes.", "content": content}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **_path_parameter(path, name)}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _path_parameter(path: str, name: str) -> dict[str, Any]:
    if name == "key":
        return {"description": "The key's hash.", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
    if name == "solution":
        schema = {"type": "string", "minLength": 1, "maxLength": 127}
        return {"description": "The Solution: `<name>` or `<namespace>.<name>`.", "schema": schema}
    for kind in ("Automation", "Schedule", "Reprocessing"):
        if path.startswith((f"/api/v1/{kind.lower()}s/", f"{OLDER_PREFIX}{kind.lower()}/")):
            schema = {"type": "string", "minLength": 1, "maxLength": 116}
            return {"description": f"The {kind}: `<name>` or `<namespace>.<name>`.", "schema": schema}
    if path.startswith("/api/v1/dead-letters/"):
        return {"description": "The letter's number.", "schema": {"type": "integer", "minimum": 1}}
    if path.startswith("/api/v1/users/"):
        return {"description": "The user's name.", "schema": {"type": "string", "minLength": 1, "maxLength": 63}}
    return {"description": "The Run's id.", "schema": {"type": "string", "format": "uuid"}}


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema(by_alias=True)
    shown = []
    for name, rule in schema["properties"].items():
        rule = {key: value for key, value in rule.items() if key != "title"}
        options = [option for option in rule.pop("anyOf", []) if option != {"type": "null"}]
        rule.update(options[0] if options else {})
        if rule.get("default", 0) is None:
            del rule["default"]
        required = name in schema.get("required", ())
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": required}
        if "description" in rule:
            parameter["description"] = rule.pop("description")
        if rule.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        shown.append({**parameter, "schema": rule})
    return shown


def _headers(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    ]


def _gateway() -> dict[str, Any]:
    return {
        "operationId": "mayProceed",
        "summary": "Whether new work of a Solution may go ahead; answered from memory",
        "tags": ["gateway"],
        "security": [{"kubernetesToken": []}, {"workerToken": []}, {"workerKey": []}, {}],
        "parameters": [
            {
                "name": "solution",
                "in": "path",
                "required": True,
                "description": "The Solution: `<name>` or `<namespace>.<name>`.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 127},
            }
        ],
        "responses": {
            "200": {"description": "It may; a Solution that nobody knows too"},
            "400": _problem(400, "OlderProblem"),
            "401": _problem(401, "OlderProblem"),
            "403": {**_problem(403, "OlderProblem"), "description": "Blocked: the reason, and which Reprocessing"},
            "431": _problem(431, "OlderProblem"),
            "503": {**_problem(503, "OlderProblem"), "description": "It can't be known now, so nothing is guessed"},
        },
    }
