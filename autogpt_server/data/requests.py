"""What people ask of a run that is there already: to end it, to decide about an execution, to give one a signal.

A request is checked against the rows and put into the run's inbox in one transaction; the run's owner applies it in its turn (`autogpt_server.data.inbox`).
What can be asked again with the same words is answered as it was the first time, and done once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

from autogpt_server.data.db import Database, db_time, typed_errors
from autogpt_server.data.inbox import put_into_inbox
from autogpt_server.data.run_rows import InboxEntry, InboxKind, cancel_of
from autogpt_server.data.runs import RunNotFound, missing_execution
from autogpt_server.data.status import NodeStatus
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError

T = TypeVar("T")

MAX_SIGNALS = 1000
"""Signals that one execution is sent, those that it has taken included."""


class RunEnded(AutoGPTServerError):
    """The run has ended: nothing can be asked of it any more."""


class RunEnding(AutoGPTServerError):
    """The run is being ended, so nothing can be decided or sent any more; wait for its end."""


class NodeExecutionEnded(AutoGPTServerError):
    """The node execution has ended and takes no signal any more."""


class NotInterrupted(AutoGPTServerError):
    """The node execution is not INTERRUPTED: there is nothing to decide."""


class AlreadyResolved(AutoGPTServerError):
    """Somebody was faster and decided otherwise about this node execution."""


class SignalKeyReused(AutoGPTServerError):
    """The node execution was sent another signal under this key; use a new key for a new signal."""


class TooManySignals(AutoGPTServerError):
    """The node execution was sent more signals than one execution may be."""


async def request_cancel(db: Database, run_id: str, *, at: datetime) -> None:
    """Ask for a run's end. Asked again while it is on its way, it changes nothing. Raises `RunNotFound`, `RunEnded`."""

    def write(connection: sqlite3.Connection) -> None:
        _active_run(connection, run_id)
        put_into_inbox(connection, cancel_of(run_id, reason="Canceled by request."), at=db_time(at) or "")

    await _write(db, write)


async def resolve_execution(
    db: Database, run_id: str, node_exec_id: str, action: str, *, attempt: int | None = None, at: datetime
) -> None:
    """Decide about an INTERRUPTED execution: `action` is one of `retry`, `skip`, `fail` (rule D4).

    A decision is about one attempt, by default the latest. The same one may be sent again; of two different ones the first counts. Raises `RunNotFound`,
    `NodeExecutionNotFound`, `NotInterrupted`, `AlreadyResolved`, `RunEnding`.
    """

    def write(connection: sqlite3.Connection) -> None:
        execution = _execution(connection, run_id, node_exec_id)
        # The attempt is the key: what somebody decides twice must not be taken for a decision about the attempt after it.
        meant = attempt or execution.attempt
        key = str(meant)
        known = _known_payload(connection, InboxEntry(run_id, InboxKind.RESOLVE, node_exec_id, key))
        if known is not None:
            if known["action"] != action:
                raise AlreadyResolved(
                    f"It has been decided already to {known['action']} attempt {meant} of the node execution {node_exec_id}."
                )
            return
        if execution.status is not NodeStatus.INTERRUPTED:
            raise NotInterrupted(
                f"The node execution {node_exec_id} is {execution.status}; only about one that is INTERRUPTED there is something to decide."
            )
        if meant != execution.attempt:
            raise NotInterrupted(
                f"It is attempt {execution.attempt} of the node execution {node_exec_id} that is INTERRUPTED, not {meant}: look at it first."
            )
        if execution.is_ending:
            raise RunEnding
        payload = json.dumps({"action": action})
        put_into_inbox(
            connection,
            InboxEntry(run_id, InboxKind.RESOLVE, node_exec_id, key, payload),
            at=db_time(at) or "",
        )

    await _write(db, write)


async def send_signal(
    db: Database, run_id: str, node_exec_id: str, *, name: str, key: str, value: Any, at: datetime
) -> None:
    """Give an execution a signal (rule D10), once per key. One that does not wait for it yet keeps it until it does.

    Raises `RunNotFound`, `NodeExecutionNotFound`, `NodeExecutionEnded`, `RunEnding`, `SignalKeyReused`, `TooManySignals`.
    """
    content = {"name": name, "value": value}

    def write(connection: sqlite3.Connection) -> None:
        execution = _execution(connection, run_id, node_exec_id)
        known = _known_payload(connection, InboxEntry(run_id, InboxKind.SIGNAL, node_exec_id, key))
        if known is not None:
            if json.canonical(known) != json.canonical(content):
                raise SignalKeyReused(
                    f"The node execution {node_exec_id} was sent another signal under the key {key!r}; use a new key for a new signal."
                )
            return
        if execution.status.is_terminal:
            raise NodeExecutionEnded(f"The node execution {node_exec_id} is {execution.status} and takes no signal.")
        if execution.is_ending:
            raise RunEnding
        _check_room(connection, run_id, node_exec_id)
        put_into_inbox(
            connection,
            InboxEntry(run_id, InboxKind.SIGNAL, node_exec_id, key, json.dumps(content)),
            at=db_time(at) or "",
        )

    await _write(db, write)


@dataclass(frozen=True, slots=True)
class _Addressee:
    """An execution that something is asked of."""

    status: NodeStatus
    attempt: int
    is_ending: bool
    """Whether its run is being brought to an end, or has ended."""


def _execution(connection: sqlite3.Connection, run_id: str, node_exec_id: str) -> _Addressee:
    row = connection.execute(
        'SELECT e."status", e."attempt", coalesce(r."closing", r."cancelRequestedAt", r."endedAt") IS NOT NULL FROM "AgentNodeExecution" e '
        'JOIN "AgentGraphExecution" r ON r."id" = e."agentGraphExecutionId" WHERE e."id" = ? AND r."id" = ?',
        (node_exec_id, run_id),
    ).fetchone()
    if row is None:
        raise missing_execution(connection, run_id, node_exec_id)
    status, attempt, is_ending = row
    return _Addressee(NodeStatus(status), attempt, bool(is_ending))


def _active_run(connection: sqlite3.Connection, run_id: str) -> None:
    row = connection.execute(
        'SELECT "status", "endedAt" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
    ).fetchone()
    if row is None:
        raise RunNotFound(f"There is no run {run_id}.")
    if row[1] is not None:
        raise RunEnded(f"The run {run_id} has ended already: it is {row[0]}.")


def _known_payload(connection: sqlite3.Connection, entry: InboxEntry) -> dict[str, Any] | None:
    """What came under this key before."""
    row = connection.execute(
        'SELECT "payload" FROM "AgentRunInboxEntry" WHERE "runId" = ? AND "kind" = ? AND "nodeExecutionId" = ? AND "key" = ?',
        (entry.run_id, entry.kind, entry.execution_id, entry.key),
    ).fetchone()
    return None if row is None else cast("dict[str, Any]", json.loads(row[0]))


def _check_room(connection: sqlite3.Connection, run_id: str, node_exec_id: str) -> None:
    (count,) = connection.execute(
        'SELECT count(*) FROM "AgentRunInboxEntry" WHERE "runId" = ? AND "kind" = ? AND "nodeExecutionId" = ?',
        (run_id, InboxKind.SIGNAL, node_exec_id),
    ).fetchone()
    if count >= MAX_SIGNALS:
        raise TooManySignals(f"The node execution {node_exec_id} was sent {MAX_SIGNALS:,} signals; that is the most.")


async def _write(db: Database, write: Callable[[sqlite3.Connection], T]) -> T:
    with typed_errors():
        return await db.write(write)
