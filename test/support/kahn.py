"""What a run must come to, straight from the rules and without any events: an oracle for the planner.

Where each ordinary slot has one source, a graph is a network of Kahn processes: what travels a link is one sequence of values, whoever runs when. So the
sequences are found as the smallest solution of their equations: start with empty ones, compute what each node makes of what it gets, until nothing
changes. Nothing here knows of executions that wait, of release or of attempts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ERROR = "<error>"
"""Stands for the message of an execution that failed before it began."""

FIRST_STEPS = 5

Lineage = Mapping[tuple[str, str], tuple[Any, ...]]
"""(node, pin) -> the output of it that a value descends from, or the meeting of several."""


@dataclass(frozen=True)
class NodeSpec:
    """A node as the oracle knows it: `kind` is a block of `support.planning`."""

    name: str
    kind: str = "free"
    ends: bool = False
    """Whether outputs travel only when the execution has completed."""
    fails_on_mixed: bool = False
    max_parallel: int = 8


@dataclass(frozen=True)
class LinkSpec:
    source: str
    pin: str
    sink: str
    slot: str
    is_static: bool = False

    @property
    def source_name(self) -> str:
        """Values of pin y are objects, of which links take the entry k, if there is one."""
        return "y_#_k" if self.pin == "y" else self.pin


@dataclass(frozen=True)
class GraphSpec:
    nodes: tuple[NodeSpec, ...]
    links: tuple[LinkSpec, ...]
    sources: frozenset[str] = frozenset()
    """Nodes that must have ended before the others begin."""
    salt: int = 0
    """Makes the blocks behave differently."""

    def text(self) -> str:
        """In the notation of `support.planning`."""
        lines = [
            f"{node.name}: {node.kind} @max_parallel={node.max_parallel}"
            + (' @release="end"' if node.ends else "")
            + f' @on_mixed_origin="{"fail" if node.fails_on_mixed else "warn"}"'
            for node in self.nodes
        ]
        lines += [
            f"{link.source}.{link.source_name} {'=>' if link.is_static else '->'} {link.sink}.{link.slot}"
            for link in self.links
        ]
        return "\n".join(lines)


@dataclass
class Firing:
    """One execution, as it must be."""

    inputs: dict[str, Any]
    outputs: list[tuple[str, Any]]
    failed: bool
    mixed: bool


@dataclass
class Outcome:
    """What a run must come to."""

    firings: dict[str, list[Firing]]
    incomplete: dict[str, list[dict[str, Any]]]
    unhandled: set[tuple[str, int]]
    """(node, number) of the failures that nobody took."""


def behave(salt: int, node: str, inputs: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], str | None]:
    """What a block yields, and the message with which it then fails: arbitrary, but always the same for the same input.

    A value's last digit is the number of steps it may still cause, so that loops end.
    """
    steps = min((_steps(value) for value in inputs.values()), default=FIRST_STEPS)
    if steps <= 0:
        return [], None
    chance = zlib.crc32(repr((salt, node, sorted(inputs.items()))).encode())
    outputs: list[tuple[str, Any]] = []
    count = (0, 1, 1, 1, 2, 2)[chance % 6] if inputs else 3 + chance % 4
    for number in range(count):
        part = chance >> (3 * number + 3)
        value = steps - 1 + 10 * (part % 30)
        outputs.append(("x", value) if part % 4 else ("y", {"k": value} if part % 16 else {}))
    return outputs, f"{steps - 1} steps left" if chance // 6 % 8 == 0 else None


def _steps(value: Any) -> int:
    if isinstance(value, str):
        return int(value[0]) if value[0].isdigit() else 0
    return int(value) % 10


@dataclass
class _Item:
    value: Any
    lineage: Lineage
    failed: tuple[str, int] | None


@dataclass
class _Node:
    spec: NodeSpec
    ordinary: dict[str, LinkSpec] = field(default_factory=dict[str, LinkSpec])
    static: dict[str, LinkSpec] = field(default_factory=dict[str, LinkSpec])


def solve(graph: GraphSpec) -> Outcome:
    """The outcome of a run in which static sources end before anything else begins."""
    nodes = {spec.name: _Node(spec) for spec in graph.nodes}
    for link in graph.links:
        slots = nodes[link.sink].static if link.is_static else nodes[link.sink].ordinary
        assert link.slot not in slots, "one source for each slot"
        slots[link.slot] = link
    sent: dict[str, list[tuple[str, _Item]]] = {name: [] for name in nodes}
    for _ in range(1000):
        streams = {link: _stream(link, sent) for link in graph.links}
        firings = {name: _fire(node, streams, graph.salt) for name, node in nodes.items()}
        new = {name: [output for _, outputs in fired for output in outputs] for name, fired in firings.items()}
        if _shape(new) == _shape(sent):
            return _outcome(nodes, firings, streams)
        sent = new
    raise AssertionError("this graph does not come to rest")


def _stream(link: LinkSpec, sent: Mapping[str, Sequence[tuple[str, _Item]]]) -> list[_Item]:
    items = [item for pin, item in sent[link.source] if pin == link.pin]
    if link.pin == "y":
        return [_Item(item.value["k"], item.lineage, None) for item in items if "k" in item.value]
    return items


def _fire(
    node: _Node, streams: Mapping[LinkSpec, Sequence[_Item]], salt: int
) -> list[tuple[Firing, list[tuple[str, _Item]]]]:
    ordinary = {slot: streams[link] for slot, link in node.ordinary.items()}
    static = {slot: streams[link] for slot, link in node.static.items()}
    if not ordinary and not static:
        tokens: list[dict[str, _Item]] = [{}]
    elif not ordinary:
        (slot, items), *others = static.items()
        assert not others, "the order in which values of several static pins come is not told by any rule"
        tokens = [{slot: item} for item in items]
    elif all(static.values()):
        latest = {slot: items[-1] for slot, items in static.items()}
        rows = zip(*ordinary.values(), strict=False)
        tokens = [{**dict(zip(ordinary, row, strict=True)), **latest} for row in rows]
    else:
        tokens = []
    return [_perform(node, number, given, salt) for number, given in enumerate(tokens)]


def _perform(
    node: _Node, number: int, tokens: Mapping[str, _Item], salt: int
) -> tuple[Firing, list[tuple[str, _Item]]]:
    spec = node.spec
    inputs = {slot: item.value for slot, item in tokens.items()}
    lineage: dict[tuple[str, str], tuple[Any, ...]] = {}
    is_mixed = False
    for key in {key for item in tokens.values() for key in item.lineage}:
        origins = {tokens[slot].lineage[key] for slot in node.ordinary if key in tokens[slot].lineage}
        if origins:
            is_mixed = is_mixed or len(origins) > 1
            lineage[key] = origins.pop() if len(origins) == 1 else ("meeting", spec.name, number)
    is_odd = spec.kind == "even" and isinstance(inputs.get("a"), int) and inputs["a"] % 2 == 1
    if is_odd or (is_mixed and spec.fails_on_mixed):
        outputs, error = [], ERROR
    else:
        outputs, error = behave(salt, spec.name, inputs)
    sent = [] if spec.ends and error is not None else [*enumerate(outputs)]
    if error is not None:
        sent.append((len(outputs), ("error", error)))
        outputs = [*outputs, ("error", error)]
    failed = (spec.name, number) if error is not None else None
    items = [
        (
            pin,
            _Item(value, {**lineage, (spec.name, pin): (spec.name, number, place)}, failed if pin == "error" else None),
        )
        for place, (pin, value) in sent
    ]
    return Firing(inputs, outputs, error is not None, is_mixed), items


def _shape(sent: Mapping[str, Sequence[tuple[str, _Item]]]) -> Any:
    return {name: [(pin, repr(item)) for pin, item in items] for name, items in sent.items()}


def _outcome(
    nodes: Mapping[str, _Node],
    firings: Mapping[str, Sequence[tuple[Firing, Sequence[tuple[str, _Item]]]]],
    streams: Mapping[LinkSpec, Sequence[_Item]],
) -> Outcome:
    unhandled = {
        (name, number) for name, fired in firings.items() for number, (one, _) in enumerate(fired) if one.failed
    }
    incomplete: dict[str, list[dict[str, Any]]] = {}
    for name, node in nodes.items():
        count = len(firings[name])
        rest: list[dict[str, Any]] = []
        for slot, link in node.ordinary.items():
            for number, item in enumerate(streams[link]):
                if number < count:
                    unhandled.discard(item.failed or ("", 0))
                else:
                    while len(rest) <= number - count:
                        rest.append({})
                    rest[number - count][slot] = item.value
        incomplete[name] = rest
        for link in node.static.values():
            bound = streams[link] if not node.ordinary else streams[link][-1:]
            for item in bound if count else ():
                unhandled.discard(item.failed or ("", 0))
    return Outcome({name: [one for one, _ in fired] for name, fired in firings.items()}, incomplete, unhandled)
