"""What a run's owner writes: the commit function, new runs, and the end of runs that cannot be carried on with. (What it reads is in `snapshot`.)

The protocol (rules D2, D3a; `docs/durability.md`): a run has an `epoch`, which grows with each owner, and a `seq`, which counts its committed events. A
commit names the epoch it belongs to and the range of events it covers, and moves both under a condition on what they were: an owner that has been
replaced changes nothing, and no event is written twice or left out. These functions are plain SQL inside `Database.write` and `Database.read`, because they are
the hot path: one trip to the database thread for many runs, few statements with many rows, nothing awaited inside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from autogpt_server.data.db import db_time, from_db_time
from autogpt_server.data.inbox import DUE, put_into_inbox
from autogpt_server.data.run_rows import (
    CommitOutcome,
    CommitResult,
    NewRun,
    ParentLink,
    RunChanges,
    RunCommit,
    cancel_of,
    child_ended,
)
from autogpt_server.data.status import HIDDEN
from autogpt_server.utils import faults, json
from autogpt_server.utils.errors import AutoGPTServerError

MAX_TAKEOVERS = 3
"""After so many owners that died without progress a run goes on alone in a worker of its own (rule D3b)."""


class HiddenRunGone(AutoGPTServerError):
    """What had been written of a run that nobody saw yet has been removed; ask for it again."""

    code = "run_not_written"
    retryable = True


# What is wrong with one run's rows (the last three: values that SQLite cannot hold). Everything else concerns the whole database.
_REFUSED = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    UnicodeEncodeError,
    OverflowError,
    TypeError,
)


def commit(connection: sqlite3.Connection, batch: Sequence[RunCommit]) -> list[CommitResult]:
    """Write the events of several runs in the transaction that is open; one result per run, in their order.

    Each run has a savepoint of its own, so that one that fails never harms another. Errors that concern the whole database (disk full, I/O) are
    raised.
    """
    return [_commit_run(connection, entry) for entry in batch]


def insert_run(connection: sqlite3.Connection, run: NewRun) -> None:
    """Write a new run in the transaction that is open.

    Raises `sqlite3.IntegrityError` when a unique key exists already, and `HiddenRunGone` when what was written of it before is no longer there.
    """
    row = run.changes.run
    if run.is_written:
        _show(connection, run)
    else:
        insert_run_row(connection, run, status=row.status, idempotency_key=run.idempotency_key)
    _write_changes(connection, run.id, run.changes, db_time(run.created_at) or "")
    if row.ended_at is not None:  # it was over before it began: at a limit, say
        _tell_parent(connection, run.id, at=row.ended_at)


def insert_run_row(connection: sqlite3.Connection, run: NewRun, *, status: str, idempotency_key: str | None) -> None:
    """Write the row of a new run, and nothing else that belongs to it."""
    row, parent = run.changes.run, run.parent
    connection.execute(
        'INSERT INTO "AgentGraphExecution" ("id", "agentGraphId", "agentGraphVersion", "status", "reason", "errorCode", "errorMessage", "epoch", "seq", '
        '"takeovers", "priority", "input", "stats", "idempotencyKey", "requestHash", "scheduleId", "rerunOfId", "parentExecutionId", "parentAttempt", '
        '"parentRunId", "depth", "limits", "createdAt", "startedAt", "endedAt") '
        "VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run.id,
            run.graph_id,
            run.graph_version,
            status,
            row.reason,
            row.error_code,
            row.error_message,
            run.seq,
            run.priority,
            run.input,
            row.stats,
            idempotency_key,
            run.request_hash,
            run.schedule_id,
            run.rerun_of_id,
            parent.execution_id if parent else None,
            parent.attempt if parent else None,
            parent.run_id if parent else None,
            run.depth,
            run.limits,
            db_time(run.created_at),
            row.started_at,
            row.ended_at,
        ),
    )


def _show(connection: sqlite3.Connection, run: NewRun) -> None:
    """Make a run of what has been written hidden."""
    cursor = connection.execute(
        'UPDATE "AgentGraphExecution" SET "status" = ?, "idempotencyKey" = ? WHERE "id" = ? AND "status" = ?',
        (run.changes.run.status, run.idempotency_key, run.id, HIDDEN),
    )
    if cursor.rowcount != 1:
        raise HiddenRunGone(f"What had been written of the run {run.id} has been removed. Ask for it again.")


def is_committed(connection: sqlite3.Connection, entry: RunCommit) -> bool:
    """Whether it is this entry that has brought its run to where that stands.

    The worker is looked at, too: two that take up a run which nobody has had before claim the same epoch.
    """
    found = connection.execute(
        'SELECT "epoch", "seq", "workerId" FROM "AgentGraphExecution" WHERE "id" = ?', (entry.run_id,)
    ).fetchone()
    return found == (entry.epoch, entry.to_seq, None if entry.changes.run.ended_at else entry.worker_id)


def committed_seq(connection: sqlite3.Connection, run_id: str) -> tuple[int, int] | None:
    """(epoch, seq) of a run as committed, or None if there is no such run."""
    return connection.execute(
        'SELECT "epoch", "seq" FROM "AgentGraphExecution" WHERE "id" = ? AND "status" <> ?', (run_id, HIDDEN)
    ).fetchone()


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which graph version a run performs, and where it stands."""

    graph_id: str
    graph_version: int
    epoch: int
    seq: int


def run_key(connection: sqlite3.Connection, run_id: str) -> RunKey | None:
    """The key of a run that has not ended, or None."""
    row = connection.execute(
        'SELECT "agentGraphId", "agentGraphVersion", "epoch", "seq" FROM "AgentGraphExecution" WHERE "id" = ? AND "endedAt" IS NULL',
        (run_id,),
    ).fetchone()
    return None if row is None else RunKey(*row)


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run that has something to do, and its owner if it has one."""

    id: str
    priority: int
    worker_id: str | None
    takeovers: int = 0
    """How many of its owners died in a row without progress."""
    has_news: bool = False
    """Whether its inbox has entries that were not applied yet."""


def waiting_runs(connection: sqlite3.Connection, *, now: str, limit: int) -> list[WaitingRun]:
    """The runs that want a worker, by priority, then oldest first.

    All that have begun, all that want attention at `now` (a timer, the inbox), and of those that wait to begin the first `limit`.
    """
    begun = connection.execute(
        f'{_SELECT_WAITING} WHERE "status" = \'RUNNING\' UNION {_SELECT_WAITING} WHERE "wakeAt" <= ? AND "endedAt" IS NULL ORDER BY "id"',
        (now,),
    ).fetchall()
    queued = connection.execute(
        f'{_SELECT_WAITING} WHERE "status" = \'QUEUED\' ORDER BY "priority" DESC, "id" LIMIT ?', (limit,)
    ).fetchall()
    return [_waiting_run(row) for row in (*begun, *queued)]


def waiting_runs_of(connection: sqlite3.Connection, run_ids: Iterable[str], *, now: str) -> list[WaitingRun]:
    """Those of the runs that have something to do, by priority, then oldest first."""
    rows = connection.execute(
        f'{_SELECT_WAITING} WHERE "id" IN (SELECT "value" FROM json_each(?)) AND '  # noqa: S608 - constants alone
        '("status" IN (\'QUEUED\', \'RUNNING\') OR ("wakeAt" <= ? AND "endedAt" IS NULL)) ORDER BY "priority" DESC, "id"',
        (json.dumps(list(run_ids)), now),
    )
    return [_waiting_run(row) for row in rows]


def look_for_work(connection: sqlite3.Connection, *, now: str, limit: int) -> tuple[list[WaitingRun], datetime | None]:
    """`waiting_runs`, and the earliest time after `now` at which another run will want attention."""
    (wake_at,) = connection.execute(
        'SELECT min("wakeAt") FROM "AgentGraphExecution" WHERE "wakeAt" > ?', (now,)
    ).fetchone()
    return waiting_runs(connection, now=now, limit=limit), from_db_time(wake_at)


_SELECT_WAITING = (
    'SELECT "id", "priority", "workerId", "takeovers", "inboxLast" > "inboxDone" FROM "AgentGraphExecution"'
)


def _waiting_run(row: tuple[str, int, str | None, int, int]) -> WaitingRun:
    return WaitingRun(*row[:4], has_news=bool(row[4]))


def abandon_run(
    connection: sqlite3.Connection, run_id: str, *, epoch: int, seq: int, code: str, message: str, ended_at: str
) -> bool:
    """End a run that cannot be carried on with as FAILED. What was running is FAILED too, its outcome unknown; what had not begun is CANCELED.

    False, and nothing written, unless the run is at `epoch` and `seq`.
    """
    cursor = connection.execute(
        'UPDATE "AgentGraphExecution" SET "status" = \'FAILED\', "reason" = NULL, "errorCode" = ?, "errorMessage" = ?, "endedAt" = ?, '
        '"workerId" = NULL, "wakeAt" = NULL, "seq" = "seq" + 1 WHERE "id" = ? AND "epoch" = ? AND "seq" = ? AND "endedAt" IS NULL',
        (code, message, ended_at, run_id, epoch, seq),
    )
    if cursor.rowcount != 1:
        return False
    end = {"run": run_id, "at": ended_at, "seq": seq + 1}
    failed = connection.execute(
        'UPDATE "AgentNodeExecution" SET "status" = \'FAILED\', "endedAt" = :at, "seq" = :seq, "endedSeq" = :seq, '
        '"errorCode" = \'outcome_unknown\', "error" = :error '
        'WHERE "agentGraphExecutionId" = :run AND "endedAt" IS NULL AND "status" IN (\'RUNNING\', \'INTERRUPTED\')',
        {**end, "error": "The run was ended while the block ran; what it did outside is not known."},
    ).rowcount
    canceled = connection.execute(
        'UPDATE "AgentNodeExecution" SET "status" = \'CANCELED\', "endedAt" = :at, "seq" = :seq, "endedSeq" = :seq '
        'WHERE "agentGraphExecutionId" = :run AND "endedAt" IS NULL AND "status" <> \'INCOMPLETE\'',
        end,
    ).rowcount
    connection.execute(
        'UPDATE "AgentGraphExecution" SET "stats" = json_set("stats", '
        "'$.failed', coalesce(json_extract(\"stats\", '$.failed'), 0) + :failed, "
        "'$.unhandled', coalesce(json_extract(\"stats\", '$.unhandled'), 0) + :failed, "
        "'$.canceled', coalesce(json_extract(\"stats\", '$.canceled'), 0) + :canceled) WHERE \"id\" = :run",
        {"run": run_id, "failed": failed, "canceled": canceled},
    )
    children = connection.execute(
        'SELECT "childRunId" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "childRunId" IS NOT NULL',
        (run_id,),
    )
    for (child_id,) in children.fetchall():
        put_into_inbox(connection, cancel_of(child_id, reason="The run that started it has ended."), at=ended_at)
    _tell_parent(connection, run_id, at=ended_at)
    return True


def _tell_parent(connection: sqlite3.Connection, run_id: str, *, at: str) -> None:
    """A run has ended: if it is a child, its parent learns of it in the same transaction (rule D11)."""
    row = connection.execute(
        'SELECT "parentRunId", "parentExecutionId", "parentAttempt", "status", json_extract("stats", \'$.executions\'), json_extract("stats", \'$.bytes\') '
        'FROM "AgentGraphExecution" WHERE "id" = ? AND "parentRunId" IS NOT NULL',
        (run_id,),
    ).fetchone()
    if row is not None:
        parent_run, parent_execution, attempt, status, executions, size_bytes = row
        parent = ParentLink(run_id=parent_run, execution_id=parent_execution, attempt=attempt)
        faults.reach("commit.child.ended")
        put_into_inbox(
            connection,
            child_ended(parent, run_id, status=status, executions=executions or 0, size_bytes=size_bytes or 0),
            at=at,
        )


def _commit_run(connection: sqlite3.Connection, entry: RunCommit) -> CommitResult:
    connection.execute("SAVEPOINT run")
    try:
        if _advance(connection, entry):
            faults.reach("commit.run.advanced")
            _write_changes(connection, entry.run_id, entry.changes, entry.at)
            if entry.changes.run.ended_at is not None:
                _tell_parent(connection, entry.run_id, at=entry.at)
            connection.execute("RELEASE run")
            return CommitResult(CommitOutcome.DONE)
        _undo(connection)
        return CommitResult(CommitOutcome.FENCED)
    except _REFUSED as error:
        _undo(connection)
        return CommitResult(CommitOutcome.FAILED, error)


def _undo(connection: sqlite3.Connection) -> None:
    connection.execute("ROLLBACK TO run")
    connection.execute("RELEASE run")


def _advance(connection: sqlite3.Connection, entry: RunCommit) -> bool:
    """Move the run's epoch and seq; False if they are not where this owner left them."""
    row = entry.changes.run
    cursor = connection.execute(
        'UPDATE "AgentGraphExecution" SET "seq" = ?, "epoch" = ?, "workerId" = ?, "takeovers" = CASE WHEN ? THEN 0 ELSE "takeovers" + ? END, "status" = ?, "reason" = ?, "errorCode" = ?, '
        '"errorMessage" = ?, "closing" = ?, "stats" = ?, "startedAt" = ?, "endedAt" = ?, "inboxDone" = ?, '
        # What came into the inbox meanwhile wants attention even if this owner goes away now.
        '"wakeAt" = CASE WHEN ? IS NULL AND "inboxLast" > ? THEN ? ELSE ? END '
        'WHERE "id" = ? AND "epoch" = ? AND "seq" = ? AND "endedAt" IS NULL',
        (
            entry.to_seq,
            entry.epoch,
            None if row.ended_at else entry.worker_id,
            entry.progress,
            1 if entry.claim and entry.epoch > 1 and entry.former_died else 0,
            row.status,
            row.reason,
            row.error_code,
            row.error_message,
            row.closing,
            row.stats,
            row.started_at,
            row.ended_at,
            entry.inbox_done,
            row.ended_at,
            entry.inbox_done,
            DUE,
            row.wake_at,
            entry.run_id,
            entry.epoch - 1 if entry.claim else entry.epoch,
            entry.from_seq,
        ),
    )
    return cursor.rowcount == 1


def _write_changes(connection: sqlite3.Connection, run_id: str, changes: RunChanges, at: str) -> None:
    if changes.large:
        connection.executemany(INSERT_LARGE, changes.large)
    if changes.added:
        connection.executemany(INSERT_EXECUTION, changes.added)
    if changes.changed:
        # The ids come last there, and nothing else that is in a row stays as it was.
        cursor = connection.executemany(
            _UPDATE_EXECUTION, [(*row[_AFTER_IDS:], row.id, run_id) for row in changes.changed]
        )
        if cursor.rowcount != len(changes.changed):
            lacking = len(changes.changed) - cursor.rowcount
            raise sqlite3.IntegrityError(
                f"run {run_id}: {lacking} of {len(changes.changed)} node executions have ended already or do not exist"
            )
    if changes.discarded:
        connection.executemany(
            'DELETE FROM "AgentNodeExecutionInputOutput" WHERE "agentNodeExecutionId" = ? AND "role" = \'output\' AND "ordinal" >= ? '
            'AND "releasedSeq" IS NULL',
            changes.discarded,
        )
    if changes.values:
        connection.executemany(INSERT_VALUE, changes.values)
    if changes.released:
        cursor = connection.executemany(
            'UPDATE "AgentNodeExecutionInputOutput" SET "releasedSeq" = ? WHERE "agentNodeExecutionId" = ? AND "role" = \'output\' AND "ordinal" = ? '
            'AND "releasedSeq" IS NULL',
            changes.released,
        )
        if cursor.rowcount != len(changes.released):
            raise sqlite3.IntegrityError(f"run {run_id}: outputs that were released were not held")
    if changes.attempts:
        connection.executemany(_INSERT_ATTEMPT, changes.attempts)
    for child in changes.children:
        insert_run(connection, child)
        faults.reach("commit.child.written")
    for entry in changes.outbox:
        put_into_inbox(connection, entry, at=at)


def _insert(table: str, columns: Sequence[str]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(columns))})'  # noqa: S608 - constants alone


# In the order of the fields of `NodeExecutionRow`, `ValueRow` and `AttemptRow`.
EXECUTION_COLUMNS = (
    *(
        "id",
        "agentGraphExecutionId",
        "agentNodeId",
        "status",
        "ordinal",
        "attempt",
        "seq",
        "addedSeq",
        "queuedSeq",
        "startedSeq",
        "endedSeq",
    ),
    *(
        "errorCode",
        "error",
        "mixedOrigin",
        "origins",
        "addedAt",
        "queuedAt",
        "startedAt",
        "endedAt",
        "notBefore",
        "retries",
        "waitsFor",
    ),
    *("childRunId", "resumed", "firstOutput", "signals", "replayOfId"),
)
VALUE_COLUMNS = (
    *(
        "agentNodeExecutionId",
        "role",
        "ordinal",
        "name",
        "data",
        "valueHash",
        "sourceExecutionId",
        "sourceOrdinal",
        "sourcePart",
    ),
    *("seq", "releasedSeq"),
)
ATTEMPT_COLUMNS = ("agentNodeExecutionId", "attempt", "outcome", "errorCode", "error", "startedAt", "endedAt")
_AFTER_IDS = 3

INSERT_EXECUTION = _insert("AgentNodeExecution", EXECUTION_COLUMNS)
_ASSIGNMENTS = ", ".join(f'"{column}" = ?' for column in EXECUTION_COLUMNS[_AFTER_IDS:])
_UPDATE_EXECUTION = (
    f'UPDATE "AgentNodeExecution" SET {_ASSIGNMENTS} '  # noqa: S608 - constants alone
    'WHERE "id" = ? AND "agentGraphExecutionId" = ? AND "endedAt" IS NULL'
)
INSERT_VALUE = _insert("AgentNodeExecutionInputOutput", VALUE_COLUMNS)
INSERT_LARGE = 'INSERT OR IGNORE INTO "AgentValue" ("hash", "data", "sizeBytes") VALUES (?, ?, ?)'
_INSERT_ATTEMPT = _insert("AgentNodeExecutionAttempt", ATTEMPT_COLUMNS)
