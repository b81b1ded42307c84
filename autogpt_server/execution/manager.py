"""The ExecutionManager: owns the queue of runs and the workers that perform them.

The queue is the database; hints and a sweep each second tell what is in it. A run of a dead worker is handed to another one once the dead one's lock is
free (rule D5), and what was running then is judged by the planner (rule D4).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autogpt_server.data.db import Database
from autogpt_server.data.execution import WaitingRun, waiting_runs
from autogpt_server.execution.dispatch import Bench, Dispatcher
from autogpt_server.execution.interfaces import ManagerInterface
from autogpt_server.execution.worker import worker_lock_path
from autogpt_server.utils.locks import LockFile
from autogpt_server.utils.process import ORPHAN_GRACE_S, ProcessContext, ProcessSpec
from autogpt_server.utils.service import AppService
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import EventKind, ProcessEvent, Supervisor

log = logging.getLogger(__name__)

SWEEP_S = 1.0
"""Between two looks for runs of which no hint told."""
LONG_POLL_S = 1.0
"""How long a worker that asks for runs is kept waiting when there are none."""
HUNG_S = 60.0
"""A worker whose loop has not moved for so long is killed."""
_WORKER = "autogpt_server.execution.worker:Worker"


@dataclass(slots=True)
class _Waiter:
    bench: Bench
    answered: asyncio.Future[None]


class ExecutionManager(ManagerInterface, AppService):
    """Consumes the durable queue of runs."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._dispatcher = Dispatcher()
        self._waiters: dict[str, _Waiter] = {}
        self._workers: dict[str, str] = {}
        """Name of each live worker process -> its incarnation."""
        self._orphans: dict[str, float] = {}
        """Incarnation of a worker that is not ours but holds its lock -> since when it is known."""
        self._sweep_now = asyncio.Event()

    async def serve(self, context: ProcessContext) -> None:
        """Keep the workers running and the queue moving until drained."""
        self._loop = asyncio.get_running_loop()
        supervisor = Supervisor(
            [self._worker_spec(number, context) for number in range(1, self.settings.num_graph_workers + 1)],
            on_event=self._pass_worker_event,
            drain_limit_s=self.settings.drain_limit_s,
        )
        async with await Database.open(self.settings) as db:
            supervisor.start()
            if not await asyncio.to_thread(supervisor.wait_ready, self.settings.start_limit_s):
                raise RuntimeError("the workers did not become ready")
            await context.ready(f"{self.settings.num_graph_workers} workers")
            sweeping = asyncio.create_task(self._sweep(db))
            drained = asyncio.create_task(context.drain_requested())
            await asyncio.wait({sweeping, drained}, return_when=asyncio.FIRST_COMPLETED)
            if sweeping.done():
                sweeping.result()
            sweeping.cancel()
            for process in supervisor.processes():
                supervisor.remove(process.name)  # all at once: each gets the whole of the time
            supervisor.request_drain()
            await asyncio.to_thread(supervisor.join, context.drain_left_s())

    # --- what others ask (ManagerInterface) ----------------------------------------------------------------------

    async def run_waits(self, run_id: str, priority: int = 0) -> None:
        """A run has been committed and waits for a worker."""
        self._dispatcher.offer(run_id, priority)
        self._answer_waiters()

    async def next_runs(self, worker_id: str, done: list[str], room: int) -> list[str]:
        """Take note of what a worker is done with, and give it runs as soon as there are some."""
        self._dispatcher.done(worker_id, done)
        waiter = _Waiter(Bench(worker_id, room), self._loop.create_future())
        self._waiters[worker_id] = waiter
        self._answer_waiters()
        try:
            await asyncio.wait_for(waiter.answered, LONG_POLL_S)
        except TimeoutError:
            if self._waiters.get(worker_id) is waiter:
                del self._waiters[worker_id]
        return waiter.bench.given

    def _answer_waiters(self) -> None:
        self._dispatcher.assign(waiter.bench for waiter in self._waiters.values())
        for worker_id, waiter in list(self._waiters.items()):
            if waiter.bench.given:
                del self._waiters[worker_id]
                if not waiter.answered.done():
                    waiter.answered.set_result(None)

    # --- workers -------------------------------------------------------------------------------------------------

    def _worker_spec(self, number: int, context: ProcessContext) -> ProcessSpec:
        return ProcessSpec(
            name=f"worker-{number}",
            target=_WORKER,
            settings=self.settings,
            log=context.log_setup,
            ready_limit_s=self.settings.start_limit_s,
            drain_limit_s=self.settings.drain_limit_s,
            hung_limit_s=HUNG_S,
        )

    def _pass_worker_event(self, event: ProcessEvent) -> None:
        self._loop.call_soon_threadsafe(self._on_worker_event, event)

    def _on_worker_event(self, event: ProcessEvent) -> None:
        if event.kind is EventKind.READY:
            self._workers[event.name] = event.detail
        elif event.kind is EventKind.EXITED and (worker_id := self._workers.pop(event.name, None)) is not None:
            self._waiters.pop(worker_id, None)
            lost = self._dispatcher.worker_died(worker_id)
            log.warning("worker ended", extra={"worker": event.name, "runs": len(lost), "why": event.detail})
            self._sweep_now.set()

    # --- the queue -----------------------------------------------------------------------------------------------

    async def _sweep(self, db: Database) -> None:
        while True:
            self._sweep_now.clear()
            try:
                self._offer(await db.read(waiting_runs))
            except sqlite3.Error as error:
                log.error("queue cannot be read, trying again", extra={"error": str(error)})  # noqa: TRY400
            try:
                await asyncio.wait_for(self._sweep_now.wait(), SWEEP_S)
            except TimeoutError:
                continue

    def _offer(self, runs: Sequence[WaitingRun]) -> None:
        free: dict[str, bool] = {}
        for run in runs:
            if self._dispatcher.holder(run.id) is not None:
                continue
            owner = run.worker_id
            if owner is not None and owner not in self._workers.values():
                if owner not in free:
                    free[owner] = self._is_gone(owner)
                if not free[owner]:
                    continue
            self._dispatcher.offer(run.id, run.priority)
        self._answer_waiters()

    def _is_gone(self, worker_id: str) -> bool:
        """Whether a worker that is not ours any more can do nothing. One that holds on beyond its grace (stopped, stuck) is killed."""
        lock = LockFile(worker_lock_path(self.settings, worker_id))
        if lock.is_free():
            self._orphans.pop(worker_id, None)
            lock.discard()
            return True
        since = self._orphans.setdefault(worker_id, time.monotonic())
        holder = lock.holder()
        if holder is not None and time.monotonic() - since > ORPHAN_GRACE_S + SWEEP_S:
            log.warning("killing a worker that was left behind", extra={"worker_id": worker_id, "pid": holder.pid})
            try:
                os.kill(holder.pid, signal.SIGKILL)
            except ProcessLookupError:
                log.info("it has ended meanwhile", extra={"pid": holder.pid})
        return False
