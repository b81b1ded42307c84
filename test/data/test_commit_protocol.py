"""The commit function and what belongs to it, on a real database."""

import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from autogpt_server.data.execution import (
    WaitingRun,
    abandon_run,
    commit,
    committed_seq,
    run_key,
    waiting_runs,
    waiting_runs_of,
)
from autogpt_server.data.models import Node
from autogpt_server.data.run_rows import (
    CommitOutcome,
    CommitResult,
    NodeExecutionRow,
    RunChanges,
    RunCommit,
    RunRow,
    ValueRow,
)
from support.runtime import Runtime, running
from support.runtime_blocks import ScriptBlock

NOW = "2030-01-01T00:00:00.000+00:00"

T = TypeVar("T")


@pytest.fixture
def store(tmp_path: Path) -> Generator[Runtime]:
    with running(tmp_path, start=False) as runtime:
        yield runtime


@pytest.fixture
def run(store: Runtime) -> str:
    return new_run(store)


def new_run(store: Runtime) -> str:
    node = Node(block_id=ScriptBlock.id, input_default={"steps": []})
    return store.start_run(store.post({"a": node, "b": node}), hint=False)


def write(store: Runtime, work: Callable[[sqlite3.Connection], T]) -> T:
    return store.call(store.db.write(work))


def row(store: Runtime, run_id: str) -> dict[str, Any]:
    def read(connection: sqlite3.Connection) -> dict[str, Any]:
        names = ["epoch", "seq", "workerId", "takeovers", "status", "endedAt"]
        found = connection.execute(
            'SELECT "epoch", "seq", "workerId", "takeovers", "status", "endedAt" FROM "AgentGraphExecution" WHERE "id" = ?',
            (run_id,),
        ).fetchone()
        return dict(zip(names, found, strict=True))

    return store.call(store.db.read(read))


def entry(run_id: str, epoch: int, seqs: tuple[int, int], *, status: str = "RUNNING", **changes: Any) -> RunCommit:
    ended_at = NOW if status == "COMPLETED" else None
    rows = changes.pop("rows", {})
    return RunCommit(
        run_id,
        epoch,
        f"worker of epoch {epoch}",
        *seqs,
        RunChanges(RunRow(status, "{}", ended_at=ended_at), **rows),
        at=NOW,
        **changes,
    )


def outcomes(store: Runtime, *batch: RunCommit) -> list[CommitOutcome]:
    return [result.outcome for result in write(store, lambda connection: commit(connection, batch))]


def test_owners_take_turns(store: Runtime, run: str) -> None:
    assert outcomes(store, entry(run, 1, (1, 4), claim=True)) == [CommitOutcome.DONE]
    assert outcomes(store, entry(run, 1, (4, 5))) == [CommitOutcome.DONE]
    assert row(store, run) | {"status": ""} == {
        "epoch": 1,
        "seq": 5,
        "workerId": "worker of epoch 1",
        "takeovers": 0,
        "status": "",
        "endedAt": None,
    }
    assert outcomes(store, entry(run, 2, (5, 6), claim=True, progress=False)) == [CommitOutcome.DONE]
    before = row(store, run)
    assert before["takeovers"] == 1
    # The former owner comes too late, whatever it says.
    late = [entry(run, 1, (5, 6)), entry(run, 1, (6, 7)), entry(run, 2, (6, 7), claim=True)]
    assert outcomes(store, *late) == [CommitOutcome.FENCED] * 3
    assert row(store, run) == before


def test_no_event_is_written_twice_or_left_out(store: Runtime, run: str) -> None:
    assert outcomes(store, entry(run, 1, (1, 4), claim=True), entry(run, 1, (1, 4), claim=True)) == [
        CommitOutcome.DONE,
        CommitOutcome.FENCED,
    ]
    assert outcomes(store, entry(run, 1, (5, 6))) == [CommitOutcome.FENCED]
    assert row(store, run)["seq"] == 4


def test_takeovers_are_counted_until_there_is_progress(store: Runtime, run: str) -> None:
    outcomes(store, entry(run, 1, (1, 2), claim=True, progress=False))
    outcomes(store, entry(run, 2, (2, 3), claim=True, progress=False))
    outcomes(store, entry(run, 3, (3, 4), claim=True, progress=False))
    assert row(store, run)["takeovers"] == 2
    outcomes(store, entry(run, 3, (4, 5), progress=True))
    assert row(store, run)["takeovers"] == 0


def test_an_ended_run_never_changes(store: Runtime, run: str) -> None:
    assert outcomes(store, entry(run, 1, (1, 2), claim=True, status="COMPLETED")) == [CommitOutcome.DONE]
    before = row(store, run)
    assert (before["status"], before["workerId"]) == ("COMPLETED", None)
    assert outcomes(store, entry(run, 1, (2, 3)), entry(run, 2, (2, 3), claim=True)) == [CommitOutcome.FENCED] * 2
    assert not write(store, lambda c: abandon_run(c, run, epoch=1, seq=2, code="x", message="x", ended_at=NOW))
    assert row(store, run) == before
    assert store.call(store.db.read(lambda connection: run_key(connection, run))) is None


def node_row(run_id: str, execution_id: str, node_id: str, **changes: Any) -> NodeExecutionRow:
    values: dict[str, Any] = {
        "id": execution_id,
        "run_id": run_id,
        "node_id": node_id,
        "status": "QUEUED",
        "ordinal": 5,
        "attempt": 0,
        "seq": 2,
        "added_seq": 2,
        "queued_seq": 2,
        "started_seq": None,
        "ended_seq": None,
        "error_code": None,
        "error": None,
        "mixed_origin": False,
        "origins": None,
        "added_at": NOW,
        "queued_at": NOW,
        "started_at": None,
        "ended_at": None,
        "not_before": None,
        "retries": 0,
        "waits_for": None,
        "child_run_id": None,
        "resumed": None,
        "first_output": 0,
        "signals": None,
        "replay_of_id": None,
    }
    return NodeExecutionRow(**(values | changes))


@pytest.mark.parametrize(
    "value",
    [
        ValueRow("no such execution", "output", 0, "out", "1"),
        ValueRow("new", "output", 2**70, "out", "1"),
        ValueRow("new", "output", 0, "out", '"\ud800"'),
        ValueRow("new", "output", 0, "out", [1]),  # type: ignore[arg-type] - a mistake, as it may happen
    ],
    ids=["foreign key", "number too large", "half a character", "no text"],
)
def test_rows_that_are_refused_harm_no_other_run(store: Runtime, run: str, value: ValueRow) -> None:
    node_id = store.executions(run)[0].node_id
    good = new_run(store)
    bad = entry(run, 1, (1, 2), claim=True, rows={"added": [node_row(run, "new", node_id)], "values": [value]})
    results: list[CommitResult] = write(
        store, lambda connection: commit(connection, [bad, entry(good, 1, (1, 2), claim=True)])
    )
    assert [result.outcome for result in results] == [CommitOutcome.FAILED, CommitOutcome.DONE]
    assert results[0].error is not None
    assert (row(store, run)["epoch"], row(store, good)["epoch"]) == (0, 1)
    assert len(store.executions(run)) == 2


def test_an_ended_execution_never_changes(store: Runtime, run: str) -> None:
    first = store.executions(run)[0]
    ended = node_row(run, first.node_exec_id, first.node_id, status="COMPLETED", ended_at=NOW)
    again = node_row(run, first.node_exec_id, first.node_id, status="RUNNING")
    assert outcomes(
        store,
        entry(run, 1, (1, 2), claim=True, rows={"changed": [ended]}),
        entry(run, 1, (2, 3), rows={"changed": [again]}),
    ) == [CommitOutcome.DONE, CommitOutcome.FAILED]
    assert store.call(store.db.read(lambda connection: committed_seq(connection, run))) == (1, 2)


def test_an_abandoned_run_says_what_is_not_known(store: Runtime, run: str) -> None:
    first, second = store.executions(run)
    started = node_row(run, first.node_exec_id, first.node_id, status="RUNNING", attempt=1)
    outcomes(store, entry(run, 1, (1, 2), claim=True, rows={"changed": [started]}))
    assert not write(store, lambda c: abandon_run(c, run, epoch=1, seq=1, code="c", message="m", ended_at=NOW))
    assert write(store, lambda c: abandon_run(c, run, epoch=1, seq=2, code="c", message="m", ended_at=NOW))
    ended = store.run(run)
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.seq) == ("FAILED", "c", 3)
    assert (ended.stats.failed, ended.stats.canceled, ended.stats.unhandled) == (1, 1, 1)
    executions = {execution.node_exec_id: execution for execution in store.executions(run)}
    assert executions[second.node_exec_id].status == "CANCELED"
    unknown = executions[first.node_exec_id]
    assert unknown.error is not None
    assert (unknown.status, unknown.error.code) == ("FAILED", "outcome_unknown")


def test_the_queue_is_read_by_priority_and_in_part(store: Runtime) -> None:
    runs = [new_run(store) for _ in range(6)]

    def prepare(connection: sqlite3.Connection) -> None:
        update = 'UPDATE "AgentGraphExecution" SET "status" = ?, "priority" = ?, "workerId" = ? WHERE "id" = ?'
        connection.execute(update, ("RUNNING", 0, "w", runs[5]))
        connection.execute(update, ("WAITING", 9, None, runs[0]))
        connection.execute(update, ("QUEUED", 1, None, runs[4]))

    write(store, prepare)
    found = store.call(store.db.read(lambda connection: waiting_runs(connection, now=NOW, limit=3)))
    hinted = store.call(store.db.read(lambda connection: waiting_runs_of(connection, {*runs, "no such run"}, now=NOW)))
    assert hinted == [
        WaitingRun(runs[4], 1, None),
        *(WaitingRun(run, 0, None) for run in runs[1:4]),
        WaitingRun(runs[5], 0, "w"),
    ]
    assert found == [
        WaitingRun(runs[5], 0, "w"),
        WaitingRun(runs[4], 1, None),
        WaitingRun(runs[1], 0, None),
        WaitingRun(runs[2], 0, None),
    ]
