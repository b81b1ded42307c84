"""The SQL of a plan, with its parameters filled in.

A statement is a list of fragments: text, one parameter, a tuple of parameters ``(?, ?, ?)`` as long as the list it is given, or
a list of such tuples. Too many values for one statement are split into several where the plan says that this is sound
(``chunkable``). Source: ``interpreter/render-query.ts`` of ``@prisma/client-engine-runtime`` 7.10.0.
"""

from collections.abc import Iterator
from typing import Any, cast

from autogpt_server.data.engine.errors import QueryError, UnsupportedPlanError
from autogpt_server.data.engine.values import Frame, Scope, prepare_value

Rendered = tuple[str, list[Any]]
"""SQL with ``?`` for each parameter, and the parameters."""

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
        self._chunkable = bool(source.get("chunkable"))
        has_lists = any(fragment["type"] in _LISTS for fragment in self._fragments)
        self._fixed_sql = None if has_lists else "?".join(self._texts)
        self.writes = not self._texts[0].lstrip()[:6].upper().startswith("SELECT")
        """Whether this changes the database; `SELECT` is the only statement of a plan that does not."""

    def render(self, frame: Frame, scope: Scope) -> list[Rendered]:
        """The statements to run, in order."""
        values = [value(frame, scope) for value in self._values]
        if self._fixed_sql is not None:
            return [(self._fixed_sql, values)]
        sizes = [_size(fragment, value) for fragment, value in zip(self._fragments, values, strict=True)]
        if sum(sizes) <= frame.max_parameters:
            return [self._fill(values)]
        if not self._chunkable:
            raise QueryError("P2029", f"The query has {sum(sizes)} parameters; SQLite takes {frame.max_parameters}.")
        return [self._fill(chunk) for chunk in _chunks(self._fragments, values, sizes, frame.max_parameters)]

    def _fill(self, values: list[Any]) -> Rendered:
        sql = [self._texts[0]]
        parameters: list[Any] = []
        for fragment, value, text in zip(self._fragments, values, self._texts[1:], strict=True):
            match fragment["type"]:
                case "parameter":
                    sql.append("?")
                    parameters.append(value)
                case "parameterTuple":
                    items = _items(value)
                    sql.append(_tuple_sql(fragment, len(items)))
                    parameters.extend(items)
                case _:  # parameterTupleList
                    groups = cast("list[list[Any]]", value)
                    sql.append(fragment["groupSeparator"].join(_group_sql(fragment, len(group)) for group in groups))
                    for group in groups:
                        parameters.extend(group)
            sql.append(text)
        return "".join(sql), parameters


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


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _size(fragment: dict[str, Any], value: Any) -> int:
    match fragment["type"]:
        case "parameter":
            return 1
        case "parameterTuple":
            return len(_items(value))
        case _:
            return sum(len(group) for group in value)


def _tuple_sql(fragment: dict[str, Any], length: int) -> str:
    """``(?,?)``; an empty list is ``(NULL)``, which nothing is in."""
    item = f"{fragment['itemPrefix']}?{fragment['itemSuffix']}"
    return f"({fragment['itemSeparator'].join([item] * length) or 'NULL'})"


def _group_sql(fragment: dict[str, Any], length: int) -> str:
    return f"{fragment['itemPrefix']}{fragment['itemSeparator'].join('?' * length)}{fragment['itemSuffix']}"


def _chunks(
    fragments: list[dict[str, Any]], values: list[Any], sizes: list[int], max_parameters: int
) -> Iterator[list[Any]]:
    """``values`` with the longest list cut into pieces that fit; the others are repeated with each piece."""
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    room = max_parameters - (sum(sizes) - sizes[longest])
    items = _items(values[longest])
    if fragments[longest]["type"] == "parameterTupleList":
        room //= max(len(group) for group in items)
    if room < 1:
        raise QueryError("P2029", f"The query has {sum(sizes)} parameters; SQLite takes {max_parameters}.")
    for start in range(0, len(items), room):
        yield [*values[:longest], items[start : start + room], *values[longest + 1 :]]
