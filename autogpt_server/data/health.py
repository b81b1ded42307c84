"""Whether the database does its work, and how much there is to do."""

from __future__ import annotations

import asyncio
import sqlite3

from autogpt_server.data import migrate
from autogpt_server.data.db import Database
from autogpt_server.data.status import TERMINAL_RUN_STATUSES, RunStatus


async def check_writable(db: Database) -> None:
    """Raise what keeps this process from writing: a full disk, a lost file, another version's migrations."""
    await asyncio.to_thread(migrate.check_version, db.path)
    await db.write(_touch)


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
