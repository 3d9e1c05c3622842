"""Typed parameters: the schema they give, and what they make of a Run's parameters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from enum import StrEnum
from socket import socket
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from pydantic import BaseModel, Field, SecretStr

from maestro_worker import FakeRun, InvalidParameters, Run, worker


class Format(StrEnum):
    JPG = "jpg"
    PNG = "png"


class Crop(BaseModel):
    left: int
    top: int = 0


@worker
def thumbnail(
    run: Run,
    url: str,
    width: Annotated[int, Field(ge=1, description="in pixels")] = 320,
    format: Format = Format.JPG,
    crop: Crop | None = None,
) -> dict[str, Any]:
    """Make a thumbnail."""
    return {"url": url, "width": width, "format": format, "crop": crop}


def test_schema_of_typed_parameters() -> None:
    schema = thumbnail.schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["description"] == "Make a thumbnail."
    assert schema["required"] == ["url"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == ["url", "width", "format", "crop"]
    assert schema["properties"]["width"] == {
        "default": 320,
        "description": "in pixels",
        "minimum": 1,
        "type": "integer",
    }
    assert schema["properties"]["url"] == {"type": "string"}


@pytest.mark.parametrize(
    ("parameters", "valid"),
    [
        ({"url": "a"}, True),
        ({"url": "a", "width": 5, "format": "png", "crop": {"left": 1}}, True),
        ({"width": 5}, False),
        ({"url": "a", "width": 0}, False),
        ({"url": "a", "format": "gif"}, False),
        ({"url": "a", "other": 1}, False),
    ],
)
def test_the_schema_and_the_function_agree(parameters: dict[str, Any], valid: bool) -> None:
    assert jsonschema_rs.validator_for(thumbnail.schema()).is_valid(parameters) is valid
    if valid:
        thumbnail.run(**parameters)
    else:
        with pytest.raises(InvalidParameters):
            thumbnail.run(**parameters)


def test_parameters_are_converted_and_defaults_filled_in() -> None:
    @worker
    def report(day: date, tags: frozenset[str] = frozenset(), deep: bool = False) -> tuple[Any, ...]:
        return day, tags, deep

    assert report.run(day="2026-02-28", tags=["a", "a"]) == (date(2026, 2, 28), frozenset({"a"}), False)


def test_refusals_name_path_and_rule_and_never_the_value() -> None:
    with pytest.raises(InvalidParameters) as caught:
        thumbnail.run(width="hunter2", crop={"left": "hunter2"}, nope="hunter2")
    problems = {problem.path: problem.rule for problem in caught.value.problems}
    assert problems == {
        "/url": "required",
        "/width": "int_parsing",
        "/crop/left": "int_parsing",
        "/nope": "additionalProperties",
    }
    assert caught.value.error_class == "INVALID_PARAMETERS"
    assert "/nope: is not a parameter of this worker" in caught.value.message
    assert "hunter2" not in str(caught.value)


def test_names_that_pydantic_uses_itself_are_fine() -> None:
    @worker
    def odd(schema: str, copy: int, model_config: str = "m", json: str = "j") -> list[Any]:
        return [schema, copy, model_config, json]

    assert set(odd.schema()["properties"]) == {"schema", "copy", "model_config", "json"}
    assert odd.run(schema="s", copy=1) == ["s", 1, "m", "j"]


def test_secrets_are_write_only_and_hidden() -> None:
    @worker
    def login(user: str, password: SecretStr) -> str:
        return repr(password)

    assert login.schema()["properties"]["password"]["writeOnly"] is True
    assert "hunter2" not in login.run(user="u", password="hunter2")


def test_the_run_is_found_by_name_or_annotation_or_is_absent() -> None:
    @worker
    def by_name(run, x: int):  # type: ignore[no-untyped-def]
        return run.attempt, x

    @worker
    def by_annotation(x: int, context: Run) -> tuple[int, int]:
        return context.attempt, x

    @worker
    def without(x: int) -> int:
        return x

    fake = FakeRun(attempt=3)
    assert by_name.run(fake, x=1) == (3, 1)
    assert by_annotation.run(fake, x=1) == (3, 1)
    assert without.run(fake, x=1) == 1
    assert all(list(w.schema()["properties"]) == ["x"] for w in (by_name, by_annotation, without))


def test_open_parameters() -> None:
    @worker
    def anything(known: int, **rest: Any) -> dict[str, Any]:
        return {"known": known, **rest}

    assert anything.schema()["additionalProperties"] is True
    assert anything.run(known=1, other="x") == {"known": 1, "other": "x"}


def test_no_parameters_at_all() -> None:
    @worker
    def bare() -> str:
        return "done"

    assert bare.schema()["properties"] == {}
    assert bare.run() == "done"
    with pytest.raises(InvalidParameters, match="/x: is not a parameter"):
        bare.run(x=1)


def test_mutable_defaults_are_not_shared() -> None:
    @worker
    def collect(into: list[int] = []) -> list[int]:  # noqa: B006 - what people write
        into.append(1)
        return into

    assert collect.run() == collect.run() == [1]


def test_field_as_a_default() -> None:
    @worker
    def resize(width: int = Field(320, le=4000), name: str = Field(description="what")) -> int:
        return width

    assert resize.schema()["properties"]["width"] == {"default": 320, "maximum": 4000, "type": "integer"}
    assert resize.schema()["required"] == ["name"]
    assert resize.run(name="n") == 320
    with pytest.raises(InvalidParameters, match="/width"):
        resize.run(width=4001, name="n")


def test_literals() -> None:
    @worker
    def pick(size: Literal["s", "m"]) -> str:
        return size

    assert pick.schema()["properties"]["size"] == {"enum": ["s", "m"], "type": "string"}


def test_signatures_that_cannot_work_are_refused_at_once() -> None:
    def star(*urls: str) -> None: ...
    def positional(url: str, /) -> None: ...
    def shapeless(stream: socket) -> None: ...
    def unwritable(then: Callable[[], None]) -> None: ...

    with pytest.raises(TypeError, match="'urls' can't be given by name"):
        worker(star)
    with pytest.raises(TypeError, match="'url' can't be given by name"):
        worker(positional)
    for function in (shapeless, unwritable):
        with pytest.raises(TypeError, match="can't be described by a JSON Schema"):
            worker(function)
