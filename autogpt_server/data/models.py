"""What graphs, runs and node executions look like outside the database: the JSON shapes of the design's section 8."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NewType, Self

import pydantic

from autogpt_server.data.run_rows import AttemptOutcome
from autogpt_server.data.status import NodeStatus, RunStatus

GraphId = NewType("GraphId", str)
NodeId = NewType("NodeId", str)
RunId = NewType("RunId", str)
NodeExecId = NewType("NodeExecId", str)
ScheduleId = NewType("ScheduleId", str)

JsonObject = dict[str, Any]


class Model(pydantic.BaseModel):
    """Base of all shapes: unknown fields are kept, so that a graph made elsewhere comes back whole."""

    model_config = pydantic.ConfigDict(extra="allow")

    @property
    def unknown_fields(self) -> JsonObject:
        """The fields that this server does not know."""
        return dict(self.model_extra or {})


class Link(Model):
    """Carries the values of one output pin to one input pin."""

    id: str = ""
    source_id: str
    sink_id: str
    source_name: str = pydantic.Field(min_length=1, max_length=500)
    sink_name: str = pydantic.Field(min_length=1, max_length=500)
    is_static: pydantic.StrictBool = False


class Node(Model):
    """One use of a block. In a posted graph `id` is local to it; the server assigns a new one."""

    id: str = ""
    block_id: str
    input_default: JsonObject = pydantic.Field(default_factory=dict)
    metadata: JsonObject = pydantic.Field(default_factory=dict)


class Graph(Model):
    """An agent: nodes and the links between them."""

    id: str = ""
    version: pydantic.StrictInt = pydantic.Field(default=1, ge=1)
    is_active: pydantic.StrictBool = True
    name: str = ""
    description: str = ""
    nodes: list[Node] = pydantic.Field(default_factory=list[Node])
    links: list[Link] = pydantic.Field(default_factory=list[Link])

    def node(self, node_id: str) -> Node | None:
        """The node of that id, or None."""
        return next((node for node in self.nodes if node.id == node_id), None)


class ErrorInfo(pydantic.BaseModel):
    """Why something failed: a stable code and words."""

    code: str
    message: str


class RunStats(pydantic.BaseModel):
    """Counters of a run's node executions."""

    executions: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    skipped: int = 0
    incomplete: int = 0
    unhandled: int = 0
    """Failures whose error nobody took (rule F10)."""
    bytes: int = 0
    """Size of all outputs as JSON."""
    child_executions: int = 0
    child_bytes: int = 0
    """The same of child runs."""
    waited_s: float = 0.0
    """How long the run was WAITING, not counting the present wait: no limit of duration counts it (rule F12)."""
    waiting_since: datetime | None = None


class ParentExecution(pydantic.BaseModel):
    """The node execution that a run was started for, and waits for its end (rule D11)."""

    run_id: str
    node_exec_id: str


class Run(pydantic.BaseModel):
    """One graph execution."""

    id: str
    graph_id: str
    graph_version: int
    status: RunStatus
    reason: str | None = None
    error: ErrorInfo | None = None
    stats: RunStats = pydantic.Field(default_factory=RunStats)
    input: JsonObject = pydantic.Field(default_factory=dict)
    priority: int = 0
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    """When somebody first asked for the run's end; it is CANCELED once everything in it has stopped."""
    rerun_of: str | None = None
    parent: ParentExecution | None = None
    depth: int = 0
    """How many runs are above this one."""
    schedule_id: str | None = None
    seq: int = 0
    """Number of the last committed event; the id of server-sent events."""

    @property
    def is_ended(self) -> bool:
        return self.status.is_terminal


class RunWithOutputs(Run):
    """A run with what its agent-output nodes gave: name -> values in order."""

    outputs: dict[str, list[Any]] = pydantic.Field(default_factory=dict[str, list[Any]])

    @classmethod
    def of(cls, run: Run, outputs: dict[str, list[Any]]) -> Self:
        """`run` with these; it is not validated again."""
        return cls.model_construct(**dict(run), outputs=outputs)


class AttemptInfo(pydantic.BaseModel):
    """An attempt that is over and was, or will be, followed by another one."""

    attempt: int
    outcome: AttemptOutcome
    error: ErrorInfo | None = None
    start_time: datetime | None = None
    end_time: datetime


class NodeExecution(pydantic.BaseModel):
    """One firing of a node in a run."""

    graph_id: str
    graph_version: int
    graph_exec_id: str
    node_exec_id: str
    node_id: str
    block_id: str
    status: NodeStatus
    attempt: int = 0
    """Number of the latest attempt, from 1; 0 before the first."""
    retries: int = 0
    """How many attempts have failed and were followed by another."""
    attempts: list[AttemptInfo] = pydantic.Field(default_factory=list[AttemptInfo])
    """The earlier attempts, and the latest one where another will follow it."""
    input_data: JsonObject = pydantic.Field(default_factory=dict)
    """Pin -> value: the node's defaults and the values that came, by the full names of their pins."""
    output_data: dict[str, list[Any]] = pydantic.Field(default_factory=dict[str, list[Any]])
    """Pin -> values in the order in which they were yielded."""
    error: ErrorInfo | None = None
    """Why it failed; while another attempt is to come, why the latest one did."""
    not_before: datetime | None = None
    """QUEUED: it does not start before this time. WAITING: it is called again at this time."""
    waits_for: str | None = None
    """WAITING: the name of the signal that calls it again."""
    child_run_id: str | None = None
    """WAITING: the child run whose end calls it again."""
    mixed_origin: bool = False
    replay_of: str | None = None
    """In a re-run: the execution of the run before it whose outcome this one keeps, with its times; nothing was done again."""
    add_time: datetime
    queue_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    seq: int = 0
