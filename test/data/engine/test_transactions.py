"""tx(), batch_(), and plain writes beside them: isolation, limits, nesting, errors and cancellation."""
# ruff: noqa: PT012 - what raises is the end of a transaction, which is the end of a block

import asyncio
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.engine import (
    CommitUncertainError,
    ConnectionOptions,
    Connections,
    EngineClosedError,
    EngineError,
    get_engine,
)
from autogpt_server.data.engine.sqlite import in_transaction
from data.engine.conftest import Conformance, Sql


def ms(milliseconds: float) -> timedelta:
    return timedelta(milliseconds=milliseconds)


async def names(client: Any) -> list[str]:
    return [tag.name for tag in await client.tag.find_many(order={"name": "asc"})]


async def add(client: Any, name: str) -> None:
    await client.tag.create(data={"name": name})


# --- commit and roll back ---------------------------------------------------------------------------------------------


async def test_commit(db: Any, sql: Sql) -> None:
    async with db.tx() as tx:
        assert tx.is_transaction()
        await add(tx, "a")
        await tx.execute_raw("INSERT INTO Tag VALUES ('b')")
        await tx.tag.create_many(data=[{"name": "c"}, {"name": "d"}])
        assert await names(tx) == ["a", "b", "c", "d"], "it reads what it wrote"
        assert await names(db) == [], "others do not"
        assert sql("SELECT * FROM Tag") == []
    assert not db.is_transaction()
    assert await names(db) == ["a", "b", "c", "d"]


async def test_rollback(db: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.tx() as tx:
            await add(tx, "a")
            _ = 1 / 0
    assert await names(db) == []
    await add(db, "b")
    assert await names(db) == ["b"]


async def test_started_and_ended_by_hand(db: Any, errors: Any) -> None:
    manager = db.tx()
    with pytest.raises(errors.TransactionNotStartedError):
        await manager.commit()
    tx = await manager.start()
    await add(tx, "a")
    await manager.rollback()
    with pytest.raises(errors.TransactionExpiredError, match="rolled back"):
        await names(tx)
    with pytest.raises(errors.TransactionExpiredError):
        await manager.commit()
    manager = db.tx()
    tx = await manager.start()
    await add(tx, "b")
    await manager.commit()
    with pytest.raises(errors.TransactionExpiredError, match="committed"):
        await add(tx, "c")
    assert await names(db) == ["b"]


async def test_an_error_inside_can_be_survived(db: Any, errors: Any) -> None:
    async with db.tx() as tx:
        await add(tx, "a")
        with pytest.raises(errors.UniqueViolationError):
            await tx.user.create(data={"email": "x", "reports": {"create": [{"email": "y"}, {"email": "x"}]}})
        assert await tx.user.count() == 0, "an operation of several statements happens whole or not at all"
        with pytest.raises(errors.UniqueViolationError):
            await tx.tag.create_many(data=[{"name": "b"}, {"name": "a"}])
        user = await tx.user.create(data={"email": "z", "age": 2**31 - 1})
        with pytest.raises(errors.DataError, match="does not fit into 32 bits"):
            await tx.user.update(where={"id": user.id}, data={"age": {"increment": 1}})
        assert (await tx.user.find_unique(where={"id": user.id})).age == 2**31 - 1
        await add(tx, "c")
    assert await names(db) == ["a", "c"]


async def test_read_modify_write_never_loses_an_update(db: Any) -> None:
    await db.user.create(data={"id": "u", "email": "u"})

    async def increment() -> None:
        async with db.tx(max_wait=timedelta(seconds=30), timeout=timedelta(seconds=30)) as tx:
            user = await tx.user.find_unique_or_raise(where={"id": "u"})
            await asyncio.sleep(0)
            await tx.user.update(where={"id": "u"}, data={"age": user.age + 1})

    await asyncio.gather(*[increment() for _ in range(30)])
    assert (await db.user.find_unique(where={"id": "u"})).age == 30


async def test_other_writers_wait_for_the_end(db: Any) -> None:
    async with db.tx() as tx:
        await add(tx, "a")
        waiting = [
            asyncio.create_task(add(db, "b")),
            asyncio.create_task(get_engine(db).write(lambda c: c.execute("INSERT INTO Tag VALUES ('c')") and None)),
        ]
        assert await names(db) == [], "readers do not wait"
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await add(tx, "d")
    await asyncio.gather(*waiting)
    assert await names(db) == ["a", "b", "c", "d"]


async def test_parallel_queries_in_one_transaction(db: Any) -> None:
    async with db.tx() as tx:
        await asyncio.gather(*[add(tx, f"{index:02}") for index in range(20)])
        assert len(await names(tx)) == 20
    assert len(await names(db)) == 20


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_timeout(db: Any, errors: Any) -> None:
    manager = db.tx(timeout=ms(50))
    tx = await manager.start()
    await add(tx, "a")
    await add(db, "b")  # waits until the transaction is rolled back
    assert await names(db) == ["b"]
    with pytest.raises(errors.TransactionExpiredError, match="expired"):
        await add(tx, "c")
    with pytest.raises(errors.TransactionExpiredError, match="expired"):
        await manager.commit()


async def test_timeout_inside_with(db: Any, errors: Any) -> None:
    with pytest.raises(errors.TransactionExpiredError):
        async with db.tx(timeout=ms(20)) as tx:
            await add(tx, "a")
            await add(db, "b")
    assert await names(db) == ["b"]


async def test_max_wait(db: Any, errors: Any) -> None:
    async with db.tx() as tx:
        with pytest.raises(errors.TransactionError, match="Unable to start a transaction"):
            async with db.tx(max_wait=ms(30)):
                pytest.fail("two at once")
        await add(tx, "a")
    assert await names(db) == ["a"]


async def test_max_wait_covers_other_processes(db: Any, sql: Sql, errors: Any) -> None:
    sql("BEGIN IMMEDIATE")
    with pytest.raises(errors.TransactionError, match="Unable to start a transaction"):
        async with db.tx(max_wait=ms(30)):
            pytest.fail("another connection is writing")
    sql("COMMIT")
    async with db.tx() as tx:
        await add(tx, "a")


async def test_busy_timeout(conformance: Conformance, database: Any, sql: Sql, errors: Any) -> None:
    client = conformance.client(database, busy_timeout_s=0.05)
    await client.connect()
    sql("BEGIN IMMEDIATE")
    for write in (add(client, "a"), client.execute_raw("INSERT INTO Tag VALUES ('a')")):
        with pytest.raises(errors.DataError, match="timed out") as caught:
            await write
        assert caught.value.code == "P1008"
    assert await names(client) == [], "readers do not wait"
    sql("COMMIT")
    await add(client, "a")
    await client.disconnect()


# --- nested -----------------------------------------------------------------------------------------------------------


async def test_nested_commit_and_rollback(db: Any) -> None:
    async with db.tx() as outer:
        await add(outer, "a")
        async with outer.tx() as inner:
            await add(inner, "b")
        with pytest.raises(ZeroDivisionError):
            async with outer.tx() as inner:
                await add(inner, "c")
                async with inner.tx() as innermost:
                    await add(innermost, "d")
                assert await names(inner) == ["a", "b", "c", "d"]
                _ = 1 / 0
        assert await names(outer) == ["a", "b"]
        assert await names(db) == []
    assert await names(db) == ["a", "b"]


async def test_nested_is_undone_with_the_outer(db: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.tx() as outer:
            async with outer.tx() as inner:
                await add(inner, "a")
            _ = 1 / 0
    assert await names(db) == []


async def test_the_outer_rests_while_a_nested_one_is_open(db: Any, errors: Any) -> None:
    async with db.tx() as outer:
        async with outer.tx() as inner:
            with pytest.raises(errors.TransactionError, match="nested transaction is open"):
                await add(outer, "a")
            await add(inner, "b")
        await add(outer, "c")
    assert await names(db) == ["b", "c"]


async def test_nested_ends_with_the_outers_time(db: Any, errors: Any) -> None:
    with pytest.raises(errors.TransactionExpiredError):
        async with db.tx(timeout=ms(30)) as outer, outer.tx() as inner:
            await add(inner, "a")
            await add(db, "b")
            await add(inner, "c")
    assert await names(db) == ["b"]


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_cancelled_inside(db: Any) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with db.tx() as tx:
            await add(tx, "a")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await add(db, "b")
    assert await names(db) == ["b"]


async def test_cancelled_at_every_moment(db: Any) -> None:
    """Wherever the cancellation strikes, the writer is free afterwards, and what was written is all there or not at all."""

    async def work(name: str) -> None:
        async with db.tx(max_wait=timedelta(seconds=30)) as tx:
            await add(tx, f"{name} 1")
            async with tx.tx() as nested:
                await add(nested, f"{name} 2")

    for steps in range(40):
        tasks = [asyncio.create_task(work(f"{steps} {index}")) for index in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0.0001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    written = await names(db)
    assert all(name[:-1] + other in written for name in written for other in "12")
    async with db.tx() as tx:
        await add(tx, "end")


async def test_cancelled_twice_while_ending(db: Any) -> None:
    manager = db.tx()
    tx = await manager.start()
    await add(tx, "a")
    task = asyncio.create_task(manager.rollback())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(add(db, "b"), timeout=5)
    assert await names(db) == ["b"]


async def test_a_write_that_waits_can_be_cancelled(db: Any) -> None:
    async with db.tx() as tx:
        waiting = asyncio.create_task(add(db, "never"))
        await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await add(tx, "a")
    assert await names(db) == ["a"]


async def test_disconnect_rolls_back(conformance: Conformance, database: Any, sql: Sql, errors: Any) -> None:
    client = conformance.client(database)
    await client.connect()
    manager = client.tx()
    tx = await manager.start()
    await add(tx, "a")
    await client.disconnect()
    assert sql("SELECT * FROM Tag") == []
    with pytest.raises(errors.ClientNotConnectedError):
        await names(client)


# --- batch ------------------------------------------------------------------------------------------------------------


async def test_batch(db: Any, errors: Any) -> None:
    async with db.batch_() as batch:
        batch.tag.create(data={"name": "a"})
        batch.tag.create_many(data=[{"name": "b"}, {"name": "c"}])
        batch.tag.upsert(where={"name": "d"}, data={"create": {"name": "d"}, "update": {}})
        batch.tag.update(where={"name": "a"}, data={"name": "A"})
        batch.execute_raw("UPDATE Tag SET name = name || ? WHERE name = ?", "!", "b")
        batch.tag.delete(where={"name": "c"})
        assert await names(db) == []
    assert await names(db) == ["A", "b!", "d"]
    with pytest.raises(errors.UniqueViolationError):
        async with db.batch_() as batch:
            batch.tag.create(data={"name": "x"})
            batch.tag.create(data={"name": "d"})
    with pytest.raises(errors.RecordNotFoundError):
        async with db.batch_() as batch:
            batch.tag.create(data={"name": "x"})
            batch.tag.delete(where={"name": "nothing"})
    with pytest.raises(ZeroDivisionError):
        async with db.batch_() as batch:
            batch.tag.create(data={"name": "x"})
            _ = 1 / 0
    assert await names(db) == ["A", "b!", "d"]
    async with db.batch_():
        pass
    batch = db.batch_()
    batch.tag.delete_many()
    await batch.commit()
    await batch.commit()
    assert await names(db) == []


async def test_batch_in_a_transaction(db: Any, errors: Any) -> None:
    async with db.tx() as tx:
        async with tx.batch_() as batch:
            batch.tag.create(data={"name": "a"})
        with pytest.raises(errors.UniqueViolationError):
            async with tx.batch_() as batch:
                batch.tag.create(data={"name": "b"})
                batch.tag.create(data={"name": "a"})
        assert await names(tx) == ["a"]
        assert await names(db) == []
    assert await names(db) == ["a"]


# --- plain SQL --------------------------------------------------------------------------------------------------------


async def test_write_and_read(db: Any) -> None:
    engine = get_engine(db)
    assert await engine.write(lambda c: c.execute("INSERT INTO Tag VALUES ('a')").rowcount) == 1
    assert await engine.read(lambda c: c.execute("SELECT name FROM Tag").fetchall()) == [("a",)]

    def fails(connection: Any) -> None:
        connection.execute("INSERT INTO Tag VALUES ('b')")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await engine.write(fails)
    assert await names(db) == ["a"]
    with pytest.raises(EngineError, match="ended the transaction"):
        await engine.write(lambda c: c.execute("COMMIT") and None)
    await engine.write(lambda c: c.execute("DELETE FROM Tag") and None)
    assert await names(db) == []


async def test_the_reading_connection_cannot_write(db: Any) -> None:
    with pytest.raises(Exception, match="readonly"):
        await get_engine(db).read(lambda c: c.execute("INSERT INTO Tag VALUES ('a')"))
    assert await names(db) == []


async def test_peeking(database: Path) -> None:
    """It is done on the loop's thread, sees what is committed, cannot write, and does not wait there for a lock."""

    def names(connection: sqlite3.Connection) -> tuple[int, list[str]]:
        return threading.get_ident(), [name for (name,) in connection.execute("SELECT name FROM Tag ORDER BY name")]

    def add(connection: sqlite3.Connection, name: str) -> None:
        connection.execute("INSERT INTO Tag VALUES (?)", (name,))

    connections = Connections(ConnectionOptions(database, "NORMAL"))
    with pytest.raises(EngineClosedError):
        await connections.peek(names)
    await connections.open()
    for name in "ab":
        await connections.write(lambda c, name=name: add(c, name))
        assert await connections.peek(names) == (threading.get_ident(), list("ab")[: "ab".index(name) + 1])
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await connections.peek(lambda c: add(c, "c"))

    def busy(connection: sqlite3.Connection) -> tuple[int, list[str]]:
        if threading.get_ident() == here:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
            raise error
        return names(connection)

    here = threading.get_ident()
    where, found = await connections.peek(busy)
    assert where != here
    assert found == ["a", "b"]
    await connections.aclose()
    assert not database.with_name(f"{database.name}-wal").exists()


async def test_reads_are_of_one_moment(db: Any, sql: Sql) -> None:
    def twice(connection: Any) -> list[int]:
        counts: list[int] = []
        for _ in range(2):
            counts += connection.execute("SELECT count(*) FROM Tag").fetchone()
            asyncio.run_coroutine_threadsafe(add(db, f"{counts}"), loop).result(5)
        return counts

    loop = asyncio.get_running_loop()
    assert await get_engine(db).read(twice) == [0, 0]
    assert await db.tag.count() == 2


async def test_write_cancelled_while_it_runs_is_finished_first(db: Any) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(connection: Any) -> None:
        started.set()
        assert go.wait(5)
        connection.execute("INSERT INTO Tag VALUES ('a')")

    task = asyncio.create_task(get_engine(db).write(slow))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(db) == ["a"]


async def test_a_deferred_constraint_fails_the_commit_for_certain(db: Any) -> None:
    def violates(connection: Any) -> None:
        connection.execute("PRAGMA defer_foreign_keys=ON")
        connection.execute("INSERT INTO Comment (text, postId) VALUES ('x', 99)")

    with pytest.raises(sqlite3.IntegrityError):
        await get_engine(db).write(violates)
    assert await db.comment.count() == 0


async def test_a_commit_that_fails_is_uncertain(db: Any, database: Any) -> None:
    """The commit hook stands in for a disk that fails at the last moment."""

    class Broken(sqlite3.Connection):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                super().execute("COMMIT")
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *parameters)

    connection = sqlite3.connect(database, factory=Broken, isolation_level=None)
    with pytest.raises(CommitUncertainError, match="read back"):
        in_transaction(connection, 1, lambda c: c.execute("INSERT INTO Tag VALUES ('a')"))
    connection.close()
    assert await names(db) == ["a"], "here it was durable"


# --- a full disk ------------------------------------------------------------------------------------------------------


async def limit_size(db: Any, pages: int) -> None:
    """``PRAGMA max_page_count`` stands in for a disk of that size."""
    await db.query_raw(f"PRAGMA max_page_count={pages}")


async def test_a_full_disk(db: Any, errors: Any) -> None:
    """SQLite may end the transaction by itself; then nothing of it is committed, and nothing after it runs on its own."""
    (size,) = (await db.query_first("PRAGMA page_count")).values()
    await limit_size(db, size + 3)
    big = "x" * 1_000_000
    for write in (db.tag.create(data={"name": big}), db.tag.create_many(data=[{"name": "a"}, {"name": big}])):
        with pytest.raises(errors.DataError, match="SQLITE_FULL") as caught:
            await write
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert caught.value.__cause__.sqlite_errorname == "SQLITE_FULL"
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await get_engine(db).write(lambda c: c.execute("INSERT INTO Tag VALUES (?)", (big,)) and None)
    with pytest.raises((errors.DataError, errors.TransactionError)):
        async with db.tx() as tx:
            await add(tx, "a")
            with pytest.raises(errors.DataError, match="SQLITE_FULL"):
                await add(tx, big)
            await add(tx, "b")
            raise errors.DataError({})  # SQLite left the transaction open: undo it
    await limit_size(db, 100_000)
    assert await names(db) == []
    await add(db, big)
    assert await db.tag.count() == 1
