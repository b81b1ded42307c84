"""What a worker's committer does when the database is in trouble."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.migrate import migrate
from autogpt_server.data.run_rows import CommitOutcome, CommitResult, LargeValue, RunChanges, RunCommit, RunRow
from autogpt_server.execution import committer
from autogpt_server.execution.committer import Committer
from support.running import eventually, settings_for

RUN = "01a20000-0000-7000-8000-000000000000"


@pytest.fixture
async def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Database]:
    monkeypatch.setattr(committer, "RETRY_S", 0.02)
    settings = settings_for(tmp_path, sqlite_busy_timeout_s=0.05)
    migrate(settings.database_path)
    async with await Database.open(settings) as opened:
        await opened.write(insert_run)
        yield opened


def insert_run(connection: sqlite3.Connection) -> None:
    connection.execute('INSERT INTO "AgentGraph" ("id", "version") VALUES (?, 1)', ("graph",))
    connection.execute(
        'INSERT INTO "AgentGraphExecution" ("id", "agentGraphId", "agentGraphVersion", "seq") VALUES (?, ?, 1, 1)',
        (RUN, "graph"),
    )


@dataclass(eq=False)
class Scribe:
    """A source that has one thing to say, and remembers what became of it."""

    run_id: str = RUN
    large: int = 0
    breaks: str = ""
    results: list[CommitResult] = field(default_factory=list[CommitResult])
    failures: list[Exception] = field(default_factory=list[Exception])
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> RunCommit | None:
        if self.breaks == "cut":
            raise ValueError("cannot cut")
        changes = RunChanges(RunRow("RUNNING", "{}"))
        if self.large:
            changes.large.append(LargeValue("hash", "x" * self.large, self.large))
        return RunCommit(self.run_id, 1, "worker", 1, 2, changes, claim=True, at="2026-01-01T00:00:00.000+00:00")

    def written(self, entry: RunCommit, result: CommitResult) -> None:
        self.results.append(result)
        self.told.set()
        if self.breaks == "written":
            raise ValueError("cannot hear")

    def fail(self, error: Exception) -> None:
        self.failures.append(error)


@contextlib.asynccontextmanager
async def committing(db: Database) -> AsyncGenerator[Committer]:
    working = Committer(db)
    task = asyncio.create_task(working.run())
    try:
        yield working
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_full_disk_makes_it_wait(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    pages = await db.write(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await db.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    scribe = Scribe(large=1_000_000)
    async with committing(db) as working:
        working.changed(scribe)
        await asyncio.to_thread(eventually, lambda: "database refused a commit" in caplog.text)
        assert not scribe.results
        await db.write(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
        await asyncio.wait_for(working.flush(), 15)
    assert [result.outcome for result in scribe.results] == [CommitOutcome.DONE]


async def test_a_busy_database_makes_it_wait(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    scribe = Scribe()
    with contextlib.closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with committing(db) as working:
            working.changed(scribe)
            await asyncio.to_thread(eventually, lambda: "database refused a commit" in caplog.text)
            other.execute("COMMIT")
            await asyncio.wait_for(scribe.told.wait(), 15)
    assert [result.outcome for result in scribe.results] == [CommitOutcome.DONE]


@pytest.mark.parametrize("breaks", ["cut", "written"])
async def test_a_run_that_breaks_harms_no_other(db: Database, breaks: str) -> None:
    bad, good = Scribe(run_id="nothing", breaks=breaks), Scribe()
    async with committing(db) as working:
        working.changed(bad)
        working.changed(good)
        await asyncio.wait_for(working.flush(), 15)
    assert [str(error) for error in bad.failures] == [f"cannot {'cut' if breaks == 'cut' else 'hear'}"]
    assert [result.outcome for result in good.results] == [CommitOutcome.DONE]
    assert not good.failures


async def test_a_flush_of_nothing_ends(db: Database) -> None:
    async with committing(db) as working:
        await asyncio.wait_for(working.flush(), 15)
