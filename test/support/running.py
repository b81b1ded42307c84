"""Helpers for tests with real processes: free ports, settings for them, and waiting without sleeping blindly."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import psutil

from autogpt_server.utils.instance import Instance
from autogpt_server.utils.process import ProcessSpec
from autogpt_server.utils.settings import Settings
from support import processes

T = TypeVar("T")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a server of its own: database in `folder`, free ports."""
    values: dict[str, Any] = {
        "database_url": f"file:{folder / 'test.db'}",
        "agent_server_port": free_port(),
        "pyro_port": free_port(),
        **changes,
    }
    return Settings(**values)


def spec_of(target: type, settings: Settings, *, name: str | None = None, **changes: Any) -> ProcessSpec:
    """A spec for a class of `support.processes`."""
    values: dict[str, Any] = {
        "name": name or target.__name__,
        "target": f"{processes.MODULE}:{target.__name__}",
        **changes,
    }
    return ProcessSpec(settings=settings, **values)


def eventually(check: Callable[[], T], timeout_s: float = 15.0) -> T:
    """Call `check` until it returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"still {found!r} after {timeout_s} s")
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def owned(settings: Settings) -> Generator[Instance]:
    """Be the server of this database, as the app is."""
    instance = Instance(settings)
    instance.own(wait_s=5)
    try:
        yield instance
    finally:
        assert instance.wait_until_alone(10), "a process was left behind"
        instance.disown()


class Program:
    """A program of this server with sample services, as a process of its own; its output is kept in a file."""

    def __init__(self, settings: Settings, services: str, *arguments: str, **environment: str) -> None:
        self.settings = settings
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.app", *arguments],
            env=environment_for(settings, services) | environment,
            cwd=settings.database_path.parent,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return os.pread(self._file.fileno(), 1_000_000, 0).decode()

    def wait_for(self, text: str) -> None:
        """Wait until it has printed `text`."""
        eventually(lambda: text in self.output or self._process.poll() is not None, 30)
        assert text in self.output, self.output

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Wait for its end; its exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; it said: {self.output}") from None

    def kill(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it if it still runs, and wait for all that it started."""
        self.kill()
        self._file.close()
        assert Instance(self.settings).wait_until_alone(10), "a process was left behind"


def environment_for(settings: Settings, services: str) -> dict[str, str]:
    """The environment for a program with these settings and sample services."""
    root = Path(__file__).parents[2]
    changed = {
        name.upper(): str(value)
        for name, value in settings.model_dump(exclude_defaults=True).items()
        if isinstance(value, str | int | float)
    }
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return {**kept, **changed, "PYTHONPATH": f"{root}:{root / 'test'}", "SAMPLE_SERVICES": services}
