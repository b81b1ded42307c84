"""The query engine: Prisma Client Python's engine interface, in this process, on SQLite."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, overload

from prisma._types import TransactionId
from prisma.engine._abstract import AsyncAbstractEngine

from autogpt_server.data.engine.errors import (
    ClientErrors,
    DatabaseBusyError,
    EngineClosedError,
    ErrorClasses,
    QueryError,
    ReadOnlyError,
    sqlite_query_error,
)
from autogpt_server.data.engine.generators import Clock
from autogpt_server.data.engine.interpreter import Plan
from autogpt_server.data.engine.plans import LruCache, PlanCache
from autogpt_server.data.engine.protocol import Request
from autogpt_server.data.engine.raw import RawStatement, raw_parameters
from autogpt_server.data.engine.sqlite import (
    ConnectionOptions,
    DatabaseThread,
    autocommit,
    in_savepoint,
    in_snapshot,
    in_transaction,
    open_reader,
    open_writer,
)
from autogpt_server.data.engine.transactions import Transactions

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_MAX_RAW_STATEMENTS: Final = 500


class SqliteEngine(AsyncAbstractEngine):
    """Runs queries on one database file, with one connection that writes and one that reads.

    Use it from one event loop. Everything but `connect` raises `EngineClosedError` unless it is connected.
    """

    def __init__(self, options: ConnectionOptions, *, plans: PlanCache, errors: ErrorClasses) -> None:
        """``plans``: those of the client's schema. ``errors``: the ``errors`` module of its package."""
        self.options = options
        self.plans = plans
        self._client_errors = ClientErrors(errors)
        self._raw: LruCache[str, RawStatement] = LruCache(_MAX_RAW_STATEMENTS)
        self._reader: DatabaseThread | None = None
        self._writer: DatabaseThread | None = None
        self._transactions: Transactions | None = None
        self._queries = 0

    # --- life -----------------------------------------------------------------------------------------------------

    async def connect(
        self,
        timeout: timedelta = timedelta(seconds=10),  # noqa: ARG002, ASYNC109 - the interface of the base class
        datasources: object = None,  # noqa: ARG002
    ) -> None:
        """Open the database.

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

    async def aclose(self, *, timeout: timedelta | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Roll back what is open, finish what was asked for, and close the database."""
        try:
            if self._transactions is not None:
                await self._transactions.close()
            if self._reader is not None:  # before the writer: the last connection to close tidies the WAL up
                await self._reader.aclose()
            if self._writer is not None:
                await self._writer.aclose()
        finally:
            self.close()
            self._reader = self._writer = self._transactions = None
            await self.plans.close()

    def close(self, *, timeout: timedelta | None = None) -> None:  # noqa: ARG002
        """Have the connections closed, without waiting for it; what is open is rolled back."""
        for thread in (self._reader, self._writer):
            if thread is not None:
                thread.close()

    def stop(self, *, timeout: timedelta | None = None) -> None:
        """`close`."""
        self.close(timeout=timeout)

    # --- plain SQL ------------------------------------------------------------------------------------------------

    async def write(self, function: Work[T]) -> T:
        """Call ``function`` with the writing connection between BEGIN IMMEDIATE and COMMIT, in the writer's thread.

        It takes its turn with Prisma's writes, and is rolled back if it raises; it must not block on anything else. If the
        calling task is cancelled before it starts, it does not start; afterwards it is finished (and committed) first.

        Raises:
            CommitUncertainError: COMMIT itself failed: the changes may or may not be durable.
            DatabaseBusyError: another process held the write lock for the whole busy timeout.
            ReadOnlyError: the client was created read-only.
        """
        timeout_s = self.options.busy_timeout_s
        return await self._in_turn(lambda connection: in_transaction(connection, timeout_s, function))

    async def read(self, function: Work[T]) -> T:
        """Call ``function`` with the read-only connection, in the reader's thread; all it reads is of one moment."""
        return await self._reading().call(lambda connection: in_snapshot(connection, function))

    # --- Prisma's queries -----------------------------------------------------------------------------------------

    async def execute(self, request: Request, *, tx_id: str | None = None) -> Any:
        """The result of one request, in the form that Prisma's engine would give it.

        Raises:
            QueryError: it cannot be answered.
        """
        plan = await self._plan(request)
        clock = Clock()
        return await self._perform(
            lambda connection: plan.run(connection, request.values, clock),
            writes=plan.writes,
            several=plan.writes or plan.statements > 1,
            tx_id=tx_id,
        )

    async def execute_all(self, requests: Iterable[Request], *, tx_id: str | None = None) -> list[Any]:
        """The results of several requests, all carried out or none."""
        clock = Clock()
        prepared: list[tuple[Plan, Mapping[str, Any]]] = []
        for count, request in enumerate(requests, 1):
            plan = await self._plan(request)
            prepared.append((plan, request.values))
            if count % 100 == 0:
                await asyncio.sleep(0)  # building many requests must not hold up the loop
        return await self._perform(
            lambda connection: [plan.run(connection, values, clock) for plan, values in prepared],
            writes=True,
            several=True,
            tx_id=tx_id,
        )

    async def query_raw(self, sql: str, parameters: Iterable[object], *, tx_id: str | None = None) -> dict[str, Any]:
        """The rows of a raw query."""
        with self._client_errors:
            statement, values = self._raw_statement(sql), raw_parameters(parameters)
        return await self._perform(
            lambda connection: statement.query(connection, values),
            writes=not statement.reads,
            alone=statement.alone,
            tx_id=tx_id,
        )

    async def execute_raw(self, sql: str, parameters: Iterable[object], *, tx_id: str | None = None) -> int:
        """How many rows a raw statement changed."""
        with self._client_errors:
            statement, values = self._raw_statement(sql), raw_parameters(parameters)
        return await self._perform(
            lambda connection: statement.execute(connection, values), writes=True, alone=statement.alone, tx_id=tx_id
        )

    async def query(self, content: str, *, tx_id: TransactionId | None) -> Any:
        """The result of a request that is already JSON protocol text."""
        return {"data": {"result": await self.execute(Request(content, {}), tx_id=tx_id)}}

    def raw_batch_item(self, sql: str, parameters: Iterable[object]) -> Work[int]:
        """A raw statement as part of `perform_batch`."""
        with self._client_errors:
            statement, values = self._raw_statement(sql), raw_parameters(parameters)
        return lambda connection: statement.execute(connection, values)

    async def batch_item(self, request: Request) -> Work[Any]:
        """A request as part of `perform_batch`."""
        plan = await self._plan(request)
        clock = Clock()
        return lambda connection: plan.run(connection, request.values, clock)

    async def perform_batch(self, items: list[Work[Any]], *, tx_id: str | None = None) -> list[Any]:
        """The results of ``items``, all carried out in order or none."""
        return await self._perform(
            lambda connection: [item(connection) for item in items], writes=True, several=True, tx_id=tx_id
        )

    async def _plan(self, request: Request) -> Plan:
        plan = self.plans.cached(request.text)
        if plan is None:
            with self._client_errors:
                plan = await self.plans.get(request.text)
        return plan

    def _raw_statement(self, sql: str) -> RawStatement:
        statement = self._raw.get(sql)
        if statement is None:
            statement = RawStatement(sql)
            self._raw.put(sql, statement)
        return statement

    async def _perform(
        self, work: Work[T], *, writes: bool, several: bool = False, alone: bool = False, tx_id: str | None
    ) -> T:
        """Do ``work`` on the right connection and under the right transaction.

        ``several``: it is several steps, to be taken together (what a write returns is checked after it). ``alone``: a single
        statement that cannot be in a transaction (a PRAGMA, say).
        """
        self._queries += 1
        with self._client_errors:
            try:
                return await self._dispatch(work, writes=writes, several=several, alone=alone, tx_id=tx_id)
            except (sqlite3.Error, sqlite3.Warning) as error:
                raise sqlite_query_error(error) from error
            except DatabaseBusyError as error:
                raise QueryError("P1008", f"Operations timed out: {error}") from error
            except (OverflowError, UnicodeEncodeError) as error:
                raise QueryError("P2020", f"Value out of range for the database: {error}") from error

    async def _dispatch(self, work: Work[T], *, writes: bool, several: bool, alone: bool, tx_id: str | None) -> T:
        timeout_s = self.options.busy_timeout_s
        if tx_id is not None:
            if writes and several:
                return await self._running().run(tx_id, lambda connection: in_savepoint(connection, work))
            return await self._running().run(tx_id, work)
        if not writes:
            if several:
                return await self._reading().call(lambda connection: in_snapshot(connection, work))
            return await self._reading().call(work)
        if alone:
            return await self._in_turn(lambda connection: autocommit(connection, timeout_s, work))
        return await self._in_turn(lambda connection: in_transaction(connection, timeout_s, work))

    async def _in_turn(self, work: Work[T]) -> T:
        """Call ``work`` with the writing connection, when no interactive transaction holds it.

        The writer's thread makes calls one after the other, so only a transaction that lasts over several calls has to be waited for.
        """
        writer, turn = self._writing(), self._running().turn
        if not turn.locked():
            return await writer.call(work)
        async with turn:
            return await writer.call(work)

    def _reading(self) -> DatabaseThread:
        if self._reader is None:
            raise EngineClosedError("the client is not connected")
        return self._reader

    def _writing(self) -> DatabaseThread:
        if self.options.read_only:
            raise ReadOnlyError("this client was created with read_only=True")
        if self._writer is None:
            raise EngineClosedError("the client is not connected")
        return self._writer

    def _running(self) -> Transactions:
        self._writing()
        if self._transactions is None:
            raise EngineClosedError("the client is not connected")
        return self._transactions

    # --- interactive transactions ---------------------------------------------------------------------------------

    async def start_transaction(self, *, content: str) -> TransactionId:
        """``content``: JSON ``{"timeout", "max_wait"}``, both in milliseconds, as Prisma Client Python says it."""
        limits = json.loads(content)
        max_wait_s, timeout_s = limits["max_wait"] / 1000, limits["timeout"] / 1000
        with self._client_errors:
            return TransactionId(await self._running().start(max_wait_s=max_wait_s, timeout_s=timeout_s))

    async def start_nested_transaction(self, tx_id: str) -> TransactionId:
        """A transaction inside another: a savepoint."""
        with self._client_errors:
            return TransactionId(await self._running().start_nested(tx_id))

    async def commit_transaction(self, tx_id: TransactionId) -> None:
        """See `Transactions.commit`."""
        with self._client_errors:
            try:
                await self._running().commit(tx_id)
            except sqlite3.Error as error:
                raise sqlite_query_error(error) from error

    async def rollback_transaction(self, tx_id: TransactionId) -> None:
        """See `Transactions.rollback`."""
        with self._client_errors:
            await self._running().rollback(tx_id)

    # --- figures --------------------------------------------------------------------------------------------------

    @overload
    async def metrics(self, *, format: Literal["json"], global_labels: dict[str, str] | None) -> dict[str, Any]: ...

    @overload
    async def metrics(self, *, format: Literal["prometheus"], global_labels: dict[str, str] | None) -> str: ...

    async def metrics(
        self,
        *,
        format: Literal["json", "prometheus"],  # noqa: A002 - the interface of the base class
        global_labels: dict[str, str] | None,
    ) -> str | dict[str, Any]:
        """How many queries were run and plans compiled since the client was made."""
        labels = global_labels or {}
        counters = {
            "prisma_client_queries_total": ("Queries executed", self._queries),
            "prisma_client_plans_compiled_total": ("Query plans compiled", self.plans.compiled),
        }
        if format == "prometheus":
            text = ",".join(f'{key}="{value}"' for key, value in labels.items())
            return "".join(
                f"# HELP {name} {help_text}\n# TYPE {name} counter\n{name}{{{text}}} {value}\n"
                for name, (help_text, value) in counters.items()
            )
        listed = [
            {"key": name, "value": value, "labels": labels, "description": help_text}
            for name, (help_text, value) in counters.items()
        ]
        return {"counters": listed, "gauges": [], "histograms": []}
