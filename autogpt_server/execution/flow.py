"""Values on their way through a run (rules F3 to F9): released in their order, delivered along the links, matched, and queued as executions. Pure.

The planner (`plan.py`) decides what becomes of attempts and runs; this is the ground that it stands on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from autogpt_server.data.block import ERROR_PIN
from autogpt_server.data.pins import MISSING, pick
from autogpt_server.data.run_rows import INPUT
from autogpt_server.data.status import NodeStatus
from autogpt_server.execution.binding import bind_input, trace_origins
from autogpt_server.execution.state import Execution, Failure, InputRow, NodeState, Output, RunState, Token
from autogpt_server.execution.topology import OutLink, PlannedNode, Release, output_key

MAX_READY = 1000
"""With so many executions of a node waiting to start, those who send it values pause (rule F8 says nothing of this; memory does).

What they have sent by then still comes: at most `gate.Allowance.events` more."""
ENOUGH_READY = 500
"""With so few they go on."""
_LONGEST_S = 1e13
"""Longer than any run; a `timedelta` cannot be much longer."""
MAX_AHEAD = 1000
"""How many executions of a node may start beyond the first one whose outputs have not all been released: what they yield is held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Where a run is ended (rule F12)."""

    max_executions: int
    max_bytes: int
    max_duration_s: float


@dataclass(slots=True)
class Todo:
    """What has to be done after an event."""

    start: list[Execution] = field(default_factory=list[Execution])
    """Handed out: may start as soon as there is room."""
    stop: list[Execution] = field(default_factory=list[Execution])
    """Running attempts that must be stopped."""
    run_ended: bool = False


class Flow(ABC):
    """The values of one run."""

    def __init__(self, state: RunState, *, new_id: Callable[[], str], limits: RunLimits) -> None:
        self.state = state
        self._new_id = new_id
        self._limits = limits
        self._max_duration = timedelta(seconds=min(limits.max_duration_s, _LONGEST_S))
        self._todo = Todo()
        self._deliveries: deque[tuple[OutLink, Token]] = deque()
        """Tokens on their way. A queue, not recursion: a loop of failing conversions may be long."""
        self._delivering = False
        for node, node_state in zip(state.topology.nodes, state.nodes, strict=True):
            self._note_ready(node, node_state)

    @abstractmethod
    def _finish(self, execution: Execution, status: NodeStatus, failure: Failure | None, at: datetime) -> None:
        """Bring an active execution to its end and let go what waited for it."""

    @abstractmethod
    def _over_limit(self, message: str, at: datetime) -> None:
        """Close the run because it has reached a limit (rule F12)."""

    def _touch(self, execution: Execution) -> None:
        """Have the execution's row written with this event."""
        execution.seq = self.state.seq
        self.state.changes.executions[execution.id] = execution

    # --- outputs -------------------------------------------------------------------------------------------------

    def _add_output(self, execution: Execution, pin: str, value: Any, text: str) -> None:
        output = Output(execution, execution.outputs, pin, value, text, self.state.seq)
        execution.outputs += 1
        self._touch(execution)
        execution.held.append(output)
        self.state.changes.outputs.append(output)
        self.state.stats.bytes += len(text) if text.isascii() else len(text.encode())

    def _flush_node(self, node: PlannedNode, at: datetime) -> None:
        """Release what is its turn (rule F8), and deliver it (rule F9)."""
        if self.state.closing is not None:
            return
        queue = self.state.nodes[node.index].unreleased
        while queue:
            head = queue[0]
            ended = head.status.is_terminal
            if head.held and (ended or node.release is Release.STREAM):
                for output in head.held:
                    self._release(output)
                head.held.clear()
            if not ended:
                break
            queue.popleft()
        self._deliver_all(at)

    def _release(self, output: Output) -> None:
        execution, node = output.execution, output.execution.node
        output.released_seq = self.state.seq
        if output.committed:
            self.state.changes.released.append(output)
        links = node.out.get(output.pin)
        if not links:
            return
        failed_id = execution.id if output.pin == ERROR_PIN and execution.status is NodeStatus.FAILED else None
        origins = {**(execution.origins or {}), output_key(node.index, output.pin): (execution.id, output.ordinal)}
        for link in links:
            value = pick(output.value, link.parts) if link.parts else output.value
            if value is not MISSING:
                self._deliveries.append(
                    (link, Token(value, None, execution.id, output.ordinal, link.part, origins, failed_id))
                )

    def _deliver_all(self, at: datetime) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._deliveries:
                link, token = self._deliveries.popleft()
                self._deliver(self.state.topology.nodes[link.sink], link, token, at)
        finally:
            self._delivering = False

    # --- matching ------------------------------------------------------------------------------------------------

    def _deliver(self, node: PlannedNode, link: OutLink, token: Token, at: datetime) -> None:
        """A token arrives at its slot (rules F3 to F5)."""
        node_state = self.state.nodes[node.index]
        if link.is_static:
            node_state.statics[link.slot] = token
            if node.slots:
                self._queue_complete(node, node_state, at)
            elif len(node_state.statics) == len(node.static_slots):
                self._queue(self._new_execution(node, at), at)
            return
        place = node_state.arrived.get(link.slot, 0)
        node_state.arrived[link.slot] = place + 1
        if place < len(node_state.incomplete):
            execution = node_state.incomplete[place]
        else:
            execution = self._new_execution(node, at)
            node_state.incomplete.append(execution)
            self.state.stats.incomplete += 1
        self._put(execution, link.slot, token)
        if place == 0:
            self._queue_complete(node, node_state, at)

    def _queue_complete(self, node: PlannedNode, node_state: NodeState, at: datetime) -> None:
        """Queue the executions that have all their values, oldest first."""
        if len(node_state.statics) < len(node.static_slots):
            return
        while node_state.incomplete and all(node_state.arrived.get(slot) for slot in node.slots):
            execution = node_state.incomplete.popleft()
            self.state.stats.incomplete -= 1
            for slot in node.slots:
                node_state.arrived[slot] -= 1
            self._queue(execution, at)

    def _new_execution(self, node: PlannedNode, at: datetime) -> Execution:
        state = self.state
        execution = Execution(self._new_id(), node, at, added_seq=state.seq)
        state.live[execution.id] = execution
        state.stats.executions += 1
        self._touch(execution)
        self._check_executions(at)
        return execution

    def _check_executions(self, at: datetime) -> None:
        stats, limit = self.state.stats, self._limits.max_executions
        if stats.executions + stats.child_executions > limit:
            shared = ", those of its child runs included" if stats.child_executions else ""
            self._over_limit(
                f"This run has more than {limit} node executions{shared} (setting MAX_RUN_NODE_EXECUTIONS).", at
            )

    def _check_bytes(self, at: datetime) -> None:
        stats, limit = self.state.stats, self._limits.max_bytes
        if stats.bytes + stats.child_bytes > limit:
            shared = ", with those of its child runs," if stats.child_bytes else ""
            self._over_limit(
                f"The outputs of this run{shared} are larger than {limit} bytes in total (setting MAX_RUN_BYTES).", at
            )

    def _put(self, execution: Execution, slot: str, token: Token) -> None:
        row = InputRow(
            execution,
            INPUT,
            len(execution.tokens),
            slot,
            token.text,
            token.source_id,
            token.source_ordinal,
            token.source_part,
        )
        execution.tokens[slot] = token
        self.state.changes.inputs.append(row)
        self._touch(execution)

    def _queue(self, execution: Execution, at: datetime) -> None:
        """An execution has all its values: bind the static ones, number it, make its input."""
        node = execution.node
        node_state = self.state.nodes[node.index]
        for slot, token in node_state.statics.items():
            if slot not in execution.tokens:
                self._put(execution, slot, token)
        execution.become(NodeStatus.QUEUED)
        execution.queued_at = at
        execution.queued_seq = self.state.seq
        execution.ordinal = node_state.next_ordinal
        node_state.next_ordinal += 1
        node_state.unreleased.append(execution)
        self.state.active += 1
        self.state.moving += 1
        for token in execution.tokens.values():
            if token.failed_id is not None:
                self.state.unhandled.pop(token.failed_id, None)
        trace_origins(execution)
        self._touch(execution)
        bound = bind_input(execution)
        if self.state.closing is not None:
            self._finish(execution, NodeStatus.CANCELED, None, at)
        elif isinstance(bound, Failure):
            self._finish(execution, NodeStatus.FAILED, bound, at)
        else:
            self.state.changes.inputs.extend(bound)
            node_state.ready.append(execution)
            self._hand_out(node)
            self._note_ready(node, node_state)

    def _hand_out(self, node: PlannedNode) -> None:
        node_state = self.state.nodes[node.index]
        if self.state.closing is not None:
            return
        while node_state.ready and node_state.busy < node.max_parallel:
            # A head that waits for somebody keeps back what the others yield.
            if (node_state.ready[0].ordinal or 0) - node_state.first_unreleased >= MAX_AHEAD:
                break
            node_state.busy += 1
            self._todo.start.append(node_state.ready.popleft())
        if self.state.crowded:
            self._note_ready(node, node_state)

    def _note_ready(self, node: PlannedNode, node_state: NodeState) -> None:
        """See whether those who send values to the node shall pause or go on (`RunState.crowded`)."""
        ready, crowded = len(node_state.ready), self.state.crowded
        if ready >= MAX_READY and node.index not in crowded:
            self.state.crowded = crowded | {node.index}
        elif ready <= ENOUGH_READY and node.index in crowded:
            self.state.crowded = crowded - {node.index}
