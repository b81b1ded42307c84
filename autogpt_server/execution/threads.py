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
        self._lock = threading.Lock()
        self._made = 0
        self._idle = 0
        self._here = _Here()

    def submit(self, job: Callable[[], None]) -> None:
        """Have the job done now. It must not raise."""
        here = self._here
        if here.is_ending and here.next_job is None:
            here.next_job = job
            return
        with self._lock:
            is_short = self._idle == 0
            if is_short:
                self._made += 1
            else:
                self._idle -= 1
        self._jobs.put(job)
        if is_short:
            threading.Thread(target=self._work, name=f"{self._name}-{self._made}", daemon=True).start()

    def end(self, last: Callable[[], None]) -> None:
        """Do the last thing of a job. A job that is submitted by it is done in this thread next, without waking another one."""
        here = self._here
        here.is_ending = here.is_block_thread
        try:
            last()
        finally:
            here.is_ending = False

    def _work(self) -> None:
        here = self._here
        here.is_block_thread = True
        while True:
            job = self._jobs.get()
            while job is not None:
                job()
                job, here.next_job = here.next_job, None
            with self._lock:
                self._idle += 1


class _Here(threading.local):
    """What each thread knows of itself."""

    is_block_thread = False
    is_ending = False
    next_job: Callable[[], None] | None = None
