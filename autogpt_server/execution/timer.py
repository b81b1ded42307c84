"""The scheduler's timer, on APScheduler.

It has two jobs however many schedules there are: a wake-up at the next due time of all of them, and a sweep each second, which finds what no hint
told of and does not mind a clock that jumps or a machine that slept.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

SWEEP_S = 1
"""Between two looks of which no wake-up and no hint told."""

_SWEEP, _WAKE_UP = "sweep", "wake-up"


class Timer:
    """Wakes its owner each `SWEEP_S`, and at one time that can be moved. Belongs to the loop it is made on."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._at: datetime | None = None
        # Without this, APScheduler drops a wake-up that comes more than a second late.
        defaults = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        # APScheduler has no annotations.
        self._scheduler: Any = AsyncIOScheduler(timezone=UTC, job_defaults=defaults)

    def start(self) -> None:
        """Begin."""
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it would write two lines each second
        self._scheduler.start()
        self._scheduler.add_job(self._wake, IntervalTrigger(seconds=SWEEP_S, timezone=UTC), id=_SWEEP)

    def stop(self) -> None:
        """End; nobody is woken any more."""
        self._scheduler.shutdown(wait=False)

    def set(self, at: datetime | None) -> None:
        """Wake at this time instead of the one set before, at once if it has passed; None: at the sweeps only."""
        if at == self._at:
            return
        self._at = at
        if at is not None:
            self._scheduler.add_job(self._wake_at, DateTrigger(at, timezone=UTC), id=_WAKE_UP, replace_existing=True)
        elif self._scheduler.get_job(_WAKE_UP) is not None:
            self._scheduler.remove_job(_WAKE_UP)

    def wake(self) -> None:
        """Wake now."""
        self._woken.set()

    async def wait(self) -> None:
        """Return at the next wake-up, or at once if there was one since the last return."""
        await self._woken.wait()
        self._woken.clear()

    async def _wake(self) -> None:
        self._woken.set()

    async def _wake_at(self) -> None:
        self._at = None
        self._woken.set()
