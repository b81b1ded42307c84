"""Prisma clients that run on the in-process engine.

A generated ``Prisma`` class is bound to the engine by subclassing it (`bind`), so nothing of the library is changed for
others. Each generated package (``prisma``, or another that ``output`` in a schema named) brings its own error classes; errors
are raised as those of the package that the client came from.
"""

from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel

from autogpt_server.data.engine.connections import Connections
from autogpt_server.data.engine.engine import SqliteEngine, Work
from autogpt_server.data.engine.errors import ClientErrors, EngineError, EngineNotBuiltError
from autogpt_server.data.engine.files import wasm_path
from autogpt_server.data.engine.plans import plans_of
from autogpt_server.data.engine.protocol import RequestBuilder
from autogpt_server.data.engine.schema import DataModel, read_datamodel
from autogpt_server.data.engine.sqlite import ConnectionOptions, Synchronous

if TYPE_CHECKING:
    from prisma import Prisma
    from prisma._types import TransactionId

ClientT = TypeVar("ClientT")

_RAW_METHODS = frozenset(("query_raw", "query_first", "execute_raw"))


def create_client(
    url_or_path: str | Path,
    *,
    synchronous: Synchronous = "FULL",
    busy_timeout_s: float = 30.0,
    read_only: bool = False,
) -> "Prisma":
    """A client of the product's schema for one database file; connect() and disconnect() it as usual.

    ``url_or_path``: an absolute path, or a ``file:`` URL of one. ``busy_timeout_s``: how long a write waits for another
    process's. ``read_only``: the file must exist, and writes are refused.

    Raises:
        EngineNotBuiltError: the client has not been generated.
    """
    options = ConnectionOptions(_absolute(url_or_path), synchronous, busy_timeout_s, read_only)
    return bind(_generated_class(), options)


def client_on(connections: Connections) -> "Prisma":
    """A client of the product's schema that works on open connections, which it does not close.

    The first one in a process imports what is generated, which takes about half a second.

    Raises:
        EngineNotBuiltError: the client has not been generated, or there is no query compiler.
    """
    client = bind(_generated_class(), connections.options)
    cast(_EngineClient, client).attach(connections)
    return client


def import_client() -> None:
    """Import what is generated, so that `client_on` need not; may be called in any thread.

    Raises:
        EngineNotBuiltError: the client has not been generated.
    """
    _generated_class()


def bind(client_class: type[ClientT], options: ConnectionOptions, *, plans_dir: Path | None = None) -> ClientT:
    """A client of ``client_class``, a generated ``Prisma``, that runs on the in-process engine.

    ``plans_dir``: where compiled plans are kept; by default beside the compiler.
    """
    return cast(ClientT, _bound_class(client_class)(options, plans_dir))


def get_engine(client: object) -> SqliteEngine:
    """The engine of a connected client that `create_client` made.

    Raises:
        EngineError: the client is not connected, or runs on another engine.
    """
    engine = getattr(client, "_internal_engine", None)
    if not isinstance(engine, SqliteEngine):
        raise EngineError("the client is not connected" if engine is None else f"not our engine: {type(engine)}")
    return engine


def _generated_class() -> "type[Prisma]":
    try:
        from prisma import Prisma  # noqa: PLC0415 - heavy; and it raises while nothing has been generated
    except (ImportError, RuntimeError) as error:
        raise EngineNotBuiltError("the Prisma client has not been generated: run `make generate`") from error
    return Prisma


def _absolute(url_or_path: str | Path) -> Path:
    path = Path(str(url_or_path).removeprefix("file:"))
    if not path.is_absolute():
        raise ValueError(f"the database must be given by its absolute path, not {str(url_or_path)!r}")
    return path


@lru_cache(maxsize=8)
def _bound_class(client_class: type[Any]) -> type[Any]:
    return type("Prisma", (_EngineClient, client_class), {"__module__": client_class.__module__})


@lru_cache(maxsize=8)
def _datamodel(schema: Path) -> DataModel:
    return read_datamodel(schema)


class _EngineClient:
    """What a generated ``Prisma`` does differently on this engine; mixed in before it.

    It overrides methods that the stock client marks as private. They belong to Prisma Client Python 0.15.0, its last release.
    """

    _internal_engine: SqliteEngine | None
    _tx_id: str | None
    _copied: bool
    _packaged_schema_path: Path

    def __init__(self, options: ConnectionOptions, plans_dir: Path | None) -> None:
        cast(Any, super()).__init__(use_dotenv=False)
        self._options = options
        self._plans_dir = plans_dir
        self._builder = RequestBuilder(_datamodel(self._packaged_schema_path))
        self._package = type(self).__module__.rpartition(".")[0]
        self._errors: Any = self._module("errors")
        self._client_errors = ClientErrors(self._errors)

    async def connect(self, timeout: object = None) -> None:  # noqa: ARG002, ASYNC109 - opening a file takes no time
        """Open the database.

        Raises:
            EngineNotBuiltError: there is no query compiler (it is loaded only when it is needed).
            EngineError: the file cannot be opened.
        """
        engine = self._new_engine()
        await engine.connect()
        self._internal_engine = engine

    def attach(self, connections: Connections) -> None:
        """Instead of `connect`: use what is open."""
        self._internal_engine = self._new_engine(connections)

    def _new_engine(self, connections: Connections | None = None) -> SqliteEngine:
        if not wasm_path().exists():
            raise EngineNotBuiltError(f"the query compiler is missing ({wasm_path()}): run `make generate`")
        if self._internal_engine is not None:
            raise self._module("engine.errors").AlreadyConnectedError("Already connected to the query engine")
        plans = plans_of(_datamodel(self._packaged_schema_path), plans_dir=self._plans_dir)
        return SqliteEngine(self._options, plans=plans, errors=self._errors, connections=connections)

    async def _execute(
        self,
        *,
        method: str,
        arguments: dict[str, Any],
        model: type[BaseModel] | None = None,
        root_selection: list[str] | None = None,
    ) -> Any:
        """What every query method of the generated client comes down to."""
        engine, tx_id = self._connected(), self._tx_id
        if method in _RAW_METHODS:
            run = engine.execute_raw if method == "execute_raw" else engine.query_raw
            return _response(await run(arguments["query"], arguments["parameters"], tx_id=tx_id))
        model = self._checked(model)
        with self._client_errors:
            if method == "create_many":
                requests = self._builder.rows(arguments, model)
                counts = await engine.execute_all(requests, tx_id=tx_id)
                return _response({"count": sum(count["count"] for count in counts)})
            request = self._builder.build(method, arguments, model, root_selection)
        return _response(await engine.execute(request, tx_id=tx_id))

    def batch_(self) -> Any:
        """Groups write queries into one transaction."""
        return _batch_class(self._module("client").Batch)(self)

    def tx(self, **limits: Any) -> Any:
        """A transaction (``max_wait`` and ``timeout`` as `datetime.timedelta`); inside a transaction, a savepoint."""
        if self._tx_id is not None:
            return _NestedTransaction(self)
        return cast(Any, super()).tx(**limits)

    async def _commit_batch(self, queries: list[dict[str, Any]]) -> None:
        engine = self._connected()
        items: list[Work[Any]] = []
        for query in queries:
            method, arguments = query["method"], query["arguments"]
            if method == "execute_raw":
                items.append(engine.raw_batch_item(arguments["query"], arguments["parameters"]))
                continue
            model = self._checked(query.get("model"))
            with self._client_errors:
                if method == "create_many":
                    items += [await engine.batch_item(request) for request in self._builder.rows(arguments, model)]
                else:
                    request = self._builder.build(method, arguments, model, query.get("root_selection"))
                    items.append(await engine.batch_item(request))
        if items:
            await engine.perform_batch(items, tx_id=self._tx_id)

    def _copy(self) -> Any:
        new: Any = type(self)(self._options, self._plans_dir)
        new._copied = True  # noqa: SLF001 - another of this class
        new._internal_engine = self._internal_engine  # noqa: SLF001
        return new

    def _connected(self) -> SqliteEngine:
        if self._internal_engine is None:
            raise self._errors.ClientNotConnectedError
        return self._internal_engine

    def _checked(self, model: type[BaseModel] | None) -> type[BaseModel]:
        """``model``, if it stands for one of the schema."""
        if model is None or not hasattr(model, "__prisma_model__"):
            raise self._errors.InvalidModelError(model)
        return model

    def _module(self, name: str) -> ModuleType:
        """A module of the generated package."""
        return import_module(f"{self._package}.{name}")


def _response(result: object) -> dict[str, Any]:
    """``result`` as the stock engine's HTTP answers wrap it."""
    return {"data": {"result": result}}


@lru_cache(maxsize=8)
def _batch_class(generated: type[Any]) -> type[Any]:
    """The generated ``Batch``, without its way of writing queries down (see `protocol`)."""

    class Batch(generated):
        def __init__(self, client: Any) -> None:
            stock: Any = super()
            stock.__init__(client)
            self._client = client
            self._queries: list[dict[str, Any]] = []

        def _add(self, **query: Any) -> None:
            self._queries.append(query)

        async def commit(self) -> None:
            """Carry the queries out: all of them, or none."""
            queries, self._queries = self._queries, []
            await self._client._commit_batch(queries)  # noqa: SLF001 - of this module

    return Batch


class _NestedTransaction:
    """``tx()`` of a client that is in a transaction; has the interface of the stock transaction manager."""

    def __init__(self, client: Any) -> None:
        self._outer = client
        self._tx_id: TransactionId | None = None

    async def start(self) -> Any:
        """Begin; returns the client to use inside."""
        outer = self._outer
        self._tx_id = await outer._connected().start_nested_transaction(outer._tx_id)  # noqa: SLF001
        client = outer._copy()  # noqa: SLF001
        client._tx_id = self._tx_id  # noqa: SLF001
        return client

    async def commit(self) -> None:
        """Make what was done part of the outer transaction."""
        await self._outer._connected().commit_transaction(self._started())  # noqa: SLF001

    async def rollback(self) -> None:
        """Undo what was done."""
        await self._outer._connected().rollback_transaction(self._started())  # noqa: SLF001

    def _started(self) -> "TransactionId":
        if self._tx_id is None:
            raise self._outer._errors.TransactionNotStartedError  # noqa: SLF001
        return self._tx_id

    async def __aenter__(self) -> Any:
        return await self.start()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            await self.commit()
            return
        # The outer transaction may have ended meanwhile (its time was up); what happened inside is what to tell.
        with suppress(self._outer._errors.TransactionError):  # noqa: SLF001
            await self.rollback()
