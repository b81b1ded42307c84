"""Work on the rows that a plan has read: joining, paging in memory, and giving results their final form.

A row is a dict by column name. The meaning of each operation is that of ``interpreter/in-memory-processing.ts``,
``interpreter/data-mapper.ts`` and ``attachChildrenToParents`` of ``@prisma/client-engine-runtime`` 7.10.0.
"""

import datetime as dt
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

from autogpt_server.data.engine.errors import QueryError, UnsupportedPlanError
from autogpt_server.data.engine.parameters import INT32, datetime_text
from autogpt_server.data.engine.values import Frame, Scope, Value, prepare_value

Row = dict[str, Any]


def as_list(value: Any) -> list[Any]:
    """``value`` if it is a list, else a list of it; nothing for None."""
    if value is None:
        return []
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def row_key(fields: list[str]) -> Callable[[Row], Any]:
    """What identifies a row among others by ``fields``."""
    return itemgetter(*fields) if fields else lambda _row: ()


# --- join -------------------------------------------------------------------------------------------------------------


def attach_children(
    parents: list[Row], children: list[Row], *, on: list[list[str]], into: str, is_unique: bool, strict: bool
) -> None:
    """Put each child into the field ``into`` of its parents: the record itself (``is_unique``) or a list.

    ``on``: pairs (field of the parent, field of the child) that must be equal; unless ``strict``, the child's are first
    converted to the type of the parent's.
    """
    parent_key = row_key([parent for parent, _ in on])
    child_key = row_key([child for _, child in on])
    by_key: dict[Any, list[Row]] = {}
    for parent in parents:
        by_key.setdefault(parent_key(parent), []).append(parent)
        parent[into] = None if is_unique else []
    casts = None if strict else [_cast_of(parents, parent) for parent, _ in on]
    for child in children:
        if casts is None:
            key = child_key(child)
        else:
            parts = [
                convert(child[field]) if convert is not None and child[field] is not None else child[field]
                for convert, (_, field) in zip(casts, on, strict=True)
            ]
            key = parts[0] if len(parts) == 1 else tuple(parts)
        for parent in by_key.get(key, ()):
            if is_unique:
                parent[into] = child
            else:
                parent[into].append(child)


def _cast_of(rows: list[Row], field: str) -> Callable[[Any], Any] | None:
    """The type that ``field`` has in ``rows``."""
    sample = next((row[field] for row in rows if row[field] is not None), None)
    return type(sample) if isinstance(sample, int | float | str) else None


# --- in memory --------------------------------------------------------------------------------------------------------


class Processing:
    """A ``process`` node's operations: distinct, paging, order, and the same for included relations."""

    def __init__(self, source: dict[str, Any]) -> None:
        paging: dict[str, Any] = source["pagination"] or {}
        self._pages = source["pagination"] is not None
        self._cursor: dict[str, Value] | None = None
        if paging.get("cursor") is not None:
            self._cursor = {field: prepare_value(value) for field, value in paging["cursor"].items()}
        self._skip: int = int(paging.get("skip") or 0)
        self._take: int | None = None if paging.get("take") is None else int(paging["take"])
        linking: list[str] = source["linkingFields"] or []
        self._parent_key = row_key(linking) if linking else None
        distinct: list[str] | None = source["distinct"]
        self._distinct = None if distinct is None else row_key([*distinct, *linking])
        self._reverse = bool(source["reverse"])
        self._nested = {field: Processing(nested) for field, nested in source["nested"].items()}

    def apply(self, value: Any, frame: Frame, scope: Scope) -> Any:
        """``value`` (a row, a list of rows or None) after the operations."""
        if value is None:
            return None
        cursor = None
        if self._cursor is not None:
            cursor = {field: field_value(frame, scope) for field, field_value in self._cursor.items()}
        if isinstance(value, list):
            return self._apply_to_list(cast("list[Row]", value), cursor, frame, scope)
        row = cast(Row, value)
        if self._pages and (self._skip > 0 or self._take == 0 or not _matches(row, cursor)):
            return None
        return self._apply_nested(row, frame, scope)

    def _apply_to_list(self, rows: list[Row], cursor: Row | None, frame: Frame, scope: Scope) -> list[Row]:
        if self._distinct is not None:
            first: dict[Any, Row] = {}
            for row in rows:
                first.setdefault(self._distinct(row), row)
            rows = list(first.values())
        if self._pages:
            if self._parent_key is None:
                rows = self._page(rows, cursor)
            else:
                groups: dict[Any, list[Row]] = {}
                for row in rows:
                    groups.setdefault(self._parent_key(row), []).append(row)
                rows = [row for group in groups.values() for row in self._page(group, cursor)]
        if self._reverse:
            rows = rows[::-1]
        if self._nested:
            rows = [self._apply_nested(row, frame, scope) for row in rows]
        return rows

    def _apply_nested(self, row: Row, frame: Frame, scope: Scope) -> Row:
        for field, nested in self._nested.items():
            row[field] = nested.apply(row[field], frame, scope)
        return row

    def _page(self, rows: list[Row], cursor: Row | None) -> list[Row]:
        start = 0
        if cursor is not None:
            start = next((index for index, row in enumerate(rows) if _matches(row, cursor)), len(rows))
        start += self._skip
        return rows[start:] if self._take is None else rows[start : start + self._take]


def _matches(row: Row, fields: Row | None) -> bool:
    return fields is None or all(row[field] == value for field, value in fields.items())


# --- results ----------------------------------------------------------------------------------------------------------

Mapper = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class ResultTypes:
    """The enums of a plan, and whether an Int has to fit into 32 bits (sums of them need not)."""

    enums: Mapping[str, Mapping[str, str]]
    checks_int32: bool


def result_mapper(structure: dict[str, Any], types: ResultTypes) -> Mapper:
    """Turns rows into what the client gets, as ``structure`` of a ``dataMap`` node says."""
    match structure["type"]:
        case "affectedRows":
            return lambda count: {"count": count}
        case "field":
            return _field_mapper(structure["fieldType"], types, "result")
        case "object":
            return _object_mapper(structure, types)
        case other:
            raise UnsupportedPlanError(f"a plan's results have the unknown form {other!r}")


def _object_mapper(structure: dict[str, Any], types: ResultTypes) -> Mapper:
    skip_nulls = bool(structure["skipNulls"])
    plain: list[tuple[str, str, Mapper]] = []
    nested: list[tuple[str, str | None, Mapper]] = []
    for name, node in cast("dict[str, dict[str, Any]]", structure["fields"]).items():
        if node["type"] == "field":
            column: str = node["dbName"]
            kind: dict[str, Any] = node["fieldType"]
            plain.append((name, column, _field_mapper(kind, types, column)))
        else:
            nested.append((name, node["serializedName"], result_mapper(node, types)))

    def map_row(row: Row) -> Row:
        mapped: Row = {}
        for name, column, mapper in plain:
            value = row[column]
            mapped[name] = None if value is None else mapper(value)
        for name, source, map_nested in nested:
            mapped[name] = map_nested(row if source is None else row[source])
        return mapped

    def map_rows(value: Any) -> Any:
        if isinstance(value, list):
            rows = cast("list[Row | None]", value)
            return [None if row is None else map_row(row) for row in rows if row is not None or not skip_nulls]
        return None if value is None else map_row(value)

    return map_rows


def _field_mapper(kind: dict[str, Any], types: ResultTypes, column: str) -> Mapper:
    if kind["arity"] == "list":
        raise UnsupportedPlanError(f"column {column!r} is a list, which SQLite does not have")
    if kind["type"] == "enum":
        values = types.enums.get(kind["name"], {})
        return lambda value: _enum_value(values, kind["name"], value)
    mapper = _int32 if kind["type"] == "int" and types.checks_int32 else _FIELD_MAPPERS.get(kind["type"])
    if mapper is None:
        raise UnsupportedPlanError(f"column {column!r} has the unknown type {kind['type']!r}")

    def map_field(value: Any) -> Any:
        if value is None:
            return None
        try:
            return mapper(value)
        except (ValueError, TypeError, OverflowError) as error:
            message = f"Inconsistent column data: the value in column `{column}` does not fit its type: {error}"
            raise QueryError("P2023", message, {"column": column}) from error

    return map_field


def _enum_value(values: Mapping[str, str], name: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        return values[value]
    except KeyError:
        message = f"Inconsistent column data: a value is not in the enum `{name}`"
        raise QueryError("P2023", message) from None


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it is no text")
    return value


def _integer(value: Any) -> int:
    """SQLite makes a REAL of an integer that outgrows 64 bits; beyond 2**53 its last digits are lost."""
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    raise TypeError("it is no integer")


def _int32(value: Any) -> int:
    number = _integer(value)
    if number not in INT32:
        raise ValueError(f"{number} does not fit into 32 bits")
    return number


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError("it is no number")
    return float(value)


def _decimal(value: Any) -> str:
    return str(value) if isinstance(value, int) else repr(_number(value))


def _boolean(value: Any) -> bool:
    """SQLite has no booleans: 0, 1 and their spellings."""
    match value:
        case 0 | 1:
            return bool(value)
        case str() if value.lower() in {"1", "true"}:
            return True
        case str() if value.lower() in {"0", "false"}:
            return False
        case _:
            raise ValueError("it is no boolean")


def _datetime(value: Any) -> str:
    """ISO text. Integers are milliseconds since 1970: what Prisma's own engine stores. ``CURRENT_TIMESTAMP`` is UTC."""
    if isinstance(value, str):
        moment = dt.datetime.fromisoformat(value)
    else:
        moment = dt.datetime.fromtimestamp(value / 1000, dt.UTC)
    return datetime_text(moment)


def _json(value: Any) -> str:
    """Text; a column of type JSONB gives a bare number as a number, since its affinity is numeric."""
    return value if isinstance(value, str) else repr(value)


def _bytes(value: Any) -> str:
    if isinstance(value, str):
        value = value.encode()
    return b64encode(value).decode("ascii")


_FIELD_MAPPERS: Mapping[str, Mapper] = {
    "string": _string,
    "int": _integer,
    "bigint": _integer,
    "float": _number,
    "boolean": _boolean,
    "decimal": _decimal,
    "datetime": _datetime,
    "json": _json,
    "bytes": _bytes,
    "unsupported": lambda value: value,
}
