"""Keeps a run from getting too far ahead: of what is committed (rule D3a), and of those who have to deal with its values."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far ahead a run may be."""

    events: int = 1000
    bytes: int = 8 * 1024 * 1024


class Passer(Protocol):
    """An attempt that yields values."""

    is_stopped: bool

    @property
    def node_index(self) -> int:
        """Which node it performs."""
        ...


class Gate:
    """Counts the values of one run that are not durable yet, and makes those who yield more wait.

    Nodes that send values to others which cannot keep up are paused. Everything here may be called from any thread.
    """

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance()
        self._events = 0
        self._bytes = 0
        self._paused: frozenset[int] = frozenset()
        self._changed = threading.Condition()
        self._waiters: list[asyncio.Future[None]] = []

    def count(self, size_bytes: int) -> None:
        """One more value is on its way."""
        with self._changed:
            self._events += 1
            self._bytes += size_bytes

    def settle(self, events: int, size_bytes: int) -> None:
        """So much has become durable, or will never be."""
        with self._changed:
            self._events -= events
            self._bytes -= size_bytes
        if self.is_open:
            self.wake()

    def pause(self, nodes: frozenset[int]) -> None:
        """Let these nodes wait before they yield more, and no others."""
        self._paused = nodes
        self.wake()

    def wait_in_thread(self, attempt: Passer, note_pause: Callable[[bool], None]) -> None:
        """Wait until there is room, or the attempt is stopped (`wake` after setting it).

        `note_pause(True)` is called before a pause, `note_pause(False)` after it.
        """
        if self.is_open and not self.is_paused(attempt):
            return
        paused = False
        with self._changed:
            while not attempt.is_stopped and not (self.is_open and not self.is_paused(attempt)):
                if self.is_paused(attempt) and not paused:
                    paused = True
                    note_pause(True)
                    continue  # what that has led to may have ended the wait already
                self._changed.wait()
        if paused:
            note_pause(False)

    async def wait_on_loop(self, attempt: Passer, note_pause: Callable[[bool], None]) -> None:
        """The same on the loop; an attempt that is stopped is canceled there."""
        paused = False
        try:
            while not (self.is_open and not self.is_paused(attempt)):
                if self.is_paused(attempt) and not paused:
                    paused = True
                    note_pause(True)
                waiter = asyncio.get_running_loop().create_future()
                with self._changed:
                    self._waiters.append(waiter)
                if not self.is_open or self.is_paused(attempt):  # looked at again, for it may just have changed
                    await waiter
        finally:
            if paused:
                note_pause(False)

    def wake(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.get_loop().call_soon_threadsafe(_let_go, waiter)

    def is_paused(self, attempt: Passer) -> bool:
        """Whether the attempt's node has to wait."""
        return bool(self._paused) and attempt.node_index in self._paused

    @property
    def is_open(self) -> bool:
        """Whether there is room for one more value."""
        return self._events < self._allowance.events and self._bytes < self._allowance.bytes


def _let_go(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
