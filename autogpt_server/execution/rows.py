"""From the planner's changes to rows. Must be called at the cut, before the next event: executions go on changing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, cast

from autogpt_server.data.db import db_time
from autogpt_server.data.run_rows import (
    OUTPUT,
    AttemptRow,
    LargeValue,
    NewRun,
    NodeExecutionRow,
    ParentLink,
    RunChanges,
    RunRow,
    ValueRow,
)
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.state import Counters, Execution, Origins, Output, RunState
from autogpt_server.utils import json

_COUNTERS = tuple(entry.name for entry in fields(Counters))
_read_counters = attrgetter(*_COUNTERS)


def take_changes(state: RunState, *, inline_value_bytes: int) -> RunChanges:
    """Cut the state's changes and turn them into rows. Values of more than `inline_value_bytes` of JSON go to a table of their own."""
    changes = state.cut()
    rows = RunChanges(run_row(state))
    for execution in changes.executions.values():
        (rows.changed if execution.committed else rows.added).append(_execution_row(state.id, execution))
        execution.committed = True
    for row in changes.inputs:
        text, value_hash = _place(row.text, rows, inline_value_bytes)
        rows.values.append(
            ValueRow(
                row.execution.id,
                row.role,
                row.ordinal,
                row.name,
                text,
                value_hash,
                row.source_id,
                row.source_ordinal,
                row.source_part,
            )
        )
    for output in changes.outputs:
        rows.values.append(_output_row(output, rows, inline_value_bytes))
        output.committed = True
    rows.discarded = changes.discarded
    rows.attempts = [
        AttemptRow(
            attempt.execution_id,
            attempt.number,
            attempt.outcome,
            attempt.failure.code if attempt.failure else None,
            attempt.failure.message if attempt.failure else None,
            db_time(attempt.started_at),
            db_time(attempt.ended_at) or "",
        )
        for attempt in changes.attempts
    ]
    rows.children = changes.children
    rows.outbox = changes.outbox
    rows.released = [(output.released_seq or 0, output.execution.id, output.ordinal) for output in changes.released]
    return rows


def new_run(
    state: RunState,
    run_input: Mapping[str, Any],
    *,
    created_at: datetime,
    inline_value_bytes: int,
    priority: int = 0,
    idempotency_key: str | None = None,
    request_hash: str | None = None,
    schedule_id: str | None = None,
    rerun_of_id: str | None = None,
    parent: ParentLink | None = None,
    limits: RunLimits | None = None,
) -> NewRun:
    """The rows of a run that `autogpt_server.execution.start.plan_start` has just begun."""
    return NewRun(
        id=state.id,
        graph_id=state.topology.graph_id,
        graph_version=state.topology.version,
        input=json.dumps(dict(run_input)),
        created_at=created_at,
        changes=take_changes(state, inline_value_bytes=inline_value_bytes),
        seq=state.seq,
        priority=priority,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        schedule_id=schedule_id,
        rerun_of_id=rerun_of_id,
        parent=parent,
        depth=state.depth,
        limits=limits_text(limits) if limits else None,
    )


def limits_text(limits: RunLimits) -> str:
    """The limits that a child run has from its parent, as they are stored."""
    return json.dumps(asdict(limits))


def limits_of(text: str | None, own: RunLimits) -> RunLimits:
    """A run's limits: those it was given, but never more than this server allows."""
    if text is None:
        return own
    given = cast("dict[str, Any]", json.loads(text))
    return RunLimits(
        max_executions=min(own.max_executions, given["max_executions"]),
        max_bytes=min(own.max_bytes, given["max_bytes"]),
        max_duration_s=min(own.max_duration_s, given["max_duration_s"]),
    )


def run_row(state: RunState) -> RunRow:
    """The run's own columns as they are now."""
    return RunRow(
        status=state.status.value,
        stats=stats_text(state.stats),
        reason=state.reason,
        error_code=state.failure.code if state.failure else None,
        error_message=state.failure.message if state.failure else None,
        closing=state.closing.value if state.closing else None,
        # A run that moves is in its owner's hands, who minds the time.
        wake_at=db_time(state.wake_at()) if state.status is RunStatus.WAITING else None,
        started_at=db_time(state.started_at),
        ended_at=db_time(state.ended_at),
    )


def stats_text(stats: Counters) -> str:
    """The counters as JSON."""
    written = dict(zip(_COUNTERS, _read_counters(stats), strict=True))
    written["waiting_since"] = db_time(stats.waiting_since)
    return json.dumps(written)


def _execution_row(run_id: str, execution: Execution) -> NodeExecutionRow:
    failure, resumed = execution.failure, execution.resumed
    # By position, because this is done for every execution that a commit writes; the order is that of the fields.
    return NodeExecutionRow(
        execution.id,
        run_id,
        execution.node.id,
        execution.status.value,
        execution.ordinal,
        execution.attempt,
        execution.seq,
        execution.added_seq,
        execution.queued_seq,
        execution.started_seq,
        execution.ended_seq,
        failure.code if failure else None,
        failure.message if failure else None,
        execution.mixed_origin,
        origins_text(execution.origins),
        db_time(execution.added_at) or "",
        db_time(execution.queued_at),
        db_time(execution.started_at),
        db_time(execution.ended_at),
        db_time(execution.not_before),
        execution.retries,
        execution.waits_for,
        execution.child_run_id,
        json.dumps({"value": resumed.value, "child_run_id": resumed.child_run_id}) if resumed else None,
        execution.first_output,
        json.dumps([[signal.name, signal.value] for signal in execution.signals]) if execution.signals else None,
        execution.replay_of_id,
    )


def origins_text(origins: Origins | None) -> str | None:
    """What an execution descends from, as JSON."""
    return json.dumps({pin: list(origin) for pin, origin in origins.items()}) if origins else None


def _output_row(output: Output, rows: RunChanges, inline_value_bytes: int) -> ValueRow:
    text, value_hash = _place(output.text, rows, inline_value_bytes)
    return ValueRow(
        output.execution.id,
        OUTPUT,
        output.ordinal,
        output.pin,
        text,
        value_hash,
        seq=output.seq,
        released_seq=output.released_seq,
    )


def _place(text: str | None, rows: RunChanges, inline_value_bytes: int) -> tuple[str | None, str | None]:
    """(text, None) for a value that stays in its row, (None, hash) for a large one."""
    if text is None or len(text) * 4 <= inline_value_bytes:
        return text, None
    data = text.encode()
    if len(data) <= inline_value_bytes:
        return text, None
    digest = hashlib.sha256(data).hexdigest()
    rows.large.append(LargeValue(digest, text, len(data)))
    return None, digest
