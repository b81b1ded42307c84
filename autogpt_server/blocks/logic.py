"""Blocks that decide, compute and repeat."""

import decimal
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeAlias, cast

from pydantic import WithJsonSchema

from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockError,
    BlockOutput,
    BlockSchema,
    Effects,
    OutputSchema,
    SchemaField,
)
from autogpt_server.utils import json

Number: TypeAlias = Annotated[int | float, WithJsonSchema({"type": "number"})]
"""A JSON number that stays what it was: 2 does not become 2.0, and large integers keep their digits."""


class ComparisonOperator(StrEnum):
    EQUAL = "=="
    NOT_EQUAL = "!="
    GREATER_THAN = ">"
    LESS_THAN = "<"
    GREATER_OR_EQUAL = ">="
    LESS_OR_EQUAL = "<="


_COMPARE: Mapping[ComparisonOperator, Callable[[Any, Any], bool]] = {
    ComparisonOperator.EQUAL: operator.eq,
    ComparisonOperator.NOT_EQUAL: operator.ne,
    ComparisonOperator.GREATER_THAN: operator.gt,
    ComparisonOperator.LESS_THAN: operator.lt,
    ComparisonOperator.GREATER_OR_EQUAL: operator.ge,
    ComparisonOperator.LESS_OR_EQUAL: operator.le,
}


class ConditionBlock(Block):
    id = "715696a0-e1da-45c8-b209-c2fa9c3b0be6"
    description = "Compares two values and sends one of two values on."
    categories = frozenset({BlockCategory.LOGIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        value1: Any = SchemaField(description="The value on the left.", placeholder="10")
        operator: ComparisonOperator = SchemaField(
            description="How to compare. Numbers are compared as numbers, also when they are text."
        )
        value2: Any = SchemaField(description="The value on the right.", placeholder="20")
        yes_value: Any = SchemaField(None, description="Sent on if the comparison holds; `value1` where this is null.")
        no_value: Any = SchemaField(None, description="Sent on if it does not; `value1` where this is null.")

    class Output(OutputSchema):
        result: bool = SchemaField(False, description="Whether the comparison holds.")
        yes_output: Any = SchemaField(None, description="The value for yes.")
        no_output: Any = SchemaField(None, description="The value for no.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"value1": 10, "operator": ">", "value2": 5, "yes_value": "more", "no_value": "not more"},
        {"value1": "10", "operator": "<", "value2": "9.5", "yes_value": "less", "no_value": "not less"},
        {"value1": "apple", "operator": "<", "value2": "pear"},
        {"value1": " 3.0", "operator": "==", "value2": 3, "no_value": 0},
        {"value1": True, "operator": "==", "value2": "true"},
        {"value1": {"a": [1]}, "operator": "!=", "value2": {"a": [1]}, "no_value": []},
    )
    test_output = (
        [("result", True), ("yes_output", "more")],
        [("result", False), ("no_output", "not less")],
        [("result", True), ("yes_output", "apple")],
        [("result", True), ("yes_output", " 3.0")],
        [("result", True), ("yes_output", True)],
        [("result", False), ("no_output", [])],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        result = compare(input_data.value1, input_data.operator, input_data.value2)
        yield "result", result
        chosen = input_data.yes_value if result else input_data.no_value
        yield "yes_output" if result else "no_output", input_data.value1 if chosen is None else chosen


def compare(left: Any, how: ComparisonOperator, right: Any) -> bool:
    """Compare two JSON values as a person would: 10 > "9", "true" is true, and "apple" < "pear".

    Where both read as numbers they are numbers, where both read as true or false they are that, else both must be text, or of any type
    for `==` and `!=`. Raises `BlockError` where one is not greater or smaller than the other.
    """
    for reading in (_number, _truth):
        pair = reading(left), reading(right)
        if None not in pair:
            return _COMPARE[how](*pair)
    if how in {ComparisonOperator.EQUAL, ComparisonOperator.NOT_EQUAL}:
        return _same(left, right) is (how is ComparisonOperator.EQUAL)
    if isinstance(left, str) and isinstance(right, str):
        return _COMPARE[how](left, right)
    raise BlockError(f"{_kind(left)} {how.value} {_kind(right)} has no answer; compare two numbers or two texts.")


def _same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; unlike Python's `==`, true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        pairs = zip(cast("list[Any]", left), cast("list[Any]", right), strict=False)
        return len(left) == len(right) and all(_same(*pair) for pair in pairs)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(left, dict) and isinstance(right, dict):
        ours, theirs = cast("dict[str, Any]", left), cast("dict[str, Any]", right)
        return ours.keys() == theirs.keys() and all(_same(value, theirs[key]) for key, value in ours.items())
    return left == right


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def _number(value: Any) -> decimal.Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    return decimal.Decimal(text) if _NUMBER.fullmatch(text) else None


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {
        dict: "a dictionary",
        list: "a list",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "a number")


class Operation(StrEnum):
    ADD = "Add"
    SUBTRACT = "Subtract"
    MULTIPLY = "Multiply"
    DIVIDE = "Divide"
    POWER = "Power"


class CalculatorBlock(Block):
    id = "b1ab9b19-67a6-406d-abf5-2dba76d00c79"
    description = "Computes with two numbers."
    categories = frozenset({BlockCategory.LOGIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        operation: Operation = SchemaField(description="What to do with `a` and `b`.")
        a: Number = SchemaField(description="The first number.", placeholder="10")
        b: Number = SchemaField(description="The second number.", placeholder="5")
        round_result: bool = SchemaField(False, description="Whether the result is rounded to a whole number.")

    class Output(OutputSchema):
        result: Number = SchemaField(0, description="The result.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"operation": "Add", "a": 10, "b": 5},
        {"operation": "Subtract", "a": 0.5, "b": 2},
        {"operation": "Multiply", "a": 9007199254740993, "b": 3},
        {"operation": "Divide", "a": 10, "b": 4},
        {"operation": "Divide", "a": 10, "b": 5},
        {"operation": "Power", "a": 2, "b": -1},
        {"operation": "Divide", "a": 10, "b": 4, "round_result": True},
    )
    test_output = (
        [("result", 15)],
        [("result", -1.5)],
        [("result", 27021597764222979)],
        [("result", 2.5)],
        [("result", 2)],
        [("result", 0.5)],
        [("result", 3)],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        result = calculate(input_data.operation, input_data.a, input_data.b)
        yield "result", round_half_up(result) if input_data.round_result else result


MAX_RESULT = 10**308
"""Beyond this a result would not fit the floating-point number most readers of JSON make of it."""


def calculate(operation: Operation, a: float, b: float) -> float:
    """The result, as an integer where both numbers are and it comes out even; `BlockError` where there is no finite real one."""
    try:
        result = _OPERATIONS[operation](a, b)
    except ZeroDivisionError:
        raise BlockError(
            f"{a} divided by zero has no result."
            if operation is Operation.DIVIDE
            else "0 to a negative power has no result."
        ) from None
    except OverflowError:
        raise BlockError(f"The result of {operation.value} is too large.") from None
    if isinstance(result, complex):
        raise BlockError("A negative number to a fractional power has no real result.")
    if abs(result) > MAX_RESULT or (isinstance(result, float) and not math.isfinite(result)):
        raise BlockError(f"The result of {operation.value} is too large.")
    return result


def _divide(a: float, b: float) -> float:
    if isinstance(a, int) and isinstance(b, int) and b and a % b == 0:
        return a // b
    return a / b


def _power(a: float, b: float) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b > 0 and abs(a) > 1 and b * math.log10(abs(a)) > 310:
        raise OverflowError
    return a**b


_OPERATIONS: Mapping[Operation, Callable[[Any, Any], Any]] = {
    Operation.ADD: operator.add,
    Operation.SUBTRACT: operator.sub,
    Operation.MULTIPLY: operator.mul,
    Operation.DIVIDE: _divide,
    Operation.POWER: _power,
}


def round_half_up(number: float) -> int:
    """The nearest integer, a half away from zero: 2.5 is 3, as people round (Python's `round` makes it 2)."""
    if isinstance(number, int):
        return number
    return int(decimal.Decimal(repr(number)).to_integral_value(decimal.ROUND_HALF_UP))


class StepThroughItemsBlock(Block):
    id = "f66a3543-28d3-4ab5-8945-9b336371e2ce"
    description = "Sends the items of a list or a dictionary on, one by one."
    categories = frozenset({BlockCategory.LOGIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        items: list[Any] = SchemaField(default_factory=list, description="A list.", placeholder="[1, 2, 3]")
        items_object: dict[str, Any] = SchemaField(default_factory=dict, description="A dictionary.")
        items_str: str = SchemaField("", description="A list or a dictionary as JSON text.", placeholder='["a", "b"]')

    class Output(OutputSchema):
        item: Any = SchemaField(None, description="The item.")
        key: Any = SchemaField(None, description="Its position (from 0) or its key, right after it.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"items": ["a", None]},
        {"items_object": {"x": 1, "y": [2]}},
        {"items_str": ' {"k": "v"} '},
        {"items": [1], "items_object": {"x": 2}, "items_str": "[3]"},
        {},
    )
    test_output = (
        [("item", "a"), ("key", 0), ("item", None), ("key", 1)],
        [("item", 1), ("key", "x"), ("item", [2]), ("key", "y")],
        [("item", "v"), ("key", "k")],
        [("item", 1), ("key", 0), ("item", 2), ("key", "x"), ("item", 3), ("key", 0)],
        [],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        text = input_data.items_str.strip()
        for items in (input_data.items, input_data.items_object, _parsed(text) if text else []):
            for key, item in _entries(items):
                yield "item", item
                yield "key", key


def _entries(items: dict[str, Any] | list[Any]) -> Iterator[tuple[str | int, Any]]:
    return iter(items.items()) if isinstance(items, dict) else enumerate(items)


def _parsed(text: str) -> dict[str, Any] | list[Any]:
    try:
        items = json.loads(text)
    except json.InvalidJSONValue as error:
        raise BlockError(f"`items_str` is {error}.") from None
    if not isinstance(items, dict | list):
        raise BlockError("`items_str` is JSON, but neither a list nor a dictionary.")
    return items
