"""Whose turn it is to write, among processes: the kernel wakes the next one when the last is done.

SQLite's write lock cannot be waited for, only tried again and again: whoever sleeps between two tries misses the moments in which it is free, while
somebody who has just written finds it free at once. So writers queue at a file beside the database first (`flock`), and try SQLite's lock when it is
their turn. Correctness does not rest on it: whoever waits for long, because the one whose turn it is was stopped or takes its time, goes on without.
"""

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 0.25
"""Then a writer goes on without a turn. Many times what a transaction takes."""


class Turn:
    """A place in the queue at one file. `take` and `give` are for one thread.

    Who holds a turn and dies, in whatever way, gives it back. A process that was forked from the one that holds it, and lives on, keeps it; then,
    too, others go on without.
    """

    def __init__(self, path: Path) -> None:
        """``path``: a file that all writers name; it is made if it is missing.

        Raises:
            OSError: it cannot be.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_mine = False
        self._waiter: _Waiter | None = None

    def take(self) -> bool:
        """Wait for the turn, and have it until `give`; False if it did not come soon, and others will not wait for us."""
        if self._waiter is not None and self._waiter.is_late:
            return False  # somebody holds it for long: not again the same wait for each write
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self._waiter is None:
                self._waiter = _Waiter(self._fd)
            self._is_mine = self._waiter.wait(PATIENCE_S)
        except OSError:  # a file system without `flock`
            return False
        else:
            self._is_mine = True
        return self._is_mine

    def give(self) -> None:
        """Let the next one have it, if it is ours."""
        if self._is_mine:
            self._is_mine = False
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the turn back, and use the file no more."""
        self.give()
        if self._waiter is None:
            os.close(self._fd)
        else:
            self._waiter.close()


class _Waiter:
    """A thread that waits in the kernel, which cannot be done for a limited time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._asked = threading.Semaphore(0)
        self._granted = threading.Lock()
        self._granted.acquire()
        self._state = threading.Lock()
        self._is_closed = False
        self.is_late = False
        """Whether it is still waiting for a turn that nobody wants any more."""
        threading.Thread(target=self._work, name="sqlite-turn", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the turn; False if it did not come, and will be given back when it comes."""
        self._asked.release()
        if self._granted.acquire(timeout=timeout_s):
            return True
        with self._state:
            # It may have come at the last moment.
            self.is_late = not self._granted.acquire(blocking=False)
        return not self.is_late

    def close(self) -> None:
        """Close the file, now or when the waiting ends."""
        with self._state:
            self._is_closed = True
        self._asked.release()

    def _work(self) -> None:
        while self._asked.acquire() and not self._is_closed:
            # What the file system refuses now, it granted before: go on as if it was ours.
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            with self._state:
                if self.is_late:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
                    self.is_late = False
                else:
                    self._granted.release()
        os.close(self._fd)
