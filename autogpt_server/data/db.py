"""The database of one process: a Prisma client on the in-process engine, and the raw connections beside it.

Reads and ordinary writes go through `Database.client`. `Database.write` and `Database.read` are for what has to be one trip: the commits of the
worker, an occurrence with its run, and the reads that a page of a large run needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
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

    def __init__(self, client: Prisma, path: Path) -> None:
        self.client = client
        self.path = path
        self._engine = engine.get_engine(client)

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connect to the database that the settings name.

        Raises `DatabaseMissing`, `DatabaseOutdated` or `DatabaseNewer` unless its migrations are exactly the ones this program knows: only the
        supervisor migrates (`autogpt_server.data.migrate`).
        """
        path = settings.database_path
        migrate.check_version(path)
        client = engine.create_client(
            path, synchronous=settings.sqlite_synchronous, busy_timeout_s=settings.sqlite_busy_timeout_s
        )
        await client.connect()
        return cls(client, path)

    async def write(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """Run `perform` in the writer thread as one transaction: BEGIN IMMEDIATE, `perform`, COMMIT; an exception rolls back.

        Raises `CommitUncertainError` when the COMMIT itself raised: then the caller re-reads before it writes again.
        """
        return await self._engine.write(perform)

    async def read(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """Run `perform` in the reader thread on a read-only connection, as one snapshot."""
        return await self._engine.read(perform)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.disconnect()

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
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds")


def from_db_time(text: str | None) -> datetime | None:
    """The inverse of `db_time`."""
    return None if text is None else datetime.fromisoformat(text)
