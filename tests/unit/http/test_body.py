"""Bodies: what is refused, with which words, and what isn't."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maestro.http import body
from maestro.http.errors import HttpError

REFUSED = [
    (b"", 400, "the body is empty"),
    (b" \n", 400, "the body is empty"),
    (b'{"a": 1', 400, "line 1 column 8"),
    (b'{"a": 1}\n x', 400, "Extra data at line 2 column 2"),
    (b"{'a': 1}", 400, "Expecting property name"),
    (b'{"a": NaN}', 400, "NaN is not a JSON value"),
    (b'{"a": -Infinity}', 400, "-Infinity is not a JSON value"),
    (b'{"a": 1e999}', 400, "too large"),
    (b'{"a": ' + b"9" * 5000 + b"}", 400, "not usable JSON"),
    (b'{"a": "\xff"}', 400, "not UTF-8: byte 7"),
    ('{"a": 1}'.encode("utf-16"), 400, "not UTF-8"),
    (b"[1, 2]", 400, "must be a JSON object, not a list"),
    (b"null", 400, "must be a JSON object, not null"),
    (b"true", 400, "must be a JSON object, not a boolean"),
    (b'"x"', 400, "must be a JSON object, not a string"),
    (b"12", 400, "must be a JSON object, not a number"),
    (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "deeper than 64"),
    (b"[" * 100_000, 400, "deeper than 64"),
    (b'{"a":' * 100_000, 400, "deeper than 64"),
    (rb'{"a": "\ud800"}', 400, "half a surrogate pair"),
    (rb'{"\uDFFF": 1}', 400, "half a surrogate pair"),
    (rb'{"a": ["x\u0000y"]}', 400, "NUL"),
    (b'{"a": "\x00"}', 400, "Invalid control character"),
]


@pytest.mark.parametrize(("raw", "status", "words"), REFUSED)
def test_a_body_that_cannot_be_used_is_refused_with_the_reason(raw: bytes, status: int, words: str) -> None:
    with pytest.raises(HttpError) as caught:
        body.parse_object(raw)
    assert caught.value.status == status
    assert words in caught.value.message


def test_the_last_of_two_equal_keys_counts() -> None:
    assert body.parse_object(b'{"a": 1, "a": 2}') == {"a": 2}


def test_a_whole_surrogate_pair_and_an_escaped_backslash_are_text_like_any_other() -> None:
    assert body.parse_object(rb'{"a": "\ud83d\ude00", "b": "\\u0000"}') == {"a": "😀", "b": r"\u0000"}


def test_sixty_four_levels_are_deep_enough() -> None:
    value = body.parse_object(b'{"a": ' + b"[" * 62 + b"]" * 62 + b"}")
    assert list(value) == ["a"]


def test_an_absent_body_can_count_as_an_empty_object() -> None:
    assert body.optional_object(b"") == {}
    assert body.optional_object(b"\r\n") == {}


def test_a_report_keeps_what_can_be_stored() -> None:
    assert body.parse_mended(rb'["a\u0000b", {"\ud800": "\ud83d\ude00"}]') == ["a�b", {"�": "😀"}]


def values(raw: bytes, most: int = 10) -> list[object]:
    return [value for value, _ in body.items(raw, most)]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"[]", []),
        (b" [ ] ", []),
        (b"[1, 2 ,3]", [1, 2, 3]),
        (b'{"a":1}\n{"a":2}', [{"a": 1}, {"a": 2}]),
        (b'{"a":1}\r\n\r\n{"a":2}\n', [{"a": 1}, {"a": 2}]),
        (b'{"a":1}', [{"a": 1}]),
    ],
)
def test_a_list_and_lines_give_the_same_items(raw: bytes, found: list[object]) -> None:
    assert values(raw) == found


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"[1, 2", "Expecting ',' or ']' at line 1 column 6"),
        (b"[1 2]", "Expecting ',' or ']'"),
        (b"[1,]", "Expecting value"),
        (b"[1] x", "Extra data"),
        (b'{"a":1}\n{"a":', "line 2"),
        (b'{"a":1} {"a":2}', "line 1"),
        (b"[" * 200_000, "deeper"),
    ],
)
def test_broken_lists_and_lines_name_the_place(raw: bytes, words: str) -> None:
    with pytest.raises(HttpError) as caught:
        values(raw)
    assert caught.value.status == 400
    assert words in caught.value.message


def test_what_comes_after_one_item_too_many_is_not_even_parsed() -> None:
    with pytest.raises(HttpError) as caught:
        values(b"[1,2,3,4, this is not JSON", most=3)
    assert (caught.value.status, caught.value.message) == (413, "more than 3 items, the limit of one request")


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
scalar = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | text
json_values = st.recursive(
    st.none() | st.booleans() | scalar,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@given(json_values)
def test_every_json_value_comes_through_unchanged(value: object) -> None:
    assert body.parse(json.dumps(value).encode()) == value
    assert body.parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.lists(json_values, max_size=8))
def test_lists_come_through_item_by_item(given_items: list[object]) -> None:
    assert values(json.dumps(given_items, indent=1).encode()) == given_items


@given(st.binary())
@example(b"[" * 5000)
@example(b'{"a": "\\ud800"}')
def test_whatever_comes_it_is_a_value_or_a_400(raw: bytes) -> None:
    for parse in (body.parse, body.parse_mended, body.optional_object, values):
        status = 400
        try:
            parse(raw)
        except HttpError as error:
            status = error.status
        assert status in (400, 413)
