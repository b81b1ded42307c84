"""The engine's errors, and how they become those of Prisma Client Python.

Inside the engine a query that cannot be answered is a `QueryError` with a Prisma error code ("P2002"). At the border
`client_error` turns it, and what ``sqlite3`` raised, into the class that the generated client's users catch
(``prisma.errors.UniqueViolationError``). Codes and messages follow Prisma's error reference and
``user-facing-error`` of ``@prisma/client-engine-runtime`` 7.10.0; which class a code has follows ``engine/utils.py`` of
Prisma Client Python 0.15.0.
"""

import re
import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Protocol


class EngineError(Exception):
    """The in-process database engine failed."""


class EngineNotBuiltError(EngineError):
    """What `make generate` makes is missing."""


class EngineClosedError(EngineError):
    """The client was disconnected, or never connected."""


class UnsupportedPlanError(EngineError):
    """The query compiler asked for something this engine does not know how to do."""


class CompilerError(EngineError):
    """The query compiler broke (this is not an error in the query)."""


class ReadOnlyError(EngineError):
    """A write was asked of a client that was created with ``read_only=True``."""


class DatabaseBusyError(EngineError):
    """Another process held the write lock for longer than the busy timeout."""


class CommitUncertainError(EngineError):
    """COMMIT itself failed: the transaction may or may not be durable.

    Do not repeat the work blindly; read back what it was to change first.
    """


class QueryError(Exception):
    """A query that cannot be answered, in Prisma's terms: code ("P2002"), message, and what is known besides."""

    def __init__(self, code: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.meta: Mapping[str, Any] = meta or {}


class UnknownRelationError(LookupError):
    """``include`` names something that is no relation of the model."""

    def __init__(self, model: str, field: str) -> None:
        super().__init__(f"{model} has no relation {field!r}")
        self.model = model
        self.field = field


class ErrorClasses(Protocol):
    """The ``errors`` module of a generated client."""

    DataError: type[Exception]
    TransactionError: type[Exception]
    TransactionExpiredError: type[Exception]
    MissingRequiredValueError: type[Exception]
    UnknownRelationalFieldError: Callable[..., Exception]


class ClientErrors:
    """``with`` this, errors of the engine's queries are raised as those of a generated client."""

    def __init__(self, classes: ErrorClasses) -> None:
        self._classes = classes

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, QueryError):
            raise client_error(exc, self._classes) from exc.__cause__
        if isinstance(exc, UnknownRelationError):
            raise self._classes.UnknownRelationalFieldError(model=exc.model, field=exc.field) from None


_CLASS_OF_CODE: Mapping[str, str] = MappingProxyType(
    {
        "P2002": "UniqueViolationError",
        "P2003": "ForeignKeyViolationError",
        "P2009": "FieldNotFoundError",
        "P2010": "RawQueryError",
        "P2012": "MissingRequiredValueError",
        "P2019": "InputError",
        "P2021": "TableNotFoundError",
        "P2025": "RecordNotFoundError",
    }
)
_FIELD_NOT_FOUND_KINDS = frozenset(("UnknownArgument", "UnknownInputField", "UnknownSelectionField"))
_TRANSACTION_CLOSED = "Transaction already closed"


def client_error(error: QueryError, classes: ErrorClasses) -> Exception:
    """``error`` as the class of the generated client whose ``errors`` module is ``classes``."""
    if error.code == "P2028":
        if _TRANSACTION_CLOSED in error.message:
            return classes.TransactionExpiredError(error.message)
        return classes.TransactionError(error.message)
    data = {
        "error": error.message,
        "user_facing_error": {
            "is_panic": False,
            "message": error.message,
            "meta": dict(error.meta),
            "error_code": error.code,
        },
    }
    if "A value is required but not set" in error.message:
        return classes.MissingRequiredValueError(data)
    name = _CLASS_OF_CODE.get(error.code, "DataError")
    if error.meta.get("kind") in _FIELD_NOT_FOUND_KINDS:
        name = "FieldNotFoundError"
    elif name == "FieldNotFoundError" and not _misses_field(error.meta):
        name = "DataError"  # P2009 is any query that does not fit the schema; Prisma's message says what is wrong
    cls: type[Exception] = getattr(classes, name)
    return cls(data)


def _misses_field(meta: Mapping[str, Any]) -> bool:
    """Whether all that is wrong (``Union``: with each type that an argument may have) is the name of a field."""
    if meta.get("kind") != "Union":
        return False
    errors: list[Mapping[str, Any]] = meta.get("errors", [])
    return any(error.get("kind") in _FIELD_NOT_FOUND_KINDS for error in errors)


def sqlite_query_error(error: sqlite3.Error | sqlite3.Warning) -> QueryError:
    """What SQLite refused to do, as Prisma says it.

    SQLite has names of tables and columns only inside its message (``UNIQUE constraint failed: User.email``).
    """
    text = str(error)
    match getattr(error, "sqlite_errorname", ""):
        case "SQLITE_CONSTRAINT_UNIQUE" | "SQLITE_CONSTRAINT_PRIMARYKEY" | "SQLITE_CONSTRAINT_ROWID":
            table, columns = _failed_columns(text)
            if not columns:
                constraint = text.partition("index ")[2].strip("'")
                return QueryError("P2002", f"Unique constraint failed on the constraint: `{constraint}`")
            listed = ",".join(f"`{column}`" for column in columns)
            message = f"Unique constraint failed on the fields: ({listed})"
            return QueryError("P2002", message, {"target": columns, "table": table})
        case "SQLITE_CONSTRAINT_FOREIGNKEY" | "SQLITE_CONSTRAINT_TRIGGER":
            message = "Foreign key constraint failed on the field: `foreign key`"
            return QueryError("P2003", message, {"field_name": "foreign key"})
        case "SQLITE_CONSTRAINT_NOTNULL":
            _, columns = _failed_columns(text)
            listed = ",".join(f"`{column}`" for column in columns)
            return QueryError("P2011", f"Null constraint violation on the fields: ({listed})", {"constraint": columns})
        case "SQLITE_CONSTRAINT_CHECK":
            return QueryError("P2004", f"A constraint failed on the database: {text}", {"database_error": text})
        case name if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            message = (
                f"Operations timed out: another process kept the database busy for the whole busy timeout ({text})"
            )
            return QueryError("P1008", message, {"message": text})
        case name if name.startswith("SQLITE_READONLY"):
            return QueryError("P2010", f"The database cannot be written: {text}", {"code": name, "message": text})
        case name:
            return _unclassified(error, name, text)


def _unclassified(error: Exception, name: str, text: str) -> QueryError:
    if match := re.search(r"no such table: (?P<table>\S+)", text):
        table = match["table"]
        message = f"The table `{table}` does not exist in the current database."
        return QueryError("P2021", message, {"table": table})
    if match := re.search(r"(?:no such column: |has no column named )(?P<column>\S+)", text):
        column = match["column"]
        message = f"The column `{column}` does not exist in the current database."
        return QueryError("P2022", message, {"column": column})
    if isinstance(error, sqlite3.DataError) or "too many SQL variables" in text:
        return QueryError("P2029", f"The query is too large for the database: {text}", {"message": text})
    return QueryError("P2039", f"Database error. Code: `{name or 'N/A'}`. Message: `{text}`", {"message": text})


def _failed_columns(text: str) -> tuple[str | None, list[str]]:
    """(table, columns) of ``UNIQUE constraint failed: User.a, User.b``; none of ``... failed: index 'x'``."""
    listed = text.partition("constraint failed: ")[2]
    if not listed or listed.startswith("index "):
        return None, []
    pairs = [part.strip().partition(".") for part in listed.split(",")]
    return pairs[0][0], [column for _, _, column in pairs]
