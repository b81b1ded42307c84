"""Query plans, made ready to run.

A plan is a tree of nodes ``{"type", "args"}``. `prepare_plan` turns each node into a function of the run (`Frame`) and the
bindings in scope, by the table `NODES`; so a node that this engine does not know is an error when the plan is made and
never in the middle of a transaction. What each node means is defined by ``query-plan.d.ts`` and
``interpreter/query-interpreter.ts`` of ``@prisma/client-engine-runtime`` 7.10.0; errors are those of its ``validation.ts``.

Running a plan is synchronous: it happens in the thread of its database connection, inside a transaction that the engine
began, so the plans' own ``transaction`` nodes only say that there has to be one.
"""

import operator
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from autogpt_server.data.engine.errors import QueryError, UnsupportedPlanError
from autogpt_server.data.engine.generators import Clock
from autogpt_server.data.engine.rendering import Statement
from autogpt_server.data.engine.rows import (
    Processing,
    ResultTypes,
    Row,
    as_list,
    attach_children,
    result_mapper,
    row_key,
)
from autogpt_server.data.engine.values import Frame, Scope, Value, prepare_value

Node = Callable[[Frame, Scope], Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """A prepared plan.

    ``writes``: it changes the database. ``statements``: how many statements it holds (each may run more than once or
    not at all).
    """

    root: Node
    writes: bool
    statements: int

    def run(self, connection: sqlite3.Connection, parameters: Mapping[str, Any], clock: Clock) -> Any:
        """The plan's result, in the form that the client expects.

        Raises:
            QueryError: the data does not allow it (a required record is missing, say).
            sqlite3.Error: the database did not do it.
        """
        frame = Frame(connection, clock, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER))
        return self.root(frame, parameters)


@dataclass(slots=True)
class _Preparation:
    """What is learned of a plan while its nodes are prepared."""

    statements: list[Statement] = field(default_factory=list[Statement])
    writes: bool = False

    def node(self, source: dict[str, Any]) -> Node:
        prepare = NODES.get(source["type"])
        if prepare is None:
            raise UnsupportedPlanError(f"a plan holds a node of the unknown type {source['type']!r}")
        return prepare(self, source.get("args"))

    def nodes(self, sources: list[dict[str, Any]]) -> list[Node]:
        return [self.node(source) for source in sources]

    def statement(self, source: dict[str, Any]) -> Statement:
        statement = Statement(source)
        self.statements.append(statement)
        return statement


def prepare_plan(source: dict[str, Any]) -> Plan:
    """A plan as the compiler made it, ready to run.

    Raises:
        UnsupportedPlanError: it holds something that this engine does not know.
    """
    preparation = _Preparation()
    root = preparation.node(source)
    return Plan(root, preparation.writes, len(preparation.statements))


# --- the database -----------------------------------------------------------------------------------------------------


def _query(preparation: _Preparation, args: Any) -> Node:
    """Rows as dicts by column name."""
    statement = preparation.statement(args)
    preparation.writes |= statement.writes

    def query(frame: Frame, scope: Scope) -> list[Row]:
        rows: list[Row] = []
        for sql, parameters in statement.render(frame, scope):
            cursor = frame.connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description or ()]
            rows += [dict(zip(names, row, strict=True)) for row in cursor]
            frame.last_row_id = cursor.lastrowid
        return rows

    return query


def _execute(preparation: _Preparation, args: Any) -> Node:
    """How many rows were changed."""
    statement = preparation.statement(args)
    preparation.writes = True

    def execute(frame: Frame, scope: Scope) -> int:
        changed = 0
        for sql, parameters in statement.render(frame, scope):
            cursor = frame.connection.execute(sql, parameters)
            changed += max(cursor.rowcount, 0)
            frame.last_row_id = cursor.lastrowid
        return changed

    return execute


def _transaction(preparation: _Preparation, args: Any) -> Node:
    return preparation.node(args)


# --- values and control -----------------------------------------------------------------------------------------------


def _value(_: _Preparation, args: Any) -> Node:
    return prepare_value(args)


def _get(_: _Preparation, args: Any) -> Node:
    name: str = args["name"]
    return lambda _frame, scope: scope.get(name)


def _unit(_: _Preparation, _args: Any) -> Node:
    return lambda _frame, _scope: None


def _seq(preparation: _Preparation, args: Any) -> Node:
    nodes = preparation.nodes(args)

    def seq(frame: Frame, scope: Scope) -> Any:
        result = None
        for node in nodes:
            result = node(frame, scope)
        return result

    return seq


def _let(preparation: _Preparation, args: Any) -> Node:
    bindings = [(binding["name"], preparation.node(binding["expr"])) for binding in args["bindings"]]
    body = preparation.node(args["expr"])

    def let(frame: Frame, scope: Scope) -> Any:
        inner = dict(scope)
        for name, node in bindings:
            inner[name] = node(frame, inner)
        return body(frame, inner)

    return let


def _get_first_non_empty(_: _Preparation, args: Any) -> Node:
    names: list[str] = args["names"]

    def get_first_non_empty(_frame: Frame, scope: Scope) -> Any:
        empty: list[Any] = []
        return next((scope[name] for name in names if not _is_empty(scope.get(name))), empty)

    return get_first_non_empty


def _if(preparation: _Preparation, args: Any) -> Node:
    value, rule = preparation.node(args["value"]), _rule(args["rule"])
    then, otherwise = preparation.node(args["then"]), preparation.node(args["else"])
    return lambda frame, scope: (then if rule(value(frame, scope)) else otherwise)(frame, scope)


def _concat(preparation: _Preparation, args: Any) -> Node:
    nodes = preparation.nodes(args)

    def concat(frame: Frame, scope: Scope) -> list[Any]:
        joined: list[Any] = []
        for node in nodes:
            value = node(frame, scope)
            joined += cast("list[Any]", value) if isinstance(value, list) else [value]
        return joined

    return concat


def _sum(preparation: _Preparation, args: Any) -> Node:
    nodes = preparation.nodes(args)
    return lambda frame, scope: sum(node(frame, scope) for node in nodes)


# --- records ----------------------------------------------------------------------------------------------------------


def _reverse(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args)

    def reverse(frame: Frame, scope: Scope) -> Any:
        value = node(frame, scope)
        return cast("list[Any]", value)[::-1] if isinstance(value, list) else value

    return reverse


def _unique(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args)

    def unique(frame: Frame, scope: Scope) -> Any:
        value = node(frame, scope)
        if not isinstance(value, list):
            return value
        rows = cast("list[Any]", value)
        if len(rows) > 1:
            raise UnsupportedPlanError(f"at most one record was expected, {len(rows)} came")
        return rows[0] if rows else None

    return unique


def _required(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args)

    def required(frame: Frame, scope: Scope) -> Any:
        value = node(frame, scope)
        if _is_empty(value):
            raise QueryError("P2025", f"{_NOT_FOUND} A required value is empty.")
        return value

    return required


def _map_field(preparation: _Preparation, args: Any) -> Node:
    name: str = args["field"]
    node = preparation.node(args["records"])

    def map_field(frame: Frame, scope: Scope) -> Any:
        value = node(frame, scope)
        if isinstance(value, list):
            return [row[name] if isinstance(row, dict) else row for row in cast("list[Any]", value)]
        return cast(Row, value)[name] if isinstance(value, dict) else value

    return map_field


def _join(preparation: _Preparation, args: Any) -> Node:
    parent = preparation.node(args["parent"])
    strict = bool(args["canAssumeStrictEquality"])
    children = [(child, preparation.node(child["child"])) for child in args["children"]]

    def join(frame: Frame, scope: Scope) -> Any:
        parents = parent(frame, scope)
        if parents is None:
            return None
        for child, node in children:
            attach_children(
                as_list(parents),
                [row for row in as_list(node(frame, scope)) if row is not None],
                on=child["on"],
                into=child["parentField"],
                is_unique=child["isRelationUnique"],
                strict=strict,
            )
        return parents

    return join


def _data_map(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args["expr"])
    # What a write leaves behind is checked more strictly: it can still be undone.
    mapper = result_mapper(args["structure"], ResultTypes(args["enums"], checks_int32=preparation.writes))
    return lambda frame, scope: mapper(node(frame, scope))


def _process(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args["expr"])
    processing = Processing(args["operations"])
    return lambda frame, scope: processing.apply(node(frame, scope), frame, scope)


def _diff(preparation: _Preparation, args: Any) -> Node:
    """The records of ``from`` that are not in ``to``, told apart by ``fields``."""
    source, other = preparation.node(args["from"]), preparation.node(args["to"])
    key = row_key(args["fields"])

    def diff(frame: Frame, scope: Scope) -> list[Any]:
        rows = as_list(source(frame, scope))
        known = {key(row) for row in as_list(other(frame, scope))}
        return [row for row in rows if key(row) not in known]

    return diff


def _initialize_record(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args["expr"])
    fields = [(name, _initializer(source)) for name, source in args["fields"].items()]

    def initialize_record(frame: Frame, scope: Scope) -> Row:
        node(frame, scope)
        return {name: value(frame, scope) for name, value in fields}

    return initialize_record


def _initializer(source: dict[str, Any]) -> Value:
    match source["type"]:
        case "value":
            return prepare_value(source["value"])
        case "lastInsertId":
            return lambda frame, _scope: frame.last_row_id
        case other:
            raise UnsupportedPlanError(f"a plan fills a field in the unknown way {other!r}")


def _map_record(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args["expr"])
    fields = [(name, *_operation(source)) for name, source in args["fields"].items()]

    def map_record(frame: Frame, scope: Scope) -> Row:
        record: Row = node(frame, scope) or {}
        for name, change, value in fields:
            record[name] = change(record.get(name), value(frame, scope))
        return record

    return map_record


def _operation(source: dict[str, Any]) -> tuple[Callable[[Any, Any], Any], Value]:
    change = _OPERATIONS.get(source["type"])
    if change is None:
        raise UnsupportedPlanError(f"a plan changes a field in the unknown way {source['type']!r}")
    return change, prepare_value(source["value"])


def _divide(left: Any, right: Any) -> Any:
    """As SQLite divides: integers to an integer, nothing by zero."""
    if right == 0:
        return None
    return int(left / right) if isinstance(left, int) and isinstance(right, int) else left / right


_OPERATIONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {
        "set": lambda _old, new: new,
        "add": operator.add,
        "subtract": operator.sub,
        "multiply": operator.mul,
        "divide": _divide,
    }
)


# --- checks -----------------------------------------------------------------------------------------------------------

_NOT_FOUND: Final = "An operation failed because it depends on one or more records that were required but not found."


def _validate(preparation: _Preparation, args: Any) -> Node:
    node = preparation.node(args["expr"])
    rules = [_rule(rule) for rule in args["rules"]]
    identifier: str = args["errorIdentifier"]
    context: dict[str, Any] = args["context"]
    if identifier not in _VIOLATIONS:
        raise UnsupportedPlanError(f"a plan checks for the unknown violation {identifier!r}")
    code, text = _VIOLATIONS[identifier]

    def validate(frame: Frame, scope: Scope) -> Any:
        value = node(frame, scope)
        if not all(rule(value) for rule in rules):
            found = len(cast("list[Any]", value)) if isinstance(value, list) else value
            details = {key: item for key, item in context.items() if item is not None}
            raise QueryError(code, text.format_map(_Details(details, found=found)), details)
        return value

    return validate


class _Details(dict[str, Any]):
    """Context of a violation; what it lacks is not mentioned."""

    def __init__(self, context: Mapping[str, Any], **more: Any) -> None:
        super().__init__(context, **more)

    def __missing__(self, key: str) -> str:
        return f"({key})"


_VIOLATIONS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "RELATION_VIOLATION": (
            "P2014",
            "The change would violate the required relation '{relation}' between the `{modelA}` and `{modelB}` models.",
        ),
        "MISSING_RECORD": ("P2025", _NOT_FOUND + " No record was found for {operation}."),
        "MISSING_RELATED_RECORD": (
            "P2025",
            _NOT_FOUND + " No '{model}' record was found for {operation} on {relationType} relation '{relation}'.",
        ),
        "INCOMPLETE_CONNECT_INPUT": (
            "P2025",
            _NOT_FOUND + " Expected {expectedRows} records to be connected, found only {found}.",
        ),
        "INCOMPLETE_CONNECT_OUTPUT": (
            "P2018",
            "The required connected records were not found: {found} of {expectedRows} on the relation '{relation}'.",
        ),
        "RECORDS_NOT_CONNECTED": (
            "P2017",
            "The records for relation `{relation}` between the `{parent}` and `{child}` models are not connected.",
        ),
    }
)
"""Code and message (Prisma's error reference) of each error that a plan's ``validate`` nodes name."""


def _rule(source: dict[str, Any]) -> Callable[[Any], bool]:
    expected = source.get("args")
    match source["type"]:
        case "rowCountEq":
            return lambda value: _row_count(value) == expected
        case "rowCountNeq":
            return lambda value: _row_count(value) != expected
        case "affectedRowCountEq":
            return lambda value: value == expected
        case "never":
            return lambda _value: False
        case other:
            raise UnsupportedPlanError(f"a plan holds a rule of the unknown type {other!r}")


def _row_count(value: Any) -> int:
    return len(cast("list[Any]", value)) if isinstance(value, list) else int(value is not None)


def _is_empty(value: Any) -> bool:
    return value is None or value == []


NODES: Final[Mapping[str, Callable[[_Preparation, Any], Node]]] = MappingProxyType(
    {
        "concat": _concat,
        "dataMap": _data_map,
        "diff": _diff,
        "execute": _execute,
        "get": _get,
        "getFirstNonEmpty": _get_first_non_empty,
        "if": _if,
        "initializeRecord": _initialize_record,
        "join": _join,
        "let": _let,
        "mapField": _map_field,
        "mapRecord": _map_record,
        "process": _process,
        "query": _query,
        "required": _required,
        "reverse": _reverse,
        "seq": _seq,
        "sum": _sum,
        "transaction": _transaction,
        "unique": _unique,
        "unit": _unit,
        "validate": _validate,
        "value": _value,
    }
)
"""How each type of node is prepared."""
