"""Each scalar type: what goes in comes out, is stored as documented, can be filtered by, and is refused where it does not fit."""

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from data.engine.conftest import Conformance, Sql

UTC = dt.UTC


@pytest.fixture
def row(conformance: Conformance) -> Callable[..., dict[str, Any]]:
    """Data of a `Scalars` record, with some of it changed."""
    package = conformance.package

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "id": "a",
            "text": "text",
            "int": 1,
            "big": 2,
            "float": 0.5,
            "decimal": Decimal("1.25"),
            "bool": True,
            "at": dt.datetime(2024, 2, 3, 4, 5, 6, 789000, tzinfo=UTC),
            "doc": package.Json({"a": [1, None, "x"]}),
            "bytes": package.Base64.encode(b"\0\xff bytes"),
            "role": "USER",
            **changes,
        }

    return make


async def test_all_types_round_trip(db: Any, row: Any, conformance: Conformance) -> None:
    created = await db.scalars.create(data=row())
    found = await db.scalars.find_unique(where={"id": "a"})
    assert created == found
    assert found.text == "text"
    assert (found.int, found.big, found.float) == (1, 2, 0.5)
    assert found.decimal == Decimal("1.25")
    assert found.bool is True
    assert found.at == dt.datetime(2024, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    assert found.doc == {"a": [1, None, "x"]}
    assert found.bytes.decode() == b"\0\xff bytes"
    assert found.role == conformance.package.enums.Role.USER
    optional: list[str] = [name for name in conformance.package.models.Scalars.model_fields if name.endswith("Opt")]
    assert len(optional) == 10
    assert [getattr(found, name) for name in optional] == [None] * 10


async def test_optional_fields_hold_values_and_can_be_emptied(db: Any, row: Any, conformance: Conformance) -> None:
    package = conformance.package
    values = {
        "textOpt": "",
        "intOpt": 0,
        "bigOpt": 0,
        "floatOpt": 0.0,
        "decOpt": Decimal(0),
        "boolOpt": False,
        "atOpt": dt.datetime(1970, 1, 1, tzinfo=UTC),
        "docOpt": package.Json(None),
        "bytesOpt": package.Base64.encode(b""),
        "roleOpt": "ADMIN",
    }
    found = await db.scalars.create(data=row(**values))
    assert (found.textOpt, found.intOpt, found.bigOpt, found.floatOpt, found.boolOpt) == ("", 0, 0, 0.0, False)
    assert (found.decOpt, found.atOpt) == (Decimal(0), dt.datetime(1970, 1, 1, tzinfo=UTC))
    assert (found.bytesOpt.decode(), found.roleOpt) == (b"", "ADMIN")
    emptied = await db.scalars.update(where={"id": "a"}, data=dict.fromkeys(values))
    assert all(getattr(emptied, name) is None for name in values)


async def test_how_values_are_stored(db: Any, row: Any, sql: Sql) -> None:
    """The table in `parameters.py`."""
    await db.scalars.create(data=row(role="GUEST"))
    columns = ("text", "int", "big", "float", "decimal", "bool", "at", "doc", "bytes", "role")
    listed = ", ".join(f'"{column}", typeof("{column}")' for column in columns)
    (stored,) = sql(f"SELECT {listed} FROM Scalars")
    assert stored == (
        *("text", "text"),
        *(1, "integer"),
        *(2, "integer"),
        *(0.5, "real"),
        *(1.25, "real"),
        *(1, "integer"),
        *("2024-02-03T04:05:06.789+00:00", "text"),
        *('{"a": [1, null, "x"]}', "text"),
        *(b"\0\xff bytes", "blob"),
        *("a guest // with odd characters", "text"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quotes ' \" ` \\ and ${x} {{y}} % _",
        "line\nfeeds\r\n and \t tabs",
        "next line \x85, line separator \u2028, paragraph separator \u2029",
        "NUL \0 inside",
        "\U0001f600 \u00e9 e\u0301 \ufeff",
        "\\u0041 \\n stay as they are",
        '{"$type": "DateTime", "value": "x"}',
        "x" * 100_000,
    ],
)
async def test_text_is_never_changed(db: Any, row: Any, sql: Sql, text: str) -> None:
    """The stock client indents its queries, strings and all, wherever `str.splitlines` sees a line end."""
    created = await db.scalars.create(data=row(text=text))
    assert created.text == text
    assert sql("SELECT text FROM Scalars") == [(text,)]
    assert (await db.scalars.find_first(where={"text": text})).id == "a"
    assert (await db.scalars.find_first(where={"text": {"in": [text, "other"]}})).id == "a"
    assert (await db.query_raw("SELECT ? AS t", text)) == [{"t": text}]


@pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31 - 1])
async def test_int_holds_32_bits(db: Any, row: Any, value: int) -> None:
    assert (await db.scalars.create(data=row(int=value))).int == value
    assert await db.scalars.count(where={"int": value}) == 1


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40, 2**70])
async def test_int_refuses_more(db: Any, row: Any, errors: Any, value: int) -> None:
    with pytest.raises(errors.DataError, match="32-bit") as caught:
        await db.scalars.create(data=row(int=value))
    assert caught.value.code == "P2033"
    with pytest.raises(errors.DataError, match="32-bit"):
        await db.scalars.find_many(where={"int": {"gt": value}})
    with pytest.raises(errors.DataError, match="32-bit"):
        await db.scalars.find_many(where={"int": {"in": [1, value]}})


@pytest.mark.parametrize("value", [-(2**63), 2**53 + 1, 2**63 - 1])
async def test_bigint_holds_64_bits_exactly(db: Any, row: Any, value: int) -> None:
    assert (await db.scalars.create(data=row(big=value))).big == value
    assert await db.scalars.count(where={"big": {"gte": value, "lte": value}}) == 1


async def test_bigint_refuses_more(db: Any, row: Any, errors: Any) -> None:
    with pytest.raises(errors.DataError, match="64 bits"):
        await db.scalars.create(data=row(big=2**63))


@pytest.mark.parametrize("value", [0.1, 1e308, -5e-324, 3, -0.0, 1 / 3])
async def test_float_is_exact(db: Any, row: Any, value: float) -> None:
    assert (await db.scalars.create(data=row(float=value))).float == value
    assert await db.scalars.count(where={"float": value}) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
async def test_float_refuses_what_sqlite_cannot_store(db: Any, row: Any, errors: Any, value: float) -> None:
    """SQLite would store NaN as NULL."""
    with pytest.raises(errors.InputError, match="no number that SQLite can store"):
        await db.scalars.create(data=row(float=value))


@pytest.mark.parametrize("text", ["0", "1.25", "-0.001", "123456789.123456", "1E+3", "99999999999999"])
async def test_decimal_is_exact(db: Any, row: Any, text: str) -> None:
    value = Decimal(text)
    assert (await db.scalars.create(data=row(decimal=value))).decimal == value
    assert await db.scalars.count(where={"decimal": value}) == 1
    assert await db.scalars.count(where={"decimal": {"gt": value}}) == 0


@pytest.mark.parametrize("text", ["0.12345678901234567890", "12345678901234567890.1", "NaN", "Infinity"])
async def test_decimal_refuses_what_it_would_round(db: Any, row: Any, errors: Any, text: str) -> None:
    with pytest.raises(errors.InputError, match="more digits than SQLite keeps"):
        await db.scalars.create(data=row(decimal=Decimal(text)))


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (dt.datetime(2024, 2, 3, 4, 5, 6, 789999, tzinfo=UTC), "2024-02-03T04:05:06.789+00:00"),
        (dt.datetime(2024, 2, 3, 4, 5, 6), "2024-02-03T04:05:06.000+00:00"),
        (
            dt.datetime(2024, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
            "2024-02-02T18:30:00.000+00:00",
        ),
        ("2024-02-03T04:05:06.789Z", "2024-02-03T04:05:06.789+00:00"),
        (dt.datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000+00:00"),
    ],
)
async def test_datetime_is_utc_in_milliseconds(db: Any, row: Any, sql: Sql, given: Any, stored: str) -> None:
    created = await db.scalars.create(data=row(at=given))
    assert created.at == dt.datetime.fromisoformat(stored)
    assert created.at.utcoffset() == dt.timedelta(0)
    assert sql("SELECT at FROM Scalars") == [(stored,)]
    assert await db.scalars.count(where={"at": given}) == 1
    assert await db.scalars.count(where={"at": {"gt": given}}) == 0


@pytest.mark.parametrize(
    "stored",
    [1706933106789, "2024-02-03 04:05:06.789", "2024-02-03T04:05:06.789Z", "2024-02-03T06:05:06.789+02:00"],
)
async def test_datetimes_of_other_writers_can_be_read(db: Any, row: Any, sql: Sql, stored: Any) -> None:
    """Milliseconds are what Prisma's own engine stores, the second form what CURRENT_TIMESTAMP looks like."""
    await db.scalars.create(data=row())
    sql("UPDATE Scalars SET at = ?", stored)
    found = await db.scalars.find_unique(where={"id": "a"})
    assert found.at == dt.datetime(2024, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)


@pytest.mark.parametrize(
    "data",
    [None, True, 0, -1, 1.5, 2**53 + 1, 1e300, "", "123", "a\u2028b", [], {}, [1, [2, {"x": None}]], {"$type": "Json"}],
)
async def test_json_round_trips(db: Any, row: Any, conformance: Conformance, data: Any) -> None:
    value = conformance.package.Json(data)
    created = await db.scalars.create(data=row(doc=value))
    assert created.doc == data
    assert type(created.doc) is type(data)
    assert await db.scalars.count(where={"doc": {"equals": value}}) == 1
    assert await db.scalars.count(where={"doc": {"not": value}}) == 0


@pytest.mark.parametrize("data", [math.nan, [math.inf], 2**63, -(2**63) - 1])
async def test_json_refuses_what_it_cannot_hold(db: Any, row: Any, errors: Any, conformance: Any, data: Any) -> None:
    with pytest.raises(errors.InputError):
        await db.scalars.create(data=row(doc=conformance.package.Json(data)))


async def test_bytes_filters(db: Any, row: Any, conformance: Conformance) -> None:
    encode = conformance.package.Base64.encode
    await db.scalars.create(data=row())
    assert await db.scalars.count(where={"bytes": encode(b"\0\xff bytes")}) == 1
    assert await db.scalars.count(where={"bytes": {"equals": encode(b"no")}}) == 0
    assert await db.scalars.count(where={"bytes": {"in": [encode(b"no"), encode(b"\0\xff bytes")]}}) == 1
    assert await db.scalars.count(where={"bytes": {"not": encode(b"no")}}) == 1


async def test_broken_base64_is_refused(db: Any, row: Any, errors: Any, conformance: Conformance) -> None:
    with pytest.raises(errors.InputError, match="no base64"):
        await db.scalars.create(data=row(bytes=conformance.package.Base64(b"not base64!")))


async def test_enums(db: Any, row: Any, errors: Any, conformance: Conformance) -> None:
    role = conformance.package.enums.Role
    await db.scalars.create(data=row(role=role.GUEST, roleOpt="USER"))
    found = await db.scalars.find_first(where={"role": "GUEST", "roleOpt": role.USER})
    assert (found.role, found.roleOpt) == (role.GUEST, role.USER)
    assert await db.scalars.count(where={"role": {"in": [role.ADMIN, "GUEST"]}}) == 1
    assert await db.scalars.count(where={"role": {"not": "GUEST"}}) == 0
    with pytest.raises(errors.DataError, match="is none of ADMIN, USER, GUEST"):
        await db.scalars.create(data=row(id="b", role="NOBODY"))
    with pytest.raises(errors.DataError):  # the name in the database is none that a client may use
        await db.scalars.find_many(where={"role": "user"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 1),
        ("text", b"bytes".decode),
        ("int", "1"),
        ("int", 1.5),
        ("int", True),
        ("big", "1"),
        ("decimal", "one"),
        ("float", "1.0"),
        ("bool", 1),
        ("bool", "true"),
        ("at", "yesterday"),
        ("at", 12),
        ("doc", {"a": 1}),
        ("bytes", "text"),
    ],
)
async def test_values_of_other_types_are_refused(db: Any, row: Any, errors: Any, field: str, value: Any) -> None:
    with pytest.raises((errors.DataError, TypeError)):
        await db.scalars.create(data=row(**{field: value}))
    assert await db.scalars.count() == 0


async def test_null_where_a_value_is_required(db: Any, row: Any, errors: Any) -> None:
    with pytest.raises(errors.DataError):
        await db.scalars.create(data=row(text=None))
    data = row()
    del data["text"]
    with pytest.raises(errors.MissingRequiredValueError, match="text"):
        await db.scalars.create(data=data)


@pytest.mark.parametrize(
    ("column", "stored"),
    [("bool", 2), ("at", "soon"), ("int", "many"), ("role", "nobody"), ("float", "x"), ("text", b"\xff")],
)
async def test_rows_that_do_not_fit_the_schema_are_errors(
    db: Any, row: Any, sql: Sql, errors: Any, column: str, stored: Any
) -> None:
    await db.scalars.create(data=row())
    sql(f'UPDATE Scalars SET "{column}" = ?', stored)
    with pytest.raises(errors.DataError, match="Inconsistent column data") as caught:
        await db.scalars.find_unique(where={"id": "a"})
    assert caught.value.code == "P2023"


async def test_text_that_is_no_utf8(db: Any, row: Any, sql: Sql, errors: Any) -> None:
    await db.scalars.create(data=row())
    sql("UPDATE Scalars SET text = CAST(x'ff' AS TEXT)")
    with pytest.raises(errors.DataError, match="UTF-8"):
        await db.scalars.find_first()
    with pytest.raises(errors.RawQueryError, match="UTF-8"):
        await db.query_raw("SELECT text FROM Scalars")
    with pytest.raises(errors.DataError, match="surrogates not allowed"):
        await db.scalars.update(where={"id": "a"}, data={"text": "half a pair \ud800"})


async def test_groups_of_every_type(db: Any, row: Any) -> None:
    """`group_by` returns plain values: times as ISO text, decimals as text, enums by their names."""
    for index, role in enumerate(["USER", "GUEST", "USER"]):
        await db.scalars.create(data=row(id=str(index), role=role, bool=role == "USER", big=2**60 + index))
    groups = await db.scalars.group_by(
        by=["role", "bool"],
        count=True,
        sum={"big": True, "decimal": True, "float": True},
        avg={"int": True, "decimal": True},
        min={"at": True, "text": True},
        max={"decimal": True},
        order={"role": "asc"},
    )
    assert groups == [
        {
            "role": role,
            "bool": flag,
            "_count": {"_all": count},
            "_sum": {"big": big, "decimal": str(1.25 * count), "float": 0.5 * count},
            "_avg": {"int": 1.0, "decimal": "1.25"},
            "_min": {"at": "2024-02-03T04:05:06.789+00:00", "text": "text"},
            "_max": {"decimal": "1.25"},
        }
        for role, flag, count, big in [("GUEST", False, 1, 2**60 + 1), ("USER", True, 2, 2**61 + 2)]
    ]


async def test_sums_that_overflow(db: Any, row: Any, errors: Any) -> None:
    for index in range(2):
        await db.scalars.create(data=row(id=str(index), big=2**63 - 1))
    with pytest.raises(errors.DataError, match="integer overflow"):
        await db.scalars.group_by(by=["role"], sum={"big": True})
    with pytest.raises(errors.DataError, match="Inconsistent column data"):  # SQLite makes a REAL of it
        await db.scalars.update(where={"id": "0"}, data={"big": {"increment": 1}})
    assert (await db.scalars.find_unique(where={"id": "0"})).big == 2**63 - 1, "the update was undone"
    await db.scalars.update(where={"id": "0"}, data={"int": 2**31 - 1})
    with pytest.raises(errors.DataError, match="does not fit into 32 bits"):
        await db.scalars.update(where={"id": "0"}, data={"int": {"increment": 1}})
    assert (await db.scalars.find_unique(where={"id": "0"})).int == 2**31 - 1
    await db.scalars.update(where={"id": "1"}, data={"int": 2**31 - 1})
    (group,) = await db.scalars.group_by(by=["role"], sum={"int": True})
    assert group["_sum"]["int"] == 2**32 - 2, "sums may be larger"


async def test_generated_values(db: Any, conformance: Conformance) -> None:
    before = dt.datetime.now(UTC) - dt.timedelta(milliseconds=1)
    made = [await db.generated.create(data={}) for _ in range(3)]
    after = dt.datetime.now(UTC)
    assert [record.serial for record in made] == [1, 2, 3]
    first = made[0]
    assert (len(first.uuid4), first.uuid4[14]) == (36, "4")
    assert (len(first.uuid7), first.uuid7[14]) == (36, "7")
    assert (len(first.cuid1), first.cuid1[0]) == (25, "c")
    assert (len(first.cuid2), len(first.ulid), len(first.nanoid), len(first.short)) == (24, 26, 21, 8)
    assert (first.word, first.number, first.role) == ('a "quoted" // word', 7, conformance.package.enums.Role.USER)
    assert before <= first.createdAt <= after
    assert first.updatedAt == first.createdAt
    for name in ("uuid4", "uuid7", "cuid1", "cuid2", "ulid", "nanoid"):
        assert len({getattr(record, name) for record in made}) == 3
    assert sorted(record.uuid7 for record in made) == [record.uuid7 for record in made]
    changed = await db.generated.update(where={"serial": 1}, data={"note": "x"})
    assert changed.updatedAt >= first.updatedAt
    assert changed.createdAt == first.createdAt
