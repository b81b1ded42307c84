"""One run in the hands of one worker: feeds events to its planner, has attempts performed and changes committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from autogpt_server.data.block import CallGraph, Effects
from autogpt_server.data.db import db_time
from autogpt_server.data.execution import MAX_TAKEOVERS
from autogpt_server.data.inbox import StoredEntry
from autogpt_server.data.run_rows import CommitOutcome, CommitResult, RunCommit
from autogpt_server.data.snapshot import RunSnapshot
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.attempts import Attempt, AttemptEvent, GraphCalled, RunIds, Step
from autogpt_server.execution.events import Close, Due, Ended, Event, OwnerDied, Started, Suspended, TimedOut, Yielded
from autogpt_server.execution.exhaustion import leave_if_exhausted
from autogpt_server.execution.failures import traceback_text
from autogpt_server.execution.flow import RunLimits, Todo
from autogpt_server.execution.gate import Gate
from autogpt_server.execution.news import event_of
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.rows import take_changes
from autogpt_server.execution.state import Execution, Failure, RunState
from autogpt_server.utils.clock import Alarm
from autogpt_server.utils.logging import get_logger

log = get_logger(__name__)

_INTERNAL = Failure(
    "internal_error", "The server could not go on with this run. That is a mistake of the server; its log says more."
)


_LONGEST_ALARM_S = 86_400.0
"""Further off, an alarm is set again on the way: the clock may have been set meanwhile."""
KEEP_WAITING_S = 2.0
"""A run that waits for a time no further off than this stays with its worker."""


class Workshop(Protocol):
    """What an owner needs of its worker."""

    worker_id: str
    cancel_grace_s: float
    """How long an attempt may go on after it was told to stop."""

    def now(self) -> datetime: ...

    def call_later(self, delay_s: float, perform: Callable[[], None]) -> Alarm:
        """Have something done in turn after a while."""
        ...

    def enqueue(self, owner: RunOwner, execution: Execution) -> None:
        """Start the execution as soon as there is room, with `RunOwner.begin`."""
        ...

    def launch(self, attempt: Attempt) -> None:
        """Call the block."""
        ...

    def report(self, owner: RunOwner, attempt: Attempt, event: AttemptEvent) -> None:
        """Apply an event, or leave it to the thread that is planning. Called from any thread."""
        ...

    def discard(self, attempt: Attempt) -> None:
        """An attempt that was to be launched will not be: its room is free."""
        ...

    def call_graph(self, owner: RunOwner, execution: Execution, call: CallGraph, limits: RunLimits) -> None:
        """Prepare a child run, and then tell `RunOwner.graph_prepared`."""
        ...

    def stuck(self, attempt: Attempt) -> None:
        """The attempt goes on though it was told to stop: only the end of its process ends it (rule D7)."""
        ...

    def changed(self, owner: RunOwner, *, at_once: bool) -> None:
        """Have the owner's changes written soon, or at once because something waits for them."""
        ...

    def reached(self, owner: RunOwner) -> None:
        """Events have become durable: whoever watches may be told."""
        ...

    def hint(self, run_ids: Iterable[str]) -> None:
        """Tell the manager of runs that have been made, or that have something new in their inbox."""
        ...

    def release(self, owner: RunOwner) -> None:
        """The worker is done with the run: it has ended, waits, or belongs to another worker."""
        ...

    def abandon(self, owner: RunOwner, failure: Failure) -> None:
        """End the run as failed, where its committed rows stand, and then release it."""
        ...


@dataclass(slots=True)
class _Ahead:
    """What has happened since the last cut."""

    values: int = 0
    value_bytes: int = 0
    progress: bool = False


class RunOwner:
    """A run while this worker performs it. Everything here is called in turn (`turns.py`), one thread at a time."""

    def __init__(
        self,
        workshop: Workshop,
        state: RunState,
        planner: Planner,
        snapshot: RunSnapshot,
        inline_value_bytes: int,
        *,
        is_suspect: bool = False,
    ) -> None:
        """`is_suspect`: the run may have killed its last worker, so each attempt is on record before it begins (rule D3b)."""
        self.state = state
        self.ids = RunIds(state.id, state.topology.graph_id, state.topology.version)
        self.gate = Gate()
        self._workshop = workshop
        self._planner = planner
        self._inline_value_bytes = inline_value_bytes
        self._is_suspect = is_suspect
        self._is_hopeless = snapshot.takeovers > MAX_TAKEOVERS
        self._epoch = snapshot.epoch + 1
        self._cut_epoch = snapshot.epoch
        self._cut_seq = snapshot.seq
        self.durable_epoch = snapshot.epoch
        self.durable_seq = snapshot.seq
        """What is committed: of this owner, or of the one before while nothing of this one is."""
        self._ahead = _Ahead()
        self._in_flight: _Ahead | None = None
        self._attempts: dict[str, Attempt] = {}
        self._waiting_for_commit: list[tuple[int, Attempt]] = []
        self._is_gone = False
        self._failure: Failure | None = None
        self._alarm: Alarm | None = None
        self._alarm_at: datetime | None = None
        self._former_died = snapshot.status == RunStatus.RUNNING
        self._news = snapshot.inbox
        self._parent_run_id = snapshot.parent_run_id
        self._crowded: frozenset[int] = frozenset()
        self._is_pacing = True

    def take_up(self) -> None:
        """Begin: carry on where the last owner, or the one who made the run, left off."""
        if self._epoch > 1:
            self._ahead.progress = self._is_hopeless  # what killed its workers will be over
            self.apply(OwnerDied(self._workshop.now(), self._is_hopeless))
            self._wake_up()
        else:
            self._perform(self._planner.resume())
        self.receive(self._news)

    def receive(self, entries: Iterable[StoredEntry]) -> None:
        """Apply what has come into the run's inbox, each entry once."""
        for entry in entries:
            if self._is_gone or self._failure is not None:
                return
            if entry.number > self.state.inbox_done:
                self.state.inbox_done = entry.number
                self._ahead.progress = True
                self.apply(event_of(entry, self._workshop.now()))

    def apply(self, event: Event) -> None:
        """One event, and what follows from it."""
        if self._is_gone or self._failure is not None:
            return
        if isinstance(event, Yielded):
            self._ahead.values += 1
            self._ahead.value_bytes += len(event.text)
            execution = self.state.live.get(event.execution_id)
            # What a pure block repeats after a crash is no progress.
            self._ahead.progress |= execution is not None and execution.replayed >= len(execution.replay)
        elif isinstance(event, Ended | Suspended):
            self._attempts.pop(event.execution_id, None)
            self._ahead.progress = True
        if self.state.status.is_terminal:
            return  # too late: a request, or the end of a block that went on though its execution had failed
        todo = self._planner.apply(event)
        self._workshop.changed(self, at_once=self.state.status is not RunStatus.RUNNING or not self.gate.is_open)
        self._perform(todo)

    def begin(self, execution: Execution) -> bool:
        """There is room: start the attempt, unless the execution has been canceled meanwhile. Answers whether an attempt begins."""
        if self._is_gone or self._failure is not None:
            return False
        self.apply(Started(execution.id, self._workshop.now()))
        if execution.status is not NodeStatus.RUNNING:
            return False
        attempt = Attempt(execution, execution.attempt, self.ids, self.gate, self._report)
        self._attempts[execution.id] = attempt
        if not self._is_suspect and execution.node.effects_of(execution.input or {}) is Effects.PURE:
            self._launch(attempt)
        else:  # what touches the outside starts only once it is on record that it was started
            self._waiting_for_commit.append((self.state.seq, attempt))
            self._workshop.changed(self, at_once=True)
        return True

    def take(self, event: Step) -> None:
        """What an attempt has reported, in order."""
        if not isinstance(event, GraphCalled):
            self.apply(event)
        elif not self._is_gone and (execution := self.state.live.get(event.execution_id)) is not None:
            self._workshop.call_graph(self, execution, event.call, self._planner.remaining(self._workshop.now()))

    def graph_prepared(self, events: Iterable[Event]) -> None:
        """A child run is ready to be written, or cannot be."""
        for event in events:
            self.apply(event)

    def _report(self, attempt: Attempt, event: AttemptEvent) -> None:
        self._workshop.report(self, attempt, event)

    def _launch(self, attempt: Attempt) -> None:
        attempt.is_launched = True
        attempt.time_left_s = attempt.execution.node.timeout_s
        self._start_clock(attempt)
        self._workshop.launch(attempt)

    def _start_clock(self, attempt: Attempt) -> None:
        if attempt.time_left_s is not None:
            attempt.timed_since = self._workshop.now()
            attempt.time_limit = self._workshop.call_later(attempt.time_left_s, partial(self._time_out, attempt))

    def _stop_clock(self, attempt: Attempt) -> None:
        if attempt.time_limit is not None and attempt.time_left_s is not None and attempt.timed_since is not None:
            attempt.time_limit.cancel()
            taken_s = (self._workshop.now() - attempt.timed_since).total_seconds()
            attempt.time_left_s = max(0.0, attempt.time_left_s - taken_s)
            attempt.time_limit = None

    def paused(self, attempt: Attempt, *, is_paused: bool) -> None:
        """An attempt waits for others, or goes on: its own time does not run meanwhile."""
        if is_paused:
            self._stop_clock(attempt)
        elif not attempt.is_over:
            self._start_clock(attempt)

    def stop_pacing(self) -> None:
        """Let no attempt wait for others any more: those will not come to it here."""
        self._is_pacing = False
        self.gate.pause(frozenset())

    def _pace(self) -> None:
        """Have those pause that send values to nodes with too much to do."""
        crowded = self.state.crowded
        if crowded is not self._crowded and self._is_pacing:
            self._crowded = crowded
            nodes = self.state.topology.nodes
            self.gate.pause(frozenset(node.index for node in nodes if not crowded.isdisjoint(node.paced_by)))

    def _time_out(self, attempt: Attempt) -> None:
        if not attempt.is_over:
            self.apply(TimedOut(attempt.execution.id, self._workshop.now()))

    def _stop(self, attempt: Attempt) -> None:
        """Ask an attempt to end, and see to it that it does."""
        if attempt.is_stopped:
            return
        attempt.stop()
        self._workshop.call_later(self._workshop.cancel_grace_s, partial(self._insist, attempt))

    def _insist(self, attempt: Attempt) -> None:
        if attempt.is_launched and not attempt.is_over:
            self._workshop.stuck(attempt)

    def check_time(self, now: datetime) -> None:
        """End the run if it has taken too long, though nothing happens in it; and wake up what is due though no alarm has told.

        The clock may have been set, or the machine have slept, since the alarm was set.
        """
        if self._alarm_at is not None and self._alarm_at <= now:
            self._wake_up()
        failure = self._planner.overdue(now)
        if failure is not None:
            self.apply(Close(now, RunStatus.FAILED, failure))

    def cut(self) -> RunCommit | None:
        """Take what has happened since the last cut (`committer.Source`)."""
        if self._is_gone or self._failure is not None or self.state.seq == self._cut_seq:
            return None
        entry = RunCommit(
            run_id=self.state.id,
            epoch=self._epoch,
            worker_id=self._workshop.worker_id,
            from_seq=self._cut_seq,
            to_seq=self.state.seq,
            changes=take_changes(self.state, inline_value_bytes=self._inline_value_bytes),
            claim=self._cut_epoch != self._epoch,
            progress=self._ahead.progress,
            former_died=self._former_died,
            inbox_done=self.state.inbox_done,
            at=db_time(self._workshop.now()) or "",
        )
        self._cut_epoch, self._cut_seq = self._epoch, self.state.seq
        self._in_flight, self._ahead = self._ahead, _Ahead()
        return entry

    def written(self, entry: RunCommit, result: CommitResult) -> None:
        """Learn what became of a cut (`committer.Source`)."""
        if self._in_flight is not None:
            self.gate.settle(self._in_flight.values, self._in_flight.value_bytes)
            self._in_flight = None
        match result.outcome:
            case CommitOutcome.DONE:
                self.durable_epoch, self.durable_seq = entry.epoch, entry.to_seq
                self._workshop.reached(self)
                self._tell_family(entry)
                if self._failure is not None:
                    self._abandon()
                else:
                    self._durable()
            case CommitOutcome.FENCED:
                log.warning("run has another owner, dropping it", run_id=self.state.id, epoch=self._epoch)
                self.drop()
            case CommitOutcome.FAILED:
                self.fail(result.error or RuntimeError("rows refused"))

    def _tell_family(self, entry: RunCommit) -> None:
        """Have those runs looked at now that this commit has made, or written to."""
        changes = entry.changes
        told = {child.id for child in changes.children} | {other.run_id for other in changes.outbox}
        if changes.run.ended_at is not None and self._parent_run_id is not None:
            told.add(self._parent_run_id)
        if told:
            self._workshop.hint(told)

    def fail(self, error: Exception) -> None:
        """Something that cannot happen has happened: what is in memory is not to be built on. End the run as failed."""
        leave_if_exhausted(error)
        if self._is_gone or self._failure is not None:
            return
        log.error("run cannot be carried on with", run_id=self.state.id, traceback=traceback_text(error))
        self._failure = _INTERNAL
        self.stop_attempts()
        if self._in_flight is None:  # else once it is known what is committed
            self._abandon()

    def _abandon(self) -> None:
        self._leave()
        self._workshop.abandon(self, self._failure or _INTERNAL)

    def stop_attempts(self) -> None:
        """Ask all running attempts to end."""
        for attempt in self._attempts.values():
            self._stop(attempt)

    def drop(self) -> None:
        """Have nothing more to do with the run."""
        if not self._is_gone:
            self._leave()
            self._workshop.release(self)

    def release_if_idle(self) -> None:
        """Have nothing more to do with the run if nothing of it happens here: another worker takes it over."""
        if not self._attempts and self._in_flight is None and self.durable_seq == self.state.seq:
            self.drop()

    def _leave(self) -> None:
        self._is_gone = True
        if self._alarm is not None:
            self._alarm.cancel()
        for _, attempt in self._waiting_for_commit:
            attempt.is_over = True
            self._attempts.pop(attempt.execution.id, None)
            self._workshop.discard(attempt)
        self._waiting_for_commit.clear()
        self.stop_attempts()

    def _durable(self) -> None:
        seq = self.durable_seq
        begun = [attempt for at, attempt in self._waiting_for_commit if at <= seq]
        self._waiting_for_commit = [(at, attempt) for at, attempt in self._waiting_for_commit if at > seq]
        for attempt in begun:
            if attempt.is_stopped:
                attempt.is_over = True
                self._workshop.discard(attempt)
                self.apply(Ended(attempt.execution.id, self._workshop.now(), stopped=True, called=False))
            else:
                self._launch(attempt)
        if self.durable_seq == self.state.seq and (self.state.status.is_terminal or self._waits_long()):
            self.drop()

    def _waits_long(self) -> bool:
        if self.state.status is not RunStatus.WAITING:
            return False
        wake_at = self.state.wake_at()
        return wake_at is None or (wake_at - self._workshop.now()).total_seconds() > KEEP_WAITING_S

    def _set_alarm(self) -> None:
        """Be called when the first of those that wait for a time may move on."""
        wake_at = self.state.wake_at()
        if wake_at == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = wake_at
        if wake_at is not None:
            delay_s = (wake_at - self._workshop.now()).total_seconds()
            self._alarm = self._workshop.call_later(min(max(0.0, delay_s), _LONGEST_ALARM_S), self._wake_up)

    def _wake_up(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = None
        wake_at, now = self.state.wake_at(), self._workshop.now()
        if wake_at is not None and wake_at <= now:
            self.apply(Due(now))
        elif not self._is_gone:
            self._set_alarm()  # the clock was set back, or the wait is longer than an alarm can be

    def _perform(self, todo: Todo) -> None:
        self._pace()
        for execution in todo.stop:
            attempt = self._attempts.get(execution.id)
            if attempt is not None:
                self._stop(attempt)
        for execution in todo.start:
            self._workshop.enqueue(self, execution)
        if self.state.timers or self._alarm_at is not None:
            self._set_alarm()
