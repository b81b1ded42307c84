"""The manager and its workers, as real processes, in fair weather: runs are performed, whatever the blocks do."""

from collections.abc import Generator
from typing import Any

import pytest

from autogpt_server.data.models import Node
from autogpt_server.data.status import NodeStatus, RunStatus
from support.effects import World, outside_world
from support.misbehavior import MisbehavingBlock
from support.runtime import Runtime, running
from support.runtime_blocks import (
    AsyncScriptBlock,
    BadEffectsBlock,
    ManyBlock,
    ScriptBlock,
)

SECRET = "sk-do-not-show-me"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    with running(tmp_path_factory.mktemp("server"), max_value_bytes=1_000_000) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


def script(*steps: list[Any], block: type[ScriptBlock] | type[AsyncScriptBlock] = ScriptBlock, **inputs: Any) -> Node:
    return Node(block_id=block.id, input_default={"steps": list(steps), **inputs})


def test_a_chain(server: Runtime) -> None:
    graph = server.post({"a": script(["yield", 1], ["yield", 2]), "b": script(["yield"])}, [("a.out", "b.item")])
    run = server.start_run(graph)
    assert server.wait_for_end(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == [1, 2, 1, 2]
    assert server.statuses(run) == [NodeStatus.COMPLETED] * 3


@pytest.mark.parametrize("effects", ["pure", "idempotent", "unsafe"])
@pytest.mark.parametrize("block", [ScriptBlock, AsyncScriptBlock], ids=["thread", "loop"])
def test_effects_happen_once(
    server: Runtime, world: World, block: type[ScriptBlock] | type[AsyncScriptBlock], effects: str
) -> None:
    node = script(["yield", 1], ["act", "{key}"], ["yield", 2], block=block, effects=effects, url=world.url)
    run = server.start_run(server.post({"a": node}))
    assert server.wait_for_end(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == [1, 2]
    (execution,) = server.executions(run)
    assert world.counts[execution.node_exec_id] == 1


def test_a_run_of_which_no_hint_told_is_found(server: Runtime) -> None:
    run = server.start_run(server.post({"a": script(["yield", 1])}), hint=False)
    assert server.wait_for_end(run).status is RunStatus.COMPLETED


def test_a_hint_about_nothing_does_no_harm(server: Runtime) -> None:
    run = server.start_run(server.post({"a": script(["yield", 1])}))
    server.wait_for_end(run)
    server.hint(run)  # it has ended
    server.hint("01a20000-0000-7000-8000-000000000000")  # it never was
    other = server.start_run(server.post({"a": script(["yield", 1])}))
    assert server.wait_for_end(other).status is RunStatus.COMPLETED


def test_more_runs_than_a_worker_holds(server: Runtime) -> None:
    graph = server.post({"a": script(["yield", 1])})
    runs = [server.start_run(graph, hint=number % 2 == 0) for number in range(300)]
    assert {server.wait_for_end(run).status for run in runs} == {RunStatus.COMPLETED}


# --- what blocks do that they should not ------------------------------------------------------------------------------


def test_secrets_are_neither_stored_in_errors_nor_logged(server: Runtime) -> None:
    node = Node(block_id=MisbehavingBlock.id, input_default={"how": "tell the secret", "api_key": SECRET})
    run = server.start_run(server.post({"a": node}))
    ended = server.wait_for_end(run)
    assert ended.error is not None
    assert "cannot log in with ***" in ended.error.message
    log = server.log()
    assert "logging in with ***" in log
    assert SECRET not in log


def test_a_block_that_changes_its_input_changes_nobody_elses(server: Runtime) -> None:
    changing = Node(block_id=MisbehavingBlock.id, input_default={"how": "change its input"})
    graph = server.post(
        {"source": script(["yield", ["given"]]), "a": changing, "b": changing, "c": script(["yield"])},
        [("source.out", "a.item"), ("source.out", "b.item"), ("source.out", "c.item")],
    )
    run = server.start_run(graph)
    assert server.wait_for_end(run).status is RunStatus.COMPLETED
    assert sorted(map(len, server.outputs(run))) == [1, 1, 2, 2]


def test_a_block_that_cannot_say_what_its_effects_are_is_unsafe(server: Runtime) -> None:
    run = server.start_run(server.post({"a": Node(block_id=BadEffectsBlock.id, input_default={"item": 5})}))
    assert server.wait_for_end(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == [5]


def test_many_outputs_keep_the_memory_bounded(server: Runtime) -> None:
    (worker,) = server.worker_pids()
    before = server.memory(worker)
    # 64 MB in 2,000 values that go nowhere: eight times what a run may be ahead of what is committed.
    node = Node(block_id=ManyBlock.id, input_default={"count": 2000, "size": 32_000})
    run = server.start_run(server.post({"a": node}))
    ended = server.wait_for_end(run)
    assert ended.status is RunStatus.COMPLETED
    assert ended.stats.bytes > 64_000_000
    assert server.memory(worker) - before < 48_000_000


def test_a_value_of_the_wrong_type_fails_where_it_is_needed(server: Runtime) -> None:
    graph = server.post(
        {
            "source": script(["yield", "many"], ["yield", 2]),
            "counting": Node(block_id=ManyBlock.id, input_default={"size": 1}),
            "taker": script(["yield"]),
        },
        [("source.out", "counting.count"), ("counting.error", "taker.item")],
    )
    run = server.start_run(graph)
    assert server.wait_for_end(run).status is RunStatus.COMPLETED
    wrong, right = [execution for execution in server.executions(run) if execution.block_id == ManyBlock.id]
    assert (wrong.status, right.status) == (NodeStatus.FAILED, NodeStatus.COMPLETED)
    assert wrong.error is not None
    assert wrong.error.code == "input_type_mismatch"
    assert "count" in wrong.error.message
    assert right.output_data == {"out": ["x", "x"]}


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_a_million_outputs_of_one_execution(server: Runtime) -> None:
    (worker,) = server.worker_pids()
    before = server.memory(worker)
    run = server.start_run(server.post({"a": Node(block_id=ManyBlock.id, input_default={"count": 1_000_000})}))
    neighbors = [server.start_run(server.post({"a": script(["yield", "fine"])})) for _ in range(5)]
    assert {server.wait_for_end(neighbor).status for neighbor in neighbors} == {RunStatus.COMPLETED}
    assert server.run(run).status is RunStatus.RUNNING
    assert server.wait_until_ended(run, 600).status is RunStatus.COMPLETED
    assert server.memory(worker) - before < 48_000_000
