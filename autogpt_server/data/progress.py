"""Where runs stand, as far as it takes to say why they do not get on: `autogpt_server.execution.explain` makes words of it.

Of a run with very many executions the first ones of each kind are read, and how many there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from autogpt_server.data.db import Database, from_db_time
from autogpt_server.data.snapshot import StaticPin, load_statics
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.utils import json

SHOWN = 50
"""Of each kind of execution so many are read one by one."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """A run and the graph version that it performs."""

    run_id: str
    graph_id: str
    graph_version: int
    is_ended: bool

    @property
    def graph(self) -> tuple[str, int]:
        """(graph id, version)."""
        return self.graph_id, self.graph_version


class Kind(NamedTuple):
    """What executions have in common that wait for the same sort of thing: of very many of a kind the first are read, and the others counted."""

    status: NodeStatus
    has_time: bool
    has_signal: bool
    has_child: bool
    is_timed_out: bool


@dataclass(frozen=True, slots=True)
class LiveExecution:
    """A node execution that has not ended."""

    id: str
    node_id: str
    status: NodeStatus
    added_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    not_before: datetime | None
    waits_for: str | None
    child_run_id: str | None
    error_code: str | None
    error: str | None
    attempt: int
    ordinal: int | None

    @property
    def kind(self) -> Kind:
        """As which it is counted."""
        return Kind(
            self.status,
            self.not_before is not None,
            self.waits_for is not None,
            self.child_run_id is not None,
            self.error_code == "timeout",
        )


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A node execution that has ended, and whose outputs wait for those of an earlier one (rule F8)."""

    id: str
    node_id: str
    ended_at: datetime | None
    behind_id: str
    """The execution whose turn it is."""


@dataclass(slots=True)
class RunFacts:
    """What is on record of a run."""

    id: str
    graph_id: str
    graph_version: int
    status: RunStatus
    closing: RunStatus | None
    error_code: str | None
    error_message: str | None
    cancel_requested_at: datetime | None
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    worker_id: str | None
    """Who performed it last, unless it has ended."""
    takeovers: int
    has_news: bool
    """Whether something in its inbox has not been applied yet."""
    wake_at: datetime | None
    """WAITING: when the first of its executions may move on."""
    counts: dict[Kind, int] = field(default_factory=dict[Kind, int])
    """How many executions of each kind there are, of those that have not ended."""
    busy: dict[str, int] = field(default_factory=dict[str, int])
    """Node id -> how many of its executions are RUNNING."""
    heads: dict[str, int] = field(default_factory=dict[str, int])
    """Node id -> number of its first execution that was queued and has not ended: whose turn it is to yield (rule F8)."""
    executions: list[LiveExecution] = field(default_factory=list[LiveExecution])
    """The first ones of each kind, oldest first."""
    arrived: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Id of each INCOMPLETE execution among them -> the slots that have a value."""
    served: frozenset[StaticPin] = frozenset()
    """The static pins that have given a value."""
    held: list[HeldBack] = field(default_factory=list[HeldBack])


async def read_family(db: Database, run_id: str, *, depth: int, limit: int) -> list[RunPlace]:
    """A run, and the child runs that its executions wait for, theirs, and so on, `depth` deep; at most `limit` of them. Empty if there is no such run."""

    def read(connection: sqlite3.Connection) -> list[RunPlace]:
        rows = connection.execute(
            'WITH RECURSIVE "family"("id", "depth") AS (SELECT ?, 0 UNION SELECT e."childRunId", "depth" + 1 FROM "family" '
            'JOIN "AgentNodeExecution" e ON e."agentGraphExecutionId" = "family"."id" AND e."childRunId" IS NOT NULL AND e."endedAt" IS NULL '
            'WHERE "depth" < ?) SELECT r."id", r."agentGraphId", r."agentGraphVersion", r."endedAt" IS NOT NULL FROM "family" '
            'JOIN "AgentGraphExecution" r ON r."id" = "family"."id" ORDER BY "family"."depth", r."id" LIMIT ?',
            (run_id, depth, limit),
        )
        return [RunPlace(*row[:3], is_ended=bool(row[3])) for row in rows]

    return await db.read(read)


async def read_facts(db: Database, static_pins: Mapping[str, Iterable[StaticPin]]) -> dict[str, RunFacts]:
    """What is on record of runs, in one snapshot: run id -> facts, for those that exist. `static_pins`: run id -> those of its graph."""

    def read(connection: sqlite3.Connection) -> dict[str, RunFacts]:
        found = {run_id: facts_of(connection, run_id, pins) for run_id, pins in static_pins.items()}
        return {run_id: facts for run_id, facts in found.items() if facts is not None}

    return await db.read(read)


def facts_of(connection: sqlite3.Connection, run_id: str, static_pins: Iterable[StaticPin]) -> RunFacts | None:
    """What is on record of a run, or None if there is no such run. `static_pins`: those of its graph."""
    row = connection.execute(
        'SELECT "agentGraphId", "agentGraphVersion", "status", "closing", "errorCode", "errorMessage", "cancelRequestedAt", "createdAt", "startedAt", '
        '"endedAt", "workerId", "takeovers", "inboxLast" > "inboxDone", "wakeAt" FROM "AgentGraphExecution" WHERE "id" = ?',
        (run_id,),
    ).fetchone()
    if row is None:
        return None
    graph_id, version, status, closing, error_code, error_message, *times, worker_id, takeovers, has_news, wake_at = row
    cancel_requested_at, created_at, started_at, ended_at = map(from_db_time, times)
    facts = RunFacts(
        id=run_id,
        graph_id=graph_id,
        graph_version=version,
        status=RunStatus(status),
        closing=RunStatus(closing) if closing else None,
        error_code=error_code,
        error_message=error_message,
        cancel_requested_at=cancel_requested_at,
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
        worker_id=worker_id,
        takeovers=takeovers,
        has_news=bool(has_news),
        wake_at=from_db_time(wake_at) if isinstance(wake_at, str) else None,  # else it marks what is new in the inbox
    )
    _read_executions(connection, facts)
    incomplete = [execution.id for execution in facts.executions if execution.status is NodeStatus.INCOMPLETE]
    if incomplete:
        facts.arrived = _read_arrived(connection, incomplete)
        facts.served = frozenset(static.pin for static in load_statics(connection, run_id, static_pins))
    if facts.closing is None and not facts.status.is_terminal:
        facts.held = _read_held(connection, run_id)
    return facts


# In the order of the fields of `Kind`.
_KIND = (
    '"status", "notBefore" IS NOT NULL, "waitsFor" IS NOT NULL, "childRunId" IS NOT NULL, "errorCode" IS \'timeout\''
)


def _read_executions(connection: sqlite3.Connection, facts: RunFacts) -> None:
    columns = '"id", "agentNodeId", "status", "addedAt", "queuedAt", "startedAt", "notBefore", "waitsFor", "childRunId", "errorCode", "error", "attempt", "ordinal"'
    rows = connection.execute(
        f'SELECT {columns}, "total" FROM (SELECT {columns}, row_number() OVER (PARTITION BY {_KIND} ORDER BY "id") AS "place", '  # noqa: S608
        f'count(*) OVER (PARTITION BY {_KIND}) AS "total" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "endedAt" IS NULL) '
        'WHERE "place" <= ? ORDER BY "id"',
        (facts.id, SHOWN),
    )
    for execution_id, node_id, status, added_at, queued_at, started_at, not_before, *rest, total in rows:
        execution = LiveExecution(
            execution_id,
            node_id,
            NodeStatus(status),
            datetime.fromisoformat(added_at),
            from_db_time(queued_at),
            from_db_time(started_at),
            from_db_time(not_before),
            *rest,
        )
        facts.executions.append(execution)
        facts.counts[execution.kind] = total
    for node_id, busy, head in connection.execute(
        'SELECT "agentNodeId", sum("status" = \'RUNNING\'), min("ordinal") FROM "AgentNodeExecution" '
        'WHERE "agentGraphExecutionId" = ? AND "endedAt" IS NULL AND "ordinal" IS NOT NULL GROUP BY "agentNodeId"',
        (facts.id,),
    ):
        facts.busy[node_id], facts.heads[node_id] = busy, head


def _read_arrived(connection: sqlite3.Connection, execution_ids: Collection[str]) -> dict[str, list[str]]:
    arrived: dict[str, list[str]] = {execution_id: [] for execution_id in execution_ids}
    for execution_id, slot in connection.execute(
        'SELECT "agentNodeExecutionId", "name" FROM "AgentNodeExecutionInputOutput" WHERE "role" = \'input\' '
        'AND "agentNodeExecutionId" IN (SELECT "value" FROM json_each(?))',
        (json.dumps(list(execution_ids)),),
    ):
        arrived[execution_id].append(slot)
    return arrived


def _read_held(connection: sqlite3.Connection, run_id: str) -> list[HeldBack]:
    rows = connection.execute(
        # The one whose turn it is has not ended, or the next one's would have come.
        'WITH "head" AS (SELECT "agentNodeId" AS "node", "id", min("ordinal") AS "ordinal" FROM "AgentNodeExecution" '
        'WHERE "agentGraphExecutionId" = :run AND "endedAt" IS NULL AND "ordinal" IS NOT NULL GROUP BY "agentNodeId") '
        'SELECT e."id", e."agentNodeId", e."endedAt", "head"."id" FROM "AgentNodeExecution" e JOIN "head" ON "head"."node" = e."agentNodeId" '
        'WHERE e."agentGraphExecutionId" = :run AND e."ordinal" > "head"."ordinal" AND e."endedAt" IS NOT NULL AND EXISTS ('
        'SELECT 1 FROM "AgentNodeExecutionInputOutput" o WHERE o."agentNodeExecutionId" = e."id" AND o."role" = \'output\' AND o."releasedSeq" IS NULL) '
        'ORDER BY e."id" LIMIT :limit',
        {"run": run_id, "limit": SHOWN},
    )
    return [HeldBack(row[0], row[1], from_db_time(row[2]), row[3]) for row in rows]
