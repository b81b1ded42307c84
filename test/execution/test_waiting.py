"""What a run waits for, on the real worker: retries, time limits, signals, times, child runs, cancellation, decisions."""

from collections.abc import Generator
from typing import Any

import pytest

from autogpt_server.data.models import Node
from autogpt_server.data.run_rows import InboxEntry, InboxKind, cancel_of
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.utils import json
from support.effects import World, outside_world
from support.misbehavior import MisbehavingBlock
from support.running import eventually
from support.runtime import PATIENCE_S, Runtime, running
from support.runtime_blocks import AsyncScriptBlock, ScriptBlock

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    with running(tmp_path_factory.mktemp("server"), cancel_grace_s=1.0) as runtime:
        yield runtime


def script(
    *steps: list[Any], effects: str = "pure", block: str = ScriptBlock.id, url: str = "", **metadata: Any
) -> Node:
    return Node(block_id=block, input_default={"steps": list(steps), "effects": effects, "url": url}, metadata=metadata)


def one(server: Runtime, node: Node) -> str:
    return server.start_run(server.post({"a": node}))


def signal(run_id: str, execution_id: str, name: str, value: Any, *, key: str = "1") -> InboxEntry:
    return InboxEntry(run_id, InboxKind.SIGNAL, execution_id, key, json.dumps({"name": name, "value": value}))


def resolve(run_id: str, execution_id: str, action: str) -> InboxEntry:
    return InboxEntry(run_id, InboxKind.RESOLVE, execution_id, None, json.dumps({"action": action}))


def test_a_failed_attempt_is_followed_by_another(server: Runtime) -> None:
    run = one(server, script(["fail until", 3], ["yield", "done"], retry={"max_attempts": 3, "delay_s": 0.05}))
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == ["done"]
    assert server.executions(run)[0].attempt == 3


def test_attempts_come_to_an_end(server: Runtime) -> None:
    run = one(server, script(["fail until", 9], retry={"max_attempts": 2, "delay_s": 0}))
    assert server.wait_until_ended(run).status is RunStatus.FAILED
    assert server.executions(run)[0].attempt == 2


def test_an_unsafe_block_is_tried_again_only_if_it_has_not_started(server: Runtime) -> None:
    safe = one(server, script(["not started"], effects="unsafe", retry={"max_attempts": 2, "delay_s": 0}))
    plain = one(server, script(["fail", "no"], effects="unsafe", retry={"max_attempts": 2, "delay_s": 0}))
    assert server.wait_until_ended(safe).status is RunStatus.FAILED
    assert server.wait_until_ended(plain).status is RunStatus.FAILED
    assert [server.executions(run)[0].attempt for run in (safe, plain)] == [2, 1]


@pytest.mark.parametrize("block", [ScriptBlock.id, AsyncScriptBlock.id])
def test_a_time_limit_ends_an_attempt(server: Runtime, block: str) -> None:
    run = one(server, script(["sleep", 0.3], ["yield", 1], ["sleep", 0.3], ["yield", 2], block=block, timeout_s=0.1))
    assert server.wait_until_ended(run).status is RunStatus.FAILED
    error = server.executions(run)[0].error
    assert error is not None
    assert error.code == "timeout"


def test_an_unsafe_block_that_took_too_long_is_asked_about(server: Runtime) -> None:
    run = one(server, script(["sleep", 0.3], ["yield", 1], effects="unsafe", timeout_s=0.1))
    assert server.wait_for_end(run).status is RunStatus.WAITING
    assert server.statuses(run) == [NodeStatus.INTERRUPTED]
    server.put(resolve(run, server.executions(run)[0].node_exec_id, "skip"))
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert server.statuses(run) == [NodeStatus.SKIPPED]


@pytest.mark.parametrize(
    ("action", "status"),
    [("retry", RunStatus.WAITING), ("skip", RunStatus.COMPLETED), ("fail", RunStatus.FAILED)],
)
def test_somebody_decides_about_an_unknown_outcome(server: Runtime, action: str, status: RunStatus) -> None:
    run = one(server, script(["unknown"], effects="unsafe"))
    assert server.wait_for_end(run).status is RunStatus.WAITING
    execution = server.executions(run)[0]
    server.put(resolve(run, execution.node_exec_id, action))
    eventually(lambda: server.executions(run)[0].seq > execution.seq, PATIENCE_S)
    assert server.wait_for_end(run).status is status
    if action == "retry":
        eventually(lambda: server.executions(run)[0].attempt == 2, PATIENCE_S)


def test_a_signal_calls_a_block_again(server: Runtime) -> None:
    run = one(server, script(["yield", 1], ["wait", {"signal": "go"}], ["yield", 2]))
    assert server.wait_for_end(run).status is RunStatus.WAITING
    execution = server.executions(run)[0].node_exec_id
    server.put(signal(run, execution, "other", "no"))
    server.put(signal(run, execution, "go", {"by": "me"}, key="2"))
    server.put(signal(run, execution, "go", "twice", key="2"))
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == [1, {"by": "me"}, 2]


def test_time_calls_a_block_again(server: Runtime) -> None:
    run = one(server, script(["wait", {"s": 0.05}], ["yield", 2]))
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == [None, 2]


def test_a_long_wait_is_in_nobodys_hands_and_survives_the_worker(server: Runtime) -> None:
    run = one(server, script(["wait", {"s": 4}], ["yield", 2]))
    assert server.wait_for_end(run).status is RunStatus.WAITING
    workers = server.worker_pids()
    server.kill(workers[0])
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == [None, 2]


def test_a_child_run_gives_its_outputs_to_its_parent(server: Runtime) -> None:
    child = server.post({"a": script(["yield", 7])})
    run = one(server, script(["call", child, {}]))
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    (result,) = server.outputs(run)
    assert result["status"] == "COMPLETED"
    assert server.outputs(result["run_id"]) == [7]


def test_a_child_that_cannot_be_is_a_failure_of_its_parent(server: Runtime) -> None:
    run = one(server, script(["call", "no such graph", {}]))
    assert server.wait_until_ended(run).status is RunStatus.FAILED


def test_a_graph_that_calls_itself_ends_at_a_depth(server: Runtime) -> None:
    deepest = server.settings.max_run_depth
    graph = server.post({"a": script(["yield", "at the bottom"])})
    given: dict[str, Any] = {}
    for _ in range(deepest + 1):
        given = {"steps": [["call", graph, given]]}
    run_id = server.start_run(graph, given)
    assert server.wait_until_ended(run_id).status is RunStatus.COMPLETED
    last = max(server.runs_of(graph), key=lambda run: run.depth)
    assert (last.depth, last.status) == (deepest, RunStatus.FAILED)
    for error in (last.error, server.executions(last.id)[0].error):
        assert error is not None
        assert (error.code, "MAX_RUN_DEPTH" in error.message) == ("limit_exceeded", True)


def test_cancel_ends_what_runs_and_what_waits_and_the_children(server: Runtime) -> None:
    child = server.post({"a": script(["wait", {"signal": "never"}])})
    graph = server.post(
        {
            "a": script(["sleep", 30], block=AsyncScriptBlock.id),
            "b": script(["wait", {"signal": "never"}]),
            "c": script(["call", child, {}]),
        }
    )
    run = server.start_run(graph)
    eventually(lambda: server.count(run, NodeStatus.WAITING) == 2, PATIENCE_S)
    server.put(cancel_of(run, reason="Enough."))
    ended = server.wait_until_ended(run)
    assert ended.status is RunStatus.CANCELED
    assert server.statuses(run) == [NodeStatus.CANCELED] * 3


def test_a_run_is_canceled_before_anybody_took_it_up(server: Runtime) -> None:
    run = server.start_run(server.post({"a": script(["yield", 1])}), hint=False)
    server.put(cancel_of(run, reason="Never mind."))
    assert server.wait_until_ended(run).status in (RunStatus.CANCELED, RunStatus.COMPLETED)


def test_who_ignores_a_stop_loses_its_worker_and_nobody_else_notices(server: Runtime, world: World) -> None:
    before = server.worker_pids()
    world.hold("post")
    neighbour = one(server, script(["act", "post"], ["yield", 1], effects="unsafe", url=world.url))
    world.wait_for("post")
    stubborn = one(server, Node(block_id=MisbehavingBlock.id, input_default={"how": "never return"}))
    server.wait_for_status(stubborn, NodeStatus.RUNNING)
    server.put(cancel_of(stubborn, reason="Enough."))
    another = one(server, script(["yield", 1]))
    server.wait_for_workers(others_than=before) if len(before) > 1 else None
    assert server.wait_until_ended(another).status is RunStatus.COMPLETED
    assert server.run(stubborn).status is RunStatus.RUNNING
    world.let_go("post")
    assert server.wait_until_ended(neighbour).status is RunStatus.COMPLETED
    assert server.wait_until_ended(stubborn).status is RunStatus.CANCELED
    assert world.counts["post"] == 1
