"""What holds of the re-run of any run, from any nodes: it comes to what a run that did everything comes to, and does again only what it has to."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Collection
from contextlib import closing
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from autogpt_server.data.run_rows import NewRun
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import Ended
from autogpt_server.execution.state import RunState
from autogpt_server.utils.ids import new_id
from support.kahn import GraphSpec, LinkSpec, NodeSpec, Outcome, solve
from support.ledger import Ledger, open_memory
from support.made_up import check_rows, graphs, nets_of_joins, quick, without_words
from support.planning import Game
from support.rerunning import rerun
from support.world import Recorded, World, read


class Rerun(World):
    """Performs the re-run of a run that another world has performed in the same database."""

    def follow(self, former: World, chosen: Collection[str], run_id: str, former_id: str) -> RunState | None:
        """Bring it to its end; None if it was born ended."""
        run = rerun(self.connection, former.ledger.topology, chosen, run_id=run_id, former_id=former_id, new_id=new_id)
        self.written = run
        self.ledger = Ledger(self.connection, former.ledger.topology, run_id, seq=run.seq)
        if run.changes.run.ended_at is not None:
            return None
        self.game = Game(former.ledger.topology)
        self.game.new_id = new_id
        return self.run()

    written: NewRun

    def begin(self) -> None:
        self._take_over()


def nodes_reached(graph: GraphSpec, chosen: Collection[str]) -> set[str]:
    found: set[str] = set()
    pending = list(chosen)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [link.sink for link in graph.links if link.source == node]
    return found


def begin(graph: GraphSpec, seed: int, connection: sqlite3.Connection, **options: Any) -> World:
    return World(graph, random.Random(seed), connection, **options)


def close_after(world: World, events: int) -> None:
    """Perform so much of a run, then cancel it, and let what runs end as it likes."""
    world.begin()
    while world.events < events and not world.game.state.status.is_terminal:
        world.step()
    if not world.game.state.status.is_terminal:
        world.game.close(RunStatus.CANCELED)
        for execution_id, steps in world.chance.sample([*world.running.items()], len(world.running)):
            is_stopped = world.chance.random() < 0.5
            for step in steps:
                world.game.apply(Ended(execution_id, world.game.tick(), stopped=True) if is_stopped else step)
                if is_stopped or isinstance(step, Ended):
                    break
    world.commit()


def check_outcome(graph: GraphSpec, expected: Outcome, found: Recorded) -> None:
    for node in graph.nodes:
        rows = found.of(node.name)
        queued = [row for row in rows if row.number is not None]
        assert [row.number for row in queued] == list(range(len(queued)))
        assert [{slot: without_words(value) for slot, value in row.inputs.items()} for row in queued] == [
            firing.inputs for firing in expected.firings[node.name]
        ]
        assert [[(pin, without_words(value)) for pin, value in row.outputs] for row in queued] == [
            firing.outputs for firing in expected.firings[node.name]
        ]
        assert [row.status == "FAILED" for row in queued] == [firing.failed for firing in expected.firings[node.name]]
        assert [row.mixed for row in queued] == [firing.mixed for firing in expected.firings[node.name]]
        incomplete = [row for row in rows if row.number is None]
        assert [
            {slot: without_words(value) for slot, value in row.inputs.items()} for row in incomplete
        ] == expected.incomplete[node.name]
    assert found.status == (RunStatus.FAILED if expected.unhandled else RunStatus.COMPLETED)
    assert found.stats["unhandled"] == len(expected.unhandled)
    assert found.stats["executions"] == len(found.rows)


def kept_nodes(connection: sqlite3.Connection, run_id: str) -> set[str]:
    return {
        node
        for (node,) in connection.execute(
            'SELECT DISTINCT "agentNodeId" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "replayOfId" IS NOT NULL',
            (run_id,),
        )
    }


def sources_last(graph: GraphSpec, again: Collection[str]) -> bool:
    """Whether values are there before a static source that runs again has given its own: then others serve than in a run in which it was the first."""
    return any(link.is_static and link.source in again for link in graph.links) and "N0" not in again


CHOICES = st.sets(st.integers(0, 6), min_size=1, max_size=2)


@given(graph=graphs(), seed=st.integers(0, 2**32), places=CHOICES, crashes=st.sampled_from((0, 0, 3)))
@quick
def test_from_any_node_the_outcome_is_that_of_a_run(
    graph: GraphSpec, seed: int, places: set[int], crashes: int
) -> None:
    chosen = {graph.nodes[place % len(graph.nodes)].name for place in places}
    again = nodes_reached(graph, chosen)
    assume(not sources_last(graph, again))
    expected = solve(graph)
    with closing(open_memory()) as connection:
        former = begin(graph, seed, connection)
        former.run()
        world = Rerun(graph, random.Random(seed + 1), connection, crashes=crashes, checks_restore=True)
        world.follow(former, chosen, "rerun", "run")
        check_outcome(graph, expected, read(connection, "rerun"))
        assert kept_nodes(connection, "rerun") == {row.node for row in read(connection, "run").rows} - again
        # Once more, of the re-run: all that is known of the first run is known of the second.
        world = Rerun(graph, random.Random(seed + 2), connection, crashes=crashes, checks_restore=True)
        world.follow(former, chosen, "third", "rerun")
        check_outcome(graph, expected, read(connection, "third"))


@given(graph=nets_of_joins(), seed=st.integers(0, 2**32), places=CHOICES)
@quick
def test_values_that_do_not_belong_together_are_told_exactly(graph: GraphSpec, seed: int, places: set[int]) -> None:
    """Those that are kept, too: what each of them descends from is known again."""
    chosen = {graph.nodes[place % len(graph.nodes)].name for place in places}
    with closing(open_memory()) as connection:
        former = begin(graph, seed, connection)
        former.run()
        Rerun(graph, random.Random(seed + 1), connection).follow(former, chosen, "rerun", "run")
        check_outcome(graph, solve(graph), read(connection, "rerun"))


STATIC = GraphSpec(
    tuple(NodeSpec(f"N{index}") for index in range(4)),
    (
        LinkSpec("N0", "x", "N1", "a"),
        LinkSpec("N1", "x", "N2", "a"),
        LinkSpec("N0", "x", "N2", "b", is_static=True),
        LinkSpec("N2", "x", "N3", "a"),
    ),
    frozenset({"N0"}),
)


@given(graph=graphs(), seed=st.integers(0, 2**32), places=CHOICES, events=st.integers(0, 60))
@example(graph=STATIC, seed=1, places={3}, events=12)
@quick
def test_of_a_run_that_was_canceled_nothing_is_missing(
    graph: GraphSpec, seed: int, places: set[int], events: int
) -> None:
    """Whatever was chosen: what was canceled is done, what had not come to travel travels."""
    chosen = {graph.nodes[place % len(graph.nodes)].name for place in places}
    with closing(open_memory()) as connection:
        former = begin(graph, seed, connection)
        close_after(former, events)
        world = Rerun(graph, random.Random(seed + 1), connection, checks_restore=True)
        world.follow(former, chosen, "rerun", "run")
        again = {node.name for node in graph.nodes} - kept_nodes(connection, "rerun")
        assume(not sources_last(graph, again))
        check_outcome(graph, solve(graph), read(connection, "rerun"))


@given(graph=graphs(one_source_per_slot=False), seed=st.integers(0, 2**32), places=CHOICES, events=st.integers(0, 90))
@quick
def test_in_any_graph_what_is_kept_stays_as_it_was(graph: GraphSpec, seed: int, places: set[int], events: int) -> None:
    chosen = {graph.nodes[place % len(graph.nodes)].name for place in places}
    with closing(open_memory()) as connection:
        former = begin(graph, seed, connection)
        close_after(former, events)
        world = Rerun(graph, random.Random(seed + 1), connection, crashes=2, checks_restore=True)
        world.follow(former, chosen, "rerun", "run")
        before, after = read(connection, "run"), read(connection, "rerun")
        kept = kept_nodes(connection, "rerun")
        for node in kept:
            assert [_seen(row) for row in after.of(node)] == [_seen(row) for row in before.of(node)]
        assert {row.status for row in after.rows} <= {"COMPLETED", "FAILED", "INCOMPLETE"}
        check_rows(graph, after)


def _seen(row: Any) -> Any:
    return (row.status, row.number, row.mixed, row.inputs, row.outputs)
