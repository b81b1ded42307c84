"""Graphs saved by older revisions of blocks, brought to today's pins. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autogpt_server.data.block import Block, NodeWiring, PinLink
from autogpt_server.data.models import Graph, Link, Node
from autogpt_server.data.pins import PinNameError, parse_pin

_FAR_END = "link"


@dataclass(frozen=True, slots=True)
class UpgradeFailure:
    """A block could not read a node that an older revision of it, or somebody else, wrote."""

    node_id: str
    message: str


def upgrade_graph(graph: Graph, blocks: Mapping[str, Block]) -> tuple[Graph, list[UpgradeFailure]]:
    """A copy of `graph` in which each node fits the present revision of its block, and the nodes that could not be read (left as they are).

    Nodes of unknown blocks, and nodes with a pin name that cannot be read, stay as they are: validation names them. A block may turn one
    incoming link into several (an object's entries to one pin each), and may drop links.
    """
    links: list[list[Link]] = [[link] for link in graph.links]
    touching: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for position, link in enumerate(graph.links):
        touching[link.source_id][position] = None
        touching[link.sink_id][position] = None
    nodes: list[Node] = []
    failures: list[UpgradeFailure] = []
    for node in graph.nodes:
        block = blocks.get(node.block_id)
        if block is None or not _has_older_revisions(block):
            nodes.append(node)
            continue
        ends = [(position, link) for position in touching[node.id] for link in links[position]]
        try:
            wiring = _upgraded(block, node, [link for _, link in ends])
        except PinNameError:
            nodes.append(node)
            continue
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            failures.append(
                UpgradeFailure(
                    node.id,
                    f"Block {block.name} cannot read what this node was saved with ({type(error).__name__}); compare it with the block's pins.",
                )
            )
            nodes.append(node)
            continue
        nodes.append(node.model_copy(update={"input_default": dict(wiring.defaults)}))
        for position in touching[node.id]:
            links[position] = []
        for number, (position, link) in enumerate(ends):
            links[position] += _rewired(link, number, node.id, wiring)
    return graph.model_copy(update={"nodes": nodes, "links": [link for group in links for link in group]}), failures


def upgrade_input(block: Block, given: Mapping[str, Any]) -> dict[str, Any]:
    """Input for one call of a block, by today's pin names. `PinNameError` for a name that cannot be read."""
    for name in given:
        parse_pin(name)
    return dict(block.upgrade(NodeWiring(defaults=given)).defaults)


def _has_older_revisions(block: Block) -> bool:
    return type(block).upgrade.__func__ is not Block.upgrade.__func__


def _upgraded(block: Block, node: Node, links: list[Link]) -> NodeWiring:
    """What the block makes of the node.

    The far end of the n-th link is given as a pin called `link{n}`: it is another block's business, and by that name the link is known again
    afterwards, whatever became of the number and order of links.
    """
    incoming = tuple(
        PinLink(f"{_FAR_END}{n}", link.sink_name) for n, link in enumerate(links) if link.sink_id == node.id
    )
    outgoing = tuple(
        PinLink(link.source_name, f"{_FAR_END}{n}") for n, link in enumerate(links) if link.source_id == node.id
    )
    for name in (*node.input_default, *(link.sink_name for link in incoming), *(link.source_name for link in outgoing)):
        parse_pin(name)
    return block.upgrade(NodeWiring(dict(node.input_default), incoming, outgoing))


def _rewired(link: Link, number: int, node_id: str, wiring: NodeWiring) -> list[Link]:
    """What became of the n-th link of a node."""
    far = f"{_FAR_END}{number}"
    sources, sinks = [link.source_name], [("", link.sink_name)]
    if link.source_id == node_id:
        sources = [end.source_name for end in wiring.outgoing if end.sink_name == far]
    if link.sink_id == node_id:
        # The block may have added parts to the far end: `link3_#_model` takes one entry of what the link carried.
        sinks = [
            (end.source_name[len(far) :], end.sink_name)
            for end in wiring.incoming
            if parse_pin(end.source_name).base == far
        ]
    return [
        link.model_copy(update={"source_name": source + parts, "sink_name": sink})
        for source in sources
        for parts, sink in sinks
    ]
