"""Plans by the shape of their query: least recently used ones are dropped, and what is missing is compiled aside.

Compiling takes 2 to 50 ms, so it happens in a thread of its own, where the compiler is also loaded, on the first miss: a
process that only makes queries whose plans are stored (see `stored`) never holds it. Of the waiting loop it takes Python's
lock for microseconds at a time, while the compiler calls back.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogpt_server.data.engine.errors import CompilerError
from autogpt_server.data.engine.files import PLANS_FOLDER, QUERY_COMPILER_VERSION, default_build_dir
from autogpt_server.data.engine.interpreter import Plan, prepare_plan
from autogpt_server.data.engine.lru import LruCache
from autogpt_server.data.engine.schema import DataModel
from autogpt_server.data.engine.stored import StoredPlans

if TYPE_CHECKING:
    from autogpt_server.data.engine.compiler import QueryCompiler

MAX_PLANS = 300
"""Plans kept in memory by one engine; 10 to 70 KB each."""


class PlanCache:
    """The plans of one schema. Use it from one event loop."""

    def __init__(
        self,
        new_compiler: "Callable[[], QueryCompiler]",
        stored: StoredPlans | None = None,
        *,
        max_plans: int = MAX_PLANS,
    ) -> None:
        """``new_compiler`` is called on the first miss; ``stored`` is asked before it."""
        self._plans: LruCache[str, Plan] = LruCache(max_plans)
        self._pending: dict[str, asyncio.Future[Plan]] = {}
        self._new_compiler = new_compiler
        self._stored = stored
        self._compiler: QueryCompiler | None = None
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

    def __len__(self) -> int:
        return len(self._plans)

    async def close(self) -> None:
        """Let the compiler go, after a compilation under way."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, lambda: thread.shutdown(cancel_futures=True))
        self._compiler = None

    def _start(self, text: str) -> Future[Plan]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prisma-compiler")
        return self._thread.submit(self._make, text)

    def _make(self, text: str) -> Plan:
        """In the thread: load the plan of ``text``, or compile it."""
        source = None if self._stored is None else self._stored.load(text)
        if source is None:
            source = self._compile(text)
            if self._stored is not None:
                self._stored.save(text, source)
        return prepare_plan(source)

    def _compile(self, text: str) -> dict[str, Any]:
        if self._compiler is None:
            self._compiler = self._new_compiler()
        self.compiled += 1
        try:
            return self._compiler.compile(text)
        except CompilerError:
            self._compiler = None  # its memory is in an unknown state: the next query gets a new one
            raise

    def _finish(self, text: str, done: asyncio.Future[Plan]) -> None:
        self._pending.pop(text, None)
        if not done.cancelled() and done.exception() is None:
            self._plans.put(text, done.result())


def plans_of(datamodel: DataModel, build_dir: Path | None = None, plans_dir: Path | None = None) -> PlanCache:
    """The plans of ``datamodel``, with the compiler of ``build_dir`` and the plans stored in ``plans_dir``."""

    def new_compiler() -> "QueryCompiler":
        from autogpt_server.data.engine.compiler import QueryCompiler  # noqa: PLC0415 - brings wasmtime along

        return QueryCompiler(datamodel, build_dir=build_dir)

    folder = plans_dir or (build_dir or default_build_dir()) / PLANS_FOLDER
    return PlanCache(new_compiler, StoredPlans(folder / f"{QUERY_COMPILER_VERSION}-{datamodel.fingerprint}"))
