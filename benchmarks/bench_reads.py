"""What reading costs: each kind of request over HTTP on the real server, and what the AgentServer holds after very many of each.

`latency`: one request after the other, medians. `held`: memory of the AgentServer before and after 10,000 requests of each kind (fewer of those that take
long), when what was asked for before has been given back.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import _graphs
from benchmarks._client import Client, RequestFailed
from benchmarks._server import Server, running_server
from benchmarks._table import at_most, note, percentile, show

NODES = 10
RUNS = 50
SCHEDULES = 10
TIMES = 300
MANY = 10_000
WARM = 500
CLIENTS = 8
_SERVICE = "AgentServer"
_SETTLE_S = 1.5

Request = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Stored:
    """What there is to be read."""

    graph_id: str
    run_id: str
    schedule_id: str


async def _store_runs(client: Client) -> tuple[str, str]:
    """(graph id, run id)."""
    graph_id = await client.create(_graphs.chain(NODES))
    run_id = ""
    for _ in range(RUNS + 5):
        run_id = await client.run(graph_id, {"text": "x"})
    return graph_id, run_id


async def _store_schedules(client: Client, graph_id: str) -> str:
    """The id of one of them."""
    schedule: dict[str, Any] = {}
    for _ in range(SCHEDULES):
        body = {"cron": "0 0 1 1 *", "input_data": {"text": "x"}, "is_enabled": False}
        schedule = await client.json("POST", f"/graphs/{graph_id}/schedules", body)
    return str(schedule["id"])


async def _store(client: Client) -> Stored:
    graph_id, run_id = await _store_runs(client)
    return Stored(graph_id, run_id, await _store_schedules(client, graph_id))


def _reads(client: Client, stored: Stored) -> dict[str, Request]:
    graph, run = f"/graphs/{stored.graph_id}", f"/executions/{stored.run_id}"
    paths = {
        "a run": run,
        f"the {NODES} node executions of a run": f"{graph}/executions/{stored.run_id}",
        f"list of {RUNS} runs": f"{graph}/executions?limit={RUNS}",
        f"list of {RUNS} runs, by status": f"{graph}/executions?limit={RUNS}&status=COMPLETED&status=FAILED",
        "why a run does not get on": f"{run}/explain",
        "list of graphs": "/graphs",
        "a graph": graph,
        "versions of a graph": f"{graph}/versions",
        "a schedule": f"/graphs/schedules/{stored.schedule_id}",
        f"list of {SCHEDULES} schedules": f"{graph}/schedules",
        "its occurrences": f"/graphs/schedules/{stored.schedule_id}/occurrences",
        "health": "/health",
        "metrics": "/metrics",
    }
    return {what: _getting(client, path) for what, path in paths.items()}


def _getting(client: Client, path: str) -> Request:
    return lambda: client.request("GET", path)


def _others(client: Client, stored: Stored) -> dict[str, tuple[Request, int]]:
    """Requests that are not plain reads -> how many are made."""

    async def refused() -> None:
        try:
            await client.request("GET", "/executions/none")
        except RequestFailed:
            return

    async def different() -> None:
        await client.run(await client.create(graph), {"text": "x"})

    async def again() -> None:
        run = await client.json("GET", f"/graphs/{stored.graph_id}")
        await client.request("POST", f"/executions/{stored.run_id}/rerun", {"node_id": run["nodes"][-1]["id"]})

    graph = _graphs.chain(NODES)
    return {
        "a run that there is not": (refused, MANY),
        "POST execute": (lambda: client.start(stored.graph_id, {"text": "x"}), MANY),
        "POST execute, Prefer: wait": (lambda: client.run(stored.graph_id, {"text": "x"}), MANY // 4),
        "stream of a run": (lambda: client.request("GET", f"/executions/{stored.run_id}/events"), MANY),
        "POST graphs": (lambda: client.create(graph), MANY // 4),
        "run of a graph that was never run": (different, MANY // 4),
        "POST rerun": (again, MANY // 4),
    }


async def latency(server: Server, client: Client) -> None:
    """Each kind of read, one request after the other."""
    graph_id, run_id = await _store_runs(client)
    await client.request("GET", f"/graphs/{graph_id}/executions")
    show(f"memory of the {_SERVICE} before it is asked for schedules (PSS)", await _settled_mb(server), "MB")
    stored = Stored(graph_id, run_id, await _store_schedules(client, graph_id))
    show("   once it was", await _settled_mb(server), "MB")
    for what, request in _reads(client, stored).items():
        for _ in range(WARM // 10):
            await request()
        cpu_s = server.cpu_s()[_SERVICE]
        times: list[float] = []
        for _ in range(TIMES):
            began = time.perf_counter()
            await request()
            times.append(time.perf_counter() - began)
        cpu_s = server.cpu_s()[_SERVICE] - cpu_s
        show(f"{what}: p50", statistics.median(times) * 1000, "ms")
        note(f"p99 {percentile(times, 0.99) * 1000:.2f} ms, CPU of the {_SERVICE} {cpu_s / TIMES * 1000:.2f} ms")
    show(f"memory of the {_SERVICE} afterwards (PSS)", server.memory_of(_SERVICE), "MB")


async def held(server: Server, client: Client) -> None:
    """What the AgentServer holds after very many requests of each kind."""
    stored = await _store(client)
    asked = {what: (request, MANY) for what, request in _reads(client, stored).items()} | _others(client, stored)
    for request, _ in asked.values():
        await _repeat(request, 50)
    begin_mb = await _settled_mb(server)
    show(f"memory of the {_SERVICE} before (PSS)", begin_mb, "MB")
    for what, (request, count) in asked.items():
        await _repeat(request, min(WARM, count))
        before_mb = await _settled_mb(server)
        began = time.perf_counter()
        await _repeat(request, count)
        took_s = time.perf_counter() - began
        show(f"{what}: {count:,} more", await _settled_mb(server) - before_mb, "MB", at_most(1))
        note(f"{count / took_s:,.0f}/s with {CLIENTS} clients")
    show(f"memory of the {_SERVICE} afterwards (PSS)", await _settled_mb(server), "MB")


async def _repeat(request: Request, count: int) -> None:
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await request()

    await asyncio.gather(*(work() for _ in range(CLIENTS)))


async def _settled_mb(server: Server) -> float:
    await asyncio.sleep(_SETTLE_S)
    return server.memory_of(_SERVICE)


PARTS = {"latency": latency, "held": held}


def main(names: Sequence[str] = ()) -> None:
    """Print the table of the parts named, or of all; each part has a server of its own."""
    for name, part in PARTS.items():
        if not names or name in names:
            with running_server() as server:
                asyncio.run(_measure(part, server))


async def _measure(part: Callable[[Server, Client], Awaitable[None]], server: Server) -> None:
    async with Client(server.url) as client:
        await part(server, client)
