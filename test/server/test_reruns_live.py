"""Re-runs on the real server: what was paid for is not done again, whatever is killed around the request."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from autogpt_server.data.models import Node
from autogpt_server.data.status import NodeStatus, RunStatus
from support.effects import World, outside_world
from support.running import eventually
from support.runtime import PATIENCE_S, Runtime, running
from support.runtime_blocks import ScriptBlock

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


def paid_chain(server: Runtime, world: World) -> str:
    """Two payments, of which the second comes to nothing, and a third step that it keeps from happening."""
    pay = {"effects": "unsafe", "url": world.url}
    return server.post(
        {
            "first": Node(block_id=ScriptBlock.id, input_default={**pay, "steps": [["act", "first"], ["yield", 1]]}),
            "second": Node(
                block_id=ScriptBlock.id, input_default={**pay, "steps": [["act", "second"], ["fail", "boom"]]}
            ),
            "third": Node(block_id=ScriptBlock.id, input_default={**pay, "steps": [["act", "third"]]}),
        },
        [("first.out", "second.item"), ("second.out", "third.item")],
    )


def repair(client: httpx.Client, graph_id: str) -> dict[str, Any]:
    graph = client.get(f"/graphs/{graph_id}").json()
    graph["nodes"][1]["input_default"]["steps"] = [["act", "second"], ["yield", 2]]
    return client.put(f"/graphs/{graph_id}", json=graph).raise_for_status().json()


def ask(client: httpx.Client, run_id: str, body: dict[str, Any]) -> str | None:
    """The new run's id, or None while the server cannot be reached, or dies while it answers."""
    try:
        response = client.post(f"/executions/{run_id}/rerun", json=body, headers={"Idempotency-Key": "once"})
    except httpx.TransportError:
        return None
    return response.raise_for_status().json()["id"]


def stored_runs(server: Runtime) -> set[str]:
    def read(connection: sqlite3.Connection) -> set[str]:
        return {run_id for (run_id,) in connection.execute('SELECT "id" FROM "AgentGraphExecution"')}

    return server.call(server.db.read(read))


@pytest.mark.parametrize(
    "point",
    [
        "none",
        "server.rerun.planned",
        "server.rerun.slice",
        "server.rerun.written",
        "sqlite.commit.before",
        "sqlite.commit.after",
        "server.rerun.committed",
    ],
)
def test_what_was_paid_for_is_not_paid_again(tmp_path: Path, world: World, point: str) -> None:
    with running(tmp_path, services=("AgentServer", "ExecutionManager")) as server:
        graph_id = paid_chain(server, world)
        former = server.start_run(graph_id)
        assert server.wait_for_end(former).status is RunStatus.FAILED
        with httpx.Client(base_url=server.settings.api_url, timeout=PATIENCE_S) as client:
            eventually(lambda: client.get("/health").is_success, PATIENCE_S)
            repaired = repair(client, graph_id)
            body = {"node_id": repaired["nodes"][1]["id"], "graph_version": 2}
            if point != "none":
                server.arm(point, "kill AgentServer")
                assert ask(client, former, body) is None
                server.wait_until_fired(point)
            run_id = eventually(lambda: ask(client, former, body), PATIENCE_S)
            assert run_id is not None
            assert server.wait_for_end(run_id).status is RunStatus.COMPLETED
            eventually(
                lambda: stored_runs(server) == {former, run_id}, PATIENCE_S
            )  # what was begun and killed is removed
            runs = client.get(f"/graphs/{graph_id}/executions").json()
        assert [run["id"] for run in runs] == [run_id, former], "however often it was asked for, it is one re-run"
        assert (world.counts["first"], world.counts["second"], world.counts["third"]) == (1, 2, 1)
        first, second, third = server.executions(run_id)
        assert (first.replay_of, second.replay_of, third.replay_of) == (
            server.executions(former)[0].node_exec_id,
            None,
            None,
        )
        assert {each.status for each in (first, second, third)} == {NodeStatus.COMPLETED}


def test_a_worker_that_dies_takes_the_rerun_up_again(tmp_path: Path, world: World) -> None:
    with running(tmp_path, services=("AgentServer", "ExecutionManager")) as server:
        graph_id = paid_chain(server, world)
        former = server.start_run(graph_id)
        server.wait_for_end(former)
        with httpx.Client(base_url=server.settings.api_url, timeout=PATIENCE_S) as client:
            eventually(lambda: client.get("/health").is_success, PATIENCE_S)
            repaired = repair(client, graph_id)
            server.arm("worker.launch.before", "kill worker")
            run_id = ask(client, former, {"node_id": repaired["nodes"][1]["id"], "graph_version": 2})
        assert run_id is not None
        server.wait_until_fired("worker.launch.before")
        ended = server.wait_for_end(run_id)
        assert world.counts["first"] == 1
        if ended.status is RunStatus.WAITING:  # nobody knows what the unsafe block had done
            assert [each.status for each in server.executions(run_id)] == [NodeStatus.COMPLETED, NodeStatus.INTERRUPTED]
        else:
            assert ended.status is RunStatus.COMPLETED
            assert (world.counts["second"], world.counts["third"]) == (2, 1)
