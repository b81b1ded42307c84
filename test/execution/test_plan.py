"""The planner, beside the scenarios of `test_plan_scenarios.py`: what a run tells of itself, its limits, and what is on record of its values."""

import pytest

from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.events import Ended, OwnerDied, Started, Yielded
from autogpt_server.execution.state import Failure
from support.planning import EPOCH, play


def test_a_run_is_queued_until_an_attempt_starts() -> None:
    game = play("A: free")
    assert (game.state.status, game.state.started_at) == (RunStatus.QUEUED, None)
    game.play("A0 start")
    assert (game.state.status, game.state.started_at) == (RunStatus.RUNNING, game.find("A0").started_at)
    game.play("A0 end")
    assert game.state.ended_at == game.find("A0").ended_at


def test_every_event_counts_whether_it_changes_anything_or_not() -> None:
    game = play("A: free", "A0 end")
    seq = game.state.seq
    for event in (
        Started("e000000", EPOCH),
        Yielded("e000000", EPOCH, "x", 1, "1"),
        Ended("e000000", EPOCH),
        Ended("who?", EPOCH),
    ):
        game.apply(event)
    assert game.state.seq == seq + 4
    assert game.lines() == ["A0 COMPLETED"]
    assert game.find("A0").outputs == 0


def test_the_run_tells_the_oldest_failure_and_how_many_there_are() -> None:
    one = play("A: free\nB: free", "A0 end\nB0 fail:late")
    assert one.state.failure == Failure("node_failed", "1 node execution failed: late")
    two = play("A: free\nB: free", "B0 fail:late\nA0 fail:early")
    assert two.state.failure == Failure("node_failed", "2 node executions failed, the first with: early")


def test_a_message_with_half_a_character_or_a_megabyte_is_made_fit_to_be_stored() -> None:
    game = play("A: free\nE: free\nA.error -> E.a", "A0 start")
    game.apply(Ended(game.find("A0").id, game.tick(), Failure("block_failed", "bad \udcff" + "x" * 1_000_000)))
    failure = game.find("A0").failure
    assert failure is not None
    assert failure.message.startswith("bad ?xxx")
    assert len(failure.message) < 11_000
    assert game.find("E0").tokens["a"].value == failure.message


def test_the_time_limit_ends_a_run_at_its_next_event() -> None:
    game = play("A: free\nB: free", "A0 start", max_duration_s=60.0)
    game.tick(120)
    game.play("A0 x=1")
    assert game.state.closing is RunStatus.FAILED
    assert game.stopped == ["A0"]
    game.play("A0 stop")
    assert (game.state.status, game.lines()) == (RunStatus.FAILED, ["A0 CANCELED", "B0 CANCELED"])
    assert game.state.failure is not None
    assert game.state.failure.code == "limit_exceeded"


def test_the_time_limit_does_not_count_the_time_a_run_waited() -> None:
    game = play("A: unsafe\nB: unsafe\nC: free", "A0 start\nB0 start\nC0 end", max_duration_s=60.0)
    game.apply(OwnerDied(game.tick()))
    assert game.state.status is RunStatus.WAITING
    assert game.state.reason == "2 node executions need a decision, because their outcome is not known."
    game.tick(3600)
    # What the next issue does when a person decides: the execution is queued again.
    game.find("A0").become(NodeStatus.QUEUED)
    game.state.moving += 1
    game.play("A0 x=1")
    assert game.state.status is RunStatus.RUNNING
    assert game.state.reason is None
    assert 3600 <= game.state.stats.waited_s < 3610
    game.tick(61)
    game.play("A0 x=1")
    assert game.state.closing is RunStatus.FAILED


def test_nothing_is_released_or_queued_while_a_run_is_closing() -> None:
    game = play("A: free\nB: free\nC: free\nA.x -> B.a\nA.x -> C.a\nB.x -> C.b", "A0 x=1\nB0 start")
    game.close(RunStatus.CANCELED)
    assert game.state.status is RunStatus.RUNNING
    assert game.stopped == ["A0", "B0"]
    game.play("A0 x=2 stop\nB0 x=3 fail:stopped")
    assert game.state.status is RunStatus.CANCELED
    assert game.lines() == [
        "A0 CANCELED",
        "B0 FAILED block_failed a=1",
        "C? INCOMPLETE a=1",
    ]
    game.close(RunStatus.FAILED)
    assert game.state.status is RunStatus.CANCELED


def test_canceling_a_run_that_waits_ends_it_and_keeps_what_is_known() -> None:
    game = play("A: unsafe", "A0 x=1")
    game.apply(OwnerDied(game.tick()))
    game.close(RunStatus.CANCELED)
    assert (game.state.status, game.lines()) == (RunStatus.CANCELED, ["A0 CANCELED outcome_unknown"])


def test_the_duration_is_asked_for_without_an_event() -> None:
    game = play("A: free", "", max_duration_s=60.0)
    assert game.planner.overdue(game.tick(100)) is None  # it has not begun
    game.play("A0 start")
    assert game.planner.overdue(game.at) is None
    failure = game.planner.overdue(game.tick(61))
    assert failure is not None
    game.close(RunStatus.FAILED, failure.code)
    assert game.planner.overdue(game.at) is None


def test_merged_and_converted_values_are_on_record() -> None:
    game = play(
        'A: free\nS: typed number="1" text="t" entries={"a":1}\nA.x -> S.numbers_$_0\nA.y -> S.entries_#_b\nA.error -> S.anything',
        "A0 x=1 y=2 fail:boom",
    )
    rows = [(row.role, row.name, row.text) for row in game.state.changes.inputs if row.execution.node.id == "S"]
    assert rows == [
        ("input", "numbers_$_0", None),
        ("input", "entries_#_b", None),
        ("input", "anything", None),
        ("converted", "number", "1"),
        ("converted", "entries", '{"a":1,"b":2}'),
        ("converted", "numbers", "[1]"),
    ]
    assert game.find("S0").input == {
        "number": 1, "text": "t", "entries": {"a": 1, "b": 2}, "numbers": [1], "anything": "boom",
    }  # fmt: skip


def test_values_that_make_something_too_deep_together_fail_the_execution() -> None:
    deep = "[" * 100 + "]" * 100
    game = play("A: free\nS: free\nT: typed number=1\nA.x -> S.a_$_0\nA.x -> T.text", f"A0 x={deep} end")
    assert [line.split(" a_$_0")[0].split(" text=")[0] for line in game.lines()] == [
        "A0 COMPLETED",
        "S0 FAILED invalid_json_value",
        "T0 FAILED input_type_mismatch",
    ]
    assert game.state.status is RunStatus.FAILED


def test_statuses_move_only_along_the_tables() -> None:
    game = play("A: free", "A0 end")
    execution = game.find("A0")
    for status in NodeStatus:
        with pytest.raises(AssertionError, match="may not become"):
            execution.become(status)
    for run_status in RunStatus:
        with pytest.raises(AssertionError, match="may not become"):
            game.state.become(run_status)
