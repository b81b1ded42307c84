"""SQLite connections, each in a thread of its own.

One engine has one connection that writes and one that reads. ``sqlite3`` blocks, so each lives in its thread and is handed
functions to call; what is handed to the writer in one call is not interleaved with anything else.

Several processes share a file in WAL mode: readers never wait, and writers take turns by ``BEGIN IMMEDIATE``, which
takes the write lock at once, so that no transaction has to fail halfway because it read before another wrote
(sqlite.org/lang_transaction.html). Waiting for that lock is done here and not by SQLite's busy handler: that sleeps for
up to 100 ms at a time, while writers here hold the lock for about one.
"""

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Generic, Literal, TypeVar, cast, get_args
from urllib.parse import quote

from autogpt_server.data.engine.errors import CommitUncertainError, DatabaseBusyError, EngineClosedError, EngineError
from autogpt_server.utils import faults

T = TypeVar("T")

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]

_CACHED_STATEMENTS: Final = 512
_FIRST_PAUSE_S: Final = 0.0002
_LONGEST_PAUSE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How a database file is opened.

    ``synchronous``: FULL (a commit survives the loss of power), NORMAL (it survives the death of processes), ...
    ``busy_timeout_s``: how long to wait for another process's write before giving up.
    """

    path: Path
    synchronous: Synchronous = "FULL"
    busy_timeout_s: float = 30.0
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous is one of {', '.join(get_args(Synchronous))}, not {self.synchronous!r}")
        if self.busy_timeout_s < 0:
            raise ValueError(f"busy_timeout_s is {self.busy_timeout_s}, which is below 0")


def open_writer(options: ConnectionOptions) -> sqlite3.Connection:
    """A connection that may write; the file is created if it does not exist.

    Raises:
        EngineError: it cannot be opened.
        DatabaseBusyError: another process did not let it become ready within the busy timeout.
    """

    def prepare(connection: sqlite3.Connection) -> None:
        _patiently(lambda: _set_wal(connection), time.monotonic() + options.busy_timeout_s)
        connection.execute(f"PRAGMA synchronous={options.synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=0")  # waiting is `_patiently`'s business

    return _open(options, "rwc", prepare)


def open_reader(options: ConnectionOptions) -> sqlite3.Connection:
    """A connection that cannot write.

    Raises:
        EngineError: it cannot be opened.
    """
    mode = "ro" if options.read_only else "rw"
    return _open(options, mode, lambda connection: connection.execute("PRAGMA query_only=ON"))


def _open(options: ConnectionOptions, mode: str, prepare: Callable[[sqlite3.Connection], object]) -> sqlite3.Connection:
    # A file: URI, for the mode; quoted, so that odd characters do not matter.
    uri = f"file:{quote(str(options.path))}?mode={mode}"
    try:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=options.busy_timeout_s,
            isolation_level=None,
            cached_statements=_CACHED_STATEMENTS,
        )
        try:
            connection.execute("PRAGMA schema_version")  # reads the file: it may be no database
            prepare(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise EngineError(f"cannot open the database {options.path}: {error}") from error
    return connection


def _set_wal(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise EngineError(f"the database cannot be used by several processes: its journal mode is {mode!r}, not WAL")


def is_busy(error: BaseException) -> bool:
    """Whether another connection held a lock."""
    code: int = getattr(error, "sqlite_errorcode", 0)  # what Python itself raises has none
    return isinstance(error, sqlite3.OperationalError) and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _patiently(function: Callable[[], T], deadline: float) -> T:
    """Call ``function``, which has no effect when it meets a lock, until it meets none or ``deadline`` has passed."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return function()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            if time.monotonic() >= deadline:
                raise DatabaseBusyError(
                    f"another process kept the database busy for the whole busy timeout ({error})"
                ) from error
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads writers out; nothing secret
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


# --- transactions on a connection, in its thread ------------------------------------------------------------------------


def begin(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Take the write lock and begin a transaction.

    Raises:
        DatabaseBusyError: another process held the lock for ``timeout_s``.
    """
    _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), time.monotonic() + timeout_s)


def commit(connection: sqlite3.Connection) -> None:
    """Commit.

    Raises:
        sqlite3.IntegrityError: a deferred constraint is violated; the transaction was rolled back.
        CommitUncertainError: anything else.
    """
    try:
        if faults.reach("sqlite.commit.before"):
            raise sqlite3.OperationalError("disk I/O error")
        connection.execute("COMMIT")
        if faults.reach("sqlite.commit.after"):
            raise sqlite3.OperationalError("disk I/O error")
    except sqlite3.Error as error:
        rollback(connection)
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise CommitUncertainError(
            f"COMMIT failed ({error}): the transaction may or may not be durable; read back before repeating it"
        ) from error


def rollback(connection: sqlite3.Connection) -> None:
    """Roll back, if SQLite has not done so already (it does after errors of the disk, for one)."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.OperationalError):  # an error now means that there is nothing left to undo
            connection.execute("ROLLBACK")


def in_transaction(connection: sqlite3.Connection, timeout_s: float, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call ``function`` between BEGIN IMMEDIATE and COMMIT; roll back if it raises."""
    begin(connection, timeout_s)
    try:
        result = function(connection)
        if not connection.in_transaction:
            raise EngineError("the function ended the transaction that it was called in")
    except BaseException:
        rollback(connection)
        raise
    commit(connection)
    return result


def in_savepoint(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call ``function`` inside a running transaction; what it did is undone if it raises."""
    connection.execute("SAVEPOINT one_operation")
    try:
        result = function(connection)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO one_operation")
            connection.execute("RELEASE one_operation")
        raise
    connection.execute("RELEASE one_operation")
    return result


def in_snapshot(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call ``function`` so that all it reads is of one moment."""
    connection.execute("BEGIN")
    try:
        return function(connection)
    finally:
        connection.execute("ROLLBACK")


def autocommit(connection: sqlite3.Connection, timeout_s: float, function: Callable[[sqlite3.Connection], T]) -> T:
    """Call ``function``, a single statement, outside any transaction."""
    try:
        return _patiently(lambda: function(connection), time.monotonic() + timeout_s)
    finally:
        rollback(connection)


# --- threads ----------------------------------------------------------------------------------------------------------


class _Job(Generic[T]):
    """One call in a database thread, and who waits for it."""

    def __init__(self, function: Callable[[sqlite3.Connection], T]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._claim = threading.Lock()
        self._settled: asyncio.Future[None] | None = None
        self._finished = False
        self.outcome: asyncio.Future[T] = self._loop.create_future()

    def withdraw(self) -> bool:
        """Keep the job from being started; False if it has been."""
        return self._claim.acquire(blocking=False)

    async def settle(self) -> None:
        """Wait until a job that was started has ended, however often the waiting task is cancelled."""
        while not self._finished:
            self._settled = self._loop.create_future()
            with contextlib.suppress(asyncio.CancelledError):
                await self._settled

    def run(self, connection: sqlite3.Connection) -> None:
        """Run in the database thread, unless the job was withdrawn."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            result = self._function(connection)
        except StopIteration as error:  # which no future can hold
            unfit = RuntimeError("the function raised StopIteration")
            unfit.__cause__ = error
            self._report(self._fail, unfit)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the job is awaited
            self._report(self._fail, error)
        else:
            self._report(self._succeed, result)

    def fail(self, error: BaseException) -> None:
        """End the job with ``error``, from the database thread."""
        self._report(self._fail, error)

    def _report(self, function: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, value)

    def _succeed(self, result: T) -> None:
        self._finished = True
        if not self.outcome.done():
            self.outcome.set_result(result)
        self._wake()

    def _fail(self, error: BaseException) -> None:
        self._finished = True
        if not self.outcome.done():
            self.outcome.set_exception(error)
        self._wake()

    def _wake(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)


class DatabaseThread:
    """A connection and the thread that it lives in. Calls are made in the order in which they were asked for."""

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
        job = _Job(function)
        with self._lock:
            if self._closed:
                raise EngineClosedError("the client was disconnected")
            self._jobs.put(job)
        try:
            return await job.outcome
        except asyncio.CancelledError:
            if not job.withdraw():
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
            opened.fail(error)
            return
        opened.run(connection)
        try:
            while (job := self._jobs.get()) is not None:
                job.run(connection)
                del job  # do not keep its result alive while waiting
        finally:
            rollback(connection)
            connection.close()
