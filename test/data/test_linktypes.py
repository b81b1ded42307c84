"""Whether what leaves a pin can enter another: judged from the schemas, held against what conversion does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.data.block import BlockSchema, SchemaField
from autogpt_server.data.convert import ConversionError, InputConverter, PinConverter
from autogpt_server.data.linktypes import LinkVerdict, link_verdict, part_schema
from autogpt_server.data.pins import parse_pin

FITS, DOUBTFUL, IMPOSSIBLE = LinkVerdict

S: dict[str, Any] = {"type": "string"}
I: dict[str, Any] = {"type": "integer"}  # noqa: E741 - short names for a table
N: dict[str, Any] = {"type": "number"}
B: dict[str, Any] = {"type": "boolean"}
NULL: dict[str, Any] = {"type": "null"}


def a_list(items: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "array", **({} if items is None else {"items": items}), **more}


def an_object(entries: Any = True, **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": entries, **more}


def either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


POST = {"type": "object", "title": "Post", "properties": {"id": S}, "required": ["id"]}


@pytest.mark.parametrize(
    ("source", "sink", "verdict"),
    [
        (S, S, FITS),
        (S, {}, FITS),
        ({}, S, DOUBTFUL),
        (I, N, FITS),
        (N, I, DOUBTFUL),
        (I, S, FITS),
        (S, I, DOUBTFUL),
        (S, B, DOUBTFUL),
        (S, NULL, DOUBTFUL),
        (B, S, IMPOSSIBLE),
        (B, I, IMPOSSIBLE),
        (I, B, IMPOSSIBLE),
        (NULL, S, IMPOSSIBLE),
        (NULL, a_list(), IMPOSSIBLE),
        (NULL, either(S, NULL), FITS),
        (either(S, NULL), S, DOUBTFUL),
        (either(S, I), S, FITS),
        (either(B, NULL), either(S, I), IMPOSSIBLE),
        (S, a_list(S), FITS),
        (S, a_list(I), DOUBTFUL),
        (I, a_list(S), FITS),
        (B, a_list(S), IMPOSSIBLE),
        (I, a_list(I, minItems=2), DOUBTFUL),
        (a_list(I), a_list(S), FITS),
        (a_list(B), a_list(S), DOUBTFUL),
        (a_list(), a_list(S), DOUBTFUL),
        (a_list(I), a_list(), FITS),
        (a_list(I), a_list(I, maxItems=1), DOUBTFUL),
        (a_list(S), S, IMPOSSIBLE),
        (a_list(S), an_object(), IMPOSSIBLE),
        (an_object(), a_list(), FITS),
        (an_object(), S, IMPOSSIBLE),
        (an_object(), an_object(), FITS),
        (an_object(), an_object(S), DOUBTFUL),
        (an_object(I), an_object(S), FITS),
        (an_object(B), an_object(S), DOUBTFUL),
        (an_object(), POST, DOUBTFUL),
        (POST, an_object(), FITS),
        (POST, an_object(I), DOUBTFUL),
        (POST, POST, FITS),
        (POST, {**POST, "title": "Comment"}, DOUBTFUL),
        ({"enum": ["a", "b"]}, S, FITS),
        (S, {"enum": ["a", "b"]}, DOUBTFUL),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, FITS),
        ({"enum": ["a", "c"]}, {"enum": ["a", "b"]}, DOUBTFUL),
        ({"enum": ["c"]}, {"enum": ["a", "b"]}, IMPOSSIBLE),
        ({"const": "a"}, {"enum": ["a", "b"]}, FITS),
        ({**S, "format": "date"}, S, FITS),
        (S, {**S, "format": "date"}, DOUBTFUL),
        ({**S, "format": "date"}, {**S, "format": "date"}, FITS),
        ({**S, "format": "date"}, {**S, "format": "email"}, DOUBTFUL),
        ({**I, "minimum": 1}, {**I, "exclusiveMinimum": 5}, DOUBTFUL),
        ({"type": ["string", "null"]}, S, DOUBTFUL),
    ],
)
def test_verdicts(source: dict[str, Any], sink: dict[str, Any], verdict: LinkVerdict) -> None:
    assert link_verdict(source, sink) is verdict


def test_references_are_followed_even_in_circles() -> None:
    definitions: dict[str, Any] = {"Tree": a_list({"$ref": "#/$defs/Tree"}), "Text": S}
    assert link_verdict({"$ref": "#/$defs/Text"}, S, definitions) is FITS
    assert link_verdict({"$ref": "#/$defs/Text"}, B, definitions) is DOUBTFUL
    assert link_verdict({"$ref": "#/$defs/Tree"}, {"$ref": "#/$defs/Tree"}, definitions) is DOUBTFUL


@pytest.mark.parametrize(
    ("schema", "parts", "expected"),
    [
        (a_list(S), "_$_0", S),
        (a_list(), "_$_0", {}),
        (S, "_$_0", None),
        (a_list(S), "_#_a", None),
        (an_object(I), "_#_a", I),
        (an_object(), "_@_a", {}),
        (an_object(entries=False), "_#_a", None),
        (POST, "_@_id", S),
        ({**POST, "additionalProperties": False}, "_@_title", None),
        (either(a_list(S), an_object(I), NULL), "_#_a", I),
        (either(an_object(S), an_object(I)), "_#_a", either(S, I)),
        ({}, "_#_a_$_0", {}),
        (an_object(a_list(S)), "_#_a_$_0", S),
    ],
)
def test_parts(schema: dict[str, Any], parts: str, expected: dict[str, Any] | None) -> None:
    assert part_schema(schema, parse_pin(f"p{parts}").parts) == expected


TYPES: list[Any] = [
    int, float, str, bool, None, Any, list[int], list[str], list[Any], list[bool], dict[str, Any], dict[str, int], dict[str, str],
    int | str, int | None, list[int] | str, list[str] | dict[str, Any] | None, Literal["1", 2], Literal["1"],
    list[dict[str, list[float]]], Annotated[int, pydantic.Field(ge=2)], Annotated[list[int], pydantic.Field(min_length=1)],
]  # fmt: skip


def _pin(annotation: Any) -> tuple[PinConverter, dict[str, Any]]:
    schema = pydantic.create_model("Input", __base__=BlockSchema, pin=(annotation, SchemaField()))
    return InputConverter(schema).pins["pin"], schema.model_json_schema()["properties"]["pin"]


PINS = [_pin(annotation) for annotation in TYPES]

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.sampled_from([0.5, 2.0, "", "a", "1", "2.0", "[1]", "{}", "null", "true"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=5,
)


@given(values)
def test_the_verdict_agrees_with_what_conversion_does(value: Any) -> None:
    for source, given_schema in PINS:
        if not source.fits(value):
            continue
        for sink, wanted_schema in PINS:
            verdict = link_verdict(given_schema, wanted_schema)
            try:
                sink(value)
            except ConversionError:
                assert verdict is not FITS, f"{value!r} of {source.expected} does not become {sink.expected}"
            else:
                assert verdict is not IMPOSSIBLE, f"{value!r} of {source.expected} becomes {sink.expected}"
