"""Who gets a run, and who must leave it alone: the manager and a worker, without any process. What the simulation found here stays found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.execution import MAX_TAKEOVERS, WaitingRun, insert_run
from autogpt_server.execution.committer import Committer
from autogpt_server.execution.interfaces import Assignment
from autogpt_server.execution.manager import MAX_SOLO_WORKERS, ExecutionManager
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import Topology
from autogpt_server.execution.worker import Worker
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.locks import LockOwner
from autogpt_server.utils.logging import LogSetup
from autogpt_server.utils.process import ProcessSpec
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import EventKind, ProcessEvent
from support.ledger import INLINE_BYTES, open_file, store_graph
from support.planning import BLOCKS, EPOCH, Game, topology_of
from support.running import settings_for

OURS = "worker-1/a"
ITS_OWN = "solo-1/a"
POISON = WaitingRun("run", 0, None, takeovers=MAX_TAKEOVERS)
OLDER_READING = WaitingRun("run", 0, None, takeovers=MAX_TAKEOVERS - 1)


@dataclass
class Processes:
    """Notes which processes the manager wants (`utils.supervisor.Supervisor`)."""

    added: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])

    def add(self, spec: ProcessSpec) -> None:
        self.added.append(spec.name)

    def remove(self, name: str) -> None:
        self.removed.append(name)


class Manager(ExecutionManager):
    """One that reads nothing: it is told what there is."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.processes = Processes()
        self._supervisor: Any = self.processes
        self._loop = asyncio.get_running_loop()
        self._log_setup = LogSetup()
        self.starts("worker-1", OURS)

    def starts(self, name: str, worker_id: str) -> None:
        self._on_worker_event(ProcessEvent(EventKind.READY, name, None, worker_id))

    def ends(self, name: str) -> None:
        self._on_worker_event(ProcessEvent(EventKind.EXITED, name, None, "ended"))

    def finds(self, *runs: WaitingRun) -> None:
        self._offer(runs)

    async def give(self, worker_id: str = OURS, received: int = 0, *done: str) -> Assignment | None:
        """What a worker that asks is given; None if it has to wait."""
        asking = asyncio.ensure_future(self.next_runs(worker_id, received, list(done), 10))
        for _ in range(10):
            await asyncio.sleep(0)
        if asking.done():
            return asking.result()
        asking.cancel()
        return None


@pytest.fixture
async def manager(tmp_path: Path) -> Manager:
    return Manager(settings_for(tmp_path))


# --- a run that has a worker of its own -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_late", [False, True], ids=["read before", "read after"])
async def test_nobody_else_is_given_a_run_that_has_a_worker_of_its_own(manager: Manager, is_late: bool) -> None:
    """Else that worker would wait for the run for ever, and never be dismissed."""
    if not is_late:
        manager.finds(OLDER_READING)  # it waits for a worker
    manager.finds(POISON)
    assert manager.processes.added == ["solo-1"]
    if is_late:
        manager.finds(OLDER_READING)
    assert await manager.give() is None
    manager.starts("solo-1", ITS_OWN)
    given = await manager.give(ITS_OWN)
    assert given is not None
    assert (given.run_ids, given.suspects) == (["run"], ["run"])


async def test_a_worker_of_its_own_is_dismissed_when_it_is_done(manager: Manager) -> None:
    manager.finds(POISON)
    manager.starts("solo-1", ITS_OWN)
    assert await manager.give(ITS_OWN) is not None
    assert await manager.give(ITS_OWN, 1) is None
    assert manager.processes.removed == []
    assert await manager.give(ITS_OWN, 1, "run") is None
    assert manager.processes.removed == ["solo-1"]
    manager.ends("solo-1")
    manager.finds(OLDER_READING)
    given = await manager.give()
    assert given is not None
    assert given.run_ids == ["run"]


async def test_a_run_that_was_lost_on_its_way_to_a_worker_of_its_own_is_given_to_it_again(manager: Manager) -> None:
    manager.finds(POISON)
    manager.starts("solo-1", ITS_OWN)
    assert await manager.give(ITS_OWN) is not None
    again = await manager.give(ITS_OWN, received=0)
    assert again is not None
    assert again.run_ids == ["run"]
    assert manager.processes.removed == []


async def test_only_so_many_runs_have_workers_of_their_own_at_once(manager: Manager) -> None:
    runs = [WaitingRun(f"run-{number}", 0, None, takeovers=MAX_TAKEOVERS) for number in range(MAX_SOLO_WORKERS + 1)]
    manager.finds(*runs)
    manager.finds(*runs)
    assert manager.processes.added == [f"solo-{number + 1}" for number in range(MAX_SOLO_WORKERS)]
    manager.ends("solo-1")
    manager.finds(*runs)
    assert len(manager.processes.added) == MAX_SOLO_WORKERS + 1


# --- a run that has another owner -------------------------------------------------------------------------------------


async def test_a_run_is_given_away_once_the_lock_of_its_owner_is_free(manager: Manager) -> None:
    former = Instance(manager.settings).worker_lock("worker-9/z")
    assert former.try_acquire(LockOwner.this_process("worker-9", "worker-9/z"))
    run = WaitingRun("run", 0, "worker-9/z")
    manager.finds(run)
    assert await manager.give() is None
    former.release()
    manager.finds(run)
    given = await manager.give()
    assert given is not None
    assert (given.run_ids, given.owners) == (["run"], {"run": "worker-9/z"})


class OneWorker(Worker):
    """A worker that begins nothing: what it takes up is looked at, not performed."""

    def __init__(self, settings: Settings, db: Database, topology: Topology) -> None:
        super().__init__(settings)
        self.worker_id = OURS
        self._db = db
        self._loop = asyncio.get_running_loop()
        self._turns.attach(self._loop)
        self._committer = Committer(db)
        self._topologies = _Known(db, topology)
        self._is_draining = True

    async def is_taken_up(self, former: str | None) -> bool:
        """Whether it takes the run that was `former`'s when the manager saw it."""
        await self._take_up("run", former, is_suspect=False)
        assert ("run" in self._owners) != ("run" in self._done), "what is not taken up is given back"
        return "run" in self._owners


class _Known(Topologies):
    def __init__(self, db: Database, topology: Topology) -> None:
        super().__init__(db, BLOCKS)
        self._topology = topology

    async def get(self, graph_id: str, version: int) -> Topology:
        return self._topology


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncGenerator[OneWorker]:
    settings, topology = settings_for(tmp_path), topology_of("A: free")
    with closing(open_file(settings.database_path)) as connection:
        store_graph(connection, topology)
        game = Game(topology)
        game.begin({})
        insert_run(connection, new_run(game.state, {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES))
        connection.execute('UPDATE "AgentGraphExecution" SET "workerId" = \'worker-2/b\', "epoch" = 1')
    async with await Database.open(settings) as db:
        yield OneWorker(settings, db, topology)


@pytest.mark.parametrize(
    ("former", "is_taken"), [("worker-2/b", True), ("worker-1/z", False), (None, False)], ids=["dead", "other", "none"]
)
async def test_a_worker_leaves_a_run_alone_that_somebody_else_has_taken_meanwhile(
    worker: OneWorker, former: str | None, is_taken: bool
) -> None:
    """What the manager read may be old: the run is taken from the owner that was found gone, and from no other."""
    assert await worker.is_taken_up(former) is is_taken
