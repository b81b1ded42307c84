"""How a run begins (rules F1 and F2)."""

from __future__ import annotations

from typing import Any

import pytest

from autogpt_server.data.block import Block, NodeWiring
from autogpt_server.data.problems import InvalidGraph, InvalidRunInput
from autogpt_server.execution.start import plan_start, run_limits, start_inputs
from autogpt_server.execution.topology import build_topology
from autogpt_server.utils.settings import Settings
from support.planning import BLOCKS, EPOCH, LIMITS, Free, describe, numbered_ids, parse_graph, topology_of


def given_to(text: str, run_input: dict[str, Any]) -> dict[str, dict[str, Any]]:
    topology = topology_of(text)
    return {topology.nodes[index].id: given for index, given in start_inputs(topology, run_input).items()}


def problems_of(text: str, run_input: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    with pytest.raises(InvalidRunInput) as caught:
        start_inputs(topology_of(text), run_input)
    return [(problem.code, problem.node_id, problem.pin) for problem in caught.value.problems]


def test_a_graph_without_a_node_to_start_with() -> None:
    with pytest.raises(InvalidGraph) as caught:
        start_inputs(topology_of("A: free\nA.x -> A.a"), {})
    assert [problem.code for problem in caught.value.problems] == ["no_start_node"]


# --- by name -----------------------------------------------------------------------------------------------------------

INPUTS = 'I: agentin name="topic"\nJ: agentin name="count" value=3\nK: agentin name="topic"\nA: free\nI.result -> A.a'


def test_agent_inputs_get_their_values_by_name() -> None:
    assert given_to(INPUTS, {"topic": "space"}) == {"I": {"value": "space"}, "K": {"value": "space"}}
    assert given_to(INPUTS, {"topic": None, "count": 0}) == {
        "I": {"value": None},
        "J": {"value": 0},
        "K": {"value": None},
    }


def test_all_names_that_do_not_fit_are_told_at_once() -> None:
    assert problems_of(INPUTS, {"a": 1, "value": 2}) == [
        ("unknown_input", None, "a"),
        ("unknown_input", None, "value"),
        ("missing_input", "I", "topic"),
        ("missing_input", "K", "topic"),
    ]
    with pytest.raises(InvalidRunInput) as caught:
        start_inputs(topology_of(INPUTS), {"a": 1})
    assert caught.value.problems[0].expected == "one of 'count', 'topic'"


@pytest.mark.parametrize(
    ("default", "is_missing"),
    [
        ("", True),
        ("value=null", True),
        ("value=0", False),
        ('value=""', False),
        ("value=false", False),
        ("value_#_k=1", False),
    ],
)
def test_what_counts_as_a_default_of_an_agent_input(default: str, is_missing: bool) -> None:
    text = f'I: agentin name="in" {default}'
    if is_missing:
        assert problems_of(text, {}) == [("missing_input", "I", "in")]
    else:
        assert given_to(text, {}) == {}


def test_with_agent_inputs_no_other_node_takes_of_the_run() -> None:
    text = 'I: agentin name="in" value=1\nA: free'
    assert problems_of(text, {"a": 1}) == [("unknown_input", None, "a")]
    assert given_to(text, {"in": 5}) == {"I": {"value": 5}}


# --- by pin ------------------------------------------------------------------------------------------------------------


def test_without_agent_inputs_every_start_node_that_has_the_pin_takes_the_value() -> None:
    text = "A: free\nB: typed number=1\nC: free\nA.x -> C.a"
    assert given_to(text, {"a": None, "text": "t"}) == {"A": {"a": None}, "B": {"text": "t"}}
    assert given_to(text, {}) == {}


def test_parts_of_pins_can_be_given() -> None:
    assert given_to("B: typed", {"number": "1", "numbers_$_0": 7, "entries_#_k": None}) == {
        "B": {"number": "1", "numbers_$_0": 7, "entries_#_k": None}
    }


def test_what_no_start_node_takes_is_refused() -> None:
    text = "A: free\nB: typed number=1\nA.x -> B.text"
    assert problems_of(text, {"text": "t", "a": 1, "b_$_x": 1, "": 2}) == [
        ("unknown_input", None, "text"),
        ("unknown_input", None, "b_$_x"),
        ("unknown_input", None, ""),
    ]
    with pytest.raises(InvalidRunInput) as caught:
        start_inputs(topology_of("N: note\nA: even"), {"what": 1})
    assert caught.value.problems[0].expected == "one of 'a', 'b', 'c'"


def test_values_that_are_missing_or_of_a_wrong_type_are_told_at_once() -> None:
    text = "A: typed\nB: typed number=3.5\nC: typed number=1\nD: even"
    assert problems_of(text, {"numbers": "many", "a": "1"}) == [
        ("missing_input", "A", "number"),
        ("input_type_mismatch", "A", "numbers"),
        ("input_type_mismatch", "B", "number"),
        ("input_type_mismatch", "B", "numbers"),
        ("input_type_mismatch", "C", "numbers"),
        ("input_type_mismatch", "D", "a"),
    ]


def test_parts_that_do_not_fit_are_told() -> None:
    assert problems_of("A: free", {"a": 1, "a_#_k": 2}) == [("pin_merge_failed", "A", "a")]


class Renamed(Free):
    """Had a pin `old`, which was a list; whoever reads it so breaks on anything else."""

    id = "22222222-0000-4000-8000-0000000000ff"

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        return NodeWiring(
            {
                ("a" if pin == "old" else pin): [*value] if pin == "old" else value
                for pin, value in node.defaults.items()
            }
        )


def test_older_names_of_pins_are_understood_and_odd_values_under_them_are_no_accident() -> None:
    graph = parse_graph("A: free")
    graph.nodes[0].block_id = Renamed.id
    blocks: dict[str, Block] = {**BLOCKS, Renamed.id: Renamed()}
    assert start_inputs(build_topology(graph, blocks), {"old": [1]}) == {0: {"a": [1]}}
    with pytest.raises(InvalidRunInput) as caught:
        start_inputs(build_topology(graph, blocks), {"old": 5})
    assert [problem.code for problem in caught.value.problems] == ["unknown_input"]


# --- the new run -------------------------------------------------------------------------------------------------------


def test_the_first_executions_are_born_queued() -> None:
    topology = topology_of("A: free a=1\nB: typed\nC: free\nA.x -> C.a")
    state = plan_start(topology, "run", {"number": "7"}, new_id=numbered_ids(), limits=LIMITS, at=EPOCH)
    executions = list(state.live.values())
    assert [describe(execution) for execution in executions] == ["A0 QUEUED", 'B0 QUEUED number="7"']
    assert [execution.input for execution in executions] == [{"a": 1}, {"number": 7}]
    assert (state.id, state.seq, state.status, state.active, state.stats.executions) == ("run", 1, "QUEUED", 2, 2)
    assert list(state.changes.executions) == [execution.id for execution in executions]


def test_the_given_values_win_over_defaults_and_parts_win_over_both() -> None:
    topology = topology_of('B: typed number=1 entries={"a":1} entries_#_b=2')
    state = plan_start(
        topology, "run", {"entries": {"c": 3}, "entries_#_d": 4}, new_id=numbered_ids(), limits=LIMITS, at=EPOCH
    )
    (execution,) = state.live.values()
    assert execution.input == {"number": 1, "entries": {"c": 3, "b": 2, "d": 4}}


def test_the_limits_of_runs_are_settings() -> None:
    limits = run_limits(Settings(max_run_node_executions=5, max_run_bytes=4096, max_run_duration_s=7.5))
    assert (limits.max_executions, limits.max_bytes, limits.max_duration_s) == (5, 4096, 7.5)
