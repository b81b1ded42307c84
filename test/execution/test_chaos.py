"""Whatever dies, at whatever moment: nothing is lost, nothing is done twice, no status lies (rules D1 to D5)."""

import signal
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.models import Node, NodeExecution
from autogpt_server.data.status import NodeStatus, RunStatus
from support.effects import World, outside_world
from support.running import eventually, is_running
from support.runtime import PATIENCE_S, Runtime, running
from support.runtime_blocks import AsyncScriptBlock, ManyBlock, ScriptBlock

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

EFFECTS = ("pure", "idempotent", "unsafe")
PLACES: dict[str, tuple[list[list[Any]], list[int]]] = {
    "before": ([["act"], ["yield", 1], ["yield", 2]], []),
    "between": ([["yield", 1], ["act"], ["yield", 2]], [1]),
    "after": ([["yield", 1], ["yield", 2], ["act"]], [1, 2]),
}
"""Where a block is when its worker dies: the script, and what it has yielded by then."""


@pytest.fixture
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


@dataclass
class Case:
    """A run whose block acts on the world as `key`."""

    key: str
    effects: str
    run: str
    yielded: list[int]


def start_case(server: Runtime, world: World, effects: str, place: str, *, on_loop: bool) -> Case:
    key = f"{effects}-{place}-{'loop' if on_loop else 'thread'}"
    steps, yielded = PLACES[place]
    steps = [[*step, key] if step == ["act"] else step for step in steps]
    graph = server.post(
        {
            "actor": Node(
                block_id=AsyncScriptBlock.id if on_loop else ScriptBlock.id,
                input_default={"steps": steps, "effects": effects, "url": world.url},
            ),
            "taker": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield"]]}),
        },
        [("actor.out", "taker.item")],
    )
    world.hold(key)
    return Case(key, effects, server.start_run(graph), yielded)


def split(server: Runtime, run: str) -> tuple[NodeExecution, list[Any]]:
    """The execution of the actor, and what came out of the taker."""
    actor, *takers = server.executions(run)
    return actor, [value for taker in takers for value in taker.output_data.get("out", [])]


@pytest.mark.parametrize("victim", ["worker", "manager", "supervisor", "everything"])
def test_what_a_death_leaves_behind(tmp_path: Path, world: World, victim: str) -> None:
    with running(tmp_path) as server:
        cases = [
            start_case(server, world, effects, place, on_loop=on_loop)
            for effects in EFFECTS
            for place in PLACES
            for on_loop in (False, True)
        ]
        for case in cases:
            world.wait_for(case.key)
            server.wait_for_outputs(case.run, 2 * len(case.yielded))
        (worker,) = server.worker_pids()
        match victim:
            case "worker":
                server.kill(worker)
            case "manager":
                server.kill(server.manager_pid())
            case "supervisor":
                server.kill_supervisor()
            case _:
                server.kill_all()
        # A worker whose manager is gone has a moment left, in which nobody shall come to its aid.
        eventually(lambda: not is_running(worker), PATIENCE_S)
        world.let_go()
        if victim in ("supervisor", "everything"):
            server.start()

        for case in cases:
            ended = server.wait_for_end(case.run)
            actor, taken = split(server, case.run)
            repeated = case.effects == "pure" or (case.effects == "idempotent" and not case.yielded)
            if repeated:
                assert (case.key, ended.status) == (case.key, RunStatus.COMPLETED)
                assert (actor.status, actor.attempt) == (NodeStatus.COMPLETED, 2)
                assert actor.output_data == {"out": [1, 2]}
                assert taken == [1, 2]
                assert world.counts[case.key] == 2
            else:
                assert (case.key, ended.status) == (case.key, RunStatus.WAITING)
                assert ended.reason is not None
                assert "needs a decision" in ended.reason
                assert (actor.status, actor.attempt) == (NodeStatus.INTERRUPTED, 1)
                assert actor.output_data.get("out", []) == taken == case.yielded
                assert world.counts[case.key] == 1


# --- a server whose commits and messages fail -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    with running(tmp_path_factory.mktemp("server"), num_graph_workers=2) as runtime:
        yield runtime


def start_workflows(server: Runtime, world: World) -> dict[str, str]:
    """One run for each class of effects: three items, each acted upon in a node of its own. Effects -> run id."""
    steps: list[list[Any]] = [["act", "{key}"], ["yield"], ["yield", "done"]]
    started: dict[str, str] = {}
    for effects in EFFECTS:
        actor = {"steps": steps, "effects": effects, "url": world.url}
        graph = server.post(
            {
                "source": Node(block_id=ScriptBlock.id, input_default={"steps": [["yield", n] for n in range(3)]}),
                "actor": Node(block_id=ScriptBlock.id, input_default=actor),
                "taker": Node(block_id=AsyncScriptBlock.id, input_default={"steps": [["yield"]]}),
            },
            [("source.out", "actor.item"), ("actor.out", "taker.item")],
        )
        started[effects] = server.start_run(graph)
    return started


def check_workflow(server: Runtime, world: World, effects: str, run: str) -> None:
    """Whatever has happened, this must be true of a run that has come to rest."""
    ended = server.wait_for_end(run)
    source, *others = server.executions(run)
    assert source.output_data == {"out": [0, 1, 2]}
    actors = [
        execution for execution in others if "steps" in execution.input_data and execution.node_id == others[0].node_id
    ]
    takers = [execution for execution in others if execution.node_id != others[0].node_id]
    assert [actor.input_data["item"] for actor in actors] == [0, 1, 2]
    interrupted = False
    for actor in actors:
        done = world.counts[actor.node_exec_id]
        expected = [actor.input_data["item"], "done"]
        outputs = actor.output_data.get("out", [])
        if actor.status is NodeStatus.COMPLETED:
            assert outputs == expected
            assert done == 1 if effects == "unsafe" else done >= 1
        else:
            interrupted = True
            assert effects != "pure"
            assert actor.status is NodeStatus.INTERRUPTED
            assert outputs == expected[: len(outputs)]
            assert outputs or effects == "unsafe"
            assert done <= 1 or effects == "idempotent"
    assert ended.status is (RunStatus.WAITING if interrupted else RunStatus.COMPLETED)
    # Everything that was released has been taken once, in order. What comes after an interrupted one is held.
    released: list[Any] = []
    for actor in actors:
        released += actor.output_data.get("out", [])
        if actor.status is NodeStatus.INTERRUPTED:
            break
    assert [taker.input_data["item"] for taker in takers] == released
    assert all(taker.output_data == {"out": [taker.input_data["item"]]} for taker in takers)


@pytest.mark.parametrize("point", ["sqlite.commit.before", "sqlite.commit.after"])
def test_a_commit_that_raises(server: Runtime, world: World, point: str) -> None:
    server.wait_for_workers()
    server.arm(point, "fail")
    started = start_workflows(server, world)
    server.wait_until_fired(point)
    for effects, run in started.items():
        check_workflow(server, world, effects, run)
        # Nobody died: there is nothing to be in doubt about.
        assert server.run(run).status is RunStatus.COMPLETED


def test_a_full_disk_pauses_runs(server: Runtime, world: World) -> None:
    (first, *_) = server.wait_for_workers()
    many = server.post({"a": Node(block_id=ManyBlock.id, input_default={"count": 100, "size": 32_000})})
    # Files may grow a little, which the log needs, and not by what the run yields. For a process that writes it is as on a full disk.
    server.limit_files(len(server.log()) + 200_000)
    refused = _refusals(server)
    run = server.start_run(many)
    eventually(lambda: _refusals(server) > refused, PATIENCE_S)
    started = start_workflows(server, world)
    assert server.run(run).status in (RunStatus.QUEUED, RunStatus.RUNNING)
    server.limit_files(None)
    assert server.wait_until_ended(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == ["x" * 32_000] * 100
    for effects, workflow in started.items():
        check_workflow(server, world, effects, workflow)
        assert server.run(workflow).status is RunStatus.COMPLETED
    assert first in server.worker_pids()


def _refusals(server: Runtime) -> int:
    log = server.log()
    return log.count("database refused a commit") + log.count("commit may have failed")


def test_an_assignment_that_is_lost_on_its_way(server: Runtime, world: World) -> None:
    server.wait_for_workers()
    server.arm("manager.assign.after", "fail")
    for effects, run in start_workflows(server, world).items():
        check_workflow(server, world, effects, run)
        assert server.run(run).status is RunStatus.COMPLETED
    server.wait_until_fired("manager.assign.after")


def test_an_owner_that_was_replaced_drops_the_run(server: Runtime, world: World) -> None:
    server.wait_for_workers()
    case = start_case(server, world, "pure", "between", on_loop=False)
    world.wait_for(case.key)
    server.wait_for_outputs(case.run, 2)
    server.bump_epoch(case.run)
    world.let_go()
    assert server.wait_for_end(case.run).status is RunStatus.COMPLETED
    actor, taken = split(server, case.run)
    assert (actor.output_data, taken) == ({"out": [1, 2]}, [1, 2])
    assert "run has another owner" in server.log()


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path, world: World) -> None:
    with running(tmp_path, worker_hung_limit_s=2.0) as server:
        (worker,) = server.worker_pids()
        case = start_case(server, world, "pure", "between", on_loop=False)
        unsafe = start_case(server, world, "unsafe", "before", on_loop=True)
        world.wait_for(case.key)
        world.wait_for(unsafe.key)
        server.kill(worker, signal.SIGSTOP)
        (other,) = server.wait_for_workers(others_than=[worker])
        assert not is_running(worker)
        world.let_go()
        assert server.wait_for_end(case.run).status is RunStatus.COMPLETED
        assert split(server, case.run)[1] == [1, 2]
        assert server.wait_for_end(unsafe.run).status is RunStatus.WAITING

        # It stands still, and so does not notice that its manager has died: the next manager sees to it.
        case = start_case(server, world, "pure", "after", on_loop=True)
        world.wait_for(case.key)
        server.kill(other, signal.SIGSTOP)
        server.kill(server.manager_pid())
        eventually(lambda: not is_running(other), PATIENCE_S)
        world.let_go()
        assert server.wait_for_end(case.run).status is RunStatus.COMPLETED
        assert split(server, case.run)[1] == [1, 2]


def test_a_stop_lets_short_blocks_end_and_loses_nothing(tmp_path: Path, world: World) -> None:
    with running(tmp_path) as server:
        world.hold("slow")
        first = {"steps": [["act", "slow"], ["yield", 1]], "effects": "unsafe", "url": world.url}
        second = {"steps": [["act", "next"], ["yield"]], "effects": "unsafe", "url": world.url}
        graph = server.post(
            {
                "first": Node(block_id=ScriptBlock.id, input_default=first),
                "second": Node(block_id=AsyncScriptBlock.id, input_default=second),
            },
            [("first.out", "second.item")],
        )
        run = server.start_run(graph)
        world.wait_for("slow")
        server.arm("worker.drain.begun", "fail")
        server.request_stop()
        server.wait_until_fired("worker.drain.begun")
        world.let_go()
        assert server.wait_until_stopped() == 0
        assert not list((server.settings.state_dir / "workers").iterdir())
        assert server.statuses(run) == [NodeStatus.COMPLETED, NodeStatus.QUEUED]
        assert world.counts["next"] == 0
        server.start()
        assert server.wait_for_end(run).status is RunStatus.COMPLETED
        assert server.outputs(run) == [1, 1]
        assert (world.counts["slow"], world.counts["next"]) == (1, 1)
