"""query_raw, query_first, execute_raw: parameters, results, errors, and on which connection they run."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from autogpt_server.data.engine import get_engine
from autogpt_server.data.engine.raw import RawStatement
from data.engine.conftest import Conformance


async def test_parameters(db: Any, conformance: Conformance) -> None:
    package = conformance.package
    values = {
        "t": "text \u2028 '\"",
        "i": 2**60,
        "f": 0.1,
        "n": None,
        "b": True,
        "at": dt.datetime(2024, 2, 3, 4, 5, 6, 789000, tzinfo=dt.UTC),
        "d": Decimal("1.10"),
        "j": package.Json({"a": [1]}),
        "y": package.Base64.encode(b"\0\xff"),
        "e": package.enums.Role.USER,
    }
    selected = ", ".join(f"? AS {name}" for name in values)
    (row,) = await db.query_raw(f"SELECT {selected}", *values.values())
    assert row == {
        "t": "text \u2028 '\"",
        "i": 2**60,
        "f": 0.1,
        "n": None,
        "b": 1,
        "at": "2024-02-03T04:05:06.789+00:00",
        "d": "1.10",
        "j": '{"a": [1]}',
        "y": "AP8=",
        "e": "USER",
    }
    assert await db.query_raw("SELECT ?2 AS b, ?1 AS a", 1, 2) == [{"b": 2, "a": 1}]
    assert await db.query_raw("SELECT '?1' AS quoted, ? AS a -- ?2", 1) == [{"quoted": "?1", "a": 1}]


@pytest.mark.parametrize("given", [(), (1,), (1, 2, 3)])
async def test_numbered_parameters_must_be_as_many_as_the_statement_has(
    db: Any, errors: Any, given: tuple[int, ...]
) -> None:
    with pytest.raises(errors.RawQueryError):
        await db.query_raw("SELECT ?2 AS b, ?1 AS a", *given)


@pytest.mark.parametrize("value", [object(), [1], {"a": 1}, {1}, dt.timedelta(1)])
async def test_parameters_that_have_no_form_in_sql(db: Any, value: object) -> None:
    with pytest.raises(TypeError, match="cannot be a parameter"):
        await db.query_raw("SELECT ?", value)


async def test_results(db: Any, errors: Any) -> None:
    assert await db.query_raw("SELECT 1 AS a WHERE 0") == []
    assert await db.query_first("SELECT 1 AS a UNION SELECT 2 ORDER BY 1 DESC") == {"a": 2}
    assert await db.query_first("SELECT 1 AS a WHERE 0") is None
    assert await db.execute_raw("INSERT INTO Tag (name) VALUES ('a'), ('b')") == 2
    assert await db.execute_raw("UPDATE Tag SET name = name || '!'") == 2
    assert await db.execute_raw("DELETE FROM Tag WHERE name = 'zz'") == 0
    assert await db.query_raw("INSERT INTO Tag (name) VALUES ('c') RETURNING name") == [{"name": "c"}]
    assert await db.execute_raw("DELETE FROM Tag RETURNING name") == 3
    assert await db.execute_raw("CREATE TABLE extra (x)") == 0


async def test_models_make_typed_records(db: Any, conformance: Conformance) -> None:
    user = await db.user.create(data={"id": "a", "email": "a", "role": "GUEST"})
    post = await db.post.create(data={"title": "t", "published": True, "authorId": "a"})
    models = conformance.package.models
    (found,) = await db.query_raw("SELECT * FROM Post", model=models.Post)
    assert found == post
    assert await db.post.query_first("SELECT * FROM Post WHERE id = ?", post.id) == post
    assert (await db.query_raw("SELECT published, createdAt FROM Post")) == [
        {"published": 1, "createdAt": post.createdAt.isoformat(timespec="milliseconds")}
    ], "without a model: what SQLite stores"
    assert user.role == conformance.package.enums.Role.GUEST


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM nowhere", "SELEC 1", "SELECT 1; SELECT 2", "", "SELECT ?", "SELECT 'unfinished"],
)
async def test_errors_are_raw_query_errors(db: Any, errors: Any, statement: str) -> None:
    if not statement:
        assert await db.query_raw(statement) == []
        return
    with pytest.raises(errors.RawQueryError) as caught:
        await db.query_raw(statement)
    assert caught.value.code == "P2010"
    with pytest.raises(errors.RawQueryError):
        await db.execute_raw(statement)


async def test_constraints_are_raw_query_errors_too(db: Any, errors: Any) -> None:
    await db.execute_raw("INSERT INTO Tag (name) VALUES ('a')")
    with pytest.raises(errors.RawQueryError, match=r"UNIQUE constraint failed: Tag\.name") as caught:
        await db.execute_raw("INSERT INTO Tag (name) VALUES ('a')")
    assert caught.value.meta["code"] == "1555"
    with pytest.raises(errors.RawQueryError, match="FOREIGN KEY"):
        await db.execute_raw("INSERT INTO Comment (text, postId) VALUES ('x', 99)")


@pytest.mark.parametrize(
    "statement", ["BEGIN", "commit", " -- comment\n ROLLBACK", "/* a */ savepoint x", "END", "RELEASE x"]
)
async def test_transactions_are_not_for_raw_queries(db: Any, errors: Any, statement: str) -> None:
    with pytest.raises(errors.RawQueryError, match=r"use tx\(\)"):
        await db.execute_raw(statement)
    async with db.tx() as tx:
        with pytest.raises(errors.RawQueryError, match=r"use tx\(\)"):
            await tx.query_raw(statement)
        await tx.tag.create(data={"name": "a"})
    assert await db.tag.count() == 1


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("SELECT 1", True),
        ("  \n-- c\n/* d */ (SELECT 1)", True),
        ("VALUES (1)", True),
        ("explain query plan SELECT 1", True),
        ("WITH x AS (SELECT 1) SELECT * FROM x", True),
        ("WITH x AS (SELECT 1) INSERT INTO Tag SELECT * FROM x", False),
        ("PRAGMA user_version", False),
        ("INSERT INTO Tag VALUES (1) RETURNING name", False),
    ],
)
def test_what_reads(statement: str, *, reads: bool) -> None:
    """What only reads runs beside an open transaction; what may write waits for its end."""
    assert RawStatement(statement).reads is reads


async def test_reads_do_not_wait_for_writers(db: Any) -> None:
    async with db.tx() as tx:
        await tx.tag.create(data={"name": "a"})
        assert await db.query_raw("SELECT name FROM Tag") == []
        assert await db.query_raw("WITH t AS (SELECT name FROM Tag) SELECT * FROM t") == []
        assert await tx.query_raw("SELECT name FROM Tag") == [{"name": "a"}]


async def test_statements_that_no_transaction_may_hold(db: Any) -> None:
    assert (await db.query_first("PRAGMA journal_mode"))["journal_mode"] == "wal"
    await db.execute_raw("VACUUM")
    assert (await db.query_first("PRAGMA wal_checkpoint(TRUNCATE)"))["busy"] == 0


async def test_two_hundred_rows_at_once(db: Any) -> None:
    rows = json.dumps([{"name": f"t{i}"} for i in range(200)])
    statement = "INSERT INTO Tag (name) SELECT value ->> 'name' FROM json_each(?)"
    assert await db.execute_raw(statement, rows) == 200
    assert await db.tag.count() == 200


async def test_statements_are_remembered_by_their_text(db: Any) -> None:
    engine: Any = get_engine(db)
    for index in range(700):
        await db.query_raw(f"SELECT {index}")
    assert len(engine._raw) == 500
