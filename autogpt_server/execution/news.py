"""From entries in a run's inbox to events for its planner. Pure."""

from __future__ import annotations

from datetime import datetime

from autogpt_server.data.inbox import StoredEntry
from autogpt_server.data.run_rows import InboxKind
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import ChildEnded, Close, Event, Resolution, Resolved, Signaled
from autogpt_server.execution.state import Failure

CANCELED = "canceled"
"""The error code of a run that was canceled."""


def event_of(entry: StoredEntry, at: datetime) -> Event:
    """What the planner has to be told."""
    execution_id, payload = entry.execution_id or "", entry.payload
    match entry.kind:
        case InboxKind.CANCEL:
            return Close(at, RunStatus.CANCELED, Failure(CANCELED, payload["reason"]))
        case InboxKind.RESOLVE:
            return Resolved(execution_id, at, Resolution(payload["action"]))
        case InboxKind.SIGNAL:
            return Signaled(execution_id, at, payload["name"], payload["value"])
        case InboxKind.CHILD_ENDED:
            return ChildEnded(execution_id, at, payload["run_id"], payload["executions"], payload["bytes"])
