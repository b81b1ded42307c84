"""What a node execution has been, told from its row: its row is kept up to date, and whoever watches wants to know what it went through. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autogpt_server.data.models import NodeExecution
from autogpt_server.data.run_rows import AttemptOutcome
from autogpt_server.data.status import NodeStatus


@dataclass(frozen=True, slots=True)
class Milestones:
    """The run's `seq` at the changes that a row remembers."""

    added: int
    queued: int | None
    """When it was queued for the first time."""
    started: int | None
    """When its latest attempt began."""
    ended: int | None
    outputs: Mapping[str, Sequence[int]]
    """Pin -> when each of its values was yielded."""


def states_since(execution: NodeExecution, milestones: Milestones, seq: int) -> Iterable[NodeExecution]:
    """The states an execution went through after `seq` as far as its row tells, ending with the one it has.

    Each of them was. What lies between two attempts is not among them: `attempts` says how the earlier ones ended.
    """
    passed = (
        (milestones.added, NodeStatus.INCOMPLETE),
        (milestones.queued, NodeStatus.QUEUED),
        (milestones.started, NodeStatus.RUNNING),
    )
    later = (*(at for at, _ in passed), milestones.ended, execution.seq)
    for index, (at, status) in enumerate(passed):
        if at is None or at <= seq:
            continue
        following = [other for other in later[index + 1 :] if other is not None]
        # A status that the same event replaced was never committed.
        if min(following) > at:
            yield execution.model_copy(update=_as_it_was(execution, milestones, status, at))
    yield execution


def _as_it_was(execution: NodeExecution, milestones: Milestones, status: NodeStatus, at: int) -> dict[str, Any]:
    """What was different when the execution came to `status`."""
    was: dict[str, Any] = {
        "status": status,
        "seq": at,
        "output_data": {},
        "error": None,
        "not_before": None,
        "waits_for": None,
        "child_run_id": None,
        "end_time": None,
    }
    if status is NodeStatus.RUNNING:
        before = [attempt for attempt in execution.attempts if attempt.attempt < execution.attempt]
        over = execution.attempts[len(before) :]
        has_failed = bool(over) and over[-1].outcome is AttemptOutcome.FAILED
        was |= {"attempts": before, "retries": execution.retries - has_failed}
        was["output_data"] = _outputs_until(execution, milestones, at) if before else {}
    else:
        was |= {"attempt": 0, "retries": 0, "attempts": [], "start_time": None}
        if status is NodeStatus.INCOMPLETE:
            was["queue_time"] = None
    return was


def _outputs_until(execution: NodeExecution, milestones: Milestones, seq: int) -> dict[str, list[Any]]:
    """What the calls before had yielded."""
    outputs: dict[str, list[Any]] = {}
    for pin, values in execution.output_data.items():
        count = sum(1 for at in milestones.outputs[pin] if at <= seq)
        if count:
            outputs[pin] = values[:count]
    return outputs
