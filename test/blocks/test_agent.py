"""Graphs with agents in them, as they are saved: links by the names of an agent's inputs and outputs."""

from __future__ import annotations

from typing import Any

import pytest

from autogpt_server.blocks import get_blocks
from autogpt_server.blocks.agent import AgentExecutorBlock
from autogpt_server.blocks.basic import StoreValueBlock
from autogpt_server.data.intake import IntakeRules, accept_graph
from autogpt_server.data.models import Graph
from autogpt_server.data.problems import InvalidGraph
from autogpt_server.data.validation import GraphLimits
from autogpt_server.execution.topology import NodeSettings
from autogpt_server.utils.ids import new_id

RULES = IntakeRules(
    blocks=get_blocks(), limits=GraphLimits(nodes=10, links=10), max_bytes=100_000, node_settings=NodeSettings
)
SCHEMA = {"type": "object", "properties": {"Results!": {"title": "Results!"}, "Error": {}}, "required": ["Error"]}


def saved(sink_name: str, source_name: str, **defaults: Any) -> Graph:
    nodes = [
        {"id": "first", "block_id": StoreValueBlock.id, "input_default": {"input": 1}},
        {"id": "agent", "block_id": AgentExecutorBlock.id, "input_default": {"graph_id": "g", **defaults}},
        {"id": "last", "block_id": StoreValueBlock.id},
    ]
    links = [
        {"source_id": "first", "source_name": "output", "sink_id": "agent", "sink_name": sink_name},
        {"source_id": "agent", "source_name": source_name, "sink_id": "last", "sink_name": "input"},
    ]
    return accept_graph(Graph.model_validate({"nodes": nodes, "links": links}), RULES, new_id=new_id).graph


def test_links_to_inputs_fill_the_entries_of_one_pin() -> None:
    graph = saved("Business Info", "Results!", output_schema=SCHEMA)
    assert [(link.sink_name, link.source_name) for link in graph.links] == [
        ("inputs_#_Business Info", "output"),
        ("input", "Results!"),
    ]
    again = saved("inputs_#_Business Info", "Results!", output_schema=SCHEMA)
    assert [link.sink_name for link in again.links] == ["inputs_#_Business Info", "input"]


@pytest.mark.parametrize("schema", [{}, {"properties": 3}, {"properties": {}}])
def test_without_their_names_outputs_may_have_any(schema: Any) -> None:
    assert saved("inputs", "Whatever", output_schema=schema).links


@pytest.mark.parametrize("schema", [None, [], 3])
def test_what_is_no_schema_is_refused_for_what_it_is(schema: Any) -> None:
    with pytest.raises(InvalidGraph) as caught:
        saved("inputs", "Whatever", output_schema=schema)
    assert [problem.code for problem in caught.value.problems] == ["bad_default"]


def test_an_output_that_the_agent_does_not_have_is_named() -> None:
    with pytest.raises(InvalidGraph) as caught:
        saved("inputs", "Result!", output_schema=SCHEMA)
    [problem] = caught.value.problems
    assert (problem.code, problem.pin) == ("unknown_pin", "Result!")
    assert problem.expected is not None
    assert problem.expected[0] == "Results!"


def test_the_error_pin_is_there_too() -> None:
    assert saved("inputs", "error", output_schema=SCHEMA).links
