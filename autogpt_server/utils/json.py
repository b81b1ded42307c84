"""JSON values as they are stored and sent: exactly RFC 8259, UTF-8, and the same value after a round trip."""

import json as stdlib_json
import math
import re
from collections.abc import Iterator
from typing import Any, cast

import pydantic_core
from pydantic import JsonValue, TypeAdapter, ValidationError

from autogpt_server.utils.errors import AutoGPTServerError

__all__ = ["MAX_DEPTH", "InvalidJSONValue", "JsonValue", "canonical", "check", "dumps", "dumps_bytes", "loads"]

MAX_DEPTH = 100
"""How many arrays and objects may contain one another. Deeper text is refused by parsers that others use, too."""

# The validator itself, and one encoder for all: every value of every run passes here.
_validate = TypeAdapter[JsonValue](JsonValue).validator.validate_python
_encoder = stdlib_json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

# Only such text can become an infinite float (1e999), which the parser lets through.
_MAY_OVERFLOW = re.compile(rb"[eE]\+?\d{3,}|\d{300,}")


_STRINGS = re.compile(rb'"(?:[^"\\]+|\\.)*+"', re.DOTALL)
_PAIRS = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_SHOWN_PATH = 120  # characters


class InvalidJSONValue(AutoGPTServerError, ValueError):
    """A value is not JSON."""

    code = "invalid_json_value"

    def __init__(self, problem: str, path: str = "$") -> None:
        shown = path if len(path) <= _SHOWN_PATH else f"{path[:_SHOWN_PATH]}…"
        super().__init__(f"{problem} (at {shown})" if path != "$" else problem, path=path)

    @property
    def path(self) -> str:
        """Where in the value the problem is, as in `$.items[3]`; `$` is the value itself."""
        return str(self.details["path"])


def dumps(value: Any) -> str:
    """`value` as compact JSON text, keys in the order they have.

    Only what comes back equal is accepted: dict with str keys, list, str, bool, int, float, None. Raises
    `InvalidJSONValue` for anything else (a tuple, a date, NaN, Infinity, half a surrogate pair, nesting beyond
    `MAX_DEPTH`), saying where it is.
    """
    return dumps_bytes(value).decode()


def dumps_bytes(value: Any) -> bytes:
    """As `dumps`, encoded as UTF-8: what is measured against size limits."""
    try:
        _validate(value, strict=True)
        data = _encoder.encode(value).encode()
    except (ValueError, TypeError, RecursionError, ValidationError) as error:
        raise _explain(value, error) from None
    if _is_too_deep(data):
        problem = next(_problems(value), None)
        if problem is not None:
            raise problem
    return data


def loads(text: str | bytes) -> JsonValue:
    """The value that `text` (UTF-8 where it is bytes) stands for. Raises `InvalidJSONValue`, as `dumps` does."""
    try:
        data = text.encode() if isinstance(text, str) else text
        value = cast("JsonValue", pydantic_core.from_json(data, allow_inf_nan=False))
    except UnicodeEncodeError:
        raise InvalidJSONValue("the text holds half a surrogate pair, which is no character") from None
    except ValueError as error:
        raise InvalidJSONValue(f"not valid JSON: {error}") from None
    if _is_too_deep(data) or _MAY_OVERFLOW.search(data):
        problem = next(_problems(value), None)
        if problem is not None:
            raise problem
    return value


def canonical(value: Any) -> str:
    """As `dumps`, with the keys of objects sorted: two values are the same if these texts are."""
    return stdlib_json.dumps(loads(dumps_bytes(value)), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def check(value: Any) -> None:
    """Raise `InvalidJSONValue` unless `dumps` would accept `value`."""
    dumps_bytes(value)


def _is_too_deep(data: bytes) -> bool:
    """Whether this JSON text nests deeper than `MAX_DEPTH`, told without a walk through the value."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRINGS.sub(b"", data).translate(None, _NO_BRACKETS)
    # Each round takes away the innermost pairs.
    for _ in range(MAX_DEPTH):
        brackets = _PAIRS.sub(b"", brackets)
        if not brackets:
            return False
    return True


def _explain(value: Any, error: Exception) -> InvalidJSONValue:
    """The first problem in `value`; `error` is what the fast check said, in case the careful one finds nothing."""
    return next(_problems(value), None) or InvalidJSONValue(f"not a JSON value: {error}")


def _problems(value: Any) -> Iterator[InvalidJSONValue]:
    """Walk through a value in document order, without recursion, and yield what is wrong with it."""
    stack: list[tuple[Any, str, int]] = [(value, "$", 0)]
    while stack:
        item, path, depth = stack.pop()
        if not isinstance(item, list | dict):
            problem = _scalar_problem(item)
            if problem:
                yield InvalidJSONValue(problem, path)
            continue
        if depth >= MAX_DEPTH:
            yield InvalidJSONValue(f"nested deeper than {MAX_DEPTH} levels", path)
            return
        if isinstance(item, list):
            children = [(child, f"{path}[{index}]", depth + 1) for index, child in enumerate(cast("list[Any]", item))]
        else:
            children: list[tuple[Any, str, int]] = []
            for key, child in cast("dict[Any, Any]", item).items():
                if isinstance(key, str) and not _scalar_problem(key):
                    children.append((child, f"{path}.{key}", depth + 1))
                else:
                    problem = _scalar_problem(key) if isinstance(key, str) else f"it is {_type_name(key)}, not text"
                    yield InvalidJSONValue(f"the key {key!a} will not do: {problem}", path)
        stack.extend(reversed(children))


def _scalar_problem(value: object) -> str | None:
    """What keeps a value that is neither list nor dict from being JSON, if anything."""
    kind = _type_name(value)
    match value:
        case None | bool():
            return None
        case str():
            return None if _is_encodable(value) else "the text holds half a surrogate pair, which is no character"
        case float():
            return None if math.isfinite(value) else f"{value} is no JSON number"
        case int():
            return None if value.bit_length() <= _MAX_INT_BITS else "the integer has more than 4,300 digits"
        case tuple() | set() | frozenset():
            return f"{kind} is not a JSON value; use a list"
        case bytes() | bytearray():
            return f"{kind} is not a JSON value; decode it, or encode it as base64 text"
        case _:
            return f"{kind} is not a JSON value"


# What Python converts between int and text at most (sys.int_info.default_max_str_digits), in bits.
_MAX_INT_BITS = int(4300 * math.log2(10))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type_name(value: object) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
