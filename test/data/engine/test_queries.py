"""Reading and writing single models: the methods and arguments that Prisma Client Python documents."""

from typing import Any

import pytest

from autogpt_server.data.engine import get_engine
from data.engine.conftest import Sql


@pytest.fixture
async def people(db: Any) -> Any:
    """Six users: u0 to u5, ages 0, 10, ... 50, names Ann, Bob, None in turn."""
    await db.user.create_many(
        data=[
            {
                "id": f"u{i}",
                "email": f"u{i}@example.com",
                "name": ("Ann", "Bob", None)[i % 3],
                "age": i * 10,
                "score": i / 2,
            }
            for i in range(6)
        ]
    )
    return db


def ids(records: list[Any]) -> list[str]:
    return [record.id for record in records]


async def found(db: Any, where: dict[str, Any]) -> list[str]:
    return ids(await db.user.find_many(where=where, order={"id": "asc"}))


# --- find -------------------------------------------------------------------------------------------------------------


async def test_find_unique(people: Any, errors: Any) -> None:
    assert (await people.user.find_unique(where={"id": "u1"})).email == "u1@example.com"
    assert (await people.user.find_unique(where={"email": "u2@example.com"})).id == "u2"
    assert await people.user.find_unique(where={"id": "nobody"}) is None
    assert (await people.user.find_unique_or_raise(where={"id": "u1"})).id == "u1"
    with pytest.raises(errors.RecordNotFoundError) as caught:
        await people.user.find_unique_or_raise(where={"id": "nobody"})
    assert caught.value.code == "P2025"


async def test_find_unique_needs_a_unique_field(people: Any, errors: Any) -> None:
    with pytest.raises(errors.DataError):
        await people.user.find_unique(where={"name": "Ann"})
    with pytest.raises(errors.DataError):
        await people.user.find_unique(where={})


async def test_find_first(people: Any, errors: Any) -> None:
    assert (await people.user.find_first(where={"name": "Bob"}, order={"age": "desc"})).id == "u4"
    assert (await people.user.find_first(order={"age": "asc"}, skip=2)).id == "u2"
    assert await people.user.find_first(where={"age": 99}) is None
    with pytest.raises(errors.RecordNotFoundError):
        await people.user.find_first_or_raise(where={"age": 99})


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "012345"),
        ({"age": 20}, "2"),
        ({"age": {"equals": 20}}, "2"),
        ({"age": {"not": 20}}, "01345"),
        ({"age": {"not": {"gt": 20}}}, "012"),
        ({"age": {"gt": 10, "lte": 40}}, "234"),
        ({"age": {"lt": 10}}, "0"),
        ({"age": {"gte": 50}}, "5"),
        ({"age": {"in": [10, 30, 99]}}, "13"),
        ({"age": {"not_in": [10, 30]}}, "0245"),
        ({"age": {"in": []}}, ""),
        ({"age": {"not_in": []}}, "012345"),
        ({"score": {"gt": 1}}, "345"),
        ({"score": 1}, "2"),
        ({"name": None}, "25"),
        ({"name": {"not": None}}, "0134"),
        ({"name": {"not": "Ann"}}, "14"),
        ({"email": {"startswith": "u1@"}}, "1"),
        ({"email": {"endswith": "5@example.com"}}, "5"),
        ({"email": {"contains": "3@ex"}}, "3"),
        ({"email": {"contains": "%"}}, "012345"),  # see test_like_patterns
        ({"email": {"in": ["u0@example.com"], "not_in": ["u1@example.com"]}}, "0"),
        ({"AND": [{"age": {"gt": 0}}, {"name": "Ann"}]}, "3"),
        ({"OR": [{"age": 0}, {"name": "Bob"}]}, "014"),
        ({"NOT": [{"age": 0}, {"name": "Bob"}]}, "3"),
        ({"NOT": {"age": 0}, "name": "Ann"}, "3"),
        ({"OR": [{"AND": [{"age": 0}, {"name": "Ann"}]}, {"NOT": [{"age": {"lt": 50}}]}]}, "05"),
        ({"OR": []}, ""),
        ({"AND": []}, "012345"),
        ({"role": "USER", "age": {"in": [0, 50]}}, "05"),
    ],
)
async def test_where(people: Any, where: dict[str, Any], expected: str) -> None:
    assert await found(people, where) == [f"u{digit}" for digit in expected]
    assert await people.user.count(where=where) == len(expected)


EMPTY_CONDITIONS: list[tuple[dict[str, Any], str]] = [
    ({"AND": [{}, {"age": 0}]}, "0"),
    ({"OR": [{}, {"age": 0}]}, "0"),
    ({"OR": [{"OR": []}, {"age": 0}]}, "0"),
    ({"NOT": [{"AND": []}, {"age": {"gt": 0}}]}, "0"),
    ({"AND": [{"OR": []}]}, "012345"),
    ({"NOT": {}}, "012345"),
    ({"age": {}}, "012345"),
]


@pytest.mark.parametrize(("where", "expected"), EMPTY_CONDITIONS)
async def test_empty_conditions_are_left_out(people: Any, where: dict[str, Any], expected: str) -> None:
    """As the query compiler has it: an empty condition inside AND, OR or NOT is no condition, neither true nor false."""
    assert await found(people, where) == [f"u{digit}" for digit in expected]


async def test_like_patterns(db: Any, errors: Any) -> None:
    """Prisma passes % and _ of contains, startswith and endswith through to LIKE, which SQLite does regardless of ASCII case."""
    for index, email in enumerate(["a%b", "axb", "a_b"]):
        await db.user.create(data={"id": f"u{index}", "email": email})
    assert await found(db, {"email": {"contains": "a_b"}}) == ["u0", "u1", "u2"]
    assert await found(db, {"email": {"startswith": "A%"}}) == ["u0", "u1", "u2"]
    assert await found(db, {"email": "a_b"}) == ["u2"]
    assert await found(db, {"email": "A_B"}) == []
    for operator in ("contains", "startswith", "endswith"):
        with pytest.raises(errors.InputError, match="NUL"):
            await db.user.find_many(where={"email": {operator: "a\0b"}})


MANY = [*(f"nobody{i} \u2028" for i in range(2000)), "u1", "u2"]
LONG_LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "in": ({"id": {"in": MANY}}, "12"),
    "not in": ({"id": {"not_in": MANY}}, "0345"),
    "NOT in": ({"NOT": [{"id": {"in": MANY}}]}, "0345"),
    "OR": ({"OR": [{"id": {"in": MANY}}, {"age": 10}, {"age": 50}]}, "125"),
    "AND": ({"AND": [{"id": {"in": MANY}}, {"email": {"in": [*MANY, "u2@example.com"]}}]}, "2"),
    "none": ({"posts": {"none": {"title": {"in": MANY}}}}, "012345"),
    "numbers": ({"age": {"in": [*range(1000, 3000), 20]}, "id": {"in": MANY}}, "2"),
}


@pytest.mark.parametrize(("where", "expected"), LONG_LISTS.values(), ids=LONG_LISTS)
async def test_long_lists(people: Any, where: dict[str, Any], expected: str) -> None:
    """They are one parameter: each row is found, or changed, once (see `rendering`)."""
    assert await found(people, where) == [f"u{digit}" for digit in expected]
    assert await people.user.count(where=where) == len(expected)
    assert (await people.user.find_first(where=where)) is not None
    assert await people.user.update_many(where=where, data={"score": {"increment": 100}}) == len(expected)
    changed = await people.user.find_many(where={"score": {"gte": 100}}, order={"id": "asc"})
    assert [(user.id, user.score // 100) for user in changed] == [(f"u{digit}", 1) for digit in expected]


async def test_more_values_than_sqlite_takes_parameters(people: Any) -> None:
    """250,000 in Debian's SQLite, 32,766 in others."""
    assert await people.user.count(where={"id": {"not_in": [*(f"{i}" for i in range(260_000)), "u1"]}}) == 5


async def test_lists_that_are_too_long(db: Any, errors: Any) -> None:
    with pytest.raises(errors.DataError, match=r"SQLite takes \d+ at most") as caught:
        await db.user.count(where={"score": {"in": [index / 2 for index in range(260_000)]}})
    assert caught.value.code == "P2029"
    odd = [*(f"{i}" for i in range(2000)), "with NUL \0 inside", "with"]
    await db.user.create(data={"email": "with NUL \0 inside"})
    assert await db.user.count(where={"email": {"in": odd}}) == 1
    assert await db.user.count(where={"email": {"in": odd[:-2] + odd[-1:]}}) == 0


async def test_many_parents(db: Any) -> None:
    """Includes pass the keys of all parents on."""
    await db.user.create(data={"id": "a", "email": "a"})
    await db.post.create_many(data=[{"title": f"{index}", "authorId": "a"} for index in range(3000)])
    posts = await db.post.find_many(include={"comments": True, "author": True}, order={"id": "asc"})
    assert (len(posts), posts[-1].author.id, posts[-1].comments) == (3000, "a", [])


async def test_order(people: Any) -> None:
    user = people.user
    assert ids(await user.find_many(order={"age": "desc"})) == ["u5", "u4", "u3", "u2", "u1", "u0"]
    listed = await user.find_many(order=[{"name": "desc"}, {"age": "asc"}])
    assert ids(listed) == ["u1", "u4", "u0", "u3", "u2", "u5"]


async def test_take_and_skip(people: Any) -> None:
    user, order = people.user, {"age": "asc"}
    assert ids(await user.find_many(take=2, order=order)) == ["u0", "u1"]
    assert ids(await user.find_many(take=2, skip=3, order=order)) == ["u3", "u4"]
    assert ids(await user.find_many(take=-2, order=order)) == ["u4", "u5"]
    assert ids(await user.find_many(skip=5, order=order)) == ["u5"]
    assert await user.find_many(take=0) == []
    assert await user.find_many(skip=99) == []


async def test_cursor(people: Any) -> None:
    user, order = people.user, {"age": "asc"}
    assert ids(await user.find_many(cursor={"id": "u3"}, order=order)) == ["u3", "u4", "u5"]
    assert ids(await user.find_many(cursor={"id": "u1"}, take=2, skip=1, order=order)) == ["u2", "u3"]
    assert ids(await user.find_many(cursor={"id": "u3"}, take=-2, order=order)) == ["u2", "u3"]
    assert ids(await user.find_many(cursor={"email": "u4@example.com"}, order={"age": "desc"}, take=2)) == ["u4", "u3"]
    assert await user.find_many(cursor={"id": "nobody"}, order=order) == []


async def test_distinct(people: Any) -> None:
    user, order = people.user, {"age": "asc"}
    assert ids(await user.find_many(distinct=["name"], order=order)) == ["u0", "u1", "u2"]
    assert ids(await user.find_many(distinct=["name"], order=order, skip=1, take=1)) == ["u1"]
    assert ids(await user.find_many(distinct=["name"], order=order, cursor={"id": "u1"})) == ["u1", "u2", "u3"]
    assert len(await user.find_many(distinct=["name", "age"])) == 6


async def test_compound_keys(db: Any, errors: Any) -> None:
    document = db.document
    await document.create(data={"id": "d", "version": 1, "title": "T", "language": "en"})
    await document.create(data={"id": "d", "version": 2, "title": "T", "language": "fr"})
    assert (await document.find_unique(where={"id_version": {"id": "d", "version": 2}})).language == "fr"
    assert (await document.find_unique(where={"titleInLanguage": {"title": "T", "language": "en"}})).version == 1
    changed = await document.update(where={"id_version": {"id": "d", "version": 2}}, data={"title": "U"})
    assert changed.title == "U"
    listed = await document.find_many(
        cursor={"id_version": {"id": "d", "version": 2}}, order=[{"id": "asc"}, {"version": "asc"}]
    )
    assert [record.version for record in listed] == [2]
    with pytest.raises(errors.UniqueViolationError) as caught:
        await document.create(data={"id": "e", "version": 1, "title": "T", "language": "en"})
    assert caught.value.meta["target"] == ["title", "language"]


async def test_mapped_names_and_fields_named_like_keywords(db: Any, sql: Sql, errors: Any) -> None:
    odd = db.odd
    await odd.create(data={"id": "a", "data": "x", "where": "here", "create": "yes", "order": 1, "set": 2})
    await odd.create(data={"id": "b", "data": "y", "friend": {"connect": {"id": "a"}}})
    assert sql('SELECT odd_id, "some data", other_id FROM "odd table" ORDER BY 1') == [
        ("a", "x", None),
        ("b", "y", "a"),
    ]
    record = await odd.find_first(where={"where": "here", "create": {"not": None}, "order": {"in": [1]}, "set": 2})
    assert (record.id, record.where, record.create, record.order, record.set) == ("a", "here", "yes", 1, 2)
    changed = await odd.update(where={"id": "a"}, data={"data": "z", "set": {"increment": 3}, "order": {"set": 9}})
    assert (changed.data, changed.set, changed.order) == ("z", 5, 9)
    nested = await odd.update(
        where={"id": "b"}, data={"friend": {"update": {"data": "w", "where": "there"}}}, include={"friend": True}
    )
    assert (nested.friend.data, nested.friend.where) == ("w", "there")
    listed = await odd.find_many(
        order=[{"order": "desc"}, {"data": "asc"}], include={"admirer": {"order_by": {"order": "asc"}}}
    )
    assert [(record.id, [admirer.id for admirer in record.admirer]) for record in listed] == [("a", ["b"]), ("b", [])]
    with pytest.raises(errors.UniqueViolationError):
        await odd.create(data={"id": "a", "data": "again"})


async def test_equal_shapes_with_other_values(people: Any) -> None:
    """Plans are shared by shape; values never are."""
    for age in (10, 20, 30):
        assert await found(people, {"OR": [{"age": age}, {"name": "nobody"}]}) == [f"u{age // 10}"]
    assert await found(people, {"OR": [{"age": 10}, {"age": 10}]}) == ["u1"]


# --- write ------------------------------------------------------------------------------------------------------------


async def test_create_many(db: Any, errors: Any) -> None:
    user = db.user
    assert await user.create_many(data=[]) == 0
    assert await user.create_many(data=[{"email": "a"}, {"email": "b", "age": 2}, {"email": "c", "name": None}]) == 3
    assert sorted((u.email, u.age, u.name) for u in await user.find_many()) == [
        ("a", 0, None),
        ("b", 2, None),
        ("c", 0, None),
    ]
    with pytest.raises(errors.UniqueViolationError):
        await user.create_many(data=[{"email": "d"}, {"email": "a"}])
    assert await user.count() == 3, "all rows or none"
    with pytest.raises(errors.UnsupportedDatabaseError):
        await user.create_many(data=[{"email": "e"}], skip_duplicates=True)


async def test_many_rows_share_a_plan(db: Any) -> None:
    rows = [{"email": f"{i}", "age": i, "name": None if i % 2 else "x"} for i in range(2000)]
    assert await db.user.create_many(data=rows) == 2000
    assert len(get_engine(db).plans) == 2, "one for rows with a name, one for rows without"
    assert await db.user.count(where={"name": None}) == 1000


async def test_update(people: Any) -> None:
    user = people.user
    changed = await user.update(where={"id": "u1"}, data={"name": "New", "age": 11})
    assert (changed.name, changed.age, changed.email) == ("New", 11, "u1@example.com")
    assert (await user.update(where={"id": "u1"}, data={"name": None})).name is None
    assert await user.update(where={"id": "nobody"}, data={"age": 1}) is None
    assert (await user.update(where={"id": "u1"}, data={})).age == 11


@pytest.mark.parametrize(
    ("operation", "expected"),
    [({"increment": 5}, 25), ({"decrement": 5}, 15), ({"multiply": 3}, 60), ({"divide": 3}, 6), ({"set": 7}, 7)],
)
async def test_number_operations(people: Any, operation: dict[str, int], expected: int) -> None:
    assert (await people.user.update(where={"id": "u2"}, data={"age": operation})).age == expected
    assert await people.user.update_many(where={"id": "u2"}, data={"age": {"set": 20}}) == 1
    assert await people.user.update_many(where={"id": "u2"}, data={"age": operation}) == 1
    assert (await people.user.find_unique(where={"id": "u2"})).age == expected


async def test_update_of_the_key(people: Any) -> None:
    changed = await people.user.update(where={"id": "u1"}, data={"id": "renamed"})
    assert changed.id == "renamed"
    assert await people.user.find_unique(where={"id": "u1"}) is None


async def test_update_many(people: Any) -> None:
    assert await people.user.update_many(where={"name": "Ann"}, data={"age": {"increment": 1}, "role": "ADMIN"}) == 2
    assert await found(people, {"role": "ADMIN"}) == ["u0", "u3"]
    assert await people.user.update_many(where={"age": 99}, data={"age": 0}) == 0
    assert await people.user.update_many(where={}, data={"score": 0}) == 6


async def test_upsert(people: Any) -> None:
    user = people.user
    data = {"create": {"id": "u9", "email": "u9@example.com"}, "update": {"age": {"increment": 1}}}
    assert (await user.upsert(where={"id": "u9"}, data=data)).age == 0
    assert (await user.upsert(where={"id": "u9"}, data=data)).age == 1
    other = {"create": {"email": "new@example.com"}, "update": {"name": "x"}}
    assert (await user.upsert(where={"id": "u1"}, data=other)).name == "x"
    assert (await user.upsert(where={"id": "not there"}, data=other)).email == "new@example.com"
    assert await user.count() == 8


async def test_delete(people: Any) -> None:
    assert (await people.user.delete(where={"id": "u1"})).email == "u1@example.com"
    assert await people.user.delete(where={"id": "u1"}) is None
    assert await people.user.delete_many(where={"name": "Ann"}) == 2
    assert await people.user.delete_many() == 3
    assert await people.user.count() == 0


# --- count and group --------------------------------------------------------------------------------------------------


async def test_count(people: Any) -> None:
    user = people.user
    assert await user.count() == 6
    assert await user.count(select={"_all": True, "name": True}) == {"_all": 6, "name": 4}
    assert await user.count(where={"name": "Ann"}) == 2
    assert await user.count(take=4) == 4
    assert await user.count(skip=4) == 2
    assert await user.count(cursor={"id": "u4"}) == 2


async def test_group_by(people: Any) -> None:
    groups = await people.user.group_by(
        by=["name"],
        count=True,
        sum={"age": True},
        avg={"age": True, "score": True},
        min={"age": True},
        max={"email": True},
        order={"name": "asc"},
    )
    assert groups == [
        {
            "name": name,
            "_count": {"_all": 2},
            "_sum": {"age": total},
            "_avg": {"age": total / 2, "score": total / 40},
            "_min": {"age": low},
            "_max": {"email": email},
        }
        for name, total, low, email in [
            (None, 70, 20, "u5@example.com"),
            ("Ann", 30, 0, "u3@example.com"),
            ("Bob", 50, 10, "u4@example.com"),
        ]
    ]


async def test_group_by_with_having_where_take_skip(people: Any) -> None:
    user = people.user
    having = {"age": {"_sum": {"gt": 40}}}
    groups = await user.group_by(by=["name"], sum={"age": True}, having=having, order={"name": "asc"})
    assert groups == [{"name": None, "_sum": {"age": 70}}, {"name": "Bob", "_sum": {"age": 50}}]
    assert await user.group_by(by=["name"], having={"age": {"_avg": {"lt": 15.5}}}) == [{"name": "Ann"}]
    assert await user.group_by(
        by=["name"], having={"name": {"not": None}, "age": {"_count": {"gte": 2}}}, order={"name": "desc"}
    ) == [
        {"name": "Bob"},
        {"name": "Ann"},
    ]
    assert await user.group_by(by=["name"], where={"age": {"lt": 30}}, order={"name": "desc"}, take=1, skip=1) == [
        {"name": "Ann"}
    ]
    assert await user.group_by(by=["name", "age"], where={"age": 0}, count={"_all": True, "name": True}) == [
        {"name": "Ann", "age": 0, "_count": {"_all": 1, "name": 1}}
    ]


# --- what is wrong ----------------------------------------------------------------------------------------------------


async def test_unknown_fields(people: Any, errors: Any) -> None:
    with pytest.raises(errors.FieldNotFoundError):
        await people.user.find_many(where={"nickname": "x"})
    with pytest.raises(errors.FieldNotFoundError):
        await people.user.create(data={"email": "x", "nickname": "x"})
    with pytest.raises(errors.FieldNotFoundError):
        await people.user.update(where={"id": "u1"}, data={"nickname": "x"})
    with pytest.raises(errors.UnknownRelationalFieldError):
        await people.user.find_many(include={"pets": True})
    with pytest.raises(errors.DataError):
        await people.user.find_many(order={"nickname": "asc"})
    with pytest.raises(errors.DataError):
        await people.user.find_many(where={"age": {"about": 3}})


async def test_missing_and_duplicate_values(people: Any, errors: Any) -> None:
    with pytest.raises(errors.MissingRequiredValueError, match="email"):
        await people.user.create(data={"name": "x"})
    with pytest.raises(errors.UniqueViolationError, match="email") as caught:
        await people.user.create(data={"email": "u1@example.com"})
    assert (caught.value.code, caught.value.meta["target"]) == ("P2002", ["email"])
    with pytest.raises(errors.UniqueViolationError):
        await people.user.update(where={"id": "u2"}, data={"email": "u1@example.com"})


async def test_missing_tables_and_columns(people: Any, sql: Sql, errors: Any) -> None:
    sql('ALTER TABLE "Group" RENAME TO "Gruppe"')
    with pytest.raises(errors.TableNotFoundError) as caught:
        await people.group.find_many()
    assert caught.value.code == "P2021"
    assert "Group" in caught.value.table
    sql('ALTER TABLE "Tag" RENAME COLUMN "name" TO "label"')
    with pytest.raises(errors.DataError) as missing:
        await people.tag.find_many()
    assert missing.value.code == "P2022"
