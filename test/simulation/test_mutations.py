"""The simulation can fail: of each rule of the protocol, a server that breaks it is found out within a few hundred seeds."""

# pyright: reportPrivateUsage=false
# Breaking what is inside is what this module is about.

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from autogpt_server.data import execution as commits
from autogpt_server.data.run_rows import AttemptOutcome, CommitOutcome, CommitResult, RunCommit
from autogpt_server.data.snapshot import RunSnapshot
from autogpt_server.execution import manager as managers
from autogpt_server.execution import worker as workers
from autogpt_server.execution.attempts import Attempt
from autogpt_server.execution.committer import Committer
from autogpt_server.execution.events import OwnerDied
from autogpt_server.execution.owner import RunOwner
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.state import Execution, RunState
from autogpt_server.execution.turns import Turns
from support.simulation.simulation import Failed, Simulation

SEEDS = 500
"""At most so many; most are found within twenty."""


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


Patch = Callable[[pytest.MonkeyPatch], None]


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """A commit writes whoever owns the run by now."""
    advance = commits._advance

    def unfenced(connection: sqlite3.Connection, entry: RunCommit) -> bool:
        epoch, seq = connection.execute(
            'SELECT "epoch", "seq" FROM "AgentGraphExecution" WHERE "id" = ?', (entry.run_id,)
        ).fetchone()
        return advance(connection, replace(entry, epoch=epoch + 1 if entry.claim else epoch, from_seq=seq))

    patch.setattr(commits, "_advance", unfenced)


def launched_early(patch: pytest.MonkeyPatch) -> None:
    """Blocks are called before it is on record."""
    begin = RunOwner.begin

    def early(self: RunOwner, execution: Execution) -> bool:
        began = begin(self, execution)
        while self._waiting_for_commit:
            self._launch(self._waiting_for_commit.pop()[1])
        return began

    patch.setattr(RunOwner, "begin", early)


def inbox_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What has been applied of the inbox is not part of the commit."""
    cut = RunOwner.cut

    def forgetful(self: RunOwner) -> RunCommit | None:
        entry = cut(self)
        return None if entry is None else replace(entry, inbox_done=0)

    patch.setattr(RunOwner, "cut", forgetful)


def replay_skipped(patch: pytest.MonkeyPatch) -> None:
    """What a pure block yields again after a crash is sent again."""
    restore = workers.restore_run

    def without_replay(topology: Any, snapshot: RunSnapshot) -> RunState:
        state = restore(topology, snapshot)
        for execution in state.live.values():
            execution.replay = []
        return state

    patch.setattr(workers, "restore_run", without_replay)


def uncertain_is_failed(patch: pytest.MonkeyPatch) -> None:
    """A COMMIT that raised is repeated blindly."""

    async def nothing(self: Committer, batch: Sequence[RunCommit]) -> None:
        await asyncio.sleep(0)

    patch.setattr(Committer, "_what_became_of", nothing)


def uncertain_is_done(patch: pytest.MonkeyPatch) -> None:
    """A COMMIT that raised is believed to be there."""

    async def done(self: Committer, batch: Sequence[RunCommit]) -> list[CommitResult]:
        await asyncio.sleep(0)
        return [CommitResult(CommitOutcome.DONE) for _ in batch]

    patch.setattr(Committer, "_what_became_of", done)


def unsafe_repeated(patch: pytest.MonkeyPatch) -> None:
    """Whatever ran when the owner died runs again."""

    def again(self: Planner, execution: Execution, event: OwnerDied) -> None:
        self._leave_attempt(execution, AttemptOutcome.DIED, None, event.at)
        self._queue_again(execution)

    patch.setattr(Planner, "_outlived_owner", again)


def owner_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """A worker takes up what it was given, however long ago."""

    class Anybody(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    load = workers.load_run

    def anybodys(*arguments: Any) -> RunSnapshot | None:
        snapshot = load(*arguments)
        if snapshot is not None:
            snapshot.worker_id = Anybody()
        return snapshot

    patch.setattr(workers, "load_run", anybodys)


def hints_alone(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks for runs of which no hint told."""

    def blind(connection: sqlite3.Connection, *, now: str, limit: int) -> tuple[list[Any], None]:
        return [], None

    patch.setattr(managers, "look_for_work", blind)


def parent_not_told(patch: pytest.MonkeyPatch) -> None:
    """The end of a child is not in its parent's inbox."""

    def silent(connection: sqlite3.Connection, run_id: str, *, at: str) -> None:
        """Tells nobody."""

    patch.setattr(commits, "_tell_parent", silent)


def turn_not_looked_at_again(patch: pytest.MonkeyPatch) -> None:
    """Whoever had the turn does not look whether others have brought something meanwhile."""

    @contextmanager
    def mine(self: Turns) -> Generator[None]:
        with self._lock:
            try:
                yield
            finally:
                self._finish()

    patch.setattr(Turns, "mine", mine)


def victims_blamed(patch: pytest.MonkeyPatch) -> None:
    """Whoever is refused memory fails, whoever has taken it."""

    def never(self: workers.Worker, attempt: Attempt, error: BaseException) -> bool:
        return False

    patch.setattr(workers.Worker, "_is_lost", never)


@pytest.mark.parametrize(
    ("broken", "mode"),
    [
        (no_fence, "locks_lie"),
        (launched_early, ""),
        (inbox_forgotten, ""),
        (replay_skipped, ""),
        (uncertain_is_failed, ""),
        (uncertain_is_done, ""),
        (unsafe_repeated, ""),
        (owner_not_looked_at, "managers_die"),
        (hints_alone, ""),
        (parent_not_told, ""),
        (turn_not_looked_at_again, ""),
        (victims_blamed, ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_server_that_breaks_a_rule_is_found_out(broken: Patch, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    for seed in range(SEEDS):
        try:
            Simulation(seed, locks_lie=mode == "locks_lie", managers_die=mode == "managers_die").run()
        except Failed:
            return
    pytest.fail(f"{SEEDS} seeds, and nobody has noticed: {broken.__doc__}")
