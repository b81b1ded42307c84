"""Requests that wait until their run has ended.

Hints ("run X reached seq n") say when to look, and one read looks at all runs that were hinted since the read before it: a thousand requests that wait
cost no more reads than one, and none of them is served before another. The sweep of `LiveRuns` makes up for hints that were lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress

from autogpt_server.data.db import Database
from autogpt_server.data.live import RunState, run_state, run_states
from autogpt_server.utils.logging import get_logger

log = get_logger(__name__)


class RunEnds:
    """All requests of this process that wait for the end of a run. `start` and `stop` belong to the loop that serves them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[str, set[asyncio.Future[RunState | None]]] = {}
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Begin to look."""
        self._reader = asyncio.create_task(self._read_forever(), name="ends of runs")

    async def stop(self) -> None:
        """End all waiting: requests are answered with what is known."""
        self._is_stopping = True
        for waiters in self._waiting.values():
            _settle(waiters, None)
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    @property
    def run_ids(self) -> Collection[str]:
        """The runs whose end somebody waits for."""
        return self._waiting.keys()

    def look(self, run_ids: Iterable[str]) -> None:
        """Something has happened in these runs, or may have."""
        due = [run_id for run_id in run_ids if run_id in self._waiting]
        if due:
            self._due.update(due)
            self._wake.set()

    async def wait(self, run_id: str, limit_s: float, *, is_new: bool = False) -> RunState:
        """How the run has ended; or how it is when the time is over, or this server stops. Raises `RunNotFound`.

        `is_new`: nobody has been told of the run yet, so there is nothing to look at before the first hint.
        """
        if not self._is_stopping:
            waiter: asyncio.Future[RunState | None] = asyncio.get_running_loop().create_future()
            waiters = self._waiting.setdefault(run_id, set())
            waiters.add(waiter)
            if not is_new:
                self.look([run_id])  # it may have ended already
            try:
                with suppress(TimeoutError):
                    state = await asyncio.wait_for(waiter, limit_s)
                    if state is not None:
                        return state
            finally:
                waiters.discard(waiter)
                if not waiters and self._waiting.get(run_id) is waiters:
                    del self._waiting[run_id]
        return await run_state(self._db, run_id)

    async def _read_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due & self._waiting.keys(), set()
            if not due:
                continue
            try:
                states = await run_states(self._db, due)
            except Exception:
                log.exception("ends of runs not read; the next hint or sweep has them read again")
                continue
            for run_id, state in states.items():
                if state.is_ended:
                    _settle(self._waiting.get(run_id, ()), state)


def _settle(waiters: Iterable[asyncio.Future[RunState | None]], state: RunState | None) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(state)
