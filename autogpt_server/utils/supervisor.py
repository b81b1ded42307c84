"""Starts processes, waits until they are ready, starts them anew when they die, and ends them in order.

One thread runs the supervisor and alone touches its state; everything else is asked of it through `_do`, which is safe in
other threads and in signal handlers.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from autogpt_server.utils import faults, json
from autogpt_server.utils.process import ExitCode, ProcessSpec, run_child

log = logging.getLogger(__name__)

NOT_READY = "not_ready"
"""The error code of a process that was killed because it did not become ready in time."""

_spawn = multiprocessing.get_context("spawn")


class ProcessState(StrEnum):
    """Where a supervised process is in its life."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    """Dead; the next incarnation starts in a moment."""
    DRAINING = "draining"
    STOPPED = "stopped"
    """Ended, and not to be started again."""
    GAVE_UP = "gave_up"
    """Died too often."""


class EventKind(StrEnum):
    """What happened to a supervised process."""

    STARTED = "started"
    READY = "ready"
    EXITED = "exited"
    """It is dead and reaped: nothing of it runs any more."""
    GAVE_UP = "gave_up"


@dataclass(frozen=True)
class ProcessEvent:
    """Something that happened to a supervised process."""

    kind: EventKind
    name: str
    pid: int | None
    detail: str = ""
    """READY: what the process said. EXITED, GAVE_UP: why."""
    exit_code: int | None = None
    """EXITED: as in `multiprocessing`, minus the signal's number where a signal killed it."""
    error_code: str | None = None
    """EXITED, GAVE_UP: the stable code of the error that ended it, if it could say."""


@dataclass(frozen=True)
class RestartPolicy:
    """When to start a dead process again, and when not to."""

    first_delay_s: float = 0.1
    max_delay_s: float = 10.0
    give_up_after: int = 6
    """Deaths in a row."""
    give_up_at_start_after: int = 3
    """Deaths in a row of a process that was never ready."""
    healthy_after_s: float = 30.0
    """Who was ready for so long begins to count anew."""

    def delay_s(self, deaths: int) -> float:
        """How long to wait after that many deaths in a row."""
        return min(self.first_delay_s * 4.0 ** min(deaths - 1, 20), self.max_delay_s)


@dataclass(frozen=True)
class ProcessInfo:
    """A supervised process as it is now."""

    name: str
    state: ProcessState
    pid: int | None
    detail: str
    restarts: int


class Supervisor:
    """Keeps the processes of `specs` running. `run` it in the main thread, or `start` it in one of its own.

    `on_event` is called for each thing that happens, `on_change` whenever `processes()` is another than before, `on_drain`
    when a drain that was asked for begins; all in the supervisor's thread, so they must return at once.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec] = (),
        *,
        on_event: Callable[[ProcessEvent], None] = lambda _: None,
        on_change: Callable[[tuple[ProcessInfo, ...]], None] = lambda _: None,
        on_drain: Callable[[], None] = lambda: None,
        policy: RestartPolicy | None = None,
        drain_limit_s: float = 8.0,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._drain_limit_s = drain_limit_s
        self._on_event = on_event
        self._on_change = on_change
        self._on_drain = on_drain
        self._children: dict[str, _Child] = {}
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._result: ExitCode | None = None
        self._drain_deadline: float | None = None
        self._settled = threading.Event()
        self._thread: threading.Thread | None = None
        self._info: tuple[ProcessInfo, ...] = ()
        for spec in specs:
            self._add(spec)

    # -- running ----------------------------------------------------------

    def run(self) -> ExitCode:
        """Supervise until a drain has ended or a process had to be given up. Returns why it ended."""
        try:
            while True:
                self._perform_requests()
                now = time.monotonic()
                for child in tuple(self._children.values()):
                    child.tick(now)
                self._advance_drain(now)
                self._publish()
                if self._is_over():
                    return self._result or ExitCode.OK
                self._wait(now)
        finally:
            for child in self._children.values():
                child.destroy()
            self._settled.set()
            self._wake_in.close()
            self._wake_out.close()

    def start(self) -> None:
        """Run in a thread; `join` waits for its end."""
        self._thread = threading.Thread(target=self.run, name="supervisor", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until a supervisor that was started has ended. Returns whether it has."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until every process is ready, or the supervisor gave up. Returns whether all are ready."""
        self._settled.wait(timeout_s)
        info = self._info
        return bool(info) and all(process.state is ProcessState.READY for process in info)

    def processes(self) -> tuple[ProcessInfo, ...]:
        """All processes as they were a moment ago."""
        return self._info

    # -- asking -----------------------------------------------------------

    def request_drain(self) -> None:
        """End all processes, the last first, giving each its time. Asked again: kill them. Safe in signal handlers."""
        self._do(self._drain_or_kill)

    def add(self, spec: ProcessSpec) -> None:
        """Start one more process. Its name must not be that of another which has not been removed."""
        self._settled.clear()
        self._do(lambda: self._add(spec))

    def remove(self, name: str, *, limit_s: float = math.inf) -> None:
        """Drain one process, within `limit_s` seconds or within those its spec allows if they are fewer, and forget it."""
        self._do(lambda: self._remove(name, limit_s))

    def let_go(self, name: str) -> None:
        """Start no other process of this name when the present one ends."""
        self._do(lambda: self._let_go(name))

    def kill(self, name: str) -> None:
        """Kill one process now (it may be hung); unless it was removed, another takes its place."""
        self._do(lambda: self._kill(name))

    def _do(self, request: Callable[[], None]) -> None:
        self._requests.put(request)
        with contextlib.suppress(OSError):  # full: it will wake anyhow; closed: there is nobody left to ask
            self._wake_in.send(b"\0")

    # -- in the supervisor's thread ---------------------------------------

    def _add(self, spec: ProcessSpec) -> None:
        known = self._children.get(spec.name)
        if known is not None and known.state not in _OVER:
            raise ValueError(f"there is a process {spec.name} already")
        if self._drain_deadline is None:
            self._children[spec.name] = _Child(spec, self._policy, self._emit)
            self._settled.clear()

    def _remove(self, name: str, limit_s: float) -> None:
        child = self._children.get(name)
        if child is not None:
            child.drain(limit_s)

    def _let_go(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.removed = True

    def _kill(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.kill("on request")

    def _drain_or_kill(self) -> None:
        if self._drain_deadline is None:
            self._begin_drain(ExitCode.OK)
            self._on_drain()
            return
        self._result = ExitCode.INTERRUPTED
        for child in self._children.values():
            child.drain(0)
            child.kill("asked to stop for the second time")

    def _begin_drain(self, result: ExitCode) -> None:
        self._result = result
        self._drain_deadline = time.monotonic() + self._drain_limit_s

    def _advance_drain(self, now: float) -> None:
        if self._drain_deadline is None:
            return
        for child in reversed(self._children.values()):
            if child.state in _OVER:
                continue
            if child.state is not ProcessState.DRAINING:
                child.drain(max(0.0, self._drain_deadline - now))
            if child.state not in _OVER and now < self._drain_deadline:
                return  # the ones before it wait until it has ended

    def _is_over(self) -> bool:
        return self._drain_deadline is not None and all(child.state in _OVER for child in self._children.values())

    def _perform_requests(self) -> None:
        with contextlib.suppress(OSError):
            while self._wake_out.recv(4096):
                pass
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            try:
                request()
            except ValueError:
                log.exception("request to the supervisor refused")

    def _wait(self, now: float) -> None:
        deadline = min((child.next_deadline() for child in self._children.values()), default=math.inf)
        if self._drain_deadline is not None and now < self._drain_deadline:
            deadline = min(deadline, self._drain_deadline)
        by_object: dict[Any, _Child] = {
            thing: child for child in self._children.values() for thing in child.waitables()
        }
        timeout_s = None if deadline == math.inf else max(0.0, deadline - now)
        for thing in wait([self._wake_out, *by_object], timeout_s):
            child = by_object.get(thing)
            if child is not None:
                child.attend()

    def _emit(self, event: ProcessEvent) -> None:
        if event.kind is EventKind.GAVE_UP and self._drain_deadline is None:
            self._begin_drain(ExitCode.GAVE_UP)
            self._settled.set()
        self._on_event(event)

    def _publish(self) -> None:
        for name in [name for name, child in self._children.items() if child.removed and child.state in _OVER]:
            del self._children[name]
        before, self._info = self._info, tuple(child.info() for child in self._children.values())
        if self._info != before:
            self._on_change(self._info)
        if self._info and self._requests.empty() and all(process.state in _SETTLED for process in self._info):
            self._settled.set()


_OVER = frozenset({ProcessState.STOPPED, ProcessState.GAVE_UP})
_SETTLED = _OVER | {ProcessState.READY}


class _Child:
    """One supervised process through its incarnations. Used by the supervisor's thread only."""

    def __init__(self, spec: ProcessSpec, policy: RestartPolicy, emit: Callable[[ProcessEvent], None]) -> None:
        self.spec = spec
        self.state = ProcessState.BACKING_OFF
        self.removed = False
        self._policy = policy
        self._emit = emit
        self._process: Any = None
        self._pipe: Connection[Any, Any] | None = None
        self._death: int | None = None
        """A file descriptor that can be read once the process is dead."""
        self._restart_at = 0.0
        self._kill_at = math.inf
        self._kill_reason = ""
        self._ping_at = math.inf
        self._ready_at: float | None = None
        self._was_ever_ready = False
        self._detail = ""
        self._deaths = 0
        self._starts = 0
        self._failure: dict[str, Any] | None = None

    # -- what the supervisor asks -----------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.state is ProcessState.BACKING_OFF and now >= self._restart_at:
            self._start(now)
        if now >= self._kill_at:
            # Its answer may lie here unread, if it was the supervisor that stood still.
            self._read_messages()
        if now >= self._kill_at and self._process is not None:
            self._kill_at = math.inf
            if self.state is ProcessState.STARTING:
                self._failure = {"code": NOT_READY, "message": self._kill_reason, "retryable": False}
            self.kill(self._kill_reason)
        if now >= self._ping_at:
            self._ping(now)

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        restart_at = self._restart_at if self.state is ProcessState.BACKING_OFF else math.inf
        return min(restart_at, self._kill_at, self._ping_at)

    def waitables(self) -> list[Any]:
        """What to wait for before `attend`."""
        things: list[Any] = []
        if self._pipe is not None:
            things.append(self._pipe)
        if self._process is not None:
            things.append(self._process.sentinel if self._death is None else self._death)
        return things

    def attend(self) -> None:
        """Read what the process says, and see whether it still lives."""
        self._read_messages()
        if self._process is not None and not self._process.is_alive():
            self._read_messages()
            self._bury()

    def drain(self, limit_s: float) -> None:
        """Ask the process to end, for good, within `limit_s` seconds; or within those it was promised, if less."""
        limit_s = min(limit_s, self.spec.drain_limit_s)
        self.removed = True
        if self._process is None:
            if self.state not in _OVER:
                self.state = ProcessState.STOPPED
            return
        self.state = ProcessState.DRAINING
        self._ping_at = math.inf
        self._send({"type": "drain", "limit_s": limit_s})
        # The process ends itself at the limit, and writes that to the log; who cannot even do that is killed.
        self._kill_later(time.monotonic() + limit_s + 0.5, "did not end in time")

    def kill(self, reason: str) -> None:
        """Kill the process. It is buried when the system says that it is dead."""
        if self._process is not None and self._process.is_alive():
            log.warning("killing %s (process %s): %s", self.spec.name, self._process.pid, reason)
            self._failure = self._failure or {"code": "killed", "message": reason, "retryable": True}
            self._process.kill()

    def destroy(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._forget_process()

    def info(self) -> ProcessInfo:
        """The process as it is now."""
        pid = self._process.pid if self._process is not None else None
        return ProcessInfo(self.spec.name, self.state, pid, self._detail, max(0, self._starts - 1))

    # -- its life ---------------------------------------------------------

    def _start(self, now: float) -> None:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=run_child, args=(self.spec, theirs), name=self.spec.name)
        # A Ctrl-C while the child imports would print a traceback; it takes the signal when it can. multiprocessing's
        # tracker first: the start of the first child starts it, too, which unblocks SIGINT.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._process, self._pipe, self._death = process, ours, _watch_for_death(process.pid or 0)
        faults.reach("supervisor.start.after")
        self.state = ProcessState.STARTING
        self._starts += 1
        self._ready_at = None
        self._failure = None
        self._detail = ""
        self._kill_later(now + self.spec.ready_limit_s, f"not ready within {self.spec.ready_limit_s:g} s")
        self._emit(ProcessEvent(EventKind.STARTED, self.spec.name, process.pid))

    def _read_messages(self) -> None:
        try:
            while self._pipe is not None and self._pipe.poll():
                self._on_message(cast("dict[str, Any]", json.loads(self._pipe.recv_bytes())))
        except (EOFError, OSError):
            # The process is about to be dead, or closed its end, which only its death does.
            if self._pipe is not None:
                self._pipe.close()
                self._pipe = None

    def _on_message(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "ready" if self.state is ProcessState.STARTING:
                self.state = ProcessState.READY
                self._ready_at = time.monotonic()
                self._was_ever_ready = True
                self._detail = str(message["detail"])
                self._kill_at = math.inf
                self._schedule_ping(self._ready_at)
                self._emit(ProcessEvent(EventKind.READY, self.spec.name, self._process.pid, self._detail))
            case "pong" if self.state is ProcessState.READY:
                self._kill_at = math.inf
                self._schedule_ping(time.monotonic())
            case "failed":
                self._failure = message
            case _:
                pass

    def _bury(self) -> None:
        process, now = self._process, time.monotonic()
        process.join()
        exit_code = cast("int", process.exitcode)
        failure = self._failure
        reason = str(failure["message"]) if failure else _describe_exit(exit_code)
        error_code = str(failure["code"]) if failure else None
        pid = process.pid
        self._forget_process()
        was_healthy = self._ready_at is not None and now - self._ready_at >= self._policy.healthy_after_s
        self._deaths = 1 if was_healthy else self._deaths + 1
        hopeless = failure is not None and not failure["retryable"] and not self._was_ever_ready
        if self.removed or not self.spec.restart:
            self.state, self.removed = ProcessState.STOPPED, True
        elif hopeless or self._deaths >= (
            self._policy.give_up_after if self._was_ever_ready else self._policy.give_up_at_start_after
        ):
            self.state = ProcessState.GAVE_UP
        else:
            self.state = ProcessState.BACKING_OFF
            self._restart_at = now + self._policy.delay_s(self._deaths)
        self._emit(ProcessEvent(EventKind.EXITED, self.spec.name, pid, reason, exit_code, error_code))
        if self.state is ProcessState.GAVE_UP:
            self._emit(ProcessEvent(EventKind.GAVE_UP, self.spec.name, pid, reason, exit_code, error_code))

    def _forget_process(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.close()
        if self._death is not None:
            os.close(self._death)
        self._process = self._pipe = self._death = None
        self._kill_at = self._ping_at = math.inf

    # -- signs of life ----------------------------------------------------

    def _schedule_ping(self, now: float) -> None:
        if self.spec.hung_limit_s is not None:
            self._ping_at = now + self.spec.hung_limit_s / 4

    def _ping(self, now: float) -> None:
        # One at a time: a process that hangs must not fill its pipe and so hang its supervisor.
        self._ping_at = math.inf
        self._send({"type": "ping"})
        if self.spec.hung_limit_s is not None:
            self._kill_later(now + self.spec.hung_limit_s, f"hung for {self.spec.hung_limit_s:g} s")

    def _kill_later(self, at: float, reason: str) -> None:
        self._kill_at, self._kill_reason = at, reason

    def _send(self, message: dict[str, Any]) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # its death is noticed elsewhere
                self._pipe.send_bytes(json.dumps_bytes(message))


def _watch_for_death(pid: int) -> int | None:
    """A file descriptor for `_Child._death`; None where the system has none.

    multiprocessing's own sentinel is a pipe, which a process that the child has forked keeps open for as long as it lives.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or an old one
        return None


def _describe_exit(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-exit_code).name}"
    with contextlib.suppress(ValueError):
        return f"ended with exit code {exit_code} ({ExitCode(exit_code).name})"
    return f"ended with exit code {exit_code}"
