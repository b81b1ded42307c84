"""How fast runs are over HTTP, fully durable, beside the floor: stdlib sqlite3 writing the same rows per step in group commits."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks._server import Client, Server, running_server

PASS = "cc10ff7b-7753-4ff2-9af6-9399b1a7eddc"  # NoteBlock: pure, text -> output
SPLIT = "f66a3543-28d3-4ab5-8945-9b336371e2ce"  # StepThroughItemsBlock: items -> item

CHAIN_NODES = 10
CHAIN_RUNS = 100
ITEMS = 1000
SHORT_RUNS = 300
SHORT_NODES = 3
CLIENTS = 16
LIVE_RUNS = 50


def main() -> None:
    """Print the table."""
    floor = floor_steps_per_s()
    print(f"floor: stdlib sqlite3, group commits of 100, WAL, FULL      {floor:10,.0f} steps/s")
    with running_server() as server:
        print(f"ready after                                                {server.ready_s:10.2f} s")
        print(f"memory of all processes after start (PSS)                  {server.memory_mb():10.0f} MB")
        asyncio.run(_measure(server, floor))
        print(f"memory of all processes at the end (PSS)                   {server.memory_mb():10.0f} MB")


async def _measure(server: Server, floor: float) -> None:
    client = Client(server)
    chain = await client.create(*_chain(CHAIN_NODES))
    for _ in range(5):
        await client.ended(await client.execute(chain, {"text": "warm"}))
    times: list[float] = []
    for _ in range(CHAIN_RUNS):
        began = time.perf_counter()
        await client.ended(await client.execute(chain, {"text": "x"}))
        times.append(time.perf_counter() - began)
    times.sort()
    rate = CHAIN_RUNS * CHAIN_NODES / sum(times)
    print(
        f"W1 chain of {CHAIN_NODES}, {CHAIN_RUNS} runs one after the other                 {rate:10,.0f} steps/s"
        f"   p50 {statistics.median(times) * 1000:.1f} ms, p99 {times[int(len(times) * 0.99) - 1] * 1000:.1f} ms"
    )

    fan = await client.create(
        [{"id": "split", "block_id": SPLIT}, {"id": "a", "block_id": PASS}, {"id": "b", "block_id": PASS}],
        [_link("split", "item", "a", "text"), _link("a", "output", "b", "text")],
    )
    began = time.perf_counter()
    await client.ended(await client.execute(fan, {"items": [f"item {i}" for i in range(ITEMS)]}))
    rate = (2 * ITEMS + 1) / (time.perf_counter() - began)
    print(
        f"W2 {ITEMS} items through 2 nodes, one run                      {rate:10,.0f} steps/s   {rate / floor:.2f} of the floor"
    )

    short = await client.create(*_chain(SHORT_NODES))
    waiting = iter(range(SHORT_RUNS))

    async def work() -> None:
        for _ in waiting:
            await client.ended(await client.execute(short, {"text": "x"}))

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    rate = SHORT_RUNS * SHORT_NODES / (time.perf_counter() - began)
    print(
        f"W3 {SHORT_RUNS} runs of {SHORT_NODES} nodes, {CLIENTS} clients                            {rate:10,.0f} steps/s"
    )

    delays = [await _live_delay_s(client, short) for _ in range(LIVE_RUNS)]
    print(
        f"live: from the end of a node to its event at the client    {statistics.median(delays) * 1000:10.1f} ms"
        f"        p50; max {max(delays) * 1000:.1f} ms"
    )
    await client.close()


async def _live_delay_s(client: Client, graph_id: str) -> float:
    """How long after a run ended its last event arrived."""
    run_id = await client.execute(graph_id, {"text": "x"})
    last = 0.0
    run: dict[str, Any] = {}
    async for event, data in client.events(run_id):
        last = time.time()
        if event == "run":
            run = json.loads(data)
    if not run:  # it had ended before the stream began
        return 0.0
    return last - datetime.fromisoformat(run["ended_at"]).timestamp()


def _chain(length: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    nodes = [{"id": str(i), "block_id": PASS} for i in range(length)]
    return nodes, [_link(str(i), "output", str(i + 1), "text") for i in range(length - 1)]


def _link(source: str, output: str, sink: str, pin: str) -> dict[str, Any]:
    return {"source_id": source, "source_name": output, "sink_id": sink, "sink_name": pin}


def floor_steps_per_s(steps: int = 20_000, group: int = 100) -> float:
    """Steps per second of stdlib sqlite3: per step an execution, an input, an output, two changes of status."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        database = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(
            "CREATE TABLE execution (id TEXT PRIMARY KEY, run TEXT, node TEXT, status TEXT, added TEXT, ended TEXT)"
        )
        database.execute(
            "CREATE TABLE value (execution TEXT, role TEXT, ordinal INTEGER, pin TEXT, data TEXT, PRIMARY KEY (execution, role, ordinal))"
        )
        began = time.perf_counter()
        for first in range(0, steps, group):
            ids = [f"{i:036d}" for i in range(first, first + group)]
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT INTO execution VALUES (?, 'run', 'node', 'QUEUED', '2026-01-01', NULL)", [(i,) for i in ids]
            )
            database.executemany("INSERT INTO value VALUES (?, 'input', 0, 'text', '\"x\"')", [(i,) for i in ids])
            database.executemany("UPDATE execution SET status = 'RUNNING' WHERE id = ?", [(i,) for i in ids])
            database.executemany("INSERT INTO value VALUES (?, 'output', 0, 'output', '\"x\"')", [(i,) for i in ids])
            database.executemany(
                "UPDATE execution SET status = 'COMPLETED', ended = '2026-01-01' WHERE id = ?", [(i,) for i in ids]
            )
            database.execute("COMMIT")
        elapsed = time.perf_counter() - began
        database.close()
    return steps / elapsed


if __name__ == "__main__":
    main()
