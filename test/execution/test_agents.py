"""Agents in agents (rule D11): a graph performed by a node of another, on the real worker."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import pytest

from autogpt_server.blocks.agent import AgentExecutorBlock
from autogpt_server.blocks.io import AgentInputBlock, AgentOutputBlock
from autogpt_server.data.models import Node, NodeExecution
from autogpt_server.data.run_rows import cancel_of
from autogpt_server.data.status import NodeStatus, RunStatus
from support.running import eventually
from support.runtime import PATIENCE_S, Runtime, running
from support.runtime_blocks import ScriptBlock

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    with running(tmp_path_factory.mktemp("server"), cancel_grace_s=1.0) as runtime:
        yield runtime


def agent_input(name: str, **default: Any) -> Node:
    return Node(block_id=AgentInputBlock.id, input_default={"name": name, **default})


def agent_output(name: str) -> Node:
    return Node(block_id=AgentOutputBlock.id, input_default={"name": name})


def agent(graph: str, inputs: Mapping[str, Any] | None = None, **more: Any) -> Node:
    return Node(block_id=AgentExecutorBlock.id, input_default={"graph_id": graph, "inputs": dict(inputs or {}), **more})


def script(*steps: list[Any]) -> Node:
    return Node(block_id=ScriptBlock.id, input_default={"steps": list(steps)})


def echo(server: Runtime, *steps: list[Any]) -> str:
    """A graph that takes `Topic Name` and gives what a script makes of it as `Results!`."""
    return server.post(
        {"in": agent_input("Topic Name"), "do": script(*steps), "out": agent_output("Results!")},
        [("in.result", "do.item"), ("do.out", "out.value")],
    )


def of_agent(server: Runtime, run_id: str) -> NodeExecution:
    return next(each for each in server.executions(run_id) if each.block_id == AgentExecutorBlock.id)


def test_what_an_agent_gives_leaves_by_pins_of_its_names(server: Runtime) -> None:
    child = echo(server, ["yield"], ["yield", 2])
    graph = server.post(
        {"in": agent_input("topic"), "agent": agent(child), "out": agent_output("all")},
        [("in.result", "agent.Topic Name"), ("agent.Results!", "out.value")],
    )
    run = server.start_run(graph, {"topic": "bees"})
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert of_agent(server, run).output_data == {"Results!": ["bees", 2]}
    given = [each.output_data["output"] for each in server.executions(run) if each.block_id == AgentOutputBlock.id]
    assert given == [["bees"], [2]]
    assert [attempt.outcome.value for attempt in of_agent(server, run).attempts] == ["SUSPENDED"]


def test_an_agent_that_fails_passes_on_what_there_was_and_then_fails(server: Runtime) -> None:
    child = server.post(
        {
            "in": agent_input("x", value=1),
            "do": script(["yield"]),
            "bad": script(["fail", "no fuel"]),
            "out": agent_output("Out"),
        },
        [("in.result", "do.item"), ("in.result", "bad.item"), ("do.out", "out.value")],
    )
    run = server.start_run(server.post({"agent": agent(child)}))
    assert server.wait_until_ended(run).status is RunStatus.FAILED
    execution = of_agent(server, run)
    assert execution.output_data["Out"] == [1]
    assert execution.error is not None
    assert "no fuel" in execution.error.message


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (agent("no such graph"), "no such graph"),
        (agent("no such graph", nodes_input_masks={"n": {"a": 1}}), "nodes_input_masks"),
    ],
)
def test_agents_that_cannot_be_run(server: Runtime, node: Node, words: str) -> None:
    run = server.start_run(server.post({"agent": node}))
    assert server.wait_until_ended(run).status is RunStatus.FAILED
    error = of_agent(server, run).error
    assert error is not None
    assert words in error.message


def test_input_that_the_agent_does_not_take(server: Runtime) -> None:
    run = server.start_run(server.post({"agent": agent(echo(server), {"topic": 1})}))
    assert server.wait_until_ended(run).status is RunStatus.FAILED
    error = of_agent(server, run).error
    assert error is not None
    assert "'topic'" in error.message
    assert "'Topic Name'" in error.message


def test_an_agent_in_an_agent_is_canceled_with_it_and_says_whose_it_is(server: Runtime) -> None:
    inner = server.post({"wait": script(["wait", {"signal": "never"}])})
    outer = server.post({"agent": agent(inner)})
    run = server.start_run(server.post({"agent": agent(outer)}))
    middle = eventually(lambda: of_agent(server, run).child_run_id, PATIENCE_S) or ""
    last = eventually(lambda: of_agent(server, middle).child_run_id, PATIENCE_S) or ""
    server.wait_for_status(last, NodeStatus.WAITING)
    child = server.run(last)
    assert child.parent is not None
    assert (child.parent.run_id, child.depth) == (middle, 2)
    assert child.parent.node_exec_id == of_agent(server, middle).node_exec_id
    server.put(cancel_of(run, reason="Enough."))
    assert [server.wait_until_ended(each).status for each in (run, middle, last)] == [RunStatus.CANCELED] * 3


@pytest.mark.parametrize("point", ["committer.write.before", "committer.write.after"])
def test_a_worker_that_dies_while_an_agent_begins_or_ends_doubles_nothing(server: Runtime, point: str) -> None:
    child = echo(server, ["wait", {"signal": "go"}])
    run = server.start_run(server.post({"agent": agent(child, {"Topic Name": 1})}), hint=False)
    server.arm(point, "kill")
    server.hint(run)
    server.wait_until_fired(point)
    child_run = eventually(lambda: of_agent(server, run).child_run_id, PATIENCE_S) or ""
    waiting = eventually(
        lambda: next((e for e in server.executions(child_run) if e.status is NodeStatus.WAITING), None), PATIENCE_S
    )
    assert waiting is not None
    server.arm(point, "kill")
    server.put(cancel_of(child_run, reason="Enough."))
    server.wait_until_fired(point)
    assert server.wait_until_ended(run).status is RunStatus.FAILED
    assert server.run(child_run).status is RunStatus.CANCELED
    children = server.call(
        server.db.read(
            lambda connection: connection.execute(
                'SELECT count(*) FROM "AgentGraphExecution" WHERE "parentRunId" = ?', (run,)
            ).fetchone()
        )
    )
    assert children == (1,)
