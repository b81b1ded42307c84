"""How late the runs of schedules were started."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Self

import pydantic

from autogpt_server.data.db import Database
from autogpt_server.utils import json

RECENT = 100
"""Of each schedule so many of its latest occurrences are looked at: what they cost is read for every entry of a list."""


class Lateness(pydantic.BaseModel):
    """From due times to the moments at which their runs were committed, in seconds. `jitter_s` and the time in a queue count."""

    runs: int = pydantic.Field(
        description=f"How many runs these are figures of: those of the latest {RECENT} occurrences."
    )
    p50_s: float = pydantic.Field(description="Half of the runs were at most so late.", examples=[0.008])
    p99_s: float = pydantic.Field(description="99 of 100 runs were at most so late.", examples=[0.021])
    max_s: float = pydantic.Field(examples=[0.034])

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Of at least one run: each figure is the lateness of a run that there was (nearest rank)."""
        ordered = sorted(seconds)

        def rank(part: float) -> float:
            return ordered[math.ceil(part * len(ordered)) - 1]

        return cls(runs=len(ordered), p50_s=rank(0.5), p99_s=rank(0.99), max_s=ordered[-1])


_MANY = 50
"""More schedules than this are read aside: 500 take 0.2 s, which nobody else should wait for."""


async def lateness(db: Database, schedule_ids: Iterable[str]) -> dict[str, Lateness]:
    """By schedule id; none for a schedule of whose latest occurrences no run was started."""
    wanted = list(schedule_ids)
    ids = json.dumps(wanted)

    def read(connection: sqlite3.Connection) -> dict[str, Lateness]:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for schedule_id, due, started in connection.execute(_SELECT_STARTED, (ids, RECENT - 1)):
            late = datetime.fromisoformat(started) - datetime.fromisoformat(due)
            found[schedule_id].append(max(late.total_seconds(), 0.0))  # below 0: the clock was put back meanwhile
        return {schedule_id: Lateness.of(seconds) for schedule_id, seconds in found.items()}

    return await (db.read_aside(read) if len(wanted) > _MANY else db.read(read))


_SELECT_STARTED = (
    'SELECT o."scheduleId", o."dueAt", o."startedAt" '
    'FROM json_each(?) i JOIN "AgentScheduleOccurrence" o ON o."scheduleId" = i."value" AND o."dueAt" >= coalesce('
    '(SELECT "dueAt" FROM "AgentScheduleOccurrence" WHERE "scheduleId" = i."value" ORDER BY "dueAt" DESC '
    "LIMIT 1 OFFSET ?), '') "
    'WHERE o."startedAt" IS NOT NULL'
)
