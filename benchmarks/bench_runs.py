"""How fast runs are over HTTP, fully durable, beside the floor and the targets of issue 3.

The real server with default settings (SQLite, synchronous=FULL), driven by one client in this process, which says what share of a core it takes itself.
Its parts run in the order of `PARTS`; `make bench ARGS="runs W1 W3"` runs some.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from benchmarks import _graphs
from benchmarks._client import Client
from benchmarks._floor import floor_steps_per_s
from benchmarks._growth import growth
from benchmarks._large import ten_thousand_nodes, very_large_run
from benchmarks._million import with_a_million
from benchmarks._server import Server, running_server
from benchmarks._table import at_least, at_most, note, percentile, show

CHAIN_NODES = 10
CHAIN_RUNS = 100
ITEMS = 1000
SHORT_RUNS = 300
SHORT_NODES = 3
CLIENTS = 16
SLEEPERS = 100
SLEEP_S = 0.2
POSTS = 500
POSTS_PER_S = 100
WARM_RUNS = 20


@dataclass(frozen=True, slots=True)
class Bench:
    """What the parts work with."""

    server: Server
    client: Client


async def start(bench: Bench) -> None:
    """What a new server costs; it is the second one that starts here, so that the machine has its files in memory."""
    show("ready after (warm)", bench.server.ready_s, "s", at_most(3.0))
    show("memory of all processes after start (PSS)", bench.server.memory_mb(), "MB", at_most(300))


async def w1(bench: Bench) -> None:
    """A chain of 10 nodes, 100 runs one after the other."""
    graph_id = await bench.client.create(_graphs.chain(CHAIN_NODES))
    for way, run in (("Prefer: wait", bench.client.run), ("SSE", bench.client.run_watched)):
        await _repeat(run, graph_id, WARM_RUNS)
        with _shares(bench, CHAIN_RUNS):
            times = await _repeat(run, graph_id, CHAIN_RUNS)
        is_main = run == bench.client.run
        rate = CHAIN_RUNS * CHAIN_NODES / sum(times)
        show(f"W1 chain of {CHAIN_NODES} ({way})", rate, "steps/s", at_least(1400) if is_main else None)
        show("   p50 of a run", statistics.median(times) * 1000, "ms", at_most(7) if is_main else None)
        show("   p99 of a run", percentile(times, 0.99) * 1000, "ms", at_most(15) if is_main else None)


async def w2(bench: Bench) -> None:
    """One run, 1,000 items through 2 nodes; the floor in the same minute, before and after."""
    graph_id = await bench.client.create(_graphs.items())
    await bench.client.run(graph_id, {"count": ITEMS})
    floors = [floor_steps_per_s()]
    rates: list[float] = []
    for _ in range(3):
        with _shares(bench, 1):
            began = time.perf_counter()
            await bench.client.run(graph_id, {"count": ITEMS})
            rates.append((2 * ITEMS + 1) / (time.perf_counter() - began))
    floors.append(floor_steps_per_s())
    floor, rate = statistics.mean(floors), statistics.median(rates)
    show("floor: stdlib sqlite3, group commits of 100, WAL, FULL", floor, "steps/s")
    show(f"W2 {ITEMS:,} items through 2 nodes, median of 3 runs", rate, "steps/s", at_least(3900))
    show("   of the floor", rate / floor, "", at_least(0.35))


async def w3(bench: Bench) -> None:
    """300 runs of 3 nodes, 16 clients; the middle one of three times, because one takes less than a second."""
    graph_id = await bench.client.create(_graphs.chain(SHORT_NODES))
    for way, run in (("Prefer: wait", bench.client.run), ("SSE", bench.client.run_watched)):
        await _together(run, graph_id, 5 * CLIENTS)
        rates: list[float] = []
        times: list[float] = []
        with _shares(bench, 3 * SHORT_RUNS):
            for _ in range(3):
                began = time.perf_counter()
                times += await _together(run, graph_id, SHORT_RUNS)
                rates.append(SHORT_RUNS * SHORT_NODES / (time.perf_counter() - began))
        target = at_least(1500) if run == bench.client.run else None
        rate = statistics.median(rates)
        show(f"W3 {SHORT_RUNS} runs of {SHORT_NODES} nodes, {CLIENTS} clients ({way})", rate, "steps/s", target)
        show("   p50 of a run", statistics.median(times) * 1000, "ms")
        show("   p99 of a run", percentile(times, 0.99) * 1000, "ms")


async def end(bench: Bench) -> None:
    """From the last event of a run, which has yet to be committed then, to the answer of the client that waits."""
    graph_id = await bench.client.create(_graphs.chain(SHORT_NODES))
    await _repeat(bench.client.run, graph_id, WARM_RUNS)
    delays: list[float] = []
    for _ in range(CHAIN_RUNS):
        run_id = await bench.client.run(graph_id, {"text": "x"})
        answered = time.time()
        run = await bench.client.json("GET", f"/executions/{run_id}")
        delays.append(answered - datetime.fromisoformat(run["ended_at"]).timestamp())
    show("from a run's end, before its commit, to the client: p50", statistics.median(delays) * 1000, "ms")
    show("   p99", percentile(delays, 0.99) * 1000, "ms")


async def w4(bench: Bench) -> None:
    """100 nodes that sleep 0.2 s, in threads and on the loop."""
    for where, on_loop in (("in threads", False), ("on the loop", True)):
        graph_id = await bench.client.create(_graphs.sleepers(SLEEPERS, SLEEP_S, on_loop=on_loop))
        await bench.client.run(graph_id, {})
        times: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            await bench.client.run(graph_id, {})
            times.append(time.perf_counter() - began)
        show(f"W4 {SLEEPERS} nodes sleeping {SLEEP_S} s {where}", statistics.median(times), "s", at_most(0.35))


async def post(bench: Bench) -> None:
    """POST execute at 100 requests a second, whether or not former ones are answered."""
    graph_id = await bench.client.create(_graphs.chain(1))
    await _repeat(bench.client.run, graph_id, WARM_RUNS)
    times: list[float] = []

    async def one() -> None:
        began = time.perf_counter()
        await bench.client.start(graph_id, {"text": "x"})
        times.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        with _shares(bench, POSTS):
            begin = time.perf_counter()
            for number in range(POSTS):
                await asyncio.sleep(max(0.0, begin + number / POSTS_PER_S - time.perf_counter()))
                group.create_task(one())
    show(f"POST execute at {POSTS_PER_S} requests/s, p50", statistics.median(times) * 1000, "ms", at_most(5))
    show("   p99", percentile(times, 0.99) * 1000, "ms", at_most(20))


async def large(bench: Bench) -> None:
    """A run of 100,000 items: linear, flat, and fair to others."""
    await very_large_run(bench.server, bench.client)


async def growing(bench: Bench) -> None:
    """What memory 100,000 executions leave behind, several times."""
    await growth(bench.server, bench.client)


async def nodes(bench: Bench) -> None:
    """A run of 10,000 nodes."""
    await ten_thousand_nodes(bench.client)


Part = Callable[[Bench], Awaitable[None]]
SERVED: dict[str, Part] = {
    "start": start,
    "W1": w1,
    "W2": w2,
    "W3": w3,
    "W4": w4,
    "end": end,
    "post": post,
    "large": large,
    "nodes": nodes,
    "growth": growing,
}
MILLION = "million"
PARTS = (*SERVED, MILLION)
"""`million` has servers of its own."""


def main(names: Sequence[str] = ()) -> None:
    """Print the table of the parts named, or of all."""
    parts = [part for name, part in SERVED.items() if not names or name in names]
    if start in parts:
        with running_server():
            pass  # the second start is a warm one
    if parts:
        with running_server() as server:
            asyncio.run(_measure(server, parts))
    if not names or MILLION in names:
        with_a_million()


async def _measure(server: Server, parts: Sequence[Part]) -> None:
    async with Client(server.url) as client:
        for part in parts:
            await part(Bench(server, client))


async def _repeat(run: Callable[[str, dict[str, str]], Awaitable[str]], graph_id: str, count: int) -> list[float]:
    """Run so often, one after the other; seconds of each."""
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await run(graph_id, {"text": "x"})
        times.append(time.perf_counter() - began)
    return times


async def _together(run: Callable[[str, dict[str, str]], Awaitable[str]], graph_id: str, count: int) -> list[float]:
    """Run so often, by as many clients as there are, each one run after the other; seconds of each."""
    waiting = iter(range(count))
    times: list[float] = []

    async def work() -> None:
        for _ in waiting:
            times.extend(await _repeat(run, graph_id, 1))

    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return times


@contextmanager
def _shares(bench: Bench, runs: int) -> Generator[None]:
    """Say who took how much CPU meanwhile."""
    before, client_before, began = bench.server.cpu_s(), time.process_time(), time.perf_counter()
    yield
    wall = time.perf_counter() - began
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in bench.server.cpu_s().items()}
    spent["this client"] = time.process_time() - client_before
    shares = ", ".join(
        f"{name} {seconds / runs * 1000:.2f} ms ({seconds / wall:.0%})" for name, seconds in spent.items()
    )
    note(f"CPU per run, and share of a core: {shares}")
