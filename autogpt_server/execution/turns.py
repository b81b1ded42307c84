"""Whose turn it is to plan: one thread at a time, whichever has something to report."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

MAX_ROUNDS = 16
"""How often a thread applies what others bring while it plans; then the loop goes on with that."""


class Planning(Protocol):
    """How those who share a worker's runs keep out of each other's way."""

    def mine(self) -> AbstractContextManager[None]:
        """Plan, on the loop, once nobody else does."""
        ...

    def soon(self, perform: Callable[..., object], *arguments: Any) -> None:
        """Do something on the loop, from whatever thread: at once if it is the loop's."""
        ...


class Alone:
    """There is one thread only."""

    def mine(self) -> AbstractContextManager[None]:
        """See `Planning.mine`."""
        return nullcontext()

    def soon(self, perform: Callable[..., object], *arguments: Any) -> None:
        """See `Planning.soon`."""
        perform(*arguments)


class Turns:
    """Lets a worker's loop and its block threads plan in turns.

    A block that has yielded or ended brings its events along and applies them in its own thread, unless another thread is planning at that moment: then
    that one applies them, too, before it leaves. So nobody waits for the loop to wake up, and no block thread ever waits for its turn; only the
    loop does, for as long as others need to apply what they have. (The idea is known as flat combining: D. Hendler, I. Incze, N. Shavit, M. Tzafrir, 2010.)
    """

    def __init__(self, work_off: Callable[[], None], finish: Callable[[], None]) -> None:
        """`work_off` applies the events that wait, `finish` does what follows from a turn; both are called in turn, and must not raise."""
        self._work_off = work_off
        self._finish = finish
        self._lock = threading.Lock()
        self._has_events = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs in the present thread."""
        self._loop = loop
        self._loop_thread = threading.get_ident()

    def soon(self, perform: Callable[..., object], *arguments: Any) -> None:
        """See `Planning.soon`."""
        if threading.get_ident() == self._loop_thread:
            perform(*arguments)
        else:
            self._loop.call_soon_threadsafe(perform, *arguments)

    @contextmanager
    def mine(self) -> Generator[None]:
        """See `Planning.mine`."""
        with self._lock:
            try:
                yield
            finally:
                self._finish()
        self._combine()

    def notify(self) -> None:
        """There are events: apply them here, or leave them to the thread that is planning."""
        self._has_events = True
        self._combine()

    def call_later(self, delay_s: float, perform: Callable[[], None]) -> TurnAlarm:
        """Have something done in turn, on the loop, after a while."""
        alarm = TurnAlarm(self, perform)
        self.soon(alarm.set, self._loop, delay_s)
        return alarm

    def _combine(self) -> None:
        # Whoever had the turn looks again after giving it back, so that no event is left behind.
        for _ in range(MAX_ROUNDS):
            if not self._has_events or not self._lock.acquire(blocking=False):
                return
            try:
                self._has_events = False
                self._work_off()
                self._finish()
            finally:
                self._lock.release()
        self._loop.call_soon_threadsafe(self._combine)


class TurnAlarm:
    """Something to be done in turn at a time (`autogpt_server.utils.clock.Alarm`)."""

    def __init__(self, turns: Turns, perform: Callable[[], None]) -> None:
        self._turns = turns
        self._perform = perform
        self._handle: asyncio.TimerHandle | None = None
        self._is_canceled = False

    def set(self, loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
        """Begin to wait. Called on the loop."""
        if not self._is_canceled:
            self._handle = loop.call_later(delay_s, self._go_off)

    def cancel(self) -> None:
        """Not be called any more."""
        self._is_canceled = True
        if self._handle is not None:
            self._turns.soon(self._handle.cancel)

    def _go_off(self) -> None:
        with self._turns.mine():
            if not self._is_canceled:
                self._perform()
