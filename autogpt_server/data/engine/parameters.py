"""Values of a query, taken out of its text so that queries of one shape share one plan.

A value becomes a placeholder ``{"$type": "Param", "value": {"name", "type"}}`` of the JSON protocol, and is kept beside
the text in the form in which SQLite stores it:

==========  =========================  =======================================================================
Prisma      Python                     SQLite
==========  =========================  =======================================================================
String      str                        TEXT
Int         int, 32 bits               INTEGER
BigInt      int, 64 bits               INTEGER
Float       float, int                 REAL
Decimal     Decimal                    REAL: only values that a double holds exactly as written
Boolean     bool                       0 or 1
DateTime    datetime, ISO text         TEXT ``2024-02-03T04:05:06.789+00:00``: UTC, milliseconds, sorts by time
Json        Json                       TEXT
Bytes       Base64                     BLOB
enum        its values                 TEXT, the mapped name where the schema has one
==========  =========================  =======================================================================

The storage forms are those of Prisma's SQLite adapters (``mapArg`` in ``@prisma/adapter-better-sqlite3``), the names of
the placeholder types those of ``parameterization/parameterize.ts`` of ``@prisma/client-engine-runtime`` 7.10.0. A value
that does not fit its field stays in the text: the query compiler then refuses it with Prisma's own message. Where the
compiler would take it although SQLite cannot hold it, it is refused here.
"""

import datetime as dt
import json
import math
from base64 import b64decode
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from autogpt_server.data.engine.errors import QueryError
from autogpt_server.data.engine.schema import DataModel, Field

SqliteValue = str | int | float | bytes | None

INT32: Final = range(-(2**31), 2**31)
INT64: Final = range(-(2**63), 2**63)

_UNFIT: Final = object()
"""What an encoder answers for a Python value that is not of the field's type."""


class Parameters:
    """Collects the values of one request, and gives each its placeholder."""

    def __init__(self, datamodel: DataModel, *, share_equal: bool = False) -> None:
        """``share_equal``: equal values of one type get one placeholder.

        The compiler turns an upsert into a single ``INSERT ... ON CONFLICT`` when the unique value it looks for and the
        one it would create are the same placeholder. For anything else sharing would only multiply shapes.
        """
        self.values: dict[str, SqliteValue | list[SqliteValue]] = {}
        self._enums = datamodel.enums
        self._shared: dict[tuple[str, SqliteValue], str] | None = {} if share_equal else None

    def scalar(self, field: Field, value: object) -> object:
        """``value`` of ``field`` as it appears in the request's text: a placeholder, or itself if it does not fit."""
        if value is None:
            return None
        encoded = self._encode(field, value)
        if encoded is _UNFIT:
            return literal(value)
        return self._placeholder(encoded, self._type_name(field))

    def scalars(self, field: Field, values: object) -> object:
        """The list of an ``in`` or ``not_in`` as one placeholder, so that its length is no part of the shape."""
        if not isinstance(values, list | tuple | set | frozenset) or not values:
            return literal(values)
        encoded = [_UNFIT if value is None else self._encode(field, value) for value in values]
        if any(value is _UNFIT for value in encoded):
            return literal(values)
        name = f"p{len(self.values)}"
        self.values[name] = encoded
        return {
            "$type": "Param",
            "value": {"name": name, "type": "List", "inner": {"type": self._type_name(field)}},
        }

    def _encode(self, field: Field, value: object) -> Any:
        encoder = _ENCODERS.get(field.type)
        if encoder is not None:
            return encoder(field, value)
        enum = self._enums.get(field.type)
        if enum is not None and isinstance(value, str):
            return enum.values.get(str.__str__(value), _UNFIT)
        return _UNFIT

    def _type_name(self, field: Field) -> str:
        return "Enum" if field.type in self._enums else field.type

    def _placeholder(self, value: SqliteValue, type_name: str) -> dict[str, object]:
        name = f"p{len(self.values)}"
        if self._shared is not None:
            name = self._shared.setdefault((type_name, value), name)
        self.values[name] = value
        return {"$type": "Param", "value": {"name": name, "type": type_name}}


def literal(value: object) -> object:
    """``value`` in the JSON protocol, written out (``json-protocol.ts``: special types carry a ``$type`` tag)."""
    if isinstance(value, dt.datetime):
        return {"$type": "DateTime", "value": datetime_text(value)}
    if isinstance(value, Decimal):
        return {"$type": "Decimal", "value": str(value)}
    if isinstance(value, bytes):
        raise TypeError("bytes are passed as prisma.Base64: Base64.encode(data)")
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple | set | frozenset):
        return [literal(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if is_json(value):
        return {"$type": "Json", "value": _json_text(value)}
    if is_base64(value):
        return {"$type": "Bytes", "value": str(value)}
    return value


def is_json(value: object) -> bool:
    """Whether ``value`` is a ``Json`` of a generated client (each generated package has a class of its own)."""
    return any(cls.__name__ == "Json" and hasattr(value, "data") for cls in type(value).__mro__)


def is_base64(value: object) -> bool:
    """Whether ``value`` is a ``Base64`` of a generated client."""
    return type(value).__name__ == "Base64" and hasattr(value, "decode_str")


def datetime_text(value: dt.datetime) -> str:
    """``value`` as it is stored; without a time zone it is taken as UTC, and microseconds are cut to milliseconds.

    Both as Prisma Client Python does (``serialize_datetime`` of its ``_builder.py``).
    """
    utc = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    return utc.isoformat(timespec="milliseconds")


def dumps_json(data: object) -> str:
    """JSON text of the payload of a ``Json``; like the stock client's, but never NaN, which is no JSON."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, default=_json_default)


def _json_default(value: object) -> object:
    if isinstance(value, dt.datetime):
        return datetime_text(value)
    if isinstance(value, Decimal):
        return str(value)
    if is_json(value):
        return value.data  # type: ignore[attr-defined]  # pyright: ignore
    if is_base64(value):
        return str(value)
    raise TypeError(f"Type {type(value)} not serializable")


def _json_text(value: Any) -> str:
    try:
        return dumps_json(value.data)
    except ValueError as error:
        raise QueryError("P2019", f"Input error. A Json value cannot be stored: {error}") from error


def _refused(field: Field, why: str) -> QueryError:
    return QueryError("P2019", f"Input error. Field `{field.name}` of type {field.type}: {why}")


def _string(_: Field, value: object) -> Any:
    return str.__str__(value) if isinstance(value, str) else _UNFIT


def _int(field: Field, value: object) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return _UNFIT
    if value not in INT32:
        raise QueryError(
            "P2033",
            f"Unable to fit integer value {value} of field `{field.name}` into an INT4 (32-bit signed integer).",
        )
    return int(value)


def _bigint(field: Field, value: object) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return _UNFIT
    if value not in INT64:
        raise QueryError("P2033", f"Unable to fit integer value {value} of field `{field.name}` into 64 bits.")
    return int(value)


def _float(field: Field, value: object) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return _UNFIT
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refused(field, f"{value} is no number that SQLite can store")
    return number


def _decimal(field: Field, value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float):
        return _UNFIT
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    number = float(exact) if exact.is_finite() else math.inf
    if not math.isfinite(number) or Decimal(repr(number)) != exact:
        raise _refused(field, f"{exact} has more digits than SQLite keeps of a number (about 15); store it as text")
    return number


def _boolean(_: Field, value: object) -> Any:
    return int(value) if isinstance(value, bool) else _UNFIT


def _datetime(_: Field, value: object) -> Any:
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return _UNFIT
    return datetime_text(value) if isinstance(value, dt.datetime) else _UNFIT


def _json(field: Field, value: object) -> Any:
    if not is_json(value):
        return _UNFIT
    data: object = value.data  # type: ignore[attr-defined]  # pyright: ignore
    # A column of type JSONB has numeric affinity: SQLite turns the text of a bare number into a number.
    if isinstance(data, int) and not isinstance(data, bool) and data not in INT64:
        raise _refused(field, f"the bare number {data} does not fit into 64 bits; put it into an object or a list")
    return _json_text(value)


def _bytes(field: Field, value: object) -> Any:
    if not is_base64(value):
        return _UNFIT
    try:
        return b64decode(str(value), validate=True)
    except ValueError as error:
        raise _refused(field, f"the value is no base64: {error}") from error


_ENCODERS: Final[Mapping[str, Callable[[Field, object], Any]]] = MappingProxyType(
    {
        "String": _string,
        "Int": _int,
        "BigInt": _bigint,
        "Float": _float,
        "Decimal": _decimal,
        "Boolean": _boolean,
        "DateTime": _datetime,
        "Json": _json,
        "Bytes": _bytes,
    }
)
