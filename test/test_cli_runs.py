"""`cli run` against the real server, and what dies half-way: requests that are committed are applied, whoever is killed then."""

import json
import os
import signal
import subprocess
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from autogpt_server.cli_api import Api
from autogpt_server.utils import faults
from autogpt_server.utils.process import ExitCode
from support import runtime_blocks
from support.live_server import LiveServer, live_server
from support.running import eventually, free_port
from support.runtime_blocks import AsyncScriptBlock, ScriptBlock

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Generator[LiveServer]:
    (folder / "faults").mkdir()
    environment = {faults.VARIABLE: str(folder / "faults"), "BLOCK_MODULES": runtime_blocks.MODULE}
    with live_server(folder, environment, cancel_grace_s=1.0) as running:
        yield running


class Cli:
    """`cli run`, for one server."""

    def __init__(self, server: LiveServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.server.cli("run", *arguments)

    def said(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        done = self(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def document(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.said("--json", *arguments))

    def graph(self, *steps: Sequence[Any], block: str = ScriptBlock.id, effects: str = "pure") -> str:
        node = {"id": "a", "block_id": block, "input_default": {"steps": list(steps), "effects": effects}}
        return str(self.server.post("/graphs", {"name": "test", "nodes": [node], "links": []})["id"])

    def start(self, *steps: Sequence[Any], **options: str) -> tuple[str, str]:
        """A run of one node: its id, and that of the node execution."""
        started = self.document("start", self.graph(*steps, **options))
        return started["id"], started["executions"][0]["id"]

    def wait_for(self, run_id: str, status: str) -> None:
        eventually(lambda: self.server.get(f"/executions/{run_id}")["status"] == status, 60)

    def arm(self, point: str, action: str, process: str = "") -> None:
        faults.arm(self.folder / "faults", point, action, process)

    def wait_until_fired(self, point: str) -> None:
        eventually(lambda: not (self.folder / "faults" / point).exists(), 60)


@pytest.fixture
def cli(server: LiveServer, folder: Path) -> Cli:
    return Cli(server, folder)


def test_a_run_is_started_followed_shown_and_listed(cli: Cli) -> None:
    graph = cli.graph(["yield", 7])
    done = cli("start", graph, "--follow")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[-1].split()[2] == "COMPLETED"
    run_id = lines[-1].split()[1]
    shown = cli.said("show", run_id)
    assert "status   COMPLETED" in shown
    assert "ScriptBlock" in shown
    listed = cli.said("list", graph).splitlines()
    assert [line.split()[0] for line in listed] == ["RUN", run_id]
    assert cli.said("list", graph, "--status", "FAILED") == "The graph has no such runs.\n"
    followed = [json.loads(line) for line in cli.said("--json", "follow", run_id).splitlines()]
    assert (followed[0]["event"], followed[-1]["data"]["status"]) == ("snapshot", "COMPLETED")
    assert cli.said("explain", run_id) == "The run has completed.\n"
    assert json.loads(cli.said("show", run_id, "--json"))["run"]["id"] == run_id


def test_a_run_that_fails_is_told_by_the_exit_code(cli: Cli) -> None:
    done = cli("start", cli.graph(["fail", "no fuel"]), "--follow")
    assert done.returncode == ExitCode.RUN_NOT_COMPLETED
    assert "no fuel" in done.stdout


def test_the_same_key_starts_one_run(cli: Cli) -> None:
    graph = cli.graph(["yield", 1])
    assert cli.said("start", graph, "--key", "once") == cli.said("start", graph, "--key", "once")


def test_a_run_that_waits_is_explained_and_given_its_signal(cli: Cli) -> None:
    run_id, execution = cli.start(["wait", {"signal": "go"}], ["yield", 2])
    cli.wait_for(run_id, "WAITING")
    explained = cli.said("explain", run_id)
    assert "waits for the signal 'go'" in explained
    assert f"  cli run signal {run_id} {execution} go --value VALUE\n" in explained
    assert "it waits for 'go' now" in cli.said("signal", run_id, execution, "stop")
    cli.said("signal", run_id, execution, "go", "--value", '{"by": "me"}', "--key", "1")
    cli.said("signal", run_id, execution, "go", "--value", '{"by": "me"}', "--key", "1")
    assert cli.said("follow", run_id)
    node = cli.document("show", run_id)["nodes"][0]
    assert node["output_data"] == {"out": [{"by": "me"}, 2]}
    again = cli("signal", run_id, execution, "go", "--value", "other", "--key", "1")
    assert again.returncode == 1
    assert "signal_key_reused" in again.stderr


def test_somebody_decides(cli: Cli) -> None:
    run_id, execution = cli.start(["unknown"], effects="unsafe")
    cli.wait_for(run_id, "WAITING")
    explained = cli.said("explain", run_id)
    assert "needs a decision" in explained
    assert f"  cli run resolve --attempt 1 {run_id} {execution} retry|skip|fail\n" in explained
    assert "attempt 1" in cli("resolve", run_id, execution, "skip", "--attempt", "2").stderr
    assert cli.said("resolve", run_id, execution, "skip", "--attempt", "1") == "decided: skip\n"
    assert cli("follow", run_id).returncode == 0


def test_a_run_is_canceled(cli: Cli) -> None:
    run_id, _ = cli.start(["sleep", 60], block=AsyncScriptBlock.id)
    cli.wait_for(run_id, "RUNNING")
    explanation = cli.document("explain", run_id)
    assert (explanation["is_progressing"], [cause["code"] for cause in explanation["causes"]]) == (True, ["running"])
    cli.said("cancel", run_id)
    assert cli("follow", run_id).returncode == ExitCode.RUN_NOT_COMPLETED
    again = cli("cancel", run_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "409 run_ended" in again.stderr


def test_lists_are_read_to_their_end(cli: Cli) -> None:
    graph = cli.graph(["yield", 1])
    started = {str(cli.document("start", graph)["id"]) for _ in range(3)}
    with Api(cli.server.url, None) as api:
        assert {run["id"] for run in api.items(f"/graphs/{graph}/executions?limit=1")} == started


def test_mistakes_are_one_line(cli: Cli) -> None:
    for arguments, code, words in (
        (("show", "none"), 1, "404 run_not_found"),
        (("start", "none"), 1, "404 graph_not_found"),
        (("start", "none", "-i", "{"), 2, "not valid JSON"),
        (("resolve", "a", "b", "repeat"), 2, "'repeat' is not one of"),
        (("--server", f"http://127.0.0.1:{free_port()}", "show", "none"), 3, "There is no server"),
        (("--server", f"http://127.0.0.1:{free_port()}", "follow", "none"), 3, "There is no server"),
        (("--server", "nowhere", "show", "none"), 1, "is no address of a server"),
    ):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert words in done.stderr
        assert "Traceback" not in done.stderr


# --- what dies half-way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["cancel", "signal", "resolve"])
def test_the_server_dies_between_the_commit_and_the_hint(cli: Cli, what: str) -> None:
    steps: list[Any] = ["unknown"] if what == "resolve" else ["wait", {"signal": "go"}]
    run_id, execution = cli.start(steps, effects="unsafe")
    cli.wait_for(run_id, "WAITING")
    cli.arm("operations.hint.before", "kill")
    path = f"/executions/{run_id}"
    bodies = {"signal": {"name": "go", "key": "1", "value": 5}, "resolve": {"action": "skip"}}
    with pytest.raises(httpx.TransportError):
        cli.server.client.post(
            f"{path}/cancel" if what == "cancel" else f"{path}/nodes/{execution}/{what}", json=bodies.get(what)
        )
    cli.server.wait_for_port()
    ended = cli.server.ended(run_id)
    assert ended["status"] == ("CANCELED" if what == "cancel" else "COMPLETED")


def test_the_manager_dies_and_what_was_asked_meanwhile_is_done(cli: Cli) -> None:
    run_id, execution = cli.start(["wait", {"signal": "go"}], ["yield", 2])
    cli.wait_for(run_id, "WAITING")
    os.kill(cli.server.pid_of("ExecutionManager"), signal.SIGKILL)
    cli.said("signal", run_id, execution, "go", "--value", "5")
    assert cli.server.ended(run_id)["status"] == "COMPLETED"
    assert cli.document("show", run_id)["nodes"][0]["output_data"] == {"out": [5, 2]}


@pytest.mark.parametrize("point", ["committer.write.before", "committer.write.after"])
def test_the_worker_dies_before_or_after_it_has_written_what_it_applied(cli: Cli, point: str) -> None:
    run_id, execution = cli.start(["wait", {"signal": "go"}], ["yield", 2])
    cli.wait_for(run_id, "WAITING")
    cli.arm(point, "kill")
    cli.said("signal", run_id, execution, "go", "--value", "5")
    cli.wait_until_fired(point)
    assert cli.server.ended(run_id)["status"] == "COMPLETED"
    assert cli.document("show", run_id)["nodes"][0]["output_data"] == {"out": [5, 2]}


def test_whoever_follows_goes_on_when_the_server_is_back(cli: Cli) -> None:
    run_id, execution = cli.start(["wait", {"signal": "go"}], ["yield", 2])
    cli.wait_for(run_id, "WAITING")
    with subprocess.Popen(
        cli.server.cli_command("run", "follow", run_id),
        env=cli.server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline().split()[2] == "WAITING"
        os.kill(cli.server.pid_of("AgentServer"), signal.SIGKILL)
        assert following.stderr is not None
        assert "trying to go on" in following.stderr.readline()
        cli.server.wait_for_port()
        cli.said("signal", run_id, execution, "go")
        out, _ = following.communicate(timeout=60)
    assert (following.returncode, out.splitlines()[-1].split()[2]) == (0, "COMPLETED")


def test_while_the_manager_is_stopped_a_run_is_explained_all_the_same(cli: Cli) -> None:
    manager = psutil.Process(cli.server.pid_of("ExecutionManager"))
    graph = cli.graph(["yield", 1])
    manager.suspend()
    try:
        run_id = cli.document("start", graph)["id"]
        explanation = cli.document("explain", run_id)
        assert [cause["code"] for cause in explanation["causes"]] == ["manager_unreachable", "queued"]
        assert explanation["is_progressing"] is False
    finally:
        manager.resume()
    assert cli.server.ended(run_id)["status"] == "COMPLETED"


def test_rerun(cli: Cli) -> None:
    graph = {
        "name": "test",
        "nodes": [
            {"id": "a", "block_id": ScriptBlock.id, "input_default": {"steps": [["yield", 1]]}},
            {"id": "b", "block_id": ScriptBlock.id, "input_default": {"steps": [["fail", "boom"]]}},
        ],
        "links": [{"source_id": "a", "source_name": "out", "sink_id": "b", "sink_name": "item"}],
    }
    stored = cli.server.post("/graphs", graph)
    former = cli.said("start", stored["id"]).strip()
    cli.wait_for(former, "FAILED")
    node_id = stored["nodes"][1]["id"]
    again = cli.document("rerun", former, node_id, "--key", "k")
    assert [each["node_id"] for each in again["executions"]] == [node_id]
    failed = cli.document("show", former)["nodes"][1]["node_exec_id"]
    assert cli.said("rerun", former, failed, "--key", "k").strip() == again["id"]
    cli.wait_for(again["id"], "FAILED")
    shown = cli.said("show", again["id"])
    assert f"rerun of {former}" in shown
    assert shown.count("kept from the run before") == 1
    refused = cli("rerun", former, "nobody")
    assert refused.returncode == ExitCode.ERROR
    assert "unknown_node" in refused.stderr or "invalid_rerun" in refused.stderr
