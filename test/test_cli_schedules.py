"""`cli schedule` against the real server."""

import json
import re
import subprocess
from collections.abc import Generator
from typing import Any

import pytest

from autogpt_server.cli_schedule_words import became, seconds_text
from autogpt_server.utils.process import ExitCode
from support import runtime_blocks
from support.live_server import LiveServer, live_server
from support.running import eventually, free_port
from support.runtime_blocks import ScriptBlock

pytestmark = pytest.mark.timeout(240)

STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("server"), {"BLOCK_MODULES": runtime_blocks.MODULE}) as running:
        yield running


class Cli:
    """`cli schedule`, for one server, with a graph that wants the input `input`."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        node = {"id": "n", "block_id": STORE_VALUE}
        self.graph_id = str(server.post("/graphs", {"name": "stored", "nodes": [node], "links": []})["id"])

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.server.cli("schedule", *arguments)

    def said(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        done = self(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def added(self, *arguments: str) -> dict[str, Any]:
        """A new schedule of the graph."""
        return json.loads(self.said("add", self.graph_id, "-i", '{"input": "x"}', *arguments, "--json"))

    def change_graph(self) -> None:
        """Make a version of the graph active that does not take the input any more."""
        node = {"id": "n", "block_id": ScriptBlock.id, "input_default": {"steps": [["yield", 1]]}}
        changed = {"name": "stored", "nodes": [node], "links": []}
        assert self.server.client.put(f"/graphs/{self.graph_id}", json=changed).status_code == 200


@pytest.fixture
def cli(server: LiveServer) -> Cli:
    return Cli(server)


def test_a_schedule_is_added_shown_and_listed(cli: Cli) -> None:
    said = cli.said(
        *("add", cli.graph_id, "--cron", "0 9 * * 1-5", "--timezone", "Asia/Tokyo", "--name", "greeting"),
        *("--input", '{"input": "x"}', "--overlap", "queue", "--catch-up", "none"),
    )
    lines = said.splitlines()
    schedule_id = lines[0].split()[1]
    assert "when     At 09:00, Monday to Friday (Asia/Tokyo)." in lines
    assert "missed   catch_up none, overlap queue" in lines
    assert [line.split()[1] for line in lines[-5:]] == ["09:00:00+09:00"] * 5
    assert [line.split()[3] for line in lines[-5:]] == ["00:00:00Z"] * 5
    assert cli.said("show", schedule_id) == said
    listed = cli.said("list", cli.graph_id).splitlines()
    assert [line.split()[0] for line in listed] == ["SCHEDULE", schedule_id]
    assert listed[1].endswith("greeting: At 09:00, Monday to Friday (Asia/Tokyo).")
    everywhere = json.loads(cli.said("--json", "list"))
    assert [schedule["id"] for schedule in everywhere if schedule["graph_id"] == cli.graph_id] == [schedule_id]
    assert cli.said("occurrences", schedule_id) == "It has not been due yet.\n"


def test_once_at_a_local_time(cli: Cli) -> None:
    found = cli.added("--at", "2090-12-24T18:00", "--timezone", "America/New_York")
    assert (found["at"], found["cron"]) == ("2090-12-24T23:00:00Z", None)
    assert found["next_fire_times"] == [{"local": "2090-12-24T18:00:00-05:00", "utc": "2090-12-24T23:00:00Z"}]
    assert cli.added("--at", "2090-12-24T18:00+01:00")["at"] == "2090-12-24T17:00:00Z"


def test_pause_and_resume(cli: Cli) -> None:
    schedule_id = cli.added("--cron", "@yearly", "--paused")["id"]
    assert cli.said("list", cli.graph_id).splitlines()[1].split()[2] == "paused"
    assert cli.said("resume", schedule_id).startswith("goes on; due next: 2")
    assert f"until `cli schedule resume {schedule_id}`" in cli.said("pause", schedule_id)
    assert json.loads(cli.said("show", schedule_id, "--json"))["is_enabled"] is False


def test_occurrences_with_their_runs(cli: Cli) -> None:
    schedule_id = cli.added("--cron", "* * * * * *", "--overlap", "allow")["id"]
    eventually(lambda: len(cli.server.get(f"/graphs/schedules/{schedule_id}/occurrences")) >= 2, 60)
    cli.said("pause", schedule_id)
    header, *lines = cli.said("occurrences", schedule_id, "-n", "2").splitlines()
    assert header.split() == ["DUE", "STATUS", "LATE", "RUN"]
    assert len(lines) == 2
    for line in lines:
        _, _, status, late, unit, run_id, *_ = line.split()
        assert (status, unit) == ("STARTED", "s")
        assert float(late) >= 0
        assert cli.server.get(f"/executions/{run_id}")["schedule_id"] == schedule_id
    shown = cli.said("show", schedule_id)
    assert f"last     {lines[0][:20]} run " in shown
    assert re.search(r"^late     p50 [\d.]+ s, p99 [\d.]+ s, max [\d.]+ s \(of \d+ runs\)$", shown, re.MULTILINE)


def test_one_that_can_no_longer_run_says_so_before_it_is_due(cli: Cli) -> None:
    found = cli.added("--cron", "0 0 1 1 *")
    assert cli.said("list", cli.graph_id, "--problems").startswith("There are no such schedules")
    cli.change_graph()
    lines = cli.said("list", cli.graph_id, "--problems").splitlines()
    assert (lines[1].split()[0], lines[1].split()[2]) == (found["id"], "PROBLEM")
    assert "! Version 2 of the graph cannot be started:" in lines[2]
    assert "problem  Version 2 of the graph cannot be started:" in cli.said("show", found["id"])
    cli.said("pause", found["id"])
    refused = cli("resume", found["id"])
    assert refused.returncode == ExitCode.ERROR
    assert "422 invalid_schedule" in refused.stderr


def test_preview(cli: Cli) -> None:
    said = cli.said("preview", "--cron", "0 0 13 * 5", "--timezone", "Europe/Berlin", "-n", "3").splitlines()
    assert said[0].endswith("(Europe/Berlin).")
    assert said[1].startswith("- ")
    assert len(said[said.index("") :]) == 2 + 3
    assert json.loads(cli.said("--json", "preview", "--cron", "@daily"))["description"] == "At 00:00, every day (UTC)."


def test_mistakes_are_one_line_that_says_what_to_do(cli: Cli) -> None:
    for arguments, code, words in (
        (("add", cli.graph_id), 2, "give either --cron EXPRESSION or --at TIME"),
        (("preview", "--cron", "@daily", "--at", "2090-01-01"), 2, "give either --cron EXPRESSION or --at TIME"),
        (("add", cli.graph_id, "--cron", "@daily", "-i", "[1]"), 2, "it must be a JSON object"),
        (("add", cli.graph_id, "--cron", "@daily"), 1, "422 invalid_schedule"),
        (("add", "none", "--cron", "@daily"), 1, "404 graph_not_found"),
        (("list", "none"), 1, "404 graph_not_found"),
        (("show", "none"), 1, "404 schedule_not_found"),
        (("preview", "--cron", "5/15 * * * *"), 1, "write 5-59/15"),
        (("preview", "--cron", "@daily", "--timezone", "Europe/Berln"), 1, "'Europe/Berlin'"),
        (("preview", "--at", "2001-01-01T00:00"), 1, "has passed"),
        (("--server", f"http://127.0.0.1:{free_port()}", "list"), 3, "There is no server"),
    ):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_words() -> None:
    occurrence = {"status": "SKIPPED", "run_id": None, "run_status": None, "reason": "a run was in the way"}
    assert became(occurrence) == "SKIPPED: a run was in the way"
    assert became(occurrence | {"run_id": "r", "run_status": "FAILED"}) == "run r FAILED"
    assert [seconds_text(each) for each in (0.0214, 9.5, 61.4)] == ["0.021 s", "9.500 s", "61 s"]
