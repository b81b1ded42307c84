"""Whatever a block does has a defined end, and what is performed beside it in the same process does not notice.

Each case (`support.misbehavior`) runs on the real server beside two runs of unsafe blocks which are under way, one in a thread and one on the loop: they go on,
in the same worker, and nothing of them is repeated or in doubt. What costs the worker costs others no more than that they begin again elsewhere.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.data.models import Node
from autogpt_server.data.run_rows import InboxEntry, InboxKind
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.utils.ids import new_id
from support.effects import World, outside_world
from support.misbehavior import ASYNC_CASES, CASES, AsyncMisbehavingBlock, MisbehavingBlock
from support.running import eventually
from support.runtime import PATIENCE_S, Runtime, running
from support.runtime_blocks import AsyncScriptBlock, ScriptBlock

SECRET = "sk-do-not-show-me"

FAILURES: dict[str, tuple[str, str]] = {
    "raise": ("block_failed", "ValueError: the tank is empty"),
    "raise base exception": ("block_failed", "_Silent: base"),
    "raise without words": ("block_failed", "_SpeechlessError: (its message cannot be had: RuntimeError)"),
    "raise an impostor": ("block_failed", "_Impostor: (it cannot be looked at: RuntimeError)"),
    "raise half a character": ("block_failed", "ValueError: ?"),
    "raise a long story": ("block_failed", "(10,000,000 characters)"),
    "raise several": ("block_failed", "all (2 sub-exceptions)"),
    "raise keyboard interrupt": ("block_failed", "tried to end the process (KeyboardInterrupt)"),
    "stop iteration": ("block_failed", "StopIteration"),
    "generator exit": ("block_failed", "tried to end the process (GeneratorExit)"),
    "canceled": ("block_failed", "CancelledError"),
    "exit": ("block_failed", "tried to end the process (SystemExit)"),
    "recurse": ("block_failed", "RecursionError"),
    "out of memory": ("out_of_memory", "out of memory"),
    "ask for too much memory": ("out_of_memory", "out of memory"),
    "read what is typed": ("block_failed", "EOFError"),
    "tell the secret": ("block_failed", "cannot log in with ***"),
    "raise at the end": ("block_failed", "at the end"),
    "refuse to close": ("invalid_json_value", "inf is no JSON number"),
    "raise when closed": ("invalid_json_value", "inf is no JSON number"),
    "wait for nothing": ("block_failed", "takes a timezone-aware datetime"),
    "wait for a number": ("block_failed", "takes the name of a signal"),
    "call a number": ("block_failed", "takes the id of a graph"),
    "call with a set": ("invalid_json_value", "a set is not a JSON value; use a list (at $.a)"),
    "yield nan": ("invalid_json_value", "nan is no JSON number"),
    "yield nan deep inside": ("invalid_json_value", "nan is no JSON number (at $.a[0].b)"),
    "yield a set": ("invalid_json_value", "a set is not a JSON value"),
    "yield bytes": ("invalid_json_value", "a bytes is not a JSON value"),
    "yield a tuple": ("invalid_json_value", "a tuple is not a JSON value; use a list"),
    "yield a time": ("invalid_json_value", "a datetime is not a JSON value"),
    "yield an enum": ("invalid_json_value", "a _Shade is not a JSON value"),
    "yield an object": ("invalid_json_value", "an object is not a JSON value"),
    "yield keys that are no text": ("invalid_json_value", "the key 1 will not do"),
    "yield a key that is half a character": ("invalid_json_value", "half a surrogate pair"),
    "yield half a character": ("invalid_json_value", "half a surrogate pair"),
    "yield ten thousand levels": ("invalid_json_value", "nested deeper"),
    "yield ten thousand digits": ("invalid_json_value", "more than 4,300 digits"),
    "yield itself": ("invalid_json_value", "nested deeper"),
    "yield no pair": ("block_failed", "it yielded str"),
    "yield three": ("block_failed", "it yielded tuple"),
    "yield to nowhere": ("unknown_output_pin", "'nowhere'; its pins are 'error', 'out'"),
    "yield to a list": ("unknown_output_pin", "yielded on list"),
    "yield to none": ("unknown_output_pin", "yielded on NoneType"),
    "yield to a long name": ("unknown_output_pin", "its pins are 'error', 'out'"),
    "yield to half a character": ("unknown_output_pin", "'\\ud800'; its pins are"),
    "yield too much": ("value_too_large", "MAX_VALUE_BYTES"),
    "yield a hundred megabytes": ("value_too_large", "MAX_VALUE_BYTES"),
    "yield error": ("block_failed", "no fuel"),
    "yield an error that is none": ("invalid_json_value", "nan is no JSON number"),
    "yield a long error": ("block_failed", "(10,000,000 characters)"),
    "set a signal handler": ("block_failed", "signal only works in main thread"),
}
ASYNC_FAILURES: dict[str, tuple[str, str]] = {
    "raise base exception": ("block_failed", "_Silent: base"),
    "raise keyboard interrupt": ("block_failed", "tried to end the process (KeyboardInterrupt)"),
    "exit": ("block_failed", "tried to end the process (SystemExit)"),
    "recurse": ("block_failed", "RecursionError"),
    "cancel itself": ("block_failed", "canceled from within"),
    "raise canceled": ("block_failed", "canceled from within"),
    "raise at the end": ("block_failed", "at the end"),
    "refuse to close": ("invalid_json_value", "inf is no JSON number"),
}
"""What fails: the code, and words of the message."""

SUCCESSES: dict[str, list[Any]] = {
    "behave": [1],
    "yield nothing": [],
    "yield to another name": [1],
    "change what it yielded": [{"list": [1]}, {"list": [1, 2]}],
    "leave threads": [1],
    "leave many threads": [1],
    "leave threads that raise": [1],
    "fork": [1],
    "print much": [1],
    "SIGINT": [1],
}
ASYNC_SUCCESSES: dict[str, list[Any]] = {
    "behave": [1],
    "stand still": [1],
    "leave tasks that raise": [1],
    "set a signal handler": [1],
}
"""What is odd, and does no harm: the outputs."""

ENDLESS = ("yield for ever",)
ASYNC_ENDLESS = ("never return", "yield for ever", "close for ever")
"""What goes on until it is told to stop, and then stops."""

DEADLY = (
    "kill the process",
    "end the process in good order",
    "SIGKILL",
    "SIGSEGV",
    "take all memory",
    "close all files",
)
ASYNC_DEADLY = ("cancel all tasks", "stop the loop", "block the loop")
"""What ends its worker: it fails once it has done so four times, the last time alone."""

GREEDY: dict[str, tuple[str, str, str]] = {
    "hoard memory": ("need memory", "out_of_memory", "ran out of memory"),
    "hoard threads": ("need a thread", "block_failed", "can't start new thread"),
    "hoard files": ("need a file", "block_failed", "Too many open files"),
}
"""What takes all there is from those beside it: who needs it, too, and how the first fails when nobody else can be to blame."""

CORRUPTING = ("change the surroundings", "close standard output")
STUBBORN = ("never return",)
ASYNC_STUBBORN = ("swallow cancellation",)
ELSEWHERE = {"change its input", "fork and stay", "wait for ever", "SIGTERM", *(need for need, *_ in GREEDY.values())}


@pytest.fixture(scope="module")
def world() -> Generator[World]:
    with outside_world() as there:
        yield there


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    with running(tmp_path_factory.mktemp("server"), max_value_bytes=1_000_000) as runtime:
        yield runtime


def script(*steps: list[Any]) -> Node:
    return Node(block_id=ScriptBlock.id, input_default={"steps": list(steps)})


@contextmanager
def neighbors(server: Runtime, world: World) -> Generator[None]:
    """Two runs with unsafe blocks are under way, and end well in the worker in which they began."""
    (worker,) = server.worker_pids()
    held = {new_id(): block for block in (ScriptBlock, AsyncScriptBlock)}
    runs: list[str] = []
    for key, block in held.items():
        world.hold(key)
        script = {"steps": [["act", key], ["yield", "fine"]], "effects": "unsafe", "url": world.url}
        runs.append(server.start_run(server.post({"a": Node(block_id=block.id, input_default=script)})))
    for key in held:
        world.wait_for(key)
    yield
    for key in held:
        world.let_go(key)
    for run in runs:
        assert server.wait_for_end(run).status is RunStatus.COMPLETED
        assert server.outputs(run) == ["fine"]
    assert [world.counts[key] for key in held] == [1, 1]
    assert server.worker_pids() == [worker]


def both(cases: dict[str, Any], async_cases: dict[str, Any]) -> Any:
    return pytest.mark.parametrize(
        ("block", "how"),
        [*((MisbehavingBlock, how) for how in cases), *((AsyncMisbehavingBlock, how) for how in async_cases)],
        ids=[*cases, *(f"{how}, on the loop" for how in async_cases)],
    )


AnyBlock = type[MisbehavingBlock] | type[AsyncMisbehavingBlock]


@both(FAILURES, ASYNC_FAILURES)
def test_a_failing_block_has_a_reason(server: Runtime, world: World, block: AnyBlock, how: str) -> None:
    code, words = (FAILURES if block is MisbehavingBlock else ASYNC_FAILURES)[how]
    graph = server.post(
        {
            "bad": Node(block_id=block.id, input_default={"how": how, "api_key": SECRET}),
            "taker": script(["yield"]),
            "good": script(["yield", "fine"]),
        },
        [("bad.error", "taker.item")],
    )
    with neighbors(server, world):
        run = server.start_run(graph)
        # The error was taken by the node it is linked to, so the run is not failed.
        assert server.wait_for_end(run).status is RunStatus.COMPLETED
    (bad,) = [execution for execution in server.executions(run) if execution.block_id == block.id]
    assert bad.status is NodeStatus.FAILED
    assert bad.error is not None
    assert bad.error.code == code
    assert words in bad.error.message
    assert len(bad.error.message) < 5000
    assert "fine" in server.outputs(run)
    assert bad.error.message in server.outputs(run)


@both(SUCCESSES, ASYNC_SUCCESSES)
def test_an_odd_block_that_works(server: Runtime, world: World, block: AnyBlock, how: str) -> None:
    outputs = (SUCCESSES if block is MisbehavingBlock else ASYNC_SUCCESSES)[how]
    graph = server.post(
        {
            "odd": Node(block_id=block.id, input_default={"how": how}),
            "taker": script(["yield"]),
        },
        [("odd.out", "taker.item")],
    )
    with neighbors(server, world):
        run = server.start_run(graph)
        assert server.wait_for_end(run).status is RunStatus.COMPLETED
    assert server.outputs(run) == outputs * 2


@both(dict.fromkeys(ENDLESS), dict.fromkeys(ASYNC_ENDLESS))
def test_what_never_ends_is_stopped_at_its_time_limit(server: Runtime, world: World, block: AnyBlock, how: str) -> None:
    node = Node(block_id=block.id, input_default={"how": how}, metadata={"timeout_s": 0.3})
    with neighbors(server, world):
        run = server.start_run(server.post({"a": node}))
        assert server.wait_for_end(run).status is RunStatus.FAILED
    (execution,) = server.executions(run)
    assert execution.error is not None
    assert execution.error.code == "timeout"


def test_who_waits_for_ever_can_be_canceled(server: Runtime, world: World) -> None:
    with neighbors(server, world):
        run = server.start_run(
            server.post({"a": Node(block_id=MisbehavingBlock.id, input_default={"how": "wait for ever"})})
        )
        assert server.wait_for_end(run).status is RunStatus.WAITING
        server.put(InboxEntry(run, InboxKind.CANCEL, payload='{"reason": "enough"}'))
        assert server.wait_until_ended(run).status is RunStatus.CANCELED


@pytest.mark.parametrize("how", CORRUPTING)
def test_a_block_that_changes_its_process_does_not_disturb_the_server(tmp_path: Path, world: World, how: str) -> None:
    with running(tmp_path) as server:
        with neighbors(server, world):
            run = server.start_run(server.post({"a": Node(block_id=MisbehavingBlock.id, input_default={"how": how})}))
            assert server.wait_for_end(run).is_ended
            later = server.start_run(server.post({"a": script(["yield", "x" * 100_000])}))
            assert server.wait_for_end(later).status is RunStatus.COMPLETED
        server.request_stop()
        assert server.wait_until_stopped() == 0


def test_a_worker_that_is_asked_to_stop_hands_its_runs_over(tmp_path: Path, world: World) -> None:
    with running(tmp_path) as server:
        (worker,) = server.worker_pids()
        node = Node(block_id=MisbehavingBlock.id, input_default={"how": "SIGTERM"})
        run = server.start_run(server.post({"a": node, "b": script(["yield"])}, [("a.out", "b.item")]))
        assert server.wait_until_ended(run).status is RunStatus.COMPLETED
        server.wait_for_workers(others_than=[worker])


@pytest.mark.parametrize(
    "cases",
    [
        [(MisbehavingBlock, "take all memory"), (AsyncMisbehavingBlock, "cancel all tasks")],
        *(pytest.param([(MisbehavingBlock, how)], marks=pytest.mark.stress) for how in DEADLY),
        *(pytest.param([(AsyncMisbehavingBlock, how)], marks=pytest.mark.stress) for how in ASYNC_DEADLY),
    ],
    ids=["some", *DEADLY, *(f"{how}, on the loop" for how in ASYNC_DEADLY)],
)
@pytest.mark.timeout(240)
def test_what_costs_its_worker_ends_alone(tmp_path: Path, cases: list[tuple[AnyBlock, str]]) -> None:
    with running(tmp_path, worker_hung_limit_s=3.0) as server:
        bad_runs: list[str] = []
        for block, how in cases:
            nodes = {
                "bad": Node(block_id=block.id, input_default={"how": how}),
                "taker": script(["yield"]),
                "good": script(["yield", "fine"]),
            }
            bad_runs.append(server.start_run(server.post(nodes, [("bad.error", "taker.item")])))
        fine = server.post(
            {"a": script(["sleep", 0.05], ["yield", "fine"]), "b": script(["yield"])}, [("a.out", "b.item")]
        )
        for run in [server.start_run(fine) for _ in range(5)]:
            assert server.wait_until_ended(run, 2 * PATIENCE_S).status is RunStatus.COMPLETED
            assert server.outputs(run) == ["fine", "fine"]
        for run in bad_runs:
            # The run itself goes on without the block.
            assert server.wait_until_ended(run, 2 * PATIENCE_S).status is RunStatus.COMPLETED
            (bad,) = [execution for execution in server.executions(run) if execution.error is not None]
            assert bad.error is not None
            assert (bad.status, bad.error.code) == (NodeStatus.FAILED, "worker_died")
            assert sorted(server.outputs(run)) == sorted([bad.error.message, "fine"])
        # Those that come later have a worker, and the ones for the bad runs have been dismissed.
        assert server.wait_until_ended(server.start_run(fine)).status is RunStatus.COMPLETED
        server.wait_for_workers()


@pytest.mark.parametrize("how", GREEDY)
@pytest.mark.timeout(120)
def test_who_takes_all_there_is_fails_and_nobody_else(tmp_path: Path, how: str) -> None:
    need, code, words = GREEDY[how]
    with outside_world() as world, running(tmp_path, cancel_grace_s=2.0) as server:
        key = new_id()
        world.hold(key)
        acting = {"steps": [["act", key], ["yield", "fine"]], "effects": "unsafe", "url": world.url}
        unsafe = server.start_run(server.post({"a": Node(block_id=ScriptBlock.id, input_default=acting)}))
        world.wait_for(key)
        (worker,) = server.worker_pids()
        needing = {"how": need, "url": world.url}
        world.hold("need")
        victims = [
            server.start_run(server.post({"a": Node(block_id=MisbehavingBlock.id, input_default=needing)}))
            for _ in range(3)
        ]
        world.wait_for("need", len(victims))
        greedy = server.start_run(server.post({"a": Node(block_id=MisbehavingBlock.id, input_default={"how": how})}))
        eventually(lambda: "threads or files, and" in server.log(), PATIENCE_S)
        world.let_go()
        server.wait_for_workers(others_than=[worker])
        for run in victims:
            assert server.wait_until_ended(run).status is RunStatus.COMPLETED
            assert server.outputs(run) == ["fine"]
        assert server.wait_until_ended(greedy).status is RunStatus.FAILED
        (failed,) = server.executions(greedy)
        assert failed.error is not None
        assert failed.error.code == code
        assert words in failed.error.message
        # It may have had the time to end; if not, it is said so.
        assert server.wait_for_end(unsafe).status in (RunStatus.COMPLETED, RunStatus.WAITING)
        assert world.counts[key] == 1


def test_each_case_is_tried() -> None:
    tried = {*FAILURES, *SUCCESSES, *ENDLESS, *DEADLY, *GREEDY, *CORRUPTING, *STUBBORN, *ELSEWHERE}
    assert tried == set(CASES)
    async_tried = {*ASYNC_FAILURES, *ASYNC_SUCCESSES, *ASYNC_ENDLESS, *ASYNC_DEADLY, *ASYNC_STUBBORN}
    assert async_tried == set(ASYNC_CASES)
