"""The scheduler's looks at many schedules, on a real database with default settings, in this process; the clock is set by hand.

Idle: 100,000 enabled schedules, none of them due. Due: 10,000 that are due in the same second, until all their runs are committed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from autogpt_server.blocks import get_blocks
from autogpt_server.data.db import Database
from autogpt_server.data.graph import create_graph
from autogpt_server.data.intake import IntakeRules, accept_graph
from autogpt_server.data.migrate import migrate
from autogpt_server.data.models import Graph, Node
from autogpt_server.data.schedule import create_schedule
from autogpt_server.data.scheduling import ScheduleFields
from autogpt_server.data.validation import GraphLimits
from autogpt_server.execution.cron import parse
from autogpt_server.execution.ticks import Ticker
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import NodeSettings
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings

IDLE = 100_000
DUE = 10_000
LOOKS = 50
BEGIN = datetime(2026, 11, 22, 12, tzinfo=UTC)
_STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"


class _Clock:
    """Shows what it is set to."""

    at = BEGIN

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return self.at.timestamp()


async def _store_graph(db: Database, settings: Settings) -> str:
    blocks = get_blocks()
    limits = GraphLimits.of(settings)
    rules = IntakeRules(blocks=blocks, limits=limits, max_bytes=settings.max_graph_bytes, node_settings=NodeSettings)
    graph = Graph(name="one node", nodes=[Node(id="n", block_id=_STORE_VALUE, input_default={"input": 1})])
    return (await create_graph(db, accept_graph(graph, rules, new_id=new_id), blocks)).graph.id


async def _store_schedules(db: Database, graph_id: str, cron: str, count: int) -> None:
    """The first as the API does it, the others as copies of its row."""
    fields = ScheduleFields(cron=cron, timezone="Europe/Berlin")
    first = Timing.of("", fields).next_fire(after=BEGIN)
    schedule = await create_schedule(db, new_id(), graph_id, fields, now=BEGIN, next_fire_at=first)

    def copy(connection: sqlite3.Connection) -> None:
        cursor = connection.execute('SELECT * FROM "AgentGraphExecutionSchedule" WHERE "id" = ?', (schedule.id,))
        place = [column[0] for column in cursor.description].index("id")
        row = list(cursor.fetchone())
        marks = ", ".join("?" * len(row))
        connection.executemany(
            f'INSERT INTO "AgentGraphExecutionSchedule" VALUES ({marks})',
            ([*row[:place], new_id(), *row[place + 1 :]] for _ in range(count - 1)),
        )

    await db.write(copy)


async def _measure(settings: Settings) -> None:
    clock = _Clock()
    async with await Database.open(settings) as db:
        graph_id = await _store_graph(db, settings)
        ticker = Ticker(db, Topologies(db, get_blocks()), clock, settings)

        await _store_schedules(db, graph_id, "0 9 1 1 *", IDLE)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(LOOKS):
            await ticker.tick()
        look_ms = (time.perf_counter() - start) / LOOKS * 1000
        share = (time.process_time() - cpu) / LOOKS
        print(f"{IDLE:>7,} idle     {look_ms:8.2f} ms a look, {share:.2%} of a core at one look a second")

        await _store_schedules(db, graph_id, "0 9 * * *", DUE)
        clock.at = BEGIN + timedelta(hours=20)
        start, cpu = time.perf_counter(), time.process_time()
        tick = await ticker.tick()
        elapsed, busy = time.perf_counter() - start, time.process_time() - cpu
        rate = len(tick.run_ids) / elapsed
        print(
            f"{len(tick.run_ids):>7,} due      {elapsed:8.2f} s until all runs are committed, {rate:,.0f} a second, {busy:.2f} s of CPU"
        )


def _measure_arithmetic() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for text in ("* * * * *", "0 9 * * 1-5", "30 2 * * *", "0 0 29 2 *"):
        expression = parse(text)
        expression.next_due(zone, after=BEGIN)
        start = time.perf_counter()
        for n in range(500):
            expression.next_due(zone, after=BEGIN + timedelta(minutes=n))
        print(f"  next due time of {text:<12} {(time.perf_counter() - start) / 500 * 1e6:8.0f} us")


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=f"file:{Path(folder) / 'bench.db'}")
        migrate(settings.database_path)
        asyncio.run(_measure(settings))
    _measure_arithmetic()
