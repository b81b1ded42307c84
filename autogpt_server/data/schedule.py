"""Schedules and their occurrences: their shapes, and how they are stored, changed and read.

What the scheduler does with them, an occurrence and its run in one transaction, is in `autogpt_server.data.firing`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pydantic

from autogpt_server.data.db import Database, db_time
from autogpt_server.data.models import JsonObject
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError

if TYPE_CHECKING:
    from prisma.models import AgentScheduleOccurrence
    from prisma.types import AgentGraphExecutionScheduleWhereInput, AgentScheduleOccurrenceWhereInput


class CatchUp(StrEnum):
    """What is done about occurrences that were missed, after an outage (rule S3)."""

    LATEST = "latest"
    """The latest one runs."""
    ALL = "all"
    """All run, up to a limit."""
    NONE = "none"
    """None of them runs."""


class Overlap(StrEnum):
    """What is done when a schedule is due while a run of it has not ended (rule S3)."""

    SKIP = "skip"
    QUEUE = "queue"
    """The occurrence waits, and runs when those before it have ended."""
    ALLOW = "allow"
    """Runs go on side by side."""


class OccurrenceStatus(StrEnum):
    """What became of an occurrence."""

    STARTED = "STARTED"
    """It got a run."""
    SKIPPED = "SKIPPED"
    """It did not, for the reason given."""
    WAITING = "WAITING"
    """It will get one when the runs before it have ended."""


class ScheduleNotFound(AutoGPTServerError):
    """There is no such schedule."""

    code = "schedule_not_found"


class ScheduleFields(pydantic.BaseModel):
    """What a user decides about a schedule. Times are aware."""

    name: str = ""
    graph_version: int | None = None
    """None: the version that is active when an occurrence is due (rule S4)."""
    cron: str | None = None
    at: datetime | None = None
    """Instead of `cron`: the one time at which it is due."""
    timezone: str = "UTC"
    input_data: JsonObject = pydantic.Field(default_factory=dict)
    is_enabled: bool = True
    catch_up: CatchUp = CatchUp.LATEST
    overlap: Overlap = Overlap.SKIP
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    jitter_s: float = 0.0


class Schedule(ScheduleFields):
    """A stored schedule."""

    id: str
    graph_id: str
    revision: int = 0
    """Grows with each change by a user."""
    accounted_until: datetime
    """Every due time up to here has its occurrence."""
    next_fire_at: datetime | None = None
    """When the scheduler has to act next; None if it has not, and while disabled."""
    created_at: datetime
    updated_at: datetime

    @property
    def fields(self) -> ScheduleFields:
        """What a user decided about it."""
        return ScheduleFields(**{name: getattr(self, name) for name in ScheduleFields.model_fields})


class Occurrence(pydantic.BaseModel):
    """One due time of a schedule that has been accounted for."""

    due_at: datetime
    status: OccurrenceStatus
    run_id: str | None = None
    """None also when the run was deleted since."""
    run_status: str | None = None
    code: str | None = None
    reason: str | None = None
    """Why it has no run, or not yet, in words."""
    created_at: datetime
    started_at: datetime | None = None
    """When its run was committed."""


@dataclass(frozen=True, slots=True)
class NewOccurrence:
    """An occurrence without a run that is about to be recorded."""

    due: datetime
    status: OccurrenceStatus
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """A schedule as it shall be, and what the change makes of due times that nobody has accounted for yet."""

    fields: ScheduleFields
    accounted_until: datetime
    next_fire_at: datetime | None
    occurrences: Sequence[NewOccurrence] = field(default=())


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
    row = await db.client.agentgraphexecutionschedule.create(
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
    row = await db.client.agentgraphexecutionschedule.find_unique(where={"id": schedule_id})
    if row is None:
        raise _not_found(schedule_id)
    return schedule_of(dict(row))


async def list_schedules(db: Database, graph_id: str, *, limit: int, before: str | None = None) -> list[Schedule]:
    """The schedules of a graph, newest first; with `before`, those that come after that id in this order."""
    wanted: AgentGraphExecutionScheduleWhereInput = {"agentGraphId": graph_id}
    if before is not None:
        wanted["id"] = {"lt": before}
    rows = await db.client.agentgraphexecutionschedule.find_many(where=wanted, order={"id": "desc"}, take=limit)
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
    if await db.client.agentgraphexecutionschedule.delete(where={"id": schedule_id}) is None:
        raise _not_found(schedule_id)


async def list_occurrences(
    db: Database, schedule_id: str, *, limit: int, before: datetime | None = None
) -> list[Occurrence]:
    """The occurrences of a schedule, latest due time first; with `before`, only those due earlier."""
    wanted: AgentScheduleOccurrenceWhereInput = {"scheduleId": schedule_id}
    if before is not None:
        wanted["dueAt"] = {"lt": before}
    rows = await db.client.agentscheduleoccurrence.find_many(
        where=wanted, order={"dueAt": "desc"}, include={"run": True}, take=limit
    )
    return [_occurrence_of(row) for row in rows]


async def last_occurrences(db: Database, schedule_ids: Iterable[str]) -> dict[str, Occurrence]:
    """The occurrence of each schedule that was due last, by schedule id; none for one that never was."""
    found: dict[str, Occurrence] = {}
    for schedule_id in schedule_ids:
        for occurrence in await list_occurrences(db, schedule_id, limit=1):
            found[schedule_id] = occurrence
    return found


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
