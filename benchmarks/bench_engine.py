"""The in-process Prisma engine against the standard library's sqlite3: the same work on the same kind of file, in one run.

Medians of single operations, one after the other, in milliseconds; WAL, synchronous=NORMAL, so that it is the engine that is measured
and not the disk. "first" is the first operation of its shape ever: its plan is compiled (and the compiler loaded, for the very
first). Other processes then find the plan stored.
"""

import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from prisma import Prisma

from autogpt_server.data.engine import ConnectionOptions, bind, get_engine

ROOT = Path(__file__).parents[1]
REPEATS = int(os.environ.get("BENCH_REPEATS", "1000"))
ROWS = 200

Asynchronous = Callable[[int], Awaitable[Any]]
Synchronous = Callable[[int], Any]

INSERT_BLOCKS = (
    "INSERT INTO AgentBlock (id, name, inputSchema, outputSchema)"
    " SELECT value ->> 'id', value ->> 'name', '{}', '{}' FROM json_each(?)"
)
FIND_BLOCK = "SELECT id, name, inputSchema, outputSchema FROM AgentBlock WHERE id = ?"
INSERT_BLOCK = "INSERT INTO AgentBlock (id, name, inputSchema, outputSchema) VALUES (?, ?, '{}', '{}') RETURNING *"
FIND_GRAPH = "SELECT * FROM AgentGraph WHERE id = ? AND version = 1"
FIND_NODES = "SELECT * FROM AgentNode WHERE agentGraphId = ? AND agentGraphVersion = 1"


def make_database(path: Path) -> None:
    """The product's tables, 1,000 blocks, and a graph of 20 nodes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for migration in sorted(ROOT.glob("migrations/*/migration.sql")):
            connection.executescript(migration.read_text(encoding="utf-8"))
        connection.execute("BEGIN")
        for index in range(1000):
            connection.execute("INSERT INTO AgentBlock VALUES (?, ?, '{}', '{}')", (f"b{index}", f"block {index}"))
        connection.execute("INSERT INTO AgentGraph (id, version, name) VALUES ('g', 1, 'graph')")
        for index in range(20):
            connection.execute(
                "INSERT INTO AgentNode (id, agentGraphId, agentGraphVersion, agentBlockId, position, key)"
                " VALUES (?, 'g', 1, 'b0', ?, ?)",
                (f"n{index}", index, f"n{index}"),
            )
        connection.execute("COMMIT")


class Stdlib:
    """The same operations by hand."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.execute("PRAGMA foreign_keys=ON")

    def fetch(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(statement, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        for statement, parameters in statements:
            self.connection.execute(statement, parameters).fetchall()
        self.connection.execute("COMMIT")


def block_rows(tag: str, number: int) -> str:
    """200 new blocks as JSON."""
    return json.dumps([{"id": f"{tag}-{number}-{index}", "name": "x"} for index in range(ROWS)])


def operations(db: Any, plain: Stdlib) -> list[tuple[str, int, Asynchronous, Synchronous]]:
    """(name, repeats, with the engine, with the standard library)."""
    engine = get_engine(db)
    insert = "INSERT INTO AgentBlock VALUES (?, 'x', '{}', '{}')"

    async def transaction(number: int) -> None:
        async with db.tx(max_wait=timedelta(seconds=9), timeout=timedelta(seconds=9)) as tx:
            await tx.agentblock.find_unique(where={"id": f"b{number % 1000}"})
            await tx.agentblock.update(where={"id": f"b{number % 1000}"}, data={"name": "tx"})

    def insert_many(connection: sqlite3.Connection, tag: str, number: int) -> None:
        connection.executemany(insert, [(f"{tag}-{number}-{index}",) for index in range(ROWS)])

    def plain_insert_many(number: int, tag: str = "plain-many") -> None:
        plain.connection.execute("BEGIN IMMEDIATE")
        insert_many(plain.connection, tag, number)
        plain.connection.execute("COMMIT")

    update = "UPDATE AgentBlock SET name = ? WHERE id = ? RETURNING *"
    few = max(REPEATS // 10, 20)
    return [
        (
            "query_raw SELECT 1",
            REPEATS,
            lambda _: db.query_raw("SELECT 1 AS one"),
            lambda _: plain.fetch("SELECT 1 AS one"),
        ),
        (
            "find_unique",
            REPEATS,
            lambda n: db.agentblock.find_unique(where={"id": f"b{n % 1000}"}),
            lambda n: plain.fetch(FIND_BLOCK, f"b{n % 1000}"),
        ),
        (
            "create",
            REPEATS,
            lambda n: db.agentblock.create(
                data={"id": f"engine-{n}", "name": "x", "inputSchema": "{}", "outputSchema": "{}"}
            ),
            lambda n: plain.write((INSERT_BLOCK, (f"plain-{n}", "x"))),
        ),
        (
            "update",
            REPEATS,
            lambda n: db.agentblock.update(where={"id": f"b{n % 1000}"}, data={"name": f"engine {n}"}),
            lambda n: plain.write((update, (f"plain {n}", f"b{n % 1000}"))),
        ),
        (
            "find_unique, include 20 rows",
            REPEATS,
            lambda _: db.agentgraph.find_unique(
                where={"id_version": {"id": "g", "version": 1}}, include={"nodes": True}
            ),
            lambda _: (plain.fetch(FIND_GRAPH, "g"), plain.fetch(FIND_NODES, "g")),
        ),
        (
            "tx(find + update)",
            REPEATS,
            transaction,
            lambda n: plain.write((FIND_BLOCK, (f"b{n % 1000}",)), (update, ("tx", f"b{n % 1000}"))),
        ),
        (
            "execute_raw, 200 rows",
            few,
            lambda n: db.execute_raw(INSERT_BLOCKS, block_rows("engine-raw", n)),
            lambda n: plain.write((INSERT_BLOCKS, (block_rows("plain-raw", n),))),
        ),
        (
            "create_many, 200 rows",
            few,
            lambda n: db.agentblock.create_many(
                data=[
                    {"id": f"engine-cm-{n}-{index}", "name": "x", "inputSchema": "{}", "outputSchema": "{}"}
                    for index in range(ROWS)
                ]
            ),
            lambda n: plain_insert_many(n, "plain-cm"),
        ),
        (
            "engine.write, 200 rows",
            few,
            lambda n: engine.write(lambda connection: insert_many(connection, "engine-many", n)),
            plain_insert_many,
        ),
    ]


async def measure(folder: Path) -> None:
    """Print the table of operations."""
    make_database(folder / "engine.db")
    make_database(folder / "plain.db")
    options = ConnectionOptions(folder / "engine.db", synchronous="NORMAL")
    db, plain = bind(Prisma, options, plans_dir=folder / "plans"), Stdlib(folder / "plain.db")
    await db.connect()
    print(f"{'operation':30} {'engine':>8} {'p99':>8} {'first':>8} {'sqlite3':>8} {'ratio':>7}")
    for name, repeats, ours, theirs in operations(db, plain):
        started = time.perf_counter()
        await ours(-1)
        first = time.perf_counter() - started
        theirs(-1)
        engine_s: list[float] = []
        plain_s: list[float] = []
        for number in range(repeats):
            started = time.perf_counter()
            await ours(number)
            engine_s.append(time.perf_counter() - started)
            started = time.perf_counter()
            theirs(number)
            plain_s.append(time.perf_counter() - started)
        median, plain_median = statistics.median(engine_s), statistics.median(plain_s)
        p99 = sorted(engine_s)[int(repeats * 0.99)]
        print(
            f"{name:30} {median * 1e3:8.3f} {p99 * 1e3:8.3f} {first * 1e3:8.1f} {plain_median * 1e3:8.3f}"
            f" {median / plain_median:6.1f}x"
        )
    await concurrent(db)
    await pauses(db)
    await db.disconnect()
    plain.connection.close()


async def concurrent(db: Any) -> None:
    """Print how many operations a second 20 tasks get done."""
    finders = [db.agentblock.find_unique(where={"id": f"b{number % 1000}"}) for number in range(REPEATS)]
    started = time.perf_counter()
    await asyncio.gather(*finders)
    print(f"{REPEATS} find_unique at once: {REPEATS / (time.perf_counter() - started):.0f}/s")


async def pauses(db: Any) -> None:
    """Print how long the event loop was held up at most while plans are compiled aside."""
    idle = await longest_pause(asyncio.create_task(asyncio.sleep(1)))
    texts = [json.dumps(big_request(rows, links)) for rows, links in ((20, 1), (20, 2), (30, 1))]
    started = time.perf_counter()
    compiling = await longest_pause(asyncio.gather(*[get_engine(db).plans.get(text) for text in texts]))
    elapsed = time.perf_counter() - started
    print(
        f"3 big plans compiled in {elapsed * 1e3:.0f} ms: the loop's longest pause meanwhile {compiling * 1e3:.1f} ms"
        f" ({idle * 1e3:.1f} ms in a second without)"
    )


async def longest_pause(until: asyncio.Future[Any]) -> float:
    """By how many seconds a task that wakes up each millisecond was late at most."""
    longest = 0.0
    while not until.done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - before - 0.001)
    return longest


def big_request(rows: int, links: int) -> dict[str, Any]:
    """A graph created with many nodes that have links: as large as requests get."""
    node = {
        "key": "k",
        "position": 1,
        "block": {"connect": {"id": "b1"}},
        "inputs": {
            "create": [{"position": 1, "sourceName": "a", "sinkName": "b", "source": {"connect": {"id": "n1"}}}] * links
        },
    }
    data = {"name": "g", "nodes": {"create": [node] * rows}}
    return {
        "modelName": "AgentGraph",
        "action": "createOne",
        "query": {"arguments": {"data": data}, "selection": {"id": True}},
    }


FRESH_PROCESS = """
import asyncio, sys, time
from pathlib import Path

def memory():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024

started = time.perf_counter()
from prisma import Prisma
from autogpt_server.data.engine import ConnectionOptions, bind
imported = time.perf_counter() - started
before = memory()

async def main():
    db = bind(Prisma, ConnectionOptions(Path(sys.argv[1]), "NORMAL"), plans_dir=Path(sys.argv[2]))
    started = time.perf_counter()
    await db.connect()
    connected = time.perf_counter() - started
    started = time.perf_counter()
    await db.agentblock.find_unique(where={"id": "b1"})
    first = time.perf_counter() - started
    started = time.perf_counter()
    await db.agentgraph.find_many(where={"isActive": True}, include={"nodes": {"include": {"inputs": True}}})
    await db.agentblock.update_many(where={"id": "b1"}, data={"name": "x"})
    more = time.perf_counter() - started
    print(imported, connected, first, more, before, memory() - before)
    await db.disconnect()

asyncio.run(main())
"""


def fresh_process(title: str, database: Path, plans: Path) -> None:
    """Print what a new process pays until its first answers."""
    command = [sys.executable, "-c", FRESH_PROCESS, str(database), str(plans)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    imported, connected, first, more, base, engine = map(float, output.split())
    print(
        f"new process, {title}: import {imported * 1e3:.0f} ms, connect() {connected * 1e3:.1f} ms, first find_unique"
        f" {first * 1e3:.1f} ms, two more shapes {more * 1e3:.1f} ms; {base:.0f} MB with the generated client,"
        f" {engine:+.1f} MB by then"
    )


def main() -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(Path(name)))
        database, plans = Path(name) / "engine.db", Path(name) / "new plans"
        for title in ("nothing compiled yet", "plans stored", "plans stored"):
            fresh_process(title, database, plans)


if __name__ == "__main__":
    main()
