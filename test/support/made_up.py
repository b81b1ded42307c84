"""Graphs made up by chance, for properties that hold of any graph, and what holds of the rows of any run."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from autogpt_server.utils import json
from support.kahn import ERROR, GraphSpec, LinkSpec, NodeSpec
from support.world import Recorded, Row

quick = settings(
    max_examples=int(os.environ.get("PLANNER_EXAMPLES", "150")),
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


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
        salt(draw, found),
    )


def salt(draw: st.DrawFn, links: list[LinkSpec]) -> int:
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
    return GraphSpec(tuple(map(NodeSpec, names)), tuple(links), frozenset({"N0"}), salt(draw, links))


def _without_ambiguity(links: list[LinkSpec], sources: frozenset[str]) -> Iterator[LinkSpec]:
    """Static links only where it is told which value serves: all there is of it has come before the node begins, or the value itself begins it."""
    for sink in {link.sink: None for link in links}:
        into = [link for link in links if link.sink == sink]
        waits = any(not link.is_static and link.source not in sources for link in into)
        if not waits and (len(into) > 1 or not into[0].is_static):
            into = [replace(link, is_static=False) for link in into]
        yield from into


def without_words(value: Any) -> Any:
    """Messages of failures at queueing are their own tests' business."""
    return ERROR if isinstance(value, str) and not value[0].isdigit() else value


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
