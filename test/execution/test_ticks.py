"""The scheduler's looks at a real database, with a clock set by hand: each due time has one run, or one row with the reason why not."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from autogpt_server.data.db import Database, DatabaseUnavailable
from autogpt_server.data.firing import (
    Firing,
    FiringResult,
    Release,
    SchedulesUnavailable,
    commit_firings,
    commit_releases,
)
from autogpt_server.data.graph import archive_graph, set_active_version
from autogpt_server.data.models import Graph, Node
from autogpt_server.data.runs import get_run
from autogpt_server.data.schedule import get_schedule
from autogpt_server.data.scheduling import CatchUp, OccurrenceStatus, Overlap, Schedule
from autogpt_server.data.status import RunStatus
from autogpt_server.execution import ticks, topologies
from autogpt_server.execution.cron import parse
from autogpt_server.execution.editing import left_behind
from autogpt_server.execution.occurrences import GRAPH_UNAVAILABLE
from autogpt_server.execution.ticks import POSTPONED_BY
from support.scheduling import NOON, PRINT_TO_CONSOLE, Scene, sample_graph, scene

STARTED, SKIPPED, WAITING = "STARTED", "SKIPPED", "WAITING"


@pytest_asyncio.fixture
async def at_noon(tmp_path: Path) -> AsyncGenerator[Scene]:
    async with scene(tmp_path) as found:
        yield found


async def test_a_due_time_becomes_a_committed_run(at_noon: Scene) -> None:
    schedule = await at_noon.schedule("0 * * * *", input_data={"input": {"a": [1]}})
    assert (await at_noon.tick(minutes=59)).run_ids == []
    tick = await at_noon.tick(minutes=1)
    (run_id,) = tick.run_ids
    assert tick.next_fire_at == NOON + timedelta(hours=2)
    run = await get_run(at_noon.db, run_id)
    assert (run.status, run.schedule_id, run.graph_version, run.input) == (
        RunStatus.QUEUED,
        schedule.id,
        1,
        {"input": {"a": [1]}},
    )
    (occurrence,) = await at_noon.occurrences(schedule)
    assert (occurrence.due_at, occurrence.status, occurrence.run_id) == (
        NOON + timedelta(hours=1),
        OccurrenceStatus.STARTED,
        run_id,
    )
    assert occurrence.started_at == at_noon.clock.now()
    assert at_noon.hinted == [run_id]
    assert await at_noon.sql('SELECT count(*) FROM "AgentNodeExecution" WHERE "status" = \'QUEUED\'') == [(1,)]


async def test_looking_again_changes_nothing(at_noon: Scene) -> None:
    schedule = await at_noon.schedule()
    await at_noon.tick(hours=1)
    before = (await get_schedule(at_noon.db, schedule.id), await at_noon.occurrences(schedule))
    for _ in range(3):
        assert (await at_noon.tick(seconds=1)).run_ids == []
    assert (await get_schedule(at_noon.db, schedule.id), await at_noon.occurrences(schedule)) == before


async def test_disabled_and_finished_schedules_are_left_alone(at_noon: Scene) -> None:
    paused = await at_noon.schedule(is_enabled=False)
    ended = await at_noon.schedule(ends_at=NOON + timedelta(minutes=30))
    tick = await at_noon.tick(hours=2)
    assert (tick.run_ids, tick.next_fire_at) == ([], None)
    assert await at_noon.occurrences(paused) == await at_noon.occurrences(ended) == []


async def test_once_at_a_time(at_noon: Scene) -> None:
    schedule = await at_noon.schedule(None, at=NOON + timedelta(minutes=5))
    assert (await at_noon.tick(minutes=4)).run_ids == []
    assert len((await at_noon.tick(minutes=2)).run_ids) == 1
    assert (await at_noon.tick(days=400)).next_fire_at is None
    assert await at_noon.outcomes(schedule) == [("12:05:00", STARTED, None)]


async def test_many_due_together_are_committed_in_due_order(at_noon: Scene) -> None:
    later = [await at_noon.schedule("2 12 * * *") for _ in range(3)]
    sooner = [await at_noon.schedule("1 12 * * *") for _ in range(300)]
    tick = await at_noon.tick(minutes=2)
    assert len(tick.run_ids) == 303
    order = [
        run_schedule
        for (run_schedule,) in await at_noon.sql('SELECT "scheduleId" FROM "AgentGraphExecution" ORDER BY "id"')
    ]
    assert order == [schedule.id for schedule in (*sooner, *later)]


# -- Outages, clocks, rivals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (CatchUp.LATEST, [SKIPPED, SKIPPED, STARTED]),
        (CatchUp.ALL, [STARTED, STARTED, STARTED]),
        (CatchUp.NONE, [SKIPPED, SKIPPED, SKIPPED]),
    ],
)
async def test_after_a_night_without_a_scheduler(at_noon: Scene, policy: CatchUp, expected: list[str]) -> None:
    schedule = await at_noon.schedule(catch_up=policy, overlap=Overlap.ALLOW)
    await at_noon.tick(hours=3, minutes=30)
    assert [status for _, status, _ in await at_noon.outcomes(schedule)] == expected
    assert (await get_schedule(at_noon.db, schedule.id)).next_fire_at == NOON + timedelta(hours=4)


async def test_a_clock_that_steps_fires_nothing_twice_and_loses_nothing(at_noon: Scene) -> None:
    schedule = await at_noon.schedule("*/10 * * * *", overlap=Overlap.ALLOW, catch_up=CatchUp.ALL)
    for minutes in (10, 10, -60, 10, 10, 60, -60, 5, 60, 10):
        await at_noon.tick(minutes=minutes)
    assert [due for due, _, _ in await at_noon.outcomes(schedule)] == [
        "12:10:00",
        "12:20:00",
        "12:30:00",
        "12:40:00",
        "12:50:00",
    ]
    await at_noon.tick(hours=1)
    dues = [occurrence.due_at for occurrence in await at_noon.occurrences(schedule)]
    assert dues == [NOON + timedelta(minutes=10 * n) for n in range(1, len(dues) + 1)]
    assert dues[-1] <= at_noon.clock.now() < dues[-1] + timedelta(minutes=10)


async def test_a_day_asleep_leaves_a_row_for_each_due_time(at_noon: Scene) -> None:
    schedule = await at_noon.schedule("* * * * *")
    tick = await at_noon.tick(days=1)
    outcomes = await at_noon.outcomes(schedule)
    assert len(tick.run_ids) == 1
    assert [status for _, status, _ in outcomes] == [SKIPPED] * 1439 + [STARTED]


async def test_two_schedulers_by_mistake(at_noon: Scene) -> None:
    schedules = [await at_noon.schedule("* * * * * *", overlap=Overlap.ALLOW, catch_up=CatchUp.ALL) for _ in range(5)]
    async with await Database.open(at_noon.settings) as other:
        rivals = [at_noon.ticker(), at_noon.ticker(other), at_noon.ticker(other)]
        for _ in range(20):
            at_noon.clock.forward(seconds=3)
            await asyncio.gather(*(rival.tick() for rival in rivals))
    for schedule in schedules:
        dues = [occurrence.due_at for occurrence in await at_noon.occurrences(schedule)]
        assert dues == [NOON + timedelta(seconds=n) for n in range(1, 61)]
    assert await at_noon.sql('SELECT count(*), count(DISTINCT "id") FROM "AgentGraphExecution"') == [(300, 300)]
    assert len(at_noon.hinted) == len(set(at_noon.hinted)) == 300


async def test_the_key_holds_where_all_else_fails(at_noon: Scene) -> None:
    schedule = await at_noon.schedule()
    (run_id,) = (await at_noon.tick(hours=1)).run_ids
    # As if another scheduler, restored from a backup, had not noticed that this was done already.
    before = (
        schedule.accounted_until.isoformat(timespec="milliseconds"),
        (NOON + timedelta(hours=1)).isoformat(timespec="milliseconds"),
    )
    await at_noon.sql('UPDATE "AgentGraphExecutionSchedule" SET "accountedUntil" = ?, "nextDueAt" = ?', *before)
    assert (await at_noon.tick(seconds=1)).run_ids == []
    assert [occurrence.run_id for occurrence in await at_noon.occurrences(schedule)] == [run_id]
    assert await at_noon.sql('SELECT count(*) FROM "AgentGraphExecution"') == [(1,)]


async def test_a_scheduler_stopped_at_any_point_is_carried_on_by_the_next(at_noon: Scene) -> None:
    schedules = [await at_noon.schedule("*/2 * * * * *", overlap=Overlap.ALLOW, catch_up=CatchUp.ALL) for _ in range(3)]
    chance = random.Random(7)
    for _ in range(40):
        at_noon.clock.forward(seconds=2)
        looking = asyncio.create_task(at_noon.ticker().tick())
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    await at_noon.tick()
    for schedule in schedules:
        found = await at_noon.occurrences(schedule)
        assert [occurrence.due_at for occurrence in found] == [NOON + timedelta(seconds=2 * n) for n in range(1, 41)]
        assert all(occurrence.run_id for occurrence in found)


# -- Overlap ------------------------------------------------------------------------------------------------------------------------


async def test_overlap_skip(at_noon: Scene) -> None:
    schedule = await at_noon.schedule()
    (first,) = (await at_noon.tick(hours=1)).run_ids
    assert (await at_noon.tick(hours=1)).run_ids == []
    await at_noon.end_run(first)
    assert len((await at_noon.tick(hours=1)).run_ids) == 1
    assert await at_noon.outcomes(schedule) == [
        ("13:00:00", STARTED, None),
        ("14:00:00", SKIPPED, "overlap"),
        ("15:00:00", STARTED, None),
    ]
    assert first in ((await at_noon.occurrences(schedule))[1].reason or "")


async def test_overlap_queue_runs_one_after_the_other_in_due_order(at_noon: Scene) -> None:
    schedule = await at_noon.schedule(overlap=Overlap.QUEUE)
    started: list[str] = []
    for _ in range(3):
        started += (await at_noon.tick(hours=1)).run_ids
    assert [status for _, status, _ in await at_noon.outcomes(schedule)] == [STARTED, WAITING, WAITING]
    for expected in (2, 3):
        await at_noon.end_all_runs()
        started += (await at_noon.tick(seconds=1)).run_ids
        assert len(started) == expected
        assert (await at_noon.tick(seconds=1)).run_ids == []
    found = await at_noon.occurrences(schedule)
    assert [occurrence.run_id for occurrence in found] == started
    assert [occurrence.reason for occurrence in found] == [None, None, None]


async def test_what_waits_stays_waiting_while_paused_and_ends_with_its_graph(at_noon: Scene) -> None:
    schedule = await at_noon.schedule(overlap=Overlap.QUEUE)
    await at_noon.tick(hours=1)
    await at_noon.tick(hours=1)
    await at_noon.sql('UPDATE "AgentGraphExecutionSchedule" SET "isEnabled" = 0')
    await at_noon.end_all_runs()
    assert (await at_noon.tick(seconds=1)).run_ids == []
    await archive_graph(at_noon.db, at_noon.graph_id)
    await at_noon.sql('UPDATE "AgentGraphExecutionSchedule" SET "isEnabled" = 1')
    assert (await at_noon.tick(seconds=1)).run_ids == []
    assert await at_noon.outcomes(schedule) == [("13:00:00", STARTED, None), ("14:00:00", SKIPPED, "graph_unavailable")]


async def test_overlap_allow(at_noon: Scene) -> None:
    await at_noon.schedule(overlap=Overlap.ALLOW)
    assert [len((await at_noon.tick(hours=1)).run_ids) for _ in range(3)] == [1, 1, 1]


async def test_schedules_do_not_get_into_one_anothers_way(at_noon: Scene) -> None:
    one, other = await at_noon.schedule(), await at_noon.schedule()
    await at_noon.tick(hours=1)
    (occurrence,) = await at_noon.occurrences(one)
    await at_noon.end_run(str(occurrence.run_id))
    await at_noon.tick(hours=1)
    assert [status for _, status, _ in await at_noon.outcomes(one)] == [STARTED, STARTED]
    assert [status for _, status, _ in await at_noon.outcomes(other)] == [STARTED, SKIPPED]


# -- The graph ----------------------------------------------------------------------------------------------------------------------


async def version_of_latest_run(found: Scene) -> int:
    return (await found.sql('SELECT "agentGraphVersion" FROM "AgentGraphExecution" ORDER BY "id" DESC LIMIT 1'))[0][0]


async def test_follows_the_active_version_or_pins_one(at_noon: Scene) -> None:
    await at_noon.store_version(sample_graph())
    following = await at_noon.schedule("0 13 * * *")
    pinned = await at_noon.schedule("0 14 * * *", graph_version=1)
    await at_noon.tick(hours=1)
    assert await version_of_latest_run(at_noon) == 2
    await at_noon.tick(hours=1)
    assert await version_of_latest_run(at_noon) == 1
    await set_active_version(at_noon.db, at_noon.graph_id, 1)
    await at_noon.tick(hours=23)
    assert await version_of_latest_run(at_noon) == 1
    assert following.graph_version is None
    assert pinned.graph_version == 1


async def test_a_graph_that_the_input_no_longer_fits_is_said_and_not_run(at_noon: Scene) -> None:
    schedule = await at_noon.schedule(input_data={"input": 1})
    nodes = [*sample_graph().nodes, Node(id="p", block_id=PRINT_TO_CONSOLE)]
    await at_noon.store_version(Graph(name="it prints, too", nodes=nodes))
    await at_noon.tick(hours=1)
    (occurrence,) = await at_noon.occurrences(schedule)
    assert (occurrence.status, occurrence.code) == (OccurrenceStatus.SKIPPED, "invalid_input")
    assert "version 2 of the graph cannot be started" in (occurrence.reason or "")
    assert "'text'" in (occurrence.reason or "")


async def test_a_deleted_graph_is_said_and_not_run(at_noon: Scene) -> None:
    schedule = await at_noon.schedule()
    await archive_graph(at_noon.db, at_noon.graph_id)
    assert (await at_noon.tick(hours=1)).run_ids == []
    assert (await get_schedule(at_noon.db, schedule.id)).is_enabled is False
    await at_noon.sql(
        'UPDATE "AgentGraphExecutionSchedule" SET "isEnabled" = 1, "nextDueAt" = ?', "2026-11-22T13:00:00.000+00:00"
    )
    await at_noon.tick()
    assert await at_noon.outcomes(schedule) == [("13:00:00", SKIPPED, "graph_unavailable")]


# -- Trouble ------------------------------------------------------------------------------------------------------------------------


async def test_one_that_cannot_be_committed_harms_no_other(at_noon: Scene) -> None:
    broken, sound = await at_noon.schedule(), await at_noon.schedule()
    await at_noon.sql(
        f'CREATE TRIGGER refuse BEFORE INSERT ON "AgentGraphExecution" WHEN NEW."scheduleId" = \'{broken.id}\' '
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    assert len((await at_noon.tick(hours=1)).run_ids) == 1
    assert await at_noon.outcomes(sound) == [("13:00:00", STARTED, None)]
    assert await at_noon.outcomes(broken) == []
    assert (await get_schedule(at_noon.db, broken.id)).next_fire_at == at_noon.clock.now() + POSTPONED_BY
    await at_noon.sql("DROP TRIGGER refuse")
    assert len((await at_noon.tick(seconds=POSTPONED_BY.total_seconds())).run_ids) == 1
    assert await at_noon.outcomes(broken) == [("13:00:00", STARTED, None)]


@pytest.mark.parametrize(("column", "value"), [("timezone", "Mars/Olympus_Mons"), ("cron", "every day at nine")])
async def test_one_that_is_not_understood_harms_no_other(at_noon: Scene, column: str, value: str) -> None:
    strange, sound = await at_noon.schedule(), await at_noon.schedule()
    await at_noon.sql(f'UPDATE "AgentGraphExecutionSchedule" SET "{column}" = ? WHERE "id" = ?', value, strange.id)
    tick = await at_noon.tick(hours=1)
    assert len(tick.run_ids) == 1
    assert tick.next_fire_at == NOON + timedelta(hours=2)
    assert await at_noon.outcomes(sound) == [("13:00:00", STARTED, None)]


async def test_due_times_are_corrected_after_a_start(at_noon: Scene) -> None:
    late, lost, paused, sound = [await at_noon.schedule(is_enabled=n != 2) for n in range(4)]
    for schedule, stored in ((late, "2026-11-22T13:45:00.000+00:00"), (lost, None), (paused, None)):
        await at_noon.sql(
            'UPDATE "AgentGraphExecutionSchedule" SET "nextDueAt" = ? WHERE "id" = ?', stored, schedule.id
        )
    assert await at_noon.ticker().rearm() == 2
    assert await at_noon.ticker().rearm() == 0
    assert len((await at_noon.tick(hours=1)).run_ids) == 3
    assert await at_noon.outcomes(paused) == []
    assert await at_noon.outcomes(sound) == await at_noon.outcomes(lost) == [("13:00:00", STARTED, None)]


async def test_a_database_that_does_not_answer(at_noon: Scene) -> None:
    schedule = await at_noon.schedule()
    async with await Database.open(at_noon.settings) as other:
        ticker = at_noon.ticker(other)
    with pytest.raises(SchedulesUnavailable):
        await ticker.tick()
    await at_noon.tick(hours=1)
    assert len(await at_noon.occurrences(schedule)) == 1


@pytest.mark.parametrize(
    "change",
    [
        'DELETE FROM "AgentGraphExecutionSchedule"',
        'UPDATE "AgentGraphExecutionSchedule" SET "isEnabled" = 0',
        'UPDATE "AgentGraphExecutionSchedule" SET "revision" = "revision" + 1, "nextDueAt" = NULL',
    ],
)
async def test_a_change_made_between_decision_and_commit_wins(
    at_noon: Scene, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    await at_noon.schedule()

    async def commit_after_change(db: Database, firings: Sequence[Firing], *, now: datetime) -> list[FiringResult]:
        await at_noon.sql(change)
        return await commit_firings(db, firings, now=now)

    monkeypatch.setattr(ticks, "commit_firings", commit_after_change)
    assert (await at_noon.tick(hours=1)).run_ids == []
    assert await at_noon.sql('SELECT count(*) FROM "AgentGraphExecution"') == [(0,)]
    assert await at_noon.sql('SELECT count(*) FROM "AgentScheduleOccurrence"') == [(0,)]


@pytest.mark.parametrize("paused", [True, False])
async def test_a_change_made_before_what_waits_is_released_wins(
    at_noon: Scene, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    schedule = await at_noon.schedule(overlap=Overlap.QUEUE)
    await at_noon.tick(hours=1)
    await at_noon.tick(hours=1)
    await at_noon.end_all_runs()

    async def commit_after_change(db: Database, releases: Sequence[Release], *, now: datetime) -> list[FiringResult]:
        await at_noon.sql(
            'UPDATE "AgentGraphExecutionSchedule" SET "revision" = "revision" + 1, "isEnabled" = ?', int(not paused)
        )
        return await commit_releases(db, releases, now=now)

    with monkeypatch.context() as patch:
        patch.setattr(ticks, "commit_releases", commit_after_change)
        assert (await at_noon.tick(seconds=1)).run_ids == []
    assert [status for _, status, _ in await at_noon.outcomes(schedule)] == [STARTED, WAITING]
    assert len((await at_noon.tick(seconds=1)).run_ids) == int(not paused)


async def test_what_was_due_and_what_waits_when_its_graph_is_deleted_has_the_reason(at_noon: Scene) -> None:
    schedule = await at_noon.schedule(overlap=Overlap.QUEUE)
    await at_noon.tick(hours=1)
    await at_noon.tick(hours=1)
    await at_noon.end_all_runs()
    now = at_noon.clock.forward(hours=2, minutes=30)
    await archive_graph(at_noon.db, at_noon.graph_id, partial(left_behind, code=GRAPH_UNAVAILABLE, now=now))
    assert (await at_noon.tick()).run_ids == []
    assert await at_noon.outcomes(schedule) == [
        ("13:00:00", STARTED, None),
        *((f"{hour}:00:00", SKIPPED, "graph_unavailable") for hour in (14, 15, 16)),
    ]
    assert all("the graph was deleted" in (o.reason or "") for o in (await at_noon.occurrences(schedule))[1:])


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), DatabaseUnavailable("busy")])
async def test_a_graph_that_cannot_be_read_at_the_moment_is_no_reason_to_skip(
    at_noon: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    schedule = await at_noon.schedule()

    async def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(topologies, "get_graph", fail)
        with pytest.raises(SchedulesUnavailable):
            await at_noon.tick(hours=1)
    assert len((await at_noon.tick(seconds=1)).run_ids) == 1
    assert await at_noon.outcomes(schedule) == [("13:00:00", STARTED, None)]


# -- A simulated month --------------------------------------------------------------------------------------------------------------

CRONS = (
    "*/30 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "0 */6 * * *",
    "15 1 * * *",
    "0 9 * * 1-5",
    "0 0 1 * *",
    "45 1,2,3 * * *",
)
ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Lisbon")


@pytest.mark.timeout(240)
async def test_a_simulated_month_with_outages_jumps_and_rivals(at_noon: Scene) -> None:
    chance = random.Random(2026)
    at_noon.clock.at = begin = datetime(2026, 10, 12, tzinfo=ZoneInfo("UTC"))
    schedules: list[Schedule] = [
        await at_noon.schedule(
            chance.choice(CRONS),
            timezone=chance.choice(ZONES),
            catch_up=chance.choice(list(CatchUp)),
            overlap=chance.choice(list(Overlap)),
            jitter_s=chance.choice([0.0, 0.0, 600.0]),
        )
        for _ in range(20)
    ]
    latest = begin
    async with await Database.open(at_noon.settings) as other:
        for _ in range(250):
            at_noon.clock.forward(minutes=chance.choice([1, 7, 30, 60, 60, 180, 600, 1500, -60, 60]))
            latest = max(latest, at_noon.clock.now())
            looks = [
                asyncio.create_task(at_noon.ticker(chance.choice([other, at_noon.db])).tick())
                for _ in range(chance.choice([1, 2]))
            ]
            if chance.random() < 0.2:
                for _ in range(chance.randrange(10)):
                    await asyncio.sleep(0)
                looks[0].cancel()
            await asyncio.gather(*looks, return_exceptions=True)
            if chance.random() < 0.7:
                await at_noon.end_all_runs()
        at_noon.clock.at = latest
        await at_noon.tick()
    for schedule in schedules:
        expected = list(parse(str(schedule.cron)).due_times(ZoneInfo(schedule.timezone), after=begin, until=latest))
        found = await at_noon.occurrences(schedule)
        dues = [occurrence.due_at for occurrence in found]
        # Jitter may hold back the very last one.
        assert dues == expected[: len(dues)]
        assert len(expected) - len(dues) <= (1 if schedule.jitter_s else 0)
        assert all((occurrence.run_id is None) != (occurrence.reason is None) for occurrence in found)
    runs = await at_noon.sql('SELECT count(*) FROM "AgentGraphExecution"')
    with_run = await at_noon.sql('SELECT count(*) FROM "AgentScheduleOccurrence" WHERE "runId" IS NOT NULL')
    assert runs == with_run
