"""`cli test populate-db` and the examples, on the whole server: three processes, a real database, HTTP."""

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from autogpt_server.seeds import HELLO_INPUT, HELLO_OUTPUT, PRINT_TO_CONSOLE
from support.live_server import LiveServer, live_server
from support.loopback import Loopback, Reply
from support.running import eventually, free_port

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def test_populate_db_makes_what_it_says(server: LiveServer) -> None:
    done = server.cli("test", "populate-db", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line[0].isalpha() and " " in line)
    assert said["Status"] == "COMPLETED"
    for path in (
        line.strip().removeprefix(server.url) for line in done.stdout.splitlines() if line.startswith("  http")
    ):
        server.get(path)

    graph_id, run_id, schedule_id = (said[name].split()[0] for name in ("Graph", "Run", "Schedule"))
    (printed,) = [
        node for node in server.get(f"/graphs/{graph_id}/executions/{run_id}") if node["block_id"] == PRINT_TO_CONSOLE
    ]
    assert printed["status"] == "COMPLETED"
    assert printed["input_data"] == {"text": HELLO_OUTPUT}
    assert printed["output_data"] == {"output": [HELLO_OUTPUT], "status": ["printed"]}
    eventually(lambda: HELLO_OUTPUT in server.output.splitlines())

    (schedule,) = server.get(f"/graphs/{graph_id}/schedules")
    assert (schedule["id"], schedule["cron"], schedule["is_enabled"]) == (schedule_id, "*/5 * * * *", True)
    assert schedule["input_data"] == dict(HELLO_INPUT)


def test_its_schedule_runs(server: LiveServer) -> None:
    graph = server.post("/graphs", example("hello_world"))
    # As clients of July 2024 did, with the graph's id in the body; with seconds, so that a test need not wait for minutes.
    body = {"graph_id": graph["id"], "cron": "* * * * * *", "input_data": dict(HELLO_INPUT)}
    schedule = server.post(f"/graphs/{graph['id']}/schedules", body)

    def completed() -> list[Any]:
        runs = server.get(f"/graphs/{graph['id']}/executions")
        return [run for run in runs if run["status"] == "COMPLETED" and run["schedule_id"] == schedule["id"]]

    assert eventually(completed, 30)
    assert server.client.delete(f"/graphs/schedules/{schedule['id']}").is_success


@pytest.mark.parametrize("name", ["hello_world", "july_2024/hello_world"])
def test_old_and_new_pins_print_the_same(server: LiveServer, name: str) -> None:
    run = server.run(example(name), HELLO_INPUT)
    assert run["status"] == "COMPLETED", run
    (printed,) = server.node_executions(run, PRINT_TO_CONSOLE)
    assert printed["input_data"] == {"text": HELLO_OUTPUT}


def test_the_greeting_example(server: LiveServer) -> None:
    run = server.run(example("greeting"), {"name": "Ada"})
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"text": ["Hello, Ada!"]})
    script = subprocess.run(
        [sys.executable, str(EXAMPLES / "greeting.py"), server.url, "Ada"],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.splitlines()[-1] == "COMPLETED Hello, Ada!"


def test_without_a_server_it_says_so(server: LiveServer) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for command in ("populate-db", "reddit"):
        done = server.cli("test", command, nowhere)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == f"cli: There is no server at {nowhere}; start one with `poetry run app`.\n"
        done = server.cli("test", command, "127.0.0.1:8000")
        assert done.returncode == 1
        assert "is no address of a server" in done.stderr


def test_what_answers_but_is_no_server_of_ours(server: LiveServer) -> None:
    with Loopback(lambda _request: Reply(b"<html>hello</html>")) as other:
        done = server.cli("test", "populate-db", other.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "not with JSON" in done.stderr
    problem = {"title": "Not valid", "detail": "The graph is not valid.", "code": "graph_invalid", "status": 422}
    errors = [{"code": "unknown_block", "node_id": "first", "pin": None, "message": "There is no such block."}]
    with Loopback(lambda _request: Reply({**problem, "errors": errors}, 422)) as other:
        done = server.cli("test", "populate-db", other.url)
        assert done.returncode == 1
        assert done.stderr == (
            f"cli: POST {other.url}/graphs: 422 graph_invalid: The graph is not valid.; first: There is no such block.\n"
        )


def test_help_names_every_option_and_where_secrets_go(server: LiveServer) -> None:
    shown = server.cli("test", "--help").stdout
    assert "populate-db" in shown
    assert "reddit" in shown
    shown = server.cli("test", "reddit", "--help", REDDIT_PASSWORD="hunter2hunter2").stdout
    for name in ("REDDIT_CLIENT_ID", "REDDIT_CLIENT_SECRET", "REDDIT_USERNAME", "REDDIT_PASSWORD", "OPENAI_API_KEY"):
        assert name in shown
    assert "hunter2hunter2" not in shown
