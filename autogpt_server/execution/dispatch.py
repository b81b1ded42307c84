"""Which run goes to which worker. Pure; the manager keeps it up to date. Everything here can be made again from the database by one sweep."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Bench:
    """A worker that waits for runs."""

    worker_id: str
    room: int
    given: list[str] = field(default_factory=list[str])


class Dispatcher:
    """Runs that wait, and runs that workers hold.

    A run is in one place: it waits, or one worker holds it, or it is not known here. Higher priority goes first, then the older run (their ids
    sort by time).
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._waiting: dict[str, int] = {}
        self._holder: dict[str, str] = {}
        self._held: dict[str, dict[str, int]] = {}
        """Worker -> run -> its priority."""
        self._suspects: set[str] = set()
        """Runs that a worker held when it died, until another is done with them."""

    def offer(self, run_id: str, priority: int) -> None:
        """A run wants a worker. Offering it again, or while a worker holds it, changes nothing."""
        if run_id in self._waiting or run_id in self._holder:
            return
        self._waiting[run_id] = priority
        heapq.heappush(self._heap, (-priority, run_id))

    def withdraw(self, run_id: str) -> None:
        """A waiting run wants no worker any more."""
        self._waiting.pop(run_id, None)

    def done(self, worker_id: str, run_ids: Iterable[str]) -> None:
        """A worker no longer holds these runs."""
        for run_id in run_ids:
            if self._holder.get(run_id) == worker_id:
                self._held[worker_id].pop(run_id)
                del self._holder[run_id]
                self._suspects.discard(run_id)

    def take_back(self, worker_id: str, run_ids: Iterable[str]) -> None:
        """Runs that were given to a worker have not reached it: they wait again."""
        for run_id in run_ids:
            if self._holder.get(run_id) == worker_id:
                priority = self._held[worker_id].pop(run_id)
                del self._holder[run_id]
                self.offer(run_id, priority)

    def worker_died(self, worker_id: str) -> list[str]:
        """Forget a worker; answers the runs that it held."""
        held = sorted(self._held.pop(worker_id, {}))
        for run_id in held:
            del self._holder[run_id]
        self._suspects.update(held)
        return held

    def holder(self, run_id: str) -> str | None:
        """The worker that holds the run."""
        return self._holder.get(run_id)

    def suspects(self, run_ids: Iterable[str]) -> list[str]:
        """Those of the runs that may have killed a worker."""
        return [run_id for run_id in run_ids if run_id in self._suspects]

    def give(self, bench: Bench, run_id: str, priority: int) -> None:
        """Give a run to this worker and no other."""
        self._waiting.pop(run_id, None)
        self._hand_over(bench, run_id, priority)
        self._suspects.add(run_id)

    def is_idle(self, worker_id: str) -> bool:
        """Whether the worker holds no run."""
        return not self._held.get(worker_id)

    @property
    def waiting(self) -> int:
        """How many runs wait."""
        return len(self._waiting)

    def ahead_of(self, run_id: str) -> int | None:
        """How many runs are given to workers before this one; None if it does not wait."""
        priority = self._waiting.get(run_id)
        if priority is None:
            return None
        own = (-priority, run_id)
        return sum((-other_priority, other) < own for other, other_priority in self._waiting.items())

    def assign(self, benches: Iterable[Bench]) -> None:
        """Give waiting runs to workers that wait, one at a time to the one that holds the fewest."""
        open_benches = [bench for bench in benches if bench.room > 0]
        while open_benches and (found := self._next_waiting()) is not None:
            run_id, priority = found
            bench = min(open_benches, key=lambda bench: len(self._held.get(bench.worker_id, ())))
            self._hand_over(bench, run_id, priority)
            if bench.room == 0:
                open_benches.remove(bench)

    def _hand_over(self, bench: Bench, run_id: str, priority: int) -> None:
        bench.given.append(run_id)
        bench.room -= 1
        self._holder[run_id] = bench.worker_id
        self._held.setdefault(bench.worker_id, {})[run_id] = priority

    def _next_waiting(self) -> tuple[str, int] | None:
        while self._heap:
            negative, run_id = heapq.heappop(self._heap)
            # An entry may be left over from an offer that was withdrawn, with another priority.
            if self._waiting.get(run_id) == -negative:
                del self._waiting[run_id]
                return run_id, -negative
        return None
