"""A worker: the process that performs runs.

One asyncio loop plans and commits; a pool of threads calls the blocks whose `run` is a plain generator. The worker asks the manager for
runs, so that it never has more than it can hold. Its life is tied to an OS lock named after its incarnation: while the lock is
held nobody else takes its runs (rule D5).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from autogpt_server.blocks import get_blocks
from autogpt_server.data.db import Database, db_time
from autogpt_server.data.execution import RunCommit, abandon_run, load_run, run_key
from autogpt_server.execution.attempts import Attempt, Performer
from autogpt_server.execution.committer import Committer
from autogpt_server.execution.interfaces import LiveInterface, ManagerInterface
from autogpt_server.execution.owner import RunOwner
from autogpt_server.execution.plan import Ended, Planner, Yielded
from autogpt_server.execution.restore import restore_run, static_pins
from autogpt_server.execution.start import run_limits
from autogpt_server.execution.state import Execution, Failure
from autogpt_server.execution.topologies import Topologies
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.locks import LockFile, LockOwner
from autogpt_server.utils.process import AppProcess, ProcessContext
from autogpt_server.utils.service import get_service_client
from autogpt_server.utils.settings import Settings

log = logging.getLogger(__name__)

MAX_RUNS = 256
"""Runs that one worker holds at once."""
MAX_LOOP_ATTEMPTS = 1000
"""Async blocks that one worker performs at once."""
_RETRY_S = 0.5
"""Pause after the manager could not be asked."""
_FLUSH_S = 1.0
"""Kept back from the time to drain, for the last commits."""


def worker_lock_path(settings: Settings, worker_id: str) -> Path:
    """The lock that a worker holds while it lives. Whoever finds it free may take over the worker's runs."""
    return settings.state_dir / "workers" / f"{worker_id}.lock"


class Worker(AppProcess):
    """Performs the runs that the manager hands out."""

    worker_id: str

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._owners: dict[str, RunOwner] = {}
        self._done: list[str] = []
        self._in_threads = _Slots(settings.worker_threads, settings.worker_threads)
        self._on_loop = _Slots(MAX_LOOP_ATTEMPTS, MAX_LOOP_ATTEMPTS)
        self._is_filling = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: deque[tuple[RunOwner, Attempt, Yielded | Ended]] = deque()
        self._events_lock = threading.Lock()
        self._reached: dict[str, tuple[str, int]] = {}
        self._is_draining = False
        self._settled = asyncio.Event()
        self._performer = Performer(settings)
        self._limits = run_limits(settings)

    async def serve(self, context: ProcessContext) -> None:
        """Perform runs until drained."""
        self._loop = asyncio.get_running_loop()
        self.worker_id = context.incarnation
        lock = LockFile(worker_lock_path(self.settings, self.worker_id))
        if not lock.try_acquire(LockOwner.this_process(context.name, self.worker_id)):
            raise AutoGPTServerError(f"The lock {lock.path} of a new worker is held by another process.")
        self._manager = get_service_client(ManagerInterface, self.settings)
        self._live = get_service_client(LiveInterface, self.settings)
        self._threads = ThreadPoolExecutor(self.settings.worker_threads, thread_name_prefix="block")
        async with await Database.open(self.settings) as db:
            self._db = db
            self._topologies = Topologies(db, get_blocks())
            self._committer = Committer(db)
            await context.ready(self.worker_id)
            commits = asyncio.create_task(self._committer.run())
            intake = asyncio.create_task(self._take_runs())
            drained = asyncio.create_task(context.drain_requested())
            await asyncio.wait({commits, intake, drained}, return_when=asyncio.FIRST_COMPLETED)
            for task in (commits, intake):
                if task.done():
                    task.result()  # neither ends unasked: raise what ended it
            await self._drain(intake, context.drain_left_s())
            commits.cancel()

    async def _drain(self, intake: asyncio.Task[None], left_s: float) -> None:
        """Start nothing more, give what runs the time there is, and write what has happened."""
        self._is_draining = True
        intake.cancel()
        self._check_settled()
        try:
            await asyncio.wait_for(self._settled.wait(), max(0.0, left_s - _FLUSH_S))
        except TimeoutError:
            log.info("blocks are still running at the end of the time to drain")
        await self._committer.flush()

    # --- runs ----------------------------------------------------------------------------------------------------

    async def _take_runs(self) -> None:
        while True:
            done, self._done = self._done, []
            try:
                run_ids = await self._manager.next_runs(self.worker_id, done, MAX_RUNS - len(self._owners))
            except AutoGPTServerError as error:
                self._done = done + self._done
                log.warning("manager cannot be asked for runs", extra={"error": str(error)})
                await asyncio.sleep(_RETRY_S)
                continue
            for run_id in run_ids:
                await self._take_up(run_id)

    async def _take_up(self, run_id: str) -> None:
        key = None if run_id in self._owners else await self._db.read(lambda connection: run_key(connection, run_id))
        if key is None:
            self._done.append(run_id)
            return
        try:
            topology = await self._topologies.get(key.graph_id, key.graph_version)
            pins = static_pins(topology)
            snapshot = await self._db.read(lambda connection: load_run(connection, run_id, pins))
            if snapshot is None:
                self._done.append(run_id)
                return
            state = restore_run(topology, snapshot)
        except AutoGPTServerError as error:
            log.error("run cannot be taken up", extra={"run_id": run_id, "error": str(error)})  # noqa: TRY400
            await self._give_up(run_id, key.epoch, key.seq, Failure(error.code, str(error)))
            self._done.append(run_id)
            return
        planner = Planner(state, new_id=new_id, limits=self._limits)
        owner = RunOwner(self, state, planner, snapshot, self.settings.inline_value_bytes)
        self._owners[run_id] = owner
        owner.take_up()

    async def _give_up(self, run_id: str, epoch: int, seq: int, failure: Failure) -> None:
        ended_at = cast("str", db_time(self.now()))
        await self._db.write(
            lambda connection: abandon_run(
                connection, run_id, epoch=epoch, seq=seq, code=failure.code, message=failure.message, ended_at=ended_at
            )
        )

    # --- what an owner needs (owner.Workshop) --------------------------------------------------------------------

    def now(self) -> datetime:
        """The time, for events."""
        return datetime.now(UTC)

    def enqueue(self, owner: RunOwner, execution: Execution) -> None:
        """Start the execution as soon as there is room."""
        self._slots(execution).queue.append((owner, execution))
        if not self._is_filling:
            self._is_filling = True
            self._loop.call_soon(self._fill)

    def launch(self, attempt: Attempt) -> None:
        """Call the block."""
        if attempt.execution.node.runs_on_loop:
            attempt.task = self._spawn(self._performer.run_on_loop(attempt))
        else:
            self._threads.submit(self._performer.run_in_thread, attempt)

    def report(self, owner: RunOwner, attempt: Attempt, event: Yielded | Ended) -> None:
        """Bring an event to the loop; one wake-up serves all that arrive before it."""
        with self._events_lock:
            self._events.append((owner, attempt, event))
            if len(self._events) > 1:
                return
        self._loop.call_soon_threadsafe(self._take_events)

    def discard(self, attempt: Attempt) -> None:
        """Free the room of an attempt that will not be launched."""
        self._slots(attempt.execution).free += 1

    def changed(self, owner: RunOwner) -> None:
        """Have the owner's changes written soon."""
        self._committer.changed(owner)

    def reached(self, owner: RunOwner) -> None:
        """Tell the server that events are durable; one hint for all runs of a transaction."""
        if not self._reached:
            self._loop.call_soon(self._tell)
        self._reached[owner.state.id] = (owner.ids.graph_id, owner.durable_seq)

    def release(self, owner: RunOwner) -> None:
        """The run is done with, here."""
        if self._owners.pop(owner.state.id, None) is not None:
            self._done.append(owner.state.id)

    def abandon(self, entry: RunCommit, error: Exception | None) -> None:
        """End a run whose rows the database refused: its state in memory is wrong and must not be built on."""
        log.error("database refused the rows of a run", extra={"run_id": entry.run_id, "error": str(error)})
        message = "The server could not record what this run did. That is a mistake of the server; its log says more."
        epoch = entry.epoch - 1 if entry.claim else entry.epoch
        self._spawn(self._give_up(entry.run_id, epoch, entry.from_seq, Failure("internal_error", message)))

    # --- attempts ------------------------------------------------------------------------------------------------

    def _slots(self, execution: Execution) -> _Slots:
        return self._on_loop if execution.node.runs_on_loop else self._in_threads

    def _fill(self) -> None:
        """Start what is queued as long as there is room."""
        self._is_filling = False
        for slots in (self._in_threads, self._on_loop):
            while slots.queue and slots.free and not self._is_draining:
                owner, execution = slots.queue.popleft()
                if owner.begin(execution):
                    slots.free -= 1

    def _take_events(self) -> None:
        """Apply what blocks have reported, in the order in which they did."""
        with self._events_lock:
            events, self._events = self._events, deque()
        for owner, attempt, event in events:
            if isinstance(event, Ended):
                self._slots(attempt.execution).free += 1
            owner.apply(event)
        self._fill()
        self._check_settled()

    def _check_settled(self) -> None:
        if self._is_draining and self._in_threads.is_unused and self._on_loop.is_unused:
            self._settled.set()

    def _tell(self) -> None:
        reached, self._reached = self._reached, {}
        self._spawn(self._live.runs_reached([(run_id, graph_id, seq) for run_id, (graph_id, seq) in reached.items()]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(slots=True)
class _Slots:
    """Room for attempts of one kind, and what waits for it."""

    size: int
    free: int
    queue: deque[tuple[RunOwner, Execution]] = field(default_factory=deque[tuple[RunOwner, Execution]])

    @property
    def is_unused(self) -> bool:
        return self.free == self.size
