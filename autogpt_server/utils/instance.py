"""What belongs to one running server and lies in the folder beside its database file.

    server.lock      held by the supervisor, from before it migrates the database until everything has ended
    members.lock     shared by all its processes, so that a new server can tell when those of a killed one are gone
    writers.turn     where processes queue that want to write to the database
    instance.json    the id and the secret of the server that runs, or ran last; readable by its user only
    status.json      what `cli status` shows: addresses, process ids, states
    logs/            where the processes log
    workers/         a lock for each worker incarnation

Nothing in a file is believed unless the lock says that its writer still runs.
"""

import contextlib
import logging
import os
import secrets
import stat
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import psutil
from pydantic import TypeAdapter, ValidationError

from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.locks import LockFile, LockHeld, LockOwner
from autogpt_server.utils.settings import Settings

log = logging.getLogger(__name__)

_SECRET_BYTES = 32
_POLL_S = 0.02
_KILL_LIMIT_S = 2.0


class AlreadyRunning(AutoGPTServerError):
    """Another server owns this database."""

    code = "already_running"


class InstanceError(AutoGPTServerError):
    """The server's own files are missing or not safe to use."""

    code = "instance_files"


@dataclass(frozen=True)
class Identity:
    """Which server this is: in the names of its services, and in their handshakes."""

    instance: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class ServiceStatus:
    """One service of the running server."""

    name: str
    state: str
    pid: int | None
    detail: str
    restarts: int


@dataclass(frozen=True)
class ServerStatus:
    """What the running server says about itself."""

    incarnation: str
    phase: Literal["starting", "ready", "draining"]
    pid: int
    url: str
    log_file: str
    started_at: str
    services: tuple[ServiceStatus, ...]


_STATUS: TypeAdapter[ServerStatus] = TypeAdapter(ServerStatus)


class Instance:
    """The files of the server that `settings` describe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.folder = settings.state_dir
        self.server_lock = LockFile(self.folder / "server.lock")
        self._identity_file = self.folder / "instance.json"
        self._status_file = self.folder / "status.json"

    # -- owning the database ----------------------------------------------

    def own(self, *, wait_s: float) -> LockOwner:
        """Become the server of this database, for as long as this process lives or until `disown`.

        Processes that a killed server left behind get `wait_s` seconds to end by themselves, then they are killed. Raises `AlreadyRunning`, naming the
        process that owns the database, or `InstanceError` where the folder cannot be written.
        """
        try:
            return self._own(wait_s)
        except OSError as error:
            self.server_lock.release()
            raise InstanceError(
                f"{self.folder} cannot be written ({error.strerror}): make room, or see to it that it belongs to you"
            ) from error

    def _own(self, wait_s: float) -> LockOwner:
        self._make_folder()
        owner = LockOwner.this_process("server", new_id())
        if not self.server_lock.try_acquire(owner):
            holder = self.server_lock.holder()
            raise AlreadyRunning(
                f"the database {self._settings.database_path} is in use by another server (process {holder.pid if holder else 'unknown'}): "
                "stop it, or give this one another DATABASE_URL",
                pid=holder.pid if holder else None,
            )
        if not self.wait_until_alone(wait_s) and not self.kill_members():
            self.server_lock.release()
            raise AlreadyRunning(
                f"processes of a former server still use the database {self._settings.database_path}; wait, or end them",
                pid=None,
            )
        identity = {"instance": owner.incarnation, "secret": secrets.token_hex(_SECRET_BYTES)}
        _write_private(self._identity_file, json.dumps_bytes(identity))
        return owner

    def disown(self) -> None:
        """Stop being the server of this database."""
        self._status_file.unlink(missing_ok=True)
        self._identity_file.unlink(missing_ok=True)
        self.server_lock.release()

    def join(self) -> LockFile:
        """Count as a process of the server until the returned lock is released, or this process ends."""
        self._make_folder()
        members = self._members()
        if not members.try_join():
            raise LockHeld("a server is about to start on this database")
        return members

    def wait_until_alone(self, wait_s: float) -> bool:
        """Wait until no process that joined is left. Returns whether that came true in time."""
        deadline = time.monotonic() + wait_s
        members = self._members()
        while not members.try_acquire(LockOwner.this_process("members", "")):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        members.release()
        return True

    def kill_members(self) -> bool:
        """Kill what a server left behind: without a parent and too stuck to notice, or forked by a block. Returns whether all is gone."""
        for process in self._members().sharers():
            log.warning("killing process %s, which was left behind", process.pid)
            with contextlib.suppress(psutil.Error):
                process.kill()
        return self.wait_until_alone(_KILL_LIMIT_S)

    def worker_lock(self, incarnation: str) -> LockFile:
        """The lock that one incarnation of a worker holds for as long as it lives."""
        return LockFile(self.folder / "workers" / f"{incarnation}.lock")

    def _members(self) -> LockFile:
        return LockFile(self.folder / "members.lock")

    def _make_folder(self) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InstanceError(
                f"cannot create {self.folder} ({error.strerror}): change its rights or DATABASE_URL"
            ) from error

    # -- being recognised -------------------------------------------------

    def identity(self) -> Identity:
        """The identity of the running server. Raises `InstanceError` if there is none, or others could read it."""
        try:
            with self._identity_file.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                found = cast("dict[str, Any]", json.loads(file.read()))
            identity = Identity(str(found["instance"]), bytes.fromhex(found["secret"]))
        except FileNotFoundError:
            raise InstanceError(f"no server runs on the database {self._settings.database_path}") from None
        except (OSError, json.InvalidJSONValue, KeyError, TypeError, ValueError) as error:
            raise InstanceError(f"{self._identity_file} cannot be read: {type(error).__name__}") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InstanceError(
                f"{self._identity_file} can be read by other users; run: chmod 600 {self._identity_file}"
            )
        return identity

    # -- being looked at --------------------------------------------------

    def write_status(self, status: ServerStatus) -> None:
        """Say how the server is."""
        _write_private(
            self._status_file, json.dumps_bytes({**asdict(status), "services": [asdict(s) for s in status.services]})
        )

    def status(self) -> ServerStatus | None:
        """What the running server says about itself; None if none runs, or it has not said anything yet."""
        holder = self.server_lock.holder()
        try:
            status = _STATUS.validate_json(self._status_file.read_bytes())
        except (OSError, ValidationError):
            return None
        return status if holder is not None and status.incarnation == holder.incarnation else None


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file at once, readable by this user only."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
