"""Interactive transactions: ``async with client.tx() as tx``.

A transaction holds the engine's one writing connection from BEGIN IMMEDIATE to its end; whoever else wants to write waits. It
ends by commit or rollback, or is rolled back when its time is up. All of this also when the task that waits is cancelled:
ending runs in a task of its own that nobody's cancellation reaches.

Inside a transaction, a further ``tx()`` is a savepoint: if it fails, only what was done in it is undone, and nothing is
durable before the outermost commits. While it is open the outer one cannot be used.

Errors are P2028, with the messages that Prisma Client Python tells apart by their beginning (``engine/utils.py``).
"""

import asyncio
import itertools
import sqlite3
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from autogpt_server.data.engine.errors import DatabaseBusyError, QueryError
from autogpt_server.data.engine.lru import LruCache
from autogpt_server.data.engine.sqlite import begin, commit, rollback
from autogpt_server.data.engine.threads import DatabaseThread

T = TypeVar("T")

_REMEMBERED: Final = 100
"""Ended transactions of which is known how they ended, for the message to whoever still uses them."""


@dataclass(slots=True, eq=False)
class _Transaction:
    id: str
    parent: "_Transaction | None"
    savepoint: str = ""
    child: "_Transaction | None" = None
    timer: asyncio.TimerHandle | None = None


Ending = Literal["committed", "rolled back", "expired"]


class Transactions:
    """The interactive transactions of one writing connection, of which one is open at a time."""

    def __init__(self, writer: DatabaseThread) -> None:
        self.turn = asyncio.Lock()
        """Held by whoever writes over several calls."""
        self._writer = writer
        self._open: dict[str, _Transaction] = {}
        self._ended: LruCache[str, Ending] = LruCache(_REMEMBERED)
        self._savepoints = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, *, max_wait_s: float, timeout_s: float) -> str:
        """Begin a transaction that is rolled back after ``timeout_s``; returns its id.

        Raises:
            QueryError: P2028, it could not begin within ``max_wait_s``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait_s
        try:
            async with asyncio.timeout_at(deadline):
                await self.turn.acquire()
        except TimeoutError as error:
            raise _not_started() from error
        try:
            left_s = max(deadline - loop.time(), 0.0)
            await self._writer.call(lambda connection: begin(connection, left_s))
        except DatabaseBusyError as error:
            self.turn.release()
            raise _not_started() from error
        except BaseException:  # perhaps cancelled, while it began
            await self._uncancelled(self._end_on_connection(rollback))
            raise
        transaction = _Transaction(uuid.uuid4().hex, parent=None)
        self._open[transaction.id] = transaction
        transaction.timer = loop.call_later(timeout_s, self._expire, transaction)
        return transaction.id

    async def start_nested(self, parent_id: str) -> str:
        """Begin a savepoint in the transaction ``parent_id``, under whose time limit it is."""
        parent = self._get(parent_id, "nested transaction")
        transaction = _Transaction(uuid.uuid4().hex, parent, savepoint=f"nested_{next(self._savepoints)}")
        parent.child = transaction
        self._open[transaction.id] = transaction
        try:
            await self._writer.call(lambda connection: _savepoint(connection, transaction.savepoint))
        except BaseException:  # perhaps cancelled, while it began
            self._forget(transaction, "rolled back")
            await self._uncancelled(self._writer.call(lambda c: _undo_savepoint(c, transaction.savepoint)))
            raise
        return transaction.id

    async def run(self, transaction_id: str, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``function`` in the transaction.

        Raises:
            QueryError: P2028, the transaction has ended.
        """
        self._get(transaction_id, "query")
        return await self._writer.call(lambda connection: function(_still_open(connection)))

    async def commit(self, transaction_id: str) -> None:
        """Make it durable; a nested one becomes part of the outer.

        Raises:
            QueryError: P2028, the transaction has ended.
            CommitUncertainError: COMMIT itself failed.
        """
        transaction = self._get(transaction_id, "commit")
        self._forget(transaction, "committed")
        try:
            if transaction.parent is None:
                await self._uncancelled(self._end_on_connection(lambda connection: commit(_still_open(connection))))
            else:
                release = f"RELEASE {transaction.savepoint}"
                await self._uncancelled(self._writer.call(lambda connection: _still_open(connection).execute(release)))
        except (QueryError, sqlite3.Error):
            self._ended.put(transaction.id, "rolled back")
            raise

    async def rollback(self, transaction_id: str) -> None:
        """Undo it.

        Raises:
            QueryError: P2028, the transaction has ended.
        """
        await self._roll_back(self._get(transaction_id, "rollback", even_with_child=True), "rolled back")

    async def close(self) -> None:
        """Roll back whatever is open."""
        for transaction in [transaction for transaction in self._open.values() if transaction.parent is None]:
            await self._roll_back(transaction, "rolled back")
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _roll_back(self, transaction: _Transaction, ending: Ending) -> None:
        self._forget(transaction, ending)
        if transaction.parent is None:
            await self._uncancelled(self._end_on_connection(rollback))
        else:
            await self._uncancelled(self._writer.call(lambda c: _undo_savepoint(c, transaction.savepoint)))

    def _expire(self, transaction: _Transaction) -> None:
        if transaction.id in self._open:
            self._background(self._roll_back(transaction, "expired"))

    def _get(self, transaction_id: str, operation: str, *, even_with_child: bool = False) -> _Transaction:
        transaction = self._open.get(transaction_id)
        if transaction is None:
            ending = self._ended.get(transaction_id)
            if ending is None:
                raise _error("Transaction not found: it is unknown, or ended long ago.")
            how = "an expired transaction" if ending == "expired" else f"a transaction that was {ending}"
            raise _error(f"Transaction already closed: A {operation} cannot be executed on {how}.")
        if transaction.child is not None and not even_with_child:
            raise _error(f"A {operation} cannot be executed while a nested transaction is open: use that, or end it.")
        return transaction

    def _forget(self, transaction: _Transaction, ending: Ending) -> None:
        """From now on nobody can use it, or what is nested in it."""
        if transaction.child is not None:
            self._forget(transaction.child, ending)
        if transaction.timer is not None:
            transaction.timer.cancel()
        if transaction.parent is not None:
            transaction.parent.child = None
        del self._open[transaction.id]
        self._ended.put(transaction.id, ending)

    async def _end_on_connection(self, end: Callable[[sqlite3.Connection], None]) -> None:
        try:
            await self._writer.call(end)
        finally:
            self.turn.release()

    async def _uncancelled(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await ``coroutine``; if the waiting task is cancelled, it is carried out all the same."""
        await asyncio.shield(self._background(coroutine))

    def _background(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did any more, it is no news that a rollback failed


def _savepoint(connection: sqlite3.Connection, name: str) -> None:
    _still_open(connection).execute(f"SAVEPOINT {name}")


def _undo_savepoint(connection: sqlite3.Connection, name: str) -> None:
    if connection.in_transaction:
        connection.execute(f"ROLLBACK TO {name}")
        connection.execute(f"RELEASE {name}")


def _still_open(connection: sqlite3.Connection) -> sqlite3.Connection:
    """SQLite itself rolls back after some errors (a full disk, say); what follows must not run on its own."""
    if not connection.in_transaction:
        raise _error("Transaction already closed: SQLite rolled it back after an earlier error.")
    return connection


def _error(message: str) -> QueryError:
    if not message.startswith("Transaction already closed"):
        message = f"Transaction API error: {message}"
    return QueryError("P2028", message)


def _not_started() -> QueryError:
    return _error("Unable to start a transaction in the given time.")
