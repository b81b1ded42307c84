"""Writes that share a transaction: each is as if it were alone, whatever becomes of the others."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest

from autogpt_server.data.engine import (
    CommitUncertainError,
    ConnectionOptions,
    Connections,
    DatabaseBusyError,
    EngineError,
    get_engine,
)
from autogpt_server.data.engine.threads import MAX_TOGETHER
from autogpt_server.data.engine.together import Outcome, perform_together

Work = Callable[[sqlite3.Connection], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a table of names, and one that refers to it."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE tag (name TEXT PRIMARY KEY)")
        connection.execute("CREATE TABLE use (tag TEXT REFERENCES tag(name) DEFERRABLE INITIALLY DEFERRED)")
    return path


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Connections]:
    connections = Connections(ConnectionOptions(path, "NORMAL"))
    await connections.open()
    yield connections
    await connections.aclose()


@pytest.fixture
def plain(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of the same file, for `perform_together` itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def add(name: str) -> Work:
    """Inserts a name and answers it."""

    def work(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO tag VALUES (?)", (name,))
        return name

    return work


def fail(name: str, error: Exception) -> Work:
    """Inserts a name, and then raises."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO tag VALUES (?)", (name,))
        raise error

    return work


def run(statement: str) -> Work:
    return lambda connection: connection.execute(statement) and None


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM tag ORDER BY name")]


class Held:
    """Keeps the writer busy, so that what is asked for meanwhile has to wait, and counts commits."""

    def __init__(self, connections: Any) -> None:
        self.writer = connections._writer
        self._go = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self.statements: list[str] = []

    async def __aenter__(self) -> Self:
        started = threading.Event()

        def hold(connection: sqlite3.Connection) -> None:
            started.set()
            assert self._go.wait(10)
            connection.set_trace_callback(self.statements.append)

        self._task = asyncio.create_task(self.writer.call(hold))  # not a write: those that wait would join it
        assert await asyncio.to_thread(started.wait, 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._go.set()
        assert self._task is not None
        await self._task

    def count(self, word: str) -> int:
        return sum(statement.split()[0] == word for statement in self.statements)


async def gathered(held: Held, connections: Connections, works: list[Work]) -> list[Any]:
    """What the writes give or raise that wait for the writer at the same time."""
    async with held:
        tasks = [asyncio.create_task(connections.write(work)) for work in works]
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_writes_that_wait_are_one_transaction(opened: Connections) -> None:
    held = Held(opened)
    results = await gathered(held, opened, [add(f"{index:02}") for index in range(20)])
    assert results == [f"{index:02}" for index in range(20)]
    assert (held.count("BEGIN"), held.count("COMMIT")) == (1, 1)
    assert len(await opened.read(names)) == 20


async def test_an_exception_undoes_its_own_part_and_is_raised_to_its_caller(opened: Connections) -> None:
    held, error = Held(opened), ZeroDivisionError("mine")
    results = await gathered(held, opened, [add("a"), fail("b", error), add("c"), add("a"), add("d")])
    assert results[:3] == ["a", error, "c"]
    assert isinstance(results[3], sqlite3.IntegrityError)
    assert results[4] == "d"
    assert held.count("COMMIT") == 1
    assert await opened.read(names) == ["a", "c", "d"]


async def test_the_first_one_may_fail(opened: Connections) -> None:
    held, error = Held(opened), ZeroDivisionError("mine")
    assert await gathered(held, opened, [fail("a", error), add("b"), add("c")]) == [error, "b", "c"]
    assert (held.count("ROLLBACK"), held.count("COMMIT")) == (1, 1)
    assert await opened.read(names) == ["b", "c"]


async def test_later_ones_see_what_earlier_ones_did(opened: Connections) -> None:
    assert await gathered(Held(opened), opened, [add("a"), names, add("b"), names]) == ["a", ["a"], "b", ["a", "b"]]


async def test_no_more_than_so_many_at_once(opened: Connections) -> None:
    held = Held(opened)
    results = await gathered(held, opened, [add(f"{index}") for index in range(2 * MAX_TOGETHER + 1)])
    assert len(set(results)) == 2 * MAX_TOGETHER + 1
    assert held.count("COMMIT") >= 3


async def test_order_is_kept_across_other_calls(opened: Connections) -> None:
    """What is no write ends a transaction and comes after it."""

    def outside(connection: sqlite3.Connection) -> tuple[list[str], bool]:
        return names(connection), connection.in_transaction

    held, each = Held(opened), asyncio.create_task
    async with held:
        tasks: list[Any] = [each(opened.write(add("a"))), each(held.writer.call(outside)), each(opened.write(names))]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == ["a", (["a"], False), ["a"]]
    assert held.count("COMMIT") == 2


async def test_writes_of_a_client_join(db: Any) -> None:
    engine: Any = get_engine(db)
    await db.tag.create(data={"name": "plan"})
    held = Held(engine._connections)
    async with held:
        tasks = [
            asyncio.create_task(db.tag.create(data={"name": "a"})),
            asyncio.create_task(db.tag.create(data={"name": "plan"})),
            asyncio.create_task(db.execute_raw("INSERT INTO Tag VALUES ('b')")),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    answers: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    created, refused, count = answers
    assert (created.name, type(refused).__name__, count) == ("a", "UniqueViolationError", 1)
    assert held.count("COMMIT") == 1
    assert await db.tag.count() == 3


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_write_that_waits_is_withdrawn_when_it_is_cancelled(opened: Connections) -> None:
    async with Held(opened):
        tasks = [asyncio.create_task(opened.write(add(name))) for name in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
    assert await asyncio.gather(tasks[0], tasks[2]) == ["a", "c"]
    assert await opened.read(names) == ["a", "c"]


async def test_a_write_that_has_begun_is_finished_with_its_group(opened: Connections) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        started.set()
        assert go.wait(10)
        add("slow")(connection)

    async with Held(opened):
        tasks = [asyncio.create_task(opened.write(work)) for work in (add("a"), add("b"), slow)]
        await asyncio.sleep(0)
    assert await asyncio.to_thread(started.wait, 10)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks), "nothing is told before it is durable"
    go.set()
    assert await tasks[0] == "a"
    for task in tasks[1:]:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await opened.read(names) == ["a", "b", "slow"]


# --- what concerns all ------------------------------------------------------------------------------------------------


class Disk(sqlite3.Connection):
    """A disk that fails at the last moment: before the transaction is durable, or after."""

    is_durable = False

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            if self.is_durable:
                super().execute("COMMIT")
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(statement, *parameters)


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_commit_that_fails_is_uncertain_for_all(path: Path, plain: sqlite3.Connection, *, is_durable: bool) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, factory=Disk)) as disk:
        disk.is_durable = is_durable
        works = [add("a"), fail("b", ZeroDivisionError("it may have read what is not durable")), add("c")]
        outcomes = perform_together(disk, 1, iter(works))
    errors = [outcome.error for outcome in outcomes]
    assert [type(error) for error in errors] == [CommitUncertainError] * 3
    assert len({id(error) for error in errors}) == 3, "each raises its own"
    assert all("read back" in str(error) for error in errors)
    assert names(plain) == (["a", "c"] if is_durable else [])


async def test_a_full_disk_concerns_all(opened: Connections) -> None:
    (size,) = await opened.write(lambda c: c.execute("PRAGMA page_count").fetchone())
    await opened.write_alone(lambda c: c.execute(f"PRAGMA max_page_count = {size + 3}").fetchone())
    results = await gathered(Held(opened), opened, [add("a"), add("x" * 1_000_000), add("b")])
    assert isinstance(results[1], sqlite3.OperationalError)
    assert results[1].sqlite_errorname == "SQLITE_FULL"
    stored = await opened.read(names)
    for name, result in (("a", results[0]), ("b", results[2])):
        # SQLite decides whether to undo the statement or the whole; nobody is told of success without it.
        assert (result == name) == (name in stored)
        assert result == name or result.sqlite_errorname == "SQLITE_FULL"
    await opened.write_alone(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone())
    assert await opened.write(add("c")) == "c"


def test_when_sqlite_undoes_all_everybody_is_told(plain: sqlite3.Connection) -> None:
    """As it does after some errors of the disk; the rollback stands in for SQLite's own."""

    def breaks(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    never = add("never")
    outcomes = perform_together(plain, 1, iter([add("a"), add("b"), breaks, never]))
    assert [type(outcome.error) for outcome in outcomes] == [sqlite3.OperationalError] * 3
    assert len({id(outcome.error) for outcome in outcomes}) == 3
    assert names(plain) == []
    assert perform_together(plain, 1, iter([never])) == [Outcome("never")]


def test_a_part_that_commits_makes_the_others_uncertain(plain: sqlite3.Connection) -> None:
    outcomes = perform_together(plain, 1, iter([add("a"), run("COMMIT")]))
    assert isinstance(outcomes[0].error, CommitUncertainError)
    assert outcomes[1].error is not None
    assert not plain.in_transaction
    (alone,) = perform_together(plain, 1, iter([run("ROLLBACK")]))
    assert isinstance(alone.error, EngineError)


def test_a_deferred_constraint_fails_the_one_that_violates_it(plain: sqlite3.Connection) -> None:
    def refer(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO use VALUES ('nothing')")

    outcomes = perform_together(plain, 1, iter([add("a"), refer, add("b")]))
    assert [outcomes[0], outcomes[2]] == [Outcome("a"), Outcome("b")]
    assert isinstance(outcomes[1].error, sqlite3.IntegrityError)
    assert names(plain) == ["a", "b"]
    assert plain.execute("SELECT * FROM use").fetchall() == []


async def test_the_busy_timeout_counts_from_the_moment_of_asking(path: Path, plain: sqlite3.Connection) -> None:
    """However many wait, they wait at the same time."""
    connections = Connections(ConnectionOptions(path, "NORMAL", busy_timeout_s=0.3))
    await connections.open()
    plain.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    began = loop.time()
    results = await asyncio.gather(*(connections.write(add(f"{i}")) for i in range(50)), return_exceptions=True)
    assert all(isinstance(result, DatabaseBusyError) for result in results)
    assert loop.time() - began < 50 * 0.3 / 2
    plain.execute("COMMIT")
    assert await connections.write(add("now")) == "now"
    await connections.aclose()
