"""All that is needed to carry on with a run, read from what is committed: `autogpt_server.execution.restore` makes the planner's state of it.

Plain SQL inside `Database.read`, one snapshot of the database for all of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from autogpt_server.data.block import ERROR_PIN
from autogpt_server.data.inbox import StoredEntry, read_inbox
from autogpt_server.data.pins import MISSING, parse_parts, pick
from autogpt_server.data.run_rows import OUTPUT
from autogpt_server.data.status import NodeStatus
from autogpt_server.utils import json


@dataclass(frozen=True, slots=True)
class StoredSource:
    """The output that a value in a slot came from."""

    execution_id: str
    ordinal: int
    part: str | None
    pin: str
    node_id: str
    origins: str | None
    is_error: bool
    """Sent on the error pin of a failed execution."""


@dataclass(frozen=True, slots=True)
class StoredInput:
    """A value in a slot, as it was committed: of the whole output, where only a part of it travelled."""

    slot: str
    value: Any
    source: StoredSource | None
    """None for a value that was given with the run."""


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """A committed output."""

    ordinal: int
    pin: str
    text: str
    seq: int
    released_seq: int | None


@dataclass(slots=True)
class StoredExecution:
    """A node execution that its owner still has to do with: it has not ended, or holds outputs back."""

    id: str
    node_id: str
    status: str
    ordinal: int | None
    attempt: int
    origins: str | None
    mixed_origin: bool
    error_code: str | None
    error: str | None
    added_at: str
    queued_at: str | None
    started_at: str | None
    ended_at: str | None
    seq: int
    added_seq: int
    queued_seq: int | None
    started_seq: int | None
    ended_seq: int | None
    not_before: str | None = None
    retries: int = 0
    waits_for: str | None = None
    child_run_id: str | None = None
    resumed: str | None = None
    first_output: int = 0
    signals: str | None = None
    replay_of_id: str | None = None
    inputs: list[StoredInput] = field(default_factory=list[StoredInput])
    outputs: list[StoredOutput] = field(default_factory=list[StoredOutput])


@dataclass(frozen=True, slots=True)
class StaticPin:
    """An output pin, or a part of it, whose newest value serves later executions (rule F5)."""

    node_id: str
    pin: str
    part: str | None = None


@dataclass(frozen=True, slots=True)
class StoredStatic:
    """The newest value of a static pin: of the whole output, of which `pin` may take a part."""

    pin: StaticPin
    execution_id: str
    ordinal: int
    value: Any
    is_error: bool
    place: tuple[int, int, int, int]
    """Sorts in the order of release: the run's seq at release and at queueing, the execution's number, the output's number."""


@dataclass(slots=True)
class RunSnapshot:
    """All that is needed to carry on with a run."""

    id: str
    graph_id: str
    graph_version: int
    status: str
    epoch: int
    seq: int
    worker_id: str | None
    closing: str | None
    error_code: str | None
    error_message: str | None
    reason: str | None
    stats: str
    started_at: str | None
    executions: list[StoredExecution]
    next_ordinals: dict[str, int]
    """Node id -> the next per-node number."""
    statics: list[StoredStatic]
    unhandled: list[tuple[str, str, str]]
    """(execution id, code, message) of failures that no queued execution has taken."""
    takeovers: int = 0
    """How many owners died in a row without progress."""
    depth: int = 0
    limits: str | None = None
    parent_run_id: str | None = None
    inbox_done: int = 0
    inbox: list[StoredEntry] = field(default_factory=list[StoredEntry])
    """Entries that have not been applied yet."""


def load_run(connection: sqlite3.Connection, run_id: str, static_pins: Iterable[StaticPin] = ()) -> RunSnapshot | None:
    """Read a run that has not ended, or None. `static_pins` are the output pins whose newest value serves later executions."""
    row = connection.execute(
        'SELECT "agentGraphId", "agentGraphVersion", "status", "epoch", "seq", "workerId", "closing", "errorCode", "errorMessage", "reason", "stats", "startedAt", "takeovers", '
        '"depth", "limits", "parentRunId", "inboxDone", "rerunOfId" FROM "AgentGraphExecution" WHERE "id" = ? AND "endedAt" IS NULL',
        (run_id,),
    ).fetchone()
    if row is None:
        return None
    executions = _load_executions(connection, run_id)
    ordinals = connection.execute(
        'SELECT "agentNodeId", max("ordinal") + 1 FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "ordinal" IS NOT NULL GROUP BY "agentNodeId"',
        (run_id,),
    ).fetchall()
    *columns, takeovers, depth, limits, parent_run_id, inbox_done, rerun_of_id = row
    has_statics = row[3] > 0 or rerun_of_id is not None  # a new run has none, unless it took them over
    return RunSnapshot(
        run_id,
        *columns,
        takeovers=takeovers,
        depth=depth,
        limits=limits,
        parent_run_id=parent_run_id,
        inbox_done=inbox_done,
        inbox=read_inbox(connection, run_id, after=inbox_done),
        executions=executions,
        next_ordinals=dict(ordinals),
        statics=load_statics(connection, run_id, static_pins) if has_statics else [],
        unhandled=_load_unhandled(connection, run_id),
    )


def _load_executions(connection: sqlite3.Connection, run_id: str) -> list[StoredExecution]:
    rows = connection.execute(
        'SELECT "id", "agentNodeId", "status", "ordinal", "attempt", "origins", "mixedOrigin", "errorCode", "error", "addedAt", "queuedAt", "startedAt", '
        '"endedAt", "seq", "addedSeq", "queuedSeq", "startedSeq", "endedSeq", "notBefore", "retries", "waitsFor", "childRunId", "resumed", "firstOutput", '
        '"signals", "replayOfId" FROM "AgentNodeExecution" e WHERE "agentGraphExecutionId" = ? AND '
        # What a re-run took over holds nothing back: its first event has released what was to be released.
        '("endedAt" IS NULL OR "replayOfId" IS NULL AND EXISTS (SELECT 1 FROM "AgentNodeExecutionInputOutput" o WHERE o."agentNodeExecutionId" = e."id" AND '
        'o."role" = \'output\' AND o."releasedSeq" IS NULL)) ORDER BY "addedSeq", "id"',  # ids alone follow clocks, and owners change
        (run_id,),
    ).fetchall()
    found = {row[0]: StoredExecution(*row) for row in rows}
    values = connection.execute(
        'SELECT v."agentNodeExecutionId", v."role", v."ordinal", v."name", coalesce(v."data", big."data", s."data", sbig."data"), v."sourceExecutionId", '
        'v."sourceOrdinal", v."sourcePart", v."seq", v."releasedSeq", s."name", f."status", f."agentNodeId", f."origins" FROM "AgentNodeExecutionInputOutput" v '
        'LEFT JOIN "AgentValue" big ON big."hash" = v."valueHash" '
        'LEFT JOIN "AgentNodeExecutionInputOutput" s ON s."agentNodeExecutionId" = v."sourceExecutionId" AND s."role" = \'output\' AND s."ordinal" = v."sourceOrdinal" '
        'LEFT JOIN "AgentValue" sbig ON sbig."hash" = s."valueHash" '
        'LEFT JOIN "AgentNodeExecution" f ON f."id" = v."sourceExecutionId" '
        'WHERE v."agentNodeExecutionId" IN (SELECT value FROM json_each(?)) AND v."role" <> \'converted\' '
        'ORDER BY v."agentNodeExecutionId", v."role", v."ordinal"',
        (json.dumps(list(found)),),
    )
    for (
        owner,
        role,
        ordinal,
        name,
        text,
        source_id,
        source_ordinal,
        part,
        seq,
        released,
        pin,
        status,
        node_id,
        origins,
    ) in values:
        if role == OUTPUT:
            found[owner].outputs.append(StoredOutput(ordinal, name, text, seq, released))
            continue
        source = None
        if source_id is not None:
            is_error = pin == ERROR_PIN and status == NodeStatus.FAILED
            source = StoredSource(source_id, source_ordinal, part, pin, node_id, origins, is_error)
        found[owner].inputs.append(StoredInput(name, json.loads(text), source))
    return list(found.values())


def load_statics(connection: sqlite3.Connection, run_id: str, pins: Iterable[StaticPin]) -> list[StoredStatic]:
    """Of each static pin the newest released output that has the part in question, in the order of their release."""
    by_source: dict[tuple[str, str], list[StaticPin]] = {}
    for pin in pins:
        by_source.setdefault((pin.node_id, pin.pin), []).append(pin)
    statics: list[StoredStatic] = []
    for (node_id, name), wanted in by_source.items():
        # No values here: a pin may have given any number of them, and mostly the newest is all that is looked at.
        rows = connection.execute(
            'SELECT o."releasedSeq", e."queuedSeq", e."ordinal", o."ordinal", e."id", e."status" FROM "AgentNodeExecution" e '
            'JOIN "AgentNodeExecutionInputOutput" o ON o."agentNodeExecutionId" = e."id" AND o."role" = \'output\' '
            'WHERE e."agentGraphExecutionId" = ? AND e."agentNodeId" = ? AND o."name" = ? AND o."releasedSeq" IS NOT NULL '
            'ORDER BY e."ordinal" DESC, o."ordinal" DESC',
            (run_id, node_id, name),
        )
        for *place, execution_id, status in rows:
            value = _load_output(connection, execution_id, place[-1])
            is_error = name == ERROR_PIN and status == NodeStatus.FAILED
            for pin in [pin for pin in wanted if _has_part(value, pin.part)]:
                wanted.remove(pin)
                statics.append(StoredStatic(pin, execution_id, place[-1], value, is_error, tuple(place)))
            if not wanted:
                break
    return sorted(statics, key=lambda static: static.place)


def _load_output(connection: sqlite3.Connection, execution_id: str, ordinal: int) -> Any:
    (text,) = connection.execute(
        'SELECT coalesce(o."data", big."data") FROM "AgentNodeExecutionInputOutput" o LEFT JOIN "AgentValue" big ON big."hash" = o."valueHash" '
        'WHERE o."agentNodeExecutionId" = ? AND o."role" = \'output\' AND o."ordinal" = ?',
        (execution_id, ordinal),
    ).fetchone()
    return json.loads(text)


def _has_part(value: Any, part: str | None) -> bool:
    return part is None or pick(value, parse_parts(part)) is not MISSING


def _load_unhandled(connection: sqlite3.Connection, run_id: str) -> list[tuple[str, str, str]]:
    failed: list[tuple[str, str, str]] = connection.execute(
        'SELECT "id", "errorCode", "error" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "status" = \'FAILED\' ORDER BY "id"',
        (run_id,),
    ).fetchall()
    if not failed:
        return []
    handled = connection.execute(
        'SELECT DISTINCT v."sourceExecutionId" FROM "AgentNodeExecution" t '
        'JOIN "AgentNodeExecutionInputOutput" v ON v."agentNodeExecutionId" = t."id" AND v."role" = \'input\' '
        'JOIN "AgentNodeExecutionInputOutput" s ON s."agentNodeExecutionId" = v."sourceExecutionId" AND s."role" = \'output\' AND s."ordinal" = v."sourceOrdinal" '
        'WHERE t."agentGraphExecutionId" = ? AND t."queuedAt" IS NOT NULL AND s."name" = \'error\'',
        (run_id,),
    )
    taken = {row[0] for row in handled}
    return [failure for failure in failed if failure[0] not in taken]
