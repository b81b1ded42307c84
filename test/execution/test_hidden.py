"""Re-runs are written bit by bit, hidden: nobody sees a part of one, and nothing of it is left when it comes to nothing, wherever that happens."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data import hidden
from autogpt_server.data.db import Database, db_time
from autogpt_server.data.execution import HiddenRunGone, insert_run, look_for_work
from autogpt_server.data.graph import archive_graph
from autogpt_server.data.health import active_runs
from autogpt_server.data.hidden import FormerRunGone, HiddenRuns, remove_some, written
from autogpt_server.data.live import graph_runs
from autogpt_server.data.run_rows import CONVERTED, CommitOutcome, LargeValue, NewRun, ValueRow
from autogpt_server.data.runs import IdempotencyConflict, RunNotFound, get_run, list_node_executions, list_runs
from autogpt_server.execution.start import plan_start
from autogpt_server.utils.settings import Settings
from support.ledger import INLINE_BYTES, Ledger, open_file, store_graph
from support.planning import EPOCH, LIMITS, Game, numbered_ids, topology_of
from support.rerunning import planned, slices, transaction

GRAPH = topology_of("A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a")
LARGE = '"' + "l" * INLINE_BYTES + '"'
OTHER_LARGE = '"' + "o" * INLINE_BYTES + '"'
VALUES = [*map(str, range(60)), LARGE, OTHER_LARGE]
SCRIPT = "\n".join(
    [
        f"A0 {' '.join(f'x={value}' for value in VALUES)} end",
        *(f"B{n} x={v} end" for n, v in enumerate(VALUES)),
        *(f"C{n} end" for n in range(len(VALUES))),
    ]
)
TABLES = (
    "AgentGraphExecution",
    "AgentNodeExecution",
    "AgentNodeExecutionInputOutput",
    "AgentNodeExecutionAttempt",
    "AgentValue",
)


@pytest.fixture(scope="module")
def performed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with a run that has ended."""
    path = tmp_path_factory.mktemp("performed") / "test.db"
    with closing(open_file(path)) as connection:
        store_graph(connection, GRAPH)
        ledger = Ledger(connection, GRAPH)
        ledger.insert(plan_start(GRAPH, "run", {}, new_id=numbered_ids("a"), limits=LIMITS, at=EPOCH))
        game = Game(GRAPH, prefix="b")
        game.carry_on_with(ledger.take_over())
        game.play(SCRIPT)
        assert ledger.commit(game.state).outcome is CommitOutcome.DONE
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, performed: bytes) -> Path:
    (tmp_path / "test.db").write_bytes(performed)
    return tmp_path / "test.db"


@pytest.fixture
def connection(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA foreign_keys=ON")
        opened.execute("PRAGMA synchronous=OFF")
        yield opened


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    async with await Database.open(Settings(database_url=f"file:{path}", sqlite_synchronous="NORMAL")) as opened:
        yield opened


def contents(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    return {table: sorted(connection.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr) for table in TABLES}


def half_written(connection: sqlite3.Connection, run: NewRun, transactions: int) -> None:
    for number, _ in enumerate(slices(connection, run), 1):
        if number == transactions:
            return


def transactions_of(connection: sqlite3.Connection, run: NewRun) -> int:
    """Into how many a run is cut at the most; it is removed again."""
    count = sum(1 for _ in slices(connection, run))
    remove(connection, run.id)
    return count


def remove(connection: sqlite3.Connection, run_id: str) -> None:
    is_gone = False
    while not is_gone:
        with transaction(connection):
            is_gone = remove_some(connection, run_id, slice_s=0.0001)


async def rerun_of(db: Database, *, run_id: str = "rerun", key: str | None = None, chosen: str = "C") -> NewRun:
    run = await db.read(lambda connection: planned(connection, GRAPH, chosen, run_id=run_id))
    return replace(run, idempotency_key=key, request_hash=chosen)


def test_what_is_given_up_anywhere_is_removed_without_a_trace(connection: sqlite3.Connection) -> None:
    before = contents(connection)
    run = planned(connection, GRAPH, "B")
    run.changes.large.append(LargeValue("hash", OTHER_LARGE, len(OTHER_LARGE)))
    run.changes.values.append(ValueRow(run.changes.added[0].id, CONVERTED, 0, "a", None, "hash"))
    count = transactions_of(connection, run)
    assert count > 5
    for transactions in range(1, count + 1):
        half_written(connection, run, transactions)
        assert contents(connection) != before
        remove(connection, run.id)
        assert contents(connection) == before, transactions


def test_a_run_that_is_deleted_meanwhile_is_not_half_copied(path: Path) -> None:
    whole = path.read_bytes()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        count = transactions_of(connection, planned(connection, GRAPH, "C"))
    for transactions in range(1, count + 1):
        path.write_bytes(whole)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys=ON")
            run = planned(connection, GRAPH, "C")
            written_so_far = slices(connection, run)
            for _ in range(transactions):
                next(written_so_far)
            with transaction(connection):
                connection.execute('DELETE FROM "AgentGraphExecution" WHERE "id" = \'run\'')
            with pytest.raises(FormerRunGone):
                list(written_so_far)
            remove(connection, run.id)
            assert all(contents(connection)[table] == [] for table in TABLES[:4])


def test_what_was_removed_meanwhile_becomes_no_run(connection: sqlite3.Connection) -> None:
    run = planned(connection, GRAPH, "C")
    list(slices(connection, run))
    before = contents(connection)
    remove(connection, run.id)
    with pytest.raises(HiddenRunGone), transaction(connection):
        insert_run(connection, written(run))
    assert contents(connection) != before
    for _ in slices(connection, run):  # whoever goes on nevertheless
        remove(connection, run.id)
        break
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        hidden.HiddenRun(run).write_from(connection, 1, slice_s=0)


async def test_nobody_sees_a_run_that_is_being_written(db: Database) -> None:
    run = await rerun_of(db)
    before = await list_runs(db, "graph", limit=10)
    await db.write(lambda connection: hidden.HiddenRun(run).write_from(connection, 0))
    assert await list_runs(db, "graph", limit=10) == before
    now = db_time(datetime.now(UTC)) or ""
    assert await db.read(lambda connection: look_for_work(connection, now=now, limit=10)) == ([], None)
    assert [position.run_id for position in await graph_runs(db, ["graph"], made_after=EPOCH)] == ["run"]
    assert set((await active_runs(db)).values()) == {0}
    with pytest.raises(RunNotFound):
        await get_run(db, run.id)
    with pytest.raises(RunNotFound):
        await list_node_executions(db, run.id, limit=1, graph_id="graph")
    await archive_graph(db, "graph")  # there is no active run


async def test_then_it_is_there_as_a_whole(db: Database) -> None:
    run = await rerun_of(db)
    started = await HiddenRuns(db).create(run)
    assert (started.id, started.is_new) == ("rerun", True)
    assert [node for _, node in started.executions] == ["C"] * len(VALUES)
    assert [listed.id for listed in await list_runs(db, "graph", limit=10)] == ["run", "rerun"]
    executions = await list_node_executions(db, "rerun", limit=1000)
    assert len(executions) == 1 + 2 * len(VALUES)
    assert {
        execution.input_data["a"]["$value"]
        for execution in executions
        if isinstance(execution.input_data.get("a"), dict)
    }


async def test_one_key_makes_one_rerun_however_many_ask_at_once(db: Database, connection: sqlite3.Connection) -> None:
    runs = [await rerun_of(db, run_id=f"rerun{number}", key="once") for number in range(4)]
    hidden_runs = HiddenRuns(db)
    started = await asyncio.gather(*(hidden_runs.create(run) for run in runs))
    assert len({each.id for each in started}) == 1
    assert sum(each.is_new for each in started) == 1
    assert len({tuple(each.executions) for each in started}) == 1
    rows = connection.execute('SELECT "id" FROM "AgentGraphExecution" WHERE "id" <> \'run\'').fetchall()
    assert [run_id for (run_id,) in rows] == [started[0].id]
    with pytest.raises(IdempotencyConflict):
        await hidden_runs.create(await rerun_of(db, run_id="other", key="once", chosen="B"))
    assert connection.execute('SELECT count(*) FROM "AgentGraphExecution"').fetchone() == (2,)


async def test_a_sweep_removes_what_a_process_that_died_has_left_and_nothing_else(
    db: Database, connection: sqlite3.Connection
) -> None:
    before = contents(connection)
    half_written(connection, planned(connection, GRAPH, "C", run_id="left"), 3)
    own = HiddenRuns(db)
    creating = asyncio.create_task(own.create(await rerun_of(db)))
    removed = 0
    while not creating.done():
        removed += await own.sweep()
        await asyncio.sleep(0)
    assert (await creating).is_new
    assert removed == 1
    assert await own.sweep() == 0
    with transaction(connection):
        connection.execute('DELETE FROM "AgentGraphExecution" WHERE "id" = \'rerun\'')
    assert contents(connection) == before


async def test_what_cannot_be_written_leaves_nothing(db: Database, connection: sqlite3.Connection) -> None:
    before = contents(connection)
    run = await rerun_of(db)
    run.changes.added[-1] = run.changes.added[-1]._replace(node_id="nobody")
    with pytest.raises(sqlite3.IntegrityError):
        await HiddenRuns(db).create(run)
    assert contents(connection) == before


async def test_others_write_between_two_slices(db: Database) -> None:
    run = await rerun_of(db)
    creating = asyncio.create_task(HiddenRuns(db, slice_s=0).create(run))
    seen: set[int] = set()
    while not creating.done():
        seen.add(await db.write(_count_hidden))
    await creating
    assert len(seen) > 3, "rows of other transactions than the first and the last"


def _count_hidden(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute(
        'SELECT count(*) FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = \'rerun\''
    ).fetchone()
    return count
