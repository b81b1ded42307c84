"""Database threads. ``sqlite3`` blocks, so each connection lives in a thread of its own and is handed functions to call.

What is handed over in one call is not interleaved with anything else. Writes that are waiting when a transaction begins, or come
while it is filled, share it (see `together`): while one is on its way to the disk, the next ones gather.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar, cast

from autogpt_server.data.engine.errors import EngineClosedError
from autogpt_server.data.engine.sqlite import rollback
from autogpt_server.data.engine.together import Outcome, perform_together

T = TypeVar("T")

MAX_TOGETHER: Final = 100
"""Writes in one transaction."""
_FILL_S: Final = 0.005
"""A transaction that is open for longer takes no more writes: other processes want their turn."""


class _Job(Generic[T]):
    """One call in a database thread, and who waits for it."""

    def __init__(self, function: Callable[[sqlite3.Connection], T], patience_s: float | None = None) -> None:
        """``patience_s``: it is a write, which may share a transaction, and may wait that long for other processes."""
        self.function = function
        self.is_write = patience_s is not None
        self._give_up_at = time.monotonic() + (patience_s or 0.0)
        self._loop = asyncio.get_running_loop()
        self._claim = threading.Lock()
        self._settled: asyncio.Future[None] | None = None
        self._finished = False
        self.outcome: asyncio.Future[T] = self._loop.create_future()

    def claim(self) -> bool:
        """Before it is started: False if it was withdrawn. To withdraw it: False if it was started."""
        return self._claim.acquire(blocking=False)

    def patience_s(self) -> float:
        """How much longer it may wait for other processes."""
        return max(self._give_up_at - time.monotonic(), 0.0)

    async def settle(self) -> None:
        """Wait until a job that was started has ended, however often the waiting task is cancelled."""
        while not self._finished:
            self._settled = self._loop.create_future()
            with contextlib.suppress(asyncio.CancelledError):
                await self._settled

    def run(self, connection: sqlite3.Connection) -> Outcome:
        """Run in the database thread."""
        try:
            return Outcome(self.function(connection))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the job is awaited
            return Outcome(error=error)

    @staticmethod
    def report(jobs: "list[_Job[Any]]", outcomes: list[Outcome]) -> None:
        """From the database thread: tell those who wait."""
        # The jobs of a thread belong to one loop; one call wakes it once.
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            jobs[0]._loop.call_soon_threadsafe(_finish_all, jobs, outcomes)  # noqa: SLF001 - of this class

    def finish(self, outcome: Outcome) -> None:
        """On the loop."""
        self._finished = True
        if not self.outcome.done():
            if outcome.error is None:
                self.outcome.set_result(outcome.value)
            else:
                self.outcome.set_exception(_holdable(outcome.error))
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)


def _finish_all(jobs: list[_Job[Any]], outcomes: list[Outcome]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        job.finish(outcome)


def _holdable(error: BaseException) -> BaseException:
    if isinstance(error, StopIteration):  # which no future can hold
        unfit = RuntimeError("the function raised StopIteration")
        unfit.__cause__ = error
        return unfit
    return error


class DatabaseThread:
    """A connection and the thread that it lives in. Calls are made in the order in which they were asked for. For one event loop."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._opened: _Job[None] | None = None
        self._closed = False
        self._lock = threading.Lock()
        # A daemon: a client that nobody disconnected does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    async def start(self) -> None:
        """Open the connection; raises what opening it raised."""
        self._opened = _Job(lambda _: None)
        self._thread.start()
        try:
            await self._opened.outcome
        except BaseException:  # perhaps cancelled: then nobody will use it
            self.close()
            raise

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``function`` with the connection, in its thread.

        A task that is cancelled while the call is waiting for its turn withdraws it. Once it has started it cannot be
        stopped: the cancellation is then raised when it has ended, so that whoever is cancelled knows it is over.
        """
        return await self._wait_for(_Job(function))

    async def write(self, function: Callable[[sqlite3.Connection], T], timeout_s: float) -> T:
        """Call ``function`` in a transaction that is committed after it, or undo what it did if it raises.

        Others that are waiting at the same time share the transaction. Cancellation is as with `call`.

        Raises:
            CommitUncertainError: COMMIT itself failed: what it did may or may not be durable.
            DatabaseBusyError: other processes wrote for ``timeout_s``.
        """
        return await self._wait_for(_Job(function, timeout_s))

    async def _wait_for(self, job: _Job[T]) -> T:
        with self._lock:
            if self._closed:
                raise EngineClosedError("the client was disconnected")
            self._jobs.put(job)
        try:
            return await job.outcome
        except asyncio.CancelledError:
            if not job.claim():
                await job.settle()
            raise

    def close(self) -> None:
        """Close the connection when what was asked for is done, without waiting for it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)

    async def aclose(self) -> None:
        """Close the connection and wait for it."""
        self.close()
        if self._thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _work(self) -> None:
        opened = cast("_Job[None]", self._opened)
        try:
            connection = self._connect()
        except BaseException as error:  # noqa: BLE001 - raised again by start()
            _Job.report([opened], [Outcome(error=error)])
            return
        _Job.report([opened], [Outcome()])
        try:
            job = self._jobs.get()
            while job is not None:
                job = self._perform(connection, job)
        finally:
            rollback(connection)
            connection.close()

    def _perform(self, connection: sqlite3.Connection, job: _Job[Any]) -> _Job[Any] | None:
        """Do one job, or several at once; returns the next one, or None at the end."""
        if not job.claim():
            return self._jobs.get()
        if not job.is_write:
            _Job.report([job], [job.run(connection)])
            del job  # do not keep its result alive while waiting
            return self._jobs.get()
        batch = _Batch(self._jobs, job)
        del job
        outcomes = perform_together(connection, batch.taken[0].patience_s(), batch.functions())
        _Job.report(batch.taken, outcomes)
        following = batch.following
        del batch, outcomes
        return self._jobs.get() if following is _NOTHING else cast("_Job[Any] | None", following)


_NOTHING: Final = object()


class _Batch:
    """The writes that share one transaction, taken from the queue while it is filled."""

    def __init__(self, jobs: "SimpleQueue[_Job[Any] | None]", first: _Job[Any]) -> None:
        self._jobs = jobs
        self.taken = [first]
        self.following: object = _NOTHING
        """What was taken from the queue and is no write: a job, or None for the end."""

    def functions(self) -> Iterator[Callable[[sqlite3.Connection], Any]]:
        """The functions of the writes; to be asked for the second one when the transaction has begun."""
        yield self.taken[0].function
        full_at = time.monotonic() + _FILL_S
        while len(self.taken) < MAX_TOGETHER and time.monotonic() < full_at:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is None or not job.is_write:
                self.following = job
                return
            if job.claim():
                self.taken.append(job)
                yield job.function
