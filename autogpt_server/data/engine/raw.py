"""Raw SQL: what it may be, on which connection it runs, and how its parameters and rows look.

Raw queries need no plan: the compiler would hand their text back. Rows hold what SQLite stores, except that BLOBs come as
base64 text, as Prisma's raw results have them: a Boolean column gives 0 or 1, a DateTime column its text. Pass ``model=`` to have
pydantic make typed records of them.
"""

import datetime as dt
import re
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from typing import Any

from autogpt_server.data.engine.errors import QueryError
from autogpt_server.data.engine.parameters import SqliteValue, datetime_text, dumps_json, is_base64, is_json
from autogpt_server.data.engine.sqlite import is_busy

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*(?P<word>\w+)", re.DOTALL)
_WRITING_WORD = re.compile(r"\b(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_TRANSACTION_WORDS = frozenset(("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"))
_READING_WORDS = frozenset(("SELECT", "VALUES", "EXPLAIN"))
# What may hold a question mark that is no parameter.
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_PARAMETER = re.compile(r"\?(?P<number>\d*)")
_LONELY_WORDS = frozenset(("PRAGMA", "VACUUM", "ATTACH", "DETACH"))


class RawStatement:
    """One text of raw SQL.

    ``alone``: SQLite refuses it, or ignores it, inside a transaction. ``reads``: it certainly only reads. SQLite would say so of any statement, but Python does not pass that on; so what does not
    begin with a word that only reads counts as writing, and so does a WITH that holds a word that writes. ``numbered``: the
    highest number where its parameters are written ``?1``, ``?2``, else 0.
    """

    __slots__ = ("alone", "numbered", "reads", "sql")

    def __init__(self, sql: str) -> None:
        match = _FIRST_WORD.match(sql)
        word = match["word"].upper() if match else ""
        if word in _TRANSACTION_WORDS:
            raise _failed("N/A", f"{word} is not for raw queries: use tx(), which takes its turn with other writers")
        self.sql = sql
        marks = [match["number"] for match in _PARAMETER.finditer(_QUOTED.sub("", sql))]
        # To Python `?1` is a parameter named "1": from 3.12 on it warns when it is given by position.
        self.numbered = max(map(int, marks)) if marks and all(marks) else 0
        self.alone = word in _LONELY_WORDS
        self.reads = word in _READING_WORDS or (word == "WITH" and _WRITING_WORD.search(sql) is None)

    def query(self, connection: sqlite3.Connection, parameters: list[SqliteValue]) -> dict[str, Any]:
        """``{"columns", "types", "rows"}``, as Prisma gives raw results."""
        cursor = self._execute(connection, parameters)
        columns = [column[0] for column in cursor.description or ()]
        rows = [[_cell(value) for value in row] for row in self._rows(cursor)]
        return {"columns": columns, "types": ["unknown"] * len(columns), "rows": rows}

    def execute(self, connection: sqlite3.Connection, parameters: list[SqliteValue]) -> int:
        """How many rows were changed; rows that the statement returns are left aside."""
        cursor = self._execute(connection, parameters)
        if cursor.description is not None:
            for _ in self._rows(cursor):  # RETURNING: the statement is done only when its rows are read
                pass
        return max(cursor.rowcount, 0)

    def _execute(self, connection: sqlite3.Connection, parameters: list[SqliteValue]) -> sqlite3.Cursor:
        try:
            if self.numbered:
                if len(parameters) > self.numbered:
                    raise sqlite3.ProgrammingError(
                        f"the statement has {self.numbered} parameters, {len(parameters)} were given"
                    )
                return connection.execute(self.sql, {str(i): value for i, value in enumerate(parameters, 1)})
            return connection.execute(self.sql, parameters)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise _sqlite_failed(error) from error

    def _rows(self, cursor: sqlite3.Cursor) -> Iterable[tuple[Any, ...]]:
        try:
            yield from cursor
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise _sqlite_failed(error) from error


def _sqlite_failed(error: sqlite3.Error | sqlite3.Warning) -> Exception:
    """P2010 for all that SQLite says, with its extended result code; a lock is left to who waits for it."""
    return error if is_busy(error) else _failed(str(getattr(error, "sqlite_errorcode", "N/A")), str(error))


def _failed(code: str, message: str) -> QueryError:
    text = f"Raw query failed. Code: `{code}`. Message: `{message}`"
    return QueryError("P2010", text, {"code": code, "message": message})


def raw_parameters(values: Iterable[object]) -> list[SqliteValue]:
    """Parameters of a raw query, as SQLite takes them.

    Raises:
        TypeError: a value has no form in SQLite.
    """
    return [_parameter(value) for value in values]


def _parameter(value: object) -> SqliteValue:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, float | bytes):
        return value
    if isinstance(value, int):  # bool too
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dt.datetime):
        return datetime_text(value)
    if isinstance(value, Decimal):
        return str(value)
    if is_json(value):
        return dumps_json(value.data)
    if is_base64(value):
        return b64decode(str(value))
    raise TypeError(f"Type {type(value)} not serializable: it cannot be a parameter of a raw query")


def _cell(value: Any) -> Any:
    return b64encode(value).decode("ascii") if isinstance(value, bytes) else value
