"""The AgentServer, the manager and a worker as real processes, over HTTP."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from autogpt_server.data.migrate import migrate
from autogpt_server.utils import json
from autogpt_server.utils.process import ProcessSpec
from autogpt_server.utils.service import NameServer
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.supervisor import Supervisor
from server.sample_blocks import STORE_VALUE, named_graph
from support.running import eventually, owned, settings_for

LIMIT_S = 60.0
pytestmark = pytest.mark.timeout(180)


def spec(name: str, target: str, settings: Settings) -> ProcessSpec:
    return ProcessSpec(name=name, target=target, settings=settings)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[tuple[Supervisor, Settings]]:
    settings = settings_for(tmp_path, sqlite_synchronous="NORMAL", num_graph_workers=1)
    migrate(settings.database_path)
    specs = [
        spec("AgentServer", "autogpt_server.server.server:AgentServer", settings),
        spec("ExecutionManager", "autogpt_server.execution.manager:ExecutionManager", settings),
    ]
    with owned(settings) as instance:
        names = NameServer(settings, instance.identity().secret)
        supervisor = Supervisor(specs)
        supervisor.start()
        try:
            eventually(lambda: is_ready(settings), LIMIT_S)
            yield supervisor, settings
        finally:
            supervisor.request_drain()
            supervisor.join(LIMIT_S)
            names.close()


def is_ready(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.api_url}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def watch(client: httpx.Client, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    """All (event, data) of a run, until the stream ends."""
    seen: list[tuple[str, dict[str, Any]]] = []
    name = ""
    with client.stream("GET", f"/executions/{run_id}/events") as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                assert isinstance(data, dict)
                seen.append((name, data))
    return seen


def test_a_graph_posted_run_and_watched(house: tuple[Supervisor, Settings]) -> None:
    _, settings = house
    with httpx.Client(base_url=settings.api_url, trust_env=False, timeout=LIMIT_S) as client:
        graph = client.post("/graphs", json=named_graph()).json()
        run_id = client.post(f"/graphs/{graph['id']}/execute", json={"topic": "bees"}).json()["id"]
        seen = watch(client, run_id)
        assert [seen[0][0], seen[-1][0]] == ["snapshot", "run"]
        assert seen[-1][1]["status"] == "COMPLETED"
        assert client.get(f"/executions/{run_id}").json()["outputs"] == {"out": ["bees"]}
        assert client.post(f"/blocks/{STORE_VALUE}/execute", json={"input": 1}).json() == [{"output": 1}]


def test_killed_it_comes_back_on_its_port_and_knows_what_it_had_answered(house: tuple[Supervisor, Settings]) -> None:
    supervisor, settings = house
    with httpx.Client(base_url=settings.api_url, trust_env=False, timeout=LIMIT_S) as client:
        graph = client.post("/graphs", json=named_graph()).json()
        run_id = client.post(f"/graphs/{graph['id']}/execute", json={"topic": 1}).json()["id"]
        [pid] = [process.pid for process in supervisor.processes() if process.name == "AgentServer"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: any(p.name == "AgentServer" and p.pid not in {None, pid} for p in supervisor.processes()), LIMIT_S
    )
    eventually(lambda: is_ready(settings), LIMIT_S)
    with httpx.Client(base_url=settings.api_url, trust_env=False, timeout=LIMIT_S) as client:
        assert watch(client, run_id)[-1][1]["status"] == "COMPLETED"


def test_asked_to_stop_it_ends_its_streams_in_time(house: tuple[Supervisor, Settings]) -> None:
    supervisor, settings = house
    with httpx.Client(base_url=settings.api_url, trust_env=False, timeout=LIMIT_S) as client:
        graph = client.post("/graphs", json=named_graph()).json()
        # Nobody performs the run: its stream would stay open for ever.
        supervisor.remove("ExecutionManager")
        eventually(lambda: len(supervisor.processes()) == 1, LIMIT_S)
        run_id = client.post(f"/graphs/{graph['id']}/execute", json={"topic": 1}).json()["id"]
        with client.stream("GET", f"/executions/{run_id}/events") as response:
            lines = response.iter_lines()
            assert next(lines).startswith("retry: ")
            started = time.monotonic()
            supervisor.request_drain()
            rest = list(lines)
        assert any(line == "event: snapshot" for line in rest)
        assert time.monotonic() - started < settings.drain_limit_s
