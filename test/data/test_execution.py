"""What a run's owner writes, on a real file: fencing, savepoints, rows that never change again, and the way back into memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from autogpt_server.data.db import db_time
from autogpt_server.data.execution import (
    EXECUTION_COLUMNS,
    abandon_run,
    commit,
    committed_seq,
    insert_run,
    is_committed,
    run_key,
    waiting_runs,
)
from autogpt_server.data.run_rows import CommitOutcome, NodeExecutionRow, ParentLink, RunCommit, ValueRow
from autogpt_server.data.snapshot import load_run
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import Suspended
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start
from autogpt_server.execution.state import RunState
from support.ledger import INLINE_BYTES, Ledger, open_file, store_graph, write
from support.planning import EPOCH, LIMITS, Game, numbered_ids, topology_of

NOW = "2030-01-01T00:00:00.000+00:00"

DONE, FENCED, FAILED = CommitOutcome

GRAPH = topology_of("A: free\nB: free\nC: free\nA.x -> B.a\nA.y -> C.a\nB.x -> C.b")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_file(tmp_path / "test.db")) as opened:
        store_graph(opened, GRAPH)
        yield opened


def begin(connection: sqlite3.Connection, run_id: str = "run") -> tuple[Game, Ledger]:
    """A run that was inserted and has been taken up by its first owner, which has not written yet."""
    state = plan_start(GRAPH, run_id, {}, new_id=numbered_ids(f"{run_id}-new"), limits=LIMITS, at=EPOCH)
    ledger = Ledger(connection, GRAPH, run_id=run_id)
    ledger.insert(state)
    return take_up(ledger), ledger


def take_up(ledger: Ledger) -> Game:
    game = Game(GRAPH, prefix=f"{ledger.run_id}-{ledger.epoch}-")
    game.carry_on_with(ledger.take_over())
    game.took(game.planner.resume())
    return game


def rows(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    """Everything in a table."""
    cursor = connection.execute(f'SELECT * FROM "{table}" ORDER BY 1, 2, 3')
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def everything(connection: sqlite3.Connection) -> dict[str, list[dict[str, Any]]]:
    names = ("AgentGraphExecution", "AgentNodeExecution", "AgentNodeExecutionInputOutput", "AgentValue")
    return {name: rows(connection, name) for name in names}


# --- fencing -----------------------------------------------------------------------------------------------------------


def test_the_first_commit_of_an_owner_claims_the_run(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    assert committed_seq(connection, "run") == (0, 1)
    game.play("A0 start")
    entry = ledger.cut(game.state)
    assert (entry.claim, entry.epoch, entry.from_seq, entry.to_seq) == (True, 1, 1, 2)
    assert [result.outcome for result in write(connection, [entry])] == [DONE]
    assert committed_seq(connection, "run") == (1, 2)
    assert rows(connection, "AgentGraphExecution")[0]["workerId"] == "worker-1"


def test_a_former_owner_can_write_nothing(connection: sqlite3.Connection) -> None:
    first, ledger = begin(connection)
    first.play("A0 start")
    ledger.commit(first.state)
    former = replace(ledger)
    second = take_up(ledger)
    second.play("A0 x=1")
    assert ledger.commit(second.state).outcome is DONE
    before = everything(connection)
    first.play("A0 x=2 end")
    assert former.commit(first.state).outcome is FENCED
    assert everything(connection) == before


def test_of_two_that_take_a_run_over_at_once_one_gets_it(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    other_ledger = replace(ledger)
    other = take_up(other_ledger)
    assert other_ledger.epoch == ledger.epoch == 1
    game.play("A0 start")
    other.play("A0 start")
    assert ledger.commit(game.state).outcome is DONE
    before = everything(connection)
    assert other_ledger.commit(other.state).outcome is FENCED
    assert everything(connection) == before


@pytest.mark.parametrize(
    "change",
    [
        {"from_seq": 1},
        {"from_seq": 3},
        {"epoch": 0},
        {"epoch": 2},
        {"epoch": 1, "claim": True},
        {"run_id": "no such run"},
    ],
)
def test_only_the_range_that_follows_is_taken(connection: sqlite3.Connection, change: dict[str, Any]) -> None:
    game, ledger = begin(connection)
    game.play("A0 start")
    ledger.commit(game.state)
    game.play("A0 x=1")
    before = everything(connection)
    assert [result.outcome for result in write(connection, [replace(ledger.cut(game.state), **change)])] == [FENCED]
    assert everything(connection) == before


def test_a_commit_that_is_repeated_changes_nothing(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 x=1")
    entry = ledger.cut(game.state)
    assert [result.outcome for result in write(connection, [entry, entry])] == [DONE, FENCED]
    before = everything(connection)
    assert [result.outcome for result in write(connection, [entry])] == [FENCED]
    assert everything(connection) == before


def test_takeovers_without_progress_are_counted(connection: sqlite3.Connection) -> None:
    _, ledger = begin(connection)
    for expected in (0, 1, 2):
        game = take_up(ledger)
        game.play("A0 start")
        game.state.seq += 1
        assert write(connection, [ledger.cut(game.state, progress=False)])[0].outcome is DONE
        assert rows(connection, "AgentGraphExecution")[0]["takeovers"] == expected
    game.play("A0 x=1")
    assert ledger.commit(game.state).outcome is DONE
    assert rows(connection, "AgentGraphExecution")[0]["takeovers"] == 0


# --- one transaction for many runs ------------------------------------------------------------------------------------


def test_rows_of_one_run_that_are_refused_harm_no_other(connection: sqlite3.Connection) -> None:
    games = [begin(connection, f"run{number}") for number in range(4)]
    for game, _ in games:
        game.play("A0 x=1 end")
    entries = [ledger.cut(game.state) for game, ledger in games]
    # A node that does not exist, and a commit of another owner's time.
    entries[1].changes.added[0] = entries[1].changes.added[0]._replace(node_id="no such node")
    entries[2] = replace(entries[2], from_seq=7)
    results = write(connection, entries)
    assert [result.outcome for result in results] == [DONE, FAILED, FENCED, DONE]
    assert isinstance(results[1].error, sqlite3.IntegrityError)
    assert [committed_seq(connection, f"run{number}") for number in range(4)] == [(1, 4), (0, 1), (0, 1), (1, 4)]
    by_run = {
        row["agentGraphExecutionId"] for row in rows(connection, "AgentNodeExecution") if row["agentNodeId"] == "B"
    }
    assert by_run == {"run0", "run3"}


@pytest.mark.parametrize(
    "poison",
    [
        ValueRow("e", "output", 0, "x", "half \ud800"),
        ValueRow("e", "output", 2**70, "x", "1"),
        ValueRow("e", "output", 0, "x", None, value_hash="no such value"),
        ValueRow("no such execution", "output", 0, "x", "1"),
        ValueRow("e", "output", 0, "x", cast("str", ["no text"])),  # a mistake, as it may happen
    ],
    ids=["half a character", "a number too large", "a dangling value", "a dangling execution", "no text"],
)
def test_whatever_sqlite_refuses_concerns_one_run(connection: sqlite3.Connection, poison: ValueRow) -> None:
    games = [begin(connection, f"run{number}") for number in range(2)]
    for game, _ in games:
        game.play("A0 start")
    entries = [ledger.cut(game.state) for game, ledger in games]
    target = games[0][0].find("A0").id
    entries[0].changes.values.append(poison._replace(execution_id=target) if poison.execution_id == "e" else poison)
    assert [result.outcome for result in write(connection, entries)] == [FAILED, DONE]
    assert committed_seq(connection, "run0") == (0, 1)


def test_what_concerns_the_whole_database_is_raised(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 start")
    entry = ledger.cut(game.state)
    before = everything(connection)
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError):
        commit(connection, [entry])
    connection.execute("PRAGMA query_only = OFF")
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    assert everything(connection) == before
    assert write(connection, [entry])[0].outcome is DONE


def test_a_transaction_that_is_rolled_back_leaves_nothing(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 x=1 y=2 end")
    before = everything(connection)
    connection.execute("BEGIN IMMEDIATE")
    assert commit(connection, [ledger.cut(game.state)])[0].outcome is DONE
    connection.execute("ROLLBACK")
    assert everything(connection) == before


# --- rows that have ended ----------------------------------------------------------------------------------------------


def test_a_run_that_has_ended_never_changes(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 end")
    assert ledger.commit(game.state).outcome is DONE
    (run,) = rows(connection, "AgentGraphExecution")
    assert (run["status"], run["workerId"], run["endedAt"]) == ("COMPLETED", None, db_time(game.state.ended_at))
    before = everything(connection)
    game.state.seq += 1
    assert ledger.commit(game.state).outcome is FENCED
    assert not abandon_run(connection, "run", epoch=1, seq=run["seq"], code="x", message="x", ended_at="2026")
    assert everything(connection) == before
    assert load_run(connection, "run") is None
    assert run_key(connection, "run") is None


def test_a_node_execution_that_has_ended_never_changes(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 x=1 end")
    ledger.commit(game.state)
    before = everything(connection)
    game.play("B0 start")
    entry = ledger.cut(game.state)
    ended = next(row for row in _execution_rows(before) if row.node_id == "A")
    entry.changes.changed.append(ended._replace(status="RUNNING", ended_at=None))
    assert write(connection, [entry])[0].outcome is FAILED
    assert everything(connection) == before


def _execution_rows(tables: dict[str, list[dict[str, Any]]]) -> list[NodeExecutionRow]:
    return [NodeExecutionRow(*(row[column] for column in EXECUTION_COLUMNS)) for row in tables["AgentNodeExecution"]]


def test_an_execution_of_another_run_cannot_be_changed(connection: sqlite3.Connection) -> None:
    (mine, ledger), (theirs, _) = begin(connection, "run1"), begin(connection, "run2")
    mine.play("A0 start")
    entry = ledger.cut(mine.state)
    entry.changes.changed[0] = entry.changes.changed[0]._replace(id=theirs.find("A0").id)
    assert write(connection, [entry])[0].outcome is FAILED


def test_an_output_is_released_once(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 x=1")
    ledger.commit(game.state)
    game.play("A0 x=2")
    entry = ledger.cut(game.state)
    entry.changes.released.append((99, game.find("A0").id, 0))
    assert write(connection, [entry])[0].outcome is FAILED


# --- what is written ---------------------------------------------------------------------------------------------------


def test_a_value_is_stored_once_however_many_links_it_takes(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    small, large = '"s"', '"' + "l" * INLINE_BYTES + '"'
    game.play(f"A0 x={small} x={large} y={large} end")
    ledger.commit(game.state)
    values = rows(connection, "AgentNodeExecutionInputOutput")
    outputs = [(row["name"], row["data"], row["valueHash"] is not None) for row in values if row["role"] == "output"]
    assert outputs == [("x", small, False), ("x", None, True), ("y", None, True)]
    assert [(row["data"], row["valueHash"], row["sourceOrdinal"]) for row in values if row["role"] == "input"] == [
        (None, None, 0),
        (None, None, 1),
        (None, None, 2),
    ]
    assert [row["data"] for row in rows(connection, "AgentValue")] == [large]
    # Another run with the same value shares it.
    other, other_ledger = begin(connection, "run2")
    other.play(f"A0 x={large}")
    assert other_ledger.commit(other.state).outcome is DONE
    assert len(rows(connection, "AgentValue")) == 1


def test_each_change_carries_the_seq_at_which_it_came(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 x=1 y=2 end\nB0 start")
    ledger.commit(game.state)
    found = {row["agentNodeId"]: row for row in rows(connection, "AgentNodeExecution")}
    names = ("addedSeq", "queuedSeq", "startedSeq", "endedSeq", "seq")
    assert {node: tuple(row[name] for name in names) for node, row in found.items()} == {
        "A": (1, 1, 2, 5, 5),
        "B": (3, 3, 6, None, 6),
        "C": (4, None, None, None, 4),
    }
    outputs = [row for row in rows(connection, "AgentNodeExecutionInputOutput") if row["role"] == "output"]
    assert [(row["name"], row["seq"], row["releasedSeq"]) for row in outputs] == [("x", 3, 3), ("y", 4, 4)]


def test_writing_bit_by_bit_or_all_at_once_comes_to_the_same(tmp_path: Path) -> None:
    script = "A0 x=1 x=2 y=3 end\nB1 x=20 end\nB0 x=10 end\nC0 fail:boom"
    found: list[Any] = []
    for name, at_once in (("one.db", True), ("two.db", False)):
        with closing(open_file(tmp_path / name)) as connection:
            store_graph(connection, GRAPH)
            game, ledger = begin(connection)
            for line in script.splitlines():
                execution, *steps = line.split()
                for step in steps:
                    game.play(f"{execution} {step}")
                    assert at_once or ledger.commit(game.state).outcome is DONE
            if at_once:
                assert ledger.commit(game.state).outcome is DONE
            assert game.state.status is RunStatus.FAILED
            found.append(everything(connection))
    assert found[0] == found[1]


def test_an_idempotency_key_belongs_to_one_run_of_a_graph(connection: sqlite3.Connection) -> None:
    def run(run_id: str) -> None:
        state = plan_start(GRAPH, run_id, {}, new_id=numbered_ids(run_id), limits=LIMITS, at=EPOCH)
        insert_run(
            connection, new_run(state, {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES, idempotency_key="once")
        )

    run("run1")
    before = everything(connection)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.IntegrityError):
        run("run2")
    connection.execute("ROLLBACK")
    assert everything(connection) == before


# --- who has something to do -------------------------------------------------------------------------------------------


def test_runs_that_have_something_to_do(connection: sqlite3.Connection) -> None:
    for number, priority in ((1, 0), (2, 5), (3, 0)):
        state: RunState = plan_start(
            GRAPH, f"run{number}", {}, new_id=numbered_ids(f"{number}"), limits=LIMITS, at=EPOCH
        )
        insert_run(connection, new_run(state, {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES, priority=priority))
    assert [run.id for run in waiting_runs(connection, now=NOW, limit=2)] == ["run2", "run1"]
    game, ledger = begin(connection, "run4")
    game.play("A0 start")
    ledger.commit(game.state)
    waiting, waiting_ledger = begin(connection, "run6")
    waiting.play("A0 start")
    waiting.state.become(RunStatus.WAITING)
    waiting_ledger.commit(waiting.state)
    ended, ended_ledger = begin(connection, "run5")
    ended.play("A0 end")
    ended_ledger.commit(ended.state)
    assert [(run.id, run.worker_id) for run in waiting_runs(connection, now=NOW, limit=10)] == [
        ("run4", "worker-1"),
        ("run2", None),
        ("run1", None),
        ("run3", None),
    ]
    key = run_key(connection, "run4")
    assert key is not None
    assert (key.graph_id, key.graph_version, key.epoch, key.seq) == ("graph", 1, 1, 2)


def test_a_run_that_cannot_be_carried_on_is_ended_and_says_so(connection: sqlite3.Connection) -> None:
    game, ledger = begin(connection)
    game.play("A0 x=1 x=2 y=3 end\nB0 start")
    ledger.commit(game.state)
    seq = game.state.seq
    assert not abandon_run(connection, "run", epoch=1, seq=seq - 1, code="c", message="m", ended_at="2026")
    assert not abandon_run(connection, "run", epoch=2, seq=seq, code="c", message="m", ended_at="2026")
    assert abandon_run(connection, "run", epoch=1, seq=seq, code="internal_error", message="why", ended_at="2026-01-02")
    (run,) = rows(connection, "AgentGraphExecution")
    assert (run["status"], run["errorCode"], run["errorMessage"], run["seq"], run["workerId"]) == (
        "FAILED",
        "internal_error",
        "why",
        seq + 1,
        None,
    )
    found = {(row["agentNodeId"], row["ordinal"]): row for row in rows(connection, "AgentNodeExecution")}
    assert {key: row["status"] for key, row in found.items()} == {
        ("A", 0): "COMPLETED",
        ("B", 0): "FAILED",
        ("B", 1): "CANCELED",
        ("C", None): "INCOMPLETE",
    }
    assert found["B", 0]["errorCode"] == "outcome_unknown"
    assert {row["endedSeq"] for key, row in found.items() if key[0] == "B"} == {seq + 1}
    assert '"failed":1' in run["stats"]
    assert '"canceled":1' in run["stats"]
    assert '"unhandled":1' in run["stats"]


def test_a_child_that_is_over_before_it_begins_is_told_to_its_parent(connection: sqlite3.Connection) -> None:
    """Found by the simulation: at a limit a child run may be born ended, and its parent waited for ever."""
    game, ledger = begin(connection)
    game.play("A0 start")
    execution = game.find("A0")
    spent = replace(LIMITS, max_executions=0)
    state = plan_start(ledger.topology, "child", {}, new_id=numbered_ids("c"), limits=spent, at=EPOCH, depth=1)
    assert state.status is RunStatus.FAILED
    parent = ParentLink(run_id="run", execution_id=execution.id, attempt=1)
    child = new_run(state, {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES, parent=parent)
    game.apply(Suspended(execution.id, game.tick(), child=child))
    assert ledger.commit(game.state).outcome is CommitOutcome.DONE
    (entry,) = rows(connection, "AgentRunInboxEntry")
    assert (entry["runId"], entry["kind"], entry["nodeExecutionId"], entry["key"]) == (
        "run",
        "child_ended",
        execution.id,
        "child",
    )
    assert [run.id for run in waiting_runs(connection, now=db_time(EPOCH) or "", limit=1) if run.has_news] == ["run"]


def test_of_two_that_claim_the_same_epoch_it_is_told_whose_commit_is_there(connection: sqlite3.Connection) -> None:
    """Found by the simulation: a COMMIT that raised was taken for done because another worker had claimed the same epoch and seq."""
    game, ledger = begin(connection)
    game.play("A0 start")
    entry = replace(ledger.cut(game.state), worker_id="one")
    assert write(connection, [entry])[0].outcome is CommitOutcome.DONE
    assert is_committed(connection, entry)
    assert not is_committed(connection, replace(entry, worker_id="two"))


def test_a_run_that_is_not_there_is_none(connection: sqlite3.Connection) -> None:
    assert load_run(connection, "?") is None
    assert committed_seq(connection, "?") is None
    assert run_key(connection, "?") is None


def test_an_empty_batch(connection: sqlite3.Connection) -> None:
    empty: list[RunCommit] = []
    assert commit(connection, empty) == []
