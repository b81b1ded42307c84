"""A process without memory or threads ends, so that no run pays for it; any other error is left to those who deal with it."""

import subprocess
import sys

import pytest

from autogpt_server.execution.exhaustion import is_exhausted, leave_if_exhausted
from autogpt_server.utils.process import ExitCode

_PROGRAM = """
import asyncio, threading, time
from autogpt_server.execution.exhaustion import leave_when_exhausted

def fail():
    raise {error}

async def main():
    loop = asyncio.get_running_loop()
    leave_when_exhausted(loop)
    {how}
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
_LOOP = "loop.call_soon(fail)"
_THREAD = "thread = threading.Thread(target=fail); thread.start(); thread.join()"
_NO_THREAD = 'RuntimeError("can\'t start new thread")'


@pytest.mark.parametrize("how", [_LOOP, _THREAD], ids=["loop", "thread"])
@pytest.mark.parametrize(
    ("error", "code"),
    [("MemoryError", ExitCode.ERROR), (_NO_THREAD, ExitCode.ERROR), ("RuntimeError('another')", ExitCode.OK)],
    ids=["memory", "threads", "another"],
)
def test_what_nobody_catches(how: str, error: str, code: ExitCode) -> None:
    program = _PROGRAM.format(error=error, how=how)
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == code


def test_only_exhaustion_ends_the_process() -> None:
    assert not is_exhausted(None)
    leave_if_exhausted(ValueError("a mistake in one run"))
