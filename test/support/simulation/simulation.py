"""One seed: a few graphs, a few runs of them, a rough time with everything that can go wrong, then a calm one in which all must come to its end."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from autogpt_server.data.block import BlockContext, Effects
from autogpt_server.data.db import CommitUncertain, Database, DatabaseUnavailable, typed_errors
from autogpt_server.data.requests import (
    AlreadyResolved,
    NodeExecutionEnded,
    NotInterrupted,
    RunEnded,
    RunEnding,
    SignalKeyReused,
    request_cancel,
    resolve_execution,
    send_signal,
)
from autogpt_server.data.run_rows import NewRun
from autogpt_server.data.runs import create_run
from autogpt_server.execution.interfaces import QueueReport
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start, run_limits
from autogpt_server.utils.settings import Settings
from support.kahn import Outcome
from support.ledger import store_graph
from support.simulation.blocks import SIGNAL, blocks, check_child, draw_plans
from support.simulation.disk import Disk, SimulatedConnections
from support.simulation.explained import check_explanations
from support.simulation.machine import Machine, Process
from support.simulation.oracle import compare
from support.simulation.server import Clock, ManagerClient, Running, Server
from support.simulation.watch import Broken, Watch

ROUGH_S = 20.0
"""How long things go wrong, at most."""
CALM_S = 900.0
"""Simulated time after which everything must have ended, once nothing goes wrong any more."""
MAX_STEPS = 200_000
LOOPS_END_AT = 1000
"""Node executions of a run, in a seed that has no other limit: a graph may go round for ever."""


@dataclass(slots=True)
class Trouble:
    """What may go wrong in a seed."""

    worker_deaths: int = 0
    worker_drains: int = 0
    manager_deaths: int = 0
    stalls: int = 0
    clock_jumps: int = 0
    full_disks: int = 0
    every_steps: int = 200
    """One of them in about so many steps."""


_REFUSALS = (RunEnded, RunEnding, NodeExecutionEnded, NotInterrupted, AlreadyResolved, SignalKeyReused)
"""What may be answered to a request that comes too late, or is another under the same key."""


_LIMITS: tuple[Mapping[str, float], ...] = (
    {},
    {},
    {},
    {},
    {},
    {},
    {"max_run_node_executions": 12},
    {"max_run_duration_s": 3.0},
)
"""What runs of a seed are limited to, besides what is usual."""


class Failed(AssertionError):
    """A seed that shows a mistake, with what led there."""


@cache
def _settings(**limits: float) -> Settings:
    return Settings.model_validate(
        {
            "database_url": "file:/nonexistent/simulated.db",
            "num_graph_workers": 2,
            "cancel_grace_s": 1.0,
            "max_run_depth": 3,
            "max_run_node_executions": LOOPS_END_AT,
            **limits,
        }
    )


@dataclass
class Simulation:
    """One seed. The same seed always does the same."""

    seed: int
    locks_lie: bool = False
    managers_die: bool = False
    """Whether managers die again and again, while the disk is slow and workers stand still."""
    trace: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.machine = Machine(self.chance)
        self.clock = Clock(self.machine)
        self.settings = _settings(**self.chance.choice(_LIMITS))
        self.plans = draw_plans(self.chance)
        self.library = blocks(self)
        self.topologies = {plan.id: plan.topology(self.library) for plan in self.plans.values()}
        self.watch = Watch(self.plans)
        self.disk = Disk(self.chance, self._committed)
        for topology in self.topologies.values():
            store_graph(self.disk.connection, topology)
        self.watch.attach(self.disk.connection)
        self._ids = itertools.count()
        self.server = Server(self)
        self.trouble = self._draw_trouble()
        self.is_calm = False
        self.started: set[str] = set()
        """Runs that whoever started them was told of."""
        self.explained = 0
        """How many causes that `explain` told were looked at."""
        self.compared = 0
        """How many runs were undisturbed, and so compared with the oracle."""
        self._starting = 0
        self._owner_of: dict[str, str] = {}
        """Run -> the worker that made the latest commit of it."""
        self._running: set[str] = set()
        """Runs with attempts that are RUNNING on record."""
        self._latest_offset_s = 0.0
        self._wrong: Exception | None = None

    def _draw_trouble(self) -> Trouble:
        chance = self.chance
        kinds = chance.choice((0, 1, 2, 5))
        chosen = set(
            chance.sample(("worker", "drain", "manager", "stall", "clock", "full", "commit", "network"), kinds)
        )
        if "commit" in chosen:
            self.disk.trouble = chance.choice((0.02, 0.1, 0.3))
        if "network" in chosen:
            self.server.network.loss = chance.choice((0.02, 0.1, 0.3))
        self.disk.slowness_s = chance.choice((0.001, 0.02, 0.5))
        if self.managers_die:
            self.disk.slowness_s = 2.0
            return Trouble(manager_deaths=8, worker_deaths=2, stalls=8, every_steps=20)
        return Trouble(
            worker_deaths=chance.randint(1, 6) * ("worker" in chosen),
            worker_drains=chance.randint(1, 3) * ("drain" in chosen),
            manager_deaths=chance.randint(1, 2) * ("manager" in chosen),
            stalls=chance.randint(1, 4) * ("stall" in chosen or self.locks_lie),
            clock_jumps=chance.randint(1, 3) * ("clock" in chosen),
            full_disks=chance.randint(1, 2) * ("full" in chosen),
            every_steps=chance.choice((20, 100, 400)),
        )

    # --- Stage and Surroundings ----------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Ids that sort by the time at which they were made, as far as clocks go."""
        return f"{next(self._ids):08}"

    def tell(self, who: Process, what: str) -> None:
        self.trace.append(f"{self.machine.steps:6} {self.machine.time():9.3f} {who.name:22} {what}")

    @contextmanager
    def _judging(self) -> Generator[None]:
        """What is found wrong here ends the seed; whoever performs it might go on from anything that is raised."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again by the next step
            self._wrong = self._wrong or error

    def reached(self, run_id: str, seq: int) -> None:
        with self._judging():
            self._check_reached(run_id, seq)

    def _check_reached(self, run_id: str, seq: int) -> None:
        (durable,) = self.disk.connection.execute(
            'SELECT "seq" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
        ).fetchone()
        if seq > durable:
            raise Broken(f"{run_id}: the outside was told of event {seq}, and only {durable} are durable")

    def called(self, ctx: BlockContext, effects: Effects) -> None:
        self.tell(self.machine.current(), f"called {effects} {ctx.node_id} {ctx.node_exec_id} #{ctx.attempt}")
        manner = self.plans[ctx.graph_id].manners[ctx.node_id]
        with self._judging():
            self.watch.called(ctx, effects)
            if ctx.is_resumed and manner.waits in self.plans:
                check_child(ctx.resumed_with, self._status_of)

    def act(self, ctx: BlockContext) -> None:
        self.tell(self.machine.current(), f"acts   {ctx.node_id} {ctx.node_exec_id} #{ctx.attempt}")

    def die(self) -> None:
        process = self.machine.current()
        self.tell(process, "is killed by a block")
        process.die()

    def take_memory(self) -> None:
        self.tell(self.machine.current(), "has no memory left")
        self.machine.current().has_memory = False

    def has_memory(self) -> bool:
        return self.machine.current().has_memory

    def _status_of(self, run_id: str) -> str | None:
        row = self.disk.connection.execute(
            'SELECT "status" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
        ).fetchone()
        return None if row is None else str(row[0])

    def _committed(self, connection: sqlite3.Connection) -> None:
        with self._judging():
            self._check_commit(connection)

    def _check_commit(self, connection: sqlite3.Connection) -> None:
        before = dict(self.watch.status)
        for run_id in self.watch.committed(connection):
            status = self.watch.status[run_id]
            worker, epoch, seq = connection.execute(
                'SELECT "workerId", "epoch", "seq" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
            ).fetchone()
            self.tell(
                self.machine.current(),
                f"commit {run_id} epoch {epoch} seq {seq} {before.get(run_id, 'new')} -> {status} ({worker})",
            )
            self._check_ownership(run_id, worker)

    def _check_ownership(self, run_id: str, worker_id: str | None) -> None:
        """Unless locks lie, a run changes hands only when its owner has given it up or is dead (rule D5).

        Its owner is who is on record: one that has not committed anything yet has a claim to nothing.
        """
        former, was_running = self._owner_of.get(run_id), run_id in self._running
        (running,) = self.disk.connection.execute(
            'SELECT count(*) FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "status" = \'RUNNING\'',
            (run_id,),
        ).fetchone()
        (self._running.add if running else self._running.discard)(run_id)
        if worker_id is not None:
            self._owner_of[run_id] = worker_id
        if former is None or worker_id is None or former == worker_id or self.locks_lie:
            return
        owner = self.server.workshop.find(former)
        if owner is not None and (was_running or run_id in owner.worker.held):
            raise Broken(f"{worker_id} has taken {run_id} from {former}, which lives and performs it")

    # --- running -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Perform the seed; raises `Failed` with the trace if something is wrong."""
        with self.machine.running():
            try:
                self._run()
            except Exception as error:
                lines = "\n".join(self.trace[-200:])
                raise Failed(
                    f"seed {self.seed}: {error}\n{self._describe()}\n{lines}\n"
                    f"Repeat it with: {self._mode}SIMULATION_SEED={self.seed} pytest test/simulation -k one_seed"
                ) from error
            finally:
                self.machine.bury()

    @property
    def _mode(self) -> str:
        mode = "lying" if self.locks_lie else "dying" if self.managers_die else ""
        return f"SIMULATION_MODE={mode} " if mode else ""

    def _run(self) -> None:
        self.server.start()
        runs = [self.chance.choice(list(self.plans)) for _ in range(self.chance.randint(1, 4))]
        self._starting = len(runs)
        for graph_id in runs:
            self.machine.spawn(self.machine.outside, self._start_run(graph_id))
        self.machine.spawn(self.machine.outside, self._people())
        while self.machine.time() < ROUGH_S and not self._is_over():
            self._step()
            if self.chance.randrange(self.trouble.every_steps) == 0:
                self._make_trouble()
        self._calm_down()
        deadline = self.machine.time() + CALM_S
        while not self._is_over():
            self._step()
            if self.machine.time() > deadline:
                raise Broken(f"still not over after {CALM_S:g} s without trouble")
        self.watch.check_end(self.disk.connection)
        self._compare_with_oracle()

    def _compare_with_oracle(self) -> None:
        solved: dict[str, Outcome] = {}
        for run_id, graph_id in self.disk.connection.execute(
            'SELECT "id", "agentGraphId" FROM "AgentGraphExecution"'
        ).fetchall():
            self.compared += compare(self.disk.connection, run_id, self.plans[graph_id], solved)

    def _step(self) -> None:
        if not self.machine.step():
            raise Broken("nothing will ever happen again")
        if self._wrong is not None or self.machine.errors:
            raise self._wrong or self.machine.errors[0]
        if self.machine.steps > MAX_STEPS:
            raise Broken(f"still not over after {MAX_STEPS} steps")

    def _is_over(self) -> bool:
        return (
            self._starting == 0
            and bool(self.watch.status)
            and all(status in ("COMPLETED", "FAILED", "CANCELED") for status in self.watch.status.values())
        )

    def _calm_down(self) -> None:
        self.tell(self.machine.outside, "--- nothing goes wrong from here on ---")
        self.is_calm = True
        # What waits for a time waits for that of the clock: set back, it takes longer.
        self.clock.offset_s = self._latest_offset_s
        self.disk.trouble = self.server.network.loss = self.disk.full_until = 0.0
        for running in list(self.server.workshop.running):
            running.process.stands_until = 0.0
        self.server.manager.process.stands_until = 0.0

    # --- what goes wrong -----------------------------------------------------------------------------------------------

    def _make_trouble(self) -> None:
        chance, trouble = self.chance, self.trouble
        kinds: dict[str, Callable[[], None]] = {
            "worker_deaths": self._kill_worker,
            "worker_drains": self._drain_worker,
            "manager_deaths": self._kill_manager,
            "stalls": self._stall,
            "clock_jumps": self._set_clock,
            "full_disks": self._fill_disk,
        }
        possible = [kind for kind in kinds if getattr(trouble, kind)]
        if possible:
            kind = chance.choice(possible)
            setattr(trouble, kind, getattr(trouble, kind) - 1)
            kinds[kind]()

    def _any_worker(self) -> Running | None:
        running = self.server.workshop.running
        return self.chance.choice(running) if running else None

    def _kill_worker(self) -> None:
        if (running := self._any_worker()) is not None:
            self.server.workshop.kill(running, "trouble")

    def _drain_worker(self) -> None:
        """A worker is asked to end in good order, and may not have the time."""
        if (running := self._any_worker()) is not None:
            limit_s = self.chance.choice((0.1, 1.5, 8.0))
            self.tell(running.process, f"drains for {limit_s:g} s")
            self.server.workshop.drain(running, limit_s)

    def _kill_manager(self) -> None:
        if self.server.manager.process.is_alive:
            self.server.kill_manager()

    def _stall(self) -> None:
        """A process stands still for a while. If locks lie it is taken for dead meanwhile, and wakes up as its own ghost."""
        running = self._any_worker()
        if running is None:
            return
        running.process.stands_until = self.machine.time() + self.chance.choice((0.1, 3.0, 8.0))
        self.tell(running.process, f"stands still until {running.process.stands_until:.3f}")
        if self.locks_lie and self.chance.random() < 0.8:
            self.tell(running.process, "is taken for dead")
            self.server.workshop.report_end(running)

    def _set_clock(self) -> None:
        self.clock.offset_s += self.chance.choice((-3600.0, -5.0, 5.0, 60.0))
        self._latest_offset_s = max(self._latest_offset_s, self.clock.offset_s)
        self.tell(self.machine.outside, f"the clock is set to {self.clock.now()}")

    def _fill_disk(self) -> None:
        self.disk.full_until = self.machine.time() + self.chance.choice((0.5, 3.0))
        self.tell(self.machine.outside, f"the disk is full until {self.disk.full_until:.3f}")

    # --- people --------------------------------------------------------------------------------------------------------

    async def _patiently(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do something until the database takes it."""
        while True:
            try:
                with typed_errors():
                    await work()
            except (DatabaseUnavailable, CommitUncertain):
                await asyncio.sleep(0.3)
            else:
                return

    async def _start_run(self, graph_id: str) -> None:
        await asyncio.sleep(self.chance.random() * 2)
        db, run_id = Database(SimulatedConnections(self.disk)), self.new_id()
        now = self.clock.now()
        limits = run_limits(self.settings)
        state = plan_start(self.topologies[graph_id], run_id, {}, new_id=self.new_id, limits=limits, at=now)
        row: NewRun = new_run(state, {}, created_at=now, inline_value_bytes=self.settings.inline_value_bytes)
        await self._patiently(lambda: create_run(db, row))
        if self._status_of(run_id) is None:
            raise Broken(f"{run_id} was said to be there, and is not")
        self.started.add(run_id)
        self._starting -= 1
        await ManagerClient(self.server.network).run_created(run_id, 0)

    async def _people(self) -> None:
        """They look from time to time, and decide, signal and cancel: sometimes twice, sometimes what makes no sense."""
        db, client, chance = Database(SimulatedConnections(self.disk)), ManagerClient(self.server.network), self.chance
        impatience = chance.choice((0.0, 0.0, 0.02))
        while True:
            await asyncio.sleep(1.0 + chance.random() * 4)
            self._look_at_explanations()
            asked: list[tuple[str, str, Callable[[], Coroutine[Any, Any, None]]]] = []
            for run_id, execution_id, status, waits_for in self.disk.connection.execute(
                'SELECT "agentGraphExecutionId", "id", "status", "waitsFor" FROM "AgentNodeExecution" WHERE "endedAt" IS NULL'
            ).fetchall():
                at, times = self.clock.now(), chance.choice((1, 1, 2))
                if status == "INTERRUPTED" and (self.is_calm or chance.random() < 0.3):
                    action = chance.choice(("retry", "retry", "skip", "fail"))
                    decide = partial(resolve_execution, db, run_id, execution_id, action, at=at)
                    asked += [(run_id, f"{action} {execution_id}", decide)] * times
                elif (waits_for is not None and chance.random() < 0.5) or chance.random() < 0.02:
                    name, key = chance.choice((SIGNAL, SIGNAL, SIGNAL, "other")), str(chance.randrange(1000))
                    signal = partial(send_signal, db, run_id, execution_id, name=name, key=key, value=1, at=at)
                    asked += [(run_id, f"signal {name} {key} {execution_id}", signal)] * times
                if chance.random() < impatience and not self.is_calm:
                    asked += [(run_id, f"cancel {run_id}", partial(request_cancel, db, run_id, at=at))] * times
            for run_id, words, ask in asked:
                await self._ask(words, ask)
                await client.run_waits(run_id)

    async def _ask(self, words: str, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await self._patiently(ask)
        except _REFUSALS as error:
            self.tell(self.machine.outside, f"asked to {words}: {type(error).__name__}")
        else:
            self.tell(self.machine.outside, f"asked to {words}")

    def _look_at_explanations(self) -> None:
        manager = self.server.manager
        queue = None
        if manager.process.is_alive and self.server.network.manager is not None:
            ids = [*self.watch.status]
            holders = {run_id: manager.holder_of(run_id) for run_id in ids}
            queue = QueueReport(manager.ready_workers(), {run: holder for run, holder in holders.items() if holder}, {})
        with self._judging():
            self.explained += check_explanations(
                self.disk.connection,
                self.topologies,
                queue,
                self._belongs_to_manager,
                self.clock.now(),
            )

    def _belongs_to_manager(self, worker_id: str) -> bool:
        """Whether a worker lives that has not been left behind by a manager that died."""
        running = self.server.workshop.find(worker_id)
        if self.locks_lie or running is None:
            return False
        return running.manager is self.server.manager and not running.is_forgotten

    # --- to be read ----------------------------------------------------------------------------------------------------

    def _describe(self) -> str:
        lines: list[str] = []
        for plan in self.plans.values():
            lines.append(f"graph {plan.id}: {'; '.join(plan.spec.text().splitlines())}")
            lines += [f"  {name}: {manner}" for name, manner in plan.manners.items()]
        for row in self.disk.connection.execute(
            'SELECT "id", "agentGraphId", "status", "reason", "epoch", "seq", "workerId", "takeovers", "closing", "errorCode", "wakeAt", "inboxLast", "inboxDone" '
            'FROM "AgentGraphExecution"'
        ):
            lines.append(f"run {row}")
            lines += [
                f"  {execution}"
                for execution in self.disk.connection.execute(
                    'SELECT "id", "agentNodeId", "status", "ordinal", "attempt", "errorCode", "notBefore", "waitsFor", "childRunId" '
                    'FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "endedAt" IS NULL',
                    (row[0],),
                )
            ]
        return "\n".join(lines)
