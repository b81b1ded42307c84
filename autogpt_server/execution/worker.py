"""A worker: the process that performs runs.

Threads call the blocks whose `run` is a plain generator, the asyncio loop those that are async. Whoever has events to tell plans, one after the other
(`turns.py`); the loop commits. The worker asks the manager for runs, so that it never has more than it can hold. Its life is tied to
an OS lock named after its incarnation: while the lock is held nobody else takes its runs (rule D5).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

from autogpt_server.blocks import get_blocks
from autogpt_server.data.block import CallGraph
from autogpt_server.data.db import Database, DatabaseUnavailable, db_time, typed_errors
from autogpt_server.data.execution import RunKey, abandon_run, run_key
from autogpt_server.data.inbox import read_inbox
from autogpt_server.data.snapshot import load_run
from autogpt_server.execution.attempts import Attempt, AttemptEvent, Paused, Performer
from autogpt_server.execution.children import prepare_child, read_child_result
from autogpt_server.execution.committer import RETRY_S, Committer
from autogpt_server.execution.events import Yielded
from autogpt_server.execution.exhaustion import (
    allow_many_files,
    is_met_by_block,
    leave_if_exhausted,
    leave_when_exhausted,
    leave_within,
)
from autogpt_server.execution.failures import message_of, traceback_text
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.interfaces import LiveInterface, ManagerInterface
from autogpt_server.execution.owner import RunOwner
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.restore import restore_run, static_pins
from autogpt_server.execution.rows import limits_of
from autogpt_server.execution.slots import Slots
from autogpt_server.execution.start import run_limits
from autogpt_server.execution.state import Execution, Failure
from autogpt_server.execution.threads import BlockThreads
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.turns import Turns
from autogpt_server.utils import faults
from autogpt_server.utils.clock import Alarm, utc_now
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.locks import LockOwner
from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.process import AppProcess, ProcessContext
from autogpt_server.utils.service import get_service_client
from autogpt_server.utils.settings import Settings

log = get_logger(__name__)

T = TypeVar("T")

MAX_RUNS = 256
"""Runs that one worker holds at once."""
MAX_LOOP_ATTEMPTS = 1000
"""Async blocks that one worker performs at once."""
SMALL_GRAPH = 100
"""With so many nodes a new run is read without another thread."""
_LOOP_THREADS = 64
"""Threads, made when needed, for what async blocks do in threads."""
_ASK_AGAIN_S = 0.5
"""Pause after the manager could not be asked."""
_FLUSH_S = 1.0
"""Kept back from the time to drain, for the last commits."""
_TIME_CHECK_S = 1.0
"""Between two looks for runs that have taken too long."""
_NOT_TAKEN_UP = Failure(
    "internal_error", "The server could not make sense of this run. That is a mistake of the server; its log says more."
)


class Worker(AppProcess):
    """Performs the runs that the manager hands out."""

    worker_id: str

    def __init__(self, settings: Settings, *, one_at_a_time: bool = False) -> None:
        """`one_at_a_time`: never perform two attempts at once, so that it is known which one the worker dies of."""
        super().__init__(settings)
        self.cancel_grace_s = settings.cancel_grace_s
        self._owners: dict[str, RunOwner] = {}
        self._done: list[str] = []
        self._has_room = asyncio.Event()
        self._in_threads = Slots(1 if one_at_a_time else settings.worker_threads)
        self._on_loop = self._in_threads if one_at_a_time else Slots(MAX_LOOP_ATTEMPTS)
        self._must_fill = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: deque[tuple[RunOwner, Attempt, AttemptEvent]] = deque()
        self._turns = Turns(self._take_events, self._end_turn)
        self._pid = os.getpid()
        self._threads = BlockThreads("block")
        self._reached: dict[str, tuple[str, int]] = {}
        self._is_draining = False
        self._settled = asyncio.Event()
        self._stuck: set[Attempt] = set()
        self._must_go = asyncio.Event()
        """Set when only the end of this process can end an attempt."""
        self._performer = Performer(settings, self.now, self._is_lost)
        self._is_alone = one_at_a_time
        self._new_id = new_id
        self._limits = run_limits(settings)

    async def serve(self, context: ProcessContext) -> None:
        """Perform runs until drained."""
        self._loop = asyncio.get_running_loop()
        leave_when_exhausted(self._loop)
        allow_many_files()
        self.worker_id = context.incarnation
        self._lock(context.name)
        self._manager = get_service_client(ManagerInterface, self.settings)
        self._live = get_service_client(LiveInterface, self.settings)
        # What async blocks use without knowing, as to look up host names; asyncio's own has no more threads than a few.
        self._loop.set_default_executor(ThreadPoolExecutor(_LOOP_THREADS, thread_name_prefix="loop"))
        async with await Database.open(self.settings) as db:
            self._db = db
            self._topologies = Topologies(db, get_blocks(self.settings.block_modules))
            self._committer = Committer(db)
            await self._work(context)

    async def _work(self, context: ProcessContext) -> None:
        """Everything is there: perform runs until drained."""
        self._turns.attach(self._loop)
        await context.ready(self.worker_id)
        commits = asyncio.create_task(self._committer.run(self._turns))
        intake = asyncio.create_task(self._take_runs())
        clock = asyncio.create_task(self._watch_time())
        asked = asyncio.create_task(context.drain_requested())
        unasked = asyncio.create_task(self._must_go.wait())
        await asyncio.wait({commits, intake, clock, asked, unasked}, return_when=asyncio.FIRST_COMPLETED)
        for task in (commits, intake, clock):
            if task.done():
                task.result()  # none ends unasked: raise what ended it
        if not asked.done():
            context.leave()
            await self._retire(asked)
        await self._drain(intake, context.drain_left_s())
        for task in (clock, commits, asked, unasked):
            task.cancel()

    def _lock(self, name: str) -> None:
        lock = Instance(self.settings).worker_lock(self.worker_id)
        if not lock.try_acquire(LockOwner.this_process(name, self.worker_id)):
            raise AutoGPTServerError(f"The lock {lock.path} of a new worker is held by another process.")
        # Else the lock would be held for as long as a process lives that a block has forked.
        os.register_at_fork(after_in_child=lock.release)

    async def _drain(self, intake: asyncio.Task[None], left_s: float) -> None:
        """Start nothing more, give what runs the time there is, and write what has happened."""
        self._is_draining = True
        faults.reach("worker.drain.begun")
        intake.cancel()
        with self._turns.mine():
            for owner in self._owners.values():
                owner.stop_pacing()
        try:
            await asyncio.wait_for(self._settled.wait(), max(0.0, left_s - _FLUSH_S))
        except TimeoutError:
            log.info("blocks are still running at the end of the time to drain")
        await self._committer.flush()

    async def _retire(self, asked: asyncio.Task[None]) -> None:
        """Make room for another worker: hand over what is not under way, and wait for the attempts that are, but not for those that are stuck."""
        self._is_draining = True
        log.warning("worker goes, and another takes its place", stuck=len(self._stuck))
        while True:
            try:
                await self._manager.replace_worker(self.worker_id)
                break
            except AutoGPTServerError as error:
                log.warning("manager cannot be asked for another worker", error=str(error))
                await asyncio.sleep(_ASK_AGAIN_S)
        faults.reach("worker.retire.replaced")
        with self._turns.mine():
            for owner in list(self._owners.values()):
                owner.stop_pacing()
                owner.release_if_idle()
        settled = asyncio.create_task(self._settled.wait())
        await asyncio.wait({settled, asked}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()

    # --- runs ----------------------------------------------------------------------------------------------------

    async def _take_runs(self) -> None:
        received = 0
        while True:
            # Asked without room, the manager would keep us waiting for its whole second.
            while len(self._owners) >= MAX_RUNS or self._is_draining:
                self._has_room.clear()
                await self._has_room.wait()
            done, self._done = self._done, []
            try:
                answer = await self._manager.next_runs(self.worker_id, received, done, MAX_RUNS - len(self._owners))
            except AutoGPTServerError as error:
                self._done = done + self._done
                log.warning("manager cannot be asked for runs", error=str(error))
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            received = answer.number
            for run_id in answer.run_ids:
                await self._take_up(run_id, answer.owners.get(run_id), is_suspect=run_id in answer.suspects)
            for run_id in answer.nudged:
                await self._read_news(run_id)

    async def _take_up(self, run_id: str, former: str | None, *, is_suspect: bool) -> None:
        """Begin with a run, unless another worker than `former` is on record: the manager has not seen that one give it up."""
        if run_id in self._owners:
            return
        faults.reach("worker.take_up.before")
        key: RunKey | None = None
        try:
            with typed_errors():
                key = await self._db.peek(lambda connection: run_key(connection, run_id))
                owner = None if key is None else await self._restore(run_id, key, former, is_suspect=is_suspect)
        except DatabaseUnavailable as error:
            log.error("run cannot be read, leaving it for later", run_id=run_id, error=str(error))  # noqa: TRY400
            owner = None
        except Exception as error:
            leave_if_exhausted(error)
            # Whatever is wrong with this run, it is this run's end and nobody else's.
            log.exception("run cannot be taken up", run_id=run_id)
            if key is not None:
                foreseen = isinstance(error, AutoGPTServerError)
                failure = Failure(error.code, str(error)) if foreseen else _NOT_TAKEN_UP
                await self._give_up(run_id, key.epoch, key.seq, failure)
            owner = None
        if owner is None:
            self._done.append(run_id)
            return
        self._owners[run_id] = owner
        self._guard(owner, owner.take_up)
        faults.reach("worker.take_up.after")

    async def _read_news(self, run_id: str) -> None:
        """Something is new in the inbox of a run that is held here."""
        owner = self._owners.get(run_id)
        if owner is None:
            return  # just released; the manager's next sweep finds it
        faults.reach("worker.news.before")
        try:
            with typed_errors():
                entries = await self._db.read(
                    lambda connection: read_inbox(connection, run_id, after=owner.state.inbox_done)
                )
        except DatabaseUnavailable as error:
            log.warning("inbox cannot be read, leaving it for later", run_id=run_id, error=str(error))
            return
        self._guard(owner, partial(owner.receive, entries))

    async def _restore(self, run_id: str, key: RunKey, former: str | None, *, is_suspect: bool) -> RunOwner | None:
        topology = await self._topologies.get(key.graph_id, key.graph_version)
        pins = static_pins(topology)
        # Of a run that nobody has had there is only what its start nodes were given.
        look = self._db.peek if key.epoch == 0 and len(topology.nodes) <= SMALL_GRAPH else self._db.read
        snapshot = await look(lambda connection: load_run(connection, run_id, pins))
        if snapshot is None:
            return None
        if snapshot.worker_id != former:
            log.warning("run has another owner by now, leaving it", run_id=run_id, owner=snapshot.worker_id)
            return None
        state = restore_run(topology, snapshot)
        planner = Planner(state, new_id=self._new_id, limits=limits_of(snapshot.limits, self._limits))
        inline_bytes = self.settings.inline_value_bytes
        return RunOwner(self, state, planner, snapshot, inline_bytes, is_suspect=is_suspect)

    async def _give_up(self, run_id: str, epoch: int, seq: int, failure: Failure) -> None:
        """End a run as failed, if it still is where we know it to be."""
        ended_at = cast("str", db_time(self.now()))
        while True:
            try:
                with typed_errors():
                    await self._db.write(
                        lambda connection: abandon_run(
                            connection,
                            run_id,
                            epoch=epoch,
                            seq=seq,
                            code=failure.code,
                            message=failure.message,
                            ended_at=ended_at,
                        )
                    )
            except DatabaseUnavailable as error:  # asked again even if it was done: then it changes nothing
                log.error("failed run cannot be written, trying again", run_id=run_id, error=str(error))  # noqa: TRY400
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _watch_time(self) -> None:
        while True:
            await asyncio.sleep(_TIME_CHECK_S)
            for owner in list(self._owners.values()):
                self._guard(owner, partial(owner.check_time, self.now()))

    # --- what an owner needs (owner.Workshop) --------------------------------------------------------------------

    def now(self) -> datetime:
        """The time, for events."""
        return utc_now()

    def enqueue(self, owner: RunOwner, execution: Execution) -> None:
        """Start the execution as soon as there is room."""
        self._slots(execution).enqueue(owner, execution)
        self._must_fill = True

    def launch(self, attempt: Attempt) -> None:
        """Call the block."""
        faults.reach("worker.launch.before")
        resumed = attempt.execution.resumed
        if resumed is not None and resumed.child_run_id is not None:
            self._spawn(self._launch_with_child(attempt, resumed.child_run_id), attempt.run.run_id)
        else:
            attempt.resumed_with = resumed.value if resumed else None
            self._call(attempt)

    async def _launch_with_child(self, attempt: Attempt, child_run_id: str) -> None:
        attempt.resumed_with = await self._until_readable(
            lambda: read_child_result(self._db, self._topologies.blocks, child_run_id)
        )
        self._call(attempt)

    def _call(self, attempt: Attempt) -> None:
        if attempt.execution.node.runs_on_loop:
            self._spawn(self._performer.run_on_loop(attempt), attempt.run.run_id)
        else:
            self._threads.submit(partial(self._performer.run_in_thread, attempt))

    def call_graph(self, owner: RunOwner, execution: Execution, call: CallGraph, limits: RunLimits) -> None:
        """Prepare a child run, and then tell `RunOwner.graph_prepared`."""

        async def prepare() -> None:
            events = await self._until_readable(
                lambda: prepare_child(
                    self._topologies,
                    self.settings,
                    owner.state,
                    execution,
                    call,
                    new_id=self._new_id,
                    limits=limits,
                    at=self.now(),
                )
            )
            faults.reach("worker.child.prepared")
            self._guard(owner, partial(owner.graph_prepared, events))

        self._spawn(prepare(), owner.state.id)

    async def _until_readable(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` answers, once the database can be read."""
        while True:
            try:
                with typed_errors():
                    return await read()
            except DatabaseUnavailable as error:
                log.warning("database cannot be read, trying again", error=str(error))
                await asyncio.sleep(RETRY_S)

    def call_later(self, delay_s: float, perform: Callable[[], None]) -> Alarm:
        """Have something done in turn after a while."""
        return self._turns.call_later(delay_s, perform)

    def stuck(self, attempt: Attempt) -> None:
        """An attempt goes on though it was told to stop: only the end of this process ends it (rule D7)."""
        log.warning(
            "block does not end though it was told to",
            run_id=attempt.run.run_id,
            node_exec_id=attempt.execution.id,
            block=attempt.execution.node.block.name,
        )
        self._stuck.add(attempt)
        self._turns.soon(self._must_go.set)

    def _is_lost(self, attempt: Attempt, error: BaseException) -> bool:
        """A block has raised; answers whether this process is exhausted, and the attempt ends with it (`exhaustion.py`). Called in the block's thread."""
        if os.getpid() != self._pid or not self._is_exhausted(error):
            return False
        self._is_draining = True  # nothing else begins here
        self._leave_within(self.cancel_grace_s)
        if self._is_alone:  # so it was this one: it fails
            self._turns.soon(self._must_go.set)
            return False
        log.error(
            "worker is out of memory, threads or files, and goes",
            error=message_of(error),
            run_id=attempt.run.run_id,
        )
        self._turns.soon(self._lose, attempt)
        return True

    @staticmethod
    def _is_exhausted(error: BaseException) -> bool:
        return is_met_by_block(error)

    @staticmethod
    def _leave_within(limit_s: float) -> None:
        leave_within(limit_s)

    def _lose(self, attempt: Attempt) -> None:
        with self._turns.mine():
            self._stuck.add(attempt)
        self._must_go.set()

    def report(self, owner: RunOwner, attempt: Attempt, event: AttemptEvent) -> None:
        """Apply an event, here or in the thread that is planning at the moment."""
        if os.getpid() != self._pid:
            os._exit(0)  # the block forked, and this is the child: everything here is the parent's
        self._events.append((owner, attempt, event))
        if isinstance(event, Yielded | Paused):
            self._turns.notify()
        else:
            self._threads.end(self._turns.notify)

    def discard(self, attempt: Attempt) -> None:
        """Free the room of an attempt that will not be launched."""
        self._slots(attempt.execution).free_one()
        self._must_fill = True

    def changed(self, owner: RunOwner, *, at_once: bool) -> None:
        """Have the owner's changes written soon, or at once because something waits for them."""
        self._committer.changed(owner, at_once=at_once)

    def reached(self, owner: RunOwner) -> None:
        """Tell the server that events are durable; one hint for all runs of a transaction."""
        if not self._reached:
            self._loop.call_soon(self._tell)
        self._reached[owner.state.id] = (owner.ids.graph_id, owner.durable_seq)

    def hint(self, run_ids: Iterable[str]) -> None:
        """Tell the manager of runs that have been made, or that have something new in their inbox."""
        for run_id in sorted(run_ids):
            self._spawn(self._manager.run_waits(run_id))

    def release(self, owner: RunOwner) -> None:
        """The run is done with, here."""
        if self._owners.pop(owner.state.id, None) is not None:
            self._done.append(owner.state.id)
            self._turns.soon(self._has_room.set)
            faults.reach("worker.release.after")

    def abandon(self, owner: RunOwner, failure: Failure) -> None:
        """End a run that went wrong here, as far as it is committed, and release it."""

        async def end() -> None:
            try:
                await self._give_up(owner.state.id, owner.durable_epoch, owner.durable_seq, failure)
            finally:
                self.release(owner)

        self._spawn(end())

    # --- attempts ------------------------------------------------------------------------------------------------

    def _slots(self, execution: Execution) -> Slots:
        return self._on_loop if execution.node.runs_on_loop else self._in_threads

    def _end_turn(self) -> None:
        """Start what is queued as long as there is room."""
        while self._must_fill and not self._is_draining:
            self._must_fill = False
            self._in_threads.fill(self._begin)
            self._on_loop.fill(self._begin)
        if self._is_draining:
            self._check_settled()

    def _begin(self, owner: RunOwner, execution: Execution) -> bool:
        try:
            return owner.begin(execution)
        except Exception as error:  # noqa: BLE001 - a mistake in one run must not stop the others
            owner.fail(error)
            return False

    def _take_events(self) -> None:
        """Apply what blocks have reported, in the order in which they did."""
        events = self._events
        while events:
            owner, attempt, event = events.popleft()
            if isinstance(event, Paused):
                self._pause(owner, attempt, is_paused=event.is_paused)
                continue
            if not isinstance(event, Yielded):
                self._end(attempt)
            try:
                owner.take(event)
            except Exception as error:  # noqa: BLE001 - as `_guard`, without what a call of it costs
                owner.fail(error)

    def _pause(self, owner: RunOwner, attempt: Attempt, *, is_paused: bool) -> None:
        # Else those that it waits for might wait for its place.
        slots = self._slots(attempt.execution)
        if is_paused:
            slots.free_one()
        else:
            slots.take_back_one()
        self._must_fill = True
        owner.paused(attempt, is_paused=is_paused)

    def _end(self, attempt: Attempt) -> None:
        attempt.is_over = True
        if attempt.time_limit is not None:
            attempt.time_limit.cancel()
        self._stuck.discard(attempt)
        self._slots(attempt.execution).free_one()
        self._must_fill = True

    def _check_settled(self) -> None:
        used = self._in_threads.used + (0 if self._on_loop is self._in_threads else self._on_loop.used)
        if used <= len(self._stuck):
            self._turns.soon(self._settled.set)

    def _tell(self) -> None:
        reached, self._reached = self._reached, {}
        self._spawn(self._live.runs_reached([(run_id, graph_id, seq) for run_id, (graph_id, seq) in reached.items()]))

    def _guard(self, owner: RunOwner, step: Callable[[], None]) -> None:
        """Take a step of one run, in turn; a mistake there must not stop the others."""
        with self._turns.mine():
            try:
                step()
            except Exception as error:  # noqa: BLE001 - `fail` logs it and ends the run
                owner.fail(error)

    def _spawn(self, work: Coroutine[Any, Any, None], run_id: str = "") -> None:
        """Have something done on the loop. If it is for a run, that cannot go on if it fails."""
        self._turns.soon(self._create_task, work, run_id)

    def _create_task(self, work: Coroutine[Any, Any, None], run_id: str) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, run_id))

    def _ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            leave_if_exhausted(error)
            log.error("task failed", traceback=traceback_text(error))
            owner = self._owners.get(run_id)
            if owner is not None and isinstance(error, Exception):
                self._guard(owner, partial(owner.fail, error))
