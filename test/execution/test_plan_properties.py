"""What holds of any graph, whoever runs when and whatever dies: runs that are made up, against an oracle that knows no events."""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import Ended
from autogpt_server.execution.restore import restore_run
from autogpt_server.utils import json
from support.kahn import ERROR, GraphSpec, LinkSpec, NodeSpec, solve
from support.ledger import open_memory
from support.world import Recorded, Row, World, check_counters, essence, read

quick = settings(
    max_examples=int(os.environ.get("PLANNER_EXAMPLES", "150")),
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- graphs ------------------------------------------------------------------------------------------------------------

SLOTS = ("a", "b", "c_#_p", "c_#_q")
PINS = ("x", "x", "x", "x", "y", "error")


@st.composite
def graphs(draw: st.DrawFn, *, one_source_per_slot: bool = True) -> GraphSpec:
    """Small graphs with joins, diamonds, loops, self-links, static pins and linked errors.

    Links lead anywhere, but nothing leads from the rest of the graph back to the nodes that static links leave.
    """
    count = draw(st.integers(3, 7))
    source_count = draw(st.integers(1, 2))
    nodes = [
        NodeSpec(
            f"N{index}",
            draw(st.sampled_from(("free", "free", "even"))),
            ends=draw(st.booleans()),
            fails_on_mixed=draw(st.integers(0, 3)) == 0,
            max_parallel=draw(st.sampled_from((1, 2, 8))),
        )
        for index in range(count)
    ]
    links: dict[tuple[int, str], LinkSpec] = {}
    several: list[LinkSpec] = []
    for number in range(1, draw(st.integers(count, 2 * count + 2))):
        # Each node gets a link from one before it, so that something happens; then come links from anywhere.
        is_first = number < count
        sink = number if is_first else draw(st.integers(1, count - 1))
        slot = draw(st.sampled_from(SLOTS))
        source = draw(st.integers(0, sink - 1 if is_first or sink < source_count else count - 1))
        pin = draw(st.sampled_from(PINS if not (nodes[sink].kind == "even" and slot == "a") else PINS[:5]))
        is_static = source < source_count <= sink and draw(st.integers(0, 3)) == 0
        link = LinkSpec(nodes[source].name, pin, nodes[sink].name, slot, is_static)
        if one_source_per_slot:
            links[sink, slot] = link
        elif not any(
            (link.source, link.pin, link.sink, link.slot) == (other.source, other.pin, other.sink, other.slot)
            for other in several
        ):
            several.append(link)
    found = list(links.values()) if one_source_per_slot else several
    sources = frozenset(node.name for node in nodes[:source_count])
    return GraphSpec(
        tuple(nodes),
        tuple(_without_ambiguity(found, sources) if one_source_per_slot else found),
        sources,
        _salt(draw, found),
    )


def _salt(draw: st.DrawFn, links: list[LinkSpec]) -> int:
    """Chance likes small numbers, but blocks are to behave differently in each graph."""
    return zlib.crc32(repr((draw(st.integers(0, 2**32)), links)).encode())


@st.composite
def nets_of_joins(draw: st.DrawFn) -> GraphSpec:
    """Graphs in which values that have gone different ways meet, again and again, some of them in loops."""
    count = draw(st.integers(4, 7))
    names = [f"N{index}" for index in range(count)]
    links: list[LinkSpec] = []
    for sink in range(1, count):
        for slot in ("a", "b") if sink > 1 else ("a",):
            source = draw(st.integers(max(0, sink - 3), sink - 1))
            links.append(LinkSpec(names[source], draw(st.sampled_from("xxxy")), names[sink], slot))
    if draw(st.booleans()):
        sink = draw(st.integers(2, count - 1))
        links.append(LinkSpec(names[draw(st.integers(sink, count - 1))], "x", names[sink], "c_#_p"))
    return GraphSpec(tuple(map(NodeSpec, names)), tuple(links), frozenset({"N0"}), _salt(draw, links))


def _without_ambiguity(links: list[LinkSpec], sources: frozenset[str]) -> Iterator[LinkSpec]:
    """Static links only where it is told which value serves: all there is of it has come before the node begins, or the value itself begins it."""
    for sink in {link.sink: None for link in links}:
        into = [link for link in links if link.sink == sink]
        waits = any(not link.is_static and link.source not in sources for link in into)
        if not waits and (len(into) > 1 or not into[0].is_static):
            into = [replace(link, is_static=False) for link in into]
        yield from into


def perform(graph: GraphSpec, seed: int, **options: Any) -> Recorded:
    with closing(open_memory()) as connection:
        state = World(graph, random.Random(seed), connection, **options).run()
        return read(connection, state)


def without_words(value: Any) -> Any:
    """Messages of failures at queueing are their own tests' business."""
    return ERROR if isinstance(value, str) and not value[0].isdigit() else value


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


def check_rows(graph: GraphSpec, found: Recorded) -> None:
    """Every output that was released went down every link once, in order, and the counters agree with the rows."""
    by_id = {row.id: row for row in found.rows}
    static_slots = {
        (link.sink, link.slot)
        for link in graph.links
        if all(other.is_static for other in graph.links if (other.sink, other.slot) == (link.sink, link.slot))
    }
    for sink, slot in {(link.sink, link.slot) for link in graph.links} - static_slots:
        came = [row.sources[slot] for row in _by_making(found.of(sink)) if slot in row.inputs]
        sent: list[tuple[int, str, int]] = []
        for link in graph.links:
            if (link.sink, link.slot) == (sink, slot):
                sent += [
                    (released, row.id, place)
                    for row in found.of(link.source)
                    for place, ((pin, value), released) in enumerate(zip(row.outputs, row.released, strict=True))
                    if released is not None and pin == link.pin and (pin != "y" or "k" in value)
                ]
        assert Counter(came) == Counter((execution_id, place) for _, execution_id, place in sent)
        times = [by_id[execution_id].released[place] for execution_id, place in came]
        assert times == sorted(times, key=lambda time: time or 0), (
            "values fill executions in the order of their release"
        )
    for row in found.rows:
        linked = {link.slot for link in graph.links if link.sink == row.node}
        assert row.inputs.keys() <= linked
        assert (row.number is None) == (row.status == "INCOMPLETE")
        if row.number is not None:
            assert row.inputs.keys() == linked
        ends = next(node.ends for node in graph.nodes if node.name == row.node)
        for (pin, _), released in zip(row.outputs, row.released, strict=True):
            assert (released is None) == (ends and row.status == "FAILED" and pin != "error")
    statuses = Counter(row.status for row in found.rows)
    stats = found.stats
    assert stats["executions"] == len(found.rows)
    assert [stats[name] for name in ("completed", "failed", "canceled", "incomplete")] == [
        statuses[name] for name in ("COMPLETED", "FAILED", "CANCELED", "INCOMPLETE")
    ]
    assert stats["bytes"] == sum(len(json.dumps_bytes(value)) for row in found.rows for _, value in row.outputs)


def _by_making(rows: Sequence[Row]) -> list[Row]:
    """In the order in which they were made; the incomplete ones are the latest."""
    return sorted(rows, key=lambda row: (row.number is None, row.number if row.number is not None else 0, row.id))


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
        rows = read(connection, state).rows
        assert {row.status for row in rows} <= {"COMPLETED", "FAILED", "CANCELED", "INCOMPLETE"}
