"""A real server for benchmarks: `poetry run app` on a new database and free ports, and a client that drives it over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

START_LIMIT_S = 60.0
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED"})


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float
    """How long it took from the start of the program until the address answered."""

    def memory_mb(self) -> float:
        """Proportional set size of all its processes together."""
        parent = psutil.Process(self.process.pid)
        processes = [parent, *parent.children(recursive=True)]
        return sum(process.memory_full_info().pss for process in processes) / 2**20


@contextmanager
def running_server(**settings: str) -> Generator[Server]:
    """Start a server with these settings (names as in the environment), and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port, pyro_port = _free_port(), _free_port()
        environment = {
            **os.environ,
            "DATABASE_URL": f"file:{folder}/bench.db",
            "AGENT_SERVER_PORT": str(port),
            "PYRO_PORT": str(pyro_port),
            **settings,
        }
        log = (Path(folder) / "output.log").open("wb")
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "autogpt_server.app"], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, process, Path(log.name))
            yield Server(url, process, time.perf_counter() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{url}/ready", timeout=2.0).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"the server was not ready in {START_LIMIT_S:g} s:\n{log.read_text()[-2000:]}")


class Client:
    """What a program does with the server."""

    def __init__(self, server: Server) -> None:
        self._http = httpx.AsyncClient(
            base_url=server.url, timeout=120.0, limits=httpx.Limits(max_connections=200, max_keepalive_connections=200)
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def create(self, nodes: list[dict[str, Any]], links: list[dict[str, Any]]) -> str:
        """Store a graph; its id."""
        answer = await self._http.post("/graphs", json={"name": "benchmark", "nodes": nodes, "links": links})
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def execute(self, graph_id: str, data: dict[str, Any]) -> str:
        """Start a run; its id."""
        answer = await self._http.post(f"/graphs/{graph_id}/execute", json=data)
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def events(self, run_id: str) -> AsyncIterator[tuple[str, str]]:
        """(event, data) of the run's stream, until it ends."""
        async with self._http.stream("GET", f"/executions/{run_id}/events") as stream:
            stream.raise_for_status()
            event = ""
            async for line in stream.aiter_lines():
                if line.startswith("event:"):
                    event = line[6:].strip()
                elif line.startswith("data:"):
                    yield event, line[5:].strip()

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait until the run has ended, by its stream of events; the run."""
        async for _ in self.events(run_id):
            pass
        answer = await self._http.get(f"/executions/{run_id}")
        answer.raise_for_status()
        run: dict[str, Any] = answer.json()
        if run["status"] != "COMPLETED":
            raise RuntimeError(f"run {run_id} is {run['status']}: {run.get('error')}")
        return run
