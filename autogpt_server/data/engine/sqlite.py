"""SQLite connections and their transactions, in the thread that uses them.

Several processes share a file in WAL mode: readers never wait, and writers take turns by ``BEGIN IMMEDIATE``, which
takes the write lock at once, so that no transaction has to fail halfway because it read before another wrote
(sqlite.org/lang_transaction.html). Writers queue for it where they can (see `turns`); what waiting is left is done here and not by SQLite's
busy handler: that sleeps for up to 100 ms at a time, while writers here hold the lock for about one.
"""

import contextlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args
from urllib.parse import quote

from autogpt_server.data.engine.errors import CommitUncertainError, DatabaseBusyError, EngineError
from autogpt_server.data.engine.turns import Turn
from autogpt_server.utils import faults

T = TypeVar("T")

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]

_CACHED_STATEMENTS: Final = 512
_CHECKPOINT_PAGES: Final = 4000
"""16 MB. A checkpoint takes the write that meets it 4 to 8 ms: with SQLite's 1,000 pages it is one in 60 small writes, which is their p99; now it
is one in 230, and a third less is written to the disk."""
_LOG_BYTES: Final = (_CHECKPOINT_PAGES + 100) * (4096 + 24)
_PLENTY: Final = 20
_FIRST_PAUSE_S: Final = 0.0002
_LONGEST_PAUSE_S: Final = 0.005
_ROLLING_BACK: Final = frozenset(
    (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_ABORT,
    )
)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How a database file is opened.

    ``synchronous``: FULL (a commit survives the loss of power), NORMAL (it survives the death of processes), ...
    ``busy_timeout_s``: how long to wait for another process's write before giving up.
    ``turn_path``: a file at which the writers of all processes queue (see `turns`); without one they try until it is their turn.
    """

    path: Path
    synchronous: Synchronous = "FULL"
    busy_timeout_s: float = 30.0
    read_only: bool = False
    turn_path: Path | None = None

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
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA temp_store=MEMORY")  # what savepoints undo; 5 % less for a small write

    writer = _open(options, "rwc", prepare)
    if options.turn_path is not None:
        with contextlib.suppress(OSError):  # a folder that cannot be written
            writer.turn = Turn(options.turn_path)
    return writer


class _Connection(sqlite3.Connection):
    """A connection that knows where writers queue."""

    turn: Turn | None = None

    def close(self) -> None:
        super().close()
        if self.turn is not None:
            self.turn.close()
            self.turn = None


def open_reader(options: ConnectionOptions) -> sqlite3.Connection:
    """A connection that cannot write.

    Raises:
        EngineError: it cannot be opened.
    """
    mode = "ro" if options.read_only else "rw"
    return _open(options, mode, lambda connection: connection.execute("PRAGMA query_only=ON"))


def _open(options: ConnectionOptions, mode: str, prepare: Callable[[sqlite3.Connection], object]) -> _Connection:
    # A file: URI, for the mode; quoted, so that odd characters do not matter.
    uri = f"file:{quote(str(options.path))}?mode={mode}"
    try:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=options.busy_timeout_s,
            isolation_level=None,
            cached_statements=_CACHED_STATEMENTS,
            factory=_Connection,
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


def reserve_log(connection: sqlite3.Connection, options: ConnectionOptions) -> bool:
    """Make the write-ahead log as long as it gets before a checkpoint, if the disk has plenty of room; False if it is left as it is.

    What overwrites a file is on the disk sooner than what makes it longer, for then the file system has to note its new length as well: a
    small commit takes two thirds of the time. SQLite keeps the file as long as it is until the last connection is closed, and takes what is no frame of
    its own for the end of the log. Nobody writes to it meanwhile, for the write lock is held.
    """
    log, size = options.path.with_name(f"{options.path.name}-wal"), _LOG_BYTES
    if shutil.disk_usage(options.path.parent).free < _PLENTY * size:
        return False
    begin(connection, options.busy_timeout_s)
    try:
        with log.open("r+b") as file:
            missing = size - file.seek(0, os.SEEK_END)
            if missing > 0:
                file.write(bytes(missing))
                file.flush()
                os.fsync(file.fileno())
    except OSError:  # it cannot be: then it grows by and by
        return False
    finally:
        rollback(connection)
    return True


def is_busy(error: BaseException | None) -> bool:
    """Whether another connection held a lock."""
    code: int = getattr(error, "sqlite_errorcode", 0)  # what Python itself raises has none
    return isinstance(error, sqlite3.OperationalError) and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def concerns_all(error: BaseException) -> bool:
    """Whether SQLite may have rolled the whole transaction back, and not just the statement (sqlite.org/lang_transaction.html)."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, sqlite3.Error) and code & 0xFF in _ROLLING_BACK


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
    deadline = time.monotonic() + timeout_s
    _take_turn(connection)
    try:
        _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)
    except BaseException:
        _give_turn(connection)
        raise


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
    _give_turn(connection)


def _take_turn(connection: sqlite3.Connection) -> None:
    if isinstance(connection, _Connection) and connection.turn is not None:
        connection.turn.take()


def _give_turn(connection: sqlite3.Connection) -> None:
    if isinstance(connection, _Connection) and connection.turn is not None:
        connection.turn.give()


def rollback(connection: sqlite3.Connection) -> None:
    """Roll back, if SQLite has not done so already (it does after errors of the disk, for one)."""
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.OperationalError):  # an error now means that there is nothing left to undo
            connection.execute("ROLLBACK")
    _give_turn(connection)


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
            try:
                connection.execute("ROLLBACK TO one_operation")
                connection.execute("RELEASE one_operation")
            except sqlite3.Error:  # what cannot be undone in part is undone as a whole
                rollback(connection)
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
    deadline = time.monotonic() + timeout_s
    _take_turn(connection)
    try:
        return _patiently(lambda: function(connection), deadline)
    finally:
        rollback(connection)
