"""Graph versions as rows: written and read in the transaction that is open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from autogpt_server.data.block import Block
from autogpt_server.data.db import db_time
from autogpt_server.data.intake import KEY, stored_fields
from autogpt_server.data.models import Graph, Link, Node
from autogpt_server.data.pinschema import schema_text
from autogpt_server.utils import json


def insert_graph(connection: sqlite3.Connection, graph: Graph, blocks: Mapping[str, Block], *, now: datetime) -> None:
    """Write a graph version with its nodes and links, and the blocks it uses as they are today."""
    _remember_blocks(connection, {node.block_id for node in graph.nodes}, blocks)
    connection.execute(
        'INSERT INTO "AgentGraph" ("id", "version", "name", "description", "isActive", "metadata", "createdAt") VALUES (?, ?, ?, ?, ?, ?, ?)',
        (
            graph.id,
            graph.version,
            graph.name,
            graph.description,
            graph.is_active,
            json.dumps(stored_fields(graph)),
            db_time(now),
        ),
    )
    connection.executemany(
        'INSERT INTO "AgentNode" ("id", "agentGraphId", "agentGraphVersion", "agentBlockId", "position", "key", "constantInput", "metadata") '
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                node.id,
                graph.id,
                graph.version,
                node.block_id,
                position,
                node.metadata[KEY],
                json.dumps(node.input_default),
                json.dumps(node.metadata),
            )
            for position, node in enumerate(graph.nodes)
        ],
    )
    connection.executemany(
        'INSERT INTO "AgentNodeLink" ("id", "agentNodeSourceId", "sourceName", "agentNodeSinkId", "sinkName", "isStatic", "position") '
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (link.id, link.source_id, link.source_name, link.sink_id, link.sink_name, link.is_static, position)
            for position, link in enumerate(graph.links)
        ],
    )


def select_graph(connection: sqlite3.Connection, graph_id: str, version: int) -> tuple[Graph, str] | None:
    """A graph version and when it was made, as the database writes times; None if there is none."""
    row = connection.execute(
        'SELECT "name", "description", "isActive", "metadata", "createdAt" FROM "AgentGraph" WHERE "id" = ? AND "version" = ?',
        (graph_id, version),
    ).fetchone()
    if row is None:
        return None
    name, description, is_active, metadata, created_at = row
    fields = cast("dict[str, Any]", json.loads(metadata))
    node_fields: Mapping[str, dict[str, Any]] = fields.get("nodes", {})
    link_fields: Mapping[str, dict[str, Any]] = fields.get("links", {})
    node_rows = connection.execute(
        'SELECT "id", "agentBlockId", "constantInput", "metadata", "position" FROM "AgentNode" '
        'WHERE "agentGraphId" = ? AND "agentGraphVersion" = ? ORDER BY "position"',
        (graph_id, version),
    )
    nodes = [
        Node(
            id=node_id,
            block_id=block_id,
            input_default=cast("dict[str, Any]", json.loads(constant)),
            metadata=cast("dict[str, Any]", json.loads(settings)),
            **node_fields.get(str(position), {}),
        )
        for node_id, block_id, constant, settings, position in node_rows
    ]
    link_rows = connection.execute(
        'SELECT l."id", l."agentNodeSourceId", l."agentNodeSinkId", l."sourceName", l."sinkName", l."isStatic", l."position" '
        'FROM "AgentNode" n JOIN "AgentNodeLink" l ON l."agentNodeSourceId" = n."id" '
        'WHERE n."agentGraphId" = ? AND n."agentGraphVersion" = ? ORDER BY l."position"',
        (graph_id, version),
    )
    links = [
        Link(
            id=link_id,
            source_id=source_id,
            sink_id=sink_id,
            source_name=source_name,
            sink_name=sink_name,
            is_static=bool(is_static),
            **link_fields.get(str(position), {}),
        )
        for link_id, source_id, sink_id, source_name, sink_name, is_static, position in link_rows
    ]
    graph = Graph(
        id=graph_id,
        version=version,
        is_active=bool(is_active),
        name=name,
        description=description,
        nodes=nodes,
        links=links,
        **fields.get("graph", {}),
    )
    return graph, created_at


def _remember_blocks(connection: sqlite3.Connection, block_ids: Iterable[str], blocks: Mapping[str, Block]) -> None:
    connection.executemany(
        'INSERT INTO "AgentBlock" ("id", "name", "inputSchema", "outputSchema") VALUES (?, ?, ?, ?) ON CONFLICT ("id") DO UPDATE SET '
        '"name" = excluded."name", "inputSchema" = excluded."inputSchema", "outputSchema" = excluded."outputSchema" '
        'WHERE ("name", "inputSchema", "outputSchema") IS NOT (excluded."name", excluded."inputSchema", excluded."outputSchema")',
        [
            (
                block_id,
                blocks[block_id].name,
                schema_text(blocks[block_id].input_schema),
                schema_text(blocks[block_id].output_schema),
            )
            for block_id in sorted(block_ids)
        ],
    )
