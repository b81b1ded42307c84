"""Validation of graphs: what is found, where it is said to be, and what is said to fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autogpt_server.data.models import Graph
from autogpt_server.data.upgrade import upgrade_graph
from autogpt_server.data.validation import Findings, GraphLimits, nearest, validate_graph
from data.sample_graph_blocks import BLOCKS, graph

LIMITS = GraphLimits(nodes=20, links=40)
A_TO_B = {"a": "Source", "b": "Sink"}


def findings(subject: Graph) -> Findings:
    return validate_graph(subject, BLOCKS, LIMITS)


def codes(found: Findings) -> tuple[list[tuple[str, str | None, str | None]], list[tuple[str, str | None, str | None]]]:
    return (
        [(problem.code, problem.node_id, problem.pin) for problem in found.errors],
        [(problem.code, problem.node_id, problem.pin) for problem in found.warnings],
    )


SOUND: dict[str, Graph] = {
    "text to text": graph(A_TO_B, "a.text -> b.text"),
    "number to text": graph(A_TO_B, "a.number -> b.text"),
    "anything to number": graph({"a": "Source", "b": ("Sink", {"text": "x"})}, "a.anything -> b.count"),
    "a part of an object": graph(A_TO_B, "a.record_#_name -> b.text"),
    "a field of a model": graph(A_TO_B, "a.post_@_title -> b.text"),
    "an item into a list": graph({"a": "Source", "b": ("Sink", {"text": "x"})}, "a.number -> b.items_$_0"),
    "an item as a list": graph({"a": "Source", "b": ("Sink", {"text": "x"})}, "a.number -> b.items"),
    "an entry of an object": graph({"a": "Source", "b": ("Sink", {"text": "x"})}, "a.anything -> b.entries_#_name"),
    "parts as defaults": graph({"b": ("Sink", {"text": "x", "items_$_0": 1, "entries_#_k": None})}),
    "a part satisfies required": graph({"a": "Source", "b": "Renamed"}, "a.text -> b.new"),
    "a start node may lack a pin: the run may give it": graph({"b": "Sink"}),
    "the error pin of any block": graph(A_TO_B, "a.error -> b.text"),
    "a loop with a way in": graph(
        {"a": "Source", "b": "Sink", "c": "Sink"}, "a.text -> b.text", "b.text -> c.text", "c.text -> b.text"
    ),
    "the same source to two pins": graph(A_TO_B, "a.anything -> b.text", "a.anything -> b.count"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_graphs_have_no_findings(name: str) -> None:
    assert codes(findings(SOUND[name])) == ([], [])


ERRORS: dict[str, tuple[Graph, list[tuple[str, str | None, str | None]]]] = {
    "unknown block": (graph({"a": "no-such-block"}), [("unknown_block", "a", None)]),
    "unknown output pin": (graph(A_TO_B, "a.txt -> b.text"), [("unknown_pin", "a", "txt")]),
    "unknown input pin": (graph(A_TO_B, "a.text -> b.text", "a.text -> b.cuont"), [("unknown_pin", "b", "cuont")]),
    "misspelt default": (graph({"b": ("Sink", {"text": "x", "cuont": 3})}), [("unknown_pin", "b", "cuont")]),
    "unreadable pin": (
        graph({"a": "Source", "b": ("Sink", {"text": ""})}, "a.number -> b.items_$_x"),
        [("bad_pin_name", "b", "items_$_x")],
    ),
    "unreadable default": (graph({"b": ("Sink", {"items_$_-1": 1})}), [("bad_pin_name", "b", "items_$_-1")]),
    "no part of a text": (
        graph({"a": "Source", "b": ("Sink", {"text": ""})}, "a.text_$_0 -> b.count"),
        [("impossible_part", "a", "text_$_0")],
    ),
    "a key into a list": (
        graph({"a": "Source", "b": ("Sink", {"text": ""})}, "a.number -> b.items_#_k"),
        [("impossible_part", "b", "items_#_k")],
    ),
    "types that never fit": (
        graph({"a": "Source", "b": ("Sink", {"text": ""})}, "a.record -> b.count"),
        [("type_mismatch", "b", "count")],
    ),
    "a default of the wrong type": (
        graph({"b": ("Sink", {"text": "x", "count": "many"})}),
        [("bad_default", "b", "count")],
    ),
    "a default outside the choices": (
        graph({"b": ("Sink", {"text": "x", "mode": "medium"})}),
        [("bad_default", "b", "mode")],
    ),
    "default parts that do not fit": (
        graph({"b": ("Sink", {"text": "x", "text_#_k": 1})}),
        [("bad_default", "b", "text")],
    ),
    "link from nowhere": (graph({"b": "Sink"}, "a.text -> b.text"), [("unknown_node", "a", "text")]),
    "link to nowhere": (graph({"a": "Source"}, "a.text -> b.text"), [("unknown_node", "b", "text")]),
    "required pin behind a start node": (graph(A_TO_B, "a.number -> b.count"), [("missing_input", "b", "text")]),
    "required pin of a start node beside agent inputs": (
        graph({"in": ("AgentIn", {"name": "topic"}), "b": "Sink"}),
        [("missing_input", "b", "text")],
    ),
    "agent input without a name": (graph({"in": "AgentIn"}), [("missing_input", "in", "name")]),
    "no start": (
        graph({"a": "Sink", "b": "Sink"}, "a.text -> b.text", "b.text -> a.text"),
        [("no_start_node", None, None)],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_their_place(name: str) -> None:
    subject, expected = ERRORS[name]
    assert codes(findings(subject))[0] == expected


WARNINGS: dict[str, tuple[Graph, list[tuple[str, str | None, str | None]]]] = {
    "empty": (graph({}), [("no_start_node", None, None)]),
    "agent inputs of one name": (
        graph({"in": ("AgentIn", {"name": "topic"}), "in2": ("AgentIn", {"name": "topic"})}),
        [("duplicate_input_name", "in2", "name")],
    ),
    "a default that nothing reads": (
        graph({"b": ("Sink", {"text": "x", "position_on_canvas": 3})}),
        [("unused_default", "b", "position_on_canvas")],
    ),
    "doubtful types": (
        graph({"a": "Source", "b": ("Sink", {"text": ""})}, "a.text -> b.count"),
        [("type_doubtful", "b", "count")],
    ),
    "a free number for a choice": (
        graph({"a": "Source", "b": ("Sink", {"text": ""})}, "a.text -> b.mode"),
        [("type_doubtful", "b", "mode")],
    ),
    "twice the same link": (graph(A_TO_B, "a.text -> b.text", "a.text -> b.text"), [("duplicate_link", "b", "text")]),
    "static and ordinary into one pin": (
        graph({"a": "Source", "s": ("Static", {"value": 1}), "b": "Sink"}, "a.text -> b.text", "s.value -> b.text"),
        [("mixed_static", "b", "text")],
    ),
    "a circle nothing leads into": (
        graph({"a": "Source", "b": "Sink", "c": "Sink"}, "b.text -> c.text", "c.text -> b.text"),
        [("unreachable_node", "b", None), ("unreachable_node", "c", None)],
    ),
    "a pin that waits for what comes after it": (
        graph(
            {"a": "Source", "b": "Sink", "c": "Sink"}, "a.anything -> b.count", "c.text -> b.text", "b.text -> c.text"
        ),
        [("unreachable_node", "b", None), ("unreachable_node", "c", None)],
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings_name_their_place(name: str) -> None:
    subject, expected = WARNINGS[name]
    assert codes(findings(subject)) == ([], expected)


def test_everything_is_found_at_once() -> None:
    subject = graph(
        {"a": ("Source", {"strat": 1}), "b": ("Sink", {"count": "x"}), "c": "nothing"},
        "a.txt -> b.text",
        "a.text -> z.text",
    )
    assert codes(findings(subject))[0] == [
        ("unknown_pin", "a", "strat"),
        ("bad_default", "b", "count"),
        ("unknown_block", "c", None),
        ("unknown_pin", "a", "txt"),
        ("unknown_node", "z", "text"),
    ]


def test_what_would_fit_is_named_the_likeliest_first() -> None:
    pins, block, type_ = (
        findings(ERRORS[name][0]).errors[0].expected
        for name in ("unknown input pin", "unknown block", "a default of the wrong type")
    )
    assert pins is not None
    assert pins[0] == "count"
    assert set(pins) == {"text", "count", "flag", "mode", "items", "entries"}
    assert block is None
    assert type_ == ["a whole number"]


def test_a_block_asked_for_by_name_is_suggested_by_id() -> None:
    [problem] = findings(graph({"a": "Sauce"})).errors
    assert problem.expected == [block.id for block in BLOCKS.values() if block.name == "Source"]
    assert "Source" in problem.message


def test_secret_defaults_are_not_shown() -> None:
    subject = graph({"b": ("Renamed", {"new": "x", "key": ["hunter2"]})})
    [problem] = findings(subject).errors
    assert problem.pin == "key"
    assert "hunter2" not in repr(problem)


def test_static_by_the_link_itself_is_no_mix() -> None:
    links = ("a.text -> b.text", "s.value -> b.text")
    subject = graph({"a": "Source", "s": ("Static", {"value": 1}), "b": "Sink"}, *links, static=links[:1])
    assert codes(findings(subject)) == ([], [])


def test_limits() -> None:
    assert codes(findings(graph({f"n{i}": "Source" for i in range(21)})))[0] == [("too_many_nodes", None, None)]
    links = [f"a.anything -> b.items_$_{i}" for i in range(41)]
    assert codes(findings(graph({"a": "Source", "b": ("Sink", {"text": ""})}, *links)))[0] == [
        ("too_many_links", None, None)
    ]


def test_nodes_without_ids_need_none_until_a_link_names_them() -> None:
    two = Graph.model_validate(
        {"nodes": [{"block_id": node.block_id} for node in graph({"a": "Source", "b": "Source"}).nodes]}
    )
    assert codes(findings(two)) == ([], [])
    twice = Graph.model_validate(
        {"nodes": [{"id": "x", "block_id": node.block_id} for node in graph({"a": "Source", "b": "Source"}).nodes]}
    )
    assert codes(findings(twice))[0] == [("duplicate_node_id", "x", None)]


@pytest.mark.parametrize(("word", "expected"), [("Count", "count"), ("txet", "text"), ("ITEM", "items")])
def test_nearest(word: str, expected: str) -> None:
    assert nearest(word, ["text", "count", "items"])[0] == expected


IDS = ("a", "b", "c", "d")
ids = st.sampled_from(IDS)
pin_names = st.sampled_from(
    [
        "text",
        "items",
        "items_$_0",
        "record_#_k",
        "count",
        "value",
        "nope",
        "x_$_",
        "_#_",
        "text_#_a_$_1",
        "old",
        "config",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def make_graph(nodes: list[dict[str, Any]], links: list[dict[str, Any]]) -> Graph:
    return Graph.model_validate({"nodes": nodes, "links": links})


any_graph = st.builds(
    make_graph,
    st.lists(
        st.fixed_dictionaries(
            {
                "id": ids,
                "block_id": st.sampled_from([*BLOCKS, "?"]),
                "input_default": st.dictionaries(pin_names, values, max_size=4),
            }
        ),
        max_size=6,
    ),
    st.lists(
        st.fixed_dictionaries(
            {
                "source_id": ids,
                "sink_id": ids,
                "source_name": pin_names,
                "sink_name": pin_names,
                "is_static": st.booleans(),
            }
        ),
        max_size=8,
    ),
)


@given(any_graph)
def test_any_graph_is_judged_without_being_changed(subject: Graph) -> None:
    before = subject.model_dump_json()
    upgraded, _ = upgrade_graph(subject, BLOCKS)
    found = findings(upgraded)
    assert subject.model_dump_json() == before
    for problem in found.all:
        assert problem.message
        assert problem.node_id is None or problem.node_id in IDS


# --- upgrade ---------------------------------------------------------------------------------------------------------


def wires(subject: Graph) -> list[str]:
    return [f"{link.source_id}.{link.source_name} -> {link.sink_id}.{link.sink_name}" for link in subject.links]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (["a.text -> r.old"], ["a.text -> r.new"]),
        (["r.result -> b.text"], ["r.out -> b.text"]),
        (
            ["a.record -> r.config", "a.text -> r.old"],
            ["a.record_#_model -> r.model", "a.record_#_key -> r.key", "a.text -> r.new"],
        ),
        (
            ["a.anything_#_settings -> r.config"],
            ["a.anything_#_settings_#_model -> r.model", "a.anything_#_settings_#_key -> r.key"],
        ),
        (["r.result -> r.old"], ["r.out -> r.new"]),
        (
            ["r.result -> q.old", "q.result -> r.config"],
            ["r.out -> q.new", "q.out_#_model -> r.model", "q.out_#_key -> r.key"],
        ),
        (
            ["a.text -> b.text", "a.text -> r.old", "b.text -> r.key"],
            ["a.text -> b.text", "a.text -> r.new", "b.text -> r.key"],
        ),
    ],
)
def test_links_follow_the_pins_of_todays_blocks(links: list[str], expected: list[str]) -> None:
    subject = graph({"a": "Source", "b": "Sink", "r": "Renamed", "q": "Renamed"}, *links)
    upgraded, failures = upgrade_graph(subject, BLOCKS)
    assert wires(upgraded) == expected
    assert failures == []
    assert wires(upgrade_graph(upgraded, BLOCKS)[0]) == expected


def test_defaults_follow_the_pins_of_todays_blocks() -> None:
    subject = graph({"r": ("Renamed", {"old": "x", "config": {"model": "m"}})})
    upgraded, _ = upgrade_graph(subject, BLOCKS)
    assert upgraded.nodes[0].input_default == {"new": "x", "model": "m"}
    assert subject.nodes[0].input_default == {"old": "x", "config": {"model": "m"}}


@pytest.mark.parametrize("config", ["text", 7, None])
def test_what_a_block_cannot_read_is_named(config: Any) -> None:
    _, [failure] = upgrade_graph(graph({"r": ("Renamed", {"config": config})}), BLOCKS)
    assert failure.node_id == "r"
    assert "Renamed" in failure.message
