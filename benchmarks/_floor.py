"""The floor: stdlib sqlite3 alone, writing the rows of the real schema (its indexes, keys and checks) in group commits, as no server could do with less.

Per step one node execution, one input, one output, and two changes of status; WAL, synchronous=FULL. It knows all rows beforehand and plans nothing.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from autogpt_server.data.migrate import migrate
from autogpt_server.utils.ids import new_id
from benchmarks import _rows

STEPS = 20_000
GROUP = 100


def floor_steps_per_s(steps: int = STEPS, group: int = GROUP) -> float:
    """Steps per second."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "floor.db"
        migrate(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            node_id = _rows.insert_graph(connection, "floor").node_ids[0]
            run_id = new_id()
            _rows.insert_run(connection, "floor", run_id)
            ids = [new_id() for _ in range(steps)]
            began = time.perf_counter()
            for first in range(0, steps, group):
                _write_group(connection, run_id, node_id, ids, range(first, min(first + group, steps)))
            return steps / (time.perf_counter() - began)


def _write_group(connection: sqlite3.Connection, run_id: str, node_id: str, ids: list[str], steps: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        'INSERT INTO "AgentNodeExecution" ("id", "agentGraphExecutionId", "agentNodeId", "status", "ordinal", "attempt", "seq", "addedSeq", "queuedSeq", '
        '"mixedOrigin", "addedAt", "queuedAt") VALUES (?, ?, ?, \'QUEUED\', ?, 0, ?, ?, ?, 0, ?, ?)',
        [(ids[n], run_id, node_id, n, 2 * n, 2 * n, 2 * n, _rows.TIME, _rows.TIME) for n in steps],
    )
    connection.executemany(  # a value is stored once, with the output; the input names where it came from
        'INSERT INTO "AgentNodeExecutionInputOutput" ("agentNodeExecutionId", "role", "ordinal", "name", "sourceExecutionId", "sourceOrdinal") '
        "VALUES (?, 'input', 0, 'text', ?, 0)",
        [(ids[n], ids[max(0, n - 1)]) for n in steps],
    )
    connection.executemany(
        'UPDATE "AgentNodeExecution" SET "status" = \'RUNNING\', "attempt" = 1, "seq" = ?, "startedSeq" = ?, "startedAt" = ? WHERE "id" = ?',
        [(2 * n + 1, 2 * n + 1, _rows.TIME, ids[n]) for n in steps],
    )
    connection.executemany(
        'INSERT INTO "AgentNodeExecutionInputOutput" ("agentNodeExecutionId", "role", "ordinal", "name", "data", "seq", "releasedSeq") '
        "VALUES (?, 'output', 0, 'output', ?, ?, ?)",
        [(ids[n], f'"item {n}"', 2 * n + 2, 2 * n + 2) for n in steps],
    )
    connection.executemany(
        'UPDATE "AgentNodeExecution" SET "status" = \'COMPLETED\', "seq" = ?, "endedSeq" = ?, "endedAt" = ? WHERE "id" = ?',
        [(2 * n + 2, 2 * n + 2, _rows.TIME, ids[n]) for n in steps],
    )
    connection.execute('UPDATE "AgentGraphExecution" SET "seq" = ? WHERE "id" = ?', (2 * steps[-1] + 2, run_id))
    connection.execute("COMMIT")
