"""Runs and node executions as people read them, and the few things that are done to a run from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, cast

from autogpt_server.data.db import CommitUncertain, Database, from_db_time, typed_errors
from autogpt_server.data.execution import committed_seq, insert_run
from autogpt_server.data.graph import GraphNotFound
from autogpt_server.data.milestones import Milestones, states_since
from autogpt_server.data.models import (
    AttemptInfo,
    ErrorInfo,
    NodeExecution,
    ParentExecution,
    Run,
    RunStats,
    RunWithOutputs,
)
from autogpt_server.data.pins import MISSING, parse_parts, pick
from autogpt_server.data.run_rows import INPUT, OUTPUT, AttemptOutcome, NewRun
from autogpt_server.data.status import HIDDEN, NodeStatus, RunStatus
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError

PREVIEW_CHARS = 200
"""How much of a large value is shown instead of it."""


class RunNotFound(AutoGPTServerError):
    """There is no such run."""

    code = "run_not_found"


class NodeExecutionNotFound(AutoGPTServerError):
    """The run has no such node execution."""

    code = "node_execution_not_found"


class RunStillActive(AutoGPTServerError):
    """The run has not ended yet; cancel it, or wait until it ends."""

    code = "run_active"


class IdempotencyConflict(AutoGPTServerError):
    """The Idempotency-Key was used for this graph before, with another request; use a new key."""

    code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A committed run, and its first executions: (execution id, node id)."""

    id: str
    executions: Sequence[tuple[str, str]]
    is_new: bool = True
    """False when an earlier request with the same idempotency key made it."""


async def create_run(db: Database, run: NewRun) -> StartedRun:
    """Commit a new run. With an idempotency key that exists, answer the run it made; `IdempotencyConflict` if that was another request.

    Raises `DatabaseUnavailable` when it cannot be written now; then there is no such run.
    """

    def write(connection: sqlite3.Connection) -> StartedRun:
        if run.idempotency_key is not None:
            known = _known_run(connection, run.graph_id, run.idempotency_key, run.request_hash)
            if known is not None:
                return known
        # Deleting a graph looks for active runs in its own transaction: one of the two comes first.
        archived = connection.execute(
            'SELECT 1 FROM "AgentGraph" WHERE "id" = ? AND "version" = ? AND "archivedAt" IS NOT NULL',
            (run.graph_id, run.graph_version),
        ).fetchone()
        if archived is not None:
            raise GraphNotFound(f"The graph {run.graph_id} has been deleted.")
        insert_run(connection, run)
        return started

    started = StartedRun(run.id, [(row.id, row.node_id) for row in run.changes.added])
    try:
        with typed_errors():
            return await db.write(write)
    except CommitUncertain:
        with typed_errors():
            if await db.read(lambda connection: committed_seq(connection, run.id)) is None:
                raise
        return started


async def find_started_run(db: Database, graph_id: str, idempotency_key: str, request_hash: str) -> StartedRun | None:
    """The run that an earlier request with this key made, whatever has become of the graph since; `IdempotencyConflict` as `create_run`."""
    return await db.read(lambda connection: _known_run(connection, graph_id, idempotency_key, request_hash))


def _known_run(
    connection: sqlite3.Connection, graph_id: str, idempotency_key: str, request_hash: str | None
) -> StartedRun | None:
    known = connection.execute(
        'SELECT "id", "requestHash" FROM "AgentGraphExecution" WHERE "agentGraphId" = ? AND "idempotencyKey" = ?',
        (graph_id, idempotency_key),
    ).fetchone()
    if known is None:
        return None
    run_id, former_hash = known
    if former_hash != request_hash:
        raise IdempotencyConflict(
            f"The Idempotency-Key {idempotency_key!r} was used for this graph before, with another request (run {run_id}). Use a new key."
        )
    rows = connection.execute(
        'SELECT "id", "agentNodeId" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = :run AND "replayOfId" IS NULL AND "addedSeq" = '
        '(SELECT min("addedSeq") FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = :run AND "replayOfId" IS NULL) ORDER BY "id"',
        {"run": run_id},
    )
    return StartedRun(run_id, rows.fetchall(), is_new=False)


async def get_run(db: Database, run_id: str) -> Run:
    """The run; `RunNotFound`."""
    return await db.peek(lambda connection: _read_run(connection, run_id))


async def get_run_with_outputs(
    db: Database, run_id: str, output_block_ids: Sequence[str], *, full: bool = False
) -> RunWithOutputs:
    """The run, and what its agent-output nodes gave so far (see `run_outputs`), as one snapshot; `RunNotFound`."""

    def read(connection: sqlite3.Connection) -> RunWithOutputs:
        run = _read_run(connection, run_id)
        return RunWithOutputs.of(run, _read_outputs(connection, run_id, output_block_ids, full=full))

    return await db.read(read)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """Where a run stands, in short."""

    status: str
    error: str | None


async def run_status(db: Database, run_id: str) -> RunEnd | None:
    """The status of a run and why it failed, or None if there is no such run."""

    def read(connection: sqlite3.Connection) -> RunEnd | None:
        row = connection.execute(
            'SELECT "status", "errorMessage" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
        ).fetchone()
        return None if row is None else RunEnd(*row)

    return await db.read(read)


async def list_runs(
    db: Database, graph_id: str, *, limit: int, before_id: str | None = None, statuses: Iterable[RunStatus] = ()
) -> list[Run]:
    """The runs of a graph, all versions, newest first; `before_id` is the last id of the page before."""
    wanted = sorted({status.value for status in statuses})
    sql = _list_runs_sql(len(wanted), is_continued=before_id is not None)
    parameters = {f"status{number}": status for number, status in enumerate(wanted)}

    def read(connection: sqlite3.Connection) -> list[Run]:
        rows = connection.execute(sql, {"graph": graph_id, "before": before_id, "limit": limit, **parameters})
        return [_run_of(row) for row in rows]

    return await db.read(read)


@cache
def _list_runs_sql(statuses: int, *, is_continued: bool) -> str:
    """A page of a graph's runs, of so many statuses; 0 for all.

    One SELECT for each status, merged by SQLite: each reads its part of an index in the order of the ids, and of it no more than a page. `"status" IN (...)`
    would have it read and sort all runs with one of them.
    """
    where = ' WHERE "agentGraphId" = :graph' + (' AND "id" < :before' if is_continued else "")
    parts = [f'{where} AND "status" = :status{number}' for number in range(statuses)] or [f"{where} AND {_IS_VISIBLE}"]
    return " UNION ALL ".join(_SELECT_RUN + part for part in parts) + ' ORDER BY "id" DESC LIMIT :limit'


async def delete_run(db: Database, run_id: str) -> None:
    """Delete an ended run with all it left behind; `RunNotFound`, `RunStillActive`."""

    def write(connection: sqlite3.Connection) -> None:
        row = connection.execute('SELECT "endedAt" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"There is no run {run_id}.")
        if row[0] is None:
            raise RunStillActive(f"The run {run_id} has not ended yet. Cancel it, or wait until it ends.")
        hashes = connection.execute(
            'SELECT DISTINCT v."valueHash" FROM "AgentNodeExecution" e JOIN "AgentNodeExecutionInputOutput" v ON v."agentNodeExecutionId" = e."id" '
            'WHERE e."agentGraphExecutionId" = ? AND v."valueHash" IS NOT NULL',
            (run_id,),
        ).fetchall()
        connection.execute('DELETE FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,))
        delete_unused(connection, [value_hash for (value_hash,) in hashes])

    await db.write(write)


def delete_unused(connection: sqlite3.Connection, hashes: Iterable[str]) -> None:
    """Delete those of these large values that nothing uses any more, in the transaction that is open."""
    connection.executemany(
        'DELETE FROM "AgentValue" WHERE "hash" = ? AND NOT EXISTS (SELECT 1 FROM "AgentNodeExecutionInputOutput" WHERE "valueHash" = "hash")',
        [(value_hash,) for value_hash in hashes],
    )


async def get_value(db: Database, value_hash: str) -> str | None:
    """The JSON of a large value, or None."""

    def read(connection: sqlite3.Connection) -> str | None:
        row = connection.execute('SELECT "data" FROM "AgentValue" WHERE "hash" = ?', (value_hash,)).fetchone()
        return None if row is None else row[0]

    return await db.read(read)


async def list_node_executions(
    db: Database,
    run_id: str,
    *,
    limit: int,
    graph_id: str | None = None,
    after_id: str | None = None,
    full: bool = False,
) -> list[NodeExecution]:
    """The node executions of a run, oldest first; `after_id` is the last id of the page before.

    Large values are shown as `{"$value": hash, "size": bytes, "preview": text}` unless `full`. With `graph_id` it is `RunNotFound` unless the run is one of
    that graph.
    """

    def read(connection: sqlite3.Connection) -> list[NodeExecution]:
        if graph_id is not None:
            _check_graph(connection, run_id, graph_id)
        rows = connection.execute(_LIST_EXECUTIONS, (run_id, after_id or "", limit)).fetchall()
        return _assemble(connection, rows, full=full)

    return await db.read(read)


def _check_graph(connection: sqlite3.Connection, run_id: str, graph_id: str) -> None:
    row = connection.execute(
        'SELECT "agentGraphId" FROM "AgentGraphExecution" WHERE "id" = ? AND "status" <> ?', (run_id, HIDDEN)
    ).fetchone()
    if row is None:
        raise RunNotFound(f"There is no run {run_id}.")
    if row[0] != graph_id:
        raise RunNotFound(f"The graph {graph_id} has no run {run_id}; it is a run of {row[0]}.")


async def get_node_execution(db: Database, run_id: str, node_exec_id: str) -> NodeExecution:
    """One node execution, large values as previews; `RunNotFound`, `NodeExecutionNotFound`."""

    def read(connection: sqlite3.Connection) -> NodeExecution:
        rows = connection.execute(
            f'{_SELECT_EXECUTIONS} WHERE e."id" = ? AND e."agentGraphExecutionId" = ?', (node_exec_id, run_id)
        ).fetchall()
        if not rows:
            raise missing_execution(connection, run_id, node_exec_id)
        return _assemble(connection, rows, full=False)[0]

    return await db.read(read)


def missing_execution(connection: sqlite3.Connection, run_id: str, node_exec_id: str) -> AutoGPTServerError:
    """What to say about a node execution that is not there: perhaps there is no such run either."""
    known = connection.execute('SELECT 1 FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)).fetchone()
    if known is None:
        return RunNotFound(f"There is no run {run_id}.")
    return NodeExecutionNotFound(f"The run {run_id} has no node execution {node_exec_id}.")


@dataclass(frozen=True, slots=True)
class RunChangesSince:
    """What happened in a run after some `seq`: states of node executions in the order in which they came about, and the run as it is."""

    run: Run
    nodes: Sequence[NodeExecution]
    seq: int
    """All that happened up to here is told, and nothing of what came after; the run itself may be further."""


async def changes_since(db: Database, run_id: str, seq: int, *, limit: int = 5000) -> RunChangesSince:
    """Everything committed after `seq`, for the stream of events; `RunNotFound`.

    An execution that changed several times since appears once for each status that its row remembers (see `milestones`), with the `seq` at which
    it came to it. About `limit` changes are read; the rest follows from the answer's `seq`. What one event changed stays together.
    """

    def read(connection: sqlite3.Connection) -> RunChangesSince:
        run = _read_run(connection, run_id)
        upto = _end_of_page(connection, run_id, seq, limit) or run.seq
        rows = connection.execute(
            f'{_SELECT_EXECUTIONS} WHERE e."agentGraphExecutionId" = :run AND e."seq" > :after AND (e."seq" <= :upto '
            'OR e."addedSeq" BETWEEN :after + 1 AND :upto OR e."queuedSeq" BETWEEN :after + 1 AND :upto '
            'OR e."startedSeq" BETWEEN :after + 1 AND :upto) ORDER BY e."seq", e."id"',
            {"run": run_id, "after": seq, "upto": upto},
        ).fetchall()
        output_seqs: dict[str, dict[str, list[int]]] = {row[2]: {} for row in rows}
        milestones = {row[2]: Milestones(*row[_MILESTONES], outputs=output_seqs[row[2]]) for row in rows}
        nodes = [
            state
            for execution in _assemble(connection, rows, full=False, output_seqs=output_seqs)
            for state in states_since(execution, milestones[execution.node_exec_id], seq)
            if state.seq <= upto
        ]
        return RunChangesSince(run, sorted(nodes, key=lambda node: node.seq), upto)

    return await db.read(read)


def _end_of_page(connection: sqlite3.Connection, run_id: str, seq: int, limit: int) -> int | None:
    """The seq at which a page of about `limit` changes after `seq` ends, or None if there are fewer."""
    changes = (
        'SELECT "at" FROM (SELECT "addedSeq" AS "at" FROM "moved" UNION ALL SELECT "queuedSeq" FROM "moved" UNION ALL SELECT "startedSeq" FROM "moved" '
        'UNION ALL SELECT "seq" FROM "moved") WHERE "at" > :after ORDER BY "at" LIMIT 1'
    )
    moved = (
        'WITH "moved" AS (SELECT "addedSeq", "queuedSeq", "startedSeq", "seq" FROM "AgentNodeExecution" '
        'WHERE "agentGraphExecutionId" = :run AND "seq" > :after) '
    )
    page = {"run": run_id, "after": seq}
    beyond = connection.execute(f"{moved}{changes} OFFSET :limit", {**page, "limit": limit}).fetchone()
    if beyond is None:
        return None
    (first,) = connection.execute(f"{moved}{changes}", page).fetchone()
    return max(int(first), int(beyond[0]) - 1)


async def run_outputs(
    db: Database, run_id: str, output_block_ids: Sequence[str], *, full: bool = False
) -> dict[str, list[Any]]:
    """What the agent-output nodes of a run gave: name -> values, in the order in which they were yielded."""
    return await db.read(lambda connection: _read_outputs(connection, run_id, output_block_ids, full=full))


def _read_outputs(
    connection: sqlite3.Connection, run_id: str, output_block_ids: Sequence[str], *, full: bool
) -> dict[str, list[Any]]:
    # The nodes first: without any, and most graphs have none, the executions of a large run need not be looked through.
    nodes = connection.execute(
        'SELECT n."id" FROM "AgentGraphExecution" r CROSS JOIN "AgentNode" n ON n."agentGraphId" = r."agentGraphId" '
        'AND n."agentGraphVersion" = r."agentGraphVersion" WHERE r."id" = ? AND n."agentBlockId" IN (SELECT "value" FROM json_each(?))',
        (run_id, json.dumps(list(output_block_ids))),
    ).fetchall()
    outputs: dict[str, list[Any]] = {}
    if nodes:
        rows = connection.execute(_SELECT_OUTPUTS, (run_id, json.dumps([node_id for (node_id,) in nodes]))).fetchall()
        for execution in _assemble(connection, rows, full=full):
            name = str(execution.input_data.get("name", ""))
            outputs.setdefault(name, []).extend(execution.output_data.get("output", []))
    return outputs


_SELECT_RUN = (
    'SELECT "id", "agentGraphId", "agentGraphVersion", "status", "reason", "errorCode", "errorMessage", "stats", "input", "priority", "createdAt", '
    '"startedAt", "endedAt", "cancelRequestedAt", "rerunOfId", "parentRunId", "parentExecutionId", "depth", "scheduleId", "seq" FROM "AgentGraphExecution"'
)

_IS_VISIBLE = f"\"status\" <> '{HIDDEN}'"

_SELECT_EXECUTIONS = (
    'SELECT g."agentGraphId", g."agentGraphVersion", e."id", e."agentNodeId", n."agentBlockId", e."status", e."attempt", n."constantInput", e."errorCode", '
    'e."error", e."mixedOrigin", e."addedAt", e."queuedAt", e."startedAt", e."endedAt", e."seq", e."agentGraphExecutionId", '
    'e."addedSeq", e."queuedSeq", e."startedSeq", e."endedSeq", e."retries", e."notBefore", e."waitsFor", e."childRunId", '
    'e."replayOfId" FROM "AgentNodeExecution" e '
    'JOIN "AgentNode" n ON n."id" = e."agentNodeId" JOIN "AgentGraphExecution" g ON g."id" = e."agentGraphExecutionId"'
)
_MILESTONES = slice(17, 21)


_LIST_EXECUTIONS = f'{_SELECT_EXECUTIONS} WHERE e."agentGraphExecutionId" = ? AND e."id" > ? ORDER BY e."id" LIMIT ?'
_SELECT_OUTPUTS = (
    f'{_SELECT_EXECUTIONS} WHERE e."agentGraphExecutionId" = ? AND e."agentNodeId" IN (SELECT "value" FROM json_each(?)) '  # noqa: S608 - constants alone
    'AND e."status" = \'COMPLETED\' ORDER BY e."ordinal", e."id"'
)


def _read_run(connection: sqlite3.Connection, run_id: str) -> Run:
    row = connection.execute(f'{_SELECT_RUN} WHERE "id" = ? AND {_IS_VISIBLE}', (run_id,)).fetchone()
    if row is None:
        raise RunNotFound(f"There is no run {run_id}.")
    return _run_of(row)


def _run_of(row: tuple[Any, ...]) -> Run:
    """A run from the columns of `_SELECT_RUN`."""
    run_id, graph_id, version, status, reason, error_code, error_message, stats, run_input, priority, *rest = row
    created_at, started_at, ended_at, cancel_requested_at, rerun_of, parent_run_id, parent_execution_id, *rest = rest
    depth, schedule_id, seq = rest
    return Run.model_construct(
        id=run_id,
        graph_id=graph_id,
        graph_version=version,
        status=RunStatus(status),
        reason=reason,
        error=ErrorInfo(code=error_code, message=error_message or "") if error_code else None,
        stats=RunStats.model_validate_json(stats),
        input=cast("dict[str, Any]", json.loads(run_input)),
        priority=priority,
        created_at=datetime.fromisoformat(created_at),
        started_at=from_db_time(started_at),
        ended_at=from_db_time(ended_at),
        cancel_requested_at=from_db_time(cancel_requested_at),
        rerun_of=rerun_of,
        parent=ParentExecution(run_id=parent_run_id, node_exec_id=parent_execution_id) if parent_run_id else None,
        depth=depth,
        schedule_id=schedule_id,
        seq=seq,
    )


def _assemble(
    connection: sqlite3.Connection,
    rows: Sequence[tuple[Any, ...]],
    *,
    full: bool,
    output_seqs: Mapping[str, dict[str, list[int]]] | None = None,
) -> list[NodeExecution]:
    """Node executions from their rows, with the values that entered and left them.

    `output_seqs`: execution id -> a dict that gets, for each output pin, the run's `seq` at each of its values.
    """
    attempts = _read_attempts(connection, rows)
    defaults: dict[str, dict[str, Any]] = {}
    executions: dict[str, NodeExecution] = {}
    for row in rows:
        graph_id, version, execution_id, node_id, block_id, status, attempt, constant, error_code, error, mixed = row[
            :11
        ]
        if node_id not in defaults:
            defaults[node_id] = cast("dict[str, Any]", json.loads(constant))
        executions[execution_id] = NodeExecution.model_construct(
            graph_id=graph_id,
            graph_version=version,
            graph_exec_id=row[16],
            node_exec_id=execution_id,
            node_id=node_id,
            block_id=block_id,
            status=NodeStatus(status),
            attempt=attempt,
            retries=row[21],
            attempts=attempts.get(execution_id, []),
            not_before=from_db_time(row[22]),
            waits_for=row[23],
            child_run_id=row[24],
            replay_of=row[25],
            input_data=dict(defaults[node_id]),
            output_data={},
            error=ErrorInfo(code=error_code, message=error or "") if error_code else None,
            mixed_origin=bool(mixed),
            add_time=datetime.fromisoformat(row[11]),
            queue_time=from_db_time(row[12]),
            start_time=from_db_time(row[13]),
            end_time=from_db_time(row[14]),
            seq=row[15],
        )
    converted: list[tuple[str, str, Any]] = []
    for execution_id, role, name, seq, value in _read_values(connection, list(executions), full=full):
        if role == OUTPUT:
            executions[execution_id].output_data.setdefault(name, []).append(value)
            if output_seqs is not None:
                output_seqs[execution_id].setdefault(name, []).append(seq)
        elif role == INPUT:
            executions[execution_id].input_data[name] = value
        else:
            converted.append((execution_id, name, value))
    for execution_id, name, value in converted:  # what came is shown as what it became
        executions[execution_id].input_data[name] = value
    return list(executions.values())


_MAY_HAVE_ATTEMPTS = frozenset({NodeStatus.QUEUED, NodeStatus.WAITING, NodeStatus.CANCELED})
"""In its first attempt an execution has one that is over only if it is to be called again, or was until it was canceled."""


def _read_attempts(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> dict[str, list[AttemptInfo]]:
    """Execution id -> its attempts that another one follows, in order. Most executions have none, and cost nothing here."""
    several = [row[2] for row in rows if row[6] > 1 or (row[6] == 1 and row[5] in _MAY_HAVE_ATTEMPTS)]
    if not several:
        return {}
    found: dict[str, list[AttemptInfo]] = {}
    for execution_id, attempt, outcome, error_code, error, started_at, ended_at in connection.execute(
        'SELECT "agentNodeExecutionId", "attempt", "outcome", "errorCode", "error", "startedAt", "endedAt" FROM "AgentNodeExecutionAttempt" '
        'WHERE "agentNodeExecutionId" IN (SELECT value FROM json_each(?)) ORDER BY "agentNodeExecutionId", "attempt"',
        (json.dumps(several),),
    ):
        found.setdefault(execution_id, []).append(
            AttemptInfo(
                attempt=attempt,
                outcome=AttemptOutcome(outcome),
                error=ErrorInfo(code=error_code, message=error or "") if error_code else None,
                start_time=from_db_time(started_at),
                end_time=datetime.fromisoformat(ended_at),
            )
        )
    return found


def _read_values(
    connection: sqlite3.Connection, execution_ids: Sequence[str], *, full: bool
) -> Iterable[tuple[str, str, str, int, Any]]:
    """(execution id, role, pin, the run's seq at an output, value): of each execution and role in order, as the table's key has them."""
    rows = connection.execute(
        'SELECT v."agentNodeExecutionId", v."role", v."name", v."sourcePart", coalesce(v."data", s."data"), big."hash", big."sizeBytes", '
        'CASE WHEN ? OR v."sourcePart" IS NOT NULL THEN big."data" ELSE substr(big."data", 1, ?) END, v."seq" '
        'FROM "AgentNodeExecutionInputOutput" v '
        'LEFT JOIN "AgentNodeExecutionInputOutput" s ON s."agentNodeExecutionId" = v."sourceExecutionId" AND s."role" = \'output\' '
        'AND s."ordinal" = v."sourceOrdinal" '
        'LEFT JOIN "AgentValue" big ON big."hash" = coalesce(v."valueHash", s."valueHash") '
        'WHERE v."agentNodeExecutionId" IN (SELECT value FROM json_each(?)) '
        'ORDER BY v."agentNodeExecutionId", v."role", v."ordinal"',
        (full, PREVIEW_CHARS, json.dumps(list(execution_ids))),
    )
    for execution_id, role, name, part, text, value_hash, size_bytes, large, seq in rows:
        if value_hash is None or full or part is not None:
            value: Any = json.loads(text if value_hash is None else large)
            yield execution_id, role, name, seq, _travelled(value, part)
        else:
            yield execution_id, role, name, seq, {"$value": value_hash, "size": size_bytes, "preview": large}


def _travelled(value: Any, part: str | None) -> Any:
    """The part of an output that a link took."""
    if part is None:
        return value
    picked = pick(value, parse_parts(part))
    return None if picked is MISSING else picked
