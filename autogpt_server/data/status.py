"""Statuses of runs and node executions, and the transitions that are allowed (rule D6). Terminal rows never change."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "QUEUED"
    """Committed, and no worker has begun with it."""
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    """Nothing can move without time, a person or the end of a child run."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_RUN_STATUSES


class NodeStatus(StrEnum):
    """Where a node execution stands."""

    INCOMPLETE = "INCOMPLETE"
    """Some linked pins have no value yet."""
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    """Suspended until a time, a signal or the end of a child run."""
    INTERRUPTED = "INTERRUPTED"
    """It is not known what it did outside (its owner died, it took too long, an answer was lost): somebody has to decide (rule D4)."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    SKIPPED = "SKIPPED"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_NODE_STATUSES

    @property
    def is_active(self) -> bool:
        """Whether the run cannot end while this execution is here (rule F11)."""
        return self in ACTIVE_NODE_STATUSES


HIDDEN = "HIDDEN"
"""The status of a row that is no run yet, because what belongs to it is still being written (`autogpt_server.data.hidden`). No `RunStatus`: nothing may ever
show it or act on it."""

TERMINAL_RUN_STATUSES = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED})
ACTIVE_RUN_STATUSES = frozenset(RunStatus) - TERMINAL_RUN_STATUSES
TERMINAL_NODE_STATUSES = frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.CANCELED, NodeStatus.SKIPPED})
ACTIVE_NODE_STATUSES = frozenset({NodeStatus.QUEUED, NodeStatus.RUNNING, NodeStatus.WAITING, NodeStatus.INTERRUPTED})

RUN_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.WAITING, *TERMINAL_RUN_STATUSES}),
    RunStatus.RUNNING: frozenset({RunStatus.WAITING, *TERMINAL_RUN_STATUSES}),
    RunStatus.WAITING: frozenset({RunStatus.RUNNING, *TERMINAL_RUN_STATUSES}),
    **{status: frozenset[RunStatus]() for status in TERMINAL_RUN_STATUSES},
}

NODE_TRANSITIONS: Mapping[NodeStatus, frozenset[NodeStatus]] = {
    NodeStatus.INCOMPLETE: frozenset({NodeStatus.QUEUED}),
    NodeStatus.QUEUED: frozenset({NodeStatus.RUNNING, NodeStatus.FAILED, NodeStatus.CANCELED}),
    # RUNNING -> QUEUED is another attempt: after a failure that may be retried, or after the owner died.
    NodeStatus.RUNNING: frozenset(
        {
            NodeStatus.QUEUED,
            NodeStatus.WAITING,
            NodeStatus.INTERRUPTED,
            NodeStatus.COMPLETED,
            NodeStatus.FAILED,
            NodeStatus.CANCELED,
        }
    ),
    NodeStatus.WAITING: frozenset({NodeStatus.QUEUED, NodeStatus.CANCELED}),
    NodeStatus.INTERRUPTED: frozenset({NodeStatus.QUEUED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.CANCELED}),
    **{status: frozenset[NodeStatus]() for status in TERMINAL_NODE_STATUSES},
}
