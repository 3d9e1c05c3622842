"""The hash of an ordering key."""

from __future__ import annotations

from maestro.runs.accept import rank_of
from maestro.runs.keys import key_of
from maestro.runs.model import PRIORITIES


def test_equal_values_are_one_key_whatever_else_differs() -> None:
    names = ("customer", "list")
    assert key_of(names, {"customer": 1, "list": "a", "x": 1}) == key_of(names, {"list": "a", "customer": 1, "x": 2})
    assert key_of(names, {"customer": {"b": 1, "a": 2}}) == key_of(names, {"customer": {"a": 2, "b": 1}})


def test_other_values_are_other_keys() -> None:
    names = ("a", "b")
    different = [{"a": 1}, {"b": 1}, {"a": "1"}, {"a": 1, "b": 1}, {"a": None}, {"a": [1]}]
    keys = [key_of(names, parameters) for parameters in different]
    # a parameter that isn't given is the same as null
    assert len(set(keys)) == len(different)


def test_no_names_no_key() -> None:
    assert key_of((), {"a": 1}) is None


def test_ranks_sort_by_priority_then_turn_and_fit_a_bigint() -> None:
    ranks = [rank_of(p, turn) for p in (PRIORITIES[-1], 1, 0, -1, PRIORITIES[0]) for turn in (0, 1, 2**40 - 1)]
    assert ranks == sorted(ranks)
    assert ranks[0] >= 0
    assert ranks[-1] < 2**63
