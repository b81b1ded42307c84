"""Helpers for tests with real processes: free ports, settings for them, and waiting without sleeping blindly."""

import contextlib
import socket
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
