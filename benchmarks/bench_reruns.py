"""A re-run of a run with 100,000 node executions, and what others notice of it: another writer, and requests to the API.

The run is performed by the real server first: texts that pass through two nodes. Then its last node is run again: half of the executions are kept, the other
half begin anew. Writers of other processes are stood for by one here, which writes a row, durably, again and again until the request is answered.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from autogpt_server.data.engine import ConnectionOptions, Connections
from autogpt_server.utils.settings import Settings
from benchmarks import _graphs
from benchmarks._client import Client
from benchmarks._server import Server, running_server
from benchmarks._table import at_most, note, percentile, show

ITEMS = 50_000
_SERVICE = "AgentServer"
_PAUSE_S = 0.005


def main() -> None:
    """Print the table."""
    with running_server() as server:
        asyncio.run(_measure(server))


async def _measure(server: Server) -> None:
    settings = Settings(database_url=f"file:{server.database}")
    options = ConnectionOptions(server.database, "FULL", turn_path=settings.state_dir / "writers.turn")
    connections = Connections(options)
    await connections.open()
    async with Client(server.url) as client:
        graph_id = await client.create(_graphs.items())
        nodes = (await client.json("GET", f"/graphs/{graph_id}"))["nodes"]
        run_id = await client.start(graph_id, {"count": ITEMS})
        run = await client.ended(run_id)
        show("node executions of the run", run["stats"]["executions"], "")
        alone = await _writing(connections, asyncio.create_task(asyncio.sleep(3)))
        asking = asyncio.create_task(client.json("POST", f"/executions/{run_id}/rerun", {"node_id": nodes[2]["id"]}))
        requests = asyncio.create_task(_reading(client, graph_id, asking))
        memory = asyncio.create_task(_largest_mb(server, asking))
        began = time.perf_counter()
        beside = await _writing(connections, asking)
        show("re-run of its last node: answered after", time.perf_counter() - began, "s")
        show("a writer in another process beside it: p50", statistics.median(beside) * 1000, "ms")
        show("   p99", percentile(beside, 0.99) * 1000, "ms")
        show("   longest wait", max(beside) * 1000, "ms", at_most(100))
        note(f"alone: p50 {statistics.median(alone) * 1000:.1f} ms, p99 {percentile(alone, 0.99) * 1000:.1f} ms")
        times = await requests
        show("reads of the API beside it: p50", statistics.median(times) * 1000, "ms")
        show("   p99", percentile(times, 0.99) * 1000, "ms")
        show("   longest", max(times) * 1000, "ms")
        before_mb, largest_mb = await memory
        show(f"memory of the {_SERVICE} at its most, above that before (PSS)", largest_mb - before_mb, "MB")
        again = (await asking)["id"]
        await client.request("POST", f"/executions/{again}/cancel")
        await _ended(client, again)
        deleting = asyncio.create_task(client.request("DELETE", f"/executions/{run_id}"))
        began = time.perf_counter()
        beside = await _writing(connections, deleting)
        show("DELETE of the run: answered after", time.perf_counter() - began, "s")
        show("   a writer in another process beside it: p99", percentile(beside, 0.99) * 1000, "ms")
        show("   longest wait", max(beside) * 1000, "ms", at_most(100))
        await deleting
    await connections.aclose()


async def _ended(client: Client, run_id: str) -> None:
    while (await client.json("GET", f"/executions/{run_id}"))["ended_at"] is None:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.2)


async def _writing(connections: Connections, until: asyncio.Task[object]) -> list[float]:
    """Seconds that each write took."""
    times: list[float] = []
    while not until.done():
        began = time.perf_counter()
        await connections.write(lambda connection: connection.execute('UPDATE "AgentGraph" SET "name" = "name"'))
        times.append(time.perf_counter() - began)
        await asyncio.sleep(_PAUSE_S)
    return times


async def _reading(client: Client, graph_id: str, until: asyncio.Task[object]) -> list[float]:
    times: list[float] = []
    while not until.done():
        began = time.perf_counter()
        await client.request("GET", f"/graphs/{graph_id}/executions")
        times.append(time.perf_counter() - began)
        await asyncio.sleep(_PAUSE_S)
    return times


async def _largest_mb(server: Server, until: asyncio.Task[object]) -> tuple[float, float]:
    before = largest = server.memory_of(_SERVICE)
    while not until.done():
        await asyncio.sleep(0.5)
        largest = max(largest, server.memory_of(_SERVICE))
    return before, largest
