"""A process of the server, seen from inside: how it starts, says that it is ready, and ends.

The other side, which starts processes and keeps them running, is `supervisor.py`. The two talk over a pipe, one JSON object
a message. To the child come `drain` and `ping`, and its end means that the parent died; from it come `ready`, `pong` and
`failed`.
"""

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from autogpt_server.utils import faults, json
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.logging import LogSetup, setup_logging
from autogpt_server.utils.settings import Settings, use_settings

log = logging.getLogger(__name__)

ORPHAN_GRACE_S = 2.0
"""How long a process may go on, to put its things in order, after its parent died."""


class ExitCode(IntEnum):
    """Why a program of this server ended."""

    OK = 0
    ERROR = 1
    """Something unforeseen; the log has the traceback."""
    USAGE = 2
    """The command line is wrong (click's own code)."""
    NOT_RUNNING = 3
    """`cli status`, `cli logs`: there is no server (the code that init scripts use for it)."""
    RUN_NOT_COMPLETED = 4
    """`cli run follow`: the run has FAILED or was CANCELED."""
    SETTINGS = 10
    """A setting is wrong."""
    ALREADY_RUNNING = 11
    """Another server owns the database."""
    DATABASE = 12
    """The database could not be migrated, or is newer than the server."""
    PORT_IN_USE = 13
    """A port is taken by another program."""
    NOT_READY = 14
    """The services did not become ready in time."""
    GAVE_UP = 15
    """A service died again and again."""
    DRAIN_LIMIT = 16
    """A process did not finish in time after it was asked to stop."""
    ORPHANED = 17
    """The process that started this one died."""
    INTERRUPTED = 130
    """A second Ctrl-C or SIGTERM: everything was killed at once (128 + SIGINT, as shells have it)."""


class ProcessContext(ABC):
    """What a process learns from, and tells, whoever runs it."""

    name: str
    """The name of this process among its siblings, as in `ExecutionManager` or `worker-2`."""
    incarnation: str
    """A new id each time the process is started."""
    log_setup: LogSetup
    """How this process logs; its own children should do the same."""

    @abstractmethod
    async def ready(self, detail: str = "") -> None:
        """Say that this process can do its work. `detail` is shown to the user, as in `http://127.0.0.1:8000`."""

    @property
    @abstractmethod
    def is_draining(self) -> bool:
        """Whether the process has been asked to stop."""

    @abstractmethod
    async def drain_requested(self) -> None:
        """Wait until the process is asked to stop."""

    @abstractmethod
    def leave(self) -> None:
        """Say that the process is going to end unasked, in good order: nothing has failed."""

    @abstractmethod
    def drain_left_s(self) -> float:
        """Seconds that are left to stop in; once they are over the process is ended. Infinite before it is asked."""


class AppProcess(ABC):
    """A process of the server. One object is made, in the new process, from a `ProcessSpec`.

    `serve` is its life: get everything ready, `await context.ready(...)`, work until `await context.drain_requested()`
    returns (or `context.is_draining` is true), finish what is under way within `context.drain_left_s()`, return. To
    return or raise earlier is to die: the supervisor starts another incarnation. An `AutoGPTServerError` that is not
    retryable, raised before the process was ever ready, stops the whole server, and its message is what the user sees.

    Threads and tasks that are left when `serve` returns end with the process. SIGTERM drains, a second one kills; SIGINT
    is ignored, because Ctrl-C reaches every process of the terminal and it is the supervisor who decides the order.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    async def serve(self, context: ProcessContext) -> None:
        """Live. See the class."""

    async def announce(self, context: ProcessContext) -> None:  # noqa: B027 - nothing to do is a fine default
        """Called by `context.ready`, before the supervisor hears of it: what must be reachable from then on."""

    async def withdraw(self) -> None:  # noqa: B027
        """Called when `serve` has returned or raised: undo `announce`."""


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """Which process to start, and how patient to be with it. Pickled to the child."""

    name: str
    target: str
    """The `AppProcess` subclass, as `package.module:Class`. It is imported in the child only."""
    settings: Settings
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments for the class besides `settings`; values that can be pickled."""
    log: LogSetup = field(default_factory=LogSetup)
    ready_limit_s: float = 60.0
    drain_limit_s: float = 8.0
    hung_limit_s: float | None = None
    """Kill it when its event loop has not moved for so long; None: never."""
    restart: bool = True
    """Whether to start another when it ends unasked."""


def run_child(spec: ProcessSpec, pipe: "Connection[Any, Any]") -> None:
    """The main function of a child process. Does not return."""
    # Not SIG_IGN, which programs started by blocks would inherit.
    signal.signal(signal.SIGINT, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.enable()
    with contextlib.suppress(OSError):  # Linux: the name that `top` and `ps -o comm` show
        Path("/proc/self/comm").write_text(spec.name[:15], encoding="utf-8")
    setup_logging(spec.log, spec.name)
    use_settings(spec.settings)
    context = _ChildContext(spec, pipe)
    code = ExitCode.ERROR
    try:
        # Never closed: that would wait for every thread of the loop's executor, and one may be stuck in a block.
        code = asyncio.Runner().run(_live(spec, context))
    except AutoGPTServerError as error:
        log.error("process failed: %s", error)  # noqa: TRY400 - foreseen: the message says it all
        context.report_failure(error.code, str(error), retryable=error.retryable)
    except BaseException as error:
        log.critical("process failed", exc_info=True)
        context.report_failure("unexpected", f"{type(error).__name__}: {error}", retryable=True)
    end_process(code)


def end_process(code: int) -> None:
    """End this process now, whatever threads are stuck in: flush, and do not wait for anybody."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _ignore(_signal: int, _frame: object) -> None:
    pass


async def _live(spec: ProcessSpec, context: "_ChildContext") -> ExitCode:
    context.attach(asyncio.get_running_loop())
    process = load_target(spec.target)(spec.settings, **spec.arguments)
    context.process = process
    try:
        await process.serve(context)
    finally:
        await process.withdraw()
    if context.is_draining or context.is_leaving:
        return ExitCode.OK
    log.error("process ended unasked")
    context.report_failure("ended", "it ended without being asked to", retryable=True)
    return ExitCode.ERROR


def load_target(target: str) -> type[AppProcess]:
    """The class behind `package.module:Class`."""
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, AppProcess)):
        raise TypeError(f"{target} is not an AppProcess")
    return found


class _ChildContext(ProcessContext):
    """The context of a child process, with the thread that listens to the parent."""

    process: AppProcess

    def __init__(self, spec: ProcessSpec, pipe: "Connection[Any, Any]") -> None:
        self.name = spec.name
        self.incarnation = new_id()
        self.log_setup = spec.log
        self._spec = spec
        self._pipe = pipe
        self._send_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining = asyncio.Event()
        self.is_leaving = False
        self._drain_deadline = float("inf")
        # Held until this process ends: a new server waits for it before it touches the database.
        self._membership = Instance(spec.settings).join()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, requests are passed to `loop`."""
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        self._loop = loop

    async def ready(self, detail: str = "") -> None:
        await self.process.announce(self)
        # What has been imported stays: a full collection over it holds everything up for a tenth of a second.
        gc.collect()
        gc.freeze()
        log.debug("ready %s", detail)
        faults.reach("process.ready.before")
        self._send({"type": "ready", "detail": detail})

    @property
    def is_draining(self) -> bool:
        return self._draining.is_set()

    async def drain_requested(self) -> None:
        await self._draining.wait()

    def leave(self) -> None:
        self.is_leaving = True

    def drain_left_s(self) -> float:
        return max(0.0, self._drain_deadline - time.monotonic())

    def report_failure(self, code: str, message: str, *, retryable: bool) -> None:
        self._send({"type": "failed", "code": code, "message": message, "retryable": retryable})

    def _send(self, message: dict[str, Any]) -> None:
        with self._send_lock, contextlib.suppress(OSError):  # a parent that died is noticed by the listening thread
            self._pipe.send_bytes(json.dumps_bytes(message))

    def _listen(self) -> None:
        try:
            while True:
                message = cast("dict[str, Any]", json.loads(self._pipe.recv_bytes()))
                if message["type"] == "drain":
                    self._begin_drain(float(message["limit_s"]), ExitCode.DRAIN_LIMIT)
                elif message["type"] == "ping" and self._loop is not None:
                    self._loop.call_soon_threadsafe(self._send, {"type": "pong"})
        except (EOFError, OSError):
            log.warning("parent process died")
            self._begin_drain(min(ORPHAN_GRACE_S, self._spec.drain_limit_s), ExitCode.ORPHANED)

    def _begin_drain(self, limit_s: float, code: ExitCode) -> None:
        if self._loop is None:
            end_process(code if code is ExitCode.ORPHANED else ExitCode.OK)
            return
        self._drain_deadline = min(self._drain_deadline, time.monotonic() + limit_s)
        timer = threading.Timer(limit_s, self._overdue, [code])
        timer.daemon = True
        timer.start()
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._draining.set)

    def _overdue(self, code: ExitCode) -> None:
        log.error("process did not finish in time and is ended")
        end_process(code)

    def _on_sigterm(self) -> None:
        if self.is_draining:
            end_process(ExitCode.INTERRUPTED)
        self._begin_drain(self._spec.drain_limit_s, ExitCode.DRAIN_LIMIT)
