"""Runs that are much larger than others."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass
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
_MARKS = (0.1, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A large run at one moment."""

    at_s: float
    """Seconds since it began."""
    events: int
    executions: int
    """How many are complete, and committed."""
    memory_mb: dict[str, float]
    """Of each process."""


async def very_large_run(server: Server, client: Client) -> None:
    """100,000 items through 2 nodes: how the rate and the memory go on, and what small runs and other requests notice of it."""
    small = await client.create(_graphs.chain(3))
    alone = [await _timed(client.run(small, {"text": "x"})) for _ in range(SMALL_RUNS)]
    graph_id = await client.create(_graphs.items())
    await client.run(graph_id, {"count": 1000})
    before_mb, before_each = server.memory_mb(), server.memory_of_each()
    began = time.perf_counter()
    run_id = await client.start(graph_id, {"count": ITEMS})
    watching = asyncio.create_task(_watch(server, client, run_id, began))
    await asyncio.sleep(_SAMPLE_S)
    beside = [await _timed(client.run(small, {"text": "x"})) for _ in range(SMALL_RUNS)]
    requests = await _requests(client, graph_id, run_id)
    samples, peak_mb = await watching
    took_s = samples[-1].at_s
    for share in _MARKS:
        _show_until(share, samples, before_each)
    show(f"W2 with {ITEMS:,} items: all of it", (2 * ITEMS + 1) / took_s, "steps/s")
    rates = [(b.events - a.events) / (b.at_s - a.at_s) for a, b in itertools.pairwise(samples)]
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


def _show_until(share: float, samples: list[_Sample], before: dict[str, float]) -> None:
    """How it went until so much of the run was committed."""
    sample = next(sample for sample in samples if sample.events >= share * samples[-1].events)
    show(f"until {share * ITEMS:,.0f} items: rate", sample.executions / sample.at_s, "steps/s")
    grown = {name: size - before[name] for name, size in sample.memory_mb.items() if name.startswith("worker")}
    show("   memory of its worker, above that before (PSS)", max(grown.values()), "MB")


async def _watch(server: Server, client: Client, run_id: str, began: float) -> tuple[list[_Sample], float]:
    """Until the run has ended, how it was each second; and the largest memory of all processes in MB."""
    samples: list[_Sample] = []
    peak_mb = 0.0
    while True:
        run: dict[str, Any] = await client.json("GET", f"/executions/{run_id}")
        at_s, memory = time.perf_counter() - began, server.memory_of_each()
        samples.append(_Sample(at_s, run["seq"], run["stats"]["completed"], memory))
        if run["ended_at"] is not None:
            if run["stats"]["completed"] != 2 * ITEMS + 1:
                raise RuntimeError(f"{run['status']}, {run['stats']['completed']} of {2 * ITEMS + 1} executions")
            return samples, peak_mb
        peak_mb = max(peak_mb, sum(memory.values()))
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
