"""Comparing and computing at the edges."""

import json
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.blocks.data import FindInDictionaryBlock
from autogpt_server.blocks.logic import (
    CalculatorBlock,
    ComparisonOperator,
    Operation,
    StepThroughItemsBlock,
    calculate,
    compare,
    round_half_up,
)
from autogpt_server.data.block import BlockError
from support.blocks import run_block

numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("left", "how", "right", "holds"),
    [
        (10, ">", "9", True),
        ("10", ">", "9", True),
        ("1e3", "==", 1000, True),
        (" +5 ", "==", 5, True),
        ("0.1", "==", 0.1, True),
        (9007199254740993, ">", "9007199254740992", True),
        ("10 apples", "<", "9 apples", True),
        ("v1", "!=", "V1", True),
        (True, "==", "TRUE", True),
        (True, "==", 1, False),
        (None, "==", None, True),
        (None, "!=", 0, True),
        ([1, {"a": 2}], "==", [1, {"a": 2}], True),
        ("²", "==", 2, False),
        ("1_0", "==", 10, False),
        ("", "==", 0, False),
        ("2026-01-02", "<", "2026-01-10", True),
    ],
)
def test_values_compare_as_people_expect(left: Any, how: str, right: Any, holds: bool) -> None:
    assert compare(left, ComparisonOperator(how), right) is holds


@pytest.mark.parametrize(("left", "right"), [(None, 1), ([1], [2]), ("a", 1), ({}, "x"), (True, 3)])
def test_what_has_no_order_is_an_error(left: Any, right: Any) -> None:
    with pytest.raises(BlockError, match="has no answer"):
        compare(left, ComparisonOperator.GREATER_THAN, right)


@given(numbers, numbers, st.sampled_from(list(ComparisonOperator)))
def test_numbers_compare_the_same_as_text(left: float, right: float, how: ComparisonOperator) -> None:
    expected = {
        "==": operator.eq,
        "!=": operator.ne,
        ">": operator.gt,
        "<": operator.lt,
        ">=": operator.ge,
        "<=": operator.le,
    }
    holds = expected[how.value](left, right)
    assert compare(left, how, right) is holds or left != right
    assert compare(json.dumps(left), how, right) is compare(left, how, right)


@pytest.mark.parametrize(
    ("operation", "a", "b", "said"),
    [
        ("Divide", 1, 0, "divided by zero"),
        ("Divide", 0.0, 0, "divided by zero"),
        ("Power", 0, -1, "negative power"),
        ("Power", -8, 0.5, "no real result"),
        ("Power", 10, 400, "too large"),
        ("Power", 10**30, 10**30, "too large"),
        ("Power", 2.5, 10**6, "too large"),
        ("Multiply", 1e308, 10, "too large"),
        ("Multiply", 10**200, 10**200, "too large"),
        ("Add", 1.7e308, 1.7e308, "too large"),
    ],
)
def test_no_result_is_an_error(operation: str, a: float, b: float, said: str) -> None:
    with pytest.raises(BlockError, match=said):
        calculate(Operation(operation), a, b)


@given(st.sampled_from(list(Operation)), numbers, numbers)
def test_a_result_is_a_finite_number_of_json(operation: Operation, a: float, b: float) -> None:
    try:
        result = calculate(operation, a, b)
    except BlockError:
        return
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18))
def test_integers_stay_exact(a: int, b: int) -> None:
    assert calculate(Operation.ADD, a, b) == a + b
    assert calculate(Operation.MULTIPLY, a, b) == a * b
    if b and a % b == 0:
        assert calculate(Operation.DIVIDE, a, b) == a // b


@pytest.mark.parametrize(("number", "rounded"), [(2.5, 3), (-2.5, -3), (2.4999, 2), (0.5, 1), (7, 7), (1e22, 10**22)])
def test_a_half_is_rounded_away_from_zero(number: float, rounded: int) -> None:
    assert round_half_up(number) == rounded


async def test_the_calculator_keeps_whole_numbers_whole() -> None:
    ((_, result),) = await run_block(CalculatorBlock(), {"operation": "Multiply", "a": 3, "b": 2})
    assert type(result) is int


@pytest.mark.parametrize(("text", "said"), [("[1,", "not valid JSON"), ("7", "neither a list nor a dictionary")])
async def test_items_as_text_must_be_json_items(text: str, said: str) -> None:
    with pytest.raises(BlockError, match=said):
        await run_block(StepThroughItemsBlock(), {"items_str": text})


@pytest.mark.parametrize(
    ("value", "said"), [("no json", "no JSON"), (7, "neither"), ("7", "neither"), (None, "neither")]
)
async def test_a_lookup_needs_something_to_look_into(value: Any, said: str) -> None:
    with pytest.raises(BlockError, match=said):
        await run_block(FindInDictionaryBlock(), {"input": value, "key": "a"})
