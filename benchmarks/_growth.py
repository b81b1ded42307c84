"""What memory is left behind by executions: what a process needs once is told apart from what grows for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks import _graphs
from benchmarks._client import Client
from benchmarks._server import Server
from benchmarks._table import at_most, note, show

EXECUTIONS = 100_000
ROUNDS = 3
_CHAIN = 10
_CLIENTS = 16
_SETTLE_S = 3.0


async def growth(server: Server, client: Client) -> None:
    """Rounds of 100,000 executions, as one large run and as 10,000 small ones; after each, by how much the memory of all processes has grown."""
    items = await client.create(_graphs.items())
    chain = await client.create(_graphs.chain(_CHAIN))
    await client.run(items, {"count": 1000})
    await _small_runs(client, chain, 20 * _CLIENTS)

    async def as_one() -> None:
        await client.ended(await client.start(items, {"count": EXECUTIONS // 2}))

    async def as_many() -> None:
        await _small_runs(client, chain, EXECUTIONS // _CHAIN)

    await _rounds(server, "as one run", as_one)
    await _rounds(server, f"as runs of {_CHAIN}", as_many)


async def _rounds(server: Server, way: str, perform: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(_SETTLE_S)
    before = server.memory_of_each()
    for number in range(1, ROUNDS + 1):
        await perform()
        await asyncio.sleep(_SETTLE_S)
        after = server.memory_of_each()
        grown = sum(after.values()) - sum(before.values())
        show(f"{EXECUTIONS:,} executions {way}, round {number}: growth (PSS)", grown, "MB", at_most(20))
        note(", ".join(f"{name} {after[name] - before.get(name, 0.0):+.1f}" for name in after))
        before = after


async def _small_runs(client: Client, graph_id: str, count: int) -> None:
    waiting = iter(range(count))

    async def work() -> None:
        for _ in waiting:
            await client.run(graph_id, {"text": "x"})

    await asyncio.gather(*(work() for _ in range(_CLIENTS)))
