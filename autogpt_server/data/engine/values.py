"""The values in a plan: constants, placeholders and calls of generators, made ready to be evaluated.

A value in a plan is JSON, where ``{"prisma__type": "param", "prisma__value": {"name", "type"}}`` stands for a parameter of
the request or a binding of a ``let``, and ``{"prisma__type": "generatorCall", ...}`` for a generated value (``query-plan.d.ts``
of ``@prisma/client-engine-runtime`` 7.10.0).
"""

import datetime as dt
import sqlite3
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from autogpt_server.data.engine.errors import UnsupportedPlanError
from autogpt_server.data.engine.generators import GENERATORS, Clock
from autogpt_server.data.engine.parameters import datetime_text

Scope = Mapping[str, Any]
"""Parameters of the request and bindings of the plan, by name."""


@dataclass(slots=True)
class Frame:
    """What one run of a plan works with."""

    connection: sqlite3.Connection
    clock: Clock
    max_parameters: int
    last_row_id: int | None = None


Value = Callable[[Frame, Scope], Any]


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that every run of the plan shares."""

    value: Any

    def __call__(self, _frame: Frame, _scope: Scope) -> Any:
        return self.value


def prepare_value(source: Any, scalar_type: str | None = None) -> Value:
    """Evaluates ``source``, a value in a plan.

    Constants come as JSON says them ("2024-02-03T04:05:06Z"); ``scalar_type``, from the plan's ``argTypes``, says what they are to
    become. Parameters need no conversion: `Parameters` keeps them as SQLite stores them, and so do rows that were read.
    """
    if isinstance(source, list):
        items = [prepare_value(item, scalar_type) for item in cast("list[Any]", source)]
        if all(isinstance(item, Constant) for item in items):
            return Constant([cast(Constant, item).value for item in items])
        return lambda frame, scope: [item(frame, scope) for item in items]
    if isinstance(source, dict):
        tagged = cast("dict[str, Any]", source)
        match tagged.get("prisma__type"):
            case "param":
                return _parameter(tagged["prisma__value"]["name"])
            case "generatorCall":
                return _generator(tagged["prisma__value"])
            case other:
                raise UnsupportedPlanError(f"a plan holds a value of the unknown kind {other!r}")
    return Constant(_constant(source, scalar_type))


def _parameter(name: str) -> Value:
    def parameter(_frame: Frame, scope: Scope) -> Any:
        return scope[name]

    return parameter


def _generator(call: dict[str, Any]) -> Value:
    name: str = call["name"]
    generate = GENERATORS.get(name)
    if generate is None:
        raise UnsupportedPlanError(f"the schema uses the generator {name}(), which this engine does not have")
    arguments = [prepare_value(argument) for argument in call["args"]]

    def generator(frame: Frame, scope: Scope) -> Any:
        return generate(frame.clock, *[argument(frame, scope) for argument in arguments])

    return generator


def _constant(value: Any, scalar_type: str | None) -> Any:
    """A constant as SQLite stores it (``mapArg`` of Prisma's SQLite adapters)."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return value
    match scalar_type:
        case "int" | "bigint":
            return int(value)
        case "float" | "decimal":
            return float(value)
        case "datetime":
            return datetime_text(dt.datetime.fromisoformat(value))
        case "bytes":
            return b64decode(value)
        case _:
            return value
