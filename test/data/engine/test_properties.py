"""Property tests: whatever is asked of Prisma's client gives what plain SQL gives on the same data."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.engine.conftest import Conformance

ours = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ages = st.integers(-2, 3)
names = st.sampled_from([None, "", "a", "A", "ab", "é", "\u2028", "%", "_"])
texts = st.sampled_from(["", "a", "b", "é", "\u2028"])
roles = st.sampled_from(["ADMIN", "USER"])
scores = st.sampled_from([-0.5, 0.0, 0.1, 2.0])


class Databases:
    """A client with its loop, and plain connections to its file and to a copy of it."""

    def __init__(self, conformance: Conformance, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.path = Path(shutil.copy(conformance.empty_database, folder / "prisma.db"))
        copy = shutil.copy(conformance.empty_database, folder / "plain.db")
        self.client: Any = conformance.client(self.path, synchronous="OFF")
        self.runner.run(self.client.connect())
        self.same = sqlite3.connect(self.path, isolation_level=None)
        self.copy = sqlite3.connect(copy, isolation_level=None)
        for connection in (self.same, self.copy):
            connection.execute("PRAGMA synchronous=OFF")

    def ask(self, coroutine: Any) -> Any:
        return self.runner.run(asyncio.wait_for(coroutine, 30))

    def clear(self) -> None:
        for connection in (self.same, self.copy):
            connection.execute("BEGIN")
            for table in ("Comment", "Post", "Profile", "User", "sqlite_sequence"):
                connection.execute(f'DELETE FROM "{table}"')
            connection.execute("COMMIT")

    def close(self) -> None:
        self.runner.run(self.client.disconnect())
        self.same.close()
        self.copy.close()
        self.runner.close()


@pytest.fixture
def databases(conformance: Conformance, tmp_path: Path) -> Iterator[Databases]:
    with closing(Databases(conformance, tmp_path)) as databases:
        yield databases


def insert_users(connection: sqlite3.Connection, users: list[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN")
    for index, (age, name, role, score, views) in enumerate(users):
        stored = {"USER": "user"}.get(role, role)
        connection.execute(
            "INSERT INTO User (id, email, age, name, role, score) VALUES (?, ?, ?, ?, ?, ?)",
            (f"u{index}", f"e{index}", age, name, stored, score),
        )
        connection.executemany(
            "INSERT INTO Post (title, views, authorId) VALUES ('t', ?, ?)", [(view, f"u{index}") for view in views]
        )
    connection.execute("COMMIT")


users = st.lists(st.tuples(ages, names, roles, scores, st.lists(st.integers(0, 2), max_size=2)), max_size=7)

# --- filters ----------------------------------------------------------------------------------------------------------

Condition = tuple[dict[str, Any], str, list[Any]]
"""The same condition for Prisma, and as SQL with parameters."""

OPERATORS = {"equals": "=", "not": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def compare(column: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Condition]:
    def operator(name: str) -> st.SearchStrategy[Condition]:
        return values.map(lambda value: ({column: {name: value}}, f'"{column}" {OPERATORS[name]} ?', [value]))

    def membership(name: str, word: str) -> st.SearchStrategy[Condition]:
        return st.lists(values, max_size=3).map(
            lambda items: ({column: {name: items}}, f'"{column}" {word} ({", ".join("?" * len(items))})', items)
        )

    return st.one_of(
        values.map(lambda value: ({column: value}, f'"{column}" = ?', [value])),
        *[operator(name) for name in OPERATORS],
        membership("in", "IN"),
        membership("not_in", "NOT IN"),
    )


def null(column: str) -> st.SearchStrategy[Condition]:
    conditions: list[Condition] = [
        ({column: None}, f'"{column}" IS NULL', []),
        ({column: {"not": None}}, f'"{column}" IS NOT NULL', []),
    ]
    return st.sampled_from(conditions)


def posts(quantifier: str, condition: Condition) -> Condition:
    where, sql, values = condition
    mine = 'SELECT 1 FROM Post WHERE "authorId" = "User"."id" AND'
    sql = {
        "some": f"EXISTS ({mine} ({sql}))",
        "none": f"NOT EXISTS ({mine} ({sql}))",
        "every": f"NOT EXISTS ({mine} NOT ({sql}))",
    }[quantifier]
    return {"posts": {quantifier: where}}, sql, values


def combine(kind: str, parts: list[Condition]) -> Condition:
    where = {kind: [part[0] for part in parts]}
    values = [value for part in parts for value in part[2]]
    match kind:
        case "NOT":
            return where, " AND ".join(f"NOT ({part[1]})" for part in parts) or "TRUE", values
        case "AND":
            return where, " AND ".join(f"({part[1]})" for part in parts) or "TRUE", values
        case _:
            return where, " OR ".join(f"({part[1]})" for part in parts) or "FALSE", values


simple = st.one_of(
    compare("age", ages),
    compare("name", names.filter(lambda name: name is not None)),
    compare("score", scores),
    null("name"),
    st.builds(posts, st.sampled_from(["some", "none", "every"]), compare("views", st.integers(0, 2))),
)
conditions = st.recursive(
    simple,
    lambda inner: st.builds(combine, st.sampled_from(["AND", "OR", "NOT"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=5,
)


@ours
@given(users, conditions)
def test_filters(databases: Databases, rows: list[tuple[Any, ...]], condition: Condition) -> None:
    databases.clear()
    insert_users(databases.same, rows)
    where, sql, values = condition
    expected = [row[0] for row in databases.same.execute(f"SELECT id FROM User WHERE {sql} ORDER BY id", values)]
    found = databases.ask(databases.client.user.find_many(where=where, order={"id": "asc"}))
    assert [user.id for user in found] == expected
    assert databases.ask(databases.client.user.count(where=where)) == len(expected)


# --- order and paging -------------------------------------------------------------------------------------------------

orders = st.lists(st.tuples(st.sampled_from(["age", "name", "score"]), st.sampled_from(["asc", "desc"])), max_size=2)


@ours
@given(users, orders, st.none() | st.integers(-3, 4), st.integers(0, 3), st.none() | st.integers(0, 8))
def test_order_and_paging(
    databases: Databases,
    rows: list[tuple[Any, ...]],
    order: list[tuple[str, str]],
    take: int | None,
    skip: int,
    cursor: int | None,
) -> None:
    """Prisma's documented meaning, on a list: from the cursor on, skip some, take some; a negative take goes backwards."""
    databases.clear()
    insert_users(databases.same, rows)
    columns = [*order, ("id", "asc")]
    sql = ", ".join(f'"{column}" {direction}' for column, direction in columns)
    expected = [row[0] for row in databases.same.execute(f"SELECT id FROM User ORDER BY {sql}")]
    backwards = take is not None and take < 0
    if backwards:
        expected.reverse()
    if cursor is not None:
        expected = expected[expected.index(f"u{cursor}") :] if f"u{cursor}" in expected else []
    expected = expected[skip:] if take is None else expected[skip : skip + abs(take)]
    if backwards:
        expected.reverse()
    arguments: dict[str, Any] = {
        "order": [{column: direction} for column, direction in columns],
        "skip": skip,
        "take": take,
    }
    if cursor is not None:
        arguments["cursor"] = {"id": f"u{cursor}"}
    found = databases.ask(databases.client.user.find_many(**arguments))
    assert [user.id for user in found] == expected


@ours
@given(users, st.none() | st.integers(-2, 2), st.integers(0, 2), conditions)
def test_include_is_a_query_for_each_parent(
    databases: Databases, rows: list[tuple[Any, ...]], take: int | None, skip: int, condition: Condition
) -> None:
    databases.clear()
    insert_users(databases.same, rows)
    where, sql, values = condition
    arguments = {"take": take, "skip": skip, "order_by": [{"views": "desc"}, {"id": "asc"}]}
    arguments = {key: value for key, value in arguments.items() if value is not None}
    found = databases.ask(
        databases.client.user.find_many(where=where, order={"id": "asc"}, include={"posts": arguments})
    )
    expected: list[tuple[str, list[int]]] = []
    for (user,) in databases.same.execute(f"SELECT id FROM User WHERE {sql} ORDER BY id", values).fetchall():
        query = "SELECT id FROM Post WHERE authorId = ? ORDER BY views DESC, id ASC"
        ids = [row[0] for row in databases.same.execute(query, (user,))]
        if take is not None and take < 0:
            ids = ids[::-1][skip : skip - take][::-1]
        else:
            ids = ids[skip:] if take is None else ids[skip : skip + take]
        expected.append((user, ids))
    assert [(user.id, [post.id for post in user.posts]) for user in found] == expected


# --- writes -----------------------------------------------------------------------------------------------------------

keys = st.integers(0, 4)
Operation = tuple[Callable[[Any], Any], list[tuple[str, tuple[Any, ...]]]]
"""What to ask of the client, and the SQL that does the same."""


def create(key: int, age: int, name: str | None) -> Operation:
    data = {"id": f"u{key}", "email": f"e{key}", "age": age, "name": name}
    insert = "INSERT OR IGNORE INTO User (id, email, age, name) VALUES (?, ?, ?, ?)"
    return lambda db: db.user.create(data=data), [(insert, (f"u{key}", f"e{key}", age, name))]


def update(key: int, amount: int, name: str | None) -> Operation:
    data = {"age": {"increment": amount}, "name": name}
    sql = "UPDATE User SET age = age + ?, name = ? WHERE id = ?"
    return lambda db: db.user.update(where={"id": f"u{key}"}, data=data), [(sql, (amount, name, f"u{key}"))]


def update_many(age: int, name: str | None) -> Operation:
    sql = "UPDATE User SET name = ?, score = score * 2 WHERE age > ?"
    data = {"name": name, "score": {"multiply": 2.0}}
    return lambda db: db.user.update_many(where={"age": {"gt": age}}, data=data), [(sql, (name, age))]


def upsert(key: int, age: int) -> Operation:
    data = {"create": {"id": f"u{key}", "email": f"e{key}", "age": age}, "update": {"age": {"decrement": 1}}}
    sql = "INSERT INTO User (id, email, age) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET age = age - 1"
    return lambda db: db.user.upsert(where={"id": f"u{key}"}, data=data), [(sql, (f"u{key}", f"e{key}", age))]


def delete(key: int) -> Operation:
    posts_of = "UPDATE Post SET authorId = NULL WHERE authorId = ?"
    where = {"id": f"u{key}"}
    user = f"u{key}"
    return lambda db: db.user.delete(where=where), [(posts_of, (user,)), ("DELETE FROM User WHERE id = ?", (user,))]


def write_post(key: int, text: str, views: int) -> Operation:
    insert = "INSERT INTO Post (title, views, authorId) SELECT ?, ?, id FROM User WHERE id = ?"
    data = {"posts": {"create": [{"title": text, "views": views}]}}
    return lambda db: db.user.update(where={"id": f"u{key}"}, data=data), [(insert, (text, views, f"u{key}"))]


def edit_posts(key: int, text: str, views: int) -> Operation:
    sql = "UPDATE Post SET title = ? WHERE authorId = ? AND views >= ?"
    data = {"posts": {"update_many": [{"where": {"views": {"gte": views}}, "data": {"title": text}}]}}
    return lambda db: db.user.update(where={"id": f"u{key}"}, data=data), [(sql, (text, f"u{key}", views))]


def delete_posts(key: int, views: int) -> Operation:
    data = {"posts": {"delete_many": [{"views": views}]}}
    sql = "DELETE FROM Post WHERE authorId = ? AND views = ?"
    return lambda db: db.user.update(where={"id": f"u{key}"}, data=data), [(sql, (f"u{key}", views))]


views = st.integers(0, 2)
operations = st.lists(
    st.one_of(
        st.builds(create, keys, ages, names),
        st.builds(update, keys, ages, names),
        st.builds(update_many, ages, names),
        st.builds(upsert, keys, ages),
        st.builds(delete, keys),
        st.builds(write_post, keys, texts, views),
        st.builds(edit_posts, keys, texts, views),
        st.builds(delete_posts, keys, views),
    ),
    max_size=12,
)
QUERIES = (
    "SELECT id, email, age, name, score FROM User ORDER BY id",
    "SELECT title, views, authorId FROM Post ORDER BY id",
)


@ours
@given(operations, st.booleans())
def test_writes(databases: Databases, chosen: list[Operation], in_transaction: bool) -> None:
    databases.clear()
    unique = databases.client._errors.UniqueViolationError

    async def perform(client: Any) -> None:
        for ask, _ in chosen:
            with suppress(unique):  # a user of that id is there already
                await ask(client)

    async def perform_in_transaction() -> None:
        async with databases.client.tx() as tx:
            await perform(tx)

    databases.ask(perform_in_transaction() if in_transaction else perform(databases.client))
    for _, statements in chosen:
        for sql, parameters in statements:
            databases.copy.execute(sql, parameters)
    for query in QUERIES:
        assert databases.same.execute(query).fetchall() == databases.copy.execute(query).fetchall()
