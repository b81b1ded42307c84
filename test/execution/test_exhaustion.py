"""A process without memory, threads or files ends, so that no run pays for it; any other error is left to those who deal with it."""

import errno
import subprocess
import sys
from collections.abc import Callable

import pytest

from autogpt_server.execution.exhaustion import is_exhausted, is_met_by_block, leave_if_exhausted, memory_left
from autogpt_server.utils.process import ExitCode

_PROGRAM = """
import asyncio, resource, signal, threading, time
from autogpt_server.execution.exhaustion import RESERVE_BYTES, is_met_by_block, leave_when_exhausted, leave_within, memory_left

def fail():
    raise {error}

def limit(left):
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmPeak:")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (peak + left, -1))

async def main():
    loop = asyncio.get_running_loop()
    leave_when_exhausted(loop)
    {how}
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
_LOOP = "loop.call_soon(fail)"
_TASK = "loop.create_task(asyncio.to_thread(fail)); await asyncio.sleep(0.1); import gc; gc.collect()"
_THREAD = "thread = threading.Thread(target=fail); thread.start(); thread.join()"
_LIMITED = "limit(RESERVE_BYTES // 2); "
_NO_THREAD = 'RuntimeError("can\'t start new thread")'


def run_program(error: str, how: str) -> int:
    program = _PROGRAM.format(error=error, how=how)
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode


@pytest.mark.parametrize(
    ("error", "how", "code"),
    [
        ("MemoryError", _LIMITED + _LOOP, ExitCode.ERROR),
        ("MemoryError", _LIMITED + _TASK, ExitCode.ERROR),
        ("MemoryError", _LIMITED + _THREAD, ExitCode.ERROR),
        ("MemoryError", _THREAD, ExitCode.OK),
        (_NO_THREAD, _LOOP, ExitCode.ERROR),
        ("OSError(24, 'too many open files')", _THREAD, ExitCode.ERROR),
        ("RuntimeError('another')", _LIMITED + _LOOP, ExitCode.OK),
    ],
    ids=["memory-loop", "memory-task", "memory-thread", "too much memory", "threads", "files", "another"],
)
def test_what_nobody_catches(error: str, how: str, code: ExitCode) -> None:
    assert run_program(error, how) == code


def test_what_was_given_back_is_remembered() -> None:
    """Who comes to find out why it was refused memory may find plenty: the other has failed meanwhile."""
    taken = "limit(2 * RESERVE_BYTES); before = memory_left(); piece = bytearray(RESERVE_BYTES + 1); del piece; "
    check = "assert before >= RESERVE_BYTES > memory_left(); assert is_met_by_block(MemoryError())"
    assert run_program("None", taken + check) == ExitCode.OK


def test_a_process_that_is_stuck_is_ended() -> None:
    assert run_program("None", "leave_within(0.05); leave_within(3600); threading.Lock().acquire(); time.sleep(60)") < 0


def bare(error: BaseException) -> BaseException:
    return error


def from_cause(error: BaseException) -> BaseException:
    """As a library wraps it."""
    try:
        raise ConnectionError("no connection") from error
    except ConnectionError as wrapped:
        return wrapped


@pytest.mark.parametrize(
    ("error", "is_met"),
    [
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("can't start"), False),
        (OSError(errno.EMFILE, "files"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (MemoryError(), False),
        (OSError(errno.ENOMEM, "memory"), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("wrap", [bare, from_cause], ids=["bare", "wrapped"])
def test_what_a_block_has_met_with(
    error: BaseException, is_met: bool, wrap: Callable[[BaseException], BaseException]
) -> None:
    assert memory_left() > 1 << 40, "this process has no limit, so who is refused memory has asked for too much"
    assert is_met_by_block(wrap(error)) == is_met


def test_causes_that_go_round_in_circles_come_to_an_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_met_by_block(one)


def test_only_exhaustion_ends_the_process() -> None:
    assert not is_exhausted(None)
    leave_if_exhausted(ValueError("a mistake in one run"))
