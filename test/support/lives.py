"""Runs in which everything happens that can happen to a run: waits, retries, decisions, child runs, cancellation, owners that die. Chance decides."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass, field
from datetime import timedelta

from autogpt_server.data.run_rows import CommitOutcome, NewRun, ParentLink
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
from autogpt_server.execution.flow import Todo
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start
from autogpt_server.execution.state import Execution, Failure, FailureKind
from support.ledger import INLINE_BYTES, Ledger, store_graph
from support.planning import EPOCH, LIMITS, Game, numbered_ids, topology_of

GRAPHS = (
    "A: free\nB: serial\nC: free\nA.x -> B.a\nB.x -> C.a\nA.y -> C.b",
    'A: idempotent @retry={"max_attempts":3,"delay_s":5}\nB: unsafe\nC: free @max_parallel=2\nA.x -> B.a\nA.x -> C.a\nB.x -> C.b',
    'A: free\nB: free @release="end" @retry=2\nS: free\nC: free\nA.x -> B.a\nS.x => C.a\nS.x_#_k => C.c\nB.x -> C.b\nA.error -> C.c_#_e',
    'A: unsafe @on_interrupted="retry"\nB: unsafe @retry={"max_attempts":2,"delay_s":0}\nC: free\nA.x -> B.a\nB.error -> C.a\nB.x -> C.b',
)


@dataclass
class Life:
    """One run, written after each event."""

    connection: sqlite3.Connection
    chance: random.Random
    ready: dict[str, Execution] = field(default_factory=dict[str, Execution])
    stopping: set[str] = field(default_factory=set[str])
    children: int = 0

    def __post_init__(self) -> None:
        graph = self.chance.choice(GRAPHS)
        self.topology = topology_of(graph)
        store_graph(self.connection, self.topology)
        self.game = Game(self.topology)
        self.ledger = Ledger(self.connection, self.topology)
        self.game.begin({})
        self.ledger.insert(self.game.state)
        self._take_over()

    @property
    def is_over(self) -> bool:
        return self.game.state.status.is_terminal

    def step(self) -> None:
        """Something happens, and is written."""
        if self.chance.random() < 0.04 and self.game.state.seq > 1:
            self._take_over()
        else:
            self._apply(self._event())
        result = self.ledger.commit(self.game.state)
        assert result.outcome is CommitOutcome.DONE, result

    def _take_over(self) -> None:
        is_first = self.ledger.epoch == 0
        state = self.ledger.take_over()
        self.game.carry_on_with(state)
        self.ready.clear()
        self.stopping.clear()
        if is_first:
            self._took(self.game.planner.resume())
        else:
            self._apply(OwnerDied(self.game.tick()))

    def _apply(self, event: Event) -> None:
        self._took(self.game.apply(event))

    def _took(self, todo: Todo) -> None:
        self.ready.update({execution.id: execution for execution in todo.start})
        self.stopping |= {execution.id for execution in todo.stop}
        live = self.game.state.live
        self.ready = {
            each: execution
            for each, execution in self.ready.items()
            if execution.status is NodeStatus.QUEUED and each in live
        }
        self.stopping &= live.keys()

    def _event(self) -> Event:
        state, chance = self.game.state, self.chance
        at = self.game.tick()
        if chance.random() < 0.01 and state.closing is None:
            return Close(at, chance.choice((RunStatus.CANCELED, RunStatus.FAILED)), Failure("canceled", "closed"))
        choices: list[Event] = [Started(each, at) for each in self.ready]
        for execution in state.live.values():
            choices += self._of(execution)
        wake_at = state.wake_at()
        if wake_at is not None:
            choices.append(Due(max(at, wake_at)))
        assert choices, "the run neither moves nor ends"
        event = chance.choice(choices)
        if isinstance(event, Started):
            del self.ready[event.execution_id]
        if isinstance(event, Due):
            self.game.at = event.at
        return event

    def _of(self, execution: Execution) -> list[Event]:
        """What can happen to an execution next."""
        at, chance, each = self.game.at, self.chance, execution.id
        match execution.status:
            case NodeStatus.RUNNING if each in self.stopping:
                return [Ended(each, at, stopped=True, called=chance.random() < 0.5)]
            case NodeStatus.RUNNING:
                return [self._of_running(execution)]
            case NodeStatus.INTERRUPTED:
                return [Resolved(each, at, chance.choice(list(Resolution)))]
            case NodeStatus.WAITING if execution.child_run_id is not None:
                return [ChildEnded(each, at, execution.child_run_id)]
            case NodeStatus.WAITING if execution.waits_for is not None:
                return [Signaled(each, at, chance.choice(("go", "stop")), 1)]
            case NodeStatus.INCOMPLETE if chance.random() < 0.1:
                return [Signaled(each, at, "go", 2)]
            case _:
                return []

    def _of_running(self, execution: Execution) -> Event:
        at, chance, each = self.game.at, self.chance, execution.id
        if execution.replayed < len(execution.replay) and chance.random() < 0.9:
            pin, text = execution.replay[execution.replayed]
            return Yielded(each, at, pin, int(text) if text.isdigit() else {"k": 1}, text)
        chosen = chance.random()
        if chosen < 0.35 and execution.outputs < 4:
            text = chance.choice(("1", "2", '{"k":1}'))
            return Yielded(each, at, chance.choice("xxy"), int(text) if text.isdigit() else {"k": 1}, text)
        if chosen < 0.55:
            return Ended(each, at)
        if chosen < 0.7:
            kind = chance.choice(list(FailureKind))
            return Ended(each, at, Failure("block_failed", "no", kind))
        if chosen < 0.75:
            return TimedOut(each, at)
        if chosen < 0.82 and self.children < 3:
            return Suspended(each, at, child=self._child(execution))
        until = at + timedelta(seconds=chance.choice((1, 60))) if chance.random() < 0.5 else None
        return Suspended(each, at, until, "go" if until is None or chance.random() < 0.5 else None)

    def _child(self, execution: Execution) -> NewRun:
        self.children += 1
        run_id = f"child{self.children}"
        state = plan_start(self.topology, run_id, {}, new_id=numbered_ids(run_id), limits=LIMITS, at=EPOCH, depth=1)
        parent = ParentLink(run_id="run", execution_id=execution.id, attempt=execution.attempt)
        return new_run(state, {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES, parent=parent)
