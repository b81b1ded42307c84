"""The ExecutionScheduler: the service that fires schedules.

A timer (`autogpt_server.execution.timer`) or a hint says when to look; what is due, and what becomes of it, is read from the database at each look
(`autogpt_server.execution.ticks`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from autogpt_server.blocks import get_blocks
from autogpt_server.data.db import Database
from autogpt_server.data.firing import SchedulesUnavailable
from autogpt_server.execution.interfaces import ManagerInterface, SchedulerInterface
from autogpt_server.execution.ticks import Ticker
from autogpt_server.execution.timer import Timer
from autogpt_server.execution.topologies import Topologies
from autogpt_server.utils.clock import Clock, SystemClock
from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.process import ProcessContext
from autogpt_server.utils.rpc.errors import CallTimeout, ServiceUnavailable
from autogpt_server.utils.service import AppService, get_service_client
from autogpt_server.utils.settings import Settings

log = get_logger(__name__)

HINTS = 32
"""Of this many runs at most the manager is told at once; it finds more of them by its own sweep."""


class ExecutionScheduler(SchedulerInterface, AppService):
    """Turns due schedules into committed runs."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        super().__init__(settings)
        self._clock = clock or SystemClock()
        self._timer: Timer | None = None
        self._hinting: set[asyncio.Task[None]] = set()

    async def serve(self, context: ProcessContext) -> None:
        """Fire schedules until drained."""
        self._manager = get_service_client(ManagerInterface, self.settings)
        async with await Database.open(self.settings) as db:
            ticker = Ticker(
                db,
                Topologies(db, get_blocks(self.settings.block_modules)),
                self._clock,
                self.settings,
                on_commit=self._tell_manager,
            )
            self._timer = timer = Timer()
            timer.start()
            await context.ready()
            firing = asyncio.create_task(self._fire(ticker, timer))
            rearming = asyncio.create_task(self._rearm(ticker, timer))
            drained = asyncio.create_task(context.drain_requested())
            await asyncio.wait({firing, drained}, return_when=asyncio.FIRST_COMPLETED)
            if firing.done():
                firing.result()  # it does not end unasked: raise what ended it
            timer.stop()
            for task in (firing, rearming):
                task.cancel()  # a commit that has begun is finished all the same
            await asyncio.gather(firing, rearming, *self._hinting, return_exceptions=True)

    async def schedules_changed(self) -> None:
        """Look at once."""
        if self._timer is not None:
            self._timer.wake()

    async def _fire(self, ticker: Ticker, timer: Timer) -> None:
        while True:
            try:
                tick = await ticker.tick()
            except SchedulesUnavailable as error:
                log.error("schedules not looked at, trying again", error=str(error))  # noqa: TRY400 - the message says it all
            else:
                timer.set(tick.next_fire_at)
            await timer.wait()

    async def _rearm(self, ticker: Ticker, timer: Timer) -> None:
        try:
            count = await ticker.rearm()
        except SchedulesUnavailable as error:
            log.error("due times not checked", error=str(error))  # noqa: TRY400 - the message says it all
            return
        if count:
            log.warning("due times corrected: the time zone database or the server has changed", schedules=count)
            timer.wake()

    def _tell_manager(self, run_ids: Sequence[str]) -> None:
        if not self._hinting:
            task = asyncio.create_task(self._hint(run_ids[:HINTS]))
            self._hinting.add(task)
            task.add_done_callback(self._hinting.discard)

    async def _hint(self, run_ids: Sequence[str]) -> None:
        try:
            for run_id in run_ids:
                await self._manager.run_waits(run_id)
        except (ServiceUnavailable, CallTimeout) as error:
            log.debug("manager not told", error=str(error))  # it finds the runs by itself
