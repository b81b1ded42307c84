"""The database of the simulation: a real one in memory, on which every process works through connections that can fail."""

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


class Disk:
    """The file that all processes share. What a process asks for happens at one moment, between its asking and its being answered."""

    def __init__(self, chance: random.Random, after_commit: Callable[[sqlite3.Connection], None]) -> None:
        self.connection = open_memory()
        self._chance = chance
        self._after_commit = after_commit
        self.full_until = 0.0
        """Until then it takes nothing."""
        self.trouble = 0.0
        """How likely a COMMIT is to fail."""
        self.slowness_s = 0.02

    def delay_s(self) -> float:
        """How long a request or its answer takes."""
        return self._chance.random() ** 4 * self.slowness_s

    def write(self, perform: Callable[[sqlite3.Connection], T]) -> T:
        """A transaction, or the failure of one."""
        trouble = self._chance.choice(("full", "lost", "durable")) if self._chance.random() < self.trouble else None
        if trouble == "full" or asyncio.get_running_loop().time() < self.full_until:
            raise sqlite3.OperationalError("database or disk is full")
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            answer = perform(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        if trouble == "lost":
            connection.execute("ROLLBACK")
            raise CommitUncertainError("COMMIT failed (simulated): it is not there")
        connection.execute("COMMIT")
        self._after_commit(connection)
        if trouble == "durable":
            raise CommitUncertainError("COMMIT failed (simulated): it is there")
        return answer

    def try_to_read(self) -> None:
        """Raise, if it cannot be read at the moment."""
        if self._chance.random() < self.trouble / 4:
            raise sqlite3.OperationalError("disk I/O error")


class SimulatedConnections(engine.Connections):
    """One process's way to the disk."""

    def __init__(self, disk: Disk, *, can_fail_to_read: bool = False) -> None:
        super().__init__(engine.ConnectionOptions(Path("simulated.db")))
        self._disk = disk
        self._can_fail_to_read = can_fail_to_read
        self._turn = asyncio.Lock()

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        async with self._turn:
            await asyncio.sleep(self._disk.delay_s())
            try:
                return self._disk.write(function)
            finally:
                await asyncio.sleep(self._disk.delay_s())

    async def read(self, function: Callable[[sqlite3.Connection], T], *, several: bool = True) -> T:
        await asyncio.sleep(self._disk.delay_s())
        try:
            if self._can_fail_to_read:
                self._disk.try_to_read()
            return function(self._disk.connection)
        finally:
            await asyncio.sleep(self._disk.delay_s())

    async def peek(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self.read(function)

    async def aclose(self) -> None:
        """Nothing to close: the disk belongs to all."""
