"""SQL of plans with lists: tuples of any length, long lists as JSON, and INSERTs in pieces."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from autogpt_server.data.engine.errors import QueryError
from autogpt_server.data.engine.generators import Clock
from autogpt_server.data.engine.rendering import Statement
from autogpt_server.data.engine.values import Frame

TEXT = {"arity": "scalar", "scalarType": "string", "dbType": None}
TUPLE = {"type": "parameterTuple", "itemPrefix": "", "itemSeparator": ",", "itemSuffix": ""}
ROWS = {
    "type": "parameterTupleList",
    "itemPrefix": "(",
    "itemSeparator": ",",
    "itemSuffix": ")",
    "groupSeparator": ", ",
}


@pytest.fixture
def frame() -> Iterator[Frame]:
    """A run in which a statement takes ten parameters."""
    with closing(sqlite3.connect(":memory:")) as connection:
        yield Frame(connection, Clock(), max_parameters=10)


def param(name: str) -> dict[str, Any]:
    return {"prisma__type": "param", "prisma__value": {"name": name, "type": "String"}}


def statement(*parts: Any) -> Statement:
    """A statement of texts, ``("?", name)`` for one parameter, and (fragment, name) for a list."""
    fragments: list[dict[str, Any]] = []
    names: list[str] = []
    for part in parts:
        if isinstance(part, str):
            fragments.append({"type": "stringChunk", "chunk": part})
        else:
            fragments.append({"type": "parameter"} if part[0] == "?" else part[0])
            names.append(part[1])
    arguments = [param(name) for name in names]
    return Statement(
        {
            "type": "templateSql",
            "fragments": fragments,
            "args": arguments,
            "argTypes": [TEXT] * len(names),
            "chunkable": True,
        }
    )


def test_parameters_and_tuples(frame: Frame) -> None:
    select = statement("SELECT ", ("?", "a"), " WHERE x IN ", (TUPLE, "b"), " AND y = ", ("?", "c"))
    assert not select.writes
    assert select.render(frame, {"a": 1, "b": [2, 3], "c": 4}) == [
        ("SELECT ? WHERE x IN (?,?) AND y = ?", [1, 2, 3, 4])
    ]
    assert select.render(frame, {"a": 1, "b": [], "c": 4}) == [("SELECT ? WHERE x IN (NULL) AND y = ?", [1, 4])]
    assert select.render(frame, {"a": 1, "b": 2, "c": 4}) == [("SELECT ? WHERE x IN (?) AND y = ?", [1, 2, 4])]


def test_long_lists_are_one_parameter(frame: Frame) -> None:
    select = statement("SELECT 1 WHERE 1001 IN ", (TUPLE, "a"), " AND ", ("?", "b"))
    items = [*range(1001), None, "é \u2028 \"'"]
    (rendered,) = select.render(frame, {"a": items, "b": 1})
    assert rendered[0] == "SELECT 1 WHERE 1001 IN (SELECT value FROM json_each(?)) AND ?"
    query = "SELECT value FROM json_each(?)"
    assert [row[0] for row in frame.connection.execute(query, rendered[1][:1])] == items


@pytest.mark.parametrize("item", [0.1, b"bytes", "NUL \0"])
def test_what_json_would_change_is_refused(frame: Frame, item: Any) -> None:
    with pytest.raises(QueryError, match="1001 parameters; SQLite takes 10"):
        statement("SELECT ", (TUPLE, "a")).render(frame, {"a": [item] * 1001})


def test_rows_are_inserted_in_pieces(frame: Frame) -> None:
    insert = statement("INSERT INTO t VALUES ", (ROWS, "rows"), " RETURNING ", ("?", "a"))
    assert insert.writes
    rows = [[index, -index] for index in range(9)]
    pieces = insert.render(frame, {"rows": rows, "a": "x"})
    assert [sql.count("(?,?)") for sql, _ in pieces] == [4, 4, 1]
    assert all(len(parameters) <= 10 and parameters[-1] == "x" for _, parameters in pieces)
    assert [value for _, parameters in pieces for value in parameters[:-1]] == [value for row in rows for value in row]
    with pytest.raises(QueryError, match="12 parameters"):
        insert.render(frame, {"rows": [[0] * 11], "a": "x"})


def test_rows_of_anything_else_are_not_cut(frame: Frame) -> None:
    update = statement("UPDATE t SET x = 1 WHERE (a, b) IN (VALUES ", (ROWS, "rows"), ")")
    with pytest.raises(QueryError, match="P2029"):
        update.render(frame, {"rows": [[index, index] for index in range(9)]})
