"""Plans by the shape of their query: least recently used ones are dropped, and what is missing is compiled aside.

Compiling takes 2 to 50 ms, so it happens in a thread of its own, where the compiler is also loaded, on the first miss: a
process that only repeats known queries never holds it. Of the waiting loop it takes Python's lock for microseconds at a
time, while the compiler calls back.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from autogpt_server.data.engine.errors import CompilerError
from autogpt_server.data.engine.interpreter import Plan, prepare_plan
from autogpt_server.data.engine.schema import DataModel

if TYPE_CHECKING:
    from autogpt_server.data.engine.compiler import QueryCompiler

K = TypeVar("K")
V = TypeVar("V")

MAX_PLANS = 1000
"""Plans kept by one engine, each some 10 to 50 KB."""


class LruCache(Generic[K, V]):
    """A dict that forgets what was not asked for longest. For one thread."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_size:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


class PlanCache:
    """The plans of one schema. Use it from one event loop."""

    def __init__(
        self,
        datamodel: DataModel,
        *,
        max_plans: int = MAX_PLANS,
        build_dir: Path | None = None,
        new_compiler: "Callable[[DataModel], QueryCompiler] | None" = None,
    ) -> None:
        self._datamodel = datamodel
        self._plans: LruCache[str, Plan] = LruCache(max_plans)
        self._pending: dict[str, asyncio.Future[Plan]] = {}
        self._new_compiler = new_compiler or (lambda model: _load_compiler(model, build_dir))
        self._compiler: "QueryCompiler | None" = None
        self._thread: ThreadPoolExecutor | None = None
        self.compiled = 0
        """Plans that had to be compiled so far."""

    def cached(self, text: str) -> Plan | None:
        """The plan of the request ``text`` if it is known."""
        return self._plans.get(text)

    async def get(self, text: str) -> Plan:
        """The plan of the request ``text``, compiled if need be; once, however many wait for it.

        Raises:
            QueryError: the request does not fit the schema.
            CompilerError: the compiler failed.
            EngineNotBuiltError: there is no compiler.
        """
        plan = self._plans.get(text)
        if plan is not None:
            return plan
        pending = self._pending.get(text)
        if pending is None:
            pending = self._pending[text] = asyncio.wrap_future(self._start(text))
            pending.add_done_callback(lambda done: self._finish(text, done))
        return await asyncio.shield(pending)

    async def close(self) -> None:
        """Let the compiler go, after a compilation under way."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, lambda: thread.shutdown(cancel_futures=True))
        self._compiler = None

    def _start(self, text: str) -> Future[Plan]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prisma-compiler")
        return self._thread.submit(self._compile, text)

    def _compile(self, text: str) -> Plan:
        if self._compiler is None:
            self._compiler = self._new_compiler(self._datamodel)
        try:
            source = self._compiler.compile(text)
        except CompilerError:
            self._compiler = None  # its memory is in an unknown state: the next query gets a new one
            raise
        return prepare_plan(source)

    def _finish(self, text: str, done: asyncio.Future[Plan]) -> None:
        self._pending.pop(text, None)
        self.compiled += 1
        if not done.cancelled() and done.exception() is None:
            self._plans.put(text, done.result())


def _load_compiler(datamodel: DataModel, build_dir: Path | None) -> "QueryCompiler":
    from autogpt_server.data.engine.compiler import QueryCompiler  # noqa: PLC0415 - wasmtime is imported when needed

    return QueryCompiler(datamodel, build_dir=build_dir)
