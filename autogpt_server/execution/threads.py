"""Threads for blocks whose `run` is a plain generator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class BlockThreads:
    """Runs one job per thread; threads are made when they are needed, and kept.

    The callers see to it that there are never more jobs than they want threads (`Slots`). Beside concurrent.futures there are no futures: attempts
    report what happens by themselves, and making a future for each costs as much as a trivial block takes. Nobody waits for the threads at the end:
    one may be stuck in a block, and ends with the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Have the job done now. It must not raise."""
        with self._lock:
            self._idle -= 1
            is_short = self._idle < 0
            if is_short:
                self._idle = 0
                self._threads += 1
        self._jobs.put(job)
        if is_short:
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            job()
            del job  # else it would be kept until the next one comes
            with self._lock:
                self._idle += 1
