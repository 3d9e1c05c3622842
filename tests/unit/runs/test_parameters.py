"""Parameters against a schema: defaults, complaints, secrets, and schemas that can't be used."""

from __future__ import annotations

import pytest

from maestro.runs.parameters import MAX_DETAILS, InvalidParameters, InvalidSchema, ParameterValidator

SCHEMA = {
    "type": "object",
    "properties": {
        "list": {"type": "string", "pattern": "^[a-z0-9-]+$"},
        "limit": {"type": "integer", "minimum": 1, "default": 10},
        "when": {"type": "string", "format": "date"},
        "options": {"type": "object", "properties": {"dry": {"type": "boolean", "default": False}}},
        "password": {"type": "string", "writeOnly": True, "minLength": 8},
    },
    "required": ["list"],
    "additionalProperties": False,
}


def complaint(validator: ParameterValidator, parameters: dict[str, object]) -> dict[str, str]:
    with pytest.raises(InvalidParameters) as refused:
        validator.merge_and_check(parameters)
    (detail,) = refused.value.details
    return detail


def test_defaults_of_schema_and_automation_are_applied() -> None:
    validator = ParameterValidator(SCHEMA, {"list": "all", "options": {}})
    assert validator.merge_and_check({}) == {"list": "all", "limit": 10, "options": {"dry": False}}
    assert validator.merge_and_check({"list": "x", "limit": 3})["limit"] == 3


def test_defaults_are_never_shared() -> None:
    validator = ParameterValidator({"properties": {"tags": {"default": []}}}, {"options": {"a": 1}})
    first = validator.merge_and_check({})
    first["tags"].append("x")
    first["options"]["a"] = 2
    assert validator.merge_and_check({}) == {"tags": [], "options": {"a": 1}}


@pytest.mark.parametrize(
    ("parameters", "path", "rule"),
    [
        ({}, "list", "required"),
        ({"list": "x", "limit": 0}, "limit", "minimum"),
        ({"list": "x", "limit": "many"}, "limit", "type"),
        ({"list": "X"}, "list", "pattern"),
        ({"list": "x", "when": "tomorrow"}, "when", "format"),
        ({"list": "x", "options": {"dry": 1}}, "options.dry", "type"),
        ({"list": "x", "other": 1}, "other", "additionalProperties"),
    ],
)
def test_a_complaint_names_the_path_and_the_rule(parameters: dict[str, object], path: str, rule: str) -> None:
    detail = complaint(ParameterValidator(SCHEMA), parameters)
    assert (detail["path"], detail["rule"]) == (path, rule)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "list: is required"),
        ({"list": "x", "lst": 1}, "lst: unknown field; known are: list, limit, when, options, password"),
        (
            {"list": "x", "a": 1, "b": 2},
            "a: unknown field; known are: list, limit, when, options, password; b: unknown",
        ),
    ],
)
def test_a_complaint_says_it_once(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        ParameterValidator(SCHEMA).merge_and_check(parameters)
    assert str(refused.value).startswith(message)


def test_known_fields_are_those_of_the_place_and_a_long_list_is_left_out() -> None:
    inner = {"properties": {"x": {}}, "additionalProperties": False}
    long = {"properties": {f"property-{n}": {} for n in range(50)}, "additionalProperties": False}
    validator = ParameterValidator({"$defs": {"i": inner}, "properties": {"in": {"$ref": "#/$defs/i"}, "long": long}})
    assert complaint(validator, {"in": {"y": 1}}) == {
        "path": "in.y",
        "rule": "additionalProperties",
        "message": "unknown field; known are: x",
    }
    assert complaint(validator, {"long": {"y": 1}})["message"] == "unknown field"


def test_no_value_appears_in_a_complaint() -> None:
    validator = ParameterValidator(SCHEMA)
    with pytest.raises(InvalidParameters) as refused:
        validator.merge_and_check({"list": "x", "password": "hunter2"})
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(refused.value.details)


def test_many_complaints_are_cut_short() -> None:
    validator = ParameterValidator({"additionalProperties": {"type": "integer"}})
    with pytest.raises(InvalidParameters) as refused:
        validator.merge_and_check({f"p{n}": "x" for n in range(100)})
    assert len(refused.value.details) == MAX_DETAILS + 1


def test_an_exponential_pattern_ends_at_once() -> None:
    validator = ParameterValidator({"properties": {"a": {"pattern": "^(a+)+$"}}})
    assert complaint(validator, {"a": "a" * 50_000 + "!"})["rule"] == "pattern"


def test_parameters_that_nest_too_deeply_are_refused() -> None:
    nested: dict[str, object] = {}
    for _ in range(600):
        nested = {"a": nested}
    assert complaint(ParameterValidator(SCHEMA), {"list": "x", "options": nested})["path"] == ""


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "parameterSchema.properties.a.$ref"),
        ({"$ref": "other.json#/a"}, "parameterSchema.$ref"),
        ({"allOf": [{"$ref": "file:///etc/passwd"}]}, "parameterSchema.allOf.0.$ref"),
        ({"type": "thing"}, "parameterSchema.type"),
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, "parameterSchema"),
        ({"properties": {"a": {"pattern": "("}}}, "parameterSchema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "parameterSchema.$schema"),
        ({"$ref": "#/$defs/absent"}, "parameterSchema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named(schema: dict[str, object], place: str) -> None:
    with pytest.raises(InvalidSchema, match=place.replace("$", r"\$")):
        ParameterValidator(schema)


def test_a_property_may_be_called_ref() -> None:
    validator = ParameterValidator({"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "x"}})
    assert validator.merge_and_check({"$ref": "x"}) == {"$ref": "x"}


def test_local_references_work_for_defaults_checks_and_secrets() -> None:
    schema = {
        "$defs": {"login": {"properties": {"user": {"default": "me"}, "password": {"writeOnly": True}}}},
        "properties": {
            "login": {"$ref": "#/$defs/login"},
            "logins": {"type": "array", "items": {"$ref": "#/$defs/login"}},
        },
    }
    validator = ParameterValidator(schema)
    given = {"login": {"password": "p"}, "logins": [{"password": "q"}]}
    merged = validator.merge_and_check(given)
    assert merged == {"login": {"password": "p", "user": "me"}, "logins": [{"password": "q", "user": "me"}]}
    redacted = validator.redact(merged)
    assert redacted == {"login": {"password": "***", "user": "me"}, "logins": [{"password": "***", "user": "me"}]}
    assert merged["login"]["password"] == "p"


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"properties": {"key": {"writeOnly": True}}}, {}]},
        {"if": {}, "then": {"properties": {"key": {"writeOnly": True}}}},
        {"patternProperties": {"^k": {"writeOnly": True}}},
        {"additionalProperties": {"writeOnly": True}},
        {"properties": {"key": {"allOf": [{"writeOnly": True}]}}},
    ],
)
def test_a_secret_is_redacted_whichever_branch_says_so(schema: dict[str, object]) -> None:
    assert ParameterValidator(schema).redact({"key": "secret"}) == {"key": "***"}


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"properties": {"next": {"$ref": "#"}, "key": {"writeOnly": True}, "n": {"default": 1}}}
    validator = ParameterValidator(schema)
    merged = validator.merge_and_check({"next": {"next": {}}})
    assert merged == {"n": 1, "next": {"n": 1, "next": {"n": 1}}}
    assert validator.redact({"next": {"key": 1}}) == {"next": {"key": "***"}}
    endless = ParameterValidator(
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}], "default": 1}}}
    )
    assert endless.redact({"a": 1}) == {"a": 1}


def test_without_a_schema_anything_goes() -> None:
    assert ParameterValidator(None, {"a": 1}).merge_and_check({"b": [1]}) == {"a": 1, "b": [1]}


def test_secrets_are_scrubbed_from_what_a_program_wrote() -> None:
    schema = {
        "properties": {
            "login": {"properties": {"password": {"writeOnly": True}, "user": {}}},
            "pin": {"writeOnly": True},
            "no": {"writeOnly": True},
        }
    }
    given = {"login": {"password": "s3cret!", "user": "ana"}, "pin": 1234, "no": "x"}
    text = "ana logs in with s3cret! and 1234, x"
    assert ParameterValidator(schema).scrub(text, given) == "ana logs in with *** and ***, x"
    assert ParameterValidator({}).scrub(text, given) == text
