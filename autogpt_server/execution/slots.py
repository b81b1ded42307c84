"""Room for attempts of one kind (in threads, or on the loop), and what waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from autogpt_server.execution.owner import RunOwner
from autogpt_server.execution.state import Execution


class Slots:
    """A counted number of places. Everything here is called in turn (`turns.py`)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._queue: deque[tuple[RunOwner, Execution]] = deque()

    @property
    def used(self) -> int:
        """How many attempts have a place."""
        return self._size - self._free

    def enqueue(self, owner: RunOwner, execution: Execution) -> None:
        """Let an execution wait for a place."""
        self._queue.append((owner, execution))

    def free_one(self) -> None:
        """An attempt has given its place back."""
        self._free += 1

    def take_back_one(self) -> None:
        """An attempt that gave its place back for a while goes on, whether there is room or not."""
        self._free -= 1

    def fill(self, begin: Callable[[RunOwner, Execution], bool]) -> None:
        """Begin what waits as long as there are places. `begin` answers whether an attempt has begun, and so takes one."""
        while self._queue and self._free > 0:
            owner, execution = self._queue.popleft()
            if begin(owner, execution):
                self._free -= 1
