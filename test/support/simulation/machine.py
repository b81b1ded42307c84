"""One event loop for many simulated processes: chance decides which of them moves next, and time passes only when none can.

Callbacks of one process keep their order, as on its own loop; those of different processes interleave in any way. A process may stand still for a
while (as under SIGSTOP, or a slow machine), and it may die between any two callbacks: then nothing of it is called any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import random
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Process:
    """A simulated process: what it has to call next, and whether it lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.has_memory = True
        self.stands_until = 0.0
        self.ready: deque[Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.on_death: list[Callable[[], None]] = []

    def die(self) -> None:
        """End at once, wherever it is."""
        if self.is_alive:
            self.is_alive = False
            self.ready.clear()
            for task in self.tasks:
                task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
            for tell in self.on_death:
                contextvars.Context().run(tell)  # whoever learns of it is another

    def __repr__(self) -> str:
        return self.name


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Machine(asyncio.AbstractEventLoop):
    """The loop. `run` makes steps until a condition holds."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.steps = 0
        self.outside = Process("outside")
        """Whoever is no process of the server: people, and the machine itself. It never dies."""
        self.errors: list[Exception] = []
        """What was raised and not expected: by callbacks, and by what processes are about."""
        self._now_s = 0.0
        self._timers: list[tuple[float, int, TimerHandle, Process]] = []
        self._numbers = itertools.count()
        self._busy: dict[Process, None] = {}
        """Processes that have something to call, or had until a moment ago."""
        self._all: list[Process] = [self.outside]

    # --- processes -----------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task in a process."""
        if process not in self._all:
            self._all.append(process)
        context = contextvars.copy_context()
        context.run(_process.set, process)
        task = context.run(self.create_task, work)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.errors.append(error)

    def call_in(self, process: Process, callback: Callable[..., object], *args: Any) -> None:
        """Have something called in a process, if it lives then."""
        context = contextvars.copy_context()
        context.run(_process.set, process)
        self.call_soon(callback, *args, context=context)

    def current(self, context: contextvars.Context | None = None) -> Process:
        """The process that is being performed, or to which a context belongs."""
        return (_process.get() if context is None else context.get(_process)) or self.outside

    # --- running -------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Generator[None]:
        """Be the thread's loop."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def step(self) -> bool:
        """One callback of some process, or on to the next time at which there is one. False if nothing will ever happen again."""
        self.steps += 1
        able = [process for process in self._busy if process.ready and process.stands_until <= self._now_s]
        if able:
            process = able[self.chance.randrange(len(able))] if len(able) > 1 else able[0]
            handle = process.ready.popleft()
            if not process.ready:
                del self._busy[process]
            if not handle.cancelled():
                handle._run()
            return True
        return self._pass_time()

    def _pass_time(self) -> bool:
        standing = [process.stands_until for process in self._busy if process.is_alive and process.ready]
        for process in [process for process in self._busy if not process.ready]:
            del self._busy[process]
        while self._timers and (self._timers[0][2].cancelled() or not self._timers[0][3].is_alive):
            heapq.heappop(self._timers)
        if not self._timers and not standing:
            return False
        self._now_s = max(self._now_s, min([*standing, *(timer[0] for timer in self._timers[:1])]))
        while self._timers and self._timers[0][0] <= self._now_s:
            _, _, handle, process = heapq.heappop(self._timers)
            if process.is_alive and not handle.cancelled():
                self._push(process, handle)
        return True

    def _push(self, process: Process, handle: Handle) -> None:
        if process.is_alive:
            process.ready.append(handle)
            self._busy[process] = None

    def bury(self) -> None:
        """End all processes, and what their tasks were about."""
        for process in self._all:
            process.die()
        # What they do at their end, they do in vain; it may begin other tasks.
        while tasks := [task for process in self._all for task in process.tasks]:
            for process in self._all:
                process.tasks = []
            for task in tasks:
                with contextlib.suppress(BaseException):
                    cast("Coroutine[Any, Any, Any]", task.get_coro()).close()

    # --- what asyncio asks of a loop -----------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        context = context or contextvars.copy_context()
        handle = Handle(callback, args, self, context)
        self._push(self.current(context), handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        context = context or contextvars.copy_context()
        handle = TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle, self.current(context)))
        return handle

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Canceled timers are passed over when their time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self.current().tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Else it is about an answer that nobody has waited for.
        if "handle" in context and isinstance(context.get("exception"), Exception):
            self.errors.append(context["exception"])
