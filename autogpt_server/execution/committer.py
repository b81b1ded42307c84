"""Writes what runs have done, many runs at a time (rules D2 and D3a).

While one transaction is on its way to the disk, changes gather for the next: under load commits grow. At rest, what somebody waits for is written at once;
what nobody waits for lingers for a few milliseconds, so that a chain of short pure blocks costs one transaction and not ten. Nothing outside the worker hears of an
event before the transaction that holds it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from autogpt_server.data.db import CommitUncertain, Database, DatabaseUnavailable, typed_errors
from autogpt_server.data.execution import commit, is_committed
from autogpt_server.data.run_rows import CommitOutcome, CommitResult, RunCommit
from autogpt_server.utils import faults
from autogpt_server.utils.logging import get_logger

log = get_logger(__name__)

LINGER_S = 0.005
"""How long changes that nobody waits for may gather."""
RETRY_S = 1.0
"""Pause after the database refused a whole transaction (disk full, I/O error)."""


class Source(Protocol):
    """A run whose changes have to be written."""

    def cut(self) -> RunCommit | None:
        """Take the changes since the last cut, as rows; None if there are none."""
        ...

    def written(self, entry: RunCommit, result: CommitResult) -> None:
        """Learn what became of a cut."""
        ...

    def fail(self, error: Exception) -> None:
        """`cut` or `written` raised: only this run suffers from it."""
        ...


class Committer:
    """The one writer of a worker."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._dirty: dict[Source, None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lingering: asyncio.TimerHandle | None = None

    def changed(self, source: Source, *, at_once: bool = True) -> None:
        """The source has changes, which somebody waits for or not. Called on the loop."""
        self._dirty[source] = None
        self._idle.clear()
        if at_once:
            self._wake.set()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._wake.set)

    async def flush(self) -> None:
        """Wait until everything is written."""
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Write until canceled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._lingering is not None:
                self._lingering.cancel()
                self._lingering = None
            dirty, self._dirty = self._dirty, {}
            cuts = [(source, entry) for source in dirty if (entry := _cut(source)) is not None]
            if cuts:
                faults.reach("committer.write.before")
                results = await self._write([entry for _, entry in cuts])
                faults.reach("committer.write.after")
                for (source, entry), result in zip(cuts, results, strict=True):
                    _tell(source, entry, result)
            if not self._dirty:
                self._idle.set()

    async def _write(self, batch: Sequence[RunCommit]) -> list[CommitResult]:
        """Write a batch, however often it takes: what was cut must not be lost while this worker owns its runs."""
        while True:
            try:
                with typed_errors():
                    return await self._db.write(lambda connection: commit(connection, batch))
            except CommitUncertain as error:
                log.warning("commit may have failed, reading again", error=str(error))
                results = await self._what_became_of(batch)
                if results is not None:
                    return results
            except DatabaseUnavailable as error:
                # Runs pause here: nothing that depends on the commit goes on.
                log.error("database refused a commit, trying again", error=str(error))  # noqa: TRY400
            await asyncio.sleep(RETRY_S)

    async def _what_became_of(self, batch: Sequence[RunCommit]) -> list[CommitResult] | None:
        """The results of a transaction whose COMMIT raised, or None if it left nothing.

        It is there as a whole or not at all. So if one run is where it was to be moved, the others that are not were refused.
        """
        while True:
            try:
                with typed_errors():
                    moved = await self._db.read(lambda connection: [is_committed(connection, entry) for entry in batch])
            except DatabaseUnavailable as error:
                log.error("database cannot be read, trying again", error=str(error))  # noqa: TRY400
                await asyncio.sleep(RETRY_S)
                continue
            if not any(moved):
                return None
            return [CommitResult(CommitOutcome.DONE if done else CommitOutcome.FENCED) for done in moved]


def _cut(source: Source) -> RunCommit | None:
    try:
        return source.cut()
    except Exception as error:  # noqa: BLE001 - a mistake in one run's rows must not keep the others from the disk
        source.fail(error)
        return None


def _tell(source: Source, entry: RunCommit, result: CommitResult) -> None:
    try:
        source.written(entry, result)
    except Exception as error:  # noqa: BLE001 - as above
        source.fail(error)
