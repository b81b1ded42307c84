"""The ExecutionScheduler as a real process, on the machine's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.migrate import migrate
from autogpt_server.data.scheduling import CatchUp, Overlap
from autogpt_server.execution.interfaces import SchedulerInterface
from autogpt_server.utils import faults
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.process import ProcessSpec
from autogpt_server.utils.service import NameServer, close_service_client, get_service_client
from autogpt_server.utils.supervisor import Supervisor
from support.running import owned, settings_for
from support.scheduling import Scene, sample_graph

LIMIT_S = 40.0


@dataclass
class House:
    """A server that consists of a scheduler."""

    scene: Scene
    supervisor: Supervisor
    faults: Path
    """Where the scheduler's process looks for faults."""

    @property
    def restarts(self) -> int:
        """How often the scheduler was started anew."""
        return self.supervisor.processes()[0].restarts


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    armed = tmp_path / "faults"
    armed.mkdir()
    monkeypatch.setenv(faults.VARIABLE, str(armed))
    settings = settings_for(tmp_path, sqlite_synchronous="NORMAL")
    migrate(settings.database_path)
    spec = ProcessSpec(
        name="ExecutionScheduler",
        target="autogpt_server.execution.scheduler:ExecutionScheduler",
        settings=settings,
    )
    with owned(settings) as instance:
        names = NameServer(settings, instance.identity().secret)
        supervisor = Supervisor([spec])
        supervisor.start()
        async with await Database.open(settings) as db:
            scene = Scene(db, settings)
            scene.clock.at = utc_now()
            scene.graph_id = await scene.store_graph(sample_graph())
            assert await asyncio.to_thread(supervisor.wait_ready, LIMIT_S)
            yield House(scene, supervisor, armed)
        supervisor.request_drain()
        assert await asyncio.to_thread(supervisor.join, LIMIT_S)
        names.close()


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is true."""
    async with asyncio.timeout(LIMIT_S):
        while not await check():  # noqa: ASYNC110 - it comes about in other processes
            await asyncio.sleep(0.05)


FAULTS = (
    ("scheduler.decided", "kill"),
    ("sqlite.commit.before", "kill"),
    ("sqlite.commit.after", "kill"),
    ("scheduler.committed", "kill"),
    ("sqlite.commit.before", "fail"),
    ("sqlite.commit.after", "fail"),
)
"""Where the scheduler dies, or its COMMIT raises: before it is durable, and after."""


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_each_second_has_its_run_wherever_the_scheduler_dies(house: House) -> None:
    scene = house.scene
    schedule = await scene.schedule("*/1 * * * * *", overlap=Overlap.ALLOW, catch_up=CatchUp.ALL)

    async def has(count: int) -> bool:
        return len(await scene.occurrences(schedule)) >= count

    deaths = 0
    for point, action in FAULTS:
        seen = len(await scene.occurrences(schedule))
        faults.arm(house.faults, point, action)
        await until(lambda armed=house.faults / point: asyncio.sleep(0, not armed.exists()))
        deaths += action == "kill"
        await until(lambda wanted=deaths: asyncio.sleep(0, house.restarts >= wanted))
        # By mistake there is a second scheduler while the first comes back.
        scene.clock.at = utc_now()
        await scene.ticker().tick()
        await until(lambda wanted=seen + 3: has(wanted))
    found = await scene.occurrences(schedule)
    first = found[0].due_at
    assert [occurrence.due_at for occurrence in found] == [first + timedelta(seconds=n) for n in range(len(found))]
    assert first - schedule.created_at <= timedelta(seconds=1)
    assert all(occurrence.started_at and occurrence.started_at >= occurrence.due_at for occurrence in found)
    runs = await scene.sql('SELECT "id" FROM "AgentGraphExecution" ORDER BY "id"')
    assert {run_id for (run_id,) in runs} >= {occurrence.run_id for occurrence in found}
    assert await scene.sql(
        'SELECT count(*) FROM "AgentGraphExecution" r WHERE NOT EXISTS (SELECT 1 FROM "AgentScheduleOccurrence" o WHERE o."runId" = r."id")'
    ) == [(0,)]


async def test_a_hint_or_none_at_all(house: House) -> None:
    client = get_service_client(SchedulerInterface, house.scene.settings)
    for is_told in (True, False):
        house.scene.clock.at = utc_now()
        schedule = await house.scene.schedule(None, at=utc_now() + timedelta(milliseconds=300))
        if is_told:
            await client.schedules_changed()
        await until(lambda schedule=schedule: has_run(house.scene, schedule.id))
    close_service_client(client)


async def has_run(scene: Scene, schedule_id: str) -> bool:
    rows = await scene.sql('SELECT count(*) FROM "AgentGraphExecution" WHERE "scheduleId" = ?', schedule_id)
    return rows == [(1,)]
