"""Lock files, held by real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autogpt_server.utils.locks import LockFile, LockFileError, LockHeld, LockOwner
from support.running import eventually

HOLD = """
import sys, time
from pathlib import Path
from autogpt_server.utils.locks import LockFile, LockOwner
lock = LockFile(Path(sys.argv[1]))
got = lock.try_join() if sys.argv[2] == "join" else lock.try_acquire(LockOwner.this_process("other", "i-1"))
print(got, flush=True)
sys.stdin.read()
"""

PROBE = """
import sys
from pathlib import Path
from autogpt_server.utils.locks import LockFile
lock = LockFile(Path(sys.argv[1]))
print(lock.is_free(), flush=True)
while True:
    lock.is_free()
"""


@contextmanager
def other_process(path: Path, how: str = "acquire") -> Generator["subprocess.Popen[str]"]:
    """A process that holds the lock until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "one.lock"


def me() -> LockOwner:
    return LockOwner.this_process("me", "i-0")


def test_a_lock_nobody_took_is_free(path: Path) -> None:
    lock = LockFile(path)
    assert lock.is_free()
    assert lock.holder() is None
    assert not path.exists()


def test_a_lock_is_held_once(path: Path) -> None:
    with LockFile(path) as lock:
        lock.acquire(me())
        assert lock.is_mine
        other = LockFile(path)
        assert not other.is_free()
        assert not other.try_acquire(me())
        assert other.holder() == me()
        with pytest.raises(LockHeld, match=f"held by process {os.getpid()}"):
            other.acquire(me())
        with pytest.raises(LockHeld, match="already"):
            lock.try_acquire(me())
    assert other.is_free()
    assert other.try_acquire(me())
    other.release()


def test_the_holder_is_known_to_others_and_gone_with_its_process(path: Path) -> None:
    lock = LockFile(path)
    with other_process(path) as process:
        assert not lock.is_free()
        holder = lock.holder()
        assert holder is not None
        assert (holder.pid, holder.name, holder.incarnation) == (process.pid, "other", "i-1")
        os.kill(process.pid, signal.SIGKILL)
        eventually(lock.is_free)
        assert lock.holder() is None
        assert lock.last_owner() == holder


def test_a_file_without_the_lock_means_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f'{{"pid": {os.getpid()}, "process_started_at": 1, "incarnation": "x", "name": "foreign"}}')
    lock = LockFile(path)
    assert lock.is_free()
    assert lock.holder() is None


@pytest.mark.parametrize("text", ["", "rubbish", "[]", '{"pid": "x"}', "\xff"])
def test_rubbish_in_the_file_does_no_harm(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    lock = LockFile(path)
    assert lock.last_owner() is None
    assert lock.try_acquire(me())
    assert lock.last_owner() == me()
    lock.release()


def test_a_stopped_process_still_holds_its_lock(path: Path) -> None:
    with other_process(path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert not LockFile(path).is_free()
        os.kill(process.pid, signal.SIGCONT)


def test_looking_at_a_lock_takes_it_from_nobody(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROBE, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
    ) as probing:
        assert probing.stdout is not None
        probing.stdout.readline()
        try:
            lock = LockFile(path)
            for _ in range(200):
                assert lock.try_acquire(me())
                lock.release()
        finally:
            probing.kill()


def test_many_may_join_and_one_may_not_acquire(path: Path) -> None:
    mine, wanted = LockFile(path), LockFile(path)
    with other_process(path, "join"):
        assert mine.try_join()
        assert not wanted.try_acquire(me())
        mine.release()
        assert not wanted.try_acquire(me())
    assert wanted.try_acquire(me())
    assert not mine.try_join()
    wanted.release()


def test_a_discarded_lock_is_gone_and_can_be_made_again(path: Path) -> None:
    lock, other = LockFile(path), LockFile(path)
    lock.acquire(me())
    assert not other.discard()
    assert lock.discard()
    assert not path.exists()
    assert not lock.is_mine
    assert other.try_acquire(me())
    assert other.discard()
    assert lock.discard()  # nothing there is as good as free


def test_the_file_is_private(path: Path) -> None:
    with LockFile(path) as lock:
        lock.acquire(me())
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_cannot_be_used_is_an_error_of_ours(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(LockFileError, match=r"cannot use .*one\.lock"):
        LockFile(path).is_free()
    with pytest.raises(LockFileError):
        LockFile(path).try_acquire(me())
