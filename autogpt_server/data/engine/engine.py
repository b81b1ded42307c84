"""The query engine: Prisma Client Python's engine interface, in this process, on SQLite."""

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, overload

from autogpt_server.data.engine.connections import Connections, Work
from autogpt_server.data.engine.errors import (
    ClientErrors,
    DatabaseBusyError,
    ErrorClasses,
    QueryError,
    sqlite_query_error,
)
from autogpt_server.data.engine.generators import Clock
from autogpt_server.data.engine.interpreter import Plan
from autogpt_server.data.engine.lru import LruCache
from autogpt_server.data.engine.plans import PlanCache
from autogpt_server.data.engine.protocol import Request
from autogpt_server.data.engine.raw import RawStatement, raw_parameters
from autogpt_server.data.engine.sqlite import ConnectionOptions, in_savepoint

if TYPE_CHECKING:
    from prisma._types import TransactionId

T = TypeVar("T")

_MAX_RAW_STATEMENTS: Final = 500


class SqliteEngine:
    """Runs queries on one database file, with one connection that writes and one that reads.

    It has the interface of the client's `AsyncAbstractEngine`. Use it from one event loop. Everything but `connect` raises
    `EngineClosedError` unless it is connected.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        plans: PlanCache,
        errors: ErrorClasses,
        connections: Connections | None = None,
    ) -> None:
        """``plans``: those of the client's schema. ``errors``: the ``errors`` module of its package.

        ``connections``: open ones, to be shared with others and closed by whoever opened them; by default it opens its own.
        """
        self.options = options
        self.plans = plans
        self._connections = connections or Connections(options)
        self._owns_connections = connections is None
        self._client_errors = ClientErrors(errors)
        self._raw: LruCache[str, RawStatement] = LruCache(_MAX_RAW_STATEMENTS)
        self._queries = 0

    # --- life -----------------------------------------------------------------------------------------------------

    async def connect(
        self,
        timeout: timedelta = timedelta(seconds=10),  # noqa: ARG002, ASYNC109 - the client's interface
        datasources: object = None,  # noqa: ARG002
    ) -> None:
        """Open the database.

        Raises:
            EngineError: it cannot be opened.
        """
        if self._owns_connections:
            await self._connections.open()

    async def aclose(self, *, timeout: timedelta | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Roll back what is open, finish what was asked for, and close the database."""
        if self._owns_connections:
            await self._connections.aclose()
        await self.plans.close()

    def close(self, *, timeout: timedelta | None = None) -> None:  # noqa: ARG002
        """Have the connections closed, without waiting for it; what is open is rolled back."""
        if self._owns_connections:
            self._connections.close()

    def stop(self, *, timeout: timedelta | None = None) -> None:
        """`close`."""
        self.close(timeout=timeout)

    # --- plain SQL ------------------------------------------------------------------------------------------------

    async def write(self, function: Work[T]) -> T:
        """See `Connections.write`."""
        return await self._connections.write(function)

    async def read(self, function: Work[T]) -> T:
        """See `Connections.read`."""
        return await self._connections.read(function)

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

    async def query(self, content: str, *, tx_id: "TransactionId | None") -> Any:
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
        connections = self._connections
        if tx_id is not None:
            if writes and several:
                return await connections.transactions.run(tx_id, lambda connection: in_savepoint(connection, work))
            return await connections.transactions.run(tx_id, work)
        if not writes:
            return await connections.read(work, several=several)
        return await (connections.write_alone(work) if alone else connections.write(work))

    # --- interactive transactions ---------------------------------------------------------------------------------

    async def start_transaction(self, *, content: str) -> "TransactionId":
        """``content``: JSON ``{"timeout", "max_wait"}``, both in milliseconds, as Prisma Client Python says it."""
        limits = json.loads(content)
        max_wait_s, timeout_s = limits["max_wait"] / 1000, limits["timeout"] / 1000
        with self._client_errors:
            started = await self._connections.transactions.start(max_wait_s=max_wait_s, timeout_s=timeout_s)
            return cast("TransactionId", started)

    async def start_nested_transaction(self, tx_id: str) -> "TransactionId":
        """A transaction inside another: a savepoint."""
        with self._client_errors:
            return cast("TransactionId", await self._connections.transactions.start_nested(tx_id))

    async def commit_transaction(self, tx_id: "TransactionId") -> None:
        """See `Transactions.commit`."""
        with self._client_errors:
            try:
                await self._connections.transactions.commit(tx_id)
            except sqlite3.Error as error:
                raise sqlite_query_error(error) from error

    async def rollback_transaction(self, tx_id: "TransactionId") -> None:
        """See `Transactions.rollback`."""
        with self._client_errors:
            await self._connections.transactions.rollback(tx_id)

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
