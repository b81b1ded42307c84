"""Whether the database does its work, and how much there is to do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

from autogpt_server.data import migrate
from autogpt_server.data.db import Database, DatabaseUnavailable, typed_errors
from autogpt_server.data.status import TERMINAL_RUN_STATUSES, RunStatus

ROOM_BYTES = 8 * 1024 * 1024
"""So much of the disk must be free: what one transaction of a worker may take."""


class DiskFull(DatabaseUnavailable):
    """The disk that holds the database is full; runs pause until there is room."""


async def check_writable(db: Database) -> None:
    """Raise what keeps this process from writing: a full disk, a lost file, another version's migrations.

    Raises `DiskFull`, `DatabaseUnavailable`, and what `migrate.check_version` does. A worker whose commit was refused tries it again for ever, so that
    this tells of the runs, too: they go on when it passes.
    """
    await asyncio.to_thread(migrate.check_version, db.path)
    await asyncio.to_thread(check_room, db.path)
    with typed_errors():
        await db.write(_touch)


def check_room(path: Path, *, at_least: int = ROOM_BYTES) -> None:
    """Raise `DiskFull` unless so many bytes are free. Asked for by itself, because a small write may find a place in a file that is there."""
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < at_least:
        raise DiskFull(f"the disk is full: {free // 1024:,} KiB are left, {at_least // 1024:,} are needed")


async def active_runs(db: Database) -> dict[str, int]:
    """Status -> how many runs have it, for the statuses of runs that have not ended."""

    def read(connection: sqlite3.Connection) -> dict[str, int]:
        found = {status.value: 0 for status in RunStatus if status not in TERMINAL_RUN_STATUSES}
        marks = ", ".join("?" * len(found))
        rows = connection.execute(
            f'SELECT "status", count(*) FROM "AgentGraphExecution" WHERE "status" IN ({marks}) GROUP BY "status"',  # noqa: S608
            tuple(found),
        )
        return found | dict(rows.fetchall())

    return await db.read(read)


def _touch(connection: sqlite3.Connection) -> None:
    """Write a page without changing what it says."""
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {int(number)}")
