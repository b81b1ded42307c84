"""JSON values."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.utils import json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children) | st.dictionaries(TEXT, children),
    max_leaves=30,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@given(VALUES)
def test_a_value_survives_the_round_trip(value: Any) -> None:
    text = json.dumps(value)
    again = json.loads(text)
    assert again == value
    assert json.dumps(again) == text
    assert json.loads(json.dumps_bytes(value)) == value


def test_text_is_compact_utf8_with_keys_in_their_order() -> None:
    assert json.dumps_bytes({"b": [1, 2.0, None], "a": "é"}) == '{"b":[1,2.0,null],"a":"é"}'.encode()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (math.nan, "nan is no JSON number"),
        ({"a": [1, -math.inf]}, r"-inf is no JSON number \(at \$\.a\[1\]\)"),
        ((1, 2), "a tuple is not a JSON value; use a list"),
        ({1: "a"}, "the key 1 will not do: it is an int, not text"),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, r"a datetime is not a JSON value \(at \$\.when\)"),
        ({"s": {1}}, "use a list"),
        (b"x", "encode it as base64 text"),
        ("\ud800", "half a surrogate pair"),
        ({"\udfff": 1}, "half a surrogate pair"),
        ([object()], "an object is not a JSON value"),
        pytest.param(10**5000, "more than 4,300 digits", id="long integer"),
        (nested(json.MAX_DEPTH + 1), "nested deeper than 100 levels"),
        (nested(100_000), "nested deeper than 100 levels"),
    ],
)
def test_what_is_no_json_is_refused_with_the_reason(value: Any, problem: str) -> None:
    with pytest.raises(json.InvalidJSONValue, match=problem):
        json.dumps(value)
    with pytest.raises(json.InvalidJSONValue):
        json.check(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nul",
        "NaN",
        "Infinity",
        "1e999",
        '{"a": [-1e400]}',
        "9" * 5000,
        '"\\ud800"',
        '"\ud800"',
        "[1,]",
        "{'a': 1}",
        "1 2",
        b"\xff",
    ],
)
def test_text_that_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(json.InvalidJSONValue):
        json.loads(text)


@pytest.mark.parametrize("levels", [json.MAX_DEPTH + 1, 5_000])
def test_text_nested_too_deep_is_refused(levels: int) -> None:
    with pytest.raises(json.InvalidJSONValue):
        json.loads("[" * levels + "]" * levels)


def test_the_deepest_value_passes_both_ways() -> None:
    value = nested(json.MAX_DEPTH)
    assert json.loads(json.dumps(value)) == value


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(json.InvalidJSONValue, match="nested deeper"):
        json.dumps(value)


def test_the_path_is_an_attribute_and_is_cut_in_the_message() -> None:
    with pytest.raises(json.InvalidJSONValue) as caught:
        json.dumps({"k" * 500: math.nan})
    assert caught.value.path == "$." + "k" * 500
    assert len(str(caught.value)) < 200
