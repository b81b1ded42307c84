"""What people who watch runs are shown: committed changes in pages, and which runs have moved."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from autogpt_server.data.db import Database
from autogpt_server.data.models import ErrorInfo, NodeExecution, Run
from autogpt_server.data.runs import RunNotFound, changes_since
from autogpt_server.data.status import ACTIVE_RUN_STATUSES, HIDDEN, RunStatus
from autogpt_server.utils import json

FEW_RUNS = 16
"""So many are looked at without another thread."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one run, each seq whole: whoever has these has seen everything up to `seq`."""

    run: Run
    """The run as it is now, which may be further than `seq`."""
    nodes: Sequence[NodeExecution]
    seq: int

    @property
    def is_last_page(self) -> bool:
        """Whether nothing was left to read."""
        return self.seq >= self.run.seq

    @property
    def ends_run(self) -> bool:
        """Whether this is all there will ever be."""
        return self.is_last_page and self.run.is_ended


async def read_changes(db: Database, run_id: str, after: int, *, limit: int) -> Changes:
    """What was committed after seq `after`, of about `limit` node executions. Raises `RunNotFound`.

    One event may change several executions; they share its seq and stay together.
    """
    found = await changes_since(db, run_id, after, limit=limit)
    return Changes(found.run, found.nodes, found.seq)


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, whether it has ended, and how."""

    seq: int
    """Number of the last committed event."""
    status: RunStatus
    error: ErrorInfo | None

    @property
    def is_ended(self) -> bool:
        return self.status.is_terminal


async def run_states(db: Database, run_ids: Collection[str]) -> dict[str, RunState]:
    """Run id -> its state, for those of the runs that exist."""

    def read(connection: sqlite3.Connection) -> dict[str, RunState]:
        rows = connection.execute(
            'SELECT "id", "seq", "status", "errorCode", "errorMessage" FROM "AgentGraphExecution" WHERE "id" IN (SELECT "value" FROM json_each(?))',
            (json.dumps(list(run_ids)),),
        )
        return {
            run_id: RunState(seq, RunStatus(status), ErrorInfo(code=code, message=message or "") if code else None)
            for run_id, seq, status, code, message in rows
        }

    look = db.peek if len(run_ids) <= FEW_RUNS else db.read
    return await look(read)


async def run_state(db: Database, run_id: str) -> RunState:
    """The state of one run. Raises `RunNotFound`."""
    found = (await run_states(db, [run_id])).get(run_id)
    if found is None:
        raise RunNotFound(f"There is no run {run_id}.")
    return found


_ACTIVE = json.dumps(sorted(status.value for status in ACTIVE_RUN_STATUSES))
# Each half has an index of its own: a graph may have had any number of runs.
_SELECT_POSITIONS = (
    'SELECT r."id" AS "id", r."agentGraphId", r."seq", r."endedAt" FROM json_each(:graphs) g CROSS JOIN "AgentGraphExecution" r ON r."agentGraphId" = g."value" '
    'WHERE r."status" IN (SELECT "value" FROM json_each(:active)) UNION '
    'SELECT r."id" AS "id", r."agentGraphId", r."seq", r."endedAt" FROM json_each(:graphs) g CROSS JOIN "AgentGraphExecution" r ON r."agentGraphId" = g."value" '
    'WHERE r."id" > :first AND r."status" <> :hidden ORDER BY "id"'
)


@dataclass(frozen=True, slots=True)
class RunPosition:
    """Where a run of a watched graph is."""

    run_id: str
    graph_id: str
    seq: int
    is_ended: bool


async def graph_runs(db: Database, graph_ids: Collection[str], *, made_after: datetime) -> list[RunPosition]:
    """The runs of these graphs that are active or were made after that time, oldest first."""

    def read(connection: sqlite3.Connection) -> list[RunPosition]:
        rows = connection.execute(
            _SELECT_POSITIONS,
            {
                "graphs": json.dumps(list(graph_ids)),
                "first": first_id_of(made_after),
                "active": _ACTIVE,
                "hidden": HIDDEN,
            },
        )
        return [RunPosition(run_id, graph_id, seq, ended_at is not None) for run_id, graph_id, seq, ended_at in rows]

    return await db.read(read)


def first_id_of(moment: datetime) -> str:
    """The smallest UUIDv7 that can have been made at this time: ids made later are larger."""
    milliseconds = int(moment.timestamp() * 1000)
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62))
