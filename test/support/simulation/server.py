"""The simulated server: the real manager and the real workers, in simulated processes, over a network that loses, delays and doubles."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from autogpt_server.data.block import Block
from autogpt_server.data.db import Database
from autogpt_server.data.graph import GraphNotFound
from autogpt_server.execution.attempts import Attempt, AttemptEvent
from autogpt_server.execution.committer import Committer
from autogpt_server.execution.interfaces import Assignment, LiveInterface, ManagerInterface
from autogpt_server.execution.manager import ExecutionManager
from autogpt_server.execution.owner import RunOwner
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import Topology
from autogpt_server.execution.turns import Turns
from autogpt_server.execution.worker import Worker
from autogpt_server.utils.logging import LogSetup
from autogpt_server.utils.process import ORPHAN_GRACE_S, ProcessContext, ProcessSpec
from autogpt_server.utils.service import CallTimeout, ServiceUnavailable
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import EventKind, ProcessEvent
from support.planning import EPOCH
from support.simulation.disk import Disk, SimulatedConnections
from support.simulation.machine import Machine, Process

T = TypeVar("T")

CALL_LIMIT_S = 5.0
"""How long a caller waits for an answer."""


@dataclass(slots=True)
class Clock:
    """The time of day of the simulated machine. It may be set."""

    machine: Machine
    offset_s: float = 0.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.machine.time() + self.offset_s)


class Stage(Protocol):
    """What the server is performed on."""

    machine: Machine
    chance: random.Random
    clock: Clock
    disk: Disk
    settings: Settings
    locks_lie: bool
    """Whether a worker that stands still may be taken for dead."""

    @property
    def library(self) -> Mapping[str, Block]: ...

    @property
    def topologies(self) -> Mapping[str, Topology]: ...

    def new_id(self) -> str: ...

    def tell(self, who: Process, what: str) -> None:
        """A line for the trace."""
        ...

    def reached(self, run_id: str, seq: int) -> None:
        """Somebody outside a worker hears that events have happened."""
        ...


class KnownTopologies(Topologies):
    """Graphs that are not read from anywhere."""

    def __init__(self, stage: Stage, db: Database) -> None:
        super().__init__(db, stage.library)
        self._stage = stage

    async def get(self, graph_id: str, version: int) -> Topology:
        if graph_id not in self._stage.topologies:
            raise GraphNotFound(f"There is no graph {graph_id}.")
        return self._stage.topologies[graph_id]


# --- the network -------------------------------------------------------------------------------------------------------


class Network:
    """Brings calls from process to process."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.loss = 0.0
        """How likely a message is lost."""
        self.lateness_s = 0.02
        self.manager: tuple[Process, ExecutionManager] | None = None

    def _delay_s(self) -> float:
        chance = self._stage.chance
        return chance.random() ** 4 * self.lateness_s * (50 if chance.random() < self.loss else 1)

    def _is_lost(self) -> bool:
        return self._stage.chance.random() < self.loss

    def hint(self, call: Callable[[ExecutionManager], Coroutine[Any, Any, None]]) -> None:
        """A call that nobody waits for. It may be lost, or come twice."""
        copies = 0 if self._is_lost() else 2 if self._is_lost() else 1
        for _ in range(copies):
            self._stage.machine.call_later(self._delay_s(), self._deliver, call, None, None)

    async def ask(self, call: Callable[[ExecutionManager], Coroutine[Any, Any, T]]) -> T:
        """A call to the manager, and its answer; raises as the real client does."""
        caller, answer = self._stage.machine.current(), asyncio.get_running_loop().create_future()
        if not self._is_lost():
            self._stage.machine.call_later(self._delay_s(), self._deliver, call, caller, answer)
        try:
            return await asyncio.wait_for(answer, CALL_LIMIT_S)
        except TimeoutError as error:
            raise CallTimeout("no answer (simulated)") from error

    def _deliver(
        self,
        call: Callable[[ExecutionManager], Coroutine[Any, Any, Any]],
        caller: Process | None,
        answer: asyncio.Future[Any] | None,
    ) -> None:
        machine = self._stage.machine
        if self.manager is None or not self.manager[0].is_alive:
            if caller is not None and answer is not None:
                machine.call_in(caller, _fail, answer, ServiceUnavailable("there is no manager (simulated)"))
            return
        process, manager = self.manager

        async def perform() -> None:
            result = await call(manager)
            if caller is not None and answer is not None and not self._is_lost():
                await asyncio.sleep(self._delay_s())
                machine.call_in(caller, _answer, answer, result)

        machine.spawn(process, perform())


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class ManagerClient(ManagerInterface):
    """The manager, as seen from another process."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def run_created(self, run_id: str, priority: int) -> None:
        self._network.hint(lambda manager: manager.run_created(run_id, priority))

    async def run_waits(self, run_id: str) -> None:
        self._network.hint(lambda manager: manager.run_waits(run_id))

    async def next_runs(self, worker_id: str, received: int, done: list[str], room: int) -> Assignment:
        return await self._network.ask(lambda manager: manager.next_runs(worker_id, received, [*done], room))

    async def replace_worker(self, worker_id: str) -> None:
        return await self._network.ask(lambda manager: manager.replace_worker(worker_id))


class Audience(LiveInterface):
    """Those who watch runs."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def runs_reached(self, reached: list[tuple[str, str, int]]) -> None:
        for run_id, _, seq in reached:
            self._stage.reached(run_id, seq)


# --- workers -----------------------------------------------------------------------------------------------------------


class Context(ProcessContext):
    """What a simulated worker learns from whoever runs it."""

    def __init__(self, name: str, incarnation: str, ready: Callable[[], None], machine: Machine) -> None:
        self.name = name
        self.incarnation = incarnation
        self.log_setup = LogSetup()
        self._ready = ready
        self._machine = machine
        self._draining = asyncio.Event()
        self._deadline = math.inf

    async def ready(self, detail: str = "") -> None:
        self._ready()

    @property
    def is_draining(self) -> bool:
        return self._draining.is_set()

    async def drain_requested(self) -> None:
        await self._draining.wait()

    def leave(self) -> None:
        """Ends in good order."""

    def drain_left_s(self) -> float:
        return max(0.0, self._deadline - self._machine.time())

    def drain(self, limit_s: float) -> None:
        """Ask it to stop."""
        self._deadline = min(self._deadline, self._machine.time() + limit_s)
        self._draining.set()


class SimulatedTurns(Turns):
    """Turns in which part of what blocks report comes from other threads than the loop's, at moments that chance has chosen.

    There is one thread; what another one might do at some moment is done then by this one: nothing that concerns the loop is done at once, but left
    to it. Others may report while the loop has the turn, or another thread; then they cannot have it, and whoever has it applies what they bring.
    """

    def __init__(self, stage: Stage, work_off: Callable[[], None], finish: Callable[[], None]) -> None:
        super().__init__(self._work_off_and_be_disturbed, finish)
        self._chance = stage.chance
        self._process = stage.machine.current
        self._apply = work_off
        self._reports: deque[Callable[[], None]] = deque()
        self._is_elsewhere = False

    def soon(self, perform: Callable[..., object], *arguments: Any) -> None:
        if not self._is_elsewhere:
            perform(*arguments)
            return
        self._loop.call_soon_threadsafe(perform, *arguments)
        for argument in arguments:
            if inspect.iscoroutine(argument):
                self._close_unless_begun(argument)

    def _close_unless_begun(self, work: Coroutine[Any, Any, Any]) -> None:
        process = self._process()
        if process.is_alive:
            process.on_death.append(partial(_forget, work))
        else:
            work.close()

    @contextmanager
    def mine(self) -> Generator[None]:
        with super().mine():
            yield
            self._be_disturbed()

    def bring(self, report: Callable[[], None]) -> None:
        """A block thread reports now, or a little later; one after the other."""
        self._reports.append(report)
        if self._chance.random() < 0.5:
            self._loop.call_later(self._chance.random() * 0.02, self._take_reports)
        else:
            self._take_reports()

    def _take_reports(self) -> None:
        before, self._is_elsewhere = self._is_elsewhere, True
        try:
            while self._reports:
                self._reports.popleft()()
        finally:
            self._is_elsewhere = before

    def _be_disturbed(self) -> None:
        if self._reports and self._chance.random() < 0.5:
            self._take_reports()

    def _work_off_and_be_disturbed(self) -> None:
        self._apply()
        self._be_disturbed()


def _forget(work: Coroutine[Any, Any, Any]) -> None:
    if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        work.close()


class SimulatedWorker(Worker):
    """A worker whose surroundings are simulated."""

    def __init__(self, stage: Stage, network: Network, *, one_at_a_time: bool = False) -> None:
        self._stage = stage
        super().__init__(stage.settings, one_at_a_time=one_at_a_time)
        self._network = network
        self._new_id = stage.new_id
        self._turns = self._simulated_turns = SimulatedTurns(stage, self._take_events, self._end_turn)

    def now(self) -> datetime:
        return self._stage.clock.now()

    async def serve(self, context: ProcessContext) -> None:
        self._loop = asyncio.get_running_loop()
        self.worker_id = context.incarnation
        self._manager = ManagerClient(self._network)
        self._live = Audience(self._stage)
        self._db = Database(SimulatedConnections(self._stage.disk, can_fail_to_read=True))
        self._topologies = KnownTopologies(self._stage, self._db)
        self._committer = Committer(self._db)
        await self._work(context)

    def launch(self, attempt: Attempt) -> None:
        self._stage.tell(
            self._stage.machine.current(),
            f"launch {attempt.execution.node.id} {attempt.execution.id} #{attempt.number}",
        )
        super().launch(attempt)

    def _call(self, attempt: Attempt) -> None:
        # Those that have threads in truth do the same here, and report as from there.
        self._spawn(self._performer.run_on_loop(attempt), attempt.run.run_id)

    def report(self, owner: RunOwner, attempt: Attempt, event: AttemptEvent) -> None:
        report = partial(super().report, owner, attempt, event)
        if attempt.execution.node.runs_on_loop:
            report()
        else:
            self._simulated_turns.bring(report)

    @staticmethod
    def _is_exhausted(error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def _leave_within(self, limit_s: float) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        process = self._stage.machine.current()
        self._stage.tell(process, "is exhausted")
        self._stage.machine.call_later(limit_s, process.die)

    def _ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._stage.machine.errors.append(error)
        super()._ended(run_id, task)

    @property
    def held(self) -> list[str]:
        """The runs it performs."""
        return sorted(self._owners)


@dataclass(slots=True)
class Running:
    """A worker process."""

    spec: ProcessSpec
    process: Process
    context: Context
    worker: SimulatedWorker
    manager: SimulatedManager
    is_forgotten: bool = False
    """Whether its manager has been told that it has ended."""


class Workshop:
    """Runs worker processes for a manager (what `utils.supervisor.Supervisor` does), and outlives it."""

    def __init__(self, stage: Stage, network: Network) -> None:
        self._stage = stage
        self._network = network
        self.running: list[Running] = []
        self._wanted: dict[str, ProcessSpec] = {}
        self._manager: SimulatedManager | None = None

    def serve_manager(self, manager: SimulatedManager, specs: list[ProcessSpec]) -> None:
        """A new manager, with workers of its own. Those of the former one end by themselves, sooner or later."""
        self._manager = manager
        self._wanted = {}
        for running in self.running:
            self._stage.machine.call_later(self._stage.chance.random() * ORPHAN_GRACE_S, self.kill, running, "orphan")
        for spec in specs:
            self.add(spec)

    def add(self, spec: ProcessSpec) -> None:
        """As `Supervisor.add`."""
        self._wanted[spec.name] = spec
        self._stage.machine.call_later(self._stage.chance.random() * 0.2, self._start, spec, self._manager)

    def remove(self, name: str, *, limit_s: float = math.inf) -> None:
        """As `Supervisor.remove`."""
        self._wanted.pop(name, None)
        for running in self.running:
            if running.spec.name == name:
                self.drain(running, min(limit_s, 8.0))

    def drain(self, running: Running, limit_s: float) -> None:
        """Ask a process to end, and end it when its time is over."""
        self._stage.machine.call_in(running.process, running.context.drain, limit_s)
        self._stage.machine.call_later(limit_s, self.kill, running, "drained too long")

    def let_go(self, name: str) -> None:
        """As `Supervisor.let_go`."""
        self._wanted.pop(name, None)

    def kill(self, running: Running, why: str) -> None:
        """End a process now."""
        if running.process.is_alive:
            self._stage.tell(running.process, f"dies ({why})")
            running.process.die()

    def _start(self, spec: ProcessSpec, manager: SimulatedManager | None) -> None:
        if manager is not self._manager or manager is None or self._wanted.get(spec.name) is not spec:
            return
        stage, incarnation = self._stage, f"{spec.name}/{self._stage.new_id()}"
        process = Process(incarnation)

        def ready() -> None:
            if running.is_forgotten:
                return
            stage.machine.call_in(
                manager.process, manager.on_worker, ProcessEvent(EventKind.READY, spec.name, None, incarnation)
            )

        context = Context(spec.name, incarnation, ready, stage.machine)
        worker = SimulatedWorker(stage, self._network, **spec.arguments)
        running = Running(spec, process, context, worker, manager)
        self.running.append(running)
        process.on_death.append(lambda: self._ended(running, manager))
        stage.tell(process, "starts")

        async def live() -> None:
            try:
                await worker.serve(context)
            finally:
                if process.is_alive:
                    stage.tell(process, "ends")
                    process.die()

        stage.machine.spawn(process, live())

    def _ended(self, running: Running, manager: SimulatedManager) -> None:
        self.running.remove(running)
        self.report_end(running, manager)

    def report_end(self, running: Running, manager: SimulatedManager | None = None) -> None:
        """Tell the manager that a worker has ended, and start another one. It may be told of one that lives on, if locks lie."""
        manager = manager or self._manager
        if manager is None or running.is_forgotten:
            return
        running.is_forgotten = True
        event = ProcessEvent(EventKind.EXITED, running.spec.name, None, "ended (simulated)")
        self._stage.machine.call_in(manager.process, manager.on_worker, event)
        if manager is self._manager and self._wanted.get(running.spec.name) is running.spec:
            if running.spec.restart:
                self._stage.machine.call_later(self._stage.chance.random(), self._start, running.spec, manager)
            else:
                del self._wanted[running.spec.name]

    def find(self, worker_id: str) -> Running | None:
        """The live process of that incarnation."""
        return next((running for running in self.running if running.context.incarnation == worker_id), None)


class SimulatedManager(ExecutionManager):
    """A manager whose surroundings are simulated."""

    def __init__(self, stage: Stage, network: Network, workshop: Workshop) -> None:
        super().__init__(stage.settings)
        self.process = Process(f"manager/{stage.new_id()}")
        self._stage = stage
        self._network = network
        self._workshop = workshop
        self._now = stage.clock.now
        self._known_since: dict[str, float] = {}

    def start(self) -> None:
        """Begin to serve."""
        self._stage.tell(self.process, "starts")
        self._stage.machine.spawn(self.process, self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._log_setup = LogSetup()
        self._supervisor: Any = self._workshop
        self._workshop.serve_manager(self, [self._next_worker_spec() for _ in range(self.settings.num_graph_workers)])
        self._network.manager = (self.process, self)
        db = Database(SimulatedConnections(self._stage.disk, can_fail_to_read=True))
        await asyncio.gather(self._sweep(db), self._follow_hints(db))

    def on_worker(self, event: ProcessEvent) -> None:
        """What the supervisor tells."""
        self._on_worker_event(event)

    def ready_workers(self) -> list[str]:
        """As `queue_report` says."""
        return sorted(self._workers.values())

    def holder_of(self, run_id: str) -> str | None:
        """As `queue_report` says."""
        return self._dispatcher.holder(run_id)

    def _is_gone(self, worker_id: str) -> bool:
        running = self._workshop.find(worker_id)
        if running is None:
            return True
        machine = self._stage.machine
        if self._stage.locks_lie and running.process.stands_until > machine.time():
            return True
        if machine.time() - self._known_since.setdefault(worker_id, machine.time()) > ORPHAN_GRACE_S + 1.0:
            self._workshop.kill(running, "left behind")
        return False


@dataclass(slots=True)
class Server:
    """A manager, its workers, and what is between them."""

    stage: Stage
    network: Network = field(init=False)
    workshop: Workshop = field(init=False)
    manager: SimulatedManager = field(init=False)

    def __post_init__(self) -> None:
        self.network = Network(self.stage)
        self.workshop = Workshop(self.stage, self.network)

    def start(self) -> None:
        """Start the manager, which starts the workers."""
        self.manager = SimulatedManager(self.stage, self.network, self.workshop)
        self.manager.start()

    def kill_manager(self) -> None:
        """The manager dies; another one is started a little later."""
        self.stage.tell(self.manager.process, "dies")
        self.manager.process.die()
        self.network.manager = None
        self.stage.machine.call_later(0.1 + self.stage.chance.random(), self.start)
