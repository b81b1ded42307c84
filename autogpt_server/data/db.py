"""The database of one process: its connections, and a Prisma client on the in-process engine that works on them.

Two ways lead to it. `Database.prisma` is the typed one, for what is asked for now and then: schedules and their occurrences. What is asked for all the time
is SQL in one trip to the database's thread: the commits of the worker, an occurrence with its run, and the reads of graphs and runs, which take half
the time so (benchmarks/README.md). A process that asks for nothing else does without the client, which is 20 MB.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from autogpt_server.data import engine, migrate
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.settings import Settings

if TYPE_CHECKING:
    from prisma import Prisma

T = TypeVar("T")


class DatabaseUnavailable(AutoGPTServerError):
    """The database cannot be read or written at the moment (full, busy, an I/O error); what was asked can be asked again."""

    code = "database_unavailable"
    retryable = True


class CommitUncertain(DatabaseUnavailable):
    """COMMIT itself failed, so the transaction may or may not be durable; read back before writing again."""

    code = "commit_uncertain"


class Database:
    """An open database. Make one per process with `open`, and `close` it."""

    def __init__(self, connections: engine.Connections) -> None:
        """`connections`: open ones, which are closed with the database."""
        self.path: Path = connections.options.path
        self._connections = connections
        self._client: Prisma | None = None

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connect to the database that the settings name.

        Raises `DatabaseMissing`, `DatabaseOutdated` or `DatabaseNewer` unless its migrations are exactly the ones this program knows: only the
        supervisor migrates (`autogpt_server.data.migrate`).
        """
        path = settings.database_path
        migrate.check_version(path)
        options = engine.ConnectionOptions(
            path,
            settings.sqlite_synchronous,
            settings.sqlite_busy_timeout_s,
            turn_path=settings.state_dir / "writers.turn",
        )
        connections = engine.Connections(options)
        await connections.open()
        return cls(connections)

    async def prisma(self) -> Prisma:
        """The Prisma client. It is imported when a process first asks for it, which takes half a second, aside, and 20 MB.

        Raises `EngineNotBuiltError` when nothing has been generated.
        """
        if self._client is None:
            await asyncio.to_thread(engine.import_client)
        if self._client is None:  # nobody else was faster
            self._client = engine.client_on(self._connections)
        return self._client

    async def write(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """Run `perform` in the writer thread in a transaction: BEGIN IMMEDIATE, `perform`, COMMIT; an exception undoes what it did.

        It may share the transaction with other writes of this process that are waiting, and what they did, it sees; each is answered once all of it
        is durable. Raises `CommitUncertainError` when the COMMIT itself raised: then the caller re-reads before it writes again.
        """
        return await self._connections.write(perform)

    async def reserve_log(self) -> bool:
        """Make room for the write-ahead log, so that commits need not: one process does it when it has opened the database."""
        return await self._connections.reserve_log()

    async def read(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """Run `perform` in the reader thread on a read-only connection, as one snapshot."""
        return await self._connections.read(perform)

    async def read_aside(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """As `read`, with a connection and a thread for this call alone: for what takes so long that others should not wait for it."""
        return await self._connections.read_aside(perform)

    async def peek(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """Run `perform`, which reads a few rows by their keys, on the loop's thread: sooner than `read`, but all else waits for it."""
        return await self._connections.peek(perform)

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.disconnect()
        await self._connections.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@contextmanager
def typed_errors() -> Generator[None]:
    """Raise what concerns the whole database, and not the statement, as `DatabaseUnavailable` or `CommitUncertain`."""
    try:
        yield
    except engine.CommitUncertainError as error:
        raise CommitUncertain(f"A COMMIT failed and may or may not be durable: {error}") from error
    except engine.DatabaseBusyError as error:
        raise DatabaseUnavailable(f"The database is busy: {error}") from error
    except sqlite3.DatabaseError as error:
        # Not its subclasses that blame the statement: those are mistakes, which no repetition mends.
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            raise DatabaseUnavailable(f"The database cannot be used at the moment: {error}") from error
        raise


def db_time(moment: datetime | None) -> str | None:
    """A time as the engine stores it: ISO 8601 in UTC with milliseconds, so that text sorts as time."""
    return None if moment is None else _time_text(moment)


@lru_cache(maxsize=4096)
def _time_text(moment: datetime) -> str:
    # Remembered, because a commit writes the same few times over and over. Equal moments have equal texts, whatever their zones.
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def from_db_time(text: str | None) -> datetime | None:
    """The inverse of `db_time`."""
    return None if text is None else datetime.fromisoformat(text)
