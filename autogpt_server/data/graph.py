"""Graphs in the database: versions, the active one, and what becomes of them when they are deleted.

A version never changes once it is stored. Exactly one version of a graph is active, or none; deleting a graph archives it: its runs can
still be read, it is not listed any more and cannot be run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pydantic

from autogpt_server.data.block import Block
from autogpt_server.data.db import Database
from autogpt_server.data.intake import AcceptedGraph, stored_fields
from autogpt_server.data.models import Graph, Link, Node
from autogpt_server.data.status import TERMINAL_RUN_STATUSES
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id

if TYPE_CHECKING:
    from prisma import Prisma
    from prisma.models import AgentGraph, AgentNode
    from prisma.types import AgentGraphWhereInput

_WRITE_LIMIT = timedelta(seconds=60)
"""A graph of the largest size, on a busy disk."""


class GraphNotFound(AutoGPTServerError):
    """There is no such graph."""

    code = "graph_not_found"


class GraphVersionNotFound(AutoGPTServerError):
    """The graph has no such version."""

    code = "graph_version_not_found"


class GraphInUse(AutoGPTServerError):
    """Runs of this graph are still active."""

    code = "graph_in_use"


class GraphChanged(AutoGPTServerError):
    """Somebody else has changed the graph since it was read."""

    code = "graph_changed"


class GraphSummary(pydantic.BaseModel):
    """A graph version as it is listed."""

    id: str
    version: int
    is_active: bool
    name: str
    description: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class GraphState:
    """Which versions a graph has: what `If-Match` is about."""

    latest: int
    active: int | None

    @property
    def current(self) -> int:
        """The version that is used unless another one is named: the active one, or the latest where none is."""
        return self.active or self.latest

    @property
    def etag(self) -> str:
        """Changes whenever a version is added or another one becomes active."""
        return f'"{self.latest}"' if self.active == self.latest else f'"{self.latest}-{self.active or 0}"'


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """A version of a graph, and where the graph stood when it was read."""

    graph: Graph
    created_at: datetime
    state: GraphState


async def graph_state(db: Database, graph_id: str) -> GraphState:
    """Where a graph stands. Raises `GraphNotFound`."""
    return await _state(db.client, graph_id)


async def graph_exists(db: Database, graph_id: str) -> bool:
    """Whether there is such a graph, or was before it was deleted."""
    return await db.client.agentgraph.count(where={"id": graph_id}, take=1) > 0


async def create_graph(db: Database, accepted: AcceptedGraph, blocks: Mapping[str, Block]) -> StoredGraph:
    """Store a new graph; its first version is active."""
    graph = accepted.graph.model_copy(update={"id": new_id(), "version": 1, "is_active": True})
    async with db.client.tx(max_wait=_WRITE_LIMIT, timeout=_WRITE_LIMIT) as tx:
        created_at = await _insert(tx, graph, blocks)
    return StoredGraph(graph, created_at, GraphState(1, 1))


async def add_version(
    db: Database,
    graph_id: str,
    accepted: AcceptedGraph,
    blocks: Mapping[str, Block],
    *,
    if_match: Collection[str] | None = None,
) -> StoredGraph:
    """Store the next version of a graph, active if `accepted.graph.is_active`.

    Raises `GraphNotFound`, and `GraphChanged` unless the graph's present etag is one of `if_match`.
    """
    async with db.client.tx(max_wait=_WRITE_LIMIT, timeout=_WRITE_LIMIT) as tx:
        state = await _state(tx, graph_id)
        if if_match is not None and state.etag not in if_match:
            raise GraphChanged(
                f"Graph {graph_id} has been changed: it is at {state.etag} now. Read it again and repeat your change.",
                etag=state.etag,
            )
        graph = accepted.graph.model_copy(update={"id": graph_id, "version": state.latest + 1})
        if graph.is_active:
            await _deactivate(tx, graph_id)
        created_at = await _insert(tx, graph, blocks)
    return StoredGraph(graph, created_at, GraphState(graph.version, graph.version if graph.is_active else state.active))


async def get_graph(db: Database, graph_id: str, version: int | None = None) -> StoredGraph:
    """A version of a graph, by default the active one (the latest if none is). Raises `GraphNotFound`, `GraphVersionNotFound`."""
    state = await _state(db.client, graph_id)
    wanted = version if version is not None else state.current
    row = None
    if 0 < wanted <= state.latest:
        row = await db.client.agentgraph.find_unique(
            where={"id_version": {"id": graph_id, "version": wanted}},
            include={"nodes": {"include": {"outputs": True}, "order_by": {"position": "asc"}}},
        )
    if row is None:
        raise GraphVersionNotFound(f"Graph {graph_id} has no version {wanted}; its latest is {state.latest}.")
    return StoredGraph(_graph_of(row), row.createdAt, state)


async def list_graphs(db: Database, *, limit: int, before: str | None = None) -> list[GraphSummary]:
    """The active versions of all graphs, newest graph first; with `before`, those that come after that graph id in this order."""
    wanted: AgentGraphWhereInput = {"isActive": True, "archivedAt": None}
    if before is not None:
        wanted["id"] = {"lt": before}
    rows = await db.client.agentgraph.find_many(where=wanted, order={"id": "desc"}, take=limit)
    return [_summary(row) for row in rows]


async def list_versions(db: Database, graph_id: str, *, limit: int, before: int | None = None) -> list[GraphSummary]:
    """The versions of a graph, newest first; with `before`, only older ones. Raises `GraphNotFound`."""
    await _state(db.client, graph_id)
    wanted: AgentGraphWhereInput = {"id": graph_id}
    if before is not None:
        wanted["version"] = {"lt": before}
    rows = await db.client.agentgraph.find_many(where=wanted, order={"version": "desc"}, take=limit)
    return [_summary(row) for row in rows]


async def set_active_version(
    db: Database, graph_id: str, version: int, *, if_match: Collection[str] | None = None
) -> None:
    """Make a version the active one. Raises `GraphNotFound`, `GraphVersionNotFound`, `GraphChanged`."""
    async with db.client.tx(max_wait=_WRITE_LIMIT) as tx:
        state = await _state(tx, graph_id)
        if if_match is not None and state.etag not in if_match:
            raise GraphChanged(
                f"Graph {graph_id} has been changed: it is at {state.etag} now. Read it again and repeat your change.",
                etag=state.etag,
            )
        if not 0 < version <= state.latest:
            raise GraphVersionNotFound(f"Graph {graph_id} has no version {version}; its latest is {state.latest}.")
        await _deactivate(tx, graph_id)
        await tx.agentgraph.update(where={"id_version": {"id": graph_id, "version": version}}, data={"isActive": True})


async def archive_graph(db: Database, graph_id: str) -> None:
    """Take a graph out of use, and switch its schedules off. Raises `GraphNotFound`, and `GraphInUse` while runs of it are active."""
    async with db.client.tx(max_wait=_WRITE_LIMIT) as tx:
        await _state(tx, graph_id)
        active = await tx.agentgraphexecution.count(
            where={"agentGraphId": graph_id, "status": {"not_in": [status.value for status in TERMINAL_RUN_STATUSES]}}
        )
        if active:
            raise GraphInUse(
                f"Graph {graph_id} has {active} active {'run' if active == 1 else 'runs'}; wait for them to end, or cancel them.",
                runs=active,
            )
        await tx.agentgraph.update_many(
            where={"id": graph_id}, data={"isActive": False, "archivedAt": datetime.now(UTC)}
        )
        await tx.agentgraphexecutionschedule.update_many(
            where={"agentGraphId": graph_id}, data={"isEnabled": False, "nextDueAt": None}
        )


async def _state(client: Prisma, graph_id: str) -> GraphState:
    latest = await client.agentgraph.find_first(where={"id": graph_id, "archivedAt": None}, order={"version": "desc"})
    if latest is None:
        raise GraphNotFound(f"There is no graph {graph_id}.")
    if latest.isActive:
        return GraphState(latest.version, latest.version)
    active = await client.agentgraph.find_first(where={"id": graph_id, "isActive": True})
    return GraphState(latest.version, active.version if active else None)


async def _deactivate(tx: Prisma, graph_id: str) -> None:
    await tx.agentgraph.update_many(where={"id": graph_id, "isActive": True}, data={"isActive": False})


async def _insert(tx: Prisma, graph: Graph, blocks: Mapping[str, Block]) -> datetime:
    """Write all rows of a graph version; the time at which it was made."""
    await _remember_blocks(tx, {node.block_id for node in graph.nodes}, blocks)
    row = await tx.agentgraph.create(
        data={
            "id": graph.id,
            "version": graph.version,
            "name": graph.name,
            "description": graph.description,
            "isActive": graph.is_active,
            "metadata": json.dumps(stored_fields(graph)),
        }
    )
    if graph.nodes:
        await tx.agentnode.create_many(
            data=[
                {
                    "id": node.id,
                    "agentGraphId": graph.id,
                    "agentGraphVersion": graph.version,
                    "agentBlockId": node.block_id,
                    "position": position,
                    "key": str(node.metadata["key"]),
                    "constantInput": json.dumps(node.input_default),
                    "metadata": json.dumps(node.metadata),
                }
                for position, node in enumerate(graph.nodes)
            ]
        )
    if graph.links:
        await tx.agentnodelink.create_many(
            data=[
                {
                    "id": link.id,
                    "agentNodeSourceId": link.source_id,
                    "sourceName": link.source_name,
                    "agentNodeSinkId": link.sink_id,
                    "sinkName": link.sink_name,
                    "isStatic": link.is_static,
                    "position": position,
                }
                for position, link in enumerate(graph.links)
            ]
        )
    return row.createdAt


async def _remember_blocks(tx: Prisma, block_ids: Iterable[str], blocks: Mapping[str, Block]) -> None:
    """Keep the rows of the blocks that the graph uses as they are today."""
    wanted = sorted(block_ids)
    known = {row.id: row for row in await tx.agentblock.find_many(where={"id": {"in": wanted}})}
    for block_id in wanted:
        block = blocks[block_id]
        name, inputs, outputs = (
            block.name,
            json.dumps(block.input_schema.model_json_schema()),
            json.dumps(block.output_schema.model_json_schema()),
        )
        row = known.get(block_id)
        if row is None:
            await tx.agentblock.create(
                data={"id": block_id, "name": name, "inputSchema": inputs, "outputSchema": outputs}
            )
        elif (row.name, row.inputSchema, row.outputSchema) != (name, inputs, outputs):
            await tx.agentblock.update(
                where={"id": block_id}, data={"name": name, "inputSchema": inputs, "outputSchema": outputs}
            )


def _summary(row: AgentGraph) -> GraphSummary:
    return GraphSummary(
        id=row.id,
        version=row.version,
        is_active=row.isActive,
        name=row.name,
        description=row.description,
        created_at=row.createdAt,
    )


def _graph_of(row: AgentGraph) -> Graph:
    fields = cast("dict[str, Any]", json.loads(row.metadata))
    node_rows = row.nodes or []
    link_rows = sorted((link for node in node_rows for link in node.outputs or []), key=lambda link: link.position)
    node_fields: Mapping[str, dict[str, Any]] = fields.get("nodes", {})
    link_fields: Mapping[str, dict[str, Any]] = fields.get("links", {})
    return Graph(
        id=row.id,
        version=row.version,
        is_active=row.isActive,
        name=row.name,
        description=row.description,
        nodes=[_node_of(node, node_fields.get(str(node.position), {})) for node in node_rows],
        links=[
            Link(
                id=link.id,
                source_id=link.agentNodeSourceId,
                sink_id=link.agentNodeSinkId,
                source_name=link.sourceName,
                sink_name=link.sinkName,
                is_static=link.isStatic,
                **link_fields.get(str(link.position), {}),
            )
            for link in link_rows
        ],
        **fields.get("graph", {}),
    )


def _node_of(row: AgentNode, unknown: Mapping[str, Any]) -> Node:
    return Node.model_validate(
        {
            **unknown,
            "id": row.id,
            "block_id": row.agentBlockId,
            "input_default": json.loads(row.constantInput),
            "metadata": json.loads(row.metadata),
        }
    )
