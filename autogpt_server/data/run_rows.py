"""The rows that a run leaves behind, as its owner hands them over to be written. Shapes only: no database here.

Times are text (`autogpt_server.data.db.db_time`), JSON is text. Rows are tuples in the order of the columns that are written, so that statements take them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from autogpt_server.utils import json

INPUT = "input"
CONVERTED = "converted"
OUTPUT = "output"


class InboxKind(StrEnum):
    """What can happen to a run from outside."""

    CANCEL = "cancel"
    """Somebody wants it ended."""
    RESOLVE = "resolve"
    """Somebody decided about an interrupted execution (rule D4)."""
    SIGNAL = "signal"
    """What a suspended execution waits for (rule D10)."""
    CHILD_ENDED = "child_ended"
    """A child run has ended (rule D11)."""


class AttemptOutcome(StrEnum):
    """How an attempt ended that was followed by another one."""

    FAILED = "FAILED"
    SUSPENDED = "SUSPENDED"
    """The block asked to be called again later."""
    INTERRUPTED = "INTERRUPTED"
    """Nobody knew what it had done, until somebody decided that it is to be tried again."""
    DIED = "DIED"
    """Its worker died, and it could be repeated."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """The columns of a run that its owner changes."""

    status: str
    stats: str
    reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    closing: str | None = None
    wake_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None


class NodeExecutionRow(NamedTuple):
    """A node execution as it is written."""

    id: str
    run_id: str
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
    not_before: str | None
    retries: int
    waits_for: str | None
    child_run_id: str | None
    resumed: str | None
    first_output: int
    signals: str | None
    replay_of_id: str | None


class ValueRow(NamedTuple):
    """An input or output as it is written: `text` is JSON, or None where the source or `AgentValue` holds it."""

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


class AttemptRow(NamedTuple):
    """An attempt that has ended and will be followed by another."""

    execution_id: str
    attempt: int
    outcome: str
    error_code: str | None
    error: str | None
    started_at: str | None
    ended_at: str


class LargeValue(NamedTuple):
    """A value above the inline limit, kept once under the SHA-256 of its JSON."""

    hash: str
    text: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """Something for the inbox of a run. `key`: an entry of the same run, kind, execution and key is taken in once only."""

    run_id: str
    kind: InboxKind
    execution_id: str | None = None
    key: str | None = None
    payload: str = "{}"


@dataclass(slots=True)
class RunChanges:
    """The rows that a range of events of one run leaves behind."""

    run: RunRow
    added: list[NodeExecutionRow] = field(default_factory=list[NodeExecutionRow])
    changed: list[NodeExecutionRow] = field(default_factory=list[NodeExecutionRow])
    values: list[ValueRow] = field(default_factory=list[ValueRow])
    released: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    """(seq, execution id, ordinal) of outputs that were written as held before."""
    discarded: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """(execution id, ordinal): held outputs from that one on that will never be released, because their attempt failed and is repeated."""
    attempts: list[AttemptRow] = field(default_factory=list[AttemptRow])
    large: list[LargeValue] = field(default_factory=list[LargeValue])
    children: list[NewRun] = field(default_factory=list["NewRun"])
    """Child runs, born in this commit (rule D11)."""
    outbox: list[InboxEntry] = field(default_factory=list[InboxEntry])
    """What goes into other runs' inboxes with this commit."""


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
    former_died: bool = True
    """Of a claim: whether the owner before, if there was one, was performing the run when it went away."""
    inbox_done: int = 0
    """Number of the last inbox entry that was applied so far."""
    at: str = field(kw_only=True)
    """When it was cut."""


class CommitOutcome(StrEnum):
    """What became of one run's part of a commit."""

    DONE = "done"
    FENCED = "fenced"
    """The run has another owner, has ended, or is not where this owner believes: nothing of it was written, drop it."""
    FAILED = "failed"
    """The rows were refused; nothing of this run was written."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The outcome for one run, and the error for FAILED."""

    outcome: CommitOutcome
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentLink:
    """Whose child a run is."""

    run_id: str
    execution_id: str
    attempt: int


class CopiedExecution(NamedTuple):
    """A node execution that a re-run takes over from the run before it (rule D9): a row of its own with the outcome, and the times, of the former one."""

    id: str
    node_id: str
    seq: int
    origins: str | None
    former_id: str


class CopiedValue(NamedTuple):
    """A value of a copied execution; its content is copied in the database."""

    execution_id: str
    source_execution_id: str | None
    """Inputs: the copy of the execution that the value came from."""
    seq: int | None
    released_seq: int | None
    former_id: str
    role: str
    ordinal: int


@dataclass(slots=True)
class TakenOver:
    """What a re-run takes over from the run before it. Its rows are numbered below the re-run's first event."""

    former_run_id: str
    executions: list[CopiedExecution] = field(default_factory=list[CopiedExecution])
    values: list[CopiedValue] = field(default_factory=list[CopiedValue])


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
    parent: ParentLink | None = None
    depth: int = 0
    limits: str | None = None
    """JSON object: what is left of the parent's limits."""
    taken_over: TakenOver | None = None
    is_written: bool = False
    """Its row, and others that belong to it, have been written already, hidden; see `autogpt_server.data.hidden`."""


def child_ended(
    parent: ParentLink, child_run_id: str, *, status: str, executions: int = 0, size_bytes: int = 0
) -> InboxEntry:
    """What a parent is told when its child has ended, and what that has taken of the limits."""
    return InboxEntry(
        parent.run_id,
        InboxKind.CHILD_ENDED,
        parent.execution_id,
        key=child_run_id,
        payload=json.dumps({"run_id": child_run_id, "status": status, "executions": executions, "bytes": size_bytes}),
    )


def cancel_of(run_id: str, *, reason: str) -> InboxEntry:
    """A request to end a run. Asked twice, it is one request."""
    return InboxEntry(run_id, InboxKind.CANCEL, key="cancel", payload=json.dumps({"reason": reason}))
