"""Durations: what is one, how long it is, and that a model takes and gives it as text."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from maestro.resources import Automation, Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1000ms", 1),
        ("1m0.5s", 60.5),
        ("720h", 720 * 3600),
        ("1s1s", 2),
    ],
)
def test_duration_in_seconds(text: str, seconds: float) -> None:
    assert Duration(text).seconds == pytest.approx(seconds)
    assert Duration(text) == text


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1d", "P1D", "1 day", "-1s", "+1s", " 1s", "1s ", "1s\n", ".5h", "1,5h"]
)
def test_text_that_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        Duration(text)


@pytest.mark.parametrize("text", ["0s", "999ms", "0.9s", "0h"])
def test_duration_of_less_than_a_second(text: str) -> None:
    with pytest.raises(ValueError, match="at least 1s"):
        Duration(text)


def test_duration_that_64_bits_of_nanoseconds_dont_hold() -> None:
    assert Duration("2562047h").seconds == 2562047 * 3600
    with pytest.raises(ValueError, match="less than 2562047h"):
        Duration("2562048h")


@given(st.integers(1, 10**6), st.sampled_from(["s", "m", "h"]))
def test_every_whole_number_of_a_unit(number: int, unit: str) -> None:
    assert Duration(f"{number}{unit}").seconds == number * {"s": 1, "m": 60, "h": 3600}[unit]


def test_copies_are_durations() -> None:
    duration = Duration("90s")
    for twin in (copy.deepcopy(duration), pickle.loads(pickle.dumps(duration))):
        assert twin.seconds == 90


def test_json_has_the_text() -> None:
    assert TypeAdapter(Duration).dump_json(Duration("1h")) == b'"1h"'


def test_a_model_names_the_field_that_is_no_duration() -> None:
    body = {"metadata": {"name": "a", "namespace": "n"}, "spec": {"run": {"timeout": "1 day"}}}
    with pytest.raises(ValidationError, match=r"spec\.run\.timeout\n.*must be a duration"):
        Automation.model_validate(body)
