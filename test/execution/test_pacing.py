"""Sources pause while their sinks have too much to do, so that memory stays bounded however much they would send."""

from collections.abc import Generator
from pathlib import Path

import pytest

from autogpt_server.data.models import Node
from autogpt_server.data.run_rows import cancel_of
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.flow import ENOUGH_READY, MAX_AHEAD, MAX_READY
from autogpt_server.execution.gate import Allowance
from support.effects import World, outside_world
from support.planning import play
from support.running import eventually
from support.runtime import PATIENCE_S, running
from support.runtime_blocks import AsyncScriptBlock, ManyBlock, ScriptBlock

pytestmark = pytest.mark.timeout(240)

SOURCE_AND_SINK = "A: free\nB: serial\nA.x -> B.a"


@pytest.fixture
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


def test_a_node_is_crowded_from_so_many_waiting_executions_on_until_half_of_them_are_gone() -> None:
    game = play(SOURCE_AND_SINK, "A0 " + "x=1 " * (MAX_READY - 1))
    assert game.state.crowded == frozenset()
    game.play("A0 x=1 x=1")
    sink = game.state.topology.nodes[1]
    assert game.state.crowded == {sink.index}
    done = 0
    while game.state.crowded:
        game.play(f"B{done} end")
        done += 1
    assert len(game.state.nodes[sink.index].ready) == ENOUGH_READY


def test_a_source_is_paced_by_its_sinks_but_by_nothing_on_a_loop_with_it() -> None:
    nodes = play(
        "S: free\nA: free\nB: free\nC: free\nS.x -> A.b\nA.x -> B.a\nB.x -> A.a\nB.y -> C.a\nC.x -> C.b", ""
    ).state.topology.nodes
    assert [node.paced_by for node in nodes] == [(1,), (), (3,), ()]


def test_who_has_to_wait_for_its_turn_does_not_hold_back_any_number_of_outputs() -> None:
    game = play("A: free\nB: free @max_parallel=1000\nA.x -> B.a", "A0 " + "x=1 " * (MAX_AHEAD + 5) + "end")
    # All but the first one end; what they yield waits for its turn.
    for number in range(1, MAX_AHEAD):
        game.play(f"B{number} x=2 end")
    sink = game.state.nodes[1]
    assert len(sink.ready) == 5
    assert f"B{MAX_AHEAD}" not in game.started
    game.play("B0 end")
    assert not sink.ready


@pytest.mark.parametrize("block", [ScriptBlock.id, AsyncScriptBlock.id])
def test_a_fast_source_waits_for_a_slow_sink(tmp_path: Path, world: World, block: str) -> None:
    with running(tmp_path, worker_threads=3) as server:
        world.hold("sink")
        graph = server.post(
            {
                "source": Node(block_id=ManyBlock.id, input_default={"count": 20_000}),
                "sink": Node(
                    block_id=block,
                    input_default={"steps": [["act", "sink"]], "effects": "idempotent", "url": world.url},
                    metadata={"max_parallel": 2},
                ),
            },
            [("source.out", "sink.item")],
        )
        run = server.start_run(graph)
        eventually(lambda: server.count(run, NodeStatus.QUEUED) >= MAX_READY, PATIENCE_S)
        world.wait_for("sink", 2)
        # A block of another run finds a place: the source has given its own up while it waits.
        neighbour = server.post({"a": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield", 1]]})})
        assert server.wait_until_ended(server.start_run(neighbour)).status is RunStatus.COMPLETED
        # It has stopped: what was on its way when its sink had enough has come, and no more.
        assert server.count(run, NodeStatus.QUEUED) <= MAX_READY + Allowance().events
        server.put(cancel_of(run, reason="Enough."))
        world.let_go()
        assert server.wait_until_ended(run).status is RunStatus.CANCELED
