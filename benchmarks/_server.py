"""A real server for benchmarks: `poetry run app` on free ports, with default settings and a database of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from autogpt_server.utils.instance import Instance
from autogpt_server.utils.settings import Settings

START_LIMIT_S = 60.0
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float
    """How long it took from the start of the program until the address answered."""
    database: Path

    def memory_mb(self) -> float:
        """Proportional set size of all its processes together."""
        parent = psutil.Process(self.process.pid)
        total = 0
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 2**20

    def memory_of(self, service: str) -> float:
        """Proportional set size of one service's process."""
        return psutil.Process(self._pids()[service]).memory_full_info().pss / 2**20

    def memory_of_each(self) -> dict[str, float]:
        """Proportional set size of each process: of the services, of the workers by number, and of what is left of all."""
        sizes: dict[str, float] = {}
        for name, pid in self._pids().items():
            process = psutil.Process(pid)
            for role, each in ((name, process), *((f"worker {n}", w) for n, w in enumerate(_workers(process), 1))):
                sizes[role] = each.memory_full_info().pss / 2**20
        return {**sizes, "others": self.memory_mb() - sum(sizes.values())}

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each part so far. Workers are the children of the ExecutionManager."""
        spent: dict[str, float] = {}
        for name, pid in self._pids().items():
            process = psutil.Process(pid)
            spent[name] = _cpu_s(process)
            if workers := _workers(process):
                spent["workers"] = sum(map(_cpu_s, workers))
        return spent

    def _pids(self) -> dict[str, int]:
        """Service -> its process."""
        status = Instance(Settings(database_url=f"file:{self.database}")).status()
        if status is None:
            raise RuntimeError("the server does not say what it consists of")
        return {service.name: service.pid for service in status.services if service.pid is not None}


def _workers(service: psutil.Process) -> list[psutil.Process]:
    return [child for child in service.children() if "resource_tracker" not in " ".join(child.cmdline())]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def running_server(prepare: Callable[[Path], None] | None = None, **settings: str) -> Generator[Server]:
    """Start a server with these settings (names as in the environment), and stop it at the end.

    `prepare` makes its database file; without it the server begins with a new one.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        database = Path(folder) / "bench.db"
        if prepare is not None:
            prepare(database)
        port, pyro_port = _free_port(), _free_port()
        paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(_ROOT)]
        environment = {
            **os.environ,
            "DATABASE_URL": f"file:{database}",
            "AGENT_SERVER_PORT": str(port),
            "PYRO_PORT": str(pyro_port),
            "BLOCK_MODULES": "benchmarks.blocks",
            "PYTHONPATH": os.pathsep.join(paths),
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
            yield Server(url, process, time.perf_counter() - began, database)
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
