"""One process's connections to a database file: one that writes, one that reads, each in its thread.

This is all that raw SQL needs. Prisma's client is made on top of it, by those who use it: importing what is generated takes a process
half a second and 20 MB or more, so nothing here does.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from autogpt_server.data.engine.errors import EngineClosedError, EngineError, ReadOnlyError
from autogpt_server.data.engine.sqlite import (
    ConnectionOptions,
    autocommit,
    in_snapshot,
    is_busy,
    open_reader,
    open_writer,
    reserve_log,
)
from autogpt_server.data.engine.threads import DatabaseThread
from autogpt_server.data.engine.transactions import Transactions

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Connections:
    """An open database file. Use it from one event loop. Everything but `open` raises `EngineClosedError` unless it is open."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._reader: DatabaseThread | None = None
        self._writer: DatabaseThread | None = None
        self._transactions: Transactions | None = None
        self._peeking: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file.

        Raises:
            EngineError: it cannot be opened.
        """
        options = self.options
        if not options.read_only:
            writer = DatabaseThread("sqlite-writer", lambda: open_writer(options))
            await writer.start()
            self._writer = writer
            self._transactions = Transactions(writer)
        reader = DatabaseThread("sqlite-reader", lambda: open_reader(options))
        try:
            await reader.start()
        except BaseException:
            await self.aclose()
            raise
        self._reader = reader

    async def aclose(self) -> None:
        """Roll back what is open, finish what was asked for, and close the file."""
        try:
            if self._transactions is not None:
                await self._transactions.close()
            if self._peeking is not None:
                self._peeking.close()
            if self._reader is not None:  # before the writer: the last connection to close tidies the WAL up
                await self._reader.aclose()
            if self._writer is not None:
                await self._writer.aclose()
        finally:
            self.close()
            self._reader = self._writer = self._transactions = self._peeking = None

    def close(self) -> None:
        """Have the connections closed, without waiting for it; what is open is rolled back."""
        for thread in (self._reader, self._writer):
            if thread is not None:
                thread.close()

    async def write(self, function: Work[T]) -> T:
        """Call ``function`` with the writing connection between BEGIN IMMEDIATE and COMMIT, in the writer's thread.

        It takes its turn with Prisma's writes, and is undone if it raises; it must not block on anything else, nor end the transaction,
        which it may share with others (`together`). If the calling task is cancelled before it starts, it does not start;
        afterwards it is finished (and committed) first.

        Raises:
            CommitUncertainError: COMMIT itself failed: the changes may or may not be durable.
            DatabaseBusyError: another process held the write lock for the whole busy timeout.
            ReadOnlyError: the file was opened read-only.
        """
        writer, turn = self._writing(), self.transactions.turn
        # The writer's thread makes calls one after the other: only a transaction that lasts over several has to be waited for.
        if not turn.locked():
            return await writer.write(function, self.options.busy_timeout_s)
        async with turn:
            return await writer.write(function, self.options.busy_timeout_s)

    async def write_alone(self, function: Work[T]) -> T:
        """Call ``function``, one statement that cannot be in a transaction (a PRAGMA, say), with the writing connection."""
        writer, timeout_s = self._writing(), self.options.busy_timeout_s
        async with self.transactions.turn:
            return await writer.call(lambda connection: autocommit(connection, timeout_s, function))

    async def reserve_log(self) -> bool:
        """Make room for the log at once (see `sqlite.reserve_log`)."""
        writer, options = self._writing(), self.options
        async with self.transactions.turn:
            return await writer.call(lambda connection: reserve_log(connection, options))

    async def read(self, function: Work[T], *, several: bool = True) -> T:
        """Call ``function`` with the connection that only reads, in its thread; all it reads is of one moment.

        ``several``: False if it is one statement, which needs no transaction for that.
        """
        if self._reader is None:
            raise EngineClosedError("the client is not connected")
        return await self._reader.call((lambda connection: in_snapshot(connection, function)) if several else function)

    async def read_aside(self, function: Work[T]) -> T:
        """As `read`, with a connection and a thread for this call alone: others do not wait for it, so it may take seconds."""
        if self._reader is None:
            raise EngineClosedError("the client is not connected")

        def read() -> T:
            with closing(open_reader(self.options)) as connection:
                return in_snapshot(connection, function)

        return await asyncio.to_thread(read)

    async def peek(self, function: Work[T]) -> T:
        """Call ``function``, which reads a few rows by their keys, with a connection of the loop's own thread; all it reads is of one moment.

        That is a tenth of what it takes to hand it to the reader's thread and back. But everything else on the loop waits for it, so whatever
        may read more is for `read`.
        """
        if self._reader is None:
            raise EngineClosedError("the client is not connected")
        try:
            if self._peeking is None:
                self._peeking = open_reader(replace(self.options, busy_timeout_s=0.0))
            return in_snapshot(self._peeking, function)
        except (EngineError, sqlite3.OperationalError) as error:
            if not is_busy(error) and not is_busy(error.__cause__):
                raise
        # Others are opening or closing the file, which keeps even readers out: that is waited for elsewhere.
        return await self.read(function)

    @property
    def transactions(self) -> Transactions:
        """The transactions that last over several calls."""
        self._writing()
        if self._transactions is None:
            raise EngineClosedError("the client is not connected")
        return self._transactions

    def _writing(self) -> DatabaseThread:
        if self.options.read_only:
            raise ReadOnlyError("this client was created with read_only=True")
        if self._writer is None:
            raise EngineClosedError("the client is not connected")
        return self._writer
