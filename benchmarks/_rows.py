"""Rows made by SQL, for databases that would take the server minutes to fill."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from autogpt_server.data.migrate import migrate
from benchmarks import blocks

TIME = "2026-01-01T12:00:00.000+00:00"
RUN_EXECUTIONS = 50
_IDS = "'00000000-%04x-7000-8000-%012x'"


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """A graph that was made by `insert_graph`."""

    id: str
    node_ids: list[str]


def insert_graph(connection: sqlite3.Connection, graph_id: str, nodes: int = 1) -> StoredGraph:
    """A chain of so many nodes that pass a text on."""
    connection.execute(
        'INSERT OR IGNORE INTO "AgentBlock" ("id", "name", "inputSchema", "outputSchema") VALUES (?, \'BenchPassBlock\', \'{}\', \'{}\')',
        (blocks.BenchPassBlock.id,),
    )
    connection.execute(
        'INSERT INTO "AgentGraph" ("id", "name", "createdAt") VALUES (?, ?, ?)', (graph_id, graph_id, TIME)
    )
    node_ids = [f"{graph_id}-{position}" for position in range(nodes)]
    connection.executemany(
        'INSERT INTO "AgentNode" ("id", "agentGraphId", "agentGraphVersion", "agentBlockId", "position", "key") VALUES (?, ?, 1, ?, ?, ?)',
        [(node_id, graph_id, blocks.BenchPassBlock.id, position, node_id) for position, node_id in enumerate(node_ids)],
    )
    connection.executemany(
        'INSERT INTO "AgentNodeLink" ("id", "agentNodeSourceId", "sourceName", "agentNodeSinkId", "sinkName", "position") '
        "VALUES (?, ?, 'output', ?, 'text', ?)",
        [
            (f"{source}-link", source, sink, position)
            for position, (source, sink) in enumerate(itertools.pairwise(node_ids))
        ],
    )
    return StoredGraph(graph_id, node_ids)


def insert_run(connection: sqlite3.Connection, graph_id: str, run_id: str) -> None:
    """A run that is under way and that nobody owns."""
    connection.execute(
        'INSERT INTO "AgentGraphExecution" ("id", "agentGraphId", "agentGraphVersion", "status", "createdAt", "startedAt") '
        "VALUES (?, ?, 1, 'RUNNING', ?, ?)",
        (run_id, graph_id, TIME, TIME),
    )


def run_id_of(number: int) -> str:
    """The id of a run that `fill` has made."""
    return f"00000000-0000-7000-8000-{number:012x}"


def fill(path: Path, graph_id: str, runs: int) -> None:
    """Make a database with a chain of `RUN_EXECUTIONS` nodes and so many completed runs of it."""
    migrate(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-200000")
    insert_graph(connection, graph_id, RUN_EXECUTIONS)
    scale = {"runs": runs, "per_run": RUN_EXECUTIONS, "graph": graph_id, "time": TIME}
    connection.execute("BEGIN")
    connection.execute(
        f"""WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n + 1 < :runs)
        INSERT INTO "AgentGraphExecution" ("id", "agentGraphId", "agentGraphVersion", "status", "epoch", "seq", "stats", "createdAt", "startedAt", "endedAt")
        SELECT printf({_IDS}, 0, n), :graph, 1, 'COMPLETED', 1, :per_run * 2 + 1,
            json_object('executions', :per_run, 'completed', :per_run), :time, :time, :time FROM r""",
        scale,
    )
    connection.execute(
        f"""WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n + 1 < :runs),
            p(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM p WHERE k + 1 < :per_run)
        INSERT INTO "AgentNodeExecution" ("id", "agentGraphExecutionId", "agentNodeId", "status", "ordinal", "attempt", "seq", "addedSeq", "queuedSeq",
            "startedSeq", "endedSeq", "addedAt", "queuedAt", "startedAt", "endedAt")
        SELECT printf({_IDS}, 1, n * :per_run + k), printf({_IDS}, 0, n), :graph || '-' || k, 'COMPLETED', 0, 1, 2 * k + 2, 2 * k + 1, 2 * k + 1,
            2 * k + 1, 2 * k + 2, :time, :time, :time, :time FROM r, p""",
        scale,
    )
    for role, name, data in (("input", "text", "NULL"), ("output", "output", "'\"hello\"'")):
        connection.execute(
            f"""WITH RECURSIVE e(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM e WHERE n + 1 < :runs * :per_run)
            INSERT INTO "AgentNodeExecutionInputOutput" ("agentNodeExecutionId", "role", "ordinal", "name", "data", "sourceExecutionId",
                "sourceOrdinal", "seq", "releasedSeq")
            SELECT printf({_IDS}, 1, n), '{role}', 0, '{name}', {data}, iif('{role}' = 'input', printf({_IDS}, 1, max(n - 1, 0)), NULL),
                iif('{role}' = 'input', 0, NULL), 2, 2 FROM e""",
            scale,
        )
    connection.execute("COMMIT")
    connection.close()
