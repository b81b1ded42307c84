"""Pin names and their dynamic parts (rule F6)."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.data.pins import (
    MAX_INDEX,
    MAX_PARTS,
    MISSING,
    Part,
    PartKind,
    PinMergeError,
    PinName,
    PinNameError,
    merge_slots,
    parse_parts,
    parse_pin,
    pick,
)


@pytest.mark.parametrize(
    ("name", "base", "parts"),
    [
        ("text", "text", ()),
        ("list_$_0", "list", (Part(PartKind.INDEX, 0),)),
        ("dict_#_some key", "dict", (Part(PartKind.KEY, "some key"),)),
        ("object_@_attr", "object", (Part(PartKind.ATTRIBUTE, "attr"),)),
        ("a_#_b_$_2_@_c", "a", (Part(PartKind.KEY, "b"), Part(PartKind.INDEX, 2), Part(PartKind.ATTRIBUTE, "c"))),
        ("a_#_", "a", (Part(PartKind.KEY, ""),)),
        ("a_#_0", "a", (Part(PartKind.KEY, "0"),)),
        ("with_underscores_", "with_underscores_", ()),
        ("a_#b", "a_#b", ()),
        ("a_#_ä_b", "a", (Part(PartKind.KEY, "ä_b"),)),
    ],
)
def test_names(name: str, base: str, parts: tuple[Part, ...]) -> None:
    assert parse_pin(name) == PinName(base, parts)
    assert str(parse_pin(name)) == name
    assert parse_pin(name).is_dynamic == bool(parts)
    assert parse_parts(name[len(base) :]) == parts


@pytest.mark.parametrize(
    "name",
    [
        "",
        "_#_a",
        "a_$_x",
        "a_$_",
        "a_$_-1",
        "a_$_1.5",
        "a_$_²",
        f"a_$_{MAX_INDEX + 1}",
        "a_$_99999999999999999999",
        "a" + "_#_b" * (MAX_PARTS + 1),
    ],
)
def test_names_that_cannot_be_read(name: str) -> None:
    with pytest.raises(PinNameError):
        parse_pin(name)


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        ([1, 2], "p_$_1", 2),
        ([1, 2], "p_$_2", MISSING),
        ([], "p_$_0", MISSING),
        ([None], "p_$_0", None),
        ("text", "p_$_0", MISSING),
        ({"a": {"b": [False]}}, "p_#_a_@_b_$_0", False),
        ({"a": 0}, "p_#_a", 0),
        ({"a": None}, "p_#_a_#_b", MISSING),
        ({"0": 1}, "p_$_0", MISSING),
        ([1], "p_#_0", MISSING),
        (None, "p_#_a", MISSING),
        (5, "p", 5),
    ],
)
def test_picking_a_part(value: Any, name: str, expected: Any) -> None:
    assert pick(value, parse_pin(name).parts) is expected or pick(value, parse_pin(name).parts) == expected


@pytest.mark.parametrize(
    ("defaults", "tokens", "expected"),
    [
        pytest.param({"a": 1}, {}, {"a": 1}, id="a default"),
        pytest.param({"a": 1}, {"a": 2}, {"a": 2}, id="a value wins over a default"),
        pytest.param({"a": 1}, {"a": None}, {"a": None}, id="even None"),
        pytest.param({"d": {"x": 1, "y": 1}}, {"d_#_x": 2}, {"d": {"x": 2, "y": 1}}, id="a part on top of a default"),
        pytest.param({"d": {"x": 1}}, {"d": {"z": 0}, "d_#_x": 2}, {"d": {"z": 0, "x": 2}}, id="default, whole, parts"),
        pytest.param({"d_#_x": 1, "d_#_y": 1}, {"d_#_x": 2}, {"d": {"x": 2, "y": 1}}, id="parts as defaults"),
        pytest.param(
            {"d_#_x": 1}, {"d": {"x": 2}}, {"d": {"x": 1}}, id="a part, even as a default, is more than the whole"
        ),
        pytest.param({}, {"l_$_1": "b", "l_$_0": "a"}, {"l": ["a", "b"]}, id="list parts in the order of their index"),
        pytest.param({}, {"l_$_10": "b", "l_$_9": "a"}, {"l": ["a", "b"]}, id="as numbers, gaps closed"),
        pytest.param({"l": [1, 2]}, {"l_$_0": "a", "l_$_7": "b"}, {"l": ["a", 2, "b"]}, id="what is there is replaced"),
        pytest.param({"l": None}, {"l_$_0": 0}, {"l": [0]}, id="None is an empty list"),
        pytest.param({"d": None}, {"d_@_k": 0}, {"d": {"k": 0}}, id="or an empty object"),
        pytest.param(
            {},
            {"l_$_0": None, "l_$_1": False, "l_$_2": ""},
            {"l": [None, False, ""]},
            id="values that are nothing much",
        ),
        pytest.param({}, {"d_#_a_$_0": 1, "d_#_a_$_1_#_b": 2}, {"d": {"a": [1, {"b": 2}]}}, id="deeper"),
        pytest.param(
            {}, {"d_#_a": {"x": 1}, "d_#_a_#_y": 2}, {"d": {"a": {"x": 1, "y": 2}}}, id="a part and a part of it"
        ),
        pytest.param(
            {}, {"d_#_a": 1, "d_@_b": 2}, {"d": {"a": 1, "b": 2}}, id="keys and attributes are the same in JSON"
        ),
    ],
)
def test_merging(defaults: dict[str, Any], tokens: dict[str, Any], expected: dict[str, Any]) -> None:
    before = deepcopy((defaults, tokens))
    assert merge_slots(defaults, tokens) == expected
    assert (defaults, tokens) == before


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"p": "text", "p_$_0": 1}, "its value is the text, not a list"),
        ({"p": [1], "p_#_a": 1}, "its value is a list, not an object"),
        ({"p": 0, "p_#_a": 1}, "its value is the number"),
        ({"p": False, "p_$_0": 1}, "its value is the boolean"),
        ({"p_#_a": 1, "p_$_0": 1}, "list parts and dictionary parts"),
        ({"p_#_a_#_b": 1, "p_#_a_$_0": 1}, "list parts and dictionary parts"),
        ({"p_#_a": 5, "p_#_a_#_b": 1}, "not an object"),
    ],
)
def test_parts_that_do_not_fit(tokens: dict[str, Any], words: str) -> None:
    for given_as in (tokens, dict(reversed(tokens.items()))):
        with pytest.raises(PinMergeError, match=words) as caught:
            merge_slots({}, given_as)
        assert caught.value.pin == "p"


keys = st.one_of(st.integers(0, 12), st.sampled_from(["a", "b", "0"]))
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4),
        st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, min_size=1, max_size=3),
    ),
    max_leaves=10,
)


def _leaves(value: Any, name: str) -> dict[str, Any]:
    """Each leaf of a value under the name of its own slot."""
    if isinstance(value, list):
        entries = [(f"{name}_$_{index}", item) for index, item in enumerate(value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    elif isinstance(value, dict):
        entries = [(f"{name}_#_{key}", item) for key, item in value.items()]  # pyright: ignore[reportUnknownVariableType]
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for entry, item in entries:  # pyright: ignore[reportUnknownVariableType]
        found |= _leaves(item, str(entry))
    return found


@given(trees, st.randoms(use_true_random=False))
def test_a_value_taken_apart_and_sent_in_any_order_is_the_value_again(value: Any, chance: Any) -> None:
    slots = list(_leaves(value, "p").items())
    for name, leaf in slots:
        assert pick(value, parse_pin(name).parts) == leaf
    chance.shuffle(slots)
    assert merge_slots({}, dict(slots)) == {"p": value}
