"""What becomes of a posted graph before it is stored: brought to today's pins, checked, given ids. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from autogpt_server.data.block import Block
from autogpt_server.data.models import Graph, Link, Node
from autogpt_server.data.problems import InvalidGraph, Problem
from autogpt_server.data.upgrade import upgrade_graph
from autogpt_server.data.validation import Findings, GraphLimits, link_ends, validate_graph
from autogpt_server.utils.errors import AutoGPTServerError

KEY = "key"
"""The metadata entry that stays the same for a node across versions of its graph."""
_MAX_KEY_CHARS = 200

# What the server says about a graph, or a node, beside its content. It comes back when a client edits what it was given; it is not stored.
_SERVER_FIELDS = frozenset({"warnings", "created_at"})
_DERIVED_NODE_FIELDS = frozenset({"input_links", "output_links", "graph_id", "graph_version"})


class GraphTooLarge(AutoGPTServerError):
    """The graph is larger than this server takes; split it, or raise MAX_GRAPH_BYTES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """What graphs are held against."""

    blocks: Mapping[str, Block]
    limits: GraphLimits
    max_bytes: int
    node_settings: type[pydantic.BaseModel]
    """The keys of a node's metadata that have a meaning here."""


@dataclass(frozen=True, slots=True)
class AcceptedGraph:
    """A graph ready to be stored: nodes and links have new ids, `metadata.key` is set on every node. It has no id and version of its own yet."""

    graph: Graph
    warnings: list[Problem] = field(default_factory=list[Problem])


def accept_graph(
    posted: Graph, rules: IntakeRules, *, new_id: Callable[[], str], previous: Graph | None = None
) -> AcceptedGraph:
    """Make `posted` ready to be stored as the first version of a graph, or as the one that follows `previous`.

    A node without a key inherits that of the node of `previous` with the same id. Raises `InvalidGraph` with every error found (node ids as
    posted), `GraphTooLarge`.
    """
    size = len(posted.model_dump_json().encode())
    if size > rules.max_bytes:
        raise GraphTooLarge(
            f"The graph takes {size:,} bytes as JSON; at most {rules.max_bytes:,} are allowed (MAX_GRAPH_BYTES)."
        )
    upgraded, failures = upgrade_graph(posted, rules.blocks)
    found = validate_graph(upgraded, rules.blocks, rules.limits)
    for failure in failures:
        found.error("upgrade_failed", failure.message, node=failure.node_id)
    _check_metadata(upgraded, rules.node_settings, found)
    if found.errors:
        count = len(found.errors)
        raise InvalidGraph(
            f"The graph has {count} {'error' if count == 1 else 'errors'}; none of it was stored.", found.errors
        )
    return _with_new_ids(upgraded, found.warnings, new_id, previous)


def check_stored(graph: Graph, rules: IntakeRules) -> list[Problem]:
    """What is to be said about a stored graph today: its warnings, and errors that came up since (a block that is gone)."""
    found = validate_graph(graph, rules.blocks, rules.limits)
    return found.all


def _check_metadata(graph: Graph, node_settings: type[pydantic.BaseModel], found: Findings) -> None:
    for node in graph.nodes:
        key = node.metadata.get(KEY)
        if KEY in node.metadata and not (isinstance(key, str) and 0 < len(key) <= _MAX_KEY_CHARS):
            found.error(
                "bad_metadata",
                f"metadata.key must be text of 1 to {_MAX_KEY_CHARS} characters, or be left out.",
                node=node.id,
                expected=["text"],
            )
        try:
            node_settings.model_validate(node.metadata)
        except pydantic.ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                place = ".".join(map(str, problem["loc"]))
                found.error("bad_metadata", f"metadata.{place}: {problem['msg']}.", node=node.id)


def _with_new_ids(
    graph: Graph, warnings: list[Problem], new_id: Callable[[], str], previous: Graph | None
) -> AcceptedGraph:
    former_keys = {node.id: str(node.metadata.get(KEY, node.id)) for node in previous.nodes} if previous else {}
    said = list(warnings)
    keys: set[str] = set()
    ids: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        ids[node.id] = node_id = new_id()
        key = str(node.metadata.get(KEY) or former_keys.get(node.id) or node_id)
        if key in keys:
            message = f"Another node has metadata.key {key!r} already (a copy, probably); this one was given a key of its own."
            said.append(Problem("duplicate_key", message, node.id))
            key = node_id
        keys.add(key)
        kept = {name: value for name, value in node.unknown_fields.items() if name not in _DERIVED_NODE_FIELDS}
        nodes.append(
            Node(
                id=node_id,
                block_id=node.block_id,
                input_default=node.input_default,
                metadata={**node.metadata, KEY: key},
                **kept,
            )
        )
    links = [
        link.model_copy(update={"id": new_id(), "source_id": ids[link.source_id], "sink_id": ids[link.sink_id]})
        for link in _distinct(graph.links)
    ]
    kept = {name: value for name, value in graph.unknown_fields.items() if name not in _SERVER_FIELDS}
    stored = Graph(
        is_active=graph.is_active, name=graph.name, description=graph.description, nodes=nodes, links=links, **kept
    )
    return AcceptedGraph(stored, [_translated(warning, ids) for warning in said])


def _distinct(links: list[Link]) -> list[Link]:
    """Each link once, at its first place; static if any of its copies is."""
    distinct: dict[tuple[str, str, str, str], Link] = {}
    for link in links:
        ends = link_ends(link)
        known = distinct.setdefault(ends, link)
        if link.is_static and not known.is_static:
            distinct[ends] = known.model_copy(update={"is_static": True})
    return list(distinct.values())


def _translated(problem: Problem, ids: Mapping[str, str]) -> Problem:
    """A warning about a graph that is stored speaks of its nodes as they are stored."""
    if problem.node_id is None or problem.node_id not in ids:
        return problem
    return Problem(problem.code, problem.message, ids[problem.node_id], problem.pin, problem.expected)


def stored_fields(graph: Graph) -> dict[str, Any]:
    """The fields that the server does not know, as they are kept: those of the graph, and of its nodes and links by their place."""
    kept: dict[str, Any] = {}
    if graph.unknown_fields:
        kept["graph"] = graph.unknown_fields
    for name, entries in (("nodes", graph.nodes), ("links", graph.links)):
        by_place = {str(place): entry.unknown_fields for place, entry in enumerate(entries) if entry.unknown_fields}
        if by_place:
            kept[name] = by_place
    return kept
