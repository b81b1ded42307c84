"""Graphs made ready for planning."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.data.block import Effects
from autogpt_server.execution.events import Ended, Started, Yielded
from autogpt_server.execution.flow import Todo
from autogpt_server.execution.lineage import MAX_WATCHED, Wire, watched_pins
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.state import RunState
from autogpt_server.execution.topology import (
    MissingBlock,
    NodeSettings,
    PlannedNode,
    Release,
    build_topology,
)
from support.planning import EPOCH, LIMITS, numbered_ids, parse_graph, topology_of


def nodes_of(text: str) -> dict[str, PlannedNode]:
    return {node.id: node for node in topology_of(text).nodes}


def test_missing_blocks_are_named_all_at_once() -> None:
    graph = parse_graph("A: free\nB: serial\nC: free\nA.x -> B.a")
    with pytest.raises(MissingBlock) as caught:
        build_topology(graph, {})
    assert all(node.block_id in str(caught.value) for node in graph.nodes)


def test_links_by_their_output_pin_in_the_order_of_the_graph() -> None:
    nodes = nodes_of("A: free\nB: free\nA.x_#_k -> B.a\nA.y -> B.b\nA.x -> B.c_$_0\nA.error => B.c_$_1")
    assert {
        pin: [(link.part, link.sink, link.slot, link.is_static) for link in links]
        for pin, links in nodes["A"].out.items()
    } == {
        "x": [("_#_k", 1, "a", False), (None, 1, "c_$_0", False)],
        "y": [(None, 1, "b", False)],
        "error": [(None, 1, "c_$_1", True)],
    }
    assert nodes["B"].slots == ("a", "b", "c_$_0")
    assert nodes["B"].static_slots == ("c_$_1",)


def test_identical_links_are_one_and_static_if_any_is() -> None:
    nodes = nodes_of("A: free\nB: free\nA.x -> B.a\nA.x => B.a\nA.x -> B.a\nA.y -> B.b\nA.y -> B.b")
    assert [(link.slot, link.is_static) for link in nodes["A"].out["x"]] == [("a", True)]
    assert [(link.slot, link.is_static) for link in nodes["A"].out["y"]] == [("b", False)]


@pytest.mark.parametrize(
    ("links", "is_static"),
    [
        ("A.x -> S.a", False),
        ("A.x => S.a", True),
        ("F.x -> S.a", True),
        ("F.x -> S.a\nA.x => S.a", True),
        ("F.x -> S.a\nA.x -> S.a", False),
        ("F.x -> S.a_$_0\nA.x -> S.a_$_1", False),
    ],
)
def test_a_sink_pin_is_static_if_every_link_into_it_is(links: str, is_static: bool) -> None:
    nodes = nodes_of(f"A: free\nF: fixed\nS: free\n{links}")
    assert any(slot.startswith("a") for slot in nodes["S"].slots) != is_static
    # Parts are pins of their own: of the last two, one is static.
    assert all(
        link.is_static == (link.slot in nodes["S"].static_slots)
        for node in nodes.values()
        for out in node.out.values()
        for link in out
    )


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("A: free\nB: free\nA.x -> B.a", "A"),
        ("A: free\nB: free\nA.x => B.a", "A"),
        ("A: free\nI: agentin\nA.x -> I.value", "A I"),
        ("A: free\nA.x -> A.a", ""),
        ("N: note\nA: free", "N A"),
    ],
)
def test_a_run_starts_what_nothing_leads_to_and_agent_inputs(text: str, starts: str) -> None:
    assert [node.id for node in topology_of(text).start_nodes] == starts.split()


def test_settings_come_from_the_metadata_and_else_from_the_block() -> None:
    nodes = nodes_of('A: serial\nB: serial @max_parallel=3 @release="end" @color="red"')
    assert (nodes["A"].max_parallel, nodes["B"].max_parallel) == (1, 3)
    assert nodes["A"].settings == NodeSettings()
    assert nodes["B"].settings.release is Release.END


@pytest.mark.parametrize(
    ("text", "values", "effects", "fails"),
    [
        ("A: free", {}, Effects.PURE, False),
        ("A: idempotent", {}, Effects.IDEMPOTENT, False),
        ("A: unsafe", {}, Effects.UNSAFE, True),
        ('A: unsafe @on_mixed_origin="warn"', {}, Effects.UNSAFE, False),
        ('A: free @on_mixed_origin="fail"', {}, Effects.PURE, True),
        ("A: byinput", {"a": "get"}, Effects.PURE, False),
        ("A: byinput", {"a": "post"}, Effects.UNSAFE, True),
        ("A: byinput", {"a": "?"}, Effects.UNSAFE, True),
        ("A: byinput", {}, Effects.UNSAFE, True),
    ],
)
def test_effects_and_what_they_mean_for_values_of_mixed_origin(
    text: str,
    values: dict[str, Any],
    effects: Effects,
    fails: bool,
) -> None:
    node = nodes_of(text)["A"]
    assert node.effects_of(values) is effects
    assert node.fails_on_mixed_origin(values) is fails


def test_a_node_is_found_by_its_id() -> None:
    topology = topology_of("A: free\nB: free")
    assert topology.index_of("B") == 1
    with pytest.raises(KeyError):
        topology.index_of("C")


# --- which pins have to be told apart (rule F8) ----------------------------------------------------------------------


def watched(text: str) -> dict[str, set[str]]:
    topology = topology_of(text)
    ids = {node.index: node.id for node in topology.nodes}
    return {
        node.id: {f"{ids[int(index)]}.{pin}" for index, pin in (name.split(":") for name in node.watched)}
        for node in topology.nodes
        if node.watched
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("A: free\nB: free\nC: free\nA.x -> B.a\nB.x -> C.a", {}, id="a chain"),
        pytest.param(
            "A: free\nB: free\nC: free\nS: free\nA.x -> B.a\nA.x -> C.a\nB.x -> S.a\nC.x -> S.b",
            {"B": {"A.x"}, "C": {"A.x"}, "S": {"A.x"}},
            id="a diamond",
        ),
        pytest.param(
            "Z: free\nA: free\nB: free\nC: free\nS: free\nT: free\nZ.x -> A.a\nA.x -> B.a\nA.x -> C.a\nB.x -> S.a\nC.x -> S.b\nS.x -> T.a",
            {"B": {"A.x"}, "C": {"A.x"}, "S": {"A.x"}},
            id="what is before and behind a diamond is not remembered",
        ),
        pytest.param(
            "Z: free\nA: free\nS: free\nZ.x -> A.a\nA.x -> S.a\nA.y -> S.b",
            {"A": {"Z.x"}, "S": {"Z.x"}},
            id="different pins of one node are told apart by what led there",
        ),
        pytest.param("A: free\nS: free\nA.x -> S.a\nA.x -> S.b", {"S": {"A.x"}}, id="two slots of one node"),
        pytest.param("A: free\nB: free\nS: free\nA.x -> B.a\nA.x -> S.a\nB.x -> S.a", {}, id="two ways into one slot"),
        pytest.param("A: free\nB: free\nS: free\nA.x -> B.a\nA.x => S.a\nB.x -> S.b", {}, id="a static way"),
        pytest.param(
            "A: free\nL: free\nA.x -> L.a\nL.x -> L.b",
            {"L": {"A.x"}},
            id="a loop that joins",
        ),
        pytest.param(
            "A: free\nL: free\nT: free\nA.x -> L.a\nL.x -> L.b\nL.x -> T.a\nL.x -> T.b",
            {"L": {"A.x"}, "T": {"A.x", "L.x"}},
            id="a loop that joins, and all passes it on the way to another join",
        ),
        pytest.param(
            "A: free\nL: free\nM: free\nA.x -> L.a\nL.x -> M.a\nM.x -> L.a",
            {},
            id="a loop that does not",
        ),
        pytest.param(
            "A: free\nB: free\nC: free\nD: free\nS: free\nA.x -> B.a\nA.x -> C.a\nA.x -> D.a\nB.x -> S.a\nC.x -> S.b\nD.x -> S.c",
            {"B": {"A.x"}, "C": {"A.x"}, "D": {"A.x"}, "S": {"A.x"}},
            id="three ways",
        ),
        pytest.param(
            "A: free\nB: free\nC: free\nS: free\nT: free\nP: free\nA.x -> B.a\nA.x -> C.a\nB.x -> S.a\nC.x -> S.b\nA.x -> P.a\nS.x -> T.a",
            {"B": {"A.x"}, "C": {"A.x"}, "S": {"A.x"}},
            id="a side way that leads to no join",
        ),
    ],
)
def test_pins_that_have_to_be_told_apart(text: str, expected: dict[str, set[str]]) -> None:
    assert watched(text) == expected


@st.composite
def nets(draw: st.DrawFn) -> tuple[int, list[Wire]]:
    count = draw(st.integers(2, 7))
    node = st.integers(0, count - 1)
    wires = draw(
        st.lists(st.builds(Wire, node, st.sampled_from("xy"), node, st.sampled_from("ab")), max_size=14, unique=True)
    )
    return count, wires


@given(nets())
def test_what_is_watched_can_make_a_difference(net: tuple[int, list[Wire]]) -> None:
    """No pin is remembered where it does not lead, or from where no join can be reached that it enters over two slots."""
    count, wires = net
    ways = {(wire.source, wire.pin): _reached(wires, wire) for wire in wires}
    for node, pins in enumerate(watched_pins(count, wires)):
        for source, pin in pins:
            entered = [slots for slots in _entries(wires, source, pin).values() if len(slots) > 1]
            assert entered, "there is a join"
            assert node in ways[source, pin]


def _reached(wires: Sequence[Wire], first: Wire) -> set[int]:
    seen: set[int] = set()
    pending = [wire.sink for wire in wires if (wire.source, wire.pin) == (first.source, first.pin)]
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += [wire.sink for wire in wires if wire.source == node]
    return seen


def _entries(wires: Sequence[Wire], source: int, pin: str) -> dict[int, set[str]]:
    """Node -> slots over which values that descend from the pin arrive."""
    found: dict[int, set[str]] = {}
    behind = _reached(wires, Wire(source, pin, 0, ""))
    for wire in wires:
        if (wire.source, wire.pin) == (source, pin) or wire.source in behind:
            found.setdefault(wire.sink, set()).add(wire.slot)
    return found


# --- large graphs ------------------------------------------------------------------------------------------------------


def chain(count: int) -> list[Wire]:
    return [Wire(here, "x", there, "a") for here, there in pairwise(range(count))]


def diamonds(count: int, first: int = 0) -> Iterator[Wire]:
    for top in range(first, first + 3 * count, 3):
        for branch, slot in ((top + 1, "a"), (top + 2, "b")):
            yield Wire(top, "x", branch, "a")
            yield Wire(branch, "x", top + 3, slot)


def diamond_row(count: int) -> list[Wire]:
    return list(diamonds((count - 1) // 3))


def chain_and_diamond(count: int) -> list[Wire]:
    return [*chain(count - 4), *diamonds(1, count - 5)]


def ring(count: int) -> list[Wire]:
    return [*chain(count), Wire(count - 1, "x", 0, "a")]


def joining_ring(count: int) -> list[Wire]:
    return [*chain(count), Wire(count - 1, "x", 0, "b")]


def fan(count: int) -> list[Wire]:
    ends = [
        (Wire(0, "x", branch, "a"), Wire(branch, "x", count - 1, f"a_$_{branch}")) for branch in range(1, count - 1)
    ]
    return [wire for pair in ends for wire in pair]


def ladder(count: int) -> list[Wire]:
    rungs = range(0, count - 3, 2)
    return [Wire(rung + a, "x", rung + 2 + b, "ab"[a]) for rung in rungs for a in (0, 1) for b in (0, 1)]


@pytest.mark.parametrize(
    ("make", "most"),
    [
        pytest.param(chain, 0, id="a chain"),
        pytest.param(chain_and_diamond, 1, id="a chain, then a diamond"),
        pytest.param(ring, 0, id="a ring"),
        pytest.param(joining_ring, 1, id="a ring that joins what it comes from"),
        pytest.param(diamond_row, 1, id="a row of diamonds"),
        pytest.param(fan, 1, id="a wide fan"),
        pytest.param(ladder, MAX_WATCHED, id="a ladder"),
    ],
)
def test_the_work_of_preparing_a_graph_grows_with_its_size(make: Callable[[int], list[Wire]], most: int) -> None:
    found, calls = counted(lambda: watched_pins(600, make(600)))
    assert max(map(len, found)) <= most
    _, twice = counted(lambda: watched_pins(1200, make(1200)))
    assert twice < 2.5 * calls


def test_the_work_of_a_chain_grows_with_its_length() -> None:
    def perform(length: int) -> RunState:
        lines = [f"N{index}: free" for index in range(length)] + [
            f"N{here}.x -> N{there}.a" for here, there in pairwise(range(length))
        ]
        state, planner, todo = begun("\n".join(lines))
        while todo.start:
            (execution,) = todo.start
            planner.apply(Started(execution.id, EPOCH))
            todo = planner.apply(Yielded(execution.id, EPOCH, "x", 1, "1"))
            planner.apply(Ended(execution.id, EPOCH))
        return state

    state, calls = counted(lambda: perform(400))
    assert (state.status, state.stats.completed) == ("COMPLETED", 400)
    _, twice = counted(lambda: perform(800))
    assert twice < 2.2 * calls
    assert perform(10_000).stats.completed == 10_000


def test_the_work_of_an_execution_grows_with_what_it_yields() -> None:
    def perform(values: int) -> RunState:
        state, planner, todo = begun("A: free\nB: serial\nC: free\nA.x -> B.a\nA.x -> C.a\nB.x -> C.b")
        planner.apply(Started(todo.start[0].id, EPOCH))
        for number in range(values):
            planner.apply(Yielded(todo.start[0].id, EPOCH, "x", number, str(number)))
        return state

    state, calls = counted(lambda: perform(400))
    assert (state.active, state.stats.incomplete) == (401, 400)
    _, twice = counted(lambda: perform(800))
    assert twice < 2.2 * calls


def begun(text: str) -> tuple[RunState, Planner, Todo]:
    state = RunState("run", topology_of(text))
    planner = Planner(state, new_id=numbered_ids(), limits=replace(LIMITS, max_executions=20_000))
    return state, planner, planner.start({}, EPOCH)


T = TypeVar("T")


def counted(work: Callable[[], T]) -> tuple[T, int]:
    """The result, and how many calls it took: time would depend on what else the machine does."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        result = work()
    finally:
        sys.setprofile(None)
    return result, calls
