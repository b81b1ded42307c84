"""Writes that must be durable: what one costs, how many are made together, and how several processes get their turns.

WAL and synchronous=FULL, as the server has them. Each write inserts one small row.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from autogpt_server.data.engine import ConnectionOptions, Connections

SECONDS = 3.0
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=4)
    child = parser.parse_known_args()[0].child
    if child:
        path, turns, tasks, seconds = child
        asyncio.run(_child(Path(path), Path(turns) if turns else None, int(tasks), float(seconds)))
        return
    print(
        f"{'processes x tasks':24} {'writes/s':>10} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'max ms':>8}   each process"
    )
    print(_line("stdlib sqlite3, 1 thread", [_plain()]))
    for tasks in ((1,), (16,), (64,)):
        print(_line(" + ".join(map(str, tasks)), _processes(tasks, turns=True)))
    for tasks in ((1, 1), (1, 1, 1), (16, 1, 1), (1, 1, 1, 1)):
        for turns in (True, False):
            title = f"{' + '.join(map(str, tasks))}{'' if turns else ', no turns'}"
            print(_line(title, _processes(tasks, turns=turns)))


def _processes(tasks: Sequence[int], *, turns: bool) -> list[list[float]]:
    """How long each write of each process took, in seconds; with or without the file at which they queue."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "w.db"
        with closing(_create(path)):
            command = [sys.executable, "-m", "benchmarks.bench_writers", "--child", str(path)]
            command.append(str(path.with_name("turn")) if turns else "")
            children = [
                subprocess.Popen([*command, str(n), str(SECONDS)], cwd=ROOT, stdin=-1, stdout=-1, text=True)
                for n in tasks
            ]
            for child in children:
                assert child.stdout is not None
                child.stdout.readline()
            for child in children:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            return [[float(text) for text in child.communicate()[0].split()] for child in children]


async def _child(path: Path, turns: Path | None, tasks: int, seconds: float) -> None:
    connections = Connections(ConnectionOptions(path, "FULL", turn_path=turns))
    await connections.open()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def work() -> None:
        while (began := time.perf_counter()) < end:
            await connections.write(_insert)
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(work() for _ in range(tasks)))
    sys.stdout.write(" ".join(f"{one:.6f}" for one in took))
    await connections.aclose()


def _create(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data TEXT)")
    return connection


def _insert(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO row (data) VALUES (?)", ("x" * 200,))


def _plain() -> list[float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, closing(_create(Path(folder) / "w.db")) as connection:
        took: list[float] = []
        end = time.perf_counter() + SECONDS
        while (began := time.perf_counter()) < end:
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection)
            connection.execute("COMMIT")
            took.append(time.perf_counter() - began)
        return took


def _line(title: str, processes: list[list[float]]) -> str:
    took = sorted(one for process in processes for one in process)
    quantiles = [took[min(int(len(took) * q), len(took) - 1)] * 1000 for q in (0.5, 0.9, 0.99, 1.0)]
    each = " ".join(f"{len(process) / SECONDS:.0f}/s (max {max(process) * 1000:.0f})" for process in processes)
    return f"{title:24} {len(took) / SECONDS:10,.0f} " + " ".join(f"{one:8.2f}" for one in quantiles) + f"   {each}"


if __name__ == "__main__":
    main()
