"""An in-process query engine for Prisma Client Python on SQLite: no engine binary, no Node, no network at run time.

`create_client` makes the client, which is used as Prisma's documentation says. `get_engine` gives what lies beneath it:
``engine.write(fn)`` and ``engine.read(fn)`` run plain SQL on its connections. How it works, from top to bottom:

- `client` binds a generated client to the engine; `protocol` turns its calls into requests in Prisma's JSON protocol, and
  `parameters` takes the values out of them, so that requests of one shape are one text;
- `plans` keeps the plan of each text, `stored` keeps them on disk; `compiler` makes them, with Prisma's own query compiler
  (WebAssembly, unpacked by `build`);
- `interpreter` (with `values`, `rendering`, `rows` and `generators`) carries plans out; `raw` does raw SQL;
- `engine` decides where: on one of the `connections`, within one of the `transactions`;
- each connection (`sqlite`) lives in one of the `threads`, where writes that wait are done `together`.

Nothing here imports what Prisma generated before a client is made: a process that only needs `Connections` stays small.
"""

from autogpt_server.data.engine.client import bind, client_on, create_client, get_engine, import_client
from autogpt_server.data.engine.connections import Connections
from autogpt_server.data.engine.engine import SqliteEngine
from autogpt_server.data.engine.errors import (
    CommitUncertainError,
    CompilerError,
    DatabaseBusyError,
    EngineClosedError,
    EngineError,
    EngineNotBuiltError,
    ReadOnlyError,
    UnsupportedPlanError,
)
from autogpt_server.data.engine.sqlite import ConnectionOptions, Synchronous

__all__ = [
    "CommitUncertainError",
    "CompilerError",
    "ConnectionOptions",
    "Connections",
    "DatabaseBusyError",
    "EngineClosedError",
    "EngineError",
    "EngineNotBuiltError",
    "ReadOnlyError",
    "SqliteEngine",
    "Synchronous",
    "UnsupportedPlanError",
    "bind",
    "client_on",
    "create_client",
    "get_engine",
    "import_client",
]
