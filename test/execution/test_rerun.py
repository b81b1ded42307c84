"""Re-runs (rule D9), beside the scenarios of `test_rerun_scenarios.py`: of runs that ended in other ways, as runs of their own, and what cannot be run again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autogpt_server.data.execution import abandon_run
from autogpt_server.data.problems import InvalidRunInput
from autogpt_server.data.runs import RunNotFound, RunStillActive
from autogpt_server.execution.events import Due, OwnerDied, Resolution, Resolved, Suspended
from autogpt_server.execution.rerun import InvalidRerun, RerunTooLarge
from autogpt_server.execution.restore import restore_run
from support.ledger import INLINE_BYTES
from support.planning import EPOCH, LIMITS
from support.rerunning import Life, life, outputs
from support.world import check_counters, differences, essence

CHAIN = "A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a"


# --- what ends in other ways -------------------------------------------------------------------------------------------


def test_of_a_run_that_was_ended_at_a_limit_nothing_on_its_way_is_lost() -> None:
    """The limit was reached while a value was being delivered: to `B`, but not to `C` any more."""
    with life("A: free\nB: free\nC: free\nZ: free\nA.x -> B.a\nA.x -> C.a") as lived:
        lived.begin(max_executions=4)
        lived.play("Z0 end\nA0 x=1\nB0 end\nC0 end\nA0 x=2 end")
        assert lived.lines("run") == [
            "A0 COMPLETED",
            "B0 COMPLETED a=1",
            "B1 CANCELED a=2",
            "C0 COMPLETED a=1",
            "Z0 COMPLETED",
        ]
        assert lived.status("run") == "FAILED"
        lived.rerun("Z")
        assert lived.game.started == ["B0", "B1", "C0", "C1", "Z0"]


def test_a_run_that_could_not_be_carried_on_with() -> None:
    """What was running is FAILED, its outcome unknown: it is not done again unasked. What it had yielded, and its error, are told."""
    graph = "A: unsafe\nB: free\nC: free\nE: free\nZ: free\nA.x -> B.a\nB.x -> C.a\nB.error -> E.a"
    with life(graph) as lived:
        lived.begin()
        lived.play("Z0 end\nA0 x=1 x=2 end\nB1 x=20 end\nB0 start")
        connection = lived.connection
        assert abandon_run(
            connection,
            "run",
            epoch=1,
            seq=lived.ledger.seq,
            code="worker_died",
            message="gone",
            ended_at=EPOCH.isoformat(),
        )
        assert lived.lines("run")[1:3] == ["B0 FAILED outcome_unknown a=1", "B1 COMPLETED a=2"]
        lived.rerun("Z")
        assert lived.lines() == [
            "A0 kept COMPLETED",
            "B0 kept FAILED outcome_unknown a=1",
            "B1 kept COMPLETED a=2",
            "C0 QUEUED a=20",
            'E0 QUEUED a="The run was ended while the block ran; what it did outside is not known."',
            "Z0 QUEUED",
        ]
        lived.play("C0 end\nE0 end\nZ0 end")
        assert lived.status() == "COMPLETED"


def test_skipped_and_repeated_executions_are_kept_with_their_attempts() -> None:
    with life("A: unsafe\nB: free @retry=2\nC: free\nA.x -> C.a\nB.x -> C.b") as lived:
        lived.begin()
        lived.play("A0 x=1\nB0 fail:once")
        lived.game.apply(OwnerDied(lived.game.tick()))
        lived.game.apply(Resolved(lived.game.find("A0").id, lived.game.tick(), Resolution.SKIP))
        lived.game.apply(Due(lived.game.tick(3600)))
        lived.play("B0 x=2 end\nC0 fail:boom")
        lived.rerun("C")
        assert lived.lines() == ["A0 kept SKIPPED outcome_unknown", "B0 kept COMPLETED", "C0 QUEUED a=1 b=2"]
        rows = lived.connection.execute(
            'SELECT e."agentGraphExecutionId", a."attempt", a."outcome", a."error", e."attempt", e."retries" FROM "AgentNodeExecutionAttempt" a '
            'JOIN "AgentNodeExecution" e ON e."id" = a."agentNodeExecutionId" ORDER BY 1 DESC'
        ).fetchall()
        assert rows == [("run", 1, "FAILED", "once", 2, 1), ("rerun", 1, "FAILED", "once", 2, 1)]


def test_an_execution_that_waited_is_kept_as_one_that_has_ended() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 x=1")
        execution = lived.game.find("A0")
        lived.game.apply(Suspended(execution.id, lived.game.tick(), until=lived.game.at))
        lived.game.apply(Due(lived.game.tick()))
        lived.play("A0 x=2 end\nB0 end\nB1 fail:boom")
        lived.rerun("B")
        assert (lived.game.started, lived.game.state.wake_at()) == (["B0", "B1"], None)


# --- a re-run is a run -------------------------------------------------------------------------------------------------


def test_copies_are_rows_of_their_own_with_the_old_outcome_and_times() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        long = "l" * INLINE_BYTES
        lived.play(f'A0 x="{long}" x=1 end\nB0 x=10 end\nB1 x=20 end\nC0 fail:boom\nC1 end')
        run = lived.rerun("C")
        former = _rows(lived, "run")
        copies = _rows(lived, "rerun")
        assert [(copy["replayOfId"], copy["status"]) for copy in copies[:3]] == [
            (row["id"], row["status"]) for row in former[:3]
        ]
        same = ("ordinal", "attempt", "addedAt", "queuedAt", "startedAt", "endedAt")
        assert [[copy[name] for name in same] for copy in copies[:3]] == [
            [row[name] for name in same] for row in former[:3]
        ]
        assert [
            [copy[name] for name in ("seq", "addedSeq", "queuedSeq", "startedSeq", "endedSeq")] for copy in copies[:3]
        ] == [
            [1] * 5,
            [2] * 5,
            [3] * 5,
        ]
        assert (run.seq, [copy["addedSeq"] for copy in copies[3:]]) == (5, [5, 5])
        assert outputs(lived.connection, "rerun", "A") == [("x", long), ("x", 1)]
        values = lived.connection.execute('SELECT count(*) FROM "AgentValue"').fetchone()
        assert values == (1,), "a large value is there once"
        lived.connection.execute('DELETE FROM "AgentGraphExecution" WHERE "id" = \'run\'')
        assert lived.lines()[1] == f'B0 kept COMPLETED a="{long}"', "the former run is not needed any more"
        assert lived.connection.execute("PRAGMA foreign_key_check").fetchall() == []


def _rows(lived: Life, run_id: str) -> list[dict[str, Any]]:
    found = lived.connection.execute(
        'SELECT * FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? ORDER BY "id"', (run_id,)
    )
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def test_what_is_written_is_what_was_planned() -> None:
    """Restored again and again, after a crash too, it goes on in the same way."""
    with life("A: free\nP: free\nB: free\nS: free\nA.x -> S.a\nP.x => S.c\nB.x -> S.b\nA.error -> B.a") as lived:
        lived.begin()
        lived.play("P0 x=7 end\nA0 x=1 x=2 fail:boom\nB0 x=10 end\nS0 end")
        lived.rerun("B")
        assert lived.game.state.unhandled == {}
        for step in ("B0 x=11", "B0 x=11 x=12 end", "S0 end"):
            lived.play(step)
            found = differences(essence(restore_run(lived.topology, lived.ledger.load())), essence(lived.game.state))
            assert not found, found
            lived.game.carry_on_with(lived.ledger.take_over())
            lived.game.apply(OwnerDied(lived.game.tick()))
            check_counters(lived.game.state)
        lived.play("S1 end")
        assert lived.status() == "COMPLETED"
        assert lived.lines()[-2:] == ["S0 COMPLETED a=1 b=11 c=7", "S1 COMPLETED a=2 b=12 c=7"]


def test_a_rerun_of_a_rerun_keeps_the_order_of_both() -> None:
    with life("A: free\nB: free\nC: free\nD: free\nA.x -> C.a\nB.x -> C.a\nC.x -> D.a") as lived:
        lived.begin()
        lived.play("B0 x=1\nA0 x=2\nB0 x=3 end\nA0 x=4 end\nC0 end\nC1 end\nC2 end\nC3 fail:boom")
        lived.rerun("C")
        lived.play("C1 x=20 end\nC0 x=10 end\nC2 fail:bang\nC3 x=40 end\nD0 end\nD1 end\nD2 fail:boom")
        lived.rerun("C", former="rerun", run_id="third")
        assert lived.lines("third")[2:] == ["C0 QUEUED a=1", "C1 QUEUED a=2", "C2 QUEUED a=3", "C3 QUEUED a=4"]
        lived.rerun("D", former="rerun", run_id="fourth")
        assert lived.lines("fourth")[-3:] == ["D0 QUEUED a=10", "D1 QUEUED a=20", "D2 QUEUED a=40"]
        assert outputs(lived.connection, "fourth", "C") == outputs(lived.connection, "rerun", "C")


def test_a_rerun_with_nothing_to_do_tells_how_its_parts_ended() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 x=1 end\nB0 fail:boom")
        run = lived.rerun("C")
        row = run.changes.run
        assert (row.status, row.error_code, row.error_message) == (
            "FAILED",
            "node_failed",
            "1 node execution failed: boom",
        )
        assert row.ended_at is not None
        assert lived.status() == "FAILED"


def test_an_execution_that_fails_at_once_sends_its_error_on() -> None:
    with life("A: free\nT: typed\nE: free\nA.x -> T.number\nT.error -> E.a") as lived:
        lived.begin()
        lived.play("A0 x=[] end\nE0 fail:boom")
        lived.rerun("T")
        assert [line.split(" a=")[0] for line in lived.lines()] == [
            "A0 kept COMPLETED",
            "T0 FAILED input_type_mismatch number=[]",
            "E0 QUEUED",
        ]


# --- what cannot be run again ------------------------------------------------------------------------------------------


def test_a_run_that_has_not_ended_or_is_not_there() -> None:
    with life(CHAIN) as lived:
        with pytest.raises(RunNotFound):
            lived.rerun("A")
        lived.begin()
        with pytest.raises(RunStillActive):
            lived.rerun("A")


def test_nodes_that_are_not_there_are_named() -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 end")
        with pytest.raises(InvalidRerun) as caught:
            lived.rerun("B", "C", "nobody", version="A: free\nC: free")
        assert [(problem.code, problem.node_id) for problem in caught.value.problems] == [
            ("node_removed", "B"),
            ("unknown_node", "nobody"),
        ]


def test_an_input_that_does_not_fit_the_repaired_version() -> None:
    with life('I: agentin name="in"\nA: free\nI.result -> A.a') as lived:
        lived.begin({"in": 3})
        lived.play("I0 result=5 end\nA0 fail:boom")
        with pytest.raises(InvalidRunInput) as caught:
            lived.rerun(
                "A", version='I: agentin name="in"\nJ: agentin name="more"\nA: free\nI.result -> A.a\nJ.result -> A.b'
            )
        assert [(problem.code, problem.pin) for problem in caught.value.problems] == [("missing_input", "more")]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_executions": 2}, "MAX_RUN_NODE_EXECUTIONS"),
        ({"max_executions": 4}, "MAX_RUN_NODE_EXECUTIONS"),
        ({"max_bytes": 3}, "MAX_RUN_BYTES"),
    ],
)
def test_a_rerun_beyond_a_limit_is_refused(limits: dict[str, Any], words: str) -> None:
    with life(CHAIN) as lived:
        lived.begin()
        lived.play("A0 x=1 x=2 end\nB0 x=10 end\nB1 x=20 end\nC0 end\nC1 end")
        with pytest.raises(RerunTooLarge, match=words):
            lived.rerun("C", limits=replace(LIMITS, **limits))
        assert lived.lines("rerun") == []
