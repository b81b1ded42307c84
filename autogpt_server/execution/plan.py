"""The planner: what follows from one event in a run (rules F1 to F12 of the design). Pure: no I/O, no clock, no randomness.

`Planner.apply` takes an event (an attempt started, yielded a value, ended, ...), changes the `RunState` in memory and answers what has to be done now. The rows to be
written gather in `RunState.changes`; whoever performs the run commits them with the run's `seq`, one event after the other. Times and ids
come from outside, so the same state and the same events always give the same result.

Words: a *slot* is a linked pin of a sink with its dynamic parts; a *token* is a value in a slot; an execution is *handed out* when it may start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from autogpt_server.data.block import ERROR_PIN, Effects
from autogpt_server.data.convert import ConversionError, MissingInput
from autogpt_server.data.pins import MISSING, PinMergeError, merge_slots, pick
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.state import (
    MIXED,
    Execution,
    Failure,
    InputRow,
    NodeState,
    Output,
    RunState,
    Token,
)
from autogpt_server.execution.topology import OutLink, PlannedNode, Release, output_key
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt begins: the block is about to be called."""

    execution_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Yielded:
    """The running attempt yielded a value. `text` is the value as JSON."""

    execution_id: str
    at: datetime
    pin: str
    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The running attempt is over: it failed, or was stopped, or else did all it had to do."""

    execution_id: str
    at: datetime
    failure: Failure | None = None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """The run shall end early: `status` is CANCELED, or FAILED at a limit."""

    at: datetime
    status: RunStatus
    failure: Failure


@dataclass(frozen=True, slots=True)
class OwnerDied:
    """The run's former owner died; this is the first event of the next one (rule D4)."""

    at: datetime
    is_hopeless: bool = False
    """Owners have died again and again without progress, the last one with nothing but this run: what was running is not tried again."""


Event = Started | Yielded | Ended | Close | OwnerDied


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


class Planner:
    """Applies events to one run, in the order in which they are given."""

    def __init__(self, state: RunState, *, new_id: Callable[[], str], limits: RunLimits) -> None:
        self.state = state
        self._new_id = new_id
        self._limits = limits
        self._todo = Todo()
        self._deliveries: deque[tuple[OutLink, Token]] = deque()
        """Tokens on their way. A queue, not recursion: a loop of failing conversions may be long."""
        self._delivering = False

    def start(self, given: Mapping[int, Mapping[str, Any]], at: datetime) -> Todo:
        """Begin the run (rule F1): queue the first execution of each start node with its part of the run's input.

        `given` maps the index of a start node to pin -> value (see `autogpt_server.execution.start`).
        """
        self.state.seq += 1
        for node in self.state.topology.start_nodes:
            execution = self._new_execution(node, at)
            for pin, value in given.get(node.index, {}).items():
                self._put(execution, pin, Token(value, text=json.dumps(value)))
            self._queue(execution, at)
        return self._settle(at)

    def resume(self) -> Todo:
        """Hand out what is queued in a state made from the database. Not an event: nothing changes."""
        for node in self.state.topology.nodes:
            self._hand_out(node)
        return self._take_todo()

    def apply(self, event: Event) -> Todo:
        """Apply one event. Events of executions that have ended are counted, and otherwise ignored."""
        state = self.state
        state.seq += 1
        match event:
            case Yielded():
                if (execution := state.live.get(event.execution_id)) is not None:
                    self._yielded(execution, event)
            case Ended():
                if (execution := state.live.get(event.execution_id)) is not None:
                    self._ended(execution, event)
            case Started():
                if (execution := state.live.get(event.execution_id)) is not None:
                    self._started(execution, event.at)
            case Close():
                self._close(event.status, event.failure, event.at)
            case OwnerDied():
                self._owner_died(event)
        return self._settle(event.at)

    # --- attempts ------------------------------------------------------------------------------------------------

    def _started(self, execution: Execution, at: datetime) -> None:
        if execution.status is not NodeStatus.QUEUED:
            return
        execution.become(NodeStatus.RUNNING)
        execution.attempt += 1
        execution.replayed = 0
        execution.started_at = at
        execution.started_seq = self.state.seq
        self._touch(execution)
        if self.state.started_at is None:
            self.state.started_at = at
        if self.state.status is not RunStatus.RUNNING:
            self.state.become(RunStatus.RUNNING)

    def _yielded(self, execution: Execution, event: Yielded) -> None:
        if execution.status is not NodeStatus.RUNNING:
            return
        if execution.replayed < len(execution.replay):
            self._compare_with_replay(execution, event)
            return
        self._add_output(execution, event.pin, event.value, event.text)
        self._flush_node(execution.node, event.at)
        if self.state.stats.bytes > self._limits.max_bytes:
            self._over_limit(
                f"The outputs of this run are larger than {self._limits.max_bytes} bytes in total (setting MAX_RUN_BYTES).",
                event.at,
            )

    def _compare_with_replay(self, execution: Execution, event: Yielded) -> None:
        expected = execution.replay[execution.replayed]
        execution.replayed += 1
        if (event.pin, event.text) != expected:
            self._fail_not_pure(execution, event.at)
            self._todo.stop.append(execution)

    def _fail_not_pure(self, execution: Execution, at: datetime) -> None:
        message = "The block is declared pure, but when it ran again after a crash it did not yield the same values; declare its true effects."
        self._finish(execution, NodeStatus.FAILED, Failure("not_pure", message), at)

    def _ended(self, execution: Execution, event: Ended) -> None:
        if execution.status is not NodeStatus.RUNNING:
            return
        if event.stopped:
            self._finish(execution, NodeStatus.CANCELED, event.failure, event.at)
        elif event.failure is not None:
            self._finish(execution, NodeStatus.FAILED, event.failure, event.at)
        elif execution.replayed < len(execution.replay):
            self._fail_not_pure(execution, event.at)
        else:
            self._finish(execution, NodeStatus.COMPLETED, None, event.at)

    def _finish(self, execution: Execution, status: NodeStatus, failure: Failure | None, at: datetime) -> None:
        """Bring an active execution to its end and let go what waited for it."""
        state, node_state = self.state, self.state.nodes[execution.node.index]
        was_handed_out = execution.status is NodeStatus.RUNNING
        if execution.status in (NodeStatus.QUEUED, NodeStatus.RUNNING):
            state.moving -= 1
        execution.become(status)
        execution.failure = failure
        execution.ended_at = at
        execution.ended_seq = self.state.seq
        self._touch(execution)
        del state.live[execution.id]
        state.active -= 1
        if was_handed_out:
            node_state.busy -= 1
        match status:
            case NodeStatus.COMPLETED:
                state.stats.completed += 1
            case NodeStatus.CANCELED:
                state.stats.canceled += 1
            case _:
                self._count_failure(execution, failure)
        self._flush_node(execution.node, at)
        self._hand_out(execution.node)

    def _count_failure(self, execution: Execution, failure: Failure | None) -> None:
        failure = failure or Failure("block_failed", "The block failed.")
        self.state.stats.failed += 1
        self.state.unhandled[execution.id] = failure
        if execution.node.settings.release is Release.END:
            execution.held.clear()
        self._add_output(execution, ERROR_PIN, failure.message, json.dumps(failure.message))

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
            if head.held and (ended or node.settings.release is Release.STREAM):
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
        state, limit = self.state, self._limits.max_executions
        execution = Execution(self._new_id(), node, at, added_seq=state.seq)
        state.live[execution.id] = execution
        state.stats.executions += 1
        self._touch(execution)
        if state.stats.executions > limit:
            self._over_limit(f"This run has more than {limit} node executions (setting MAX_RUN_NODE_EXECUTIONS).", at)
        return execution

    def _put(self, execution: Execution, slot: str, token: Token) -> None:
        row = InputRow(
            execution,
            "input",
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
        self._trace_origins(execution)
        self._touch(execution)
        failure = self._bind_input(execution)
        if self.state.closing is not None:
            self._finish(execution, NodeStatus.CANCELED, None, at)
        elif failure is not None:
            self._finish(execution, NodeStatus.FAILED, failure, at)
        else:
            node_state.ready.append(execution)
            self._hand_out(node)

    def _bind_input(self, execution: Execution) -> Failure | None:
        """Merge and convert the values (rules F6 and F7); what changed on the way is recorded."""
        node = execution.node
        given = {slot: token.value for slot, token in execution.tokens.items()}
        try:
            converted = node.convert(merge_slots(node.defaults, given))
            whole = {**node.defaults, **given}
            changed = [
                (pin, json.dumps(value)) for pin, value in converted.items() if value is not whole.get(pin, MISSING)
            ]
        except (ConversionError, MissingInput, PinMergeError) as error:
            return Failure(error.code, str(error))
        except InvalidJSONValue as error:
            return Failure(error.code, f"The values that came make no JSON value together: {error}")
        execution.input = converted
        for ordinal, (pin, text) in enumerate(changed):
            self.state.changes.inputs.append(InputRow(execution, "converted", ordinal, pin, text))
        if execution.mixed_origin and node.fails_on_mixed_origin(converted):
            message = (
                "The values that met here do not belong together: they descend from different outputs of one node. Set the node's "
                "metadata on_mixed_origin to 'warn' to run it nevertheless."
            )
            return Failure("mixed_origin", message)
        return None

    def _trace_origins(self, execution: Execution) -> None:
        """Note what the values descend from, and whether they belong together (rule F8)."""
        watched = execution.node.watched
        if not watched:
            return
        origins: dict[str, tuple[str, int]] = {}
        mixed: set[str] = set()
        statics = execution.node.static_slots
        for slot, token in execution.tokens.items():
            if slot in statics:
                continue
            for pin, origin in (token.origins or {}).items():
                if pin in watched and origins.setdefault(pin, origin) != origin:
                    mixed.add(pin)
        execution.mixed_origin = bool(mixed)
        # What is made of values that met here belongs to nothing but what is made of the same meeting.
        execution.origins = {**origins, **dict.fromkeys(mixed, (execution.id, MIXED))} or None

    def _hand_out(self, node: PlannedNode) -> None:
        node_state = self.state.nodes[node.index]
        if self.state.closing is not None:
            return
        while node_state.ready and node_state.busy < node.max_parallel:
            node_state.busy += 1
            self._todo.start.append(node_state.ready.popleft())

    # --- the run -------------------------------------------------------------------------------------------------

    def _over_limit(self, message: str, at: datetime) -> None:
        self._close(RunStatus.FAILED, Failure("limit_exceeded", message), at)

    def _close(self, status: RunStatus, failure: Failure, at: datetime) -> None:
        """Stop what runs, cancel what waits. The run ends once everything has stopped."""
        state = self.state
        if state.closing is not None or state.status.is_terminal:
            return
        state.closing = status
        state.failure = failure
        self._deliveries.clear()
        self._todo.start.clear()
        for node_state in state.nodes:
            node_state.ready.clear()
        for execution in list(state.live.values()):
            if execution.status is NodeStatus.RUNNING:
                self._todo.stop.append(execution)
            elif execution.status.is_active:
                self._finish(execution, NodeStatus.CANCELED, execution.failure, at)

    def _owner_died(self, event: OwnerDied) -> None:
        """Decide about the attempts that were running when the owner died (rules D3b and D4)."""
        at = event.at
        deadly = Failure("worker_died", "The worker died while the block ran, and so did each one that tried it again.")
        unknown = Failure("outcome_unknown", "The worker died while the block ran; what it did outside is not known.")
        for execution in list(self.state.live.values()):
            if execution.status is not NodeStatus.RUNNING:
                continue
            effects = execution.node.effects_of(execution.input or {})
            is_repeatable = effects is Effects.PURE or (effects is Effects.IDEMPOTENT and execution.outputs == 0)
            if self.state.closing is not None:
                self._finish(execution, NodeStatus.CANCELED, None if is_repeatable else unknown, at)
                continue
            if is_repeatable and event.is_hopeless:
                self._finish(execution, NodeStatus.FAILED, deadly, at)
                continue
            node_state = self.state.nodes[execution.node.index]
            node_state.busy -= 1
            if is_repeatable:
                execution.become(NodeStatus.QUEUED)
                node_state.ready.append(execution)
            else:
                execution.become(NodeStatus.INTERRUPTED)
                execution.failure = unknown
                self.state.moving -= 1
            self._touch(execution)
        for node in self.state.topology.nodes:
            node_state = self.state.nodes[node.index]
            node_state.ready = deque(sorted(node_state.ready, key=lambda execution: execution.ordinal or 0))
            self._hand_out(node)

    def _settle(self, at: datetime) -> Todo:
        """See whether the run has ended, waits or moves again (rules F11 and F12)."""
        state = self.state
        if state.status.is_terminal:
            return self._take_todo()
        if state.active == 0:
            self._end_run(at)
        elif state.moving == 0:
            self._wait(at)
        else:
            self._move(at)
            if (failure := self.overdue(at)) is not None:
                self._close(RunStatus.FAILED, failure, at)
                if state.active == 0:
                    self._end_run(at)
        state.stats.unhandled = len(state.unhandled)
        return self._take_todo()

    def _wait(self, at: datetime) -> None:
        state = self.state
        if state.status is not RunStatus.WAITING:
            state.become(RunStatus.WAITING)
            state.stats.waiting_since = at
        state.reason = self._why_waiting()

    def _move(self, at: datetime) -> None:
        state, stats = self.state, self.state.stats
        if stats.waiting_since is not None:
            stats.waited_s += max(0.0, (at - stats.waiting_since).total_seconds())
            stats.waiting_since = None
        state.reason = None
        if state.status is RunStatus.WAITING:
            state.become(RunStatus.RUNNING)

    def overdue(self, at: datetime) -> Failure | None:
        """Why a run that moves has to be closed now, if it has moved for longer than it may (rule F12). Asked without an event, too."""
        state = self.state
        if state.closing is not None or state.started_at is None or state.status is not RunStatus.RUNNING:
            return None
        if (at - state.started_at).total_seconds() - state.stats.waited_s <= self._limits.max_duration_s:
            return None
        limit = f"{self._limits.max_duration_s:g} seconds (setting MAX_RUN_DURATION_S)"
        return Failure("limit_exceeded", f"This run took longer than {limit}, not counting the time it waited.")

    def _end_run(self, at: datetime) -> None:
        state = self.state
        self._move(at)
        state.ended_at = at
        if state.closing is not None:
            state.become(state.closing)
        elif state.unhandled:
            first = state.unhandled[min(state.unhandled)]  # the oldest execution's: ids sort by time
            count = len(state.unhandled)
            failed = "1 node execution failed" if count == 1 else f"{count} node executions failed, the first with"
            state.failure = Failure("node_failed", f"{failed}: {first.message}")
            state.become(RunStatus.FAILED)
        else:
            state.become(RunStatus.COMPLETED)
        self._todo.run_ended = True

    def _why_waiting(self) -> str:
        statuses = [execution.status for execution in self.state.live.values()]
        interrupted = statuses.count(NodeStatus.INTERRUPTED)
        suspended = statuses.count(NodeStatus.WAITING)
        parts: list[str] = []
        if interrupted:
            parts.append(f"{interrupted} interrupted node execution(s) whose outcome is not known need a decision")
        if suspended:
            parts.append(f"{suspended} node execution(s) wait for a time or a signal")
        return "; ".join(parts) + "."

    def _touch(self, execution: Execution) -> None:
        execution.seq = self.state.seq
        self.state.changes.executions[execution.id] = execution

    def _take_todo(self) -> Todo:
        todo, self._todo = self._todo, Todo()
        return todo
