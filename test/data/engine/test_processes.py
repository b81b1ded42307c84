"""Several processes on one file: no lost update, no "database is locked", and a consistent file whatever is killed."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.engine import get_engine
from data.engine.conftest import ROOT, Conformance, Sql

Start = Callable[..., Any]

pytestmark = pytest.mark.timeout(180)  # starting a process takes seconds where others keep the machine busy


@pytest.fixture
async def start(conformance: Conformance, database: Path) -> AsyncIterator[Start]:
    """Starts processes that run a function of `workers` on the test's database; they are killed at the end."""
    processes: list[Process] = []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "test"), str(conformance.folder)]),
    }

    async def start(command: str, *arguments: object, database: Path = database) -> Process:
        line = [sys.executable, "-m", "data.engine.workers", command, str(conformance.plans), str(database)]
        process = await asyncio.create_subprocess_exec(
            *line, *map(str, arguments), cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def first_line(process: Process) -> str:
    """What the process prints first; its error output if it ends before that."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = await process.stdout.readline()
    return line.decode().strip() or (await process.stderr.read()).decode()


def check(database: Path) -> None:
    """SQLite's own checks of the file."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def mixed(start: Start, db: Any, database: Path, *, processes: int, seconds: float) -> int:
    """Let processes read and write for some time; returns how many increments there were."""
    await db.user.create(data={"id": "counter", "email": "counter"})
    started = [await start("mixed", seconds, f"process {index}") for index in range(processes)]
    results = await asyncio.gather(*[process.communicate() for process in started])
    for process, (_, errors) in zip(started, results, strict=True):
        assert process.returncode == 0, errors.decode()
    counts = [int(output) for output, _ in results]
    assert min(counts) > 0
    assert (await db.user.find_unique(where={"id": "counter"})).age == sum(counts), "an update was lost"
    check(database)
    return sum(counts)


async def test_four_processes(start: Start, db: Any, database: Path) -> None:
    """For a moment; `test_four_processes_for_a_minute` is the real thing."""
    assert await mixed(start, db, database, processes=4, seconds=2) > 50


@pytest.mark.stress
@pytest.mark.timeout(180)
async def test_four_processes_for_a_minute(start: Start, db: Any, database: Path) -> None:
    """Four processes, mixed reads and writes, 60 seconds: `pytest -m stress test/data/engine`."""
    assert await mixed(start, db, database, processes=4, seconds=60) > 1000


@pytest.mark.chaos
async def test_kill_at_any_moment(start: Start, conformance: Conformance, tmp_path: Path) -> None:
    """What a killed process said was committed is there, pairs are never torn, and others go on at once."""

    async def kill_after(pause_s: float) -> None:
        path = Path(shutil.copy(conformance.empty_database, tmp_path / f"{pause_s}.db"))
        process = await start("write_pairs", database=path)
        assert await first_line(process) == "1"
        await asyncio.sleep(pause_s)  # strikes at another moment each time
        process.kill()
        output, _ = await process.communicate()
        last = int(output.split()[-1]) if output.split() else 1
        async with conformance.client(path) as db:
            names = {tag.name for tag in await db.tag.find_many()}
            numbers = {int(name.split()[0]) for name in names}
            assert names == {f"{number} {half}" for number in numbers for half in "ab"}, "a torn pair"
            assert numbers >= set(range(1, last + 1)), "something that was committed is lost"
            assert max(numbers) <= last + 1
            await db.tag.create(data={"name": "others go on"})
        check(path)

    await asyncio.gather(*[kill_after(pause_s) for pause_s in (0.0, 0.003, 0.011, 0.05)])


@pytest.mark.chaos
async def test_a_killed_process_frees_the_writer(start: Start, db: Any, sql: Sql) -> None:
    process = await start("hold")
    assert await first_line(process) == "holding"
    waiting = asyncio.create_task(db.tag.create(data={"name": "mine"}))
    assert await db.tag.count() == 0
    assert not waiting.done()
    process.kill()
    await waiting
    assert sql("SELECT name FROM Tag") == [("mine",)]


async def test_plans_are_shared_between_processes(
    conformance: Conformance, database: Path, start: Start, db: Any
) -> None:
    process = await start("hold")
    assert await first_line(process) == "holding"
    process.kill()
    await process.wait()
    await db.tag.create(data={"name": "mine"})
    assert get_engine(db).plans.compiled == 0, "the other process has compiled it"


def test_a_forgotten_client_does_not_keep_the_process_alive(conformance: Conformance, database: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from autogpt_server.data.engine import ConnectionOptions, bind
import conformance_client
async def main():
    global client
    client = bind(conformance_client.Prisma, ConnectionOptions(Path({str(database)!r})), plans_dir=Path({str(conformance.plans)!r}))
    await client.connect()
    await client.tag.create(data={{"name": "a"}})
asyncio.run(main())
print("end")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(conformance.folder)])}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")
