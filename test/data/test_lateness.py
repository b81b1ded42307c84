"""How late runs were: the figures, and which occurrences they are of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autogpt_server.data.db import Database, db_time
from autogpt_server.data.lateness import RECENT, Lateness, lateness
from autogpt_server.data.migrate import migrate
from autogpt_server.data.schedule import create_schedule
from autogpt_server.data.scheduling import ScheduleFields
from autogpt_server.utils.settings import Settings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    settings = Settings(database_url=f"file:{tmp_path / 'test.db'}", sqlite_synchronous="NORMAL")
    migrate(settings.database_path)
    async with await Database.open(settings) as opened:
        for schedule_id in ("a", "b"):
            await create_schedule(
                opened, schedule_id, "g", ScheduleFields(cron="* * * * *"), now=NOON, next_fire_at=None
            )
        yield opened


async def store(db: Database, schedule_id: str, late_s: list[float | None]) -> None:
    """An occurrence each minute; None: one without a run."""
    due = [NOON + timedelta(minutes=minute) for minute in range(len(late_s))]
    rows = [
        (schedule_id, db_time(at), "SKIPPED" if s is None else "STARTED", s and db_time(at + timedelta(seconds=s)))
        for at, s in zip(due, late_s, strict=True)
    ]
    await db.write(
        lambda connection: connection.executemany(
            'INSERT INTO "AgentScheduleOccurrence" ("scheduleId", "dueAt", "status", "startedAt") VALUES (?, ?, ?, ?)',
            rows,
        )
    )


@pytest.mark.parametrize(
    ("seconds", "p50_s", "p99_s", "max_s"),
    [
        ([3.0], 3.0, 3.0, 3.0),
        ([1.0, 9.0], 1.0, 9.0, 9.0),
        ([5.0, 1.0, 3.0], 3.0, 5.0, 5.0),
        ([float(n) for n in range(100, 0, -1)], 50.0, 99.0, 100.0),
    ],
)
def test_figures(seconds: list[float], p50_s: float, p99_s: float, max_s: float) -> None:
    assert Lateness.of(seconds) == Lateness(runs=len(seconds), p50_s=p50_s, p99_s=p99_s, max_s=max_s)


async def test_each_schedule_has_its_own_and_what_did_not_run_does_not_count(db: Database) -> None:
    await store(db, "a", [0.25, None, 0.5])
    assert await lateness(db, ["a", "b", "none"]) == {"a": Lateness(runs=2, p50_s=0.25, p99_s=0.5, max_s=0.5)}


async def test_of_many_schedules(db: Database) -> None:
    await store(db, "a", [2.0])
    assert await lateness(db, ["a", *map(str, range(100))]) == {"a": Lateness(runs=1, p50_s=2, p99_s=2, max_s=2)}


async def test_only_the_latest_occurrences_count(db: Database) -> None:
    await store(db, "a", [500.0, 400.0, *[1.0] * (RECENT - 1), 2.0])
    found = (await lateness(db, ["a"]))["a"]
    assert (found.runs, found.p99_s, found.max_s) == (RECENT, 1.0, 2.0)


async def test_a_clock_that_was_put_back_makes_nothing_early(db: Database) -> None:
    await store(db, "a", [-3600.0])
    assert (await lateness(db, ["a"]))["a"].max_s == 0
