"""Making, connecting and closing clients; what is missing is named."""

import asyncio
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import prisma
import pytest

from autogpt_server.data.engine import (
    ConnectionOptions,
    Connections,
    EngineClosedError,
    EngineError,
    EngineNotBuiltError,
    ReadOnlyError,
    client_on,
    create_client,
    get_engine,
)
from data.engine.conftest import ROOT, Conformance


@pytest.mark.parametrize("name", ["plain.db", "with space.db", "ünï?code#%20.db", "file:odd.db"])
async def test_create_client_takes_absolute_paths(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    client = create_client(path)
    await client.connect()
    await client.execute_raw("CREATE TABLE t (x)")
    await client.disconnect()
    assert path.stat().st_size > 0
    assert os.listdir(tmp_path) == [name], "the WAL is gone after the last connection"  # noqa: PTH208


async def test_create_client_takes_urls(tmp_path: Path) -> None:
    async with create_client(f"file:{tmp_path / 'x.db'}") as client:
        assert get_engine(client).options.path == tmp_path / "x.db"
    for relative in ("x.db", "file:./x.db", Path("x.db")):
        with pytest.raises(ValueError, match="absolute path"):
            create_client(relative)


async def test_connection_settings(tmp_path: Path) -> None:
    async with create_client(tmp_path / "x.db") as client:

        def pragmas(connection: sqlite3.Connection) -> list[Any]:
            names = ("journal_mode", "foreign_keys", "synchronous", "query_only")
            return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

        assert await get_engine(client).write(pragmas) == ["wal", 1, 2, 0]
        assert (await get_engine(client).read(pragmas))[3] == 1
    async with create_client(tmp_path / "x.db", synchronous="NORMAL") as client:
        assert (await get_engine(client).write(pragmas))[2] == 1


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    """SQLite itself would take a misspelt mode for another one."""
    options: Any = {"synchronous": "FUL"}
    with pytest.raises(ValueError, match="synchronous is one of OFF, NORMAL, FULL, EXTRA"):
        create_client(tmp_path / "x.db", **options)
    with pytest.raises(ValueError, match="busy_timeout_s"):
        create_client(tmp_path / "x.db", busy_timeout_s=-1)


async def test_connect_and_disconnect(conformance: Conformance, database: Path, errors: Any) -> None:
    client = conformance.client(database)
    assert not client.is_connected()
    with pytest.raises(errors.ClientNotConnectedError):
        await client.tag.count()
    with pytest.raises(EngineError, match="not connected"):
        get_engine(client)
    for _ in range(3):
        await client.connect()
        assert client.is_connected()
        await client.tag.count()
        await client.disconnect()
    await client.disconnect()
    await client.connect()
    with pytest.raises(conformance.package.engine.errors.AlreadyConnectedError):
        await client.connect()
    engine = get_engine(client)
    await client.disconnect()
    with pytest.raises(EngineClosedError):
        await engine.read(lambda connection: connection.total_changes)
    with pytest.raises(EngineClosedError):
        await engine.write(lambda connection: connection.total_changes)


async def test_files_that_cannot_be_opened(conformance: Conformance, tmp_path: Path) -> None:
    for path in (tmp_path / "no such folder" / "x.db", tmp_path):
        with pytest.raises(EngineError, match="cannot open the database"):
            await conformance.client(path).connect()
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    with pytest.raises(EngineError, match=r"cannot open the database.*not a database"):
        await conformance.client(text).connect()


async def test_read_only(conformance: Conformance, database: Path, db: Any) -> None:
    await db.tag.create(data={"name": "a"})
    async with conformance.client(database, read_only=True) as client:
        assert await client.tag.count() == 1
        assert (await client.query_first("SELECT name FROM Tag"))["name"] == "a"
        plain = get_engine(client).write(lambda connection: connection.total_changes)
        for write in (client.tag.create(data={"name": "b"}), client.execute_raw("DELETE FROM Tag"), plain):
            with pytest.raises(ReadOnlyError):
                await write
        with pytest.raises(ReadOnlyError):
            async with client.tx():
                pytest.fail("it cannot write")
        await db.tag.create(data={"name": "b"})
        assert await client.tag.count() == 2
    with pytest.raises(EngineError, match="cannot open"):
        await conformance.client(database.with_name("missing.db"), read_only=True).connect()
    assert not database.with_name("missing.db").exists()


async def test_a_client_of_another_engine_is_refused() -> None:
    with pytest.raises(EngineError):
        get_engine(object())


async def test_two_generated_packages_side_by_side(db: Any, errors: Any, tmp_path: Path) -> None:
    """Each raises the errors of its own package, and the library itself is not changed."""
    library: Any = prisma.Prisma
    stock = library._execute
    async with create_client(tmp_path / "x.db") as product:
        assert isinstance(product, prisma.Prisma)
        with pytest.raises(prisma.errors.RawQueryError):
            await product.query_raw("SELEC")
        with pytest.raises(errors.RawQueryError):
            await db.query_raw("SELEC")
    assert library._execute is stock
    assert library()._create_engine().__class__.__module__.startswith("prisma.")


async def test_an_unclosed_client_closes_its_connections(conformance: Conformance, database: Path) -> None:
    client = conformance.client(database)
    await client.connect()
    engine: Any = get_engine(client)
    threads = [engine._connections._reader._thread, engine._connections._writer._thread]
    del client, engine
    gc.collect()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


async def test_metrics(db: Any) -> None:
    await db.tag.count()
    metrics = await db.get_metrics()
    assert {counter.key for counter in metrics.counters} == {
        "prisma_client_queries_total",
        "prisma_client_plans_compiled_total",
    }
    text = await db.get_metrics(format="prometheus", global_labels={"instance": "a"})
    assert 'prisma_client_queries_total{instance="a"} 1\n' in text


def run(program: str, *, path: list[Path]) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": os.pathsep.join(map(str, path)), "PATH": "/nonexistent"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module", ["execution.worker", "execution.manager", "execution.scheduler", "server.server", "app"]
)
def test_what_is_generated_is_imported_by_its_users_only(module: str) -> None:
    """It takes a process half a second and 25 MB, with what it brings along."""
    program = f"""
import sys, autogpt_server.{module}, autogpt_server.data.db
print(sorted({{"prisma", "httpx", "jinja2", "rich", "wasmtime"}} & {{*sys.modules}}))
"""
    result = run(program, path=[ROOT])
    assert (result.stdout, result.stderr) == ("[]\n", "")


async def test_a_client_on_open_connections(tmp_path: Path) -> None:
    """It shares them, and leaves them open."""
    connections = Connections(ConnectionOptions(tmp_path / "x.db"))
    await connections.open()
    await connections.write(lambda c: c.execute("CREATE TABLE t (x)") and None)
    client = client_on(connections)
    await client.execute_raw("INSERT INTO t VALUES (1)")
    async with client.tx() as tx:
        await tx.execute_raw("INSERT INTO t VALUES (2)")
        waiting = asyncio.create_task(connections.write(lambda c: c.execute("SELECT count(*) FROM t").fetchone()))
        await tx.execute_raw("INSERT INTO t VALUES (3)")
    assert await waiting == (3,), "it waits for the client's transaction"
    await client.disconnect()
    assert await connections.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()) == (3,)
    await connections.aclose()


def test_a_client_that_was_not_generated(tmp_path: Path) -> None:
    spec = find_spec("prisma")
    assert spec is not None
    assert spec.origin is not None
    generated = {
        "client.py",
        "models.py",
        "types.py",
        "actions.py",
        "enums.py",
        "partials.py",
        "bases.py",
        "metadata.py",
        "schema.prisma",
        "__pycache__",
    }
    package = Path(spec.origin).parent
    shutil.copytree(
        package, tmp_path / "prisma", ignore=lambda folder, _: generated if Path(folder) == package else {"__pycache__"}
    )
    program = "from autogpt_server.data.engine import create_client; create_client('/tmp/x.db')"
    result = run(program, path=[tmp_path, ROOT])
    assert "EngineNotBuiltError: the Prisma client has not been generated: run `make generate`" in result.stderr


async def test_a_compiler_that_was_not_built(
    conformance: Conformance, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed at once, and not by the first query whose plan is not stored."""
    missing = tmp_path / "query-compiler.wasm"
    monkeypatch.setattr("autogpt_server.data.engine.client.wasm_path", lambda: missing)
    with pytest.raises(EngineNotBuiltError, match=r"query-compiler\.wasm.*run `make generate`"):
        await conformance.client(database).connect()


def test_nothing_but_python_is_needed_at_run_time(conformance: Conformance, database: Path, tmp_path: Path) -> None:
    """No program is started and no address is reached: there is no PATH, and audit hooks refuse both."""
    program = f"""
import sys
def refuse(event, args):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(event)
sys.addaudithook(refuse)
import asyncio
from pathlib import Path
from autogpt_server.data.engine import ConnectionOptions, bind, get_engine
import conformance_client
async def main():
    client = bind(conformance_client.Prisma, ConnectionOptions(Path({str(database)!r})), plans_dir=Path({str(tmp_path)!r}))
    await client.connect()
    await client.tag.create(data={{"name": "a"}})
    print(await client.tag.count(), get_engine(client).plans.compiled)
    await client.disconnect()
asyncio.run(main())
"""
    result = run(program, path=[ROOT, conformance.folder])
    assert (result.stdout, result.stderr) == ("1 2\n", "")
