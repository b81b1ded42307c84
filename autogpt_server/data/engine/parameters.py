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
that does not fit its field is refused here (the compiler would take 1.5 for an Int, and 2**40); what is no scalar at all
stays in the text, for the compiler to judge.
"""

import datetime as dt
import json
import math
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeGuard, cast

from autogpt_server.data.engine.errors import QueryError
from autogpt_server.data.engine.schema import DataModel, Field

SqliteValue = str | int | float | bytes | None
ParameterValue = SqliteValue | list[SqliteValue]

INT32: Final = range(-(2**31), 2**31)
INT64: Final = range(-(2**63), 2**63)


class JsonValue(Protocol):
    """``Json`` of a generated client (each generated package has a class of its own)."""

    data: Any


class Parameters:
    """Collects the values of one request, and gives each its placeholder."""

    def __init__(self, datamodel: DataModel, *, share_equal: bool = False) -> None:
        """``share_equal``: equal values of one type get one placeholder.

        The compiler turns an upsert into a single ``INSERT ... ON CONFLICT`` when the unique value it looks for and the
        one it would create are the same placeholder. For anything else sharing would only multiply shapes.
        """
        self.values: dict[str, ParameterValue] = {}
        self._datamodel = datamodel
        self._shared: dict[tuple[str, SqliteValue], str] | None = {} if share_equal else None

    def scalar(self, field: Field, value: object) -> object:
        """``value`` of ``field`` as it appears in the request's text: a placeholder, or null.

        Raises:
            QueryError: P2019 or P2033, it does not fit the field.
        """
        if value is None:
            return None
        encoded = self._encode(field, value)
        kind = self._type_name(field)
        name = f"p{len(self.values)}"
        if self._shared is not None:
            name = self._shared.setdefault((kind, encoded), name)
        self.values[name] = encoded
        return {"$type": "Param", "value": {"name": name, "type": kind}}

    def scalars(self, field: Field, values: object) -> object:
        """The list of an ``in`` or ``not_in`` as one placeholder, so that its length is no part of the shape."""
        if not isinstance(values, list | tuple | set | frozenset):
            raise _refused(field, f"a list of values was expected, not {_shown(values)}")
        items = cast("Iterable[object]", values)
        encoded = [self._encode(field, value) for value in items]
        if not encoded:
            return []
        name = f"p{len(self.values)}"
        self.values[name] = encoded
        return {"$type": "Param", "value": {"name": name, "type": "List", "inner": {"type": self._type_name(field)}}}

    def _encode(self, field: Field, value: object) -> SqliteValue:
        encoder = _ENCODERS.get(field.type)
        if encoder is not None:
            return encoder(field, value)
        enum = self._datamodel.enums.get(field.type)
        if enum is None:
            raise _refused(field, "this engine does not know the type")
        stored = enum.values.get(str.__str__(value)) if isinstance(value, str) else None
        if stored is None:
            raise _refused(field, f"{_shown(value)} is none of {', '.join(enum.values)}")
        return stored

    def _type_name(self, field: Field) -> str:
        if field.type == "Decimal":  # the compiler has no placeholder of its own for it
            return "Float"
        return "Enum" if field.type in self._datamodel.enums else field.type


def literal(value: object) -> object:
    """``value`` in the JSON protocol, written out (``json-protocol.ts``: special types carry a ``$type`` tag)."""
    if isinstance(value, dt.datetime):
        return {"$type": "DateTime", "value": datetime_text(value)}
    if isinstance(value, Decimal):
        return {"$type": "Decimal", "value": str(value)}
    if is_json(value):
        return {"$type": "Json", "value": dumps_json(value.data)}
    if is_base64(value):
        return {"$type": "Bytes", "value": str(value)}
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [literal(item) for item in cast("Iterable[object]", value)]
    return value


def is_json(value: object) -> TypeGuard[JsonValue]:
    """Whether ``value`` is a ``Json`` of a generated client."""
    return any(cls.__name__ == "Json" and hasattr(value, "data") for cls in type(value).__mro__)


def is_base64(value: object) -> bool:
    """Whether ``value`` is a ``Base64`` of a generated client; its text is then ``str(value)``."""
    return type(value).__name__ == "Base64" and hasattr(value, "decode_str")


def datetime_text(value: dt.datetime) -> str:
    """``value`` as it is stored; without a time zone it is taken as UTC, and microseconds are cut to milliseconds.

    Both as Prisma Client Python does (``serialize_datetime`` of its ``_builder.py``).
    """
    utc = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    return utc.isoformat(timespec="milliseconds")


def dumps_json(data: object) -> str:
    """JSON text of the payload of a ``Json``, as the stock client writes it.

    Raises:
        QueryError: it holds NaN or an infinity, which are no JSON.
    """
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, default=_json_default)
    except ValueError as error:
        raise QueryError("P2019", f"Input error. A Json value cannot be stored: {error}") from error


def _json_default(value: object) -> object:
    if isinstance(value, dt.datetime):
        return datetime_text(value)
    if is_json(value):
        return value.data
    if isinstance(value, Decimal) or is_base64(value):
        return str(value)
    raise TypeError(f"Type {type(value)} not serializable")


def _refused(field: Field, why: str) -> QueryError:
    return QueryError("P2019", f"Input error. Field `{field.name}` of type {field.type}: {why}")


def _unfit(field: Field, value: object, wanted: str) -> QueryError:
    return _refused(field, f"{wanted} was expected, not {_shown(value)}")


def _shown(value: object) -> str:
    """A value in a message: its type, and its beginning unless it may be long or secret."""
    if isinstance(value, str | bytes):
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value) if isinstance(value, int | float | Decimal) else ""
    return f"{type(value).__name__} {text[:40]}".strip()


def _string(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise _unfit(field, value, "str")
    return str.__str__(value)


def _integer(field: Field, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unfit(field, value, "int")
    return int(value)


def _int(field: Field, value: object) -> int:
    number = _integer(field, value)
    if number not in INT32:
        message = f"Unable to fit integer value {number} of field `{field.name}` into an INT4 (32-bit signed integer)."
        raise QueryError("P2033", message)
    return number


def _bigint(field: Field, value: object) -> int:
    number = _integer(field, value)
    if number not in INT64:
        raise QueryError("P2033", f"Unable to fit integer value {number} of field `{field.name}` into 64 bits.")
    return number


def _float(field: Field, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _unfit(field, value, "float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refused(field, f"{_shown(value)} is no number that SQLite can store")
    return number


def _decimal(field: Field, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float | str):
        raise _unfit(field, value, "Decimal")
    try:
        exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        raise _unfit(field, value, "Decimal") from None
    number = float(exact) if exact.is_finite() else math.inf
    if not math.isfinite(number) or Decimal(repr(number)) != exact:
        raise _refused(field, f"{exact} has more digits than SQLite keeps of a number (about 15); store it as text")
    return number


def _boolean(field: Field, value: object) -> int:
    if not isinstance(value, bool):
        raise _unfit(field, value, "bool")
    return int(value)


def _datetime(field: Field, value: object) -> str:
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError as error:
            raise _refused(field, f"the text is no time: {error}") from error
    if not isinstance(value, dt.datetime):
        raise _unfit(field, value, "datetime")
    return datetime_text(value)


def _json(field: Field, value: object) -> str:
    if not is_json(value):
        raise _unfit(field, value, "Json(...)")
    # A column of type JSONB has numeric affinity: SQLite turns the text of a bare number into a number.
    data: object = value.data
    if isinstance(data, int) and not isinstance(data, bool) and data not in INT64:
        raise _refused(field, f"the bare number {data} does not fit into 64 bits; put it into an object or a list")
    return dumps_json(data)


def _bytes(field: Field, value: object) -> bytes:
    if not is_base64(value):
        raise _unfit(field, value, "Base64")
    try:
        return b64decode(str(value), validate=True)
    except ValueError as error:
        raise _refused(field, f"the value is no base64: {error}") from error


_ENCODERS: Final[Mapping[str, Callable[[Field, object], SqliteValue]]] = MappingProxyType(
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
