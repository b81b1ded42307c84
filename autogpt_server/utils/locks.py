"""Locks that the operating system frees when their owner dies, however it dies.

A lock is `flock` on a file; the file's text says who holds it. Only the lock is the truth: a file without it is a trace of
somebody who is gone, whatever process id it names. Do not put them on a network file system that does not pass `flock` on.
"""

import contextlib
import fcntl
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import psutil

from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError

# `is_free` holds the lock for some microseconds; who wants it meanwhile tries again for this long.
_PROBE_S = 0.1
_PROBE_STEP_S = 0.005


class LockHeld(AutoGPTServerError):
    """The lock is held by another process."""

    code = "lock_held"
    retryable = True


class LockFileError(AutoGPTServerError):
    """The lock's file cannot be used."""

    code = "lock_file"


@dataclass(frozen=True)
class LockOwner:
    """Who holds a lock."""

    pid: int
    process_started_at: float
    """When the process started, in seconds since 1970: tells it from a later one with the same id."""
    incarnation: str
    """Tells two owners apart even if one process is both."""
    name: str

    @classmethod
    def this_process(cls, name: str, incarnation: str) -> "LockOwner":
        """The calling process, as an owner."""
        return cls(os.getpid(), psutil.Process().create_time(), incarnation, name)


class LockFile:
    """One lock. Not shared between threads; one object holds it at most once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def try_acquire(self, owner: LockOwner) -> bool:
        """Take the lock, unless another holds it. The owner is written into the file."""
        if self._fd is not None:
            raise LockHeld(f"this process holds {self.path} already")
        fd = self._lock(fcntl.LOCK_EX)
        if fd is None:
            return False
        text = json.dumps_bytes(asdict(owner))
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)
        self._fd = fd
        return True

    def acquire(self, owner: LockOwner) -> None:
        """Take the lock, or raise `LockHeld`, naming the process that has it."""
        if not self.try_acquire(owner):
            holder = self.holder()
            raise LockHeld(f"{self.path} is held by process {holder.pid if holder else 'unknown'}")

    def try_join(self) -> bool:
        """Share the lock with others who join; nobody can acquire it until all have let go. False if it is acquired."""
        if self._fd is None:
            self._fd = self._lock(fcntl.LOCK_SH)
        return self._fd is not None

    def release(self) -> None:
        """Give the lock back; the file stays. Nothing happens if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def is_free(self) -> bool:
        """Whether nobody holds the lock at this moment, this object included."""
        if self._fd is not None:
            return False
        if not os.path.lexists(self.path):
            return True
        fd = self._lock(fcntl.LOCK_SH)
        if fd is None:
            return False
        os.close(fd)
        return True

    def holder(self) -> LockOwner | None:
        """Who holds the lock; None if nobody does, or whoever does has not yet said so."""
        return None if self.is_free() else self._read()

    def last_owner(self) -> LockOwner | None:
        """Who held the lock last, or holds it; None if nobody ever did or the file says nothing sensible."""
        return self._read()

    def sharers(self) -> set[psutil.Process]:
        """The processes that have joined this lock, this one aside. Linux only; elsewhere none are found."""
        return {process for process in _flock_holders(self.path) if process.pid != os.getpid()}

    def discard(self) -> bool:
        """Remove the file of a lock that is free or ours. Returns False if another holds it."""
        fd = self._fd if self._fd is not None else self._lock(fcntl.LOCK_EX)
        if fd is None:
            return False
        # While the lock is held: who opens the old file now finds, after locking it, that its name is gone.
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.close(fd)
        self._fd = None
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _lock(self, kind: int) -> int | None:
        """The locked file, or None if another holds it for longer than a probe takes."""
        deadline = time.monotonic() + _PROBE_S
        while True:
            fd = self._open_and_lock(kind)
            if fd is not None or time.monotonic() > deadline:
                return fd
            if kind == fcntl.LOCK_SH:  # a probe may meet another probe, but both are shared
                return None
            time.sleep(_PROBE_STEP_S)

    def _open_and_lock(self, kind: int) -> int | None:
        try:
            return self._try_to_lock(kind)
        except OSError as error:
            raise LockFileError(
                f"cannot use {self.path} ({error.strerror}): does it belong to another user?"
            ) from error

    def _try_to_lock(self, kind: int) -> int | None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                if self._is_current(fd):
                    return fd
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was discarded between opening and locking: another file has its name

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

    def _read(self) -> LockOwner | None:
        try:
            found = cast("dict[str, Any]", json.loads(self.path.read_bytes()))
            return LockOwner(
                pid=int(found["pid"]),
                process_started_at=float(found["process_started_at"]),
                incarnation=str(found["incarnation"]),
                name=str(found["name"]),
            )
        except (OSError, json.InvalidJSONValue, KeyError, TypeError, ValueError):
            return None


def _flock_holders(path: Path) -> set[psutil.Process]:
    """Who holds a `flock` on a file, as the kernel has it: each line of /proc/locks names a process and an inode.

    The process is the one that took the lock. If it is dead, those hold the lock that it had forked: they still have the file open.
    """
    found: set[int] = set()
    is_inherited = False
    try:
        wanted = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    for line in lines:
        # As in `7: FLOCK  ADVISORY  READ 1234 fe:01:5678 0 EOF`; who only waits for a lock has `->` after the number.
        words = line.split()
        if words[1] != "FLOCK" or words[5].rpartition(":")[2] != str(wanted.st_ino):
            continue
        # Inode numbers are unique per file system only, and some write another device here than `stat` does.
        pid = int(words[4])
        if _has_open(pid, wanted):
            found.add(pid)
        is_inherited |= not psutil.pid_exists(pid)
    if is_inherited:
        found.update(pid for pid in psutil.pids() if _has_open(pid, wanted))
    return {process for pid in found if (process := _process(pid)) is not None}


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    except OSError:  # it ended, or belongs to another user
        return False
    return False
