"""A database with a graph to schedule, a clock that is set by hand, and short ways to make schedules and to look at what became of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from autogpt_server.blocks import get_blocks
from autogpt_server.data.db import Database, db_time
from autogpt_server.data.graph import add_version, create_graph
from autogpt_server.data.intake import IntakeRules, accept_graph
from autogpt_server.data.migrate import migrate
from autogpt_server.data.models import Graph, Node
from autogpt_server.data.schedule import create_schedule, list_occurrences
from autogpt_server.data.scheduling import Occurrence, Schedule, ScheduleFields
from autogpt_server.data.validation import GraphLimits
from autogpt_server.execution.ticks import Tick, Ticker
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import NodeSettings
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings

STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"
PRINT_TO_CONSOLE = "f3b1c1b2-4c4f-4f0d-8d2f-4c4f0d8d2f4c"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@dataclass
class HandClock:
    """Shows what it is set to."""

    at: datetime = NOON

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self.at

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return self.at.timestamp()

    def forward(self, **step: float) -> datetime:
        """Put it on (or back) by a timedelta."""
        self.at += timedelta(**step)
        return self.at


def sample_graph(**input_default: Any) -> Graph:
    """One node that passes on its `input`, which has to be given unless it has a default."""
    return Graph(name="sample", nodes=[Node(id="n", block_id=STORE_VALUE, input_default=input_default)])


@dataclass
class Scene:
    """A database with one graph, and a scheduler that looks at it when told to."""

    db: Database
    settings: Settings
    clock: HandClock = field(default_factory=HandClock)
    graph_id: str = ""
    hinted: list[str] = field(default_factory=list[str])

    def ticker(self, db: Database | None = None) -> Ticker:
        """A scheduler as after a restart: it remembers nothing."""
        topologies = Topologies(db or self.db, get_blocks())
        return Ticker(db or self.db, topologies, self.clock, self.settings, on_commit=self.hinted.extend)

    async def tick(self, **step: float) -> Tick:
        """Let time pass, then look, with a new scheduler."""
        self.clock.forward(**step)
        return await self.ticker().tick()

    async def store_graph(self, graph: Graph) -> str:
        """Store a graph; its id."""
        accepted = accept_graph(graph, self._rules(), new_id=new_id)
        return (await create_graph(self.db, accepted, get_blocks())).graph.id

    async def store_version(self, graph: Graph) -> None:
        """Store the next version of the scene's graph, active if it says so."""
        await add_version(self.db, self.graph_id, accept_graph(graph, self._rules(), new_id=new_id), get_blocks())

    async def schedule(self, cron: str | None = "0 * * * *", **fields: Any) -> Schedule:
        """Store a schedule of the scene's graph, made now."""
        fields.setdefault("input_data", {"input": "hello"})
        given = ScheduleFields(cron=cron, **fields)
        schedule_id, now = new_id(), self.clock.now()
        first = Timing.of(schedule_id, given).next_fire(after=now)
        return await create_schedule(self.db, schedule_id, self.graph_id, given, now=now, next_fire_at=first)

    async def occurrences(self, schedule: Schedule) -> list[Occurrence]:
        """What became of its due times, the first first."""
        return (await list_occurrences(self.db, schedule.id, limit=100_000))[::-1]

    async def outcomes(self, schedule: Schedule) -> list[tuple[str, str, str | None]]:
        """The same, short enough for a table."""
        return [(f"{o.due_at:%H:%M:%S}", o.status.value, o.code) for o in await self.occurrences(schedule)]

    async def end_run(self, run_id: str) -> None:
        """Have a run COMPLETED, as its worker would."""
        await self.sql(
            'UPDATE "AgentGraphExecution" SET "status" = \'COMPLETED\', "endedAt" = ? WHERE "id" = ?',
            db_time(self.clock.now()),
            run_id,
        )

    async def end_all_runs(self) -> None:
        """Have all runs COMPLETED."""
        await self.sql(
            'UPDATE "AgentGraphExecution" SET "status" = \'COMPLETED\', "endedAt" = ? WHERE "endedAt" IS NULL',
            db_time(self.clock.now()),
        )

    async def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement."""
        return await self.db.write(lambda connection: connection.execute(statement, parameters).fetchall())

    def _rules(self) -> IntakeRules:
        limits = GraphLimits.of(self.settings)
        return IntakeRules(
            blocks=get_blocks(), limits=limits, max_bytes=self.settings.max_graph_bytes, node_settings=NodeSettings
        )


@contextlib.asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Scene]:
    """A scene in a new database."""
    settings = Settings(database_url=f"file:{folder / 'schedules.db'}", sqlite_synchronous="NORMAL")
    migrate(settings.database_path)
    async with await Database.open(settings) as db:
        found = Scene(db, settings)
        found.graph_id = await found.store_graph(sample_graph())
        yield found
