"""Runs with more rows than a transaction should have while others wait for their turn: a re-run, which takes over what is kept of a run before it.

It is written in slices, hidden: its row has the status `HIDDEN`, which no list shows, no worker takes up and no request finds. One short transaction then
makes it a run, as any other begins. Whatever happens before that moment, there is no such run; what was written of it is removed, in slices as well: by
whoever wrote it, or by the next process that looks (`HiddenRuns.sweep`), if that one died.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from autogpt_server.data.db import Database, DatabaseUnavailable, typed_errors
from autogpt_server.data.execution import (
    ATTEMPT_COLUMNS,
    EXECUTION_COLUMNS,
    INSERT_EXECUTION,
    INSERT_LARGE,
    INSERT_VALUE,
    VALUE_COLUMNS,
    insert_run_row,
)
from autogpt_server.data.run_rows import (
    CopiedExecution,
    CopiedValue,
    NewRun,
    NodeExecutionRow,
    RunChanges,
    TakenOver,
    ValueRow,
)
from autogpt_server.data.runs import StartedRun, create_run, delete_unused
from autogpt_server.data.status import HIDDEN
from autogpt_server.utils import faults
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.logging import get_logger

SWEEP_S = 60.0
"""How often is looked for what was left behind, in seconds."""
SLICE_S = 0.01
"""A slice takes about so long; others wait for one at most."""
_REST_RATIO = 0.25
"""After a slice comes a rest of so many times as long, for the others."""
_STEP_ROWS = 20
"""Rows between two looks at the clock."""

log = get_logger(__name__)


class FormerRunGone(AutoGPTServerError):
    """The run whose outcomes are to be taken over has been deleted."""


class HiddenRuns:
    """What one process writes hidden. No other process may do so at the same time: it would be taken for one that died."""

    def __init__(self, db: Database, *, slice_s: float = SLICE_S) -> None:
        self._db = db
        self._slice_s = slice_s
        self._own: set[str] = set()

    async def create(self, run: NewRun) -> StartedRun:
        """As `create_run`, in slices. Raises `FormerRunGone`, too, and `HiddenRunGone`."""
        self._own.add(run.id)
        try:
            await self._write(run)
            faults.reach("server.rerun.written")
            started = await create_run(self._db, written(run))
        except BaseException:
            self._own.discard(run.id)
            with suppress(DatabaseUnavailable):  # then it is removed with the next sweep
                await self._remove(run.id)
            raise
        self._own.discard(run.id)
        if started.is_new:
            return replace(started, executions=[(row.id, row.node_id) for row in run.changes.added])
        await self._remove(run.id)  # another request with this key was faster
        return started

    async def sweep(self) -> int:
        """Remove what others have left behind; how many runs that was."""

        def read(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute('SELECT "id" FROM "AgentGraphExecution" WHERE "status" = ?', (HIDDEN,))
            return [run_id for (run_id,) in rows]

        left = [run_id for run_id in await self._db.read(read) if run_id not in self._own]
        for run_id in left:
            await self._remove(run_id)
        return len(left)

    async def sweep_forever(self) -> None:
        """Sweep at once, and then from time to time."""
        while True:
            try:
                if count := await self.sweep():
                    log.info("runs removed that had not become any", runs=count)
            except Exception:
                log.exception("what was left of runs not removed; it is tried again")
            await asyncio.sleep(SWEEP_S)

    async def _write(self, run: NewRun) -> None:
        writing = HiddenRun(run)
        place: int | None = 0
        with typed_errors():
            while place is not None:
                began = time.monotonic()
                place = await self._db.write(partial(writing.write_from, place=place, slice_s=self._slice_s))
                faults.reach("server.rerun.slice")
                if place is not None:
                    await asyncio.sleep(_REST_RATIO * (time.monotonic() - began))

    async def _remove(self, run_id: str) -> None:
        with typed_errors():
            while True:
                began = time.monotonic()
                if await self._db.write(partial(remove_some, run_id=run_id, slice_s=self._slice_s)):
                    return
                await asyncio.sleep(_REST_RATIO * (time.monotonic() - began))


class HiddenRun:
    """The rows of a run, on their way into the database."""

    def __init__(self, run: NewRun) -> None:
        self._run = run
        self._large = {value.hash: value for value in run.changes.large}
        taken = run.taken_over or TakenOver("")
        self._parts: list[tuple[Callable[[sqlite3.Connection, Sequence[Any]], None], Sequence[Any]]] = [
            (self._copy_executions, taken.executions),
            (self._copy_values, taken.values),
            (self._copy_attempts, taken.executions),
            (self._insert_executions, run.changes.added),
            (self._insert_values, run.changes.values),
        ]

    def write_from(self, connection: sqlite3.Connection, place: int, *, slice_s: float = SLICE_S) -> int | None:
        """Write rows from number `place` on in the transaction that is open, for about so long; answers where to go on, None when all are written.

        Raises `FormerRunGone`.
        """
        if place == 0:
            insert_run_row(connection, self._run, status=HIDDEN, idempotency_key=None)
        until = time.monotonic() + slice_s
        offset = place
        for write, rows in self._parts:
            while offset < len(rows):
                step = rows[offset : offset + _STEP_ROWS]
                write(connection, step)
                offset += len(step)
                place += len(step)
                if time.monotonic() >= until:
                    return place
            offset -= len(rows)
        self._check_former(connection)
        return None

    def _copy_executions(self, connection: sqlite3.Connection, rows: Sequence[CopiedExecution]) -> None:
        former_id = self._former_id
        cursor = connection.executemany(
            _COPY_EXECUTION,
            [
                (row.id, self._run.id, row.node_id, *[row.seq] * 5, row.origins, row.former_id, former_id)
                for row in rows
            ],
        )
        self._check_copied(cursor, rows)

    def _copy_values(self, connection: sqlite3.Connection, rows: Sequence[CopiedValue]) -> None:
        self._check_copied(connection.executemany(_COPY_VALUE, rows), rows)

    def _copy_attempts(self, connection: sqlite3.Connection, rows: Sequence[CopiedExecution]) -> None:
        connection.executemany(_COPY_ATTEMPTS, [(row.id, row.former_id) for row in rows])

    def _insert_executions(self, connection: sqlite3.Connection, rows: Sequence[NodeExecutionRow]) -> None:
        connection.executemany(INSERT_EXECUTION, rows)

    def _insert_values(self, connection: sqlite3.Connection, rows: Sequence[ValueRow]) -> None:
        # A large value together with who uses it: what nobody used would never be found again.
        large = [self._large[row.value_hash] for row in rows if row.value_hash is not None]
        connection.executemany(INSERT_LARGE, large)
        connection.executemany(INSERT_VALUE, rows)

    @property
    def _former_id(self) -> str | None:
        return self._run.rerun_of_id

    def _check_copied(self, cursor: sqlite3.Cursor, rows: Sequence[object]) -> None:
        """A run that has ended never changes: it is as it was read, or has been deleted."""
        if cursor.rowcount != len(rows):
            raise FormerRunGone(f"The run {self._former_id} has been deleted meanwhile.")

    def _check_former(self, connection: sqlite3.Connection) -> None:
        """It is deleted as a whole: if it is still there, all that was copied is."""
        known = connection.execute('SELECT 1 FROM "AgentGraphExecution" WHERE "id" = ?', (self._former_id,)).fetchone()
        if known is None:
            raise FormerRunGone(f"The run {self._former_id} has been deleted meanwhile.")


def remove_some(connection: sqlite3.Connection, run_id: str, *, slice_s: float = SLICE_S) -> bool:
    """Remove rows of a hidden run in the transaction that is open, for about so long; True when nothing is left of it."""
    until = time.monotonic() + slice_s
    while time.monotonic() < until:
        found = connection.execute(_SELECT_OF_HIDDEN, (run_id, HIDDEN)).fetchone()
        if found is None:
            connection.execute('DELETE FROM "AgentGraphExecution" WHERE "id" = ? AND "status" = ?', (run_id, HIDDEN))
            return True
        values = connection.execute(_DELETE_VALUES, (*found, _STEP_ROWS)).fetchall()
        delete_unused(connection, [value_hash for (value_hash,) in values if value_hash is not None])
        if len(values) < _STEP_ROWS:
            connection.execute('DELETE FROM "AgentNodeExecution" WHERE "id" = ?', found)
    return False


def written(run: NewRun) -> NewRun:
    """A run of which all that may be large has been written: what is left makes it visible."""
    changes = run.changes
    return replace(
        run,
        is_written=True,
        taken_over=None,
        changes=RunChanges(changes.run, attempts=changes.attempts, children=changes.children, outbox=changes.outbox),
    )


_SELECT_OF_HIDDEN = (
    'SELECT e."id" FROM "AgentGraphExecution" r JOIN "AgentNodeExecution" e ON e."agentGraphExecutionId" = r."id" '
    'WHERE r."id" = ? AND r."status" = ? LIMIT 1'
)
_DELETE_VALUES = (
    'DELETE FROM "AgentNodeExecutionInputOutput" WHERE "rowid" IN '
    '(SELECT "rowid" FROM "AgentNodeExecutionInputOutput" WHERE "agentNodeExecutionId" = ? LIMIT ?) RETURNING "valueHash"'
)

# Where a copy is no copy: of a re-run's taken over executions, and of their values.
_COPIED_EXECUTION = {
    **dict.fromkeys(("id", "agentGraphExecutionId", "agentNodeId", "seq", "addedSeq"), "?"),
    **{name: f'CASE WHEN "{name}" IS NULL THEN NULL ELSE ? END' for name in ("queuedSeq", "startedSeq", "endedSeq")},
    "origins": "?",
    "replayOfId": '"id"',
}
_COPIED_VALUE = {"agentNodeExecutionId": "?", "sourceExecutionId": "?", "seq": "?", "releasedSeq": "?"}


def _copy_of(table: str, columns: Sequence[str], changed: Mapping[str, str], where: str) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(changed.get(column, f'"{column}"') for column in columns)
    return f'INSERT INTO "{table}" ({names}) SELECT {values} FROM "{table}" WHERE {where}'  # noqa: S608 - constants alone


_COPY_EXECUTION = _copy_of(
    "AgentNodeExecution", EXECUTION_COLUMNS, _COPIED_EXECUTION, '"id" = ? AND "agentGraphExecutionId" = ?'
)
_COPY_VALUE = _copy_of(
    "AgentNodeExecutionInputOutput",
    VALUE_COLUMNS,
    _COPIED_VALUE,
    '"agentNodeExecutionId" = ? AND "role" = ? AND "ordinal" = ?',
)
_COPY_ATTEMPTS = _copy_of(
    "AgentNodeExecutionAttempt", ATTEMPT_COLUMNS, {"agentNodeExecutionId": "?"}, '"agentNodeExecutionId" = ?'
)
