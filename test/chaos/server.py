"""The whole server under attack: started as people start it, its processes found, killed, stopped and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
import psutil

from autogpt_server.utils import faults
from autogpt_server.utils.instance import Instance
from support import misbehavior, runtime_blocks
from support.running import environment_for, eventually, settings_for

PATIENCE_S = 60.0


class Kind(StrEnum):
    """A kind of process; the value is how the names of such processes begin."""

    SUPERVISOR = "MainProcess"
    SERVER = "AgentServer"
    MANAGER = "ExecutionManager"
    SCHEDULER = "ExecutionScheduler"
    WORKER = "worker"
    SOLO = "solo"


_COMM_LENGTH = 15
"""Of a process's name the kernel keeps so much."""
CHILDREN = (Kind.SERVER, Kind.MANAGER, Kind.SCHEDULER, Kind.WORKER, Kind.SOLO)


class ChaosServer:
    """A server with a database of its own. Make it with `attacked`."""

    def __init__(self, folder: Path, data: Path | None = None, **changes: Any) -> None:
        """`folder`: logs and armed faults. `data`: the database, elsewhere if that shall become full."""
        self.folder = folder
        data = data or folder
        self.settings = settings_for(data, cancel_grace_s=0.5, log_dir=folder / "logs", **changes)
        self.database = self.settings.database_path
        self.faults = folder / "faults"
        self.faults.mkdir()
        self.exits: Counter[int] = Counter()
        """Exit codes of supervisors."""
        self.kills: Counter[tuple[str, str]] = Counter()
        """(kind of process, where it was) -> how often one was killed."""
        self._noted = 0
        self._instance = Instance(self.settings)
        self._environment = {
            **environment_for(self.settings, ""),
            "LOG_DIR": str(folder / "logs"),
            "BLOCK_MODULES": f"{runtime_blocks.MODULE},{misbehavior.MODULE}",
            faults.VARIABLE: str(self.faults),
        }
        self._app: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._stopped: set[psutil.Process] = set()
        self.client = httpx.Client(base_url=self.settings.api_url, timeout=10)

    # --- life ----------------------------------------------------------------------------------------------------

    def keep_running(self) -> None:
        """Start the supervisor if there is none. May be called from any thread."""
        with self._starting:
            self._keep_running()

    def _keep_running(self) -> None:
        if self._app is not None and (code := self._app.poll()) is not None:
            self.exits[code] += 1
            self._app = None
        if self._app is None:
            with (self.folder / "app.log").open("ab") as log:
                self._app = subprocess.Popen(
                    [sys.executable, "-m", "autogpt_server.app"],
                    cwd=self.folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def wait_until_ready(self) -> None:
        """Wait until all services are there, starting the server again whenever it has died."""
        eventually(self.is_ready, PATIENCE_S)

    def is_ready(self) -> bool:
        """Whether all services are there; starts the server again if it has died."""
        self.keep_running()
        status = self._instance.status()
        assert self._app is not None
        if status is None or status.pid != self._app.pid:
            return False
        return all(service.state == "ready" for service in status.services)

    def wait_for_workers(self) -> None:
        """Wait until as many workers as there shall be hold their locks."""

        def are_there() -> bool:
            folder = self.settings.state_dir / "workers"
            holders = [self._instance.worker_lock(path.stem).holder() for path in folder.glob("*.lock")]
            return sum(holder is not None for holder in holders) >= self.settings.num_graph_workers

        eventually(are_there, PATIENCE_S)

    def stop(self) -> int:
        """Ask the server to stop; its exit code."""
        assert self._app is not None
        self._app.send_signal(signal.SIGTERM)
        code = self._app.wait(PATIENCE_S)
        self._app = None
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        self.resume_all()
        self.disarm()
        self.client.close()
        if self._app is not None:
            self._app.send_signal(signal.SIGTERM)
            try:
                self._app.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._app.kill()
                self._app.wait()
        assert self._instance.wait_until_alone(15), "a process was left behind"

    def log(self) -> str:
        """What the server has written."""
        return (self.folder / "app.log").read_text(errors="replace")

    # --- harm ----------------------------------------------------------------------------------------------------

    def processes(self, kind: Kind) -> list[psutil.Process]:
        """The live processes of a kind."""
        if self._app is None:
            return []
        try:
            app = psutil.Process(self._app.pid)
            if kind is Kind.SUPERVISOR:
                return [app] if app.status() != psutil.STATUS_ZOMBIE else []
            found = app.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        beginning = kind.value[:_COMM_LENGTH]
        return [process for process in found if _comm(process).startswith(beginning)]

    def kill(self, kind: Kind, chance: random.Random | None = None) -> bool:
        """Kill one process of a kind, now; False if there is none."""
        found = self.processes(kind)
        if not found:
            return False
        victim = (chance or random).choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            self.kills[kind.name.lower(), "anywhere"] += 1
            return True
        return False

    def kill_everything(self) -> None:
        """Pull the plug."""
        found = [process for kind in (Kind.SUPERVISOR, *CHILDREN) for process in self.processes(kind)]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._app is not None:
            self._app.wait()
        psutil.wait_procs(found, PATIENCE_S)
        self.kills["everything at once", "anywhere"] += 1

    def stop_one(self, kind: Kind, chance: random.Random) -> psutil.Process | None:
        """Have a process stand still until `resume`."""
        found = self.processes(kind)
        if not found:
            return None
        victim = chance.choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.suspend()
            self._stopped.add(victim)
            return victim
        return None

    def resume(self, process: psutil.Process) -> bool:
        """Let it go on; False if it has been killed meanwhile."""
        self._stopped.discard(process)
        try:
            process.resume()
        except psutil.NoSuchProcess:
            return False
        return True

    def resume_all(self) -> None:
        """Let everything go on."""
        for process in list(self._stopped):
            self.resume(process)

    def limit_files(self, size: int | None) -> None:
        """Let no process write any file beyond `size` bytes (a disk that is full, for one who may not mount one); None: let them again."""
        wanted = psutil.RLIM_INFINITY if size is None else size
        for kind in (Kind.SUPERVISOR, *CHILDREN):
            for process in self.processes(kind):
                with contextlib.suppress(psutil.NoSuchProcess, PermissionError):
                    process.rlimit(psutil.RLIMIT_FSIZE, (wanted, process.rlimit(psutil.RLIMIT_FSIZE)[1]))

    # --- fault points --------------------------------------------------------------------------------------------

    def arm(self, point: str, action: str = "kill", kind: Kind | None = None) -> None:
        """Have the next process of the kind that comes to this point do something."""
        faults.arm(self.faults, point, action, kind.value if kind else "")

    def is_armed(self, point: str) -> bool:
        """Whether nobody has come to the point."""
        return (self.faults / point).exists()

    @property
    def armed(self) -> int:
        """How many points are armed."""
        return sum(not entry.name.startswith(".") for entry in self.faults.iterdir())

    def disarm(self) -> None:
        """Forget the faults that have not come to pass."""
        for armed in self.faults.iterdir():
            if not armed.name.startswith("."):
                armed.unlink(missing_ok=True)

    def note_fired(self) -> list[tuple[str, str]]:
        """(point, process) of what has fired since it was last asked; those of `kill` are counted by the caller."""
        fired = faults.fired(self.faults)
        news, self._noted = fired[self._noted :], len(fired)
        return news

    # --- the API -------------------------------------------------------------------------------------------------

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """Post until it is accepted, however often the server dies of it; give an Idempotency-Key where that must not happen twice."""

        def accepted() -> httpx.Response | None:
            self.keep_running()
            return self.try_post(path, body, headers)

        response = eventually(accepted, PATIENCE_S)
        assert response is not None
        return response.json()

    def try_post(self, path: str, body: Any, headers: Mapping[str, str]) -> httpx.Response | None:
        """Post once; None if it is not known what came of it, or the server asks to try again."""
        try:
            response = self.client.post(path, json=body, headers={**headers})
        except httpx.TransportError:
            return None
        if response.status_code in (500, 502, 503):
            return None
        assert response.status_code < 300, f"POST {path}: {response.status_code} {response.text}"
        return response


def kind_of(process: str) -> Kind:
    """The kind of a process by its name."""
    return next(kind for kind in Kind if process.startswith(kind.value))


def _comm(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def attacked(folder: Path, data: Path | None = None, **changes: Any) -> Generator[ChaosServer]:
    """A server that is ready, until the block is left."""
    server = ChaosServer(folder, data, **changes)
    try:
        server.keep_running()
        server.wait_until_ready()
        yield server
    except BaseException:
        sys.stderr.write(server.log()[-6000:])
        raise
    finally:
        server.close()


def is_root() -> bool:
    """Whether a file system may be mounted."""
    return os.geteuid() == 0
