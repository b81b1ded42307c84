"""A simulated year: 200 schedules under all policies, with deaths, rivals, failing COMMITs, jumping clocks and people who change things just then.

Every look is checked against rules that were written down a second time (`support.year.calendar`, `support.year.rules`): each due time gets one run, or
one row with the reason why not. The mutants show that the checks can fail. `pytest -m stress test/execution/test_year.py` takes more seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from autogpt_server.data.db import Database, db_time
from autogpt_server.data.execution import insert_run
from autogpt_server.data.firing import Firing, FiringResult, commit_firings, translated
from autogpt_server.data.scheduling import (
    CatchUp,
    NewOccurrence,
    OccurrenceStatus,
    Overlap,
    Schedule,
    ScheduleChange,
)
from autogpt_server.execution import ticks
from autogpt_server.execution.cron import CronExpression
from autogpt_server.execution.editing import ScheduleEdit
from autogpt_server.execution.occurrences import Accounting, Situation, account
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.zones import Period
from support.year import year as world
from support.year.calendar import Wish, due_times
from support.year.year import Wrong, Year

DECEMBER_30_IS_LEFT_OUT = datetime(2011, 1, 1, tzinfo=UTC)
"""In Samoa; and Russia stays at summer time for good."""


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
async def test_in_a_year_nothing_is_lost_or_doubled() -> None:
    year = Year(1, DECEMBER_30_IS_LEFT_OUT)
    await year.live()
    for happened in (
        *("STARTED", "overlap", "missed", "released", "invalid_input"),
        *("death", "jump", "sleep", "trouble", "pause", "retime", "input", "policy", "graph"),
    ):
        assert year.seen[happened] > 0, happened
    assert year.disk.troubles > 0


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_in_other_years_neither(seed: int) -> None:
    await Year(seed, datetime(2009 + 2 * seed, 1, 1, tzinfo=UTC)).live()


@pytest.mark.parametrize(
    ("zone", "cron", "first", "expected"),
    [
        ("America/New_York", Wish((30,), (2,)), "2026-03-08T00:00", ["2026-03-08T07:00"]),
        ("America/New_York", Wish((30,), (1,)), "2026-11-01T00:00", ["2026-11-01T05:30"]),
        ("America/New_York", Wish((30,), None), "2026-11-01T05:00", ["2026-11-01T05:30", "2026-11-01T06:30"]),
        ("Pacific/Apia", Wish((0,), (9,)), "2011-12-29T20:00", ["2011-12-30T10:00", "2011-12-30T19:00"]),
        ("Australia/Lord_Howe", Wish((15,), (2,)), "2026-10-03T12:00", ["2026-10-03T15:30"]),
    ],
)
def test_the_oracle_knows_the_nights_that_people_get_wrong(
    zone: str, cron: Wish, first: str, expected: list[str]
) -> None:
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC)
    found = due_times(cron, zone, begin, begin + timedelta(hours=24))
    assert [f"{due:%Y-%m-%dT%H:%M}" for due in found][: len(expected)] == expected


# -- Broken schedulers --------------------------------------------------------------------------------------------------------------


async def runs_apart(db: Database, firings: Sequence[Firing], *, now: datetime) -> list[FiringResult]:
    """Runs in one transaction, occurrences in another."""
    runs = [(firing, due, run) for firing in firings for due, run in firing.runs]
    await db.write(lambda connection: [insert_run(connection, run) for _, _, run in runs])
    rows = [
        replace(
            firing,
            runs=(),
            occurrences=[
                *firing.occurrences,
                *(NewOccurrence(due, OccurrenceStatus.STARTED) for due, _ in firing.runs),
            ],
        )
        for firing in firings
    ]
    results = await commit_firings(db, rows, now=now)
    link = 'UPDATE "AgentScheduleOccurrence" SET "runId" = ? WHERE "scheduleId" = ? AND "dueAt" = ?'
    pairs = [(run.id, firing.schedule_id, db_time(due)) for firing, due, run in runs]
    await db.write(lambda connection: connection.executemany(link, pairs))
    return results


async def key_alone(db: Database, firings: Sequence[Firing], *, now: datetime) -> list[FiringResult]:
    """Whoever was faster, the step is taken again, as by a scheduler that trusts in a lock."""
    marks = [(firing.revision, db_time(firing.accounted_from), firing.schedule_id) for firing in firings]
    sql = 'UPDATE "AgentGraphExecutionSchedule" SET "revision" = ?, "accountedUntil" = ? WHERE "id" = ?'
    with translated():
        await db.write(lambda connection: connection.executemany(sql, marks))
    return await commit_firings(db, firings, now=now)


def clock_alone(self: CronExpression, period: Period) -> datetime:
    """What a gap leaves out is left out."""
    del self
    return period.local_start


def with_situation(
    timing: Timing, situation: Situation, *, after: datetime, now: datetime, **changes: object
) -> Accounting:
    """Decide as if the schedule had another policy."""
    return account(timing, replace(situation, **changes), after=after, now=now)


def from_a_minute_ago(timing: Timing, situation: Situation, *, after: datetime, now: datetime) -> Accounting:
    """Forget what was due before, as a scheduler does that remembers only the time."""
    return account(timing, situation, after=max(after, now - timedelta(seconds=60)), now=now)


class Unpaused(ScheduleEdit):
    """What was due during a pause is due when it is over."""

    def __call__(self, current: Schedule) -> ScheduleChange:
        change = super().__call__(current)
        if current.is_enabled or not self.fields.is_enabled:
            return change
        since = current.accounted_until
        return replace(change, accounted_until=since, next_fire_at=self.timing.next_fire(after=since))


MUTANTS: dict[str, tuple[object, str, object]] = {
    "fires twice after a crash": (ticks, "commit_firings", runs_apart),
    "lets the slower of two win": (ticks, "commit_firings", key_alone),
    "loses what the clocks leave out": (CronExpression, "_first_local", clock_alone),
    "ignores overlap": (ticks, "account", partial(with_situation, overlap=Overlap.ALLOW)),
    "catches up on everything": (ticks, "account", partial(with_situation, catch_up=CatchUp.ALL)),
    "forgets outages": (ticks, "account", from_a_minute_ago),
    "forgets pauses": (world, "ScheduleEdit", Unpaused),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_broken_scheduler_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, attribute, broken = MUTANTS[name]
    monkeypatch.setattr(target, attribute, broken)
    with pytest.raises(Wrong):
        await months(range(4))


async def test_a_sound_one_is_not() -> None:
    """Else those above might be found out for nothing."""
    await months(range(2))


async def months(seeds: Iterable[int]) -> None:
    """Those around the changes of clocks in the north."""
    for seed in seeds:
        await Year(seed, datetime(2026, 3, 1, tzinfo=UTC), days=40, lines=90).live()
