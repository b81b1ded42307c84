"""What the scheduler reads and commits: schedules that are due, and their occurrences with their runs in one transaction (rule S1).

Who decides reads first and commits later, so each commit names the state it was decided from (the schedule's `revision` and `accounted_until`); if
another scheduler or a user was faster nothing is written. The key on (schedule, due time) holds even where that would fail.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from autogpt_server.data.db import Database, db_time, from_db_time
from autogpt_server.data.engine import EngineError
from autogpt_server.data.execution import insert_run
from autogpt_server.data.run_rows import NewRun
from autogpt_server.data.schedule import COLUMN_COUNT, COLUMNS, insert_occurrences, schedule_of_row
from autogpt_server.data.scheduling import DueSchedule, NewOccurrence, OccurrenceStatus, Schedule
from autogpt_server.data.status import TERMINAL_RUN_STATUSES, RunStatus
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError


class SchedulesUnavailable(AutoGPTServerError):
    """The database cannot be read or written right now; what is due stays due, and is accounted for later."""

    code = "schedules_unavailable"
    retryable = True


_ACTIVE = ", ".join(f"'{status.value}'" for status in RunStatus if status not in TERMINAL_RUN_STATUSES)


@dataclass(frozen=True, slots=True)
class Firing:
    """The outcomes of some due times of one schedule, as one step from the state they were decided from to the next."""

    schedule_id: str
    revision: int
    accounted_from: datetime
    accounted_until: datetime
    next_fire_at: datetime | None
    occurrences: Sequence[NewOccurrence] = ()
    """Those without a run."""
    runs: Sequence[tuple[datetime, NewRun]] = field(default=())


@dataclass(frozen=True, slots=True)
class Release:
    """An occurrence that has waited and now gets its run, or the reason why it gets none."""

    schedule_id: str
    revision: int
    """Of the schedule that this was decided from."""
    due: datetime
    run: NewRun | None
    code: str | None = None
    reason: str | None = None


class FiringOutcome(StrEnum):
    """What became of a firing or a release."""

    DONE = "done"
    OUTDATED = "outdated"
    """What it was decided from has changed; nothing was written. Read and decide again."""
    FAILED = "failed"
    """The database refused the rows; nothing was written."""


@dataclass(frozen=True, slots=True)
class FiringResult:
    """The outcome of one firing or release: the runs it committed, or the error for FAILED."""

    outcome: FiringOutcome
    run_ids: Sequence[str] = ()
    error: sqlite3.Error | None = None


async def next_fire_at(db: Database) -> datetime | None:
    """When the first of all enabled schedules has to be looked at; None if none has to."""

    def read(connection: sqlite3.Connection) -> datetime | None:
        row = connection.execute(_SELECT_NEXT).fetchone()
        return from_db_time(row[0])

    with translated():
        return await db.read(read)


async def due_schedules(db: Database, now: datetime, *, limit: int) -> list[DueSchedule]:
    """Enabled schedules that have to be looked at by now, in the order in which they are due."""

    def read(connection: sqlite3.Connection) -> list[DueSchedule]:
        rows = connection.execute(_SELECT_DUE, (db_time(now), limit))
        return [_due_schedule(row) for row in rows]

    with translated():
        return await db.read(read)


async def enabled_schedules(db: Database, *, after_id: str, limit: int) -> list[Schedule]:
    """Enabled schedules, due or not, in the order of their ids."""

    def read(connection: sqlite3.Connection) -> list[Schedule]:
        return [schedule_of_row(row) for row in connection.execute(_SELECT_ENABLED, (after_id, limit))]

    with translated():
        return await db.read(read)


async def situations(db: Database, schedule_ids: Sequence[str]) -> dict[str, DueSchedule]:
    """Schedules, due or not, with what a decision about them would depend on, by their ids."""

    def read(connection: sqlite3.Connection) -> dict[str, DueSchedule]:
        rows = connection.execute(_SELECT_BY_ID, (json.dumps(list(schedule_ids)),))
        return {found.schedule.id: found for found in map(_due_schedule, rows)}

    with translated():
        return await db.read(read)


async def releasable_schedules(db: Database, *, limit: int) -> list[DueSchedule]:
    """Enabled schedules with occurrences that wait, and no active run."""

    def read(connection: sqlite3.Connection) -> list[DueSchedule]:
        return [_due_schedule(row) for row in connection.execute(_SELECT_RELEASABLE, (limit,))]

    with translated():
        return await db.read(read)


async def commit_firings(db: Database, firings: Sequence[Firing], *, now: datetime) -> list[FiringResult]:
    """Commit the firings of several schedules together; one result each, in their order. One that fails does not harm another."""

    def write(connection: sqlite3.Connection) -> list[FiringResult]:
        return [_in_savepoint(connection, partial(_commit_firing, connection, firing, now)) for firing in firings]

    with translated():
        return await db.write(write)


async def commit_releases(db: Database, releases: Sequence[Release], *, now: datetime) -> list[FiringResult]:
    """Commit the runs of occurrences that have waited; one result each, in their order."""

    def write(connection: sqlite3.Connection) -> list[FiringResult]:
        return [_in_savepoint(connection, partial(_commit_release, connection, release, now)) for release in releases]

    with translated():
        return await db.write(write)


async def postpone(db: Database, schedule_id: str, *, revision: int, until: datetime | None) -> None:
    """Look at a schedule again at `until` (None: when it is changed), without accounting for anything: something is wrong with it."""

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            'UPDATE "AgentGraphExecutionSchedule" SET "nextDueAt" = ? WHERE "id" = ? AND "revision" = ? AND "isEnabled" = 1',
            (db_time(until), schedule_id, revision),
        )

    with translated():
        await db.write(write)


# S608: nothing but constants is put together here. The status, not "endedAt": there is an index on (scheduleId, status).
_ACTIVE_RUN = (
    f'(SELECT min(r."id") FROM "AgentGraphExecution" r WHERE r."scheduleId" = s."id" AND r."status" IN ({_ACTIVE}))'  # noqa: S608
)
_WAITING = '"AgentScheduleOccurrence" o WHERE o."status" = \'WAITING\' AND o."scheduleId" = s."id"'
_VERSION = '"AgentGraph" g WHERE g."id" = s."agentGraphId" AND g."archivedAt" IS NULL'
_SITUATION = (
    f'SELECT {COLUMNS}, CASE WHEN s."agentGraphVersion" IS NULL THEN coalesce('  # noqa: S608
    f'(SELECT max(g."version") FROM {_VERSION} AND g."isActive" = 1), (SELECT max(g."version") FROM {_VERSION})) '
    f'ELSE (SELECT g."version" FROM {_VERSION} AND g."version" = s."agentGraphVersion") END, '
    f'{_ACTIVE_RUN}, (SELECT count(*) FROM {_WAITING}), (SELECT min(o."dueAt") FROM {_WAITING}) AS "waitingSince"'
)
_TABLE = '"AgentGraphExecutionSchedule" s'

# By "rowid", not "id": then the index on (isEnabled, nextDueAt) gives the order, and nothing is read beyond the limit.
_SELECT_DUE = f'{_SITUATION} FROM {_TABLE} WHERE s."isEnabled" = 1 AND s."nextDueAt" <= ? ORDER BY s."nextDueAt", s."rowid" LIMIT ?'
_SELECT_BY_ID = f'{_SITUATION} FROM {_TABLE} WHERE s."id" IN (SELECT "value" FROM json_each(?))'  # noqa: S608
# The plus keeps SQLite from an index that would make it sort all enabled schedules for each page.
_SELECT_ENABLED = f'SELECT {COLUMNS} FROM {_TABLE} WHERE +s."isEnabled" = 1 AND s."id" > ? ORDER BY s."id" LIMIT ?'  # noqa: S608
# CROSS JOIN: from the few that wait to their schedules, not the other way round.
_SELECT_RELEASABLE = (
    f'{_SITUATION} FROM (SELECT DISTINCT "scheduleId" FROM "AgentScheduleOccurrence" WHERE "status" = \'WAITING\') w '  # noqa: S608
    f'CROSS JOIN {_TABLE} WHERE s."id" = w."scheduleId" AND s."isEnabled" = 1 AND {_ACTIVE_RUN} IS NULL ORDER BY "waitingSince" LIMIT ?'
)
_SELECT_NEXT = f'SELECT min(s."nextDueAt") FROM {_TABLE} WHERE s."isEnabled" = 1'  # noqa: S608


@contextmanager
def translated() -> Generator[None]:
    """Errors of the whole database (disk full, I/O, locked for long, a COMMIT that may have failed) as `SchedulesUnavailable`."""
    try:
        yield
    except (sqlite3.Error, EngineError) as error:
        raise SchedulesUnavailable(f"The schedules cannot be read or written right now: {error}") from error


def _due_schedule(row: tuple[Any, ...]) -> DueSchedule:
    version, active_run_id, waiting, waiting_since = row[COLUMN_COUNT:]
    return DueSchedule(schedule_of_row(row), version, active_run_id, waiting, from_db_time(waiting_since))


def _commit_firing(connection: sqlite3.Connection, firing: Firing, now: datetime) -> FiringResult:
    moved = connection.execute(
        'UPDATE "AgentGraphExecutionSchedule" SET "accountedUntil" = ?, "nextDueAt" = ? '
        'WHERE "id" = ? AND "revision" = ? AND "accountedUntil" = ? AND "isEnabled" = 1',
        (
            db_time(firing.accounted_until),
            db_time(firing.next_fire_at),
            firing.schedule_id,
            firing.revision,
            db_time(firing.accounted_from),
        ),
    )
    if moved.rowcount != 1:
        return FiringResult(FiringOutcome.OUTDATED)
    insert_occurrences(connection, firing.schedule_id, firing.occurrences, now=now)
    committed: list[str] = []
    for due, run in firing.runs:
        key = (firing.schedule_id, db_time(due))
        if connection.execute(
            'SELECT 1 FROM "AgentScheduleOccurrence" WHERE "scheduleId" = ? AND "dueAt" = ?', key
        ).fetchone():
            continue
        insert_run(connection, run)
        connection.execute(
            'INSERT INTO "AgentScheduleOccurrence" ("scheduleId", "dueAt", "status", "runId", "createdAt", "startedAt") VALUES (?, ?, ?, ?, ?, ?)',
            (*key, OccurrenceStatus.STARTED.value, run.id, db_time(now), db_time(now)),
        )
        committed.append(run.id)
    return FiringResult(FiringOutcome.DONE, committed)


def _commit_release(connection: sqlite3.Connection, release: Release, now: datetime) -> FiringResult:
    unchanged = connection.execute(
        'SELECT 1 FROM "AgentGraphExecutionSchedule" WHERE "id" = ? AND "revision" = ? AND "isEnabled" = 1',
        (release.schedule_id, release.revision),
    ).fetchone()
    if unchanged is None:
        return FiringResult(FiringOutcome.OUTDATED)
    if release.run is not None:
        insert_run(connection, release.run)
    status = OccurrenceStatus.SKIPPED if release.run is None else OccurrenceStatus.STARTED
    changed = connection.execute(
        'UPDATE "AgentScheduleOccurrence" SET "status" = ?, "runId" = ?, "reasonCode" = ?, "reason" = ?, "startedAt" = ? '  # noqa: S608
        'WHERE "scheduleId" = ? AND "dueAt" = ? AND "status" = \'WAITING\' AND NOT EXISTS '
        f'(SELECT 1 FROM "AgentGraphExecution" r WHERE r."scheduleId" = ? AND r."status" IN ({_ACTIVE}) AND r."id" <> ?)',
        (
            status.value,
            release.run.id if release.run else None,
            release.code,
            release.reason,
            db_time(now) if release.run else None,
            release.schedule_id,
            db_time(release.due),
            release.schedule_id,
            release.run.id if release.run else "",
        ),
    )
    if changed.rowcount != 1:
        return FiringResult(FiringOutcome.OUTDATED)
    return FiringResult(FiringOutcome.DONE, [release.run.id] if release.run else [])


def _in_savepoint(connection: sqlite3.Connection, perform: Callable[[], FiringResult]) -> FiringResult:
    """Perform one step of a transaction so that only this step is undone if it comes to nothing. Errors of the whole database are raised."""
    connection.execute("SAVEPOINT firing")
    try:
        result = perform()
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError) as error:
        result = FiringResult(FiringOutcome.FAILED, error=error)
    if result.outcome is not FiringOutcome.DONE:
        connection.execute("ROLLBACK TO firing")
    connection.execute("RELEASE firing")
    return result
