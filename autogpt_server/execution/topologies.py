"""Graph versions made ready for planning, kept for the next run of the same version."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from autogpt_server.data.block import Block
from autogpt_server.data.db import Database
from autogpt_server.data.graph import get_graph, graph_state
from autogpt_server.execution.topology import Topology, build_topology

CACHED_NODES = 20_000
"""How many nodes, over all graphs, a process keeps: at 1.7 KB each, 34 MB. The graph that was used last is kept whatever its size."""


class Topologies:
    """A bounded cache. A graph version never changes, so nothing in it can be stale."""

    def __init__(self, db: Database, blocks: Mapping[str, Block]) -> None:
        self._db = db
        self.blocks = blocks
        """Id -> block, of the whole library."""
        self._known: OrderedDict[tuple[str, int], Topology] = OrderedDict()
        self._nodes = 0

    async def get_active(self, graph_id: str) -> Topology:
        """The topology of the version that a run follows if it names none. Raises as `get`."""
        return await self.get(graph_id, (await graph_state(self._db, graph_id)).current)

    async def get(self, graph_id: str, version: int) -> Topology:
        """The topology of a graph version. Raises `GraphNotFound`, `GraphVersionNotFound` or `MissingBlock`."""
        key = (graph_id, version)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        stored = await get_graph(self._db, graph_id, version)
        topology = build_topology(stored.graph, self.blocks)
        if key not in self._known:
            self._known[key] = topology
            self._nodes += len(topology.nodes)
        while self._nodes > CACHED_NODES and len(self._known) > 1:
            _, evicted = self._known.popitem(last=False)
            self._nodes -= len(evicted.nodes)
        return topology
