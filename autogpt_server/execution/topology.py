"""A graph made ready for planning: nodes by index, links by output pin, and which pins have to be told apart at later joins. Pure.

Made once per graph version and shared by all its runs; nothing in it changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import pydantic

from autogpt_server.data.block import Block, BlockKind, Effects, RetryPolicy
from autogpt_server.data.convert import InputConverter, input_converter
from autogpt_server.data.models import Graph, Link, Node
from autogpt_server.data.pins import Part, parse_pin
from autogpt_server.execution.lineage import Wire, watched_pins
from autogpt_server.execution.order import loop_numbers
from autogpt_server.utils.errors import AutoGPTServerError

MAX_TIMEOUT_S = 30 * 86_400.0
"""Longer waits are what `Suspend` is for."""


class MissingBlock(AutoGPTServerError):
    """The graph uses a block that this server does not have."""

    code = "missing_block"


class MixedOriginPolicy(StrEnum):
    """What to do when an execution joins values that do not belong together (rule F8)."""

    FAIL = "fail"
    WARN = "warn"


class Release(StrEnum):
    """When the outputs of the execution whose turn it is travel on."""

    STREAM = "stream"
    """Each as soon as it is yielded."""
    END = "end"
    """All when the execution has completed; a failed attempt sends nothing."""


class OnInterrupted(StrEnum):
    """What to do about an execution whose outcome is not known (rule D4)."""

    ASK = "ask"
    """Wait for a person to decide."""
    RETRY = "retry"
    SKIP = "skip"
    FAIL = "fail"


def _retry_policy(given: Any) -> Any:
    """`3` stands for three attempts with the usual pauses."""
    return {"max_attempts": given} if isinstance(given, int) and not isinstance(given, bool) else given


class NodeSettings(pydantic.BaseModel):
    """The keys of a node's metadata that the server reads; there may be others."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    timeout_s: float | None = pydantic.Field(default=None, gt=0, le=MAX_TIMEOUT_S)
    retry: Annotated[RetryPolicy | None, pydantic.BeforeValidator(_retry_policy)] = None
    max_parallel: int | None = pydantic.Field(default=None, ge=1, le=1000)
    on_mixed_origin: MixedOriginPolicy | None = None
    on_interrupted: OnInterrupted = OnInterrupted.ASK
    release: Release = Release.STREAM


@dataclass(frozen=True, slots=True)
class OutLink:
    """Where a value goes: which part of it, to which slot of which node."""

    parts: tuple[Part, ...]
    part: str | None
    """The same as text, as it stands in the name of the source pin."""
    sink: int
    slot: str
    is_static: bool


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node with everything the planner asks about it."""

    index: int
    id: str
    block: Block
    defaults: Mapping[str, Any]
    settings: NodeSettings
    convert: InputConverter
    slots: tuple[str, ...]
    """Linked pins, dynamic parts included, that take one value per execution."""
    static_slots: tuple[str, ...]
    """Linked pins whose newest value serves every execution."""
    out: Mapping[str, Sequence[OutLink]]
    """Output pin -> links that leave it, in the graph's order."""
    is_start: bool
    runs_on_loop: bool
    """Whether the block's `run` is async; else it is called in a thread."""
    max_parallel: int
    timeout_s: float | None
    """How long one attempt may take; None for no limit."""
    retry: RetryPolicy
    """How often, and after what pauses, a failed attempt is followed by another."""
    release: Release
    paced_by: tuple[int, ...] = ()
    """Nodes it sends values to, but for those that lie on a loop with it: while one of them has too much to do, this one pauses."""
    watched: frozenset[str] = field(default=frozenset[str]())
    """Ancestor pins whose outputs are told apart here or further on (rule F8)."""

    def effects_of(self, values: Mapping[str, Any]) -> Effects:
        """The effects of a call with this converted input. A block that cannot tell is taken to be unsafe."""
        try:
            return self.block.effects_for(values)
        except Exception:  # noqa: BLE001 - code of a block's author, asked where nothing may fail
            return Effects.UNSAFE

    def fails_on_mixed_origin(self, values: Mapping[str, Any]) -> bool:
        """Whether an execution that joins values which do not belong together must not run."""
        policy = self.settings.on_mixed_origin
        return policy is MixedOriginPolicy.FAIL or (policy is None and self.effects_of(values) is Effects.UNSAFE)

    @property
    def input_name(self) -> str | None:
        """Of an agent-input node: the name under which a run gives it a value."""
        return str(self.defaults.get("name", "")) if self.block.kind is BlockKind.INPUT else None


@dataclass(frozen=True, slots=True)
class Topology:
    """A graph version as the planner sees it."""

    graph_id: str
    version: int
    nodes: tuple[PlannedNode, ...]

    @property
    def start_nodes(self) -> list[PlannedNode]:
        """Nodes that a run starts (rule F1)."""
        return [node for node in self.nodes if node.is_start]

    def index_of(self, node_id: str) -> int:
        """The index of the node of that id; KeyError if there is none."""
        for node in self.nodes:
            if node.id == node_id:
                return node.index
        raise KeyError(node_id)


def output_key(node_index: int, pin: str) -> str:
    """Names an output pin of a graph version in records of origin."""
    return f"{node_index}:{pin}"


def build_topology(graph: Graph, blocks: Mapping[str, Block]) -> Topology:
    """Prepare a graph version; `MissingBlock` names the blocks that `blocks` (id -> block) lacks."""
    missing = sorted({node.block_id for node in graph.nodes} - blocks.keys())
    if missing:
        raise MissingBlock(f"This graph needs blocks that this server does not have: {', '.join(missing)}.")
    index = {node.id: position for position, node in enumerate(graph.nodes)}
    links = _distinct(graph.links)
    statics = _static_slots(links, {node.id: blocks[node.block_id] for node in graph.nodes})
    incoming: dict[str, dict[str, None]] = {node.id: {} for node in graph.nodes}
    outgoing: dict[str, dict[str, list[OutLink]]] = {node.id: {} for node in graph.nodes}
    for link in links:
        incoming[link.sink_id][link.sink_name] = None
        source = parse_pin(link.source_name)
        is_static = (link.sink_id, link.sink_name) in statics
        outgoing[link.source_id].setdefault(source.base, []).append(
            OutLink(
                source.parts,
                link.source_name[len(source.base) :] or None,
                index[link.sink_id],
                link.sink_name,
                is_static,
            )
        )
    watched = watched_pins(
        len(graph.nodes),
        [
            Wire(index[link.source_id], parse_pin(link.source_name).base, index[link.sink_id], link.sink_name)
            for link in links
            if (link.sink_id, link.sink_name) not in statics
        ],
    )

    sinks: list[list[int]] = [[] for _ in graph.nodes]
    for link in links:
        sinks[index[link.source_id]].append(index[link.sink_id])
    paced = _paced_by(sinks)

    def planned(position: int, node: Node) -> PlannedNode:
        block = blocks[node.block_id]
        names = incoming[node.id]
        settings = NodeSettings.model_validate(node.metadata)
        return PlannedNode(
            index=position,
            id=node.id,
            block=block,
            defaults=node.input_default,
            settings=settings,
            convert=input_converter(block.input_schema),
            slots=tuple(name for name in names if (node.id, name) not in statics),
            static_slots=tuple(name for name in names if (node.id, name) in statics),
            out=outgoing[node.id],
            is_start=not names or block.kind is BlockKind.INPUT,
            runs_on_loop=inspect.isasyncgenfunction(block.run),
            max_parallel=settings.max_parallel or block.max_parallel,
            timeout_s=settings.timeout_s or block.timeout_s,
            retry=settings.retry or block.retry,
            release=settings.release,
            paced_by=paced[position],
            watched=frozenset(output_key(*pin) for pin in watched[position]),
        )

    return Topology(graph.id, graph.version, tuple(planned(i, node) for i, node in enumerate(graph.nodes)))


def _paced_by(sinks: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """For each node those of its sinks that it may wait for: one on a loop with it might wait for it in turn."""
    loops = loop_numbers(sinks)
    return [
        tuple(dict.fromkeys(sink for sink in reached if loops[sink] != loops[node]))
        for node, reached in enumerate(sinks)
    ]


def _distinct(links: Sequence[Link]) -> list[Link]:
    """Identical links once (rule F3); static if any of them is."""
    distinct: dict[tuple[str, str, str, str], Link] = {}
    for link in links:
        ends = (link.source_id, link.source_name, link.sink_id, link.sink_name)
        if ends not in distinct or link.is_static:
            distinct[ends] = link
    return list(distinct.values())


def _static_slots(links: Sequence[Link], block_of: Mapping[str, Block]) -> set[tuple[str, str]]:
    """(node id, slot) of the sink slots into which every link is static (rule F5)."""
    verdicts: dict[tuple[str, str], bool] = {}
    for link in links:
        is_static = link.is_static or block_of[link.source_id].static_output
        slot = (link.sink_id, link.sink_name)
        verdicts[slot] = verdicts.get(slot, True) and is_static
    return {slot for slot, is_static in verdicts.items() if is_static}
