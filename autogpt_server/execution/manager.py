"""The ExecutionManager: owns the queue of runs and the workers that perform them.

The queue is the database; hints and a sweep each second tell what is in it. A run of a dead worker is handed to another one once the dead one's lock is
free (rule D5), and what was running then is judged by the planner (rule D4).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from autogpt_server.data.db import Database, DatabaseUnavailable, db_time, typed_errors
from autogpt_server.data.execution import MAX_TAKEOVERS, WaitingRun, look_for_work, waiting_runs_of
from autogpt_server.execution.dispatch import Bench, Dispatcher
from autogpt_server.execution.interfaces import Assignment, ManagerInterface, QueueReport
from autogpt_server.utils import faults
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.process import ORPHAN_GRACE_S, ProcessContext, ProcessSpec
from autogpt_server.utils.service import AppService
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import EventKind, ProcessEvent, RestartPolicy, Supervisor

log = get_logger(__name__)

SWEEP_S = 1.0
"""Between two looks for runs of which no hint told."""
LONG_POLL_S = 1.0
"""How long a worker that asks for runs is kept waiting when there are none."""
SWEEP_RUNS = 5000
"""Runs that wait to begin and are read in one sweep; the others come when these have begun."""
DRAIN_MARGIN_S = 0.5
"""Kept back from the time to drain, so that this process sees its workers end."""
WORKER_RESTARTS = RestartPolicy(max_delay_s=2.0, give_up_after=1_000_000_000)
"""Workers are started again for ever: one run that kills its worker must not end the server for all others."""
MAX_SOLO_WORKERS = 2
"""Workers, besides the others, that each perform one run which has killed its owners (rule D3b)."""
_FEW_RUNS = 16
"""So many are looked at without another thread."""
_SHORTEST_PAUSE_S = 0.01
_WORKER = "autogpt_server.execution.worker:Worker"


@dataclass(slots=True)
class _Solo:
    """A worker for one run."""

    run: WaitingRun
    is_given: bool = False


@dataclass(slots=True)
class _Waiter:
    bench: Bench
    answered: asyncio.Future[Assignment]


class WorkersNotReady(AutoGPTServerError):
    """The workers could not be started; the log says why."""

    code = "workers_not_ready"
    retryable = True


class ExecutionManager(ManagerInterface, AppService):
    """Consumes the durable queue of runs."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._now = utc_now
        self._dispatcher = Dispatcher()
        self._waiters: dict[str, _Waiter] = {}
        self._workers: dict[str, str] = {}
        """Name of each live worker process -> its incarnation."""
        self._orphans: dict[str, float] = {}
        """Incarnation of a worker that is not ours but holds its lock -> since when it is known."""
        self._last: dict[str, Assignment] = {}
        """Worker -> what it was given last."""
        self._sweep_now = asyncio.Event()
        self._hinted: set[str] = set()
        self._has_hints = asyncio.Event()
        self._is_draining = False
        self._solos: dict[str, _Solo] = {}
        """Name of a worker process -> the one run that it is for."""
        self._solo_numbers = itertools.count(1)
        self._worker_numbers = itertools.count(1)
        self._replaced: set[str] = set()
        """Names of worker processes that are about to end, and have another in their place."""
        self._owners: dict[str, str | None] = {}
        """Run that waits or is held -> the worker on record when it was found free: one that has given it up or is dead."""
        self._nudges: dict[str, set[str]] = {}
        """Worker -> runs it holds whose inbox it has to read."""

    async def serve(self, context: ProcessContext) -> None:
        """Keep the workers running and the queue moving until drained."""
        self._loop = asyncio.get_running_loop()
        self._log_setup = context.log_setup
        self._supervisor = supervisor = Supervisor(
            [self._next_worker_spec() for _ in range(self.settings.num_graph_workers)],
            on_event=self._pass_worker_event,
            drain_limit_s=self.settings.drain_limit_s,
            policy=WORKER_RESTARTS,
        )
        await asyncio.to_thread(self._tidy_up)
        async with await Database.open(self.settings) as db:
            supervisor.start()
            await self._reserve_log(db)  # while the workers start
            if not await asyncio.to_thread(supervisor.wait_ready, self.settings.start_limit_s):
                raise WorkersNotReady
            await context.ready(f"{self.settings.num_graph_workers} workers")
            loops = {asyncio.create_task(self._sweep(db)), asyncio.create_task(self._follow_hints(db))}
            drained = asyncio.create_task(context.drain_requested())
            await asyncio.wait({*loops, drained}, return_when=asyncio.FIRST_COMPLETED)
            self._is_draining = True
            for task in loops:
                if task.done():
                    task.result()  # neither ends unasked: raise what ended it
                task.cancel()
            left_s = context.drain_left_s()
            for process in supervisor.processes():  # all at once: each gets the whole of the time
                supervisor.remove(process.name, limit_s=max(0.0, left_s - DRAIN_MARGIN_S))
            supervisor.request_drain()
            await asyncio.to_thread(supervisor.join, left_s)

    async def _reserve_log(self, db: Database) -> None:
        try:
            with typed_errors():
                await db.reserve_log()
        except DatabaseUnavailable as error:
            log.info("no room was made for the log: commits are slower at first", error=str(error))

    # --- what others ask (ManagerInterface) ----------------------------------------------------------------------

    async def run_created(self, run_id: str, priority: int) -> None:
        """A new run: it is given to a worker as it is. Should the hint come late, the worker will find that the run has ended or has an owner."""
        faults.reach("manager.created.before")
        if run_id not in self._owners:
            self._offer([WaitingRun(run_id, priority, worker_id=None)])

    async def run_waits(self, run_id: str) -> None:
        """See what a run wants: its row says whether it waits and who owned it last."""
        self._hinted.add(run_id)
        self._has_hints.set()

    async def next_runs(self, worker_id: str, received: int, done: list[str], room: int) -> Assignment:
        """Take note of what a worker is done with, and give it runs as soon as there are some."""
        last = self._last.get(worker_id) or Assignment(0, [], [])
        if last.number > received:
            log.warning("assignment was lost on its way", worker_id=worker_id, runs=len(last.run_ids))
            self._dispatcher.take_back(worker_id, last.run_ids)
            for name, solo in self._solos.items():
                solo.is_given &= self._workers.get(name) != worker_id
        self._dispatcher.done(worker_id, done)
        for run_id in done:
            self._owners.pop(run_id, None)
        self._follow_missed_nudges(worker_id, last, done)
        self._dismiss_solo(worker_id)
        waiter = _Waiter(Bench(worker_id, room), self._loop.create_future())
        self._waiters[worker_id] = waiter
        self._answer_waiters()
        try:
            return await asyncio.wait_for(waiter.answered, LONG_POLL_S)
        except TimeoutError:
            return Assignment(last.number, [], [])
        finally:
            if self._waiters.get(worker_id) is waiter:
                del self._waiters[worker_id]

    async def queue_report(self, run_ids: list[str]) -> QueueReport:
        """Where these runs stand, for whoever wants to know why they do not get on."""
        holders = {run_id: self._dispatcher.holder(run_id) for run_id in run_ids}
        ahead = {run_id: self._dispatcher.ahead_of(run_id) for run_id in run_ids}
        return QueueReport(
            workers=sorted(self._workers.values()),
            holders={run_id: holder for run_id, holder in holders.items() if holder is not None},
            ahead={run_id: count for run_id, count in ahead.items() if count is not None},
        )

    async def replace_worker(self, worker_id: str) -> None:
        """Start a worker in the place of one that has to end."""
        name = next((name for name, known in self._workers.items() if known == worker_id), None)
        if name is None or self._is_draining or name in self._replaced:
            return
        self._replaced.add(name)
        faults.reach("manager.replace.before")
        self._supervisor.let_go(name)
        if name not in self._solos:
            self._supervisor.add(self._next_worker_spec())

    def _follow_missed_nudges(self, worker_id: str, last: Assignment, done: list[str]) -> None:
        """See to news of runs of which a worker was told when it had just given them up: without this they would wait for the next sweep."""
        nudged = self._nudges.get(worker_id, set[str]())
        missed = {*last.nudged, *nudged}.intersection(done)
        if missed:
            nudged -= missed
            self._hinted |= missed
            self._has_hints.set()

    def _answer_waiters(self) -> None:
        if self._is_draining:
            return
        # A worker of a former manager may ask for as long as it takes it to notice; it would take the runs with it.
        ours = {worker_id for name, worker_id in self._workers.items() if name not in self._solos}
        self._answer_solos()
        self._dispatcher.assign(waiter.bench for worker_id, waiter in self._waiters.items() if worker_id in ours)
        for worker_id, waiter in list(self._waiters.items()):
            nudged = self._nudges.pop(worker_id, set[str]())
            if not (waiter.bench.given or nudged):
                continue
            del self._waiters[worker_id]
            last = self._last.get(worker_id)
            given = waiter.bench.given
            owners = {run_id: owner for run_id in given if (owner := self._owners.get(run_id)) is not None}
            answer = Assignment(
                (last.number if last else 0) + 1, given, self._dispatcher.suspects(given), owners, sorted(nudged)
            )
            self._last[worker_id] = answer
            if faults.reach("manager.assign.after"):
                waiter.answered.cancel()
            if not waiter.answered.done():
                waiter.answered.set_result(answer)

    # --- workers -------------------------------------------------------------------------------------------------

    def _next_worker_spec(self) -> ProcessSpec:
        return self._worker_spec(f"worker-{next(self._worker_numbers)}")

    def _worker_spec(self, name: str, *, is_solo: bool = False) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            target=_WORKER,
            settings=self.settings,
            arguments={"one_at_a_time": is_solo},
            restart=not is_solo,
            log=self._log_setup,
            ready_limit_s=self.settings.start_limit_s,
            drain_limit_s=self.settings.drain_limit_s,
            hung_limit_s=self.settings.worker_hung_limit_s,
        )

    def _pass_worker_event(self, event: ProcessEvent) -> None:
        self._loop.call_soon_threadsafe(self._on_worker_event, event)

    def _on_worker_event(self, event: ProcessEvent) -> None:
        if event.kind is EventKind.READY:
            self._workers[event.name] = event.detail
            self._answer_waiters()
        elif event.kind is EventKind.EXITED:
            self._on_exit(event)

    def _on_exit(self, event: ProcessEvent) -> None:
        worker_id = self._workers.pop(event.name, None)
        self._solos.pop(event.name, None)
        self._replaced.discard(event.name)
        if worker_id is not None:
            faults.reach("manager.worker_lost.before")
            self._waiters.pop(worker_id, None)
            self._last.pop(worker_id, None)
            self._nudges.pop(worker_id, None)
            lost = self._dispatcher.worker_died(worker_id)
            Instance(self.settings).worker_lock(worker_id).discard()
            if not self._is_draining:
                log.warning("worker ended", worker=event.name, runs=len(lost), why=event.detail)
            self._sweep_now.set()

    # --- the queue -----------------------------------------------------------------------------------------------

    async def _sweep(self, db: Database) -> None:
        while True:
            self._sweep_now.clear()
            faults.reach("manager.sweep.before")
            pause_s = SWEEP_S
            now = self._now()
            for worker_id in list(self._orphans):
                self._is_gone(worker_id)  # even if no run names it: one that stands still would never end
            try:
                with typed_errors():
                    runs, wake_at = await db.read(partial(look_for_work, now=db_time(now) or "", limit=SWEEP_RUNS))
            except DatabaseUnavailable as error:
                log.error("queue cannot be read, trying again", error=str(error))  # noqa: TRY400
            else:
                self._offer(runs)
                if wake_at is not None:
                    pause_s = min(pause_s, max(_SHORTEST_PAUSE_S, (wake_at - now).total_seconds()))
            try:
                await asyncio.wait_for(self._sweep_now.wait(), pause_s)
            except TimeoutError:
                continue

    async def _follow_hints(self, db: Database) -> None:
        while True:
            await self._has_hints.wait()
            self._has_hints.clear()
            faults.reach("manager.hints.before")
            hinted, self._hinted = self._hinted, set()
            try:
                with typed_errors():
                    now = db_time(self._now()) or ""
                    look = db.peek if len(hinted) <= _FEW_RUNS else db.read
                    runs = await look(lambda connection, ids=hinted, at=now: waiting_runs_of(connection, ids, now=at))
            except DatabaseUnavailable as error:
                log.warning("hints lost, the next sweep finds the runs", error=str(error))
            else:
                self._offer(runs)

    def _offer(self, runs: Sequence[WaitingRun]) -> None:
        ours = set(self._workers.values())
        gone: dict[str, bool] = {}
        for run in runs:
            holder = self._dispatcher.holder(run.id)
            if holder is not None:
                if run.has_news:
                    self._nudges.setdefault(holder, set()).add(run.id)
                continue
            owner = run.worker_id
            if owner is not None and owner not in ours:
                if owner not in gone:
                    gone[owner] = self._is_gone(owner)
                if not gone[owner]:
                    continue
            self._owners[run.id] = owner
            # What was read may be older than what is known here: a run that has a worker of its own is not for the others.
            if run.takeovers >= MAX_TAKEOVERS or any(solo.run.id == run.id for solo in self._solos.values()):
                self._perform_alone(run)
            else:
                self._dispatcher.offer(run.id, run.priority)
        self._answer_waiters()

    def _perform_alone(self, run: WaitingRun) -> None:
        """Start a worker for a run that has killed its owners, unless it has one; if there are too many of them it has to wait."""
        if self._is_draining or self._dispatcher.holder(run.id) is not None:
            return
        if len(self._solos) >= MAX_SOLO_WORKERS or any(solo.run.id == run.id for solo in self._solos.values()):
            return
        faults.reach("manager.solo.before")
        self._dispatcher.withdraw(run.id)
        name = f"solo-{next(self._solo_numbers)}"
        log.warning("run goes on in a worker of its own", run_id=run.id, takeovers=run.takeovers, worker=name)
        self._solos[name] = _Solo(run)
        self._supervisor.add(self._worker_spec(name, is_solo=True))

    def _answer_solos(self) -> None:
        for name, solo in self._solos.items():
            waiter = self._waiters.get(self._workers.get(name, ""))
            if waiter is not None and not solo.is_given:
                solo.is_given = True
                self._dispatcher.give(waiter.bench, solo.run.id, solo.run.priority)

    def _dismiss_solo(self, worker_id: str) -> None:
        for name, solo in self._solos.items():
            if solo.is_given and self._workers.get(name) == worker_id and self._dispatcher.is_idle(worker_id):
                self._supervisor.remove(name)

    def _tidy_up(self) -> None:
        """Remove the lock files of workers that are no more, and note which former ones are left. A run that names one of the first is free all the same."""
        instance = Instance(self.settings)
        for path in (instance.folder / "workers").glob("*.lock"):
            if not instance.worker_lock(path.stem).discard():
                self._orphans[path.stem] = time.monotonic()

    def _is_gone(self, worker_id: str) -> bool:
        """Whether a worker that is not ours any more can do nothing. One that holds on beyond its grace (stopped, stuck) is killed."""
        lock = Instance(self.settings).worker_lock(worker_id)
        if lock.is_free():
            self._orphans.pop(worker_id, None)
            lock.discard()
            return True
        since = self._orphans.setdefault(worker_id, time.monotonic())
        holder = lock.holder()
        if holder is not None and time.monotonic() - since > ORPHAN_GRACE_S + SWEEP_S:
            log.warning("killing a worker that was left behind", worker_id=worker_id, pid=holder.pid)
            try:
                os.kill(holder.pid, signal.SIGKILL)
            except ProcessLookupError:
                log.info("it has ended meanwhile", pid=holder.pid)
        return False
