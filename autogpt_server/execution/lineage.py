"""Which output pins have to be told apart at later joins (rule F8). Pure; made once per graph version.

Values that meet in one execution belong together unless they descend from different outputs of one pin. To see that, executions remember what their values
descend from; but only of those pins that can make a difference where they are or further on, or a chain of ten thousand nodes would remember ten
thousand pins in every execution.

A pin P makes a difference at a join if values of it can arrive there over two slots. It need not be remembered beyond a pin Q through which everything that
descends from P has to pass on its way to later joins: values that come from the same output of Q descend from the same outputs of P, and values
that come from different ones are told apart by Q.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autogpt_server.execution.order import flow_order

MAX_WATCHED = 100
"""Pins remembered at one node at most, the nearest first. Only graphs in which scores of branches cross again and again have more."""


class Wire(NamedTuple):
    """An ordinary link: from a pin of one node to a slot of another, nodes by index."""

    source: int
    pin: str
    sink: int
    slot: str


def watched_pins(node_count: int, wires: Iterable[Wire]) -> list[frozenset[tuple[int, str]]]:
    """For each node the (node, output pin) of its ancestors that have to be remembered there.

    Sets of pins are bit masks, because a graph may have ten thousand nodes; loops are followed until nothing changes.
    """
    net = _Net.of(node_count, wires)
    everything = net.ancestors([0] * len(net.pins))
    if not any(net.joins(everything)):
        return [frozenset()] * node_count
    alive = net.ancestors(_closed_pins(net, everything))
    needed = net.needed(alive)
    return [net.names(needed[node] & alive[node]) for node in range(node_count)]


@dataclass(slots=True)
class _Net:
    """A graph's wires by their ends. Pins are numbered in the order of the flow."""

    pins: list[tuple[int, str]]
    into: list[list[tuple[int, int, str]]]
    """Node -> (source node, pin, slot) of what enters."""
    out_of: list[list[tuple[int, int]]]
    """Node -> (pin, sink node) of what leaves."""
    order: list[int]
    """The nodes such that, loops aside, each comes after those that feed it."""
    closes: list[int]
    """Pin -> mask of the pins that need not be remembered beyond it."""

    @classmethod
    def of(cls, node_count: int, wires: Iterable[Wire]) -> _Net:
        listed = list(wires)
        sinks: list[list[int]] = [[] for _ in range(node_count)]
        for wire in listed:
            sinks[wire.source].append(wire.sink)
        order = flow_order(sinks)
        place = {node: position for position, node in enumerate(order)}
        pins = sorted({(wire.source, wire.pin) for wire in listed}, key=lambda pin: (place[pin[0]], pin[1]))
        number = {pin: position for position, pin in enumerate(pins)}
        net = cls(pins, [[] for _ in range(node_count)], [[] for _ in range(node_count)], order, [0] * len(pins))
        for wire in listed:
            pin = number[wire.source, wire.pin]
            net.into[wire.sink].append((wire.source, pin, wire.slot))
            net.out_of[wire.source].append((pin, wire.sink))
        return net

    def ancestors(self, closes: list[int]) -> list[int]:
        """Node -> mask of the pins that its values may descend from, but for those that are closed on the way."""
        self.closes = closes
        found = [0] * len(self.into)

        def gather(node: int) -> int:
            mask = 0
            for source, pin, _ in self.into[node]:
                mask |= (found[source] & ~closes[pin]) | 1 << pin
            return mask

        _settle(found, gather, [[sink for _, sink in entries] for entries in self.out_of], self.order)
        return found

    def joins(self, ancestors: Sequence[int]) -> list[int]:
        """Node -> mask of the pins whose values arrive over more than one slot."""
        return [self._met_twice(node, ancestors) for node in range(len(self.into))]

    def needed(self, ancestors: Sequence[int]) -> list[int]:
        """Node -> mask of the pins that make a difference there or further on."""
        found = self.joins(ancestors)
        joins = list(found)

        def gather(node: int) -> int:
            mask = joins[node]
            for pin, sink in self.out_of[node]:
                mask |= found[sink] & ~self.closes[pin] & ~(1 << pin)
            return mask

        _settle(found, gather, [[source for source, _, _ in entries] for entries in self.into], self.order[::-1])
        return found

    def names(self, mask: int) -> frozenset[tuple[int, str]]:
        """The pins of a mask; the nearest ones, if there are too many."""
        found: list[tuple[int, str]] = []
        while mask and len(found) < MAX_WATCHED:
            highest = mask.bit_length() - 1
            found.append(self.pins[highest])
            mask ^= 1 << highest
        return frozenset(found)

    def _met_twice(self, node: int, ancestors: Sequence[int]) -> int:
        by_slot: dict[str, int] = {}
        for source, pin, slot in self.into[node]:
            mask = (ancestors[source] & ~self.closes[pin]) | 1 << pin
            by_slot[slot] = by_slot.get(slot, 0) | mask
        once = twice = 0
        for mask in by_slot.values():
            twice |= once & mask
            once |= mask
        return twice


def _closed_pins(net: _Net, ancestors: Sequence[int]) -> list[int]:
    """Pin -> mask of the pins that need not be remembered beyond it, because everything that descends from them passes here.

    These are the post-dominators in the graph of nodes and pins (K. Cooper, T. Harvey, K. Kennedy, "A Simple, Fast Dominance Algorithm", 2001), seen from
    the joins where it ends. A join on a loop counts as an end, too: what passed a pin may come back there beside what has not.
    """
    nodes = len(net.into)
    joins = net.joins(ancestors)
    leads_on = _leading_to([node for node in range(nodes) if joins[node]], net)
    # Vertices: nodes, then pins, then the end of everything.
    end = nodes + len(net.pins)
    before: list[set[int]] = [set() for _ in range(end + 1)]
    for node in range(nodes):
        if not leads_on[node]:
            continue
        goes_on = False
        is_looped = False
        for pin, sink in net.out_of[node]:
            is_looped = is_looped or bool(ancestors[node] >> pin & 1)
            if leads_on[sink]:
                before[sink].add(nodes + pin)
                before[nodes + pin].add(node)
                goes_on = True
        if not goes_on or (joins[node] and is_looped):
            before[end].add(node)
    gates = _dominators(before, end)
    closes = [0] * len(net.pins)
    for pin in range(len(net.pins)):
        gate = gates.get(nodes + pin, end)
        while gate < nodes:
            gate = gates[gate]
        if gate != end:
            closes[gate - nodes] |= 1 << pin
    return closes


def _leading_to(targets: Iterable[int], net: _Net) -> list[bool]:
    """Node -> whether one of `targets` is reached from it, or is it."""
    found = [False] * len(net.into)
    pending = list(targets)
    while pending:
        node = pending.pop()
        if not found[node]:
            found[node] = True
            pending.extend(source for source, _, _ in net.into[node])
    return found


def _dominators(edges: Sequence[Iterable[int]], root: int) -> dict[int, int]:
    """Vertex -> the nearest vertex that every path from `root` to it passes; `edges[v]` are the successors of `v`."""
    order = flow_order([list(targets) for targets in edges], roots=[root])
    place = {vertex: position for position, vertex in enumerate(order)}
    sources: dict[int, list[int]] = {vertex: [] for vertex in order}
    for vertex in order:
        for target in edges[vertex]:
            sources[target].append(vertex)
    nearest = {root: root}
    is_settled = False
    while not is_settled:
        is_settled = True
        for vertex in order[1:]:
            known = [source for source in sources[vertex] if source in nearest]
            best = known[0]
            for other in known[1:]:
                while best != other:
                    if place[best] > place[other]:
                        best = nearest[best]
                    else:
                        other = nearest[other]  # noqa: PLW2901 - the two climb until they meet
            if nearest.get(vertex) != best:
                nearest[vertex] = best
                is_settled = False
    return nearest


def _settle(
    masks: list[int], gather: Callable[[int], int], dependents: Sequence[Sequence[int]], order: Sequence[int]
) -> None:
    """Recompute masks, in this order, until none changes; a changed one has its dependents looked at again."""
    pending = dict.fromkeys(order)
    while pending:
        node = next(iter(pending))
        del pending[node]
        mask = gather(node)
        if mask != masks[node]:
            masks[node] = mask
            pending.update(dict.fromkeys(dependents[node]))
