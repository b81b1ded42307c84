"""Schedules and occurrences in a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from autogpt_server.data import firing
from autogpt_server.data.db import Database
from autogpt_server.data.firing import Firing, FiringOutcome, commit_firings, due_schedules, next_fire_at, situations
from autogpt_server.data.migrate import migrate
from autogpt_server.data.schedule import (
    ScheduleNotFound,
    change_schedule,
    create_schedule,
    delete_schedule,
    get_schedule,
    last_occurrences,
    list_occurrences,
    list_schedules,
)
from autogpt_server.data.scheduling import (
    CatchUp,
    NewOccurrence,
    OccurrenceStatus,
    Overlap,
    Schedule,
    ScheduleChange,
    ScheduleFields,
)
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

EVERYTHING = ScheduleFields(
    name="all of it",
    graph_version=3,
    cron="0 9 * * 1-5",
    timezone="Asia/Kathmandu",
    input_data={"text": "ünïcode\u2028", "list": [1, None, 2.5, {"a": True}]},
    is_enabled=True,
    catch_up=CatchUp.ALL,
    overlap=Overlap.QUEUE,
    starts_at=NOON + HOUR,
    ends_at=NOON + 50 * HOUR,
    jitter_s=12.5,
)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    settings = Settings(database_url=f"file:{tmp_path / 'test.db'}", sqlite_synchronous="NORMAL")
    migrate(settings.database_path)
    async with await Database.open(settings) as opened:
        yield opened


async def make(
    db: Database, fields: ScheduleFields = EVERYTHING, *, next_fire: datetime | None = NOON + HOUR
) -> Schedule:
    return await create_schedule(db, new_id(), "graph", fields, now=NOON, next_fire_at=next_fire)


async def test_what_is_stored_comes_back(db: Database) -> None:
    made = await make(db)
    assert made.fields == EVERYTHING
    assert (made.graph_id, made.revision, made.accounted_until, made.next_fire_at) == ("graph", 0, NOON, NOON + HOUR)
    assert await get_schedule(db, made.id) == made
    assert (await situations(db, [made.id]))[made.id].schedule == made
    assert await list_schedules(db, "graph", limit=5) == [made]
    assert await list_schedules(db, "other", limit=5) == []


async def test_times_of_any_offset_are_the_same_instants(db: Database) -> None:
    elsewhere = timezone(timedelta(hours=5, minutes=45))
    made = await make(db, ScheduleFields(at=(NOON + HOUR).astimezone(elsewhere)))
    assert made.at == NOON + HOUR
    assert await get_schedule(db, made.id) == made


async def test_lists_go_on_after_an_id(db: Database) -> None:
    made = [await make(db) for _ in range(5)]
    newest_first = made[::-1]
    assert await list_schedules(db, "graph", limit=2) == newest_first[:2]
    assert await list_schedules(db, "graph", limit=9, before=newest_first[1].id) == newest_first[2:]


async def test_a_change_is_one_step_with_what_it_leaves_behind(db: Database) -> None:
    made = await make(db)
    skipped = NewOccurrence(NOON + HOUR, OccurrenceStatus.SKIPPED, "changed", "Why.")

    def change(current: Schedule) -> ScheduleChange:
        assert current == made
        fields = current.fields.model_copy(update={"cron": None, "at": NOON + 9 * HOUR, "is_enabled": False})
        return ScheduleChange(fields, NOON + 2 * HOUR, None, [skipped])

    changed = await change_schedule(db, made.id, change, now=NOON + 2 * HOUR)
    assert (changed.cron, changed.at, changed.is_enabled, changed.revision) == (None, NOON + 9 * HOUR, False, 1)
    assert (changed.accounted_until, changed.next_fire_at, changed.updated_at) == (
        NOON + 2 * HOUR,
        None,
        NOON + 2 * HOUR,
    )
    assert await get_schedule(db, made.id) == changed
    (occurrence,) = await list_occurrences(db, made.id, limit=5)
    assert (occurrence.due_at, occurrence.code, occurrence.reason, occurrence.run_id) == (
        NOON + HOUR,
        "changed",
        "Why.",
        None,
    )


async def test_a_change_that_raises_changes_nothing(db: Database) -> None:
    made = await make(db)

    def refuse(_: Schedule) -> ScheduleChange:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_schedule(db, made.id, refuse, now=NOON)
    assert await get_schedule(db, made.id) == made


async def test_occurrences_latest_first(db: Database) -> None:
    made, other = await make(db), await make(db)
    times = [NOON + n * HOUR for n in (1, 2, 3)]
    outcomes = [NewOccurrence(time, OccurrenceStatus.SKIPPED, "missed", "Why.") for time in times]
    step = Firing(made.id, 0, NOON, times[-1], None, outcomes)
    assert [result.outcome for result in await commit_firings(db, [step], now=NOON)] == [FiringOutcome.DONE]
    assert [found.due_at for found in await list_occurrences(db, made.id, limit=2)] == times[:0:-1]
    assert [found.due_at for found in await list_occurrences(db, made.id, limit=9, before=times[1])] == times[:1]
    last = await last_occurrences(db, [made.id, other.id])
    assert {schedule_id: found.due_at for schedule_id, found in last.items()} == {made.id: times[-1]}


async def test_a_step_from_a_state_that_is_no_more_is_not_taken(db: Database) -> None:
    made = await make(db)
    outcome = [NewOccurrence(NOON + HOUR, OccurrenceStatus.SKIPPED, "missed", "Why.")]
    first = Firing(made.id, 0, NOON, NOON + HOUR, NOON + 2 * HOUR, outcome)
    other_revision = Firing(made.id, 1, NOON + HOUR, NOON + 2 * HOUR, None, outcome)
    results = await commit_firings(db, [first, first, other_revision], now=NOON)
    assert [result.outcome for result in results] == [
        FiringOutcome.DONE,
        FiringOutcome.OUTDATED,
        FiringOutcome.OUTDATED,
    ]
    assert (await get_schedule(db, made.id)).next_fire_at == NOON + 2 * HOUR
    assert len(await list_occurrences(db, made.id, limit=9)) == 1


async def test_what_is_due_is_found_in_due_order(db: Database) -> None:
    late, early, later = [await make(db, next_fire=NOON + n * HOUR) for n in (2, 1, 3)]
    paused = await make(db, EVERYTHING.model_copy(update={"is_enabled": False}), next_fire=NOON)
    await make(db, next_fire=None)
    assert await next_fire_at(db) == NOON + HOUR
    found = await due_schedules(db, NOON + 2 * HOUR, limit=9)
    assert [due.schedule for due in found] == [early, late]
    assert [due.schedule for due in await due_schedules(db, NOON + 9 * HOUR, limit=2)] == [early, late]
    assert {later.id, paused.id}.isdisjoint({due.schedule.id for due in found})
    assert found[0].runnable_version is None  # there is no such graph


async def test_deleting_takes_the_occurrences_along(db: Database) -> None:
    made = await make(db)
    outcome = [NewOccurrence(NOON + HOUR, OccurrenceStatus.WAITING, "overlap", "Why.")]
    await commit_firings(db, [Firing(made.id, 0, NOON, NOON + HOUR, None, outcome)], now=NOON)
    await delete_schedule(db, made.id)
    assert await (await db.prisma()).agentscheduleoccurrence.count() == 0
    for action in (
        get_schedule(db, made.id),
        delete_schedule(db, made.id),
        change_schedule(db, made.id, lambda _: pytest.fail("called"), now=NOON),
    ):
        with pytest.raises(ScheduleNotFound):
            await action


@pytest.mark.parametrize(
    ("statement", "plan"),
    [
        (firing._SELECT_NEXT, "SEARCH s USING COVERING INDEX AgentGraphExecutionSchedule_isEnabled_nextDueAt_idx (isEnabled=?)"),  # pyright: ignore[reportPrivateUsage]
        (firing._SELECT_DUE, "SEARCH s USING INDEX AgentGraphExecutionSchedule_isEnabled_nextDueAt_idx (isEnabled=? AND nextDueAt<?)"),  # pyright: ignore[reportPrivateUsage]
        (firing._SELECT_BY_ID, "SEARCH s USING INDEX sqlite_autoindex_AgentGraphExecutionSchedule_1 (id=?)"),  # pyright: ignore[reportPrivateUsage]
        (firing._SELECT_ENABLED, "SEARCH s USING INDEX sqlite_autoindex_AgentGraphExecutionSchedule_1 (id>?)"),  # pyright: ignore[reportPrivateUsage]
        (firing._SELECT_RELEASABLE, "SEARCH s USING INDEX sqlite_autoindex_AgentGraphExecutionSchedule_1 (id=?)"),  # pyright: ignore[reportPrivateUsage]
    ],
)  # fmt: skip
async def test_the_scheduler_reads_by_indexes(db: Database, statement: str, plan: str) -> None:
    """With 100,000 idle schedules anything else is felt: each of these is asked every second, or for every page."""
    parameters = ["1"] * statement.count("?")
    rows = await db.read(
        lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    )
    steps = [str(row[-1]) for row in rows]
    assert plan in steps
    assert not any(step.startswith(("SCAN s", "SCAN r", "SCAN g")) for step in steps)
    if statement == firing._SELECT_DUE:  # pyright: ignore[reportPrivateUsage]
        assert not any("TEMP B-TREE" in step for step in steps)
