"""Conversion of values to the types of pins (rule F7)."""

from __future__ import annotations

import enum
import math
from datetime import date
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.data.block import BlockSchema, SchemaField
from autogpt_server.data.convert import ConversionError, InputConverter, MissingInput, PinConverter, input_converter
from autogpt_server.utils import json


class Color(enum.Enum):
    RED = "red"


class Post(pydantic.BaseModel):
    id: int


def _picky(value: int) -> int:
    if value == 13:
        raise KeyError(value)
    return value


def converter(annotation: Any, **extra: Any) -> PinConverter:
    schema = pydantic.create_model("Input", __base__=BlockSchema, pin=(annotation, SchemaField(**extra)))
    return InputConverter(schema).pins["pin"]


REFUSED = object()


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        # as it is
        (int, 3, 3),
        (float, 3, 3),
        (float, 0.5, 0.5),
        (str, "", ""),
        (bool, False, False),
        (Any, None, None),
        (object, [1], [1]),
        (Optional[int], None, None),  # noqa: UP045 - both ways to write it
        (int | None, None, None),
        (list[Any], [], []),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": 1}, {"a": 1}),
        (Color, "red", "red"),
        (date, "2026-02-28", "2026-02-28"),
        (Post, {"id": 1}, {"id": 1}),
        (Literal["a", 1], 1, 1),
        (str | int, 5, 5),
        (int | str, "5", "5"),
        # numbers and text
        (str, 3, "3"),
        (str, 3.0, "3.0"),
        (str, -0.5, "-0.5"),
        (int, "3", 3),
        (int, " -7 ", -7),
        (int, "007", 7),
        (int, "3.0", 3),
        (int, 3.0, 3),
        (int, 1e20, 100000000000000000000),
        (int, "1e3", 1000),
        (float, "3", 3),
        (float, "-2.5e-3", -0.0025),
        (float, ".5", 0.5),
        (int | None, "3", 3),
        (Literal["1", "2"], 1, "1"),
        (Literal[1, 2], "2", 2),
        (Annotated[int, pydantic.Field(gt=0)], "3", 3),
        (list[str] | int, "5", 5),
        # text that is JSON
        (bool, "true", True),
        (list[int], "[1, 2]", [1, 2]),
        (list[int], '["1", 2.0]', [1, 2]),
        (dict[str, Any], '{"a": null}', {"a": None}),
        (Post, '{"id": 1}', {"id": 1}),
        (list[Any] | dict[str, Any], '{"a": 1}', {"a": 1}),
        (int | None, "null", None),
        (dict[str, int], '{"a": "1"}', {"a": 1}),
        # items
        (list[int], ["1", 2], [1, 2]),
        (list[list[int]], [["1"], "[2]", 3], [[1], [2], [3]]),
        (dict[str, str], {"a": 1}, {"a": "1"}),
        (dict[str, list[int]], {"a": 1}, {"a": [1]}),
        # one item
        (list[int], 5, [5]),
        (list[int], "5", [5]),
        (list[str], "a", ["a"]),
        (list[str], 5, ["5"]),
        (list, {"a": 1}, [{"a": 1}]),
        (list[bool], False, [False]),
        (list[str] | None, "a", ["a"]),
        (list[Any], "[1", ["[1"]),
        # never
        (int, 3.7, REFUSED),
        (int, "3.7", REFUSED),
        (int, True, REFUSED),
        (int, None, REFUSED),
        (int, "", REFUSED),
        (int, "three", REFUSED),
        (int, "1_000", REFUSED),
        (int, "٣", REFUSED),
        (int, "1e999", REFUSED),
        (int, [3], REFUSED),
        (float, "nan", REFUSED),
        (float, "inf", REFUSED),
        (float, "1e999", REFUSED),
        (float, "0x10", REFUSED),
        (float, "9007199254740993", REFUSED),
        (bool, 1, REFUSED),
        (bool, "yes", REFUSED),
        (str, None, REFUSED),
        (str, True, REFUSED),
        (str, ["a"], REFUSED),
        (str, {"a": 1}, REFUSED),
        (list[int], None, REFUSED),
        (list[int], ["a"], REFUSED),
        (list[float], "[1e999]", REFUSED),
        (list[float], "[NaN]", REFUSED),
        (dict[str, int], {"a": "b"}, REFUSED),
        (dict[str, Any], "[1]", REFUSED),
        (dict[str, Any], [], REFUSED),
        (Literal["a"], "b", REFUSED),
        (Color, "blue", REFUSED),
        (Post, {"id": None}, REFUSED),
        (Annotated[int, pydantic.Field(gt=0)], "-3", REFUSED),
        (Annotated[int, pydantic.AfterValidator(_picky)], 13, REFUSED),
        (dict[str, str], '{"a": "\\ud800"}', REFUSED),
    ],
)
def test_conversion(annotation: Any, value: Any, expected: Any) -> None:
    convert = converter(annotation)
    if expected is REFUSED:
        with pytest.raises(ConversionError):
            convert(value)
        return
    converted = convert(value)
    assert (converted, type(converted)) == (expected, type(expected))
    json.check(converted)
    assert convert(converted) is converted, "what fits stays as it is"


def test_what_fits_is_the_very_same_object() -> None:
    value = [{"a": [1]}]
    assert converter(list[dict[str, Any]])(value) is value


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, 'expects a whole number, but got the text "seven".'),
        (list[float], "expects a list of a number, but got"),
        (str | None, None),
        (Literal["x", "y"], "expects one of 'x', 'y', but got"),
        (bool | None, "expects true or false or null, but got"),
        (Post, r"expects an object \(Post\), but got"),
    ],
)
def test_a_refusal_names_the_pin_the_type_and_what_came(annotation: Any, words: str | None) -> None:
    convert = converter(annotation)
    if words is None:
        assert convert("seven") == "seven"
        return
    with pytest.raises(ConversionError, match=f"^Pin 'pin' {words}") as caught:
        convert("seven")
    assert (caught.value.pin, caught.value.details["expected"]) == ("pin", convert.expected)


def test_a_refusal_shows_a_little_of_a_large_value_and_nothing_of_a_secret() -> None:
    with pytest.raises(ConversionError) as caught:
        converter(int)(["x" * 1_000_000])
    assert len(str(caught.value)) < 200
    with pytest.raises(ConversionError) as caught:
        converter(int, secret=True)("hunter2")
    assert "hunter2" not in str(caught.value) + repr(caught.value.details)


def test_the_input_of_a_block() -> None:
    class Input(BlockSchema):
        number: int = SchemaField()
        texts: list[str] = SchemaField(default_factory=list[str])
        free: Any = SchemaField(None)
        named: str = SchemaField("", alias="list")

    convert = input_converter(Input)
    assert convert is input_converter(Input)
    assert convert({"number": "1", "texts": 2, "free": "3", "list": 4, "unknown": 5}) == {
        "number": 1,
        "texts": ["2"],
        "free": "3",
        "list": "4",
    }
    assert convert({"number": 0}) == {"number": 0}
    with pytest.raises(MissingInput, match="'number'") as caught:
        convert({"free": None})
    assert caught.value.pins == ["number"]
    with pytest.raises(ConversionError):
        convert({"number": None})


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
        st.sampled_from(["1", "1.0", "[1]", "{}", "null", "true", '"1"', "1e400", "[1e400]"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=6,
)
TYPES = [
    int,
    float,
    str,
    bool,
    list[int],
    list[str],
    list[Any],
    dict[str, Any],
    dict[str, int],
    int | str,
    int | None,
    list[int] | str,
    list[str] | dict[str, Any] | None,
    Literal["1", 2],
    list[dict[str, list[float]]],
]


@given(st.sampled_from(TYPES), values)
def test_whatever_comes_the_result_is_valid_json_and_stable_or_refused(annotation: Any, value: Any) -> None:
    convert = converter(annotation)
    try:
        converted = convert(value)
    except ConversionError:
        assert not convert.fits(value)
        return
    json.check(converted)
    assert convert.fits(converted)
    assert convert(converted) is converted
    if convert.fits(value):
        assert converted is value


@given(st.one_of(st.integers(-(2**200), 2**200), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_survive_as_text_and_back(number: float) -> None:
    text = converter(str)(number)
    back = converter(type(number))(text)
    assert back == number or (isinstance(number, float) and number.is_integer() and abs(number) > 2**53)
    assert math.copysign(1, back) == math.copysign(1, number)
