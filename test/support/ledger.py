"""A database for tests of runs: migrated once, copied for each test, with the graphs that a test needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from autogpt_server.data.db import db_time
from autogpt_server.data.execution import commit, insert_run
from autogpt_server.data.migrate import known_migrations, migrate
from autogpt_server.data.run_rows import CommitResult, RunCommit
from autogpt_server.data.snapshot import RunSnapshot, load_run
from autogpt_server.execution.restore import restore_run, static_pins
from autogpt_server.execution.rows import new_run, take_changes
from autogpt_server.execution.state import RunState
from autogpt_server.execution.topology import Topology
from autogpt_server.utils import json
from support.planning import EPOCH

INLINE_BYTES = 200


@cache
def _template() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for migration in known_migrations():
            for statement in migration.statements():
                connection.execute(statement)
        return connection.serialize()


def open_memory() -> sqlite3.Connection:
    """A migrated database in memory, foreign keys on."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(_template())
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def open_file(path: Path) -> sqlite3.Connection:
    """A migrated file, foreign keys on."""
    migrate(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def store_graph(connection: sqlite3.Connection, topology: Topology) -> None:
    """The rows that runs of this graph refer to. Nodes of later versions have a ' behind the name that they share with the first one's."""
    connection.execute(
        'INSERT INTO "AgentGraph" ("id", "version") VALUES (?, ?)', (topology.graph_id, topology.version)
    )
    for node in topology.nodes:
        connection.execute(
            'INSERT OR IGNORE INTO "AgentBlock" ("id", "name", "inputSchema", "outputSchema") VALUES (?, ?, \'{}\', \'{}\')',
            (node.block.id, node.block.name),
        )
        connection.execute(
            'INSERT INTO "AgentNode" ("id", "agentGraphId", "agentGraphVersion", "agentBlockId", "position", "key", "constantInput", "metadata") '
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                node.id,
                topology.graph_id,
                topology.version,
                node.block.id,
                node.index,
                node.id.rstrip("'"),
                json.dumps(dict(node.defaults)),
                node.settings.model_dump_json(exclude_unset=True),
            ),
        )


def write(connection: sqlite3.Connection, batch: Iterable[RunCommit]) -> list[CommitResult]:
    """Commit a batch as a worker does: one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    results = commit(connection, list(batch))
    connection.execute("COMMIT")
    return results


@dataclass
class Ledger:
    """One run in the database, written by one owner after the other."""

    connection: sqlite3.Connection
    topology: Topology
    run_id: str = "run"
    epoch: int = 0
    seq: int = 0
    claimed: bool = field(default=True)

    def insert(self, state: RunState) -> None:
        """Write a new run."""
        insert_run(self.connection, new_run(state, {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES))
        self.seq = state.seq

    def cut(self, state: RunState, *, progress: bool = True) -> RunCommit:
        """What happened since the last cut."""
        entry = RunCommit(
            state.id,
            self.epoch,
            f"worker-{self.epoch}",
            self.seq,
            state.seq,
            take_changes(state, inline_value_bytes=INLINE_BYTES),
            claim=not self.claimed,
            progress=progress,
            at=db_time(EPOCH) or "",
        )
        self.seq = state.seq
        self.claimed = True
        return entry

    def commit(self, state: RunState) -> CommitResult:
        """Write what happened since the last commit."""
        return write(self.connection, [self.cut(state)])[0]

    def load(self) -> RunSnapshot:
        snapshot = load_run(self.connection, self.run_id, static_pins(self.topology))
        assert snapshot is not None
        return snapshot

    def take_over(self) -> RunState:
        """The state for the next owner."""
        snapshot = self.load()
        assert snapshot.seq == self.seq
        self.epoch, self.claimed = snapshot.epoch + 1, False
        return restore_run(self.topology, snapshot)
