"""Starts, stops and looks at a server in the background. `cli.py` is how people call it.

The lock beside the database is what tells whether a server runs, and which process it is: a process id in a file without
the lock is nobody's, whoever has it now.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psutil

from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.instance import AlreadyRunning, Instance, ServerStatus
from autogpt_server.utils.locks import LockOwner
from autogpt_server.utils.logging import rotate
from autogpt_server.utils.process import ORPHAN_GRACE_S, ExitCode
from autogpt_server.utils.settings import Settings

SERVER_COMMAND = (sys.executable, "-m", "autogpt_server.app")
"""What is started; options follow."""

_POLL_S = 0.05
_KILL_LIMIT_S = 5.0
_STATUS_LIMIT_S = 1.0
_TAIL_BYTES = 64 * 1024


class NotRunningError(AutoGPTServerError):
    """No server runs on this database."""

    code = "not_running"


class StartFailedError(AutoGPTServerError):
    """The server did not start."""

    # details: `exit_code`, that of the server, or NOT_READY
    code = "start_failed"

    @property
    def exit_code(self) -> int:
        """Why, as an `ExitCode`."""
        return int(self.details["exit_code"])


class NotStoppedError(AutoGPTServerError):
    """The server could not be stopped."""

    code = "not_stopped"


def start(settings: Settings, env_file: Path | None, progress: Callable[[str], None]) -> ServerStatus:
    """Start a server that outlives this process, and wait until it is ready.

    `progress` gets a line for each service that is. Raises `AlreadyRunning` or `StartFailedError`.
    """
    instance = Instance(settings)
    running = instance.server_lock.holder()
    if running is not None:
        status = instance.status()
        raise AlreadyRunning(
            f"already running (process {running.pid}){f' at {status.url}' if status else ''}", pid=running.pid
        )
    settings.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    rotate(settings.log_file, settings.log_max_bytes)
    log_fd = os.open(settings.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begin = os.fstat(log_fd).st_size
    command = [*SERVER_COMMAND, "--detached"]
    if env_file is not None:
        command += ["--env-file", str(env_file)]
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=log_fd, stderr=log_fd, start_new_session=True
        )
    finally:
        os.close(log_fd)
    return _wait_ready(instance, settings, process, begin, progress)


def _wait_ready(
    instance: Instance,
    settings: Settings,
    process: "subprocess.Popen[bytes]",
    begin: int,
    progress: Callable[[str], None],
) -> ServerStatus:
    deadline = time.monotonic() + settings.start_limit_s + ORPHAN_GRACE_S + _KILL_LIMIT_S
    told: set[str] = set()
    while process.poll() is None:
        status = instance.status()
        if status is not None and status.pid == process.pid:
            for service in status.services:
                if service.state == "ready" and service.name not in told:
                    told.add(service.name)
                    progress(f"{service.name} ready {service.detail}".rstrip())
            if status.phase == "ready":
                return status
        if time.monotonic() > deadline:
            process.terminate()
            raise StartFailedError(
                f"not ready in time; the log is {settings.log_file}", exit_code=int(ExitCode.NOT_READY)
            )
        time.sleep(_POLL_S)
    said = _last_words(settings.log_file, begin)
    code = process.returncode if process.returncode > 0 else int(ExitCode.ERROR)
    raise StartFailedError(f"{said or 'it ended without a word'} (log: {settings.log_file})", exit_code=code)


def _last_words(log_file: Path, begin: int) -> str:
    """What a server that did not start said last, for people."""
    try:
        with log_file.open("rb") as file:
            file.seek(begin)
            lines = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    said = [line.removeprefix("app: ") for line in lines if line.startswith("app: ")]
    return said[-1] if said else (lines[-1] if lines else "")


def stop(settings: Settings, progress: Callable[[str], None]) -> LockOwner:
    """Ask the server to stop, and kill it if it does not. Returns who it was.

    Raises `NotRunningError`, or `NotStoppedError` where this user may not or the system will not.
    """
    instance = Instance(settings)
    owner = instance.server_lock.holder()
    if owner is None:
        raise NotRunningError(f"no server runs on {settings.database_path}")
    # While the lock is held its owner lives, so the id in it cannot be another's.
    family = _family(owner.pid)
    _signal(owner, signal.SIGTERM)
    if _wait_gone(instance, settings.drain_limit_s + ORPHAN_GRACE_S + 1):
        return owner
    progress("it does not stop; killing it")
    for process in family | _family(owner.pid):
        # psutil compares start times, so an id that was given to another process meanwhile is left alone.
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            raise NotStoppedError(f"process {process.pid} belongs to another user") from None
    if not _wait_gone(instance, _KILL_LIMIT_S):
        raise NotStoppedError(f"process {owner.pid} cannot be killed; see `ps -o stat= -p {owner.pid}`")
    return owner


def _signal(owner: LockOwner, number: signal.Signals) -> None:
    try:
        os.kill(owner.pid, number)
    except ProcessLookupError:
        pass  # it ended this moment
    except PermissionError:
        raise NotStoppedError(f"process {owner.pid} belongs to another user: stop it as that user") from None


def _family(pid: int) -> set[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _wait_gone(instance: Instance, limit_s: float) -> bool:
    """Wait until the server and every process of it have ended."""
    deadline = time.monotonic() + limit_s
    while not instance.server_lock.is_free():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return instance.wait_until_alone(max(0.0, deadline - time.monotonic()))


def status(settings: Settings) -> ServerStatus:
    """What the running server says about itself. Raises `NotRunningError`."""
    instance = Instance(settings)
    deadline = time.monotonic() + _STATUS_LIMIT_S
    while (owner := instance.server_lock.holder()) is not None:
        found = instance.status()
        if found is not None:
            return found
        if time.monotonic() > deadline:  # it migrates the database, or has just taken the lock
            return ServerStatus(
                owner.incarnation, "starting", owner.pid, settings.api_url, str(settings.log_file), "", ()
            )
        time.sleep(_POLL_S)
    raise NotRunningError(f"no server runs on {settings.database_path}")


def tail(log_file: Path, lines: int, *, follow: bool) -> Generator[str]:
    """The last lines of the log, and then, with `follow`, what is added to it. Raises `NotRunningError` without a log."""
    if not log_file.is_file():
        raise NotRunningError(f"there is no log yet: {log_file}")
    with log_file.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        yield from _last_lines(file.fileno(), size, lines)
        position = size
        while follow:
            size = log_file.stat().st_size
            if size < position:  # it was emptied after it had been copied
                position = 0
            if size == position:
                time.sleep(_POLL_S)
                continue
            file.seek(position)
            added = file.read(size - position)
            position += len(added)
            yield added.decode("utf-8", "replace")


def _last_lines(fd: int, size: int, lines: int) -> Generator[str]:
    """The last `lines` lines of a file, read from its end in blocks."""
    blocks: list[bytes] = []
    position, found = size, 0
    while position > 0 and found <= lines:
        length = min(_TAIL_BYTES, position)
        position -= length
        blocks.append(os.pread(fd, length, position))
        found += blocks[-1].count(b"\n")
    kept = b"".join(reversed(blocks)).splitlines(keepends=True)[-lines:] if lines > 0 else []
    yield b"".join(kept).decode("utf-8", "replace")
