"""The whole server, as people start it: its three services as processes of their own, on free ports, with a database of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import httpx

from autogpt_server.utils.instance import Instance
from autogpt_server.utils.settings import Settings
from support.running import environment_for, eventually, settings_for

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED"})


class LiveServer:
    """A running server, and a client for it."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self.url = settings.api_url
        self.environment = {**environment_for(settings, ""), **environment}
        self._console = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autogpt_server.app"],
            env=self.environment,
            cwd=settings.database_path.parent,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.client = httpx.Client(base_url=self.url, timeout=30)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return os.pread(self._console.fileno(), 1_000_000, 0).decode()

    def wait_until_ready(self) -> None:
        eventually(lambda: "autogpt_server is ready" in self.output or self._process.poll() is not None, 120)
        assert "autogpt_server is ready" in self.output, self.output

    def get(self, path: str) -> Any:
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any) -> Any:
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def run(self, graph: Mapping[str, Any], run_input: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Store a graph, run it, and return the run once it has ended."""
        stored = self.post("/graphs", graph)
        run_id = self.post(f"/graphs/{stored['id']}/execute", run_input or {})["id"]
        return self.ended(run_id)

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it has ended."""

        def run() -> dict[str, Any]:
            found: dict[str, Any] = self.get(f"/executions/{run_id}")
            return found if found["status"] in ENDED else {}

        return eventually(run, 60)

    def node_executions(self, run: Mapping[str, Any], block_id: str) -> list[dict[str, Any]]:
        """The executions of a run's nodes of this block."""
        found = self.get(f"/graphs/{run['graph_id']}/executions/{run['id']}")
        return [execution for execution in found if execution["block_id"] == block_id]

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `cli` with these arguments."""
        return subprocess.run(
            self.cli_command(*arguments),
            env=self.environment | environment,
            cwd=self.settings.database_path.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def cli_command(self, *arguments: str) -> list[str]:
        """How to run `cli` with these arguments."""
        return [sys.executable, "-m", "autogpt_server.cli", *arguments]

    def pid_of(self, service: str) -> int:
        """The process id of a service, once it is ready."""

        def pid() -> int | None:
            status = Instance(self.settings).status()
            services = status.services if status else ()
            return next((found.pid for found in services if found.name == service and found.state == "ready"), None)

        return eventually(pid, 60) or 0

    def wait_for_port(self) -> None:
        """Wait until the API answers again."""

        def answers() -> bool:
            try:
                return self.client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, 60)

    def stop(self) -> None:
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._console.close()
        assert Instance(self.settings).wait_until_alone(15), "a process was left behind"


@contextlib.contextmanager
def live_server(folder: Path, environment: Mapping[str, str] | None = None, **changes: Any) -> Generator[LiveServer]:
    """A server that is ready, until the block is left. `changes` are settings; `environment` is added as it is."""
    server = LiveServer(settings_for(folder, num_graph_workers=1, **changes), environment or {})
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
