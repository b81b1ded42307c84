"""The planner: what follows from one event in a run (rules F1 to F12 of the design). Pure: no I/O, no clock, no randomness.

`Planner.apply` takes an event (an attempt started, yielded a value, ended, ...), changes the `RunState` in memory and answers what has to be done now. The rows to be
written gather in `RunState.changes`; whoever performs the run commits them with the run's `seq`, one event after the other. Times and ids
come from outside, so the same state and the same events always give the same result.

Words: a *slot* is a linked pin of a sink with its dynamic parts; a *token* is a value in a slot; an execution is *handed out* when it may start.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from autogpt_server.data.block import ERROR_PIN, Effects
from autogpt_server.data.run_rows import AttemptOutcome, cancel_of
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.events import (
    ChildEnded,
    Close,
    Due,
    Ended,
    Event,
    OwnerDied,
    Resolution,
    Resolved,
    Signaled,
    Started,
    Suspended,
    TimedOut,
    Yielded,
)
from autogpt_server.execution.flow import Flow, RunLimits, Todo
from autogpt_server.execution.state import (
    TIMEOUT,
    EndedAttempt,
    Execution,
    Failure,
    FailureKind,
    Resumed,
    Signal,
    Token,
)
from autogpt_server.execution.topology import OnInterrupted, OutLink, PlannedNode, Release
from autogpt_server.utils import json

_NOTHING = Todo()
"""What most events leave to be done. Not to be changed."""
MAX_AUTOMATIC_REPEATS = 3
"""How often a node with `on_interrupted` = `retry` is repeated before a person is asked nevertheless."""

_OUTCOME_UNKNOWN = "outcome_unknown"


class Planner(Flow):
    """Applies events to one run, in the order in which they are given."""

    def start(self, given: Mapping[int, Mapping[str, Any]], at: datetime) -> Todo:
        """Begin the run (rule F1): queue the first execution of each start node with its part of the run's input.

        `given` maps the index of a start node to pin -> value (see `autogpt_server.execution.start`).
        """
        self.state.seq += 1
        for node in self.state.topology.start_nodes:
            self._begin(node, given.get(node.index, {}), at)
        return self._settle(at)

    def replay(
        self, given: Mapping[int, Mapping[str, Any]], arrivals: Iterable[tuple[OutLink, Token]], at: datetime
    ) -> Todo:
        """Begin a re-run (rule D9): of the start nodes those in `given` begin anew; then the values of a former run arrive, in their order.

        The state already counts what is taken over (see `autogpt_server.execution.rerun`).
        """
        self.state.seq += 1
        for index, values in given.items():
            self._begin(self.state.topology.nodes[index], values, at)
        for arrival in arrivals:
            if self.state.closing is not None:
                break
            self._deliveries.append(arrival)
            self._deliver_all(at)
        return self._settle(at)

    def _begin(self, node: PlannedNode, values: Mapping[str, Any], at: datetime) -> None:
        execution = self._new_execution(node, at)
        for pin, value in values.items():
            self._put(execution, pin, Token(value, text=json.dumps(value)))
        self._queue(execution, at)

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
            case Close():
                self._close(event.status, event.failure, event.at)
            case OwnerDied():
                self._owner_died(event)
            case Due():
                self._due(event.at)
            case _:
                if (execution := state.live.get(event.execution_id)) is not None:
                    self._happened_to(execution, event)
        return self._settle(event.at)

    def _happened_to(
        self,
        execution: Execution,
        event: Started | Yielded | Ended | Suspended | TimedOut | Resolved | Signaled | ChildEnded,
    ) -> None:
        match event:
            case Yielded():
                self._yielded(execution, event)
            case Ended():
                self._ended(execution, event)
            case Started():
                self._started(execution, event.at)
            case Suspended():
                self._suspended(execution, event)
            case TimedOut():
                self._timed_out(execution)
            case Resolved():
                self._resolved(execution, event)
            case Signaled():
                self._signaled(execution, Signal(event.name, event.value))
            case ChildEnded():
                self._child_ended(execution, event)

    def remaining(self, at: datetime) -> RunLimits:
        """What is left of the limits: what a child run may take (rule D11)."""
        stats = self.state.stats
        moved_s = (
            0.0 if self.state.started_at is None else (at - self.state.started_at).total_seconds() - stats.waited_s
        )
        return RunLimits(
            max_executions=max(0, self._limits.max_executions - stats.executions - stats.child_executions),
            max_bytes=max(0, self._limits.max_bytes - stats.bytes - stats.child_bytes),
            max_duration_s=max(0.0, self._limits.max_duration_s - moved_s),
        )

    # --- attempts ------------------------------------------------------------------------------------------------

    def _started(self, execution: Execution, at: datetime) -> None:
        if execution.status is not NodeStatus.QUEUED:
            return
        execution.become(NodeStatus.RUNNING)
        execution.attempt += 1
        execution.replayed = 0
        execution.failure = None
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
        if execution.node.retry.max_attempts > 1:
            execution.replay.append((event.pin, event.text))
            execution.replayed += 1
        self._add_output(execution, event.pin, event.value, event.text)
        self._flush_node(execution.node, event.at)
        self._check_bytes(event.at)

    def _compare_with_replay(self, execution: Execution, event: Yielded) -> None:
        expected = execution.replay[execution.replayed]
        execution.replayed += 1
        if (event.pin, event.text) != expected:
            self._fail_not_pure(execution, event.at)
            self._todo.stop.append(execution)

    def _fail_not_pure(self, execution: Execution, at: datetime) -> None:
        message = "The block is declared pure, but when it ran again after a crash it did not yield the same values; declare its true effects."
        self._finish(execution, NodeStatus.FAILED, Failure("not_pure", message), at)

    def _timed_out(self, execution: Execution) -> None:
        if execution.status is not NodeStatus.RUNNING or execution.is_timed_out:
            return
        limit = execution.node.timeout_s or 0.0
        execution.failure = Failure(
            TIMEOUT, f"The block was stopped because it took longer than {limit:g} s (timeout_s)."
        )
        self._touch(execution)
        self._todo.stop.append(execution)

    def _ended(self, execution: Execution, event: Ended) -> None:
        if execution.status is not NodeStatus.RUNNING:
            return
        at = event.at
        is_unfinished = event.stopped or event.failure is not None
        if not is_unfinished and execution.replayed < len(execution.replay):
            self._fail_not_pure(execution, at)
        elif not is_unfinished:
            self._finish(execution, NodeStatus.COMPLETED, None, at)
        elif self.state.closing is not None:
            self._ended_while_closing(execution, event)
        elif execution.failure is not None and execution.is_timed_out:
            self._attempt_failed(execution, execution.failure, at, is_unknown=event.called)
        elif event.failure is not None:
            self._attempt_failed(execution, event.failure, at, is_unknown=event.failure.kind is FailureKind.UNKNOWN)
        else:
            self._finish(execution, NodeStatus.CANCELED, None, at)

    def _ended_while_closing(self, execution: Execution, event: Ended) -> None:
        if not event.stopped:
            self._finish(execution, NodeStatus.FAILED, event.failure, event.at)
        else:
            is_unknown = event.called and self._effects(execution) is Effects.UNSAFE
            self._finish(execution, NodeStatus.CANCELED, _stopped_midway() if is_unknown else None, event.at)

    def _attempt_failed(self, execution: Execution, failure: Failure, at: datetime, *, is_unknown: bool) -> None:
        """An attempt has failed: try again, fail, or ask what has happened (rule D7). `is_unknown`: it is not known what it has done."""
        if is_unknown and self._effects(execution) is Effects.UNSAFE:
            self._interrupt(execution, failure, at)
        elif self._may_retry(execution, failure):
            self._retry(execution, failure, at)
        else:
            self._finish(execution, NodeStatus.FAILED, failure, at)

    def _may_retry(self, execution: Execution, failure: Failure) -> bool:
        if failure.kind is FailureKind.PERMANENT or execution.retries + 1 >= execution.node.retry.max_attempts:
            return False
        effects = self._effects(execution)
        if effects is Effects.UNSAFE and failure.kind is not FailureKind.NOT_STARTED:
            return False
        # What has travelled cannot be taken back, and only a pure block yields the same again.
        has_yielded = execution.outputs > execution.first_output
        return not has_yielded or effects is Effects.PURE or execution.node.release is Release.END

    def _retry(self, execution: Execution, failure: Failure, at: datetime) -> None:
        execution.retries += 1
        if execution.node.release is Release.END and self._effects(execution) is not Effects.PURE:
            self._discard_outputs(execution)
        delay_s = execution.node.retry.delay_before(execution.retries)
        self._leave_attempt(execution, AttemptOutcome.FAILED, failure, at)
        execution.failure = failure
        self._queue_again(execution, at + timedelta(seconds=delay_s) if delay_s else None)
        self._hand_out(execution.node)

    def _discard_outputs(self, execution: Execution) -> None:
        """Forget what the failed attempt has yielded; nothing of it has been released."""
        changes, first = self.state.changes, execution.first_output
        dropped = [output for output in execution.held if output.ordinal >= first]
        if any(output.committed for output in dropped):
            changes.discarded.append((execution.id, first))
        changes.outputs = [
            output for output in changes.outputs if output.execution is not execution or output.ordinal < first
        ]
        execution.held = execution.held[: len(execution.held) - len(dropped)]
        execution.replay = []
        execution.outputs = first

    def _leave_attempt(
        self, execution: Execution, outcome: AttemptOutcome, failure: Failure | None, at: datetime
    ) -> None:
        """The present attempt is over, and another one will follow: keep what there is to know of it."""
        self.state.changes.attempts.append(
            EndedAttempt(execution.id, execution.attempt, outcome, failure, execution.started_at, at)
        )

    def _queue_again(self, execution: Execution, not_before: datetime | None = None) -> None:
        """Let an execution that is RUNNING, WAITING or INTERRUPTED start again, at a time or as soon as there is room."""
        node_state = self.state.nodes[execution.node.index]
        was_moving = execution.is_moving
        if execution.status is NodeStatus.RUNNING:
            node_state.busy -= 1
        execution.become(NodeStatus.QUEUED)
        execution.not_before = not_before
        if not_before is None:
            node_state.ready.appendleft(execution)  # its turn was before those that have not started
        else:
            heapq.heappush(self.state.timers, (not_before, execution.id))
        self.state.moving += execution.is_moving - was_moving
        self._touch(execution)

    def _finish(self, execution: Execution, status: NodeStatus, failure: Failure | None, at: datetime) -> None:
        """Bring an active execution to its end and let go what waited for it."""
        state, node_state = self.state, self.state.nodes[execution.node.index]
        state.moving -= execution.is_moving
        if execution.status is NodeStatus.RUNNING:
            node_state.busy -= 1
        execution.become(status)
        execution.failure = failure
        execution.not_before = execution.waits_for = None
        execution.ended_at = at
        execution.ended_seq = self.state.seq
        self._touch(execution)
        del state.live[execution.id]
        state.active -= 1
        match status:
            case NodeStatus.COMPLETED:
                state.stats.completed += 1
            case NodeStatus.CANCELED:
                state.stats.canceled += 1
            case NodeStatus.SKIPPED:
                state.stats.skipped += 1
            case _:
                self._count_failure(execution, failure)
        self._flush_node(execution.node, at)
        self._hand_out(execution.node)

    # --- waiting -------------------------------------------------------------------------------------------------

    def _suspended(self, execution: Execution, event: Suspended) -> None:
        """The block waits for a time, a signal or a child run (rules D10 and D11)."""
        if execution.status is not NodeStatus.RUNNING:
            return
        if self.state.closing is not None:
            self._finish(execution, NodeStatus.CANCELED, None, event.at)
            return
        if execution.replayed < len(execution.replay):
            self._fail_not_pure(execution, event.at)
            return
        self._leave_attempt(execution, AttemptOutcome.SUSPENDED, None, event.at)
        self.state.moving -= 1
        self.state.nodes[execution.node.index].busy -= 1
        execution.become(NodeStatus.WAITING)
        execution.failure = None
        execution.waits_for = event.signal
        execution.not_before = event.until
        if event.until is not None:
            heapq.heappush(self.state.timers, (event.until, execution.id))
        if event.child is not None:
            execution.child_run_id = event.child.id
            self.state.changes.children.append(event.child)
        self._touch(execution)
        for signal in execution.signals:
            if signal.name == event.signal:
                execution.signals = [other for other in execution.signals if other is not signal]
                self._resume(execution, Resumed(signal.value))
                break
        self._hand_out(execution.node)

    def _resume(self, execution: Execution, resumed: Resumed) -> None:
        """Call the block again: a new call, whose outputs come after those of the calls before."""
        execution.resumed = resumed
        execution.waits_for = execution.child_run_id = None
        self._new_call(execution)

    def _new_call(self, execution: Execution) -> None:
        execution.first_output = execution.outputs
        execution.replay = []
        self._queue_again(execution)
        self._hand_out(execution.node)

    def _signaled(self, execution: Execution, signal: Signal) -> None:
        if execution.status is NodeStatus.WAITING and execution.waits_for == signal.name:
            self._resume(execution, Resumed(signal.value))
        else:
            execution.signals = [*execution.signals, signal]
            self._touch(execution)

    def _child_ended(self, execution: Execution, event: ChildEnded) -> None:
        if execution.status is not NodeStatus.WAITING or execution.child_run_id != event.child_run_id:
            return
        self.state.stats.child_executions += event.executions
        self.state.stats.child_bytes += event.size_bytes
        # Several child runs at once were each given all that was left when they began.
        self._check_executions(event.at)
        self._check_bytes(event.at)
        if self.state.closing is not None:
            self._finish(execution, NodeStatus.CANCELED, None, event.at)
        else:
            self._resume(execution, Resumed(child_run_id=event.child_run_id))

    def _due(self, at: datetime) -> None:
        """Time has passed: back-offs are over, and blocks that wait for a time are called again."""
        while (when := self.state.wake_at()) is not None and when <= at:
            _, execution_id = heapq.heappop(self.state.timers)
            execution = self.state.live[execution_id]
            if execution.status is NodeStatus.WAITING:
                self._resume(execution, Resumed())
            else:
                execution.not_before = None
                self.state.moving += 1
                self._touch(execution)
                self.state.nodes[execution.node.index].ready.appendleft(execution)
                self._hand_out(execution.node)

    def _interrupt(self, execution: Execution, failure: Failure, at: datetime) -> None:
        """It is not known what the attempt has done: do what the graph says, or let a person decide (rule D4)."""
        state = self.state
        state.nodes[execution.node.index].busy -= 1
        state.moving -= 1
        execution.become(NodeStatus.INTERRUPTED)
        execution.failure = failure
        self._touch(execution)
        policy = execution.node.settings.on_interrupted
        if policy is OnInterrupted.RETRY:
            if execution.retries < MAX_AUTOMATIC_REPEATS:
                execution.retries += 1
            else:
                policy = OnInterrupted.ASK
        if policy is OnInterrupted.ASK:
            self._hand_out(execution.node)
        else:
            self._resolve(execution, Resolution(policy.value), at)

    def _resolved(self, execution: Execution, event: Resolved) -> None:
        if execution.status is NodeStatus.INTERRUPTED and self.state.closing is None:
            self._resolve(execution, event.resolution, event.at)

    def _resolve(self, execution: Execution, resolution: Resolution, at: datetime) -> None:
        match resolution:
            case Resolution.RETRY:
                self._leave_attempt(execution, AttemptOutcome.INTERRUPTED, execution.failure, at)
                self._new_call(execution)
            case Resolution.SKIP:
                self._finish(execution, NodeStatus.SKIPPED, execution.failure, at)
            case Resolution.FAIL:
                self._finish(execution, NodeStatus.FAILED, execution.failure, at)

    def _count_failure(self, execution: Execution, failure: Failure | None) -> None:
        failure = failure or Failure("block_failed", "The block failed.")
        self.state.stats.failed += 1
        self.state.unhandled[execution.id] = failure
        if execution.node.release is Release.END:
            execution.held.clear()
        self._add_output(execution, ERROR_PIN, failure.message, json.dumps(failure.message))

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
            elif execution.child_run_id is not None:  # ends when the child has ended
                state.changes.outbox.append(
                    cancel_of(execution.child_run_id, reason="The run that started it is being ended.")
                )
            elif execution.status.is_active:
                self._finish(execution, NodeStatus.CANCELED, execution.failure, at)

    def _owner_died(self, event: OwnerDied) -> None:
        """Decide about the attempts that were running when the owner died (rules D3b and D4)."""
        for execution in list(self.state.live.values()):
            if execution.status is NodeStatus.RUNNING:
                self._outlived_owner(execution, event)
        for node in self.state.topology.nodes:
            node_state = self.state.nodes[node.index]
            node_state.ready = deque(sorted(node_state.ready, key=lambda execution: execution.ordinal or 0))
            self._hand_out(node)

    def _outlived_owner(self, execution: Execution, event: OwnerDied) -> None:
        at, effects = event.at, self._effects(execution)
        has_yielded = execution.outputs > execution.first_output
        is_repeatable = effects is Effects.PURE or (effects is Effects.IDEMPOTENT and not has_yielded)
        if self.state.closing is not None:
            self._finish(execution, NodeStatus.CANCELED, None if is_repeatable else _stopped_midway(), at)
        elif execution.failure is not None and execution.is_timed_out:
            self._attempt_failed(execution, execution.failure, at, is_unknown=not is_repeatable)
        elif is_repeatable and event.is_hopeless:
            message = "The worker died while the block ran, and so did each one that tried it again."
            self._finish(execution, NodeStatus.FAILED, Failure("worker_died", message), at)
        elif is_repeatable:
            self._leave_attempt(
                execution, AttemptOutcome.DIED, Failure("worker_died", "The worker died while the block ran."), at
            )
            self._queue_again(execution)
        else:
            message = "The worker died while the block ran; what it did outside is not known."
            self._interrupt(execution, Failure(_OUTCOME_UNKNOWN, message), at)

    @staticmethod
    def _effects(execution: Execution) -> Effects:
        return execution.node.effects_of(execution.input or {})

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
            if state.status is not RunStatus.RUNNING or state.stats.waiting_since is not None:
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
        if at - state.started_at <= self._max_duration:  # most of the time, and cheap
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
            which = "" if count == 1 else ", the first with"
            state.failure = Failure("node_failed", f"{_count(count, 'node execution')} failed{which}: {first.message}")
            state.become(RunStatus.FAILED)
        else:
            state.become(RunStatus.COMPLETED)
        self._todo.run_ended = True

    def _why_waiting(self) -> str:
        """What has to come for the run to move on; now none of its executions does."""
        waits = Counter(_wait_of(execution) for execution in self.state.live.values())
        if self.state.closing is not None:
            return f"It is being ended, and waits for {_count(waits[_Wait.CHILD], 'child run')} to end."
        parts = [
            f"{_count(waits[kind], 'node execution')} {one if waits[kind] == 1 else several}"
            for kind, (one, several) in _WAITS.items()
            if waits[kind]
        ]
        return f"{'; '.join(parts)}."

    def _take_todo(self) -> Todo:
        todo = self._todo
        if not (todo.start or todo.stop or todo.run_ended):
            return _NOTHING
        self._todo = Todo()
        return todo


class _Wait(Enum):
    """What an execution waits for that does not move."""

    DECISION = auto()
    SIGNAL = auto()
    CHILD = auto()
    TIME = auto()
    RETRY = auto()
    VALUES = auto()


_WAITS = {
    _Wait.DECISION: (
        "needs a decision, because its outcome is not known",
        "need a decision, because their outcome is not known",
    ),
    _Wait.SIGNAL: ("waits for a signal", "wait for signals"),
    _Wait.CHILD: ("waits for a child run", "wait for child runs"),
    _Wait.TIME: ("waits for a time", "wait for a time"),
    _Wait.RETRY: ("waits before it is tried again", "wait before they are tried again"),
}
"""How it is told of one execution, and of several. Those that lack values are told of at the run's end."""


def _wait_of(execution: Execution) -> _Wait:
    match execution.status:
        case NodeStatus.INTERRUPTED:
            return _Wait.DECISION
        case NodeStatus.QUEUED:
            return _Wait.RETRY
        case NodeStatus.WAITING if execution.child_run_id is not None:
            return _Wait.CHILD
        case NodeStatus.WAITING:
            return _Wait.TIME if execution.waits_for is None else _Wait.SIGNAL
        case _:
            return _Wait.VALUES


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _stopped_midway() -> Failure:
    return Failure(_OUTCOME_UNKNOWN, "The block was stopped while it ran; what it did outside is not known.")
