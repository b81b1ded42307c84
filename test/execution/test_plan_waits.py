"""The planner: suspended calls, signals, pauses, time limits, decisions and child runs, event by event (rules D4, D7, D10 and D11)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from autogpt_server.data.run_rows import AttemptOutcome, InboxKind, NewRun, ParentLink, RunChanges, RunRow
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.events import (
    ChildEnded,
    Due,
    Ended,
    OwnerDied,
    Resolution,
    Resolved,
    Signaled,
    Suspended,
    TimedOut,
)
from autogpt_server.execution.plan import MAX_AUTOMATIC_REPEATS
from autogpt_server.execution.state import Execution, Failure, FailureKind
from support.planning import EPOCH, Game, play


def waiting(
    graph: str = "A: free", *, until: datetime | None = None, signal: str | None = "go"
) -> tuple[Game, Execution]:
    """A run whose first execution has yielded 1 and waits."""
    game = play(graph, "A0 x=1")
    execution = game.find("A0")
    game.apply(Suspended(execution.id, game.tick(), until, signal))
    game.started.clear()
    return game, execution


def fail(game: Game, execution: Execution, kind: FailureKind = FailureKind.ORDINARY) -> None:
    game.apply(Ended(execution.id, game.tick(), Failure("block_failed", "no", kind)))


def outcomes(game: Game) -> list[AttemptOutcome]:
    return [attempt.outcome for attempt in game.state.changes.attempts]


# --- suspended calls ---------------------------------------------------------------------------------------------------


def test_what_waits_is_called_again_by_its_signal_and_goes_on_behind_what_it_had_yielded() -> None:
    game, execution = waiting()
    assert (execution.status, game.state.status) == (NodeStatus.WAITING, RunStatus.WAITING)
    game.apply(Signaled(execution.id, game.tick(), "other", 1))
    assert execution.status is NodeStatus.WAITING
    game.apply(Signaled(execution.id, game.tick(), "go", 2))
    assert game.started == ["A0"]
    assert execution.resumed is not None
    assert execution.resumed.value == 2
    game.play("A0 x=3 end")
    assert game.lines() == ["A0 COMPLETED"]
    assert [output.ordinal for output in game.state.changes.outputs] == [0, 1]
    assert outcomes(game) == [AttemptOutcome.SUSPENDED]


def test_signals_that_come_early_are_kept_and_each_serves_one_wait() -> None:
    game = play("A: free", "A0 start")
    execution = game.find("A0")
    for value in (1, 2):
        game.apply(Signaled(execution.id, game.tick(), "go", value))
    for value in (1, 2):
        game.apply(Suspended(execution.id, game.tick(), signal="go"))
        assert execution.resumed is not None
        assert (execution.status, execution.resumed.value) == (NodeStatus.QUEUED, value)
        game.play("A0 start")
    game.apply(Suspended(execution.id, game.tick(), signal="go"))
    assert (execution.status, execution.signals) == (NodeStatus.WAITING, [])


def test_time_or_a_signal_whichever_is_first() -> None:
    game, execution = waiting(until=EPOCH + timedelta(hours=1))
    game.apply(Due(EPOCH + timedelta(minutes=59)))
    assert execution.status is NodeStatus.WAITING
    game.apply(Due(EPOCH + timedelta(hours=1)))
    assert execution.resumed is not None
    assert (execution.status, execution.resumed.value, execution.waits_for) == (NodeStatus.QUEUED, None, None)
    game.apply(Signaled(execution.id, game.tick(), "go", 1))
    assert [signal.value for signal in execution.signals] == [1], "nobody waits for it any more; a later call may"


def test_a_timer_of_a_wait_that_a_signal_has_ended_wakes_nobody() -> None:
    game, execution = waiting(until=EPOCH + timedelta(hours=1))
    game.apply(Signaled(execution.id, game.tick(), "go", 1))
    assert game.state.wake_at() is None
    game.play("A0 start")
    game.apply(Due(EPOCH + timedelta(hours=2)))
    assert execution.status is NodeStatus.RUNNING


def test_who_waits_makes_room_for_others_but_keeps_its_turn() -> None:
    game = play("S: free\nA: serial\nB: free\nS.x -> A.a\nA.x -> B.a", "S0 x=1 x=2 end\nA0 start")
    game.apply(Suspended(game.find("A0").id, game.tick(), signal="go"))
    game.play("A1 x=20 end")
    assert not any(line.startswith("B") for line in game.lines()), "A0 is first"
    game.apply(Signaled(game.find("A0").id, game.tick(), "go"))
    game.play("A0 x=10 end")
    assert [line for line in game.lines() if line.startswith("B")] == ["B0 QUEUED a=10", "B1 QUEUED a=20"]


# --- retries and time limits ---------------------------------------------------------------------------------------------


def test_a_run_that_waits_tells_for_what() -> None:
    game = play("A: free\nB: free\nC: free", "A0 start\nB0 start\nC0 start")
    game.apply(Suspended(game.find("A0").id, game.tick(), signal="go"))
    game.apply(Suspended(game.find("B0").id, game.tick(), signal="go"))
    assert (game.state.status, game.state.reason) == (RunStatus.RUNNING, None)
    game.apply(Suspended(game.find("C0").id, game.tick(), until=EPOCH + timedelta(days=1)))
    assert game.state.status is RunStatus.WAITING
    assert game.state.reason == "2 node executions wait for signals; 1 node execution waits for a time."


def test_a_pause_before_the_next_attempt_keeps_the_run_waiting() -> None:
    game = play('A: free @retry={"max_attempts":2,"delay_s":60}', "A0 start")
    execution = game.find("A0")
    fail(game, execution)
    assert (execution.status, game.state.status) == (NodeStatus.QUEUED, RunStatus.WAITING)
    assert game.state.reason == "1 node execution waits before it is tried again."
    game.started.clear()
    game.apply(Due(game.at + timedelta(seconds=60)))
    assert game.started == ["A0"]
    game.play("A0 start")
    fail(game, execution)
    assert (execution.status, execution.attempt, game.state.status) == (NodeStatus.FAILED, 2, RunStatus.FAILED)


@pytest.mark.parametrize(
    ("block", "script", "kind", "status"),
    [
        ("free", "A0 start", FailureKind.ORDINARY, "QUEUED"),
        ("free", "A0 x=1", FailureKind.ORDINARY, "QUEUED"),
        ("free", "A0 start", FailureKind.PERMANENT, "FAILED"),
        ("idempotent", "A0 start", FailureKind.ORDINARY, "QUEUED"),
        ("idempotent", "A0 x=1", FailureKind.ORDINARY, "FAILED"),
        ('idempotent @release="end"', "A0 x=1", FailureKind.ORDINARY, "QUEUED"),
        ("unsafe", "A0 start", FailureKind.ORDINARY, "FAILED"),
        ("unsafe", "A0 start", FailureKind.NOT_STARTED, "QUEUED"),
        ("unsafe", "A0 start", FailureKind.UNKNOWN, "INTERRUPTED"),
        ("idempotent", "A0 start", FailureKind.UNKNOWN, "QUEUED"),
    ],
)
def test_which_failures_are_followed_by_another_attempt(
    block: str, script: str, kind: FailureKind, status: str
) -> None:
    game = play(f'A: {block} @retry={{"max_attempts":3,"delay_s":0}}', script)
    fail(game, game.find("A0"), kind)
    assert game.find("A0").status == status


def test_what_an_attempt_has_yielded_that_travelled_nowhere_is_forgotten() -> None:
    game = play('A: idempotent @release="end" @retry={"max_attempts":2,"delay_s":0}\nB: free\nA.x -> B.a', "A0 x=1 x=2")
    for output in game.state.changes.outputs:
        output.committed = True
    fail(game, game.find("A0"))
    assert game.state.changes.discarded == [(game.find("A0").id, 0)]
    game.play("A0 x=3 end")
    assert game.lines() == ["A0 COMPLETED", "B0 QUEUED a=3"]


@pytest.mark.parametrize(("block", "status"), [("free", "FAILED"), ("idempotent", "FAILED"), ("unsafe", "INTERRUPTED")])
def test_what_takes_too_long_is_stopped_and_then_judged(block: str, status: str) -> None:
    game = play(f"A: {block} @timeout_s=5", "A0 start")
    execution = game.find("A0")
    game.apply(TimedOut(execution.id, game.tick()))
    assert (execution.status, game.stopped) == (NodeStatus.RUNNING, ["A0"])
    game.play("A0 stop")
    assert execution.failure is not None
    assert (execution.status, execution.failure.code) == (status, "timeout")


def test_what_ends_all_the_same_while_it_is_being_stopped_has_ended() -> None:
    game = play("A: unsafe @timeout_s=5", "A0 start")
    game.apply(TimedOut(game.find("A0").id, game.tick()))
    game.play("A0 end")
    assert game.state.status is RunStatus.COMPLETED


# --- what is not known ---------------------------------------------------------------------------------------------------


def interrupted(policy: str = "ask") -> tuple[Game, Execution]:
    game = play(f'A: unsafe @on_interrupted="{policy}"\nB: free\nA.x -> B.a', "A0 x=1")
    game.apply(OwnerDied(game.tick()))
    return game, game.find("A0")


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [("retry", "A0 QUEUED"), ("skip", "A0 SKIPPED outcome_unknown"), ("fail", "A0 FAILED outcome_unknown")],
)
def test_somebody_decides_once(resolution: str, expected: str) -> None:
    game, execution = interrupted()
    game.apply(Resolved(execution.id, game.tick(), Resolution(resolution)))
    game.apply(Resolved(execution.id, game.tick(), Resolution.FAIL))
    assert game.lines()[0].startswith(expected)


def test_what_came_before_a_repetition_stays() -> None:
    game, execution = interrupted()
    game.apply(Resolved(execution.id, game.tick(), Resolution.RETRY))
    game.play("A0 x=2 end")
    assert game.lines() == ["A0 COMPLETED", "B0 QUEUED a=1", "B1 QUEUED a=2"]
    assert outcomes(game) == [AttemptOutcome.INTERRUPTED]


def test_a_graph_may_decide_to_repeat_but_not_for_ever() -> None:
    game, execution = interrupted("retry")
    for _ in range(MAX_AUTOMATIC_REPEATS - 1):
        game.play("A0 start")
        game.apply(OwnerDied(game.tick()))
        assert execution.status is NodeStatus.QUEUED
    game.play("A0 start")
    game.apply(OwnerDied(game.tick()))
    assert execution.status is NodeStatus.INTERRUPTED
    assert execution.retries == MAX_AUTOMATIC_REPEATS, "asking is no repetition"


@pytest.mark.parametrize(("policy", "status"), [("skip", NodeStatus.SKIPPED), ("fail", NodeStatus.FAILED)])
def test_a_graph_may_decide_beforehand(policy: str, status: NodeStatus) -> None:
    _, execution = interrupted(policy)
    assert execution.status is status


# --- child runs ----------------------------------------------------------------------------------------------------------


def with_child(**limits: Any) -> tuple[Game, Execution]:
    game = play("A: free", "A0 start", **limits)
    execution = game.find("A0")
    parent = ParentLink(run_id="run", execution_id=execution.id, attempt=execution.attempt)
    child = NewRun("child", "graph", 1, "{}", EPOCH, RunChanges(RunRow("QUEUED", "{}")), parent=parent)
    game.apply(Suspended(execution.id, game.tick(), child=child))
    return game, execution


def test_a_child_is_born_with_the_wait_and_its_end_calls_its_parent_once() -> None:
    game, execution = with_child()
    assert [child.id for child in game.state.changes.children] == ["child"]
    game.apply(ChildEnded(execution.id, game.tick(), "another"))
    assert execution.status is NodeStatus.WAITING
    game.apply(ChildEnded(execution.id, game.tick(), "child", executions=5, size_bytes=7))
    assert execution.resumed is not None
    assert (execution.status, execution.resumed.child_run_id) == (NodeStatus.QUEUED, "child")
    game.play("A0 end")
    game.apply(ChildEnded(execution.id, game.tick(), "child", executions=5, size_bytes=7))
    assert game.state.status is RunStatus.COMPLETED
    assert (game.state.stats.child_executions, game.state.stats.child_bytes) == (5, 7)


def test_what_child_runs_have_taken_together_counts_towards_the_limits_of_the_run() -> None:
    """Each of several at once was given all that was left."""
    for taken, words in (
        ({"executions": 5}, "more than 5 node executions, those of its child runs included"),
        ({"size_bytes": 101}, "with those of its child runs, are larger than 100 bytes"),
    ):
        game, execution = with_child(max_executions=5, max_bytes=100)
        game.apply(ChildEnded(execution.id, game.tick(), "child", **taken))
        assert (execution.status, game.state.status) == (NodeStatus.CANCELED, RunStatus.FAILED)
        assert game.state.failure is not None
        assert (game.state.failure.code, words in game.state.failure.message) == ("limit_exceeded", True)


def test_a_run_that_is_ended_waits_for_its_children_to_end() -> None:
    game, execution = with_child()
    game.close(RunStatus.CANCELED)
    assert [(entry.run_id, entry.kind) for entry in game.state.changes.outbox] == [("child", InboxKind.CANCEL)]
    assert game.state.status is RunStatus.WAITING
    assert game.state.reason == "It is being ended, and waits for 1 child run to end."
    game.apply(ChildEnded(execution.id, game.tick(), "child"))
    assert (execution.status, game.state.status) == (NodeStatus.CANCELED, RunStatus.CANCELED)


def test_who_asks_for_a_child_while_the_run_is_ended_gets_none() -> None:
    game = play("A: free", "A0 start")
    game.close(RunStatus.CANCELED)
    child = NewRun("child", "graph", 1, "{}", EPOCH, RunChanges(RunRow("QUEUED", "{}")))
    game.apply(Suspended(game.find("A0").id, game.tick(), child=child))
    assert not game.state.changes.children
    assert game.state.status is RunStatus.CANCELED
