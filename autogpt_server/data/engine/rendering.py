"""The SQL of a plan, with its parameters filled in.

A statement is a list of fragments: text, one parameter, a tuple of parameters ``(?, ?, ?)`` as long as the list it is given, or
a list of such tuples (the rows of an INSERT). Source: ``interpreter/render-query.ts`` of ``@prisma/client-engine-runtime`` 7.10.0.

Unlike that, long lists are not cut into several statements wherever the plan says ``chunkable``: it says so of
``NOT (id IN ...)`` and of ``id IN ... OR age = 1`` too, where several statements would find too many rows, or change some of them
twice. A long list is one parameter here, the JSON array of its items; only the rows of an INSERT are cut.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, cast

from autogpt_server.data.engine.errors import QueryError, UnsupportedPlanError
from autogpt_server.data.engine.values import Frame, Scope, prepare_value

Rendered = tuple[str, list[Any]]
"""SQL with ``?`` for each parameter, and the parameters."""

_LONG_LIST: Final = 1000
"""Items from which on a list is passed as JSON: SQLite need not parse, or remember, a statement of each length."""

_LISTS = ("parameterTuple", "parameterTupleList")


class Statement:
    """One ``query`` or ``execute`` of a plan."""

    def __init__(self, source: dict[str, Any]) -> None:
        types: list[dict[str, Any]] = source["argTypes"]
        scalar_types = [kind.get("scalarType") for kind in types]
        self._values = [
            prepare_value(argument, scalar_type)
            for argument, scalar_type in zip(source["args"], scalar_types, strict=True)
        ]
        match source["type"]:
            case "rawSql":
                fragments: list[dict[str, Any]] = [{"type": "stringChunk", "chunk": source["sql"]}]
            case "templateSql":
                fragments = source["fragments"]
            case other:
                raise UnsupportedPlanError(f"a plan holds SQL of the unknown kind {other!r}")
        self._fragments = [fragment for fragment in fragments if fragment["type"] != "stringChunk"]
        self._texts = _texts(fragments)
        has_lists = any(fragment["type"] in _LISTS for fragment in self._fragments)
        self._fixed_sql = None if has_lists else "?".join(self._texts)
        verb = self._texts[0].lstrip()[:6].upper()
        self.writes = verb != "SELECT"
        """Whether this changes the database; `SELECT` is the only statement of a plan that does not."""
        self._inserts = verb == "INSERT"

    def render(self, frame: Frame, scope: Scope) -> list[Rendered]:
        """The statements to run, in order: one, unless it inserts more rows than fit into one.

        Raises:
            QueryError: P2029, there are too many parameters.
        """
        values = [value(frame, scope) for value in self._values]
        if self._fixed_sql is not None:
            return [(self._fixed_sql, values)]
        values = [_compact(fragment, value) for fragment, value in zip(self._fragments, values, strict=True)]
        sizes = [_size(value) for value in values]
        if sum(sizes) <= frame.max_parameters:
            return [self._fill(values)]
        if not self._inserts:
            raise _too_many(sum(sizes), frame.max_parameters)
        return [self._fill(part) for part in _parts(self._fragments, values, sizes, frame.max_parameters)]

    def _fill(self, values: list[Any]) -> Rendered:
        sql = [self._texts[0]]
        parameters: list[Any] = []
        for fragment, value, text in zip(self._fragments, values, self._texts[1:], strict=True):
            match fragment["type"]:
                case "parameter":
                    sql.append("?")
                    parameters.append(value)
                case "parameterTuple" if isinstance(value, _JsonList):
                    sql.append("(SELECT value FROM json_each(?))")
                    parameters.append(value.text)
                case "parameterTuple":
                    sql.append(_tuple_sql(fragment, len(value)))
                    parameters.extend(value)
                case _:  # parameterTupleList
                    rows = cast("list[list[Any]]", value)
                    sql.append(fragment["groupSeparator"].join(_row_sql(fragment, len(row)) for row in rows))
                    for row in rows:
                        parameters.extend(row)
            sql.append(text)
        return "".join(sql), parameters


class _JsonList:
    """A long list as the text of one parameter."""

    __slots__ = ("text",)

    def __init__(self, items: list[Any]) -> None:
        self.text = json.dumps(items, ensure_ascii=False, separators=(",", ":"))


def _compact(fragment: dict[str, Any], value: Any) -> Any:
    """``value`` in the form that `_fill` takes; a long list as JSON, if SQLite reads the same items from it."""
    if fragment["type"] != "parameterTuple":
        return value
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if len(items) <= _LONG_LIST or fragment["itemPrefix"] or fragment["itemSuffix"]:
        return items
    return _JsonList(items) if all(_survives_json(item) for item in items) else items


def _survives_json(item: Any) -> bool:
    """Text and integers do (SQLite ends a text from JSON at NUL); of floating point numbers the last digit may not."""
    return "\0" not in item if isinstance(item, str) else item is None or isinstance(item, int)


def _texts(fragments: list[dict[str, Any]]) -> list[str]:
    """The text before, between and after the parameters: always one more than there are parameters."""
    texts = [""]
    for fragment in fragments:
        match fragment["type"]:
            case "stringChunk":
                texts[-1] += fragment["chunk"]
            case "parameter" | "parameterTuple" | "parameterTupleList":
                texts.append("")
            case other:
                raise UnsupportedPlanError(f"a plan holds a fragment of SQL of the unknown kind {other!r}")
    return texts


def _size(value: Any) -> int:
    """How many parameters a value takes: itself, the items of a list, or the items of its rows."""
    if not isinstance(value, list):
        return 1
    items = cast("list[Any]", value)
    return sum(map(_size, items))


def _tuple_sql(fragment: dict[str, Any], length: int) -> str:
    """``(?,?)``; an empty list is ``(NULL)``, which nothing is in."""
    item = f"{fragment['itemPrefix']}?{fragment['itemSuffix']}"
    return f"({fragment['itemSeparator'].join([item] * length) or 'NULL'})"


def _row_sql(fragment: dict[str, Any], length: int) -> str:
    return f"{fragment['itemPrefix']}{fragment['itemSeparator'].join('?' * length)}{fragment['itemSuffix']}"


def _parts(
    fragments: list[dict[str, Any]], values: list[Any], sizes: list[int], max_parameters: int
) -> Iterator[list[Any]]:
    """``values`` of an INSERT with its rows cut into pieces that fit; the others are repeated with each piece."""
    index = next((i for i, fragment in enumerate(fragments) if fragment["type"] == "parameterTupleList"), None)
    if index is None:
        raise _too_many(sum(sizes), max_parameters)
    rows = cast("list[list[Any]]", values[index])
    room = (max_parameters - (sum(sizes) - sizes[index])) // max(map(len, rows))
    if room < 1:
        raise _too_many(sum(sizes), max_parameters)
    for start in range(0, len(rows), room):
        yield [*values[:index], rows[start : start + room], *values[index + 1 :]]


def _too_many(number: int, maximum: int) -> QueryError:
    return QueryError("P2029", f"The query has {number} parameters; SQLite takes {maximum} at most.")
