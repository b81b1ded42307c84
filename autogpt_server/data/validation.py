"""What is wrong with a graph, all at once: each finding names the node, the pin and what would fit. Pure; changes nothing it looks at.

Errors are what can never work: such a graph is refused. Warnings are what probably is not meant. The graph is judged as it would be stored, after
`upgrade_graph`, by the rules F1 to F7 of the design.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from autogpt_server.data.block import Block, BlockKind, PinDirection
from autogpt_server.data.convert import ConversionError, describe_schema, input_converter
from autogpt_server.data.linktypes import ANYTHING, LinkVerdict, Schema, link_verdict, part_schema
from autogpt_server.data.models import Graph, Link, Node
from autogpt_server.data.pins import PinMergeError, PinName, PinNameError, merge_slots, parse_pin
from autogpt_server.data.pinschema import input_pins, output_pins
from autogpt_server.data.problems import Problem
from autogpt_server.utils.settings import Settings

LINKS_PER_NODE = 10
"""A graph may have this many times as many links as nodes."""
_MAX_SUGGESTIONS = 50


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """How large a graph may be."""

    nodes: int
    links: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(nodes=settings.max_graph_nodes, links=settings.max_graph_nodes * LINKS_PER_NODE)


@dataclass(slots=True)
class Findings:
    """What a validation found."""

    errors: list[Problem] = field(default_factory=list[Problem])
    warnings: list[Problem] = field(default_factory=list[Problem])

    @property
    def all(self) -> list[Problem]:
        return [*self.errors, *self.warnings]

    def error(
        self, code: str, message: str, *, node: str | None = None, pin: str | None = None, expected: Iterable[str] = ()
    ) -> None:
        self.errors.append(Problem(code, message, node, pin, list(expected) or None))

    def warn(
        self, code: str, message: str, *, node: str | None = None, pin: str | None = None, expected: Iterable[str] = ()
    ) -> None:
        self.warnings.append(Problem(code, message, node, pin, list(expected) or None))


def validate_graph(graph: Graph, blocks: Mapping[str, Block], limits: GraphLimits) -> Findings:
    """Everything that is wrong with `graph` (already upgraded); `blocks` is the library, id -> block."""
    found = Findings()
    if not _within_limits(graph, limits, found):
        return found
    wires = _Wires(graph)
    names_given: dict[str, str] = {}
    for node in _unique_nodes(graph, found):
        block = blocks.get(node.block_id)
        if block is None:
            _report_unknown_block(node, blocks, found)
            continue
        _check_defaults(node, block, wires, found)
        _check_input_name(node, block, names_given, found)
    for link in _distinct_links(graph, found):
        _check_link(link, wires, blocks, found)
    _check_static_mix(wires, blocks, found)
    _check_flow(graph, wires, blocks, found)
    return found


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """Those of `known` that `word` was probably meant to be, best first."""
    names = list(known)
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=5, cutoff=cutoff)
    return [by_folded[name] for name in close]


class _Wires:
    """The graph's links by their ends."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: dict[str, Node] = {}
        for node in graph.nodes:
            self.nodes.setdefault(node.id, node)
        self.into: defaultdict[str, list[Link]] = defaultdict(list)
        self.out_of: defaultdict[str, list[Link]] = defaultdict(list)
        for link in graph.links:
            if link.source_id in self.nodes and link.sink_id in self.nodes:
                self.into[link.sink_id].append(link)
                self.out_of[link.source_id].append(link)

    def linked_fields(self, node_id: str) -> set[str]:
        """The input fields of a node that some link enters, whole or in parts."""
        return {pin.base for link in self.into[node_id] if (pin := _parsed(link.sink_name))}


def _within_limits(graph: Graph, limits: GraphLimits, found: Findings) -> bool:
    for what, count, most in (("node", len(graph.nodes), limits.nodes), ("link", len(graph.links), limits.links)):
        if count > most:
            found.error(
                f"too_many_{what}s",
                f"The graph has {count:,} {what}s; at most {most:,} are allowed (MAX_GRAPH_NODES).",
                expected=[f"at most {most}"],
            )
    return not found.errors


def _unique_nodes(graph: Graph, found: Findings) -> Iterator[Node]:
    seen: set[str] = set()
    for node in graph.nodes:
        if node.id and node.id in seen:
            found.error(
                "duplicate_node_id",
                f"Two nodes have the id {node.id!r}; links could not tell them apart. Give each its own.",
                node=node.id,
            )
        seen.add(node.id)
        yield node


def _report_unknown_block(node: Node, blocks: Mapping[str, Block], found: Findings) -> None:
    ids = {block.name: block.id for block in blocks.values()}
    near = [ids[name] for name in nearest(node.block_id, ids)] or nearest(node.block_id, blocks, cutoff=0.85)
    hint = f" Did you mean {blocks[near[0]].name} ({near[0]})?" if near else ""
    found.error(
        "unknown_block",
        f"There is no block {node.block_id!r} here; GET /blocks lists them.{hint}",
        node=node.id,
        expected=near,
    )


def _check_defaults(node: Node, block: Block, wires: _Wires, found: Findings) -> None:
    """Constant input: pins that exist, parts that fit together, values of the right type."""
    pins = block.input_schema.pins()
    converter = input_converter(block.input_schema)
    usable: dict[str, Any] = {}
    for name, value in node.input_default.items():
        pin = _pin_or_report(name, node, found)
        if pin is None:
            continue
        if pin.base in pins:
            usable[name] = value
            continue
        near = [other for other in nearest(pin.base, pins, cutoff=0.75) if other not in node.input_default]
        if near:
            found.error(
                "unknown_pin",
                f"Block {block.name} has no input pin {pin.base!r}; did you mean {near[0]!r}?",
                node=node.id,
                pin=name,
                expected=_ranked(near, pins),
            )
        else:
            found.warn(
                "unused_default",
                f"Block {block.name} has no input pin {pin.base!r}: this value is kept, but nothing reads it.",
                node=node.id,
                pin=name,
                expected=pins,
            )
    linked = wires.linked_fields(node.id)
    try:
        merged = merge_slots(usable, {})
    except PinMergeError as error:
        found.error("bad_default", str(error), node=node.id, pin=error.pin)
        return
    for pin_name, value in merged.items():
        if pin_name in linked:
            continue  # what arrives replaces or completes it
        try:
            converter.pins[pin_name](value)
        except ConversionError as error:
            found.error("bad_default", str(error), node=node.id, pin=pin_name, expected=[error.expected])


def _check_input_name(node: Node, block: Block, names_given: dict[str, str], found: Findings) -> None:
    name = node.input_default.get("name")
    if block.kind is not BlockKind.INPUT or not isinstance(name, str):
        return
    other = names_given.setdefault(name, node.id)
    if other != node.id:
        found.warn(
            "duplicate_input_name",
            f"The agent inputs {other!r} and {node.id!r} are both called {name!r}; a run gives both the same value.",
            node=node.id,
            pin="name",
        )


def _distinct_links(graph: Graph, found: Findings) -> Iterator[Link]:
    seen: set[tuple[str, str, str, str]] = set()
    for link in graph.links:
        ends = link_ends(link)
        if ends in seen:
            message = f"The link from {link.source_id!r} {link.source_name!r} to {link.sink_id!r} {link.sink_name!r} is there twice; it is stored once."
            found.warn("duplicate_link", message, node=link.sink_id, pin=link.sink_name)
            continue
        seen.add(ends)
        yield link


def link_ends(link: Link) -> tuple[str, str, str, str]:
    """What makes two links the same one (rule F3)."""
    return link.source_id, link.source_name, link.sink_id, link.sink_name


def _check_link(link: Link, wires: _Wires, blocks: Mapping[str, Block], found: Findings) -> None:
    source, sink = (
        _end_or_report(node_id, side, link, wires, found)
        for node_id, side in ((link.source_id, "source"), (link.sink_id, "sink"))
    )
    given = wanted = None
    if source is not None and source.block_id in blocks:
        given = _pin_schema(source, blocks[source.block_id], link.source_name, "output", found)
    if sink is not None and sink.block_id in blocks:
        wanted = _pin_schema(sink, blocks[sink.block_id], link.sink_name, "input", found)
    if given is None or wanted is None or not _says_something(given.schema):
        return
    verdict = link_verdict(given.schema, wanted.schema, {**given.definitions, **wanted.definitions})
    if verdict is LinkVerdict.FITS:
        return
    expected = describe_schema(wanted.schema)
    what = f"{link.sink_name!r} expects {expected}, and {link.source_name!r} of node {link.source_id!r} gives {describe_schema(given.schema)}"
    if verdict is LinkVerdict.IMPOSSIBLE:
        found.error(
            "type_mismatch",
            f"Pin {what}: no value can pass.",
            node=link.sink_id,
            pin=link.sink_name,
            expected=[expected],
        )
    else:
        found.warn(
            "type_doubtful",
            f"Pin {what}: values that cannot be converted will fail.",
            node=link.sink_id,
            pin=link.sink_name,
            expected=[expected],
        )


def _end_or_report(node_id: str, side: str, link: Link, wires: _Wires, found: Findings) -> Node | None:
    node = wires.nodes.get(node_id)
    if node is None:
        near = nearest(node_id, wires.nodes)
        pin = link.source_name if side == "source" else link.sink_name
        message = f"A link's {side}_id is {node_id!r}, but the graph has no such node."
        found.error(
            "unknown_node", message, node=node_id, pin=pin, expected=_ranked(near, wires.nodes)[:_MAX_SUGGESTIONS]
        )
    return node


@dataclass(frozen=True, slots=True)
class _PinSchema:
    schema: Schema
    definitions: Schema


def _pin_schema(node: Node, block: Block, name: str, direction: PinDirection, found: Findings) -> _PinSchema | None:
    """The schema of a pin at the end of a link, dynamic parts applied; None if there is no such pin, which is reported."""
    pin = _pin_or_report(name, node, found)
    if pin is None:
        return None
    pins = input_pins(block) if direction == "input" else output_pins(block)
    if pin.base not in pins.pins:
        named = _outputs_of_agent(node, block) if direction == "output" else None
        if named is not None and (not named or pin.base in named):
            return _PinSchema(ANYTHING, {})
        near = nearest(pin.base, [*(named or ()), *pins.pins])
        expected = _ranked(near, [*(named or ()), *pins.pins])
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, expected)) or 'none'}."
        found.error(
            "unknown_pin",
            f"Block {block.name} has no {direction} pin {pin.base!r}; {hint}",
            node=node.id,
            pin=name,
            expected=expected,
        )
        return None
    whole = pins.pins[pin.base]
    part = part_schema(whole, pin.parts, pins.definitions)
    if part is None:
        message = (
            f"Pin {name!r} asks for a part of {pin.base!r}, which is {describe_schema(whole)} and has no such part."
        )
        found.error("impossible_part", message, node=node.id, pin=name, expected=[pin.base])
        return None
    return _PinSchema(part, pins.definitions)


def _outputs_of_agent(node: Node, block: Block) -> list[str] | None:
    """The output pins that a node has for those of the graph it performs, as far as it was saved with their names; None for all other nodes."""
    if block.kind is not BlockKind.AGENT:
        return None
    schema: Any = node.input_default.get("output_schema")
    properties: Any = cast("dict[str, Any]", schema).get("properties") if isinstance(schema, dict) else None
    return list(cast("dict[str, Any]", properties)) if isinstance(properties, dict) else []


def _says_something(schema: Schema) -> bool:
    """Whether the schema restricts anything. A pin that may give anything is not doubtful, it is unknown: to warn would be noise."""
    return any(key in schema for key in ("type", "enum", "const", "anyOf", "oneOf", "$ref")) and schema is not ANYTHING


def _check_static_mix(wires: _Wires, blocks: Mapping[str, Block], found: Findings) -> None:
    for node_id, links in wires.into.items():
        kinds: defaultdict[str, set[bool]] = defaultdict(set)
        for link in links:
            block = blocks.get(wires.nodes[link.source_id].block_id)
            kinds[link.sink_name].add(link.is_static or (block is not None and block.static_output))
        for pin, seen in kinds.items():
            if len(seen) > 1:
                found.warn(
                    "mixed_static",
                    f"Pin {pin!r} has static and ordinary links; all are treated as ordinary.",
                    node=node_id,
                    pin=pin,
                )


def _check_flow(graph: Graph, wires: _Wires, blocks: Mapping[str, Block], found: Findings) -> None:
    """Where a run would start, what it could reach, and which required pins would have no value there (rule F1)."""
    starts = [node.id for node in graph.nodes if is_start(node, blocks, bool(wires.into[node.id]))]
    if not starts:
        if graph.nodes:
            found.error(
                "no_start_node",
                "Every node waits for another one, so a run could never start. Leave one node without incoming links, or add an agent input.",
            )
        else:
            found.warn("no_start_node", "The graph has no nodes yet: it can be stored, but not run.")
        return
    takes_run_input = not any(_kind(node, blocks) is BlockKind.INPUT for node in graph.nodes)
    touched = _touched(starts, wires)
    runnable = _runnable(starts, wires)
    for node in graph.nodes:
        block = blocks.get(node.block_id)
        if node.id not in runnable:
            reason = (
                "no start node leads to it"
                if node.id not in touched
                else "it waits, directly or in a circle, for something that never comes"
            )
            found.warn("unreachable_node", f"This node can never run: {reason}.", node=node.id)
        if block is None or node.id not in touched or (takes_run_input and node.id in starts):
            continue
        for pin in missing_pins(node, block, wires.linked_fields(node.id)):
            found.error(
                "missing_input",
                f"Block {block.name} requires {pin!r}: link it, or give it a value in `input_default`.",
                node=node.id,
                pin=pin,
                expected=_pin_type(block, pin),
            )


def is_start(node: Node, blocks: Mapping[str, Block], has_incoming: bool) -> bool:
    """Whether a run starts this node: nothing leads to it, or it is an agent input."""
    return not has_incoming or _kind(node, blocks) is BlockKind.INPUT


def missing_pins(node: Node, block: Block, linked: Iterable[str]) -> list[str]:
    """Required pins of a node that are neither linked nor defaulted, in any part."""
    given = {pin.base for name in node.input_default if (pin := _parsed(name))} | set(linked)
    required = block.input_schema.required_pins()
    return [pin for pin in block.input_schema.pins() if pin in required and pin not in given]


def _kind(node: Node, blocks: Mapping[str, Block]) -> BlockKind:
    block = blocks.get(node.block_id)
    return block.kind if block is not None else BlockKind.STANDARD


def _pin_type(block: Block, pin: str) -> list[str]:
    return [describe_schema(input_pins(block).pins[pin])]


def _touched(starts: Iterable[str], wires: _Wires) -> set[str]:
    """The nodes that lie behind a start node."""
    seen = set(starts)
    pending = list(seen)
    while pending:
        for link in wires.out_of[pending.pop()]:
            if link.sink_id not in seen:
                seen.add(link.sink_id)
                pending.append(link.sink_id)
    return seen


def _runnable(starts: Iterable[str], wires: _Wires) -> set[str]:
    """The nodes whose linked pins can all get a value: a pin needs one source that can run (rule F4: a linked pin is always waited for)."""
    waiting = {node_id: {link.sink_name for link in wires.into[node_id]} for node_id in wires.nodes}
    runnable = set(starts)
    pending = list(runnable)
    while pending:
        for link in wires.out_of[pending.pop()]:
            waiting[link.sink_id].discard(link.sink_name)
            if not waiting[link.sink_id] and link.sink_id not in runnable:
                runnable.add(link.sink_id)
                pending.append(link.sink_id)
    return runnable


def _parsed(name: str) -> PinName | None:
    try:
        return parse_pin(name)
    except PinNameError:
        return None


def _pin_or_report(name: str, node: Node, found: Findings) -> PinName | None:
    try:
        return parse_pin(name)
    except PinNameError as error:
        found.error("bad_pin_name", str(error), node=node.id, pin=name)
        return None


def _ranked(first: Iterable[str], names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *names]))
