"""The graphs that benchmarks run, as they are posted."""

from __future__ import annotations

from typing import Any

from benchmarks import blocks

Graph = dict[str, Any]


def chain(length: int) -> Graph:
    """So many nodes, each passing the text of the one before on. Input: `text`."""
    nodes = [{"id": str(number), "block_id": blocks.BenchPassBlock.id} for number in range(length)]
    links = [_link(str(number), "output", str(number + 1), "text") for number in range(length - 1)]
    return {"name": f"chain of {length}", "nodes": nodes, "links": links}


def items() -> Graph:
    """One node that yields texts, and two through which each of them passes. Input: `count`."""
    nodes = [
        {"id": "items", "block_id": blocks.BenchItemsBlock.id},
        {"id": "a", "block_id": blocks.BenchPassBlock.id},
        {"id": "b", "block_id": blocks.BenchPassBlock.id},
    ]
    return {
        "name": "items",
        "nodes": nodes,
        "links": [_link("items", "item", "a", "text"), _link("a", "output", "b", "text")],
    }


def sleepers(count: int, seconds: float, *, on_loop: bool) -> Graph:
    """So many nodes that all sleep from the start of the run on."""
    block_id = blocks.BenchSleepAsyncBlock.id if on_loop else blocks.BenchSleepBlock.id
    nodes = [{"id": str(n), "block_id": block_id, "input_default": {"seconds": seconds}} for n in range(count)]
    return {"name": "sleepers", "nodes": nodes, "links": []}


def _link(source: str, output: str, sink: str, pin: str) -> dict[str, Any]:
    return {"source_id": source, "source_name": output, "sink_id": sink, "sink_name": pin}
