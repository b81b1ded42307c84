"""Graphs in the database: versions, the active one, and what becomes of them when they are deleted.

A version never changes once it is stored. Exactly one version of a graph is active, or none; deleting a graph archives it: its runs can
still be read, it is not listed any more and cannot be run.

A version goes in, and comes out, in one trip to the database's thread: a graph may have ten thousand nodes, and what is read before a change
(the latest version, the active runs) must still hold when the change is made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic

from autogpt_server.data.block import Block
from autogpt_server.data.db import Database, db_time
from autogpt_server.data.graph_rows import insert_graph, select_graph
from autogpt_server.data.intake import AcceptedGraph
from autogpt_server.data.models import Graph
from autogpt_server.data.schedule import enabled_of_graph, insert_occurrences
from autogpt_server.data.scheduling import NewOccurrence, Schedule
from autogpt_server.data.status import ACTIVE_RUN_STATUSES
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id


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
    return await db.peek(lambda connection: _state(connection, graph_id))


async def graph_exists(db: Database, graph_id: str) -> bool:
    """Whether there is such a graph, or was before it was deleted."""
    found = await db.peek(
        lambda connection: connection.execute(
            'SELECT 1 FROM "AgentGraph" WHERE "id" = ? LIMIT 1', (graph_id,)
        ).fetchone()
    )
    return found is not None


async def create_graph(db: Database, accepted: AcceptedGraph, blocks: Mapping[str, Block]) -> StoredGraph:
    """Store a new graph; its first version is active."""
    graph = accepted.graph.model_copy(update={"id": new_id(), "version": 1, "is_active": True})
    now = _now()
    await db.write(lambda connection: insert_graph(connection, graph, blocks, now=now))
    return StoredGraph(graph, now, GraphState(1, 1))


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
    now = _now()

    def write(connection: sqlite3.Connection) -> StoredGraph:
        state = _state(connection, graph_id)
        _check_unchanged(graph_id, state, if_match)
        graph = accepted.graph.model_copy(update={"id": graph_id, "version": state.latest + 1})
        if graph.is_active:
            _deactivate(connection, graph_id)
        insert_graph(connection, graph, blocks, now=now)
        return StoredGraph(graph, now, GraphState(graph.version, graph.version if graph.is_active else state.active))

    return await db.write(write)


async def get_graph(db: Database, graph_id: str, version: int | None = None) -> StoredGraph:
    """A version of a graph, by default the current one. Raises `GraphNotFound`, `GraphVersionNotFound`."""

    def read(connection: sqlite3.Connection) -> StoredGraph:
        state = _state(connection, graph_id)
        wanted = _existing(graph_id, state, version or state.current)
        found = select_graph(connection, graph_id, wanted)
        if found is None:
            raise GraphVersionNotFound(f"Graph {graph_id} has no version {wanted}.")
        graph, created_at = found
        return StoredGraph(graph, datetime.fromisoformat(created_at), state)

    return await db.read(read)


async def list_graphs(db: Database, *, limit: int, before: str | None = None) -> list[GraphSummary]:
    """The active versions of all graphs, newest graph first; with `before`, those that come after that graph id in this order."""
    sql = _LIST_GRAPHS_BEFORE if before is not None else _LIST_GRAPHS

    def read(connection: sqlite3.Connection) -> list[GraphSummary]:
        return [_summary(row) for row in connection.execute(sql, {"before": before, "limit": limit})]

    return await db.read(read)


async def list_versions(db: Database, graph_id: str, *, limit: int, before: int | None = None) -> list[GraphSummary]:
    """The versions of a graph, newest first; with `before`, only older ones. Raises `GraphNotFound`."""

    def read(connection: sqlite3.Connection) -> list[GraphSummary]:
        state = _state(connection, graph_id)
        below = state.latest + 1 if before is None else min(before, state.latest + 1)
        return [_summary(row) for row in connection.execute(_LIST_VERSIONS, (graph_id, below, limit))]

    return await db.read(read)


async def set_active_version(
    db: Database, graph_id: str, version: int, *, if_match: Collection[str] | None = None
) -> None:
    """Make a version the active one. Raises `GraphNotFound`, `GraphVersionNotFound`, `GraphChanged`."""

    def write(connection: sqlite3.Connection) -> None:
        state = _state(connection, graph_id)
        _check_unchanged(graph_id, state, if_match)
        wanted = _existing(graph_id, state, version)
        _deactivate(connection, graph_id)
        connection.execute(
            'UPDATE "AgentGraph" SET "isActive" = 1 WHERE "id" = ? AND "version" = ?', (graph_id, wanted)
        )

    await db.write(write)


async def archive_graph(
    db: Database, graph_id: str, left_behind: Callable[[Schedule], Sequence[NewOccurrence]] = lambda _: ()
) -> None:
    """Take a graph out of use, and switch its schedules off. Raises `GraphNotFound`, and `GraphInUse` while runs of it are active.

    `left_behind` tells what a schedule was due for and nobody has accounted for; it is called in the database's thread. What waits for a run gets none.
    """
    moment = _now()
    now = db_time(moment)

    def write(connection: sqlite3.Connection) -> None:
        _state(connection, graph_id)
        marks = ", ".join("?" * len(ACTIVE_RUN_STATUSES))
        (active,) = connection.execute(
            f'SELECT count(*) FROM "AgentGraphExecution" WHERE "agentGraphId" = ? AND "status" IN ({marks})',  # noqa: S608
            (graph_id, *(status.value for status in ACTIVE_RUN_STATUSES)),
        ).fetchone()
        if active:
            runs = "run" if active == 1 else "runs"
            raise GraphInUse(
                f"Graph {graph_id} has {active} active {runs}; wait for them to end, or cancel them.", runs=active
            )
        connection.execute('UPDATE "AgentGraph" SET "isActive" = 0, "archivedAt" = ? WHERE "id" = ?', (now, graph_id))
        for schedule in enabled_of_graph(connection, graph_id):
            insert_occurrences(connection, schedule.id, left_behind(schedule), now=moment)
        connection.execute(
            'UPDATE "AgentScheduleOccurrence" SET "status" = \'SKIPPED\', "reasonCode" = \'graph_unavailable\', '
            "\"reason\" = 'Skipped: the graph was deleted while it waited.' WHERE \"status\" = 'WAITING' "
            'AND "scheduleId" IN (SELECT "id" FROM "AgentGraphExecutionSchedule" WHERE "agentGraphId" = ?)',
            (graph_id,),
        )
        connection.execute(
            'UPDATE "AgentGraphExecutionSchedule" SET "isEnabled" = 0, "nextDueAt" = NULL, "revision" = "revision" + 1, "updatedAt" = ? '
            'WHERE "agentGraphId" = ? AND "isEnabled"',
            (now, graph_id),
        )

    await db.write(write)


def _now() -> datetime:
    """The time, with the precision that the database keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _state(connection: sqlite3.Connection, graph_id: str) -> GraphState:
    latest, active = connection.execute(
        'SELECT max("version"), max(CASE WHEN "isActive" THEN "version" END) FROM "AgentGraph" WHERE "id" = ? AND "archivedAt" IS NULL',
        (graph_id,),
    ).fetchone()
    if latest is None:
        raise GraphNotFound(f"There is no graph {graph_id}.")
    return GraphState(latest, active)


def _existing(graph_id: str, state: GraphState, version: int) -> int:
    if not 0 < version <= state.latest:
        raise GraphVersionNotFound(f"Graph {graph_id} has no version {version}; its latest is {state.latest}.")
    return version


def _check_unchanged(graph_id: str, state: GraphState, if_match: Collection[str] | None) -> None:
    if if_match is not None and state.etag not in if_match:
        raise GraphChanged(
            f"Graph {graph_id} has been changed: it is at {state.etag} now. Read it again and repeat your change.",
            etag=state.etag,
        )


def _deactivate(connection: sqlite3.Connection, graph_id: str) -> None:
    connection.execute('UPDATE "AgentGraph" SET "isActive" = 0 WHERE "id" = ? AND "isActive"', (graph_id,))


_SELECT_SUMMARY = 'SELECT "id", "version", "isActive", "name", "description", "createdAt" FROM "AgentGraph"'
_ACTIVE = 'WHERE "isActive" = 1 AND "archivedAt" IS NULL'
_LIST_GRAPHS = f'{_SELECT_SUMMARY} {_ACTIVE} ORDER BY "id" DESC LIMIT :limit'
_LIST_GRAPHS_BEFORE = f'{_SELECT_SUMMARY} {_ACTIVE} AND "id" < :before ORDER BY "id" DESC LIMIT :limit'
_LIST_VERSIONS = f'{_SELECT_SUMMARY} WHERE "id" = ? AND "version" < ? ORDER BY "version" DESC LIMIT ?'


def _summary(row: tuple[Any, ...]) -> GraphSummary:
    """A graph version from the columns of `_SELECT_SUMMARY`."""
    graph_id, version, is_active, name, description, created_at = row
    return GraphSummary(
        id=graph_id,
        version=version,
        is_active=bool(is_active),
        name=name,
        description=description,
        created_at=datetime.fromisoformat(created_at),
    )
