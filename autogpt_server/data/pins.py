"""Pin names and what their dynamic parts mean (rule F6). Pure.

A pin name is a field name followed by any number of parts: `_$_3` an index of a list, `_#_key` a key of a dictionary, `_@_attr` an attribute of
an object (which, in JSON, is a key as well). On a sink, each such name is a slot of its own and the slots merge into one value; on a source, it
picks one part of the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

from autogpt_server.utils.errors import AutoGPTServerError


class PartKind(StrEnum):
    """What a part of a pin name selects."""

    INDEX = "$"
    KEY = "#"
    ATTRIBUTE = "@"


@dataclass(frozen=True, slots=True)
class Part:
    """One step into a value: `key` is an int for INDEX, else a str."""

    kind: PartKind
    key: int | str


@dataclass(frozen=True, slots=True)
class PinName:
    """A parsed pin name: the schema's field and the steps into its value."""

    base: str
    parts: tuple[Part, ...] = ()

    @property
    def is_dynamic(self) -> bool:
        return bool(self.parts)

    def __str__(self) -> str:
        return self.base + "".join(f"_{part.kind.value}_{part.key}" for part in self.parts)


class PinNameError(AutoGPTServerError):
    """A pin name cannot be read."""

    code = "bad_pin_name"


class PinMergeError(AutoGPTServerError):
    """A part does not fit the value it would become part of."""

    code = "pin_merge_failed"

    def __init__(self, message: str, pin: str) -> None:
        super().__init__(message, pin=pin)

    @property
    def pin(self) -> str:
        """The pin's field name."""
        return str(self.details["pin"])


class Missing(Enum):
    """Stands for a part that is not there; None is a value."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING

MAX_PARTS = 16
MAX_INDEX = 100_000
_DELIMITER = re.compile(r"_([$#@])_")

Slots: TypeAlias = Mapping[str, Any]
"""Slot (a full pin name) -> JSON value."""


@lru_cache(maxsize=65_536)
def parse_pin(name: str) -> PinName:
    """Read a pin name; `PinNameError` if a list index is no number or there are too many parts."""
    base, *rest = _DELIMITER.split(name)
    if not base:
        raise PinNameError(f"Pin name {name!r} has no field name before its first part.")
    parts: list[Part] = []
    for symbol, key in zip(rest[::2], rest[1::2], strict=True):
        kind = PartKind(symbol)
        if kind is PartKind.INDEX:
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) <= MAX_INDEX):
                raise PinNameError(
                    f"Pin name {name!r}: {key!r} is no list index; write a number from 0 to {MAX_INDEX} after `_$_`."
                )
            parts.append(Part(kind, int(key)))
        else:
            parts.append(Part(kind, key))
    if len(parts) > MAX_PARTS:
        raise PinNameError(f"Pin name {name!r} has {len(parts)} parts; at most {MAX_PARTS} are allowed.")
    return PinName(base, tuple(parts))


def parse_parts(text: str) -> tuple[Part, ...]:
    """Read the dynamic parts alone, as in `_#_title_$_0`."""
    return parse_pin(f"pin{text}").parts


def pick(value: Any, parts: Iterable[Part]) -> Any:
    """The part of `value` that `parts` lead to, or `MISSING` where there is no such part."""
    for part in parts:
        if part.kind is PartKind.INDEX:
            if not isinstance(value, list) or int(part.key) >= len(value):  # pyright: ignore[reportUnknownArgumentType]
                return MISSING
            value = value[int(part.key)]  # pyright: ignore[reportUnknownVariableType]
        else:
            if not isinstance(value, dict) or part.key not in value:
                return MISSING
            value = value[part.key]  # pyright: ignore[reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]


def merge_slots(defaults: Slots, tokens: Slots) -> dict[str, Any]:
    """The input of an execution: field -> value.

    For each field: the default or, if it came, the whole token; then the parts, given as defaults or as tokens (a token wins over a default of
    the same name). List parts enter in the order of their index: an index that the list has is replaced, all others are appended, so
    that gaps close. Nothing given is changed in place.
    """
    plain: dict[str, Any] = {}
    dynamic: dict[str, _Slot] = {}
    for slots in (defaults, tokens):
        for name, value in slots.items():
            pin = parse_pin(name)
            if pin.parts:
                dynamic.setdefault(pin.base, _Slot()).place(pin.parts, value)
            else:
                plain[name] = value
    for base, slot in dynamic.items():
        plain[base] = slot.merged(plain.get(base, MISSING), base)
    return plain


@dataclass(slots=True)
class _Slot:
    """What is known of one place in a value: a value of its own, and parts further in."""

    value: Any = MISSING
    kind: PartKind | None = None
    parts: dict[int | str, _Slot] = field(default_factory=dict[int | str, "_Slot"])
    mixed: bool = False

    def place(self, parts: tuple[Part, ...], value: Any) -> None:
        if not parts:
            self.value = value
            return
        first, *rest = parts
        is_index = first.kind is PartKind.INDEX
        if self.kind is not None and is_index != (self.kind is PartKind.INDEX):
            self.mixed = True
        self.kind = first.kind
        self.parts.setdefault(first.key, _Slot()).place(tuple(rest), value)

    def merged(self, base: Any, pin: str) -> Any:
        """This place's value on top of `base`; `PinMergeError` where a part does not fit."""
        value = base if self.value is MISSING else self.value
        if self.kind is None:
            return value
        if self.mixed:
            raise PinMergeError(f"Pin {pin!r} gets list parts and dictionary parts at one place; use one kind.", pin)
        if self.kind is PartKind.INDEX:
            return self._merged_list(value, pin)
        return self._merged_dict(value, pin)

    def _merged_list(self, value: Any, pin: str) -> list[Any]:
        if value is MISSING or value is None:
            value = []
        if not isinstance(value, list):
            raise PinMergeError(f"Pin {pin!r} gets list parts, but its value is {json_kind(value)}, not a list.", pin)
        items = [*cast("list[Any]", value)]
        for index in sorted(int(key) for key in self.parts):
            part = self.parts[index]
            if index < len(items):
                items[index] = part.merged(items[index], pin)
            else:
                items.append(part.merged(MISSING, pin))
        return items

    def _merged_dict(self, value: Any, pin: str) -> dict[str, Any]:
        if value is MISSING or value is None:
            value = {}
        if not isinstance(value, dict):
            raise PinMergeError(
                f"Pin {pin!r} gets parts by key, but its value is {json_kind(value)}, not an object.", pin
            )
        entries: dict[str, Any] = {**value}
        for key, part in self.parts.items():
            entries[str(key)] = part.merged(entries.get(str(key), MISSING), pin)
        return entries


def json_kind(value: Any) -> str:
    """What kind of JSON value this is, in words: "a list"."""
    for kind, words in _KINDS.items():
        if isinstance(value, kind):
            return words
    return "null" if value is None else "something that is no JSON"


_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "the text",
    bool: "the boolean",
    int: "the number",
    float: "the number",
}
