"""The database of the year: one SQLite file's worth in memory, on which schedulers die and COMMITs fail, and triggers that watch each run."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from autogpt_server.data import engine
from autogpt_server.data.engine import CommitUncertainError
from support.ledger import open_memory

T = TypeVar("T")

_WATCH = """
CREATE TEMP TABLE wrong (what TEXT);
CREATE TEMP TRIGGER watch AFTER INSERT ON main."AgentGraphExecution" BEGIN
    INSERT INTO wrong SELECT 'a run of a schedule that is paused' FROM main."AgentGraphExecutionSchedule" s
        WHERE s."id" = NEW."scheduleId" AND NOT s."isEnabled";
    INSERT INTO wrong SELECT 'a run with an input that the schedule no longer has' FROM main."AgentGraphExecutionSchedule" s
        WHERE s."id" = NEW."scheduleId" AND json(s."inputData") <> json(NEW."input");
    INSERT INTO wrong SELECT 'a run of a version that is not pinned' FROM main."AgentGraphExecutionSchedule" s
        WHERE s."id" = NEW."scheduleId" AND s."agentGraphVersion" <> NEW."agentGraphVersion";
    INSERT INTO wrong SELECT 'a run beside another' FROM main."AgentGraphExecutionSchedule" s, main."AgentGraphExecution" r
        WHERE s."id" = NEW."scheduleId" AND s."overlap" <> 'allow' AND r."scheduleId" = s."id" AND r."endedAt" IS NULL AND r."id" <> NEW."id";
    INSERT INTO wrong SELECT 'a run of a graph that is deleted' FROM main."AgentGraph" g
        WHERE g."id" = NEW."agentGraphId" AND g."version" = NEW."agentGraphVersion" AND g."archivedAt" IS NOT NULL;
END;
"""


class Died(BaseException):
    """The process was killed here."""


class Disk:
    """What all processes share."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.connection = open_memory()
        self.connection.executescript(_WATCH)
        self.trouble = 0.0
        """How likely a COMMIT or a read is to fail."""
        self.troubles = 0


class Way(engine.Connections):
    """One process's way to the disk; it dies at the step that `deadly` counts down to."""

    def __init__(self, disk: Disk, deadly: int | None = None, *, is_sure: bool = False) -> None:
        super().__init__(engine.ConnectionOptions(Path("year.db")))
        self._disk = disk
        self._deadly = deadly
        self._is_sure = is_sure

    def live(self) -> None:
        """Take one step, perhaps the last."""
        if self._deadly is not None:
            self._deadly -= 1
            if self._deadly < 0:
                raise Died

    async def read(self, function: Callable[[sqlite3.Connection], T], *, several: bool = True) -> T:
        await self._step()
        if self._is_troubled():
            raise sqlite3.OperationalError("disk I/O error (simulated)")
        answer = function(self._disk.connection)
        await self._step()
        return answer

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        await self._step()
        connection = self._disk.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            answer = function(connection)
            self.live()
            trouble = self._disk.chance.choice(["lost", "durable"]) if self._is_troubled() else ""
            if trouble == "lost":
                raise CommitUncertainError("COMMIT failed (simulated): it is not there")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        await self._step()
        if trouble:
            raise CommitUncertainError("COMMIT failed (simulated): it is there")
        return answer

    async def _step(self) -> None:
        self.live()
        await asyncio.sleep(0)
        self.live()

    def _is_troubled(self) -> bool:
        if not self._is_sure and self._disk.trouble and self._disk.chance.random() < self._disk.trouble:
            self._disk.troubles += 1
            return True
        return False
