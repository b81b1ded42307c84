"""What the manager says to its workers, without any process; how it keeps them running is in `test_chaos.py`."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.inbox import put_into_inbox
from autogpt_server.data.run_rows import InboxEntry, InboxKind
from autogpt_server.execution.interfaces import Assignment
from autogpt_server.execution.manager import ExecutionManager
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import EventKind, ProcessEvent
from support.ledger import open_file
from support.running import settings_for

WORKER = "worker-1/abc"


class Manager(ExecutionManager):
    """One that never sweeps: it knows what it is told, and nothing else."""

    def __init__(self, settings: Settings, db: Database) -> None:
        super().__init__(settings)
        self._loop = asyncio.get_running_loop()
        self._on_worker_event(ProcessEvent(EventKind.READY, "worker-1", None, WORKER))
        self.hints = asyncio.create_task(self._follow_hints(db))

    async def give(self, received: int, *done: str) -> Assignment:
        """What its worker is given."""
        return await self.next_runs(WORKER, received, list(done), 10)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database]:
    settings = settings_for(tmp_path)
    connection = open_file(settings.database_path)
    connection.execute('INSERT INTO "AgentGraph" ("id", "version") VALUES (\'graph\', 1)')
    connection.execute(
        'INSERT INTO "AgentGraphExecution" ("id", "agentGraphId", "agentGraphVersion") VALUES (\'run\', \'graph\', 1)'
    )
    connection.close()
    async with await Database.open(settings) as opened:
        yield opened


@pytest.fixture
async def manager(tmp_path: Path, db: Database) -> AsyncGenerator[Manager]:
    manager = Manager(settings_for(tmp_path), db)
    yield manager
    manager.hints.cancel()


async def suspend(db: Database) -> None:
    """Have the run wait, performed by the worker so far."""
    await db.write(
        lambda connection: connection.execute(
            'UPDATE "AgentGraphExecution" SET "status" = \'WAITING\', "workerId" = ?', (WORKER,)
        )
    )


async def send(db: Database) -> None:
    """Put something into the run's inbox."""
    entry = InboxEntry("run", InboxKind.CANCEL, None, "1", "{}")
    await db.write(lambda connection: put_into_inbox(connection, entry, at="2026-11-22T00:00:00.000Z"))


async def test_news_of_a_run_that_its_worker_has_just_given_up_do_not_wait_for_a_sweep(
    manager: Manager, db: Database
) -> None:
    """A worker says what it is done with when it asks for more: until then the manager takes it for the holder."""
    await manager.run_waits("run")
    assert (await manager.give(0)).run_ids == ["run"]
    await suspend(db)
    await send(db)
    await manager.run_waits("run")
    told = await manager.give(1)
    assert (told.run_ids, told.nudged) == ([], ["run"])
    again = await manager.give(2, "run")
    assert (again.run_ids, again.owners, again.nudged) == (["run"], {"run": WORKER}, [])


async def test_news_that_the_worker_was_not_told_of_before_it_gave_the_run_up_do_not_wait_either(
    manager: Manager, db: Database
) -> None:
    await manager.run_waits("run")
    assert (await manager.give(0)).run_ids == ["run"]
    await suspend(db)
    await send(db)
    await manager.run_waits("run")
    for _ in range(100):  # the worker is busy meanwhile, and does not ask
        await asyncio.sleep(0)
    again = await manager.give(1, "run")
    assert (again.run_ids, again.nudged) == (["run"], [])
