"""One run in the hands of one worker; the worker is made up here. How both do together is in `test_runtime.py` and the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from autogpt_server.data.block import CallGraph
from autogpt_server.data.inbox import StoredEntry
from autogpt_server.data.run_rows import InboxKind
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.attempts import Attempt, AttemptEvent
from autogpt_server.execution.events import Ended, Suspended
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.owner import RunOwner
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.state import Execution, Failure
from autogpt_server.utils.clock import Alarm
from support.ledger import Ledger, open_memory, store_graph, write
from support.planning import EPOCH, LIMITS, numbered_ids, play


class _NoAlarm:
    def cancel(self) -> None:
        """Not be called any more; it never is."""


class MadeUpWorker:
    """Notes what an owner asks of its worker, and does nothing by itself."""

    worker_id = "worker"
    cancel_grace_s = 1.0

    def __init__(self) -> None:
        self.clock = EPOCH
        self.waiting: list[Execution] = []
        self.launched: list[Attempt] = []
        self.released: list[RunOwner] = []

    def now(self) -> datetime:
        return self.clock

    def call_later(self, delay_s: float, perform: Callable[[], None]) -> Alarm:
        return _NoAlarm()

    def enqueue(self, owner: RunOwner, execution: Execution) -> None:
        self.waiting.append(execution)

    def launch(self, attempt: Attempt) -> None:
        self.launched.append(attempt)

    def report(self, owner: RunOwner, attempt: Attempt, event: AttemptEvent) -> None:
        raise AssertionError

    def discard(self, attempt: Attempt) -> None:
        raise AssertionError

    def call_graph(self, owner: RunOwner, execution: Execution, call: CallGraph, limits: RunLimits) -> None:
        raise AssertionError

    def stuck(self, attempt: Attempt) -> None:
        raise AssertionError

    def changed(self, owner: RunOwner, *, at_once: bool) -> None:
        """It is written when the test says so."""

    def reached(self, owner: RunOwner) -> None:
        """Nobody watches."""

    def hint(self, run_ids: Iterable[str]) -> None:
        raise AssertionError

    def release(self, owner: RunOwner) -> None:
        self.released.append(owner)

    def abandon(self, owner: RunOwner, failure: Failure) -> None:
        raise AssertionError


def take_up() -> tuple[RunOwner, MadeUpWorker, Ledger]:
    """A run of one node, whose attempt has just been launched."""
    game = play("A: free")
    ledger = Ledger(open_memory(), game.topology)
    store_graph(ledger.connection, game.topology)
    ledger.insert(game.state)
    worker = MadeUpWorker()
    state = ledger.take_over()
    planner = Planner(state, new_id=numbered_ids("n"), limits=LIMITS)
    owner = RunOwner(worker, state, planner, ledger.load(), 1000)
    owner.take_up()
    assert owner.begin(worker.waiting.pop())
    return owner, worker, ledger


def test_what_comes_when_the_run_has_ended_changes_nothing() -> None:
    """A request may be put into the inbox while the end is on its way to the disk."""
    owner, worker, ledger = take_up()
    [attempt] = worker.launched
    owner.take(Ended(attempt.execution.id, EPOCH))
    assert owner.state.status is RunStatus.COMPLETED
    entry = owner.cut()
    assert entry is not None
    owner.receive([StoredEntry(1, InboxKind.CANCEL, None, "1", {"reason": "too late"}, "")])
    [result] = write(ledger.connection, [entry])
    owner.written(entry, result)
    assert owner.cut() is None, "there is nothing more to write, and nobody else has the run"
    assert (worker.released, owner.state.status) == ([owner], RunStatus.COMPLETED)


def test_what_is_due_is_noticed_though_no_alarm_tells() -> None:
    """The clock may have been set meanwhile: a worker looks each second."""
    owner, worker, _ = take_up()
    [attempt] = worker.launched
    owner.take(Suspended(attempt.execution.id, EPOCH, until=EPOCH + timedelta(hours=1)))
    owner.check_time(EPOCH + timedelta(minutes=59))
    assert (owner.state.status, worker.waiting) == (RunStatus.WAITING, [])
    worker.clock = EPOCH + timedelta(hours=1)
    owner.check_time(worker.clock)
    assert (owner.state.status, worker.waiting) == (RunStatus.RUNNING, [attempt.execution])
