"""Blocks that do not end: a stop works nevertheless, limits hold, and others go on."""

from collections.abc import Generator
from pathlib import Path

import pytest

from autogpt_server.data.models import Node
from autogpt_server.data.status import NodeStatus, RunStatus
from support.effects import World, outside_world
from support.misbehavior import AsyncMisbehavingBlock, MisbehavingBlock
from support.running import eventually
from support.runtime import PATIENCE_S, running
from support.runtime_blocks import ManyBlock, ScriptBlock

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


def test_a_stop_does_not_wait_for_blocks_that_never_end(tmp_path: Path, world: World) -> None:
    with running(tmp_path, drain_limit_s=4.0) as server:
        endless = [
            server.start_run(server.post({"a": Node(block_id=block_id, input_default={"how": how})}))
            for block_id, how in [
                (MisbehavingBlock.id, "never return"),
                (AsyncMisbehavingBlock.id, "never return"),
                (AsyncMisbehavingBlock.id, "swallow cancellation"),
            ]
        ]
        world.hold("post")
        unsafe = server.start_run(
            server.post(
                {
                    "a": Node(
                        block_id=ScriptBlock.id,
                        input_default={"steps": [["act", "post"]], "effects": "unsafe", "url": world.url},
                    )
                }
            )
        )
        world.wait_for("post")
        for run in endless:
            server.wait_for_status(run, NodeStatus.RUNNING)
        server.request_stop()
        assert server.wait_until_stopped() == 0
        assert [server.statuses(run) for run in endless] == [[NodeStatus.RUNNING]] * 3
        world.let_go()

        server.start()
        assert server.wait_for_end(unsafe).status is RunStatus.WAITING
        assert server.statuses(unsafe) == [NodeStatus.INTERRUPTED]
        assert world.counts["post"] == 1


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with running(tmp_path, max_run_duration_s=1.0) as server:
        node = Node(block_id=AsyncMisbehavingBlock.id, input_default={"how": "never return"})
        run = server.start_run(server.post({"a": node}))
        ended = server.wait_for_end(run)
        assert ended.status is RunStatus.FAILED
        assert ended.error is not None
        assert ended.error.code == "limit_exceeded"
        assert server.statuses(run) == [NodeStatus.CANCELED]


def test_a_million_outputs_end_at_the_limit_and_nobody_waits_for_them(tmp_path: Path) -> None:
    with running(tmp_path, max_run_node_executions=3000) as server:
        graph = server.post(
            {
                "many": Node(block_id=ManyBlock.id, input_default={"count": 1_000_000}),
                "taker": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield"]]}),
            },
            [("many.out", "taker.item")],
        )
        run = server.start_run(graph)
        server.wait_for_status(run, NodeStatus.RUNNING)
        fine = server.post({"a": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield", "fine"]]})})
        for _ in range(3):
            assert server.wait_for_end(server.start_run(fine)).status is RunStatus.COMPLETED
        ended = server.wait_until_ended(run)
        assert ended.status is RunStatus.FAILED
        assert ended.error is not None
        assert ended.error.code == "limit_exceeded"
        assert NodeStatus.RUNNING not in server.statuses(run)


def test_who_never_returns_is_stopped_at_its_time_limit(tmp_path: Path, world: World) -> None:
    with running(tmp_path, cancel_grace_s=0.5) as server:
        world.hold("post")
        acting = {"steps": [["act", "post"], ["yield", "fine"]], "effects": "unsafe", "url": world.url}
        neighbor = server.start_run(server.post({"a": Node(block_id=ScriptBlock.id, input_default=acting)}))
        world.wait_for("post")
        endless = Node(block_id=MisbehavingBlock.id, input_default={"how": "never return"}, metadata={"timeout_s": 0.2})
        run = server.start_run(server.post({"a": endless}))
        (worker,) = server.worker_pids()
        # Its thread can only be ended with its process, which waits for those whose work is under way.
        eventually(lambda: set(server.worker_pids()) - {worker}, PATIENCE_S)
        later = server.start_run(
            server.post({"a": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield"]]})})
        )
        assert server.wait_until_ended(later).status is RunStatus.COMPLETED
        world.let_go("post")
        assert server.wait_until_ended(neighbor).status is RunStatus.COMPLETED
        assert world.counts["post"] == 1
        ended = server.wait_until_ended(run)
        assert ended.status is RunStatus.FAILED
        (execution,) = server.executions(run)
        assert execution.error is not None
        assert execution.error.code == "timeout"


def test_a_process_that_a_block_has_forked_keeps_nobody_out(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        fork = server.post({"a": Node(block_id=MisbehavingBlock.id, input_default={"how": "fork and stay"})})
        assert server.wait_until_ended(server.start_run(fork)).status is RunStatus.COMPLETED
        # Its lock went with the worker, so another takes over at once; and the next server does not wait for the child for ever.
        (worker,) = server.worker_pids()
        server.kill(worker)
        server.wait_for_workers(others_than=[worker])
        assert server.wait_until_ended(server.start_run(fork)).status is RunStatus.COMPLETED
        server.request_stop()
        assert server.wait_until_stopped() == 0
        server.start()
        fine = server.post({"a": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield", "fine"]]})})
        assert server.wait_until_ended(server.start_run(fine)).status is RunStatus.COMPLETED
