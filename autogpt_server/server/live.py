"""Runs as they happen: whoever watches gets every committed change, in order, once.

The rows are the truth; a hint ("run X reached seq n") only says when to look. One reader per watched run serves all its watchers. A watcher
that begins, or that was too slow for its bounded queue, reads from the database by itself until it has caught up with the reader; so a slow client
costs a little memory and loses nothing. A sweep each second makes up for hints that were lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from autogpt_server.data.db import Database
from autogpt_server.data.live import Changes, RunPosition, first_id_of, graph_runs, read_changes, run_states
from autogpt_server.data.runs import RunNotFound
from autogpt_server.server.run_ends import RunEnds
from autogpt_server.utils.logging import get_logger

SWEEP_S = 1.0
"""How long a change whose hint was lost goes unseen at most, in seconds."""
_REST_RATIO = 2.0
"""After a read of a run its reader rests for so many times as long as it took: what is committed meanwhile is read together."""
_PAGE = 1000
_FIRST_PAGE = 5000
_QUEUE_BATCHES = 32
"""A watcher that is further behind than this is served from the database again."""
_NEW_RUN_WINDOW = timedelta(seconds=60)
"""A run is committed at most this long after its id was made."""

log = get_logger(__name__)


class LiveRuns:
    """All that is being watched in this process. `start` and `stop` belong to the same event loop as everything else."""

    def __init__(self, db: Database, *, sweep_s: float = SWEEP_S) -> None:
        self._db = db
        self._sweep_s = sweep_s
        self._runs: dict[str, _RunFeed] = {}
        self._graphs: dict[str, _GraphFeed] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self.ends = RunEnds(db)
        """Those who wait for the end of a run, and for nothing else of it."""
        self.is_stopping = False

    async def start(self) -> None:
        """Begin to sweep."""
        self.ends.start()
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="live sweep")

    async def stop(self) -> None:
        """End all watching: the iterators return."""
        self.is_stopping = True
        for feed in (*self._runs.values(), *self._graphs.values()):
            feed.close()
        await self.ends.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper

    @property
    def watched_runs(self) -> int:
        """How many runs are being read."""
        return len(self._runs)

    def reached(self, hints: Sequence[tuple[str, str, int]]) -> None:
        """Take hints: (run id, graph id, seq)."""
        self.ends.look([run_id for run_id, _, _ in hints])
        for run_id, graph_id, seq in hints:
            if (run := self._runs.get(run_id)) is not None:
                run.hint(seq)
            if (graph := self._graphs.get(graph_id)) is not None:
                graph.saw(run_id)

    async def follow(self, run_id: str, after: int) -> AsyncGenerator[Changes]:
        """Every change of a run after seq `after`, in batches, until the run has ended or this server stops.

        After 0 there is a first batch at once, whatever it holds. Raises `RunNotFound`.
        """
        feed = self._runs.get(run_id)
        if feed is None:
            feed = self._runs[run_id] = _RunFeed(self._db, run_id)
        watcher = feed.add(after)
        try:
            while not self.is_stopping and (changes := await watcher.next()) is not None:
                yield changes
                if changes.ends_run:
                    return
        finally:
            feed.remove(watcher)
            if not feed.watchers and self._runs.get(run_id) is feed:
                del self._runs[run_id]
                feed.close()

    @asynccontextmanager
    async def watch_graph(self, graph_id: str) -> AsyncGenerator[AsyncGenerator[tuple[str, int]]]:
        """The runs of a graph that are active, then each new one as it appears: (run id, seq to follow it from).

        Whatever is committed after this has been entered will be seen.
        """
        graph = self._graphs.get(graph_id)
        if graph is None:
            graph = self._graphs[graph_id] = _GraphFeed()
        watcher = _GraphWatcher()
        graph.watchers.add(watcher)
        try:
            graph.take(await self._look_at([graph_id]), newcomer=watcher)
            yield self._found(watcher)
        finally:
            graph.watchers.discard(watcher)
            if not graph.watchers and self._graphs.get(graph_id) is graph:
                del self._graphs[graph_id]

    async def _found(self, watcher: _GraphWatcher) -> AsyncGenerator[tuple[str, int]]:
        while not self.is_stopping:
            while watcher.found:
                yield watcher.found.popleft()
            watcher.wake.clear()
            await watcher.wake.wait()

    async def _look_at(self, graph_ids: Sequence[str]) -> list[RunPosition]:
        return await graph_runs(self._db, graph_ids, made_after=_window_start())

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s)
            try:
                await self._sweep()
            except Exception:
                log.exception("live sweep failed; the next one follows")

    async def _sweep(self) -> None:
        self.ends.look(self.ends.run_ids)
        if self._runs:
            for run_id, state in (await run_states(self._db, list(self._runs))).items():
                if (feed := self._runs.get(run_id)) is not None:
                    feed.hint(state.seq)
        if self._graphs:
            positions = await self._look_at(list(self._graphs))
            for graph_id, graph in list(self._graphs.items()):
                graph.take([position for position in positions if position.graph_id == graph_id])


class _RunFeed:
    """The reader of one run, and those it reads for."""

    def __init__(self, db: Database, run_id: str) -> None:
        self._db = db
        self._run_id = run_id
        self._hinted = 0
        self._wake = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.watchers: set[_Watcher] = set()
        self.cursor = 0
        """Everything up to here has been handed to the watchers that are not behind."""
        self.is_closed = False

    def add(self, after: int) -> _Watcher:
        """A new watcher, behind until it has read for itself what came after seq `after`."""
        watcher = _Watcher(self, after)
        self.watchers.add(watcher)
        return watcher

    def remove(self, watcher: _Watcher) -> None:
        self.watchers.discard(watcher)

    def close(self) -> None:
        self.is_closed = True
        if self._reader is not None:
            self._reader.cancel()
        for watcher in self.watchers:
            watcher.wake.set()

    def hint(self, seq: int) -> None:
        """The run has reached this seq, or a later one."""
        if seq > self._hinted:
            self._hinted = seq
            self._wake.set()

    async def read(self, after: int, limit: int) -> Changes:
        return await read_changes(self._db, self._run_id, after, limit=limit)

    def caught_up(self, watcher: _Watcher, seq: int) -> bool:
        """Called by a watcher that has read to the present end, `seq`: whether the reader can take over from there."""
        if not any(not other.is_behind for other in self.watchers if other is not watcher):
            self.cursor = seq  # nobody else is served by the reader: it starts from here
        elif seq < self.cursor:
            return False
        if self._reader is None:
            self._reader = asyncio.create_task(self._serve(), name=f"live {self._run_id}")
        self._wake.set()
        return True

    async def _serve(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._hinted <= self.cursor or all(watcher.is_behind for watcher in self.watchers):
                continue
            began = time.monotonic()
            try:
                changes = await self.read(self.cursor, _PAGE)
            except RunNotFound:
                self.close()
                return
            except Exception:
                log.exception("run not read; tried again with the next hint", run_id=self._run_id)
                await asyncio.sleep(SWEEP_S)
                self._wake.set()
                continue
            self.cursor = max(self.cursor, changes.seq)
            for watcher in self.watchers:
                watcher.put(changes)
            if not changes.is_last_page:
                self._hinted = max(self._hinted, changes.run.seq)
            await asyncio.sleep(_REST_RATIO * (time.monotonic() - began))
            self._wake.set()


class _Watcher:
    """One who watches a run."""

    def __init__(self, feed: _RunFeed, after: int) -> None:
        self._feed = feed
        self._cursor = after
        self._has_begun = after > 0
        self._queue: deque[Changes] = deque()
        self.is_behind = True
        """Reads for itself; the reader's batches are of no use to it yet."""
        self.wake = asyncio.Event()

    def put(self, changes: Changes) -> None:
        """Take what the reader has read."""
        if self.is_behind:
            return
        if len(self._queue) >= _QUEUE_BATCHES:
            self._queue.clear()
            self.is_behind = True
        else:
            self._queue.append(changes)
        self.wake.set()

    async def next(self) -> Changes | None:
        """The next changes; None once there is nobody to read for."""
        while not self._feed.is_closed:
            if self.is_behind:
                changes = await self._read_on()
                if changes is not None:
                    return changes
            elif self._queue:
                changes = self._queue.popleft()
                if changes.seq > self._cursor:
                    fresh = [node for node in changes.nodes if node.seq > self._cursor]
                    self._cursor = changes.seq
                    return Changes(changes.run, fresh, changes.seq)
            else:
                self.wake.clear()
                await self.wake.wait()
        return None

    async def _read_on(self) -> Changes | None:
        """A page from the database; None if it brings nothing new."""
        changes = await self._feed.read(self._cursor, _PAGE if self._has_begun else _FIRST_PAGE)
        # No await from here on: what the reader reads after this moment comes through the queue.
        if changes.is_last_page and self._feed.caught_up(self, changes.seq):
            self.is_behind = False
        is_news = changes.seq > self._cursor or not self._has_begun or changes.ends_run
        self._cursor = max(self._cursor, changes.seq)
        self._has_begun = True
        return changes if is_news else None


class _GraphFeed:
    """Which runs of a graph there are, for those who watch the graph."""

    def __init__(self) -> None:
        self.watchers: set[_GraphWatcher] = set()
        self._known: set[str] = set()

    def saw(self, run_id: str) -> None:
        """A hint named this run."""
        if run_id not in self._known and run_id > first_id_of(_window_start()):
            self._announce(run_id)

    def take(self, positions: Sequence[RunPosition], newcomer: _GraphWatcher | None = None) -> None:
        """Take what the database says: every run that is active or new. A newcomer follows active runs from where they are."""
        if newcomer is not None:
            for position in positions:
                if position.is_ended or position.run_id in newcomer.told:
                    newcomer.told.add(position.run_id)
                else:
                    newcomer.tell(position.run_id, position.seq)
        for position in positions:
            if position.run_id not in self._known:
                self._announce(position.run_id)
        current = {position.run_id for position in positions}
        start = first_id_of(_window_start())
        self._known = {run_id for run_id in self._known if run_id in current or run_id > start}
        for watcher in self.watchers:
            watcher.told &= self._known

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.wake.set()

    def _announce(self, run_id: str) -> None:
        self._known.add(run_id)
        for watcher in self.watchers:
            watcher.tell(run_id, 0)


class _GraphWatcher:
    """One who watches a graph."""

    def __init__(self) -> None:
        self.found: deque[tuple[str, int]] = deque()
        self.told: set[str] = set()
        self.wake = asyncio.Event()

    def tell(self, run_id: str, seq: int) -> None:
        """There is a run to follow."""
        if run_id not in self.told:
            self.told.add(run_id)
            self.found.append((run_id, seq))
            self.wake.set()


def _window_start() -> datetime:
    return datetime.now(UTC) - _NEW_RUN_WINDOW
