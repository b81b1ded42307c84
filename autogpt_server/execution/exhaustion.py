"""A worker process that has run out of memory or of threads.

What goes wrong in it then is no fault of the run in which it goes wrong: the process ends at once, as if the system had killed it, and other workers take
its runs over and judge what was running (rules D3b and D4). To go on would be to fail runs that have done nothing, or to lose what blocks report.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.process import ExitCode, end_process

log = get_logger(__name__)

_NO_THREAD = "can't start new thread"
"""What Python says when the system gives it no thread; there is no type of its own."""


def is_exhausted(error: BaseException | None) -> bool:
    """Whether the process, and not what it was doing, is at fault."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error) == _NO_THREAD)


def leave_if_exhausted(error: BaseException | None) -> None:
    """End this process if it is exhausted."""
    if is_exhausted(error):
        try:
            with contextlib.suppress(BaseException):  # there may be no memory for the words
                log.error("worker has run out of memory or threads, and ends", error=repr(error))
        finally:
            end_process(ExitCode.ERROR)


def leave_when_exhausted(loop: asyncio.AbstractEventLoop) -> None:
    """End this process, too, when a callback of the loop or a thread meets such an error: nobody else would see it."""

    def on_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        leave_if_exhausted(context.get("exception"))
        loop.default_exception_handler(context)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        leave_if_exhausted(args.exc_value)
        threading.__excepthook__(args)

    loop.set_exception_handler(on_loop)
    threading.excepthook = in_thread
