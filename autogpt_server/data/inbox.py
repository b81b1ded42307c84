"""What happens to a run from outside: entries in the run's inbox, which its owner applies in their order (the design's section 4).

An entry is committed before anybody hears of it, and applied in the commit that moves the run's `inboxDone` past it: it is neither lost nor applied twice.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, cast

from autogpt_server.data.run_rows import InboxEntry, InboxKind
from autogpt_server.utils import faults, json

DUE = "0"
"""A `wakeAt` that is always over."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An inbox entry, as its run's owner reads it."""

    number: int
    kind: InboxKind
    execution_id: str | None
    key: str | None
    payload: dict[str, Any]
    created_at: str


def put_into_inbox(connection: sqlite3.Connection, entry: InboxEntry, *, at: str) -> int | None:
    """Add an entry in the transaction that is open, and mark the run as one that wants attention. Answers the entry's number.

    None, and nothing written, when there is no such run or it has ended. An entry whose key is there already keeps its first content.
    """
    if entry.key is not None:
        known = connection.execute(
            'SELECT "number" FROM "AgentRunInboxEntry" WHERE "runId" = ? AND "kind" = ? AND "nodeExecutionId" IS ? AND "key" = ?',
            (entry.run_id, entry.kind, entry.execution_id, entry.key),
        ).fetchone()
        if known is not None:
            return int(known[0])
    numbered = connection.execute(
        'UPDATE "AgentGraphExecution" SET "inboxLast" = "inboxLast" + 1, "wakeAt" = ?, '
        '"cancelRequestedAt" = CASE WHEN ? THEN coalesce("cancelRequestedAt", ?) ELSE "cancelRequestedAt" END '
        'WHERE "id" = ? AND "endedAt" IS NULL RETURNING "inboxLast"',
        (DUE, entry.kind is InboxKind.CANCEL, at, entry.run_id),
    ).fetchone()
    if numbered is None:
        return None
    faults.reach("inbox.put.numbered")
    connection.execute(
        'INSERT INTO "AgentRunInboxEntry" ("runId", "number", "kind", "nodeExecutionId", "key", "payload", "createdAt") VALUES (?, ?, ?, ?, ?, ?, ?)',
        (entry.run_id, numbered[0], entry.kind, entry.execution_id, entry.key, entry.payload, at),
    )
    return int(numbered[0])


def read_inbox(connection: sqlite3.Connection, run_id: str, *, after: int) -> list[StoredEntry]:
    """The entries of a run behind number `after`, in their order."""
    rows = connection.execute(
        'SELECT "number", "kind", "nodeExecutionId", "key", "payload", "createdAt" FROM "AgentRunInboxEntry" '
        'WHERE "runId" = ? AND "number" > ? ORDER BY "number"',
        (run_id, after),
    )
    return [
        StoredEntry(number, InboxKind(kind), execution_id, key, cast("dict[str, Any]", json.loads(payload)), created_at)
        for number, kind, execution_id, key, payload, created_at in rows
    ]
