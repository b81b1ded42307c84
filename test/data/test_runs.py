"""Runs and node executions as people read them, and the few things that are done to a run from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.runs import (
    IdempotencyConflict,
    RunNotFound,
    RunStillActive,
    StartedRun,
    changes_since,
    create_run,
    delete_run,
    get_run,
    get_value,
    list_node_executions,
    list_runs,
)
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start
from autogpt_server.utils.settings import Settings
from support.ledger import INLINE_BYTES, Ledger, open_file, store_graph
from support.planning import EPOCH, LIMITS, Game, numbered_ids, topology_of

GRAPH = topology_of("A: free a=1\nB: typed number=1\nC: free\nA.x -> B.number\nA.y_#_k -> C.a\nB.x -> C.b")
LARGE = '"' + "l" * INLINE_BYTES + '"'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(open_file(tmp_path / "test.db")) as connection:
        store_graph(connection, GRAPH)
    return tmp_path / "test.db"


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    async with await Database.open(Settings(database_url=f"file:{path}")) as opened:
        yield opened


def perform(path: Path, script: str, run_id: str = "run", *, step_by_step: bool = False) -> Game:
    """A run of which the script has happened."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        ledger = Ledger(connection, GRAPH, run_id=run_id)
        state = plan_start(GRAPH, run_id, {}, new_id=numbered_ids(f"{run_id}-a"), limits=LIMITS, at=EPOCH)
        ledger.insert(state)
        game = Game(GRAPH, prefix=f"{run_id}-b")
        game.carry_on_with(ledger.take_over())
        for line in script.splitlines():
            name, *steps = line.split()
            for step in steps:
                game.play(f"{name} {step}")
                if step_by_step:
                    ledger.commit(game.state)
        if not step_by_step:
            ledger.commit(game.state)
        return game


SCRIPT = 'A0 x="1" x=2 y={"k":null} end\nB1 x=20 end\nB0 x=10 fail:boom\nC0 end'


async def test_a_run(path: Path, db: Database) -> None:
    game = perform(path, SCRIPT)
    run = await get_run(db, "run")
    assert (run.status, run.is_ended, run.seq) == (RunStatus.FAILED, True, game.state.seq)
    assert run.stats.model_dump() == asdict(game.state.stats)
    assert run.error is not None
    assert run.error.message == "1 node execution failed: boom"
    assert [listed.id for listed in await list_runs(db, "graph", limit=5)] == ["run"]
    assert await list_runs(db, "graph", limit=5, statuses=[RunStatus.QUEUED]) == []
    with pytest.raises(RunNotFound):
        await get_run(db, "none")


async def test_node_executions_with_what_entered_and_left_them(path: Path, db: Database) -> None:
    perform(path, SCRIPT)
    found = await list_node_executions(db, "run", limit=10)
    assert [(e.node_id, e.status, e.input_data, e.output_data) for e in found] == [
        ("A", "COMPLETED", {"a": 1}, {"x": ["1", 2], "y": [{"k": None}]}),
        ("B", "FAILED", {"number": 1}, {"x": [10], "error": ["boom"]}),
        ("B", "COMPLETED", {"number": 2}, {"x": [20]}),
        ("C", "COMPLETED", {"a": None, "b": 10}, {}),
        ("C", "INCOMPLETE", {"b": 20}, {}),
    ]
    pages = [await list_node_executions(db, "run", limit=2, after_id=after) for after in (None, found[1].node_exec_id)]
    assert [e for page in pages for e in page] == found[:4]


async def test_large_values_are_shown_by_name(path: Path, db: Database) -> None:
    perform(path, f'A0 x=1 x={LARGE} y={{"k":{LARGE}}}')
    first, _, failed, third = await list_node_executions(db, "run", limit=10)
    shown = first.output_data["x"][1]
    assert shown == {"$value": shown["$value"], "size": len(LARGE), "preview": LARGE[:200]}
    assert await get_value(db, shown["$value"]) == LARGE
    assert await get_value(db, "none") is None
    assert (failed.node_id, failed.status, failed.input_data["number"]) == ("B", "FAILED", shown)
    # A part of a large value is shown as it is.
    assert third.input_data["a"] == LARGE.strip('"')
    full = await list_node_executions(db, "run", limit=10, full=True)
    assert full[0].output_data["x"] == [1, LARGE.strip('"')]


async def test_every_change_is_told_once_in_order_however_small_the_pages(path: Path, db: Database) -> None:
    game = perform(path, SCRIPT)
    whole = await changes_since(db, "run", 0)
    assert whole.seq == game.state.seq
    told = [describe(node) for node in whole.nodes]
    assert told == [
        "1 A QUEUED", "2 A RUNNING", "3 B QUEUED", "4 B QUEUED", "5 C INCOMPLETE", "6 A COMPLETED",
        "7 B RUNNING", "9 B COMPLETED", "10 B RUNNING", "11 C QUEUED", "12 B FAILED", "12 C INCOMPLETE", "13 C RUNNING", "14 C COMPLETED",
    ]  # fmt: skip
    for limit in (1, 2, 3, 5, 100):
        after, seen = 0, list[str]()
        while after < game.state.seq:
            page = await changes_since(db, "run", after, limit=limit)
            assert after < page.seq
            assert all(after < node.seq <= page.seq for node in page.nodes)
            seen += [describe(node) for node in page.nodes]
            after = page.seq
        assert seen == told, f"pages of {limit}"
    with pytest.raises(RunNotFound):
        await changes_since(db, "none", 0)


def describe(node: NodeExecution) -> str:
    return f"{node.seq} {node.node_id} {node.status}"


async def test_an_execution_that_is_over_when_it_is_read_has_been_through_all_of_it(path: Path, db: Database) -> None:
    perform(path, "A0 x=1 end\nB0 x=2 end", step_by_step=True)
    states = [node for node in (await changes_since(db, "run", 0)).nodes if node.node_id == "A"]
    assert [state.status for state in states] == [NodeStatus.QUEUED, NodeStatus.RUNNING, NodeStatus.COMPLETED]
    assert [state.start_time is None for state in states] == [True, False, False]
    assert [state.output_data for state in states] == [{}, {}, {"x": [1]}]


async def test_a_key_makes_one_run_of_one_request(db: Database) -> None:
    async def request(run_id: str, request_hash: str = "h") -> StartedRun:
        state = plan_start(GRAPH, run_id, {}, new_id=numbered_ids(run_id), limits=LIMITS, at=EPOCH)
        run = new_run(
            state,
            {},
            created_at=EPOCH,
            inline_value_bytes=INLINE_BYTES,
            idempotency_key="once",
            request_hash=request_hash,
        )
        return await create_run(db, run)

    first = await request("run1")
    again = await request("run2")
    assert (first.is_new, again.is_new) == (True, False)
    assert (first.id, list(first.executions)) == (again.id, list(again.executions)) == ("run1", [("run1000000", "A")])
    with pytest.raises(IdempotencyConflict):
        await request("run3", "other")
    assert [run.id for run in await list_runs(db, "graph", limit=5)] == ["run1"]


async def test_an_ended_run_is_deleted_with_all_that_only_it_had(path: Path, db: Database) -> None:
    perform(path, f"A0 x=1 y={LARGE} end\nB0 end", "run1")
    perform(path, f"A0 y={LARGE}", "run2")
    with pytest.raises(RunStillActive):
        await delete_run(db, "run2")
    await delete_run(db, "run1")
    with pytest.raises(RunNotFound):
        await delete_run(db, "run1")
    (execution,) = await list_node_executions(db, "run2", limit=10)
    assert await get_value(db, execution.output_data["y"][0]["$value"]) == LARGE
    assert await list_node_executions(db, "run1", limit=10) == []
