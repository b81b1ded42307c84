"""Performs runs step by step in the test's own process: the real planner and the real commit, one transaction per event, when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from autogpt_server.data.block import Block
from autogpt_server.data.db import Database, db_time
from autogpt_server.data.execution import commit, run_key
from autogpt_server.data.run_rows import CommitOutcome, RunCommit
from autogpt_server.data.snapshot import RunSnapshot, load_run
from autogpt_server.execution.events import Ended, Event, Started, Suspended, Yielded
from autogpt_server.execution.flow import Todo
from autogpt_server.execution.news import event_of
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.restore import restore_run, static_pins
from autogpt_server.execution.rows import take_changes
from autogpt_server.execution.start import run_limits
from autogpt_server.execution.state import Execution, Failure, FailureKind
from autogpt_server.execution.topologies import Topologies
from autogpt_server.server.context import ServerContext
from autogpt_server.utils import json
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings
from support.blocks import run_block

Reached = Callable[[str, str, int], None]


class RunPerformer:
    """The owner of one run. `reached` is called after each commit, as a worker's hint would be."""

    def __init__(self, db: Database, blocks: Mapping[str, Block], settings: Settings, reached: Reached) -> None:
        self._db = db
        self._topologies = Topologies(db, blocks)
        self._settings = settings
        self._reached = reached

    async def perform(self, run_id: str, graph_id: str, version: int = 1) -> None:
        """Bring a run to its end."""
        async for _ in self.steps(run_id, graph_id, version):
            pass

    async def steps(self, run_id: str, graph_id: str, version: int = 1) -> AsyncIterator[int]:
        """Bring a run to its end, one committed event at a time: yields the seq of each."""
        topology = await self._topologies.get(graph_id, version)
        snapshot = await self._db.read(lambda connection: load_run(connection, run_id, static_pins(topology)))
        assert snapshot is not None, f"run {run_id} has ended or does not exist"
        state = restore_run(topology, snapshot)
        planner = Planner(state, new_id=new_id, limits=run_limits(self._settings))
        waiting: deque[Execution] = deque()
        committed = snapshot.seq
        claim = True

        async def settle(todo: Todo) -> int:
            nonlocal committed, claim
            waiting.extend(todo.start)
            changes = take_changes(state, inline_value_bytes=self._settings.inline_value_bytes)
            entry = RunCommit(
                run_id,
                snapshot.epoch + 1,
                "test",
                committed,
                state.seq,
                changes,
                claim=claim,
                at=db_time(utc_now()) or "",
            )
            [result] = await self._db.write(lambda connection: commit(connection, [entry]))
            assert result.outcome is CommitOutcome.DONE, result
            committed, claim = state.seq, False
            self._reached(run_id, graph_id, committed)
            return committed

        waiting.extend(planner.resume().start)
        while waiting:
            execution = waiting.popleft()
            yield await settle(planner.apply(Started(execution.id, _now())))
            outputs, failure = await _call(execution)
            for pin, value in outputs:
                yield await settle(planner.apply(Yielded(execution.id, _now(), pin, value, json.dumps(value))))
            yield await settle(planner.apply(Ended(execution.id, _now(), failure)))


class Owner:
    """The owner of a run of which a test says what happens in it, event by event, each of them committed."""

    def __init__(self, db: Database, planner: Planner, snapshot: RunSnapshot, inline_value_bytes: int) -> None:
        self.state = planner.state
        self._db = db
        self._planner = planner
        self._epoch = snapshot.epoch + 1
        self._inline_value_bytes = inline_value_bytes
        self._news = snapshot.inbox
        self._is_new = True

    @classmethod
    async def of(cls, context: ServerContext, run_id: str) -> Self:
        """Take a run over from whoever has it."""
        key = await context.db.read(lambda connection: run_key(connection, run_id))
        assert key is not None, f"run {run_id} has ended or does not exist"
        topology = await context.topologies.get(key.graph_id, key.graph_version)
        snapshot = await context.db.read(lambda connection: load_run(connection, run_id, static_pins(topology)))
        assert snapshot is not None
        planner = Planner(restore_run(topology, snapshot), new_id=new_id, limits=run_limits(context.settings))
        return cls(context.db, planner, snapshot, context.settings.inline_value_bytes)

    async def apply(self, *events: Event) -> None:
        """Let something happen."""
        for event in events:
            before = self.state.seq
            self._planner.apply(event)
            changes = take_changes(self.state, inline_value_bytes=self._inline_value_bytes)
            entry = RunCommit(
                self.state.id,
                self._epoch,
                f"worker-{self._epoch}",
                before,
                self.state.seq,
                changes,
                claim=self._is_new,
                inbox_done=self.state.inbox_done,
                at=db_time(utc_now()) or "",
            )
            [result] = await self._db.write(lambda connection, entry=entry: commit(connection, [entry]))
            assert result.outcome is CommitOutcome.DONE, result
            self._is_new = False

    async def apply_news(self) -> None:
        """Apply what was in the inbox when the run was taken over."""
        for entry in self._news:
            self.state.inbox_done = entry.number
            await self.apply(event_of(entry, _now()))

    async def suspend(self, execution_id: str, *, until: datetime | None = None, signal: str | None = None) -> None:
        """Let an execution begin, and wait."""
        await self.apply(Started(execution_id, _now()), Suspended(execution_id, _now(), until, signal))

    async def interrupt(self, execution_id: str) -> None:
        """Let an execution begin, and be stopped so that nobody knows what it has done."""
        failure = Failure("outcome_unknown", "The answer was lost.", FailureKind.UNKNOWN)
        await self.apply(Started(execution_id, _now()), Ended(execution_id, _now(), failure))


async def _call(execution: Execution) -> tuple[list[tuple[str, Any]], Failure | None]:
    try:
        return await run_block(execution.node.block, execution.input or {}), None
    except Exception as error:  # noqa: BLE001 - whatever a block raises is its failure
        return [], Failure("block_failed", str(error))


def _now() -> datetime:
    return datetime.now(UTC)
