"""Keeps a run from getting too far ahead of what is committed (rule D3a)."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far ahead a run may be."""

    events: int = 1000
    bytes: int = 8 * 1024 * 1024


class Gate:
    """Counts the values of one run that are not durable yet, and makes those who yield more wait.

    Blocks count and wait from their threads or on the loop; the committer settles on the loop.
    """

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance()
        self._events = 0
        self._bytes = 0
        self._changed = threading.Condition()
        self._waiters: list[asyncio.Future[None]] = []

    def count(self, size_bytes: int) -> None:
        """One more value is on its way."""
        with self._changed:
            self._events += 1
            self._bytes += size_bytes

    def settle(self, events: int, size_bytes: int) -> None:
        """So much has become durable, or will never be. Called on the loop."""
        with self._changed:
            self._events -= events
            self._bytes -= size_bytes
            if not self.is_open:
                return
            self._changed.notify_all()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def wait_in_thread(self, stopped: threading.Event) -> None:
        """Wait until there is room, or the attempt is stopped (`wake` after setting it)."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_open or stopped.is_set())

    async def wait_on_loop(self) -> None:
        """Wait until there is room."""
        while not self.is_open:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def wake(self) -> None:
        """Have those who wait in threads look whether they are stopped."""
        with self._changed:
            self._changed.notify_all()

    @property
    def is_open(self) -> bool:
        """Whether there is room for one more value."""
        return self._events < self._allowance.events and self._bytes < self._allowance.bytes
