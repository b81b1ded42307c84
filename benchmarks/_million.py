"""A database with 1,000,000 node executions beside one with next to nothing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks._client import Client
from benchmarks._rows import RUN_EXECUTIONS, fill, run_id_of
from benchmarks._server import running_server
from benchmarks._table import at_most, note, show

RUNS = 1_000_000 // RUN_EXECUTIONS
FEW_RUNS = 60
"""More than a page of a list holds: both databases answer with as much."""
GRAPH = "many"
_TIMES = 40


def with_a_million() -> None:
    """1,000,000 node executions in the database beside 3,000: lists, a run's page, new runs."""
    few, _ = _measured(FEW_RUNS)
    many, ready_s = _measured(RUNS)
    show(f"{RUNS * RUN_EXECUTIONS:,} node executions: ready after", ready_s, "s")
    for what, seconds in many.items():
        show(f"   {what}, beside {FEW_RUNS * RUN_EXECUTIONS:,}", seconds / few[what], "times", at_most(2))
        note(f"{few[what] * 1000:.2f} -> {seconds * 1000:.2f} ms")


def _measured(runs: int) -> tuple[dict[str, float], float]:
    """(what -> median seconds, seconds until ready)."""
    began = time.perf_counter()

    def prepare(path: Path) -> None:
        fill(path, GRAPH, runs)
        if runs > FEW_RUNS:
            note(f"database of {path.stat().st_size / 2**20:,.0f} MB made in {time.perf_counter() - began:.0f} s")

    with running_server(prepare) as server:
        return asyncio.run(_ask(server.url, runs)), server.ready_s


async def _ask(url: str, runs: int) -> dict[str, float]:
    middle = run_id_of(runs // 2)
    async with Client(url) as client:
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "list of graphs": lambda: client.request("GET", "/graphs"),
            "list of runs": lambda: client.request("GET", f"/graphs/{GRAPH}/executions"),
            "list of runs that failed": lambda: client.request("GET", f"/graphs/{GRAPH}/executions?status=FAILED"),
            "a run": lambda: client.request("GET", f"/executions/{middle}"),
            "a run's page": lambda: client.request("GET", f"/graphs/{GRAPH}/executions/{middle}"),
            "metrics": lambda: client.request("GET", "/metrics"),
            "a new run, started": lambda: client.start(GRAPH, {"text": "x"}),
            "a new run, to its end": lambda: client.run(GRAPH, {"text": "x"}),
        }
        return {what: await _median_s(request) for what, request in asked.items()}


async def _median_s(request: Callable[[], Awaitable[object]]) -> float:
    times: list[float] = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        await request()
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return statistics.median(times)
