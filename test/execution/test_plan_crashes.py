"""What becomes of attempts whose owner died (rule D4), as the planner has it."""

import pytest

from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import OwnerDied
from support.planning import Game, play


@pytest.mark.parametrize(
    ("block", "committed", "expected"),
    [
        ("free", "", "A0 QUEUED"),
        ("free", "x=1 x=2", "A0 QUEUED"),
        ("idempotent", "", "A0 QUEUED"),
        ("idempotent", "x=1", "A0 INTERRUPTED outcome_unknown"),
        ("unsafe", "", "A0 INTERRUPTED outcome_unknown"),
        ("unsafe", "x=1", "A0 INTERRUPTED outcome_unknown"),
        ('byinput a="get"', "x=1", "A0 QUEUED"),
        ('byinput a="post"', "", "A0 INTERRUPTED outcome_unknown"),
        ('byinput a="?"', "", "A0 INTERRUPTED outcome_unknown"),
    ],
)
def test_what_was_running_when_the_owner_died(block: str, committed: str, expected: str) -> None:
    game = play(f"A: {block}", f"A0 start {committed}")
    todo = game.apply(OwnerDied(game.tick()))
    assert game.lines() == [expected]
    is_repeated = expected == "A0 QUEUED"
    assert [execution.id for execution in todo.start] == (["e000000"] if is_repeated else [])
    assert game.state.status is (RunStatus.RUNNING if is_repeated else RunStatus.WAITING)


def test_a_dead_attempt_frees_its_slot() -> None:
    game = play(
        "A: free\nB: serial\nU: unsafe @max_parallel=1\nA.x -> B.a\nA.x -> U.a", "A0 x=1 x=2 end\nB0 start\nU0 start"
    )
    game.started.clear()
    game.apply(OwnerDied(game.tick()))
    assert sorted(game.started) == ["B0", "U1"]
    game.play("B0 end\nB1 end\nU1 end")
    assert game.state.status is RunStatus.WAITING


def test_what_was_queued_goes_first_come_first_served_with_what_was_running() -> None:
    game = play("A: free\nB: serial\nA.x -> B.a", "A0 x=1 x=2 x=3 end\nB0 start")
    game.started.clear()
    game.apply(OwnerDied(game.tick()))
    game.play("B0 end\nB1 end\nB2 end")
    assert game.started == ["B0", "B1", "B2"]


def after_a_crash(graph: str, script: str) -> Game:
    """A run whose owner died after the script; what was yielded counts as committed."""
    game = play(graph, script)
    execution = game.find("A0")
    execution.replay = [
        (output.pin, output.text) for output in game.state.changes.outputs if output.execution is execution
    ]
    game.apply(OwnerDied(game.tick()))
    return game


def test_outputs_that_a_pure_block_yields_again_are_not_sent_twice() -> None:
    game = after_a_crash("A: free\nB: free\nA.x -> B.a", "A0 x=1 x=2")
    game.play("A0 x=1 x=2 x=3 end")
    assert game.lines() == ["A0 COMPLETED", "B0 QUEUED a=1", "B1 QUEUED a=2", "B2 QUEUED a=3"]
    assert game.find("A0").attempt == 2
    assert game.state.stats.bytes == 3


@pytest.mark.parametrize("again", ["x=1 x=5", "x=1 y=2", "x=1 end", "end"])
def test_a_block_that_is_not_pure_after_all_fails(again: str) -> None:
    game = after_a_crash("A: free\nB: free\nA.x -> B.a", "A0 x=1 x=2")
    game.play(f"A0 {again}")
    assert game.lines() == ["A0 FAILED not_pure", "B0 QUEUED a=1", "B1 QUEUED a=2"]
    if not again.endswith("end"):
        assert game.stopped == ["A0"]
    game.play("B0 end\nB1 end")
    assert game.state.status is RunStatus.FAILED


def test_a_crash_while_a_run_is_closing_does_not_keep_it_from_ending() -> None:
    game = play("A: free\nB: unsafe\nC: idempotent", "A0 start\nB0 start\nC0 start")
    game.close(RunStatus.FAILED, "limit_exceeded")
    game.apply(OwnerDied(game.tick()))
    assert game.lines() == ["A0 CANCELED", "B0 CANCELED outcome_unknown", "C0 CANCELED"]
    assert game.state.status is RunStatus.FAILED


def test_what_kills_its_worker_again_and_again_fails_and_the_rest_goes_on() -> None:
    game = play("A: free\nB: unsafe\nC: serial\nE: free\nC.x -> E.b\nA.error -> E.a", "A0 x=1\nB0 start\nC0 end")
    game.apply(OwnerDied(game.tick(), is_hopeless=True))
    assert game.lines() == [
        "A0 FAILED worker_died",
        "B0 INTERRUPTED outcome_unknown",
        "C0 COMPLETED",
        'E? INCOMPLETE a="The worker died while the block ran, and so did each one that tried it again."',
    ]
    assert game.state.status is RunStatus.WAITING
