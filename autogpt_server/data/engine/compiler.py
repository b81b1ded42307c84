"""Prisma's query compiler, run in this process.

The compiler is a pure function that Prisma publishes as WebAssembly in the npm package ``@prisma/client``: a query in
the JSON protocol in, a query plan (SQL with parameters, and a small tree of steps) out.

Of the package's two builds, ``small`` and ``fast``, this takes ``small``. Measured on two cores: precompiled module 5.5 MB
instead of 9.3, precompiling 1.1 s instead of 3.1 (peak 95 MB instead of 165), and a plan takes no longer, since the
calls back into Python dominate (1.7 ms for find_unique, 3.6 for create, 6 for two levels of include).
"""

import json
from pathlib import Path
from typing import Any, Final, cast

import wasmtime

from autogpt_server.data.engine.build import load_module
from autogpt_server.data.engine.errors import CompilerError, EngineNotBuiltError, QueryError
from autogpt_server.data.engine.files import QUERY_COMPILER_VERSION
from autogpt_server.data.engine.jsglue import IMPORTS, JsError, JsGlue
from autogpt_server.data.engine.schema import DataModel

_COMPILES_PER_COLLECTION: Final = 32
"""Plans between two collections of the references that the compiler has dropped."""


class QueryCompiler:
    """One instance of the compiler for one schema. Use it from one thread at a time.

    Raises:
        EngineNotBuiltError: `make generate` has not been run, or was for another version.
        CompilerError: it does not take the schema.
    """

    def __init__(self, datamodel: DataModel, *, build_dir: Path | None = None) -> None:
        engine, module = load_module(build_dir)
        self._store = wasmtime.Store(engine)
        self._glue = JsGlue(self._store)
        self._compiled = 0
        imports = [self._import(imported) for imported in module.imports]
        self._glue.attach(wasmtime.Instance(self._store, module, imports))
        options = {
            "datamodel": datamodel.compiler_text,
            "provider": datamodel.provider,
            "connectionInfo": {"supportsRelationJoins": False},
        }
        self._pointer, error, failed = self._call("querycompiler_new", options)
        if failed:
            raise CompilerError(f"the query compiler refused the schema: {_describe(self._glue.take(error))}")

    def compile(self, query: str) -> dict[str, Any]:
        """The plan of ``query``, a JSON protocol request.

        Raises:
            QueryError: the query does not fit the schema.
            CompilerError: the compiler itself failed; this instance is of no use any more.
        """
        encoded = query.encode()
        pointer = self._glue.allocate(encoded)
        plan, error, failed = self._call("querycompiler_compile", self._pointer, pointer, len(encoded))
        self._compiled += 1
        if self._compiled % _COMPILES_PER_COLLECTION == 0:
            self._store.gc()
        if failed:
            raise _query_error(self._glue.take(error))
        return cast("dict[str, Any]", self._glue.take(plan))

    def _call(self, function: str, *args: object) -> Any:
        try:
            return self._glue.call(function, *args)
        except CompilerError:
            raise
        except Exception as error:  # a panic, or a bug in the glue: in either case half done
            raise CompilerError(f"the query compiler failed: {self._glue.panic or error}") from error

    def _import(self, imported: wasmtime.ImportType) -> wasmtime.Func:
        function = IMPORTS.get(imported.name or "")
        if function is None:
            raise EngineNotBuiltError(
                f"the query compiler wants the unknown function {imported.name!r}: it is not that of @prisma/client"
                f" {QUERY_COMPILER_VERSION}; run `make generate`"
            )
        glue = self._glue

        def call(*args: object) -> object:
            return function(glue, *args)

        return wasmtime.Func(self._store, cast(wasmtime.FuncType, imported.type), call)


def _query_error(error: object) -> QueryError:
    """What the compiler threw: ``{code, message, meta}`` for errors meant for users, else a JavaScript error."""
    if isinstance(error, dict):
        thrown = cast("dict[str, Any]", error)
        meta = cast("dict[str, Any]", thrown.get("meta") or {})
        return QueryError(str(thrown.get("code") or "P2009"), str(thrown.get("message")), meta)
    return QueryError("P2009", f"the query does not fit the schema: {_describe(error)}")


def _describe(error: object) -> str:
    return error.message if isinstance(error, JsError) else json.dumps(error, default=repr, ensure_ascii=False)
