"""What the planner knows of a run while it is being performed: a cache of its committed rows and of the events that follow them.

Everything here can be made again from the database (`autogpt_server.execution.restore`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any, NamedTuple

from autogpt_server.data.run_rows import AttemptOutcome, InboxEntry, NewRun
from autogpt_server.data.status import NODE_TRANSITIONS, RUN_TRANSITIONS, NodeStatus, RunStatus
from autogpt_server.execution.topology import PlannedNode, Topology

Origins = Mapping[str, tuple[str, int]]
"""Watched output pin -> (node execution, ordinal) of the output that a value descends from; ordinal `MIXED` for a value that descends from several,
which met in that execution."""

MIXED = -1

_MAX_MESSAGE_CHARS = 10_000


class FailureKind(Enum):
    """What a failed attempt means for trying again (rule D7)."""

    ORDINARY = auto()
    """May be tried again, unless the block is unsafe."""
    NOT_STARTED = auto()
    """Nothing has touched the outside: may be tried again, whatever the block."""
    PERMANENT = auto()
    """Would fail in the same way again."""
    UNKNOWN = auto()
    """It is not known whether what an unsafe block asked for has happened."""


TIMEOUT = "timeout"
"""The code of a failure for want of time. While an execution is RUNNING it marks one that is being stopped for that."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution or a run failed: a stable code and words for a person.

    The message comes from anywhere, and is stored and sent: what is no character (half a surrogate pair) is replaced, and far too long ones are cut.
    """

    code: str
    message: str
    kind: FailureKind = field(default=FailureKind.ORDINARY, compare=False)

    def __post_init__(self) -> None:
        shown = self.message if len(self.message) <= _MAX_MESSAGE_CHARS else f"{self.message[:_MAX_MESSAGE_CHARS]}…"
        object.__setattr__(self, "message", shown.encode("utf-8", "replace").decode())


@dataclass(slots=True)
class Output:
    """One value that an execution yielded."""

    execution: Execution
    ordinal: int
    pin: str
    value: Any
    text: str
    """The value as JSON, made once, when it was yielded."""
    seq: int
    released_seq: int | None = None
    committed: bool = False


class Token(NamedTuple):
    """One value that entered an execution through a slot."""

    value: Any
    text: str | None = None
    """JSON of a value that came with the run; None for one that travelled a link: the output holds it."""
    source_id: str | None = None
    source_ordinal: int | None = None
    source_part: str | None = None
    origins: Origins | None = None
    failed_id: str | None = None
    """The failed execution whose error this is."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a block is called again with: the value of a signal (None when time woke it up), or the end of a child run."""

    value: Any = None
    child_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that nobody has waited for yet."""

    name: str
    value: Any


@dataclass(slots=True, eq=False)
class Execution:
    """One firing of a node. Only the planner changes it."""

    id: str
    node: PlannedNode
    added_at: datetime
    status: NodeStatus = NodeStatus.INCOMPLETE
    ordinal: int | None = None
    attempt: int = 0
    tokens: dict[str, Token] = field(default_factory=dict[str, Token])
    """Slot -> value, in the order of arrival."""
    input: dict[str, Any] | None = None
    """Field -> value as the block takes it, from queueing on."""
    origins: Origins | None = None
    mixed_origin: bool = False
    outputs: int = 0
    """How many values the execution has yielded."""
    held: list[Output] = field(default_factory=list[Output])
    """Yielded, but not their turn yet (rule F8)."""
    replay: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(pin, JSON) of the outputs an earlier attempt of a pure block has committed: the next one must yield the same (rule D4)."""
    replayed: int = 0
    failure: Failure | None = None
    seq: int = 0
    """The run's seq at the latest change, and below at the changes that readers tell apart."""
    added_seq: int = 0
    queued_at: datetime | None = None
    queued_seq: int | None = None
    started_at: datetime | None = None
    started_seq: int | None = None
    ended_at: datetime | None = None
    ended_seq: int | None = None
    committed: bool = False
    """Whether the row exists."""
    retries: int = 0
    """How many attempts have failed and were followed by another."""
    not_before: datetime | None = None
    """QUEUED: back-off until then. WAITING: called again then."""
    waits_for: str | None = None
    """WAITING: the name of the signal."""
    child_run_id: str | None = None
    """WAITING: the child run."""
    resumed: Resumed | None = None
    first_output: int = 0
    """How many outputs belong to earlier calls, which ended in a wait or were given up by a person."""
    signals: list[Signal] = field(default_factory=list[Signal])
    replay_of_id: str | None = None

    @property
    def is_moving(self) -> bool:
        """Whether it needs neither time nor a person to move on."""
        return self.status is NodeStatus.RUNNING or (self.status is NodeStatus.QUEUED and self.not_before is None)

    @property
    def is_timed_out(self) -> bool:
        """Whether its attempt is being stopped because it has taken too long."""
        return self.status is NodeStatus.RUNNING and self.failure is not None and self.failure.code == TIMEOUT

    def become(self, status: NodeStatus) -> None:
        """Change the status; an `AssertionError` here is a mistake of the planner."""
        if status not in NODE_TRANSITIONS[self.status]:
            raise AssertionError(f"node execution {self.id}: {self.status} may not become {status}")
        self.status = status


@dataclass(slots=True)
class NodeState:
    """What the planner knows of one node in one run."""

    incomplete: deque[Execution] = field(default_factory=deque[Execution])
    """Oldest first."""
    arrived: dict[str, int] = field(default_factory=dict[str, int])
    """Slot -> how many of `incomplete`, counted from the oldest, have a value there. Values fill executions strictly in order, so this is all
    that matching (rule F3) has to know."""
    statics: dict[str, Token] = field(default_factory=dict[str, Token])
    next_ordinal: int = 0
    unreleased: deque[Execution] = field(default_factory=deque[Execution])
    """Queued executions whose outputs have not all been released, in order; the first one's turn it is."""
    ready: deque[Execution] = field(default_factory=deque[Execution])
    """QUEUED and not handed out yet."""
    busy: int = 0
    """Executions handed out whose attempt has not ended."""

    @property
    def first_unreleased(self) -> int:
        """Number of the first execution whose outputs have not all been released."""
        return (self.unreleased[0].ordinal or 0) if self.unreleased else self.next_ordinal


class InputRow(NamedTuple):
    """An input to be written: `text` for a value of its own, else the output it came from."""

    execution: Execution
    role: str
    ordinal: int
    name: str
    text: str | None
    source_id: str | None = None
    source_ordinal: int | None = None
    source_part: str | None = None


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that is over and will be followed by another."""

    execution_id: str
    number: int
    outcome: AttemptOutcome
    failure: Failure | None
    started_at: datetime | None
    ended_at: datetime


@dataclass(slots=True)
class Changes:
    """Everything that happened since the last cut, as rows to be written."""

    executions: dict[str, Execution] = field(default_factory=dict[str, Execution])
    inputs: list[InputRow] = field(default_factory=list[InputRow])
    outputs: list[Output] = field(default_factory=list[Output])
    released: list[Output] = field(default_factory=list[Output])
    """Outputs that a former commit wrote as held and that have been released since."""
    discarded: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """(execution id, ordinal): committed outputs from that one on, held by an attempt that failed and is repeated."""
    attempts: list[EndedAttempt] = field(default_factory=list[EndedAttempt])
    children: list[NewRun] = field(default_factory=list[NewRun])
    outbox: list[InboxEntry] = field(default_factory=list[InboxEntry])

    @property
    def rows(self) -> int:
        """How many rows that makes, but for what is rare."""
        return len(self.executions) + len(self.inputs) + len(self.outputs) + len(self.released)


@dataclass(slots=True)
class Counters:
    """What is counted in a run; shown as `autogpt_server.data.models.RunStats`."""

    executions: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    skipped: int = 0
    incomplete: int = 0
    unhandled: int = 0
    bytes: int = 0
    child_executions: int = 0
    child_bytes: int = 0
    """What child runs have taken of the limits (rule D11)."""
    waited_s: float = 0.0
    waiting_since: datetime | None = None


@dataclass(slots=True)
class RunState:
    """A run in the hands of its planner."""

    id: str
    topology: Topology
    status: RunStatus = RunStatus.QUEUED
    seq: int = 0
    """Number of events applied so far."""
    nodes: list[NodeState] = field(default_factory=list[NodeState])
    live: dict[str, Execution] = field(default_factory=dict[str, Execution])
    """Executions that have not ended, by id."""
    active: int = 0
    """Executions that keep the run from ending (rule F11)."""
    moving: int = 0
    """Of those, the ones that need neither time nor a person to move on: QUEUED and RUNNING."""
    unhandled: dict[str, Failure] = field(default_factory=dict[str, Failure])
    """Failed executions whose error no queued execution has taken (rule F10)."""
    stats: Counters = field(default_factory=Counters)
    reason: str | None = None
    failure: Failure | None = None
    closing: RunStatus | None = None
    """Set while the run is being brought to an early end."""
    timers: list[tuple[datetime, str]] = field(default_factory=list[tuple[datetime, str]])
    """A heap of (time, execution id); an entry counts only while the execution's `not_before` is that time."""
    crowded: frozenset[int] = frozenset()
    """Nodes with so much to do that those who send them values pause. A new object whenever it changes."""
    inbox_done: int = 0
    """Number of the last inbox entry that was applied."""
    depth: int = 0
    """How many runs are above this one (rule D11)."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    changes: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        if not self.nodes:
            self.nodes = [NodeState() for _ in self.topology.nodes]

    def become(self, status: RunStatus) -> None:
        """Change the status; an `AssertionError` here is a mistake of the planner."""
        if status not in RUN_TRANSITIONS[self.status]:
            raise AssertionError(f"run {self.id}: {self.status} may not become {status}")
        self.status = status

    def wake_at(self) -> datetime | None:
        """When the first of those that wait for a time may move on."""
        timers, live = self.timers, self.live
        while timers:
            when, execution_id = timers[0]
            execution = live.get(execution_id)
            if execution is not None and execution.not_before == when:
                return when
            heapq.heappop(timers)
        return None

    def cut(self) -> Changes:
        """Take the changes since the last cut: what the next commit writes."""
        changes, self.changes = self.changes, Changes()
        return changes
