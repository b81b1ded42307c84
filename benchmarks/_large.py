"""Runs that are much larger than others."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import Any

from benchmarks import _graphs
from benchmarks._client import Client
from benchmarks._server import Server
from benchmarks._table import at_most, note, percentile, show

ITEMS = 100_000
SMALL_RUNS = 50
NODES = 10_000
_SAMPLE_S = 1.0
_REQUESTS = 200
_SETTLE_S = 3.0


async def very_large_run(server: Server, client: Client) -> None:
    """100,000 items through 2 nodes: how the rate and the memory go on, and what small runs and other requests notice of it."""
    small = await client.create(_graphs.chain(3))
    alone = [await _timed(client.run(small, {"text": "x"})) for _ in range(SMALL_RUNS)]
    graph_id = await client.create(_graphs.items())
    await client.run(graph_id, {"count": 1000})
    before_mb = server.memory_mb()
    began = time.perf_counter()
    run_id = await client.start(graph_id, {"count": ITEMS})
    watching = asyncio.create_task(_watch(server, client, run_id, began))
    await asyncio.sleep(_SAMPLE_S)
    beside = [await _timed(client.run(small, {"text": "x"})) for _ in range(SMALL_RUNS)]
    requests = await _requests(client, graph_id, run_id)
    samples, peak_mb = await watching
    took_s = samples[-1][0]
    show(f"W2 with {ITEMS:,} items: all of it", (2 * ITEMS + 1) / took_s, "steps/s")
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(samples) if b[0] > a[0]]
    quarter = max(1, len(rates) // 4)
    first, last = statistics.median(rates[:quarter]), statistics.median(rates[-quarter:])
    show("   committed in its first quarter", first, "events/s")
    show("   committed in its last quarter", last, "events/s")
    show("   first by last: linear in time is 1", first / last, "", at_most(1.25))
    await asyncio.sleep(_SETTLE_S)
    after_mb = server.memory_mb()
    show("   memory at its most, above that before it (PSS)", peak_mb - before_mb, "MB")
    show(
        "   memory afterwards, per 100,000 executions",
        (after_mb - before_mb) / (2 * ITEMS / 100_000),
        "MB",
        at_most(20),
    )
    show(f"{SMALL_RUNS} small runs beside it, one after the other: p50", statistics.median(beside) * 1000, "ms")
    show("   p99", percentile(beside, 0.99) * 1000, "ms")
    note(f"alone: p50 {statistics.median(alone) * 1000:.1f} ms, p99 {percentile(alone, 0.99) * 1000:.1f} ms")
    show("API while it runs: p50 of reads and starts", statistics.median(requests) * 1000, "ms")
    show("   p99", percentile(requests, 0.99) * 1000, "ms", at_most(50))


async def ten_thousand_nodes(client: Client) -> None:
    """A chain of 10,000 nodes, once."""
    stored_s = time.perf_counter()
    graph_id = await client.create(_graphs.chain(NODES))
    show(f"a graph of {NODES:,} nodes: stored in", time.perf_counter() - stored_s, "s")
    for which in ("first", "second"):
        began = time.perf_counter()
        run_id = await client.start(graph_id, {"text": "x"})
        started_s = time.perf_counter() - began
        run = await client.ended(run_id, every_s=0.05)
        took_s = time.perf_counter() - began
        if run["stats"]["completed"] != NODES:
            raise RuntimeError(f"{run['stats']['completed']} of {NODES} executions")
        show(f"   {which} run: POST answered after", started_s * 1000, "ms")
        show(f"   {which} run", NODES / took_s, "steps/s")


async def _watch(server: Server, client: Client, run_id: str, began: float) -> tuple[list[tuple[float, int]], float]:
    """Until the run has ended, each second (seconds since it began, committed events), and the largest memory in MB."""
    samples: list[tuple[float, int]] = []
    peak_mb = 0.0
    while True:
        run: dict[str, Any] = await client.json("GET", f"/executions/{run_id}")
        samples.append((time.perf_counter() - began, run["seq"]))
        if run["ended_at"] is not None:
            if run["stats"]["completed"] != 2 * ITEMS + 1:
                raise RuntimeError(f"{run['status']}, {run['stats']['completed']} of {2 * ITEMS + 1} executions")
            return samples, peak_mb
        peak_mb = max(peak_mb, server.memory_mb())
        await asyncio.sleep(_SAMPLE_S)


async def _requests(client: Client, graph_id: str, run_id: str) -> list[float]:
    """What people ask for: seconds of each request."""
    paths = ("/graphs", f"/graphs/{graph_id}", f"/graphs/{graph_id}/executions", f"/executions/{run_id}")
    times: list[float] = []
    for number in range(_REQUESTS):
        if number % 5:
            times.append(await _timed(client.request("GET", paths[number % 5 - 1])))
        else:
            times.append(await _timed(client.start(graph_id, {"count": 1})))
        await asyncio.sleep(0.01)
    return times


async def _timed(request: Any) -> float:
    began = time.perf_counter()
    await request
    return time.perf_counter() - began
