"""The scheduler's timer. The waits have limits that only a failure reaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from autogpt_server.execution import timer as timer_module
from autogpt_server.execution.timer import Timer

LIMIT_S = 20.0


@pytest.fixture
async def timer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Timer]:
    """A timer without sweeps, for what it does besides."""
    monkeypatch.setattr(timer_module, "SWEEP_S", 3600)
    made = Timer()
    made.start()
    yield made
    made.stop()


async def test_it_wakes_at_the_time_that_was_set(timer: Timer) -> None:
    at = datetime.now(UTC) + timedelta(milliseconds=50)
    timer.set(at)
    await asyncio.wait_for(timer.wait(), LIMIT_S)
    assert datetime.now(UTC) >= at


@pytest.mark.parametrize("late", [timedelta(seconds=2), timedelta(days=2)])
async def test_a_time_that_has_passed_wakes_at_once_however_late_it_is(timer: Timer, late: timedelta) -> None:
    for _ in range(2):
        timer.set(datetime.now(UTC) - late)
        await asyncio.wait_for(timer.wait(), LIMIT_S)


async def test_the_time_can_be_moved(timer: Timer) -> None:
    timer.set(datetime.now(UTC) + timedelta(days=1))
    timer.set(None)
    timer.set(datetime.now(UTC) + timedelta(days=1))
    timer.set(datetime.now(UTC) + timedelta(milliseconds=20))
    await asyncio.wait_for(timer.wait(), LIMIT_S)


async def test_it_can_be_woken(timer: Timer) -> None:
    timer.wake()
    timer.wake()
    await asyncio.wait_for(timer.wait(), LIMIT_S)
    waiting = asyncio.create_task(timer.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    timer.wake()
    await asyncio.wait_for(waiting, LIMIT_S)


async def test_it_sweeps() -> None:
    timer = Timer()
    timer.start()
    await asyncio.wait_for(timer.wait(), LIMIT_S)
    await asyncio.wait_for(timer.wait(), LIMIT_S)
    timer.stop()
