"""Older parameter lists as JSON Schema; slugs."""

from __future__ import annotations

from typing import Any

import pytest

from maestro.http.errors import HttpError
from maestro.http.older_schema import json_schema, slug
from maestro.runs.parameters import InvalidParameters, ParameterValidator

OLDER = [
    {"name": "date", "label": "Reference date", "type": "date", "required": True},
    {"name": "list", "type": "select", "options": ["daily", {"value": 7, "label": "weekly"}], "required": True},
    {"name": "codes", "type": "list", "itemType": "number"},
    {"name": "deep", "type": "boolean", "default": False},
    {"name": "note", "label": "", "type": "text"},
    {"name": "amount", "type": "number"},
]


def test_a_list_becomes_a_schema_that_checks_and_fills() -> None:
    schema = json_schema(OLDER)
    assert schema == {
        "type": "object",
        "properties": {
            "date": {"type": "string", "format": "date", "title": "Reference date"},
            "list": {"enum": ["daily", 7]},
            "codes": {"type": "array", "items": {"type": "number"}},
            "deep": {"type": "boolean", "default": False},
            "note": {"type": "string"},
            "amount": {"type": "number"},
        },
        "required": ["date", "list"],
    }
    validator = ParameterValidator(schema)
    assert validator.merge_and_check({"date": "2026-11-26", "list": 7})["deep"] is False
    with pytest.raises(InvalidParameters, match="date"):
        validator.merge_and_check({"date": "yesterday", "list": 7})


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"type": "text"}, "parameterSchema.0.name"),
        ({"name": "", "type": "text"}, "parameterSchema.0.name"),
        ({"name": "x", "type": "file"}, "parameterSchema.0.type"),
        ({"name": "x", "type": 5}, "parameterSchema.0.type"),
        ({"name": "x", "type": "select"}, "parameterSchema.0.options"),
        ({"name": "x", "type": "select", "options": [[]]}, "parameterSchema.0.options.0"),
        ({"name": "x", "type": "list", "itemType": "list"}, "parameterSchema.0.itemType"),
        ({"name": "x", "type": "list", "itemType": "file"}, "parameterSchema.0.itemType"),
        ({"name": "x", "required": "yes"}, "parameterSchema.0.required"),
        ({"name": "x", "label": 5}, "parameterSchema.0.label"),
        ({"name": "x", "maxLength": 5}, "parameterSchema.0.maxLength"),
    ],
)
def test_a_bad_parameter_is_named_by_its_place(given: dict[str, Any], path: str) -> None:
    with pytest.raises(HttpError) as error:
        json_schema([given])
    assert error.value.status == 422
    assert error.value.details[0]["path"] == path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("thumbnails", "thumbnails"),
        ("Import Händler (nachts)", "import-handler-nachts"),
        ("Emissão de Notas — São Paulo", "emissao-de-notas-sao-paulo"),
        ("2nd run", "automation-2nd-run"),
        ("Straße", "strasse"),
        ("x" * 80, "x" * 52),
        ("a.b_c", "a-b-c"),
    ],
)
def test_a_name_becomes_one_that_kubernetes_takes(name: str, expected: str) -> None:
    assert slug(name, 52, "automation") == expected


def test_a_name_without_latin_letters_always_gives_the_same_slug() -> None:
    first, second = slug("月次レポート", 52, "automation"), slug("日次レポート", 52, "automation")
    assert first == slug("月次レポート", 52, "automation")
    assert first != second
    assert first.startswith("automation-")
