"""What a run's owner writes: the commit function, new runs, and the end of runs that cannot be carried on with. (What it reads is in `snapshot`.)

The protocol (rules D2, D3a): a run has an `epoch`, which grows with each owner, and a `seq`, which counts its committed events. A commit names the
epoch it belongs to and the range of events it covers, and moves both under a condition on what they were: an owner that has been
replaced changes nothing, and no event is written twice or left out. These functions are plain SQL inside `Database.write` and `Database.read`, because they are
the hot path: one trip to the database thread for many runs, few statements with many rows, nothing awaited inside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from autogpt_server.data.db import db_time
from autogpt_server.utils import json

MAX_TAKEOVERS = 3
"""After so many owners that died without progress a run goes on alone in a worker of its own (rule D3b)."""

INPUT = "input"
CONVERTED = "converted"
OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class RunRow:
    """The columns of a run that its owner changes."""

    status: str
    stats: str
    reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    closing: str | None = None
    started_at: str | None = None
    ended_at: str | None = None


@dataclass(frozen=True, slots=True)
class NodeExecutionRow:
    """A node execution as it is written; times as text (`db_time`)."""

    id: str
    node_id: str
    status: str
    ordinal: int | None
    attempt: int
    seq: int
    added_seq: int
    queued_seq: int | None
    started_seq: int | None
    ended_seq: int | None
    error_code: str | None
    error: str | None
    mixed_origin: bool
    origins: str | None
    added_at: str
    queued_at: str | None
    started_at: str | None
    ended_at: str | None


@dataclass(frozen=True, slots=True)
class ValueRow:
    """An input or output as it is written: `text` is JSON, or None where the source holds it."""

    execution_id: str
    role: str
    ordinal: int
    name: str
    text: str | None
    value_hash: str | None = None
    source_execution_id: str | None = None
    source_ordinal: int | None = None
    source_part: str | None = None
    seq: int | None = None
    released_seq: int | None = None


@dataclass(frozen=True, slots=True)
class LargeValue:
    """A value above the inline limit, kept once under the SHA-256 of its JSON."""

    hash: str
    text: str
    size_bytes: int


@dataclass(slots=True)
class RunChanges:
    """The rows that a range of events of one run leaves behind."""

    run: RunRow
    added: list[NodeExecutionRow] = field(default_factory=list[NodeExecutionRow])
    changed: list[NodeExecutionRow] = field(default_factory=list[NodeExecutionRow])
    values: list[ValueRow] = field(default_factory=list[ValueRow])
    released: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    """(seq, execution id, ordinal) of outputs that were written as held before."""
    large: list[LargeValue] = field(default_factory=list[LargeValue])


@dataclass(slots=True)
class RunCommit:
    """A contiguous range of one run's events, on its way into the database."""

    run_id: str
    epoch: int
    worker_id: str
    from_seq: int
    to_seq: int
    changes: RunChanges
    claim: bool = False
    """The first commit of an owner: it takes the run over from epoch - 1."""
    progress: bool = True
    """Whether an attempt yielded or ended in this range; takeovers without progress are counted (rule D3b)."""


class CommitOutcome(StrEnum):
    """What became of one run's part of a commit."""

    DONE = "done"
    FENCED = "fenced"
    """Another worker owns the run, or it has ended: drop it."""
    FAILED = "failed"
    """The rows were refused; nothing of this run was written."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The outcome for one run, and the error for FAILED."""

    outcome: CommitOutcome
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that does not exist yet, with the rows of its first event."""

    id: str
    graph_id: str
    graph_version: int
    input: str
    """JSON object."""
    created_at: datetime
    changes: RunChanges
    seq: int = 1
    priority: int = 0
    idempotency_key: str | None = None
    request_hash: str | None = None
    schedule_id: str | None = None
    rerun_of_id: str | None = None
    parent_execution_id: str | None = None
    parent_attempt: int | None = None


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
    """Write a new run in the transaction that is open. Raises `sqlite3.IntegrityError` when a unique key exists already."""
    row = run.changes.run
    connection.execute(
        'INSERT INTO "AgentGraphExecution" ("id", "agentGraphId", "agentGraphVersion", "status", "reason", "errorCode", "errorMessage", "epoch", "seq", '
        '"takeovers", "priority", "input", "stats", "idempotencyKey", "requestHash", "scheduleId", "rerunOfId", "parentExecutionId", "parentAttempt", '
        '"createdAt", "startedAt", "endedAt") VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
        (
            run.id,
            run.graph_id,
            run.graph_version,
            row.status,
            row.reason,
            row.error_code,
            row.error_message,
            run.seq,
            run.priority,
            run.input,
            row.stats,
            run.idempotency_key,
            run.request_hash,
            run.schedule_id,
            run.rerun_of_id,
            run.parent_execution_id,
            run.parent_attempt,
            db_time(run.created_at),
            row.started_at,
            row.ended_at,
        ),
    )
    _write_changes(connection, run.id, run.changes)


def committed_seq(connection: sqlite3.Connection, run_id: str) -> tuple[int, int] | None:
    """(epoch, seq) of a run as committed, or None if there is no such run."""
    return connection.execute('SELECT "epoch", "seq" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)).fetchone()


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


def waiting_runs(connection: sqlite3.Connection, *, limit: int) -> list[WaitingRun]:
    """The runs that have begun, and of those that wait to begin the first `limit`: by priority, then oldest first.

    Not those that wait for time or a person.
    """
    begun = connection.execute(
        'SELECT "id", "priority", "workerId", "takeovers" FROM "AgentGraphExecution" WHERE "status" = \'RUNNING\' ORDER BY "id"'
    ).fetchall()
    queued = connection.execute(
        'SELECT "id", "priority", "workerId", "takeovers" FROM "AgentGraphExecution" WHERE "status" = \'QUEUED\' '
        'ORDER BY "priority" DESC, "id" LIMIT ?',
        (limit,),
    ).fetchall()
    return [WaitingRun(*row) for row in (*begun, *queued)]


def waiting_runs_of(connection: sqlite3.Connection, run_ids: Iterable[str]) -> list[WaitingRun]:
    """Those of the runs that have begun or wait to begin, by priority, then oldest first."""
    rows = connection.execute(
        'SELECT "id", "priority", "workerId", "takeovers" FROM "AgentGraphExecution" '
        'WHERE "id" IN (SELECT "value" FROM json_each(?)) AND "status" IN (\'QUEUED\', \'RUNNING\') ORDER BY "priority" DESC, "id"',
        (json.dumps(list(run_ids)),),
    )
    return [WaitingRun(*row) for row in rows]


def abandon_run(
    connection: sqlite3.Connection, run_id: str, *, epoch: int, seq: int, code: str, message: str, ended_at: str
) -> bool:
    """End a run that cannot be carried on with as FAILED. What was running is FAILED too, its outcome unknown; what had not begun is CANCELED.

    False, and nothing written, unless the run is at `epoch` and `seq`.
    """
    cursor = connection.execute(
        'UPDATE "AgentGraphExecution" SET "status" = \'FAILED\', "reason" = NULL, "errorCode" = ?, "errorMessage" = ?, "endedAt" = ?, '
        '"workerId" = NULL, "seq" = "seq" + 1 WHERE "id" = ? AND "epoch" = ? AND "seq" = ? AND "endedAt" IS NULL',
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
    return True


def _commit_run(connection: sqlite3.Connection, entry: RunCommit) -> CommitResult:
    connection.execute("SAVEPOINT run")
    try:
        if _advance(connection, entry):
            _write_changes(connection, entry.run_id, entry.changes)
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
        '"errorMessage" = ?, "closing" = ?, "stats" = ?, "startedAt" = ?, "endedAt" = ? '
        'WHERE "id" = ? AND "epoch" = ? AND "seq" = ? AND "endedAt" IS NULL',
        (
            entry.to_seq,
            entry.epoch,
            None if row.ended_at else entry.worker_id,
            entry.progress,
            1 if entry.claim and entry.epoch > 1 else 0,
            row.status,
            row.reason,
            row.error_code,
            row.error_message,
            row.closing,
            row.stats,
            row.started_at,
            row.ended_at,
            entry.run_id,
            entry.epoch - 1 if entry.claim else entry.epoch,
            entry.from_seq,
        ),
    )
    return cursor.rowcount == 1


def _write_changes(connection: sqlite3.Connection, run_id: str, changes: RunChanges) -> None:
    if changes.large:
        connection.executemany(
            'INSERT OR IGNORE INTO "AgentValue" ("hash", "data", "sizeBytes") VALUES (?, ?, ?)',
            [(value.hash, value.text, value.size_bytes) for value in changes.large],
        )
    if changes.added:
        connection.executemany(
            'INSERT INTO "AgentNodeExecution" ("id", "agentGraphExecutionId", "agentNodeId", "status", "ordinal", "attempt", "seq", "addedSeq", "queuedSeq", '
            '"startedSeq", "endedSeq", "errorCode", "error", "mixedOrigin", "origins", "addedAt", "queuedAt", "startedAt", "endedAt") '
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    row.id,
                    run_id,
                    row.node_id,
                    row.status,
                    row.ordinal,
                    row.attempt,
                    row.seq,
                    row.added_seq,
                    row.queued_seq,
                    row.started_seq,
                    row.ended_seq,
                    row.error_code,
                    row.error,
                    row.mixed_origin,
                    row.origins,
                    row.added_at,
                    row.queued_at,
                    row.started_at,
                    row.ended_at,
                )
                for row in changes.added
            ],
        )
    if changes.changed:
        _update_executions(connection, run_id, changes.changed)
    if changes.values:
        connection.executemany(
            'INSERT INTO "AgentNodeExecutionInputOutput" ("agentNodeExecutionId", "role", "ordinal", "name", "data", "valueHash", "sourceExecutionId", '
            '"sourceOrdinal", "sourcePart", "seq", "releasedSeq") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
            [
                (
                    row.execution_id,
                    row.role,
                    row.ordinal,
                    row.name,
                    row.text,
                    row.value_hash,
                    row.source_execution_id,
                    row.source_ordinal,
                    row.source_part,
                    row.seq,
                    row.released_seq,
                )
                for row in changes.values
            ],
        )
    if changes.released:
        cursor = connection.executemany(
            'UPDATE "AgentNodeExecutionInputOutput" SET "releasedSeq" = ? WHERE "agentNodeExecutionId" = ? AND "role" = \'output\' AND "ordinal" = ? '
            'AND "releasedSeq" IS NULL',
            changes.released,
        )
        if cursor.rowcount != len(changes.released):
            raise sqlite3.IntegrityError(f"run {run_id}: outputs that were released were not held")


def _update_executions(connection: sqlite3.Connection, run_id: str, rows: Sequence[NodeExecutionRow]) -> None:
    cursor = connection.executemany(
        'UPDATE "AgentNodeExecution" SET "status" = ?, "ordinal" = ?, "attempt" = ?, "seq" = ?, "queuedSeq" = ?, "startedSeq" = ?, "endedSeq" = ?, '
        '"errorCode" = ?, "error" = ?, "mixedOrigin" = ?, "origins" = ?, "queuedAt" = ?, "startedAt" = ?, "endedAt" = ? '
        'WHERE "id" = ? AND "agentGraphExecutionId" = ? AND "endedAt" IS NULL',
        [
            (
                row.status,
                row.ordinal,
                row.attempt,
                row.seq,
                row.queued_seq,
                row.started_seq,
                row.ended_seq,
                row.error_code,
                row.error,
                row.mixed_origin,
                row.origins,
                row.queued_at,
                row.started_at,
                row.ended_at,
                row.id,
                run_id,
            )
            for row in rows
        ],
    )
    if cursor.rowcount != len(rows):
        raise sqlite3.IntegrityError(
            f"run {run_id}: {len(rows) - cursor.rowcount} of {len(rows)} node executions have ended already or do not exist"
        )
