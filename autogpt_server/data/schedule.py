"""Schedules and their occurrences in the database: stored, changed and read.

What the scheduler does with them, an occurrence and its run in one transaction, is in `autogpt_server.data.firing`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from autogpt_server.data.db import Database, db_time
from autogpt_server.data.scheduling import (
    NewOccurrence,
    Occurrence,
    OccurrenceStatus,
    Schedule,
    ScheduleChange,
    ScheduleFields,
)
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError

if TYPE_CHECKING:
    from prisma.models import AgentScheduleOccurrence
    from prisma.types import AgentGraphExecutionScheduleWhereInput, AgentScheduleOccurrenceWhereInput


class ScheduleNotFound(AutoGPTServerError):
    """There is no such schedule."""

    code = "schedule_not_found"


async def create_schedule(
    db: Database,
    schedule_id: str,
    graph_id: str,
    fields: ScheduleFields,
    *,
    now: datetime,
    next_fire_at: datetime | None,
) -> Schedule:
    """Store a new schedule. Nothing before `now` is due."""
    prisma = await db.prisma()
    row = await prisma.agentgraphexecutionschedule.create(
        data={
            "id": schedule_id,
            "agentGraphId": graph_id,
            "agentGraphVersion": fields.graph_version,
            "name": fields.name,
            "cron": fields.cron,
            "at": fields.at,
            "timezone": fields.timezone,
            "inputData": json.dumps(fields.input_data),
            "isEnabled": fields.is_enabled,
            "catchUp": fields.catch_up.value,
            "overlap": fields.overlap.value,
            "startsAt": fields.starts_at,
            "endsAt": fields.ends_at,
            "jitterS": fields.jitter_s,
            "accountedUntil": now,
            "nextDueAt": next_fire_at,
            "createdAt": now,
            "updatedAt": now,
        }
    )
    return schedule_of(dict(row))


async def get_schedule(db: Database, schedule_id: str) -> Schedule:
    """The schedule; `ScheduleNotFound`."""
    prisma = await db.prisma()
    row = await prisma.agentgraphexecutionschedule.find_unique(where={"id": schedule_id})
    if row is None:
        raise _not_found(schedule_id)
    return schedule_of(dict(row))


async def list_schedules(
    db: Database, graph_id: str | None, *, limit: int, before: str | None = None
) -> list[Schedule]:
    """The schedules of a graph, or of all, newest first; with `before`, those that come after that id in this order."""
    # Any id: so the page of all schedules is a search in the index of ids, too.
    wanted: AgentGraphExecutionScheduleWhereInput = (
        {"id": {"gt": ""}} if graph_id is None else {"agentGraphId": graph_id}
    )
    if before is not None:
        wanted["id"] = {"lt": before}
    prisma = await db.prisma()
    rows = await prisma.agentgraphexecutionschedule.find_many(where=wanted, order={"id": "desc"}, take=limit)
    return [schedule_of(dict(row)) for row in rows]


async def change_schedule(
    db: Database, schedule_id: str, change: Callable[[Schedule], ScheduleChange], *, now: datetime
) -> Schedule:
    """Change a schedule in one transaction with what the change leaves behind; `ScheduleNotFound`.

    `change` is called in the database's thread with the schedule as it stands: it must be pure, and may raise.
    """

    def write(connection: sqlite3.Connection) -> Schedule:
        row = connection.execute(f'{_SELECT} WHERE s."id" = ?', (schedule_id,)).fetchone()
        if row is None:
            raise _not_found(schedule_id)
        current = schedule_of_row(row)
        wanted = change(current)
        insert_occurrences(connection, schedule_id, wanted.occurrences, now=now)
        stored = current.model_copy(
            update={
                **wanted.fields.model_dump(),
                "accounted_until": wanted.accounted_until,
                "next_fire_at": wanted.next_fire_at,
                "revision": current.revision + 1,
                "updated_at": now,
            }
        )
        values = _column_values(stored)
        assignments = ", ".join(f'"{column}" = ?' for column in values)
        connection.execute(
            f'UPDATE "AgentGraphExecutionSchedule" SET {assignments} WHERE "id" = ?',  # noqa: S608 - names of columns
            (*values.values(), schedule_id),
        )
        return schedule_of(values)

    return await db.write(write)


async def delete_schedule(db: Database, schedule_id: str) -> None:
    """Delete a schedule with its occurrences; its runs stay. `ScheduleNotFound`."""
    prisma = await db.prisma()
    if await prisma.agentgraphexecutionschedule.delete(where={"id": schedule_id}) is None:
        raise _not_found(schedule_id)


async def list_occurrences(
    db: Database, schedule_id: str, *, limit: int, before: datetime | None = None
) -> list[Occurrence]:
    """The occurrences of a schedule, latest due time first; with `before`, only those due earlier."""
    wanted: AgentScheduleOccurrenceWhereInput = {"scheduleId": schedule_id}
    if before is not None:
        wanted["dueAt"] = {"lt": before}
    prisma = await db.prisma()
    rows = await prisma.agentscheduleoccurrence.find_many(
        where=wanted, order={"dueAt": "desc"}, include={"run": True}, take=limit
    )
    return [_occurrence_of(row) for row in rows]


async def last_occurrences(db: Database, schedule_ids: Iterable[str]) -> dict[str, Occurrence]:
    """The occurrence of each schedule that was due last, by schedule id; none for one that never was."""
    ids = json.dumps(list(schedule_ids))

    def read(connection: sqlite3.Connection) -> dict[str, Occurrence]:
        rows = connection.execute(_SELECT_LAST_OCCURRENCES, (ids,))
        return {
            schedule_id: Occurrence.model_validate(dict(zip(Occurrence.model_fields, values, strict=True)))
            for schedule_id, *values in rows
        }

    return await db.read(read)


def enabled_of_graph(connection: sqlite3.Connection, graph_id: str) -> list[Schedule]:
    """The enabled schedules of a graph, as they stand in the transaction that is open."""
    rows = connection.execute(f'{_SELECT} WHERE s."agentGraphId" = ? AND s."isEnabled" = 1', (graph_id,))
    return [schedule_of_row(row) for row in rows]


def insert_occurrences(
    connection: sqlite3.Connection, schedule_id: str, occurrences: Iterable[NewOccurrence], *, now: datetime
) -> None:
    """Record occurrences without runs in the transaction that is open; those that exist already stay as they are."""
    connection.executemany(
        'INSERT INTO "AgentScheduleOccurrence" ("scheduleId", "dueAt", "status", "reasonCode", "reason", "createdAt") '
        'VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT ("scheduleId", "dueAt") DO NOTHING',
        [
            (schedule_id, db_time(item.due), item.status.value, item.code, item.reason, db_time(now))
            for item in occurrences
        ],
    )


_FIELD_OF_COLUMN: Mapping[str, str] = {
    "id": "id",
    "agentGraphId": "graph_id",
    "agentGraphVersion": "graph_version",
    "name": "name",
    "cron": "cron",
    "at": "at",
    "timezone": "timezone",
    "inputData": "input_data",
    "isEnabled": "is_enabled",
    "catchUp": "catch_up",
    "overlap": "overlap",
    "startsAt": "starts_at",
    "endsAt": "ends_at",
    "jitterS": "jitter_s",
    "revision": "revision",
    "accountedUntil": "accounted_until",
    "nextDueAt": "next_fire_at",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}

COLUMNS = ", ".join(f's."{column}"' for column in _FIELD_OF_COLUMN)
"""The columns of a schedule for a raw query on `"AgentGraphExecutionSchedule" s`, in the order that `schedule_of_row` wants."""

_SELECT = f'SELECT {COLUMNS} FROM "AgentGraphExecutionSchedule" s'  # noqa: S608 - names of columns

_SELECT_LAST_OCCURRENCES = (
    'SELECT o."scheduleId", o."dueAt", o."status", o."runId", r."status", o."reasonCode", o."reason", o."createdAt", o."startedAt" '
    'FROM json_each(?) i JOIN "AgentScheduleOccurrence" o ON o."scheduleId" = i."value" AND o."dueAt" = '
    '(SELECT max("dueAt") FROM "AgentScheduleOccurrence" WHERE "scheduleId" = i."value") '
    'LEFT JOIN "AgentGraphExecution" r ON r."id" = o."runId"'
)
"""In the order of the fields of `Occurrence`."""

COLUMN_COUNT = len(_FIELD_OF_COLUMN)


def schedule_of_row(row: Sequence[Any]) -> Schedule:
    """The schedule in the first columns of a row that begins with `COLUMNS`."""
    return schedule_of(dict(zip(_FIELD_OF_COLUMN, row[:COLUMN_COUNT], strict=True)))


def schedule_of(columns: Mapping[str, Any]) -> Schedule:
    """The schedule in a row: column -> value, as the Prisma client or as SQLite gives it."""
    values = {name: columns[column] for column, name in _FIELD_OF_COLUMN.items()}
    values["input_data"] = json.loads(values["input_data"])
    return Schedule.model_validate(values)


def _occurrence_of(row: AgentScheduleOccurrence) -> Occurrence:
    return Occurrence(
        due_at=row.dueAt,
        status=OccurrenceStatus(row.status),
        run_id=row.runId,
        run_status=row.run.status if row.run else None,
        code=row.reasonCode,
        reason=row.reason,
        created_at=row.createdAt,
        started_at=row.startedAt,
    )


def _column_values(schedule: Schedule) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column, name in _FIELD_OF_COLUMN.items():
        value = getattr(schedule, name)
        if isinstance(value, datetime):
            value = db_time(value)
        elif isinstance(value, dict):
            value = json.dumps(value)
        elif isinstance(value, StrEnum):
            value = value.value
        values[column] = value
    return values


def _not_found(schedule_id: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"There is no schedule {schedule_id}.")
