"""What holds of any graph, whoever runs when and whatever dies: runs that are made up, against an oracle that knows no events."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import Ended
from autogpt_server.execution.restore import restore_run
from support.kahn import GraphSpec, LinkSpec, NodeSpec, solve
from support.ledger import open_memory
from support.made_up import check_rows, graphs, nets_of_joins, quick, without_words
from support.world import Recorded, World, check_counters, essence, read


def perform(graph: GraphSpec, seed: int, **options: Any) -> Recorded:
    with closing(open_memory()) as connection:
        state = World(graph, random.Random(seed), connection, **options).run()
        return read(connection, state.id)


# --- the properties ----------------------------------------------------------------------------------------------------

DIAMOND = GraphSpec(
    tuple(NodeSpec(f"N{index}") for index in range(4)),
    (
        LinkSpec("N0", "x", "N1", "a"),
        LinkSpec("N0", "x", "N2", "a"),
        LinkSpec("N1", "x", "N3", "a"),
        LinkSpec("N2", "x", "N3", "b"),
    ),
    frozenset({"N0"}),
)
LOOP = GraphSpec(
    tuple(NodeSpec(f"N{index}") for index in range(3)),
    (
        LinkSpec("N0", "x", "N1", "a"),
        LinkSpec("N1", "x", "N1", "b"),
        LinkSpec("N1", "x", "N2", "a"),
        LinkSpec("N0", "x", "N2", "b"),
    ),
    frozenset({"N0"}),
)

LOOP_THEN_JOIN = GraphSpec(
    tuple(NodeSpec(f"N{index}") for index in range(3)),
    (
        LinkSpec("N0", "x", "N1", "a"),
        LinkSpec("N1", "x", "N1", "b"),
        LinkSpec("N1", "x", "N2", "a"),
        LinkSpec("N1", "x", "N2", "b"),
    ),
    frozenset({"N0"}),
)


@given(graph=graphs(), seed=st.integers(0, 2**32), crashes=st.sampled_from((0, 0, 2, 6)))
@example(graph=DIAMOND, seed=1, crashes=2)
@example(graph=LOOP, seed=1, crashes=2)
@example(graph=replace(LOOP_THEN_JOIN, salt=2), seed=1, crashes=2)
@example(graph=replace(LOOP_THEN_JOIN, salt=3), seed=1, crashes=2)
@quick
def test_whoever_runs_when_and_whatever_dies_the_outcome_is_the_same(graph: GraphSpec, seed: int, crashes: int) -> None:
    expected = solve(graph)
    found = perform(graph, seed, crashes=crashes, checks_restore=True)
    for node in graph.nodes:
        queued = [row for row in found.of(node.name) if row.number is not None]
        assert [row.number for row in queued] == list(range(len(queued)))
        assert [{slot: without_words(value) for slot, value in row.inputs.items()} for row in queued] == [
            firing.inputs for firing in expected.firings[node.name]
        ]
        assert [[(pin, without_words(value)) for pin, value in row.outputs] for row in queued] == [
            firing.outputs for firing in expected.firings[node.name]
        ]
        assert [row.status == "FAILED" for row in queued] == [firing.failed for firing in expected.firings[node.name]]
        assert [row.mixed for row in queued] == [firing.mixed for firing in expected.firings[node.name]]
        assert [
            {slot: without_words(value) for slot, value in row.inputs.items()}
            for row in found.of(node.name)
            if row.number is None
        ] == expected.incomplete[node.name]
    assert found.stats["unhandled"] == len(expected.unhandled)
    assert found.status == (RunStatus.FAILED if expected.unhandled else RunStatus.COMPLETED)
    check_rows(graph, found)


@given(graph=nets_of_joins(), seed=st.integers(0, 2**32))
@quick
def test_values_that_do_not_belong_together_are_told_exactly(graph: GraphSpec, seed: int) -> None:
    expected = solve(graph)
    found = perform(graph, seed)
    for node in graph.nodes:
        assert [row.mixed for row in found.of(node.name) if row.number is not None] == [
            firing.mixed for firing in expected.firings[node.name]
        ]


@given(graph=graphs(one_source_per_slot=False), seed=st.integers(0, 2**32), crashes=st.sampled_from((0, 0, 2, 6)))
@quick
def test_in_any_graph_nothing_is_lost_and_nothing_doubled(graph: GraphSpec, seed: int, crashes: int) -> None:
    check_rows(graph, perform(graph, seed, crashes=crashes, checks_restore=True))


@given(graph=graphs(one_source_per_slot=False), seed=st.integers(0, 2**32), events=st.integers(0, 60))
@quick
def test_a_run_that_is_closed_at_any_moment_ends_when_what_runs_has_stopped(
    graph: GraphSpec, seed: int, events: int
) -> None:
    with closing(open_memory()) as connection:
        world = World(graph, random.Random(seed), connection)
        world.begin()
        while world.events < events and not world.game.state.status.is_terminal:
            world.step()
        state = world.game.state
        if state.status.is_terminal:
            return
        world.game.close(RunStatus.CANCELED)
        world.commit()
        if not state.status.is_terminal:
            assert essence(restore_run(state.topology, world.ledger.load())) == essence(state)
        delivered = len(world.game.known)
        for execution_id, steps in world.chance.sample([*world.running.items()], len(world.running)):
            if world.chance.random() < 0.5:
                world.game.apply(next(steps))
            world.game.apply(Ended(execution_id, world.game.tick(), stopped=world.chance.random() < 0.8))
        assert state.status is RunStatus.CANCELED
        assert len(world.game.known) == delivered, "nothing new begins"
        world.commit()
        check_counters(state)
        rows = read(connection, state.id).rows
        assert {row.status for row in rows} <= {"COMPLETED", "FAILED", "CANCELED", "INCOMPLETE"}
