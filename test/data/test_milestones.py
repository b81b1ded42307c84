"""What is told of an execution by its row, long after: nothing that it was not."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.db import Database
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.runs import changes_since
from autogpt_server.data.status import NodeStatus
from autogpt_server.utils.settings import Settings
from support.ledger import open_file
from support.lives import Life


def told(node: NodeExecution) -> dict[str, Any]:
    return node.model_dump(
        include={"status", "attempt", "output_data", "waits_for", "child_run_id", "not_before", "error"}
    ) | {
        "attempts": [attempt.attempt for attempt in node.attempts],
        "times": (node.queue_time, node.start_time if node.status is not NodeStatus.QUEUED else None, node.end_time),
    }


@pytest.mark.parametrize("seed", range(12))
async def test_whoever_comes_late_is_told_of_nothing_that_was_not(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "test.db"
    open_file(path).close()
    async with await Database.open(Settings(database_url=f"file:{path}", sqlite_synchronous="NORMAL")) as db:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            life = Life(connection, random.Random(seed))
            chance = random.Random(seed)
            was: dict[tuple[str, int], dict[str, Any]] = {}

            async def watch() -> None:
                """See what a client sees that misses nothing."""
                for node in (await changes_since(db, "run", 0)).nodes:
                    if node.seq == life.game.state.live.get(node.node_exec_id, life.game.known[node.node_exec_id]).seq:
                        was[node.node_exec_id, node.seq] = told(node)

            await watch()
            while not life.is_over and life.game.state.seq < 50:
                life.step()
                await watch()
                late = await changes_since(db, "run", chance.randrange(life.game.state.seq))
                for node in late.nodes:
                    assert told(node) == was[node.node_exec_id, node.seq], node
                assert [node.seq for node in late.nodes] == sorted(node.seq for node in late.nodes)
