"""Conversion of values to the type of the pin they enter (rule F7). Pure; validators are compiled once per pin.

In this order, each over all branches of a union: a value that is valid for the type stays as it is; a number becomes text or text a number, if
nothing is lost; text that is the JSON of a valid value becomes that value; a single item becomes a list of one. Everything else is refused. The
items of lists and the values of dictionaries are converted in the same way.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, cast

import pydantic
import pydantic.fields

from autogpt_server.data.block import BlockSchema
from autogpt_server.data.pins import json_kind
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.json import InvalidJSONValue

_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXACT_FLOAT_LIMIT = 2**53
_SHOWN_CHARS = 80


class ConversionError(AutoGPTServerError):
    """A value does not fit the pin it should enter."""

    code = "input_type_mismatch"

    def __init__(self, pin: str, expected: str, got: Any, *, secret: bool = False) -> None:
        super().__init__(
            f"Pin {pin!r} expects {expected}, but got {'a value that is not shown' if secret else describe_value(got)}.",
            pin=pin,
            expected=expected,
        )

    @property
    def pin(self) -> str:
        """The pin's field name."""
        return str(self.details["pin"])

    @property
    def expected(self) -> str:
        """The pin's type in words."""
        return str(self.details["expected"])


class MissingInput(AutoGPTServerError):
    """A required pin has no value."""

    code = "missing_input"

    def __init__(self, pins: list[str]) -> None:
        super().__init__(
            f"No value for the required {'pin' if len(pins) == 1 else 'pins'} {', '.join(map(repr, pins))}.", pins=pins
        )

    @property
    def pins(self) -> list[str]:
        """The pins' field names."""
        return list(self.details["pins"])


@dataclass(frozen=True, slots=True)
class PinConverter:
    """Converts values for one input pin."""

    pin: str
    annotation: Any
    expected: str
    secret: bool
    adapter: pydantic.TypeAdapter[Any] | None
    """None when every JSON value fits."""
    exact: type | None
    """A type whose instances fit without asking the validator."""

    def __call__(self, value: Any) -> Any:
        """The value as the pin takes it (the very same object when it fits already); `ConversionError` otherwise."""
        if self.adapter is None or type(value) is self.exact or self.fits(value):
            return value
        for candidate in _candidates(value, self.annotation):
            if self.fits(candidate):
                return candidate
        raise ConversionError(self.pin, self.expected, value, secret=self.secret)

    def fits(self, value: Any) -> bool:
        """Whether the value is valid as it is. Strict: text is no number and 1 is not true."""
        return self.adapter is None or _is_valid(self.adapter, value)


class InputConverter:
    """Converts the merged input of a block: field -> value in, field -> value out."""

    def __init__(self, schema: type[BlockSchema]) -> None:
        self.schema = schema
        self.pins: Mapping[str, PinConverter] = {
            pin: _pin_converter(schema, pin, info) for pin, info in schema.pins().items()
        }
        self.required = schema.required_pins()
        self._plain = frozenset(pin for pin, converter in self.pins.items() if converter.adapter is None)

    def __call__(self, merged: Mapping[str, Any]) -> dict[str, Any]:
        """Each given pin's value converted; pins the block does not have are dropped (they are reported when a graph is saved).

        Raises `MissingInput` or `ConversionError`.
        """
        missing = [pin for pin in self.required if pin not in merged]
        if missing:
            raise MissingInput(sorted(missing))
        converted: dict[str, Any] = {}
        for pin, value in merged.items():
            if pin in self._plain:
                converted[pin] = value
            elif (converter := self.pins.get(pin)) is not None:
                converted[pin] = converter(value)
        return converted


@cache
def input_converter(schema: type[BlockSchema]) -> InputConverter:
    """The converter of an input schema; made once."""
    return InputConverter(schema)


def describe_value(value: Any) -> str:
    """A short description of a value for an error message."""
    try:
        text = json.dumps(value)
    except InvalidJSONValue:
        text = repr(value)
    kind = "" if value is None else f"{json_kind(value)} "
    return f"{kind}{text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '…'}"


def _pin_converter(schema: type[BlockSchema], pin: str, info: pydantic.fields.FieldInfo) -> PinConverter:
    annotation: Any = info.annotation
    annotated: Any = Annotated[annotation, *info.metadata] if info.metadata else annotation
    free = annotation in (Any, object) and not info.metadata
    adapter: pydantic.TypeAdapter[Any] | None = None if free else pydantic.TypeAdapter(annotated)
    exact = annotation if annotation in (str, bool, int) and not info.metadata else None
    expected = "anything" if adapter is None else describe_schema(adapter.json_schema())
    return PinConverter(pin, annotation, expected, pin in schema.secret_pins(), adapter, exact)


def _is_valid(adapter: pydantic.TypeAdapter[Any], value: Any) -> bool:
    # Strict JSON mode also knows the text forms of enums, dates and the like.
    return _passes(lambda: adapter.validate_python(value, strict=True)) or _passes(
        lambda: adapter.validate_json(json.dumps_bytes(value), strict=True)
    )


def _passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except Exception:  # noqa: BLE001 - a check of a block's author may raise anything; what it breaks on does not fit
        return False
    return True


@cache
def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _candidates(value: Any, annotation: Any) -> Iterator[Any]:
    """Values that `value` may be turned into for the type, best first. They still have to be validated."""
    branches = list(_branches(annotation))
    for stage in (_as_scalar, _as_json, _as_list_of_one):
        for branch in branches:
            yield from stage(value, branch)


def _branches(annotation: Any) -> Iterator[Any]:
    """The types that a union offers, or the type itself."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _branches(typing.get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for branch in typing.get_args(annotation):
            yield from _branches(branch)
    else:
        yield annotation


def _as_scalar(value: Any, branch: Any) -> Iterator[Any]:
    """Numbers as text and text as numbers; in lists and dictionaries, their items converted."""
    origin, arguments = typing.get_origin(branch), typing.get_args(branch)
    if origin is Literal:
        yield from _literal_candidates(value, arguments)
    elif branch is str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield json.dumps(value)
    elif branch in (int, float):
        yield from _number_of(value, branch)
    elif isinstance(value, list) and list in (branch, origin):
        yield _converted_items(cast("list[Any]", value), arguments)
    elif isinstance(value, dict) and dict in (branch, origin):
        yield _converted_entries(cast("dict[str, Any]", value), arguments)


def _as_json(value: Any, branch: Any) -> Iterator[Any]:
    """Text as the value whose JSON it is. Numbers are not looked for here: `_as_scalar` has found those that lose nothing."""
    if not isinstance(value, str) or branch in (str, int, float):
        return
    try:
        parsed = json.loads(value)
    except InvalidJSONValue:
        return
    yield parsed
    if isinstance(parsed, list | dict):
        yield from _as_scalar(parsed, branch)


def _as_list_of_one(value: Any, branch: Any) -> Iterator[Any]:
    if value is not None and not isinstance(value, list) and list in (branch, typing.get_origin(branch)):
        yield _converted_items([value], typing.get_args(branch))


def _literal_candidates(value: Any, allowed: tuple[Any, ...]) -> Iterator[Any]:
    yield from (
        choice
        for choice in allowed
        if not isinstance(choice, bool) and not isinstance(value, bool) and str(choice) == str(value)
    )


def _number_of(value: Any, wanted: type) -> Iterator[int | float]:
    if isinstance(value, float) and wanted is int and value.is_integer():
        yield int(value)
    if not isinstance(value, str):
        return
    text = value.strip()
    if _INTEGER.fullmatch(text):
        whole = int(text)
        if wanted is int or abs(whole) <= _EXACT_FLOAT_LIMIT:
            yield whole
        return
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        return
    if wanted is float:
        yield number
    elif number.is_integer() and abs(number) <= _EXACT_FLOAT_LIMIT:
        yield int(number)


def _converted_items(items: list[Any], arguments: tuple[Any, ...]) -> list[Any]:
    return [_item(item, arguments[0]) for item in items] if arguments else items


def _converted_entries(entries: dict[str, Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    return {key: _item(entry, arguments[1]) for key, entry in entries.items()} if arguments else entries


def _item(value: Any, annotation: Any) -> Any:
    """An item converted if it can be, else as it is: the validation of the whole decides."""
    if annotation in (Any, object):
        return value
    adapter = _adapter(annotation)
    if _is_valid(adapter, value):
        return value
    return next((candidate for candidate in _candidates(value, annotation) if _is_valid(adapter, candidate)), value)


def describe_schema(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words: "text or null", "a list of numbers", "one of 'a', 'b'"."""
    if "enum" in schema:
        return "one of " + ", ".join(repr(choice) for choice in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return " or ".join(dict.fromkeys(describe_schema(branch) for branch in branches))
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items")
        return f"a list of {describe_schema(items)}" if items else "a list"
    if kind == "object" or "$ref" in schema:
        return f"an object ({schema['title']})" if "title" in schema and "properties" in schema else "an object"
    return {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "null": "null",
    }.get(str(kind), "any value")
