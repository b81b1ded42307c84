"""A worker process that has run out of memory, of threads or of open files.

What goes wrong in it then is no fault of the run in which it goes wrong, unless nothing else is performed there. So a worker that finds itself
exhausted ends, as if the system had killed it, and other workers take its runs over and judge what was running (rules D3b and D4). To go on would be
to fail runs that have done nothing, or to lose what blocks report. In the server's own code it ends at once; if a block has met with it, what else is under way
has a moment to end.

A run that has lost three workers in this way goes on in a worker of its own, one block at a time. What is exhausted there, that block has exhausted: it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.process import ExitCode, end_process

log = get_logger(__name__)

RESERVE_BYTES = 256 * 1024 * 1024
"""Who is refused memory while the process has been this far from its limit has asked for more than anybody gets."""
_NO_THREAD = "can't start new thread"
"""What Python says when the system gives it no thread; there is no type of its own."""
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_UNLIMITED = 1 << 62
_KIB = 1024
_LONGEST_CHAIN = 20
_FILES = 65_536


def is_exhausted(error: BaseException | None) -> bool:
    """Whether an error of the server's own code says that the process, and not what it was doing, is at fault."""
    return isinstance(error, MemoryError) or _is_without_thread(error)


def is_met_by_block(error: BaseException) -> bool:
    """Whether a block has failed because its process is exhausted, whoever has exhausted it; the error may be wrapped in others.

    A block that is refused memory in a process that has plenty has asked for too much: that is a failure of its own.
    """
    try:
        return any(map(_is_met, _chain(error)))
    except MemoryError:
        return True
    except Exception:  # noqa: BLE001 - the error's class is the block's own, and may answer as it likes
        return False


def memory_left() -> int:
    """How many bytes this process had left, at the moment at which it had the fewest; very many if it has no limit.

    The system remembers the largest address space of a process (proc(5), VmPeak), so it does not matter whether what was taken has been given back.
    """
    status, system = _kib_of("/proc/self/status"), _kib_of("/proc/meminfo")
    left = [_UNLIMITED]
    for limit, used in ((resource.RLIMIT_AS, "VmPeak"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            left.append(soft - status.get(used, soft))
    if _is_strict():
        left.append(system.get("CommitLimit", 0) - system.get("Committed_AS", 0))
    return min(left)


def leave_if_exhausted(error: BaseException | None) -> None:
    """End this process if it is exhausted."""
    if is_exhausted(error):
        _leave(error)


def leave_when_exhausted(loop: asyncio.AbstractEventLoop) -> None:
    """End this process, too, when a callback of the loop or a thread meets such an error: nobody else would see it."""

    def on_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        leave_if_short(context.get("exception"))
        loop.default_exception_handler(context)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        leave_if_short(args.exc_value)
        threading.__excepthook__(args)

    def leave_if_short(error: BaseException | None) -> None:
        # It may be a block's own thread or task, which has asked for too much.
        if error is not None and is_met_by_block(error):
            _leave(error)

    loop.set_exception_handler(on_loop)
    threading.excepthook = in_thread


def leave_within(limit_s: float) -> None:
    """See to it that this process ends, whatever it is stuck in: without memory even the start of a thread may never return. Called again, changes nothing."""
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    if left_s == 0:
        signal.setitimer(signal.ITIMER_REAL, limit_s)  # SIGALRM ends a process that has no handler for it


def allow_many_files() -> None:
    """Let this process have as many files and connections open as it may: a thousand blocks that wait for answers need more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _leave(error: BaseException | None) -> None:
    try:
        with contextlib.suppress(BaseException):  # there may be no memory for the words
            log.error("worker has run out of memory, threads or files, and ends", error=repr(error))
    finally:
        end_process(ExitCode.ERROR)


def _is_without_thread(error: BaseException | None) -> bool:
    return type(error) is RuntimeError and error.args == (_NO_THREAD,)


def _is_met(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    if _is_without_thread(error) or number in _NO_FILES:
        return True
    return (isinstance(error, MemoryError) or number == errno.ENOMEM) and memory_left() < RESERVE_BYTES


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what has led to it."""
    link: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _kib_of(file: str) -> dict[str, int]:
    """The figures of a file as `/proc/meminfo`, in bytes; none where there is no such file."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path(file).read_text(encoding="ascii", errors="replace").splitlines():
            name, _, figure = line.partition(":")
            if figure.endswith(" kB"):
                found[name] = int(figure.split()[0]) * _KIB
    return found


def _is_strict() -> bool:
    """Whether the system promises no more memory than it has (proc(5), overcommit_memory 2)."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2"
    return False
