"""What this engine, or SQLite, does not do is refused by an error that says so; and what the documentation shows besides queries."""

from typing import Any

import pytest

from autogpt_server.data.engine import get_engine
from data.engine.conftest import Conformance


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ({"email": {"contains": "x", "mode": "insensitive"}}, "mode"),
        ({"email": {"search": "x"}}, "search"),
        ({"email": {"matches": "x"}}, "matches"),
        ({"posts": {"any": {"views": 1}}}, "any"),
        ({"posts": {"views": 1}}, "views"),
        ({"manager": {"some": {"age": 1}}}, "some"),
        ({"age": {"contains": 1}}, "contains"),
        ({"age": [1, 2]}, "age"),
        ({"email": {"in": "x"}}, "list of values"),
        ({"age": {"in": [1, None]}}, "int was expected"),
        ({"XOR": [{"age": 1}]}, "XOR"),
    ],
)
async def test_filters_that_do_not_exist(db: Any, errors: Any, where: dict[str, Any], what: str) -> None:
    with pytest.raises(errors.DataError, match=what):
        await db.user.find_many(where=where)


@pytest.mark.parametrize(
    "where",
    [
        {"doc": {"path": ["a"], "equals": 1}},
        {"doc": {"string_contains": "x"}},
        {"doc": {"array_contains": [1]}},
    ],
)
async def test_filters_inside_json(db: Any, errors: Any, where: dict[str, Any]) -> None:
    """Prisma Client Python has no filters on parts of a Json value; raw SQL has (``doc ->> '$.a'``)."""
    with pytest.raises(errors.DataError):
        await db.scalars.find_many(where=where)


async def test_skip_duplicates(db: Any, errors: Any) -> None:
    with pytest.raises(errors.UnsupportedDatabaseError):
        await db.tag.create_many(data=[{"name": "a"}], skip_duplicates=True)
    nested = {"create_many": {"data": [{"title": "x"}], "skip_duplicates": True}}
    with pytest.raises(errors.DataError, match="skipDuplicates"):
        await db.user.create(data={"email": "a", "posts": nested})


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"take": "1"}, "take"),
        ({"take": 1.5}, "take"),
        ({"skip": True}, "skip"),
        ({"skip": -1}, "skip"),
        ({"order": {"age": "up"}}, "up"),
        ({"distinct": ["posts"]}, "distinct"),
        ({"cursor": {"age": 1}}, "id, email"),
        ({"include": {"posts": 1}}, "bool or a dict"),
        ({"include": {"posts": {"limit": 1}}}, "limit"),
    ],
)
async def test_arguments_that_make_no_sense(db: Any, errors: Any, arguments: dict[str, Any], what: str) -> None:
    with pytest.raises((errors.DataError, TypeError), match=what):
        await db.user.find_many(**arguments)


@pytest.mark.parametrize(
    "data",
    [
        {"email": "x", "age": {"increment": 1}},
        {"email": "x", "posts": {"update": [{"where": {"id": 1}, "data": {}}]}},
        {"email": "x", "posts": {"conect": [{"id": 1}]}},
        {"email": "x", "posts": [{"title": "x"}]},
        {"email": "x", "posts": {"create": [{"title": "x", "authorId": "y"}]}},
        {"email": "x", "managerId": "a", "manager": {"connect": {"id": "a"}}},
        ["x"],
    ],
)
async def test_data_that_makes_no_sense(db: Any, errors: Any, data: Any) -> None:
    with pytest.raises(errors.DataError):
        await db.user.create(data=data)
    assert await db.user.count() == 0


async def test_unknown_keys_of_updates(db: Any, errors: Any) -> None:
    await db.user.create(data={"id": "a", "email": "a"})
    for data in ({"age": {"add": 1}}, {"name": {"increment": 1}}, {"age": {"increment": None}}):
        with pytest.raises(errors.DataError):
            await db.user.update(where={"id": "a"}, data=data)
    assert (await db.user.find_unique(where={"id": "a"})).age == 0


async def test_the_compiler_is_not_harmed_by_nonsense(db: Any, errors: Any) -> None:
    for index in range(20):
        with pytest.raises(errors.DataError):
            await db.user.find_many(where={f"field{index}": {"a": [index]}})
    assert await db.user.find_many() == []
    assert get_engine(db).plans.compiled <= 21


# --- documented ways of asking ----------------------------------------------------------------------------------------


async def test_queries_through_the_models(db: Any, conformance: Conformance) -> None:
    """``User.prisma()`` uses the registered client."""
    package = conformance.package
    package.register(db)
    try:
        assert db.is_registered()
        created = await package.models.User.prisma().create(data={"email": "a", "role": "ADMIN"})
        assert await package.models.User.prisma().find_unique(where={"id": created.id}) == created
        (found,) = await package.models.User.prisma().query_raw("SELECT * FROM User")
        assert found.id == created.id
    finally:
        package._registry._registered_client = None


async def test_models_with_some_of_the_fields(db: Any, conformance: Conformance) -> None:
    """A class of one's own on a model's base selects just its fields."""
    package = conformance.package

    class EmailOnly(package.bases.BaseUser):
        email: str

    await db.user.create(data={"email": "a", "name": "Ann"})
    package.register(db)
    try:
        found = await EmailOnly.prisma().find_first()
    finally:
        package._registry._registered_client = None
    assert found.model_dump() == {"email": "a"}


async def test_order_of_nulls(db: Any) -> None:
    for index, name in enumerate(["b", None, "a"]):
        await db.user.create(data={"id": f"u{index}", "email": f"{index}", "name": name})
    for nulls, expected in (("first", ["u1", "u2", "u0"]), ("last", ["u2", "u0", "u1"])):
        found = await db.user.find_many(order={"name": {"sort": "asc", "nulls": nulls}})
        assert [user.id for user in found] == expected


async def test_upsert_is_one_statement_where_it_can_be(db: Any) -> None:
    """So that two processes at once cannot both create; the others are safe by BEGIN IMMEDIATE."""
    seen: list[str] = []
    await get_engine(db).write(lambda connection: connection.set_trace_callback(seen.append))
    seen.clear()
    data = {"create": {"id": "a", "email": "a"}, "update": {"age": 1}}
    await db.user.upsert(where={"id": "a"}, data=data)
    assert [statement.split()[0] for statement in seen] == ["BEGIN", "INSERT", "COMMIT"]
    seen.clear()
    await db.user.upsert(where={"id": "b"}, data=data | {"create": {"id": "c", "email": "c"}})
    assert [statement.split()[0] for statement in seen if "SELECT" not in statement] == ["BEGIN", "INSERT", "COMMIT"]
    await get_engine(db).write(lambda connection: connection.set_trace_callback(None))
