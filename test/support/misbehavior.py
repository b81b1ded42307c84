"""Blocks that do what no block should, each thing under a name; loaded into the real worker processes by BLOCK_MODULES."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import gc
import locale
import mmap
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from autogpt_server.data.block import (
    Block,
    BlockContext,
    BlockSchema,
    CallGraph,
    Effects,
    OutputSchema,
    SchemaField,
    Suspend,
)
from support.effects import act

MODULE = __name__

ROOM_BYTES = 200_000_000
"""What a process that runs out of memory here may take: a limit that the machine can bear."""
ROOM_FILES = 50


class Input(BlockSchema):
    how: str = SchemaField(description="What to do.")
    item: Any = SchemaField(None, description="A value.")
    api_key: str = SchemaField("", description="A secret.", secret=True)
    url: str = SchemaField("", description="Where the outside world is.")


class Output(OutputSchema):
    out: Any = SchemaField(None, description="A value.")


Case: TypeAlias = Callable[[Input, BlockContext], "Iterator[Any] | None"]
AsyncCase: TypeAlias = Callable[[Input, BlockContext], AsyncIterator[Any]]

CASES: dict[str, Case] = {}
ASYNC_CASES: dict[str, AsyncCase] = {}


def _case(how: str) -> Callable[[Case], Case]:
    def note(perform: Case) -> Case:
        assert CASES.setdefault(how, perform) is perform, how
        return perform

    return note


def _async_case(how: str) -> Callable[[AsyncCase], AsyncCase]:
    def note(perform: AsyncCase) -> AsyncCase:
        assert ASYNC_CASES.setdefault(how, perform) is perform, how
        return perform

    return note


class MisbehavingBlock(Block):
    id = "7c0a3c4e-0004-4f6a-9a43-111111111111"
    description = "Does what no block should, in a thread."
    effects = Effects.PURE
    input_schema = Input
    output_schema = Output
    test_input = {"how": "behave"}
    test_output = [("out", 1)]

    def run(self, input_data: Input, ctx: BlockContext) -> Iterator[Any]:
        yield from CASES[input_data.how](input_data, ctx) or ()


class AsyncMisbehavingBlock(Block):
    id = "7c0a3c4e-0005-4f6a-9a43-111111111111"
    description = "Does what no block should, on the loop."
    effects = Effects.PURE
    input_schema = Input
    output_schema = Output
    test_input = {"how": "behave"}
    test_output = [("out", 1)]

    async def run(self, input_data: Input, ctx: BlockContext) -> AsyncIterator[Any]:
        inner: Any = ASYNC_CASES[input_data.how](input_data, ctx)
        async with contextlib.aclosing(inner):
            async for item in inner:
                yield item


def _raising(error: Callable[[], BaseException]) -> Case:
    def perform(_given: Input, _ctx: BlockContext) -> None:
        raise error()

    return perform


def _yielding(*items: Callable[[], Any]) -> Case:
    def perform(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
        for item in items:
            yield item()

    return perform


# --- what it raises ---------------------------------------------------------------------------------------------------


class _SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class _Silent(BaseException):
    pass


class _Impostor(Exception):
    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("none of your business")


def _endless(depth: int = 0) -> int:
    return _endless(depth + 1) + 1


CASES.update(
    {
        "raise": _raising(lambda: ValueError("the tank is empty")),
        "raise base exception": _raising(lambda: _Silent("base")),
        "raise without words": _raising(_SpeechlessError),
        "raise an impostor": _raising(_Impostor),
        "raise half a character": _raising(lambda: ValueError("\ud800")),
        "raise a long story": _raising(lambda: ValueError("x" * 10_000_000)),
        "raise several": _raising(lambda: BaseExceptionGroup("all", [ValueError("one"), _Silent("two")])),
        "raise keyboard interrupt": _raising(KeyboardInterrupt),
        "stop iteration": _raising(StopIteration),
        "generator exit": _raising(GeneratorExit),
        "canceled": _raising(asyncio.CancelledError),
        "out of memory": _raising(MemoryError),
        "wait for nothing": _raising(lambda: Suspend(until=cast("datetime", "tomorrow"))),
        "wait for a number": _raising(lambda: Suspend(signal=cast("str", 5))),
        "wait for ever": _raising(lambda: Suspend(until=datetime.max.replace(tzinfo=UTC))),
        "call a number": _raising(lambda: CallGraph(cast("str", 5), {})),
        "call with a set": _raising(lambda: CallGraph("none", cast("dict[str, Any]", {"a": {1}}))),
    }
)


@_case("exit")
def _exit(_given: Input, _ctx: BlockContext) -> None:
    sys.exit(3)


@_case("recurse")
def _recurse(_given: Input, _ctx: BlockContext) -> None:
    _endless()


@_case("tell the secret")
def _tell(given: Input, ctx: BlockContext) -> None:
    ctx.logger.warning("logging in with %s", given.api_key)
    raise ValueError(f"cannot log in with {given.api_key}")


@_case("raise at the end")
def _raise_at_the_end(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    try:
        yield "out", 1
    finally:
        raise ValueError("at the end")


@_case("refuse to close")
def _refuse_to_close(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    try:
        yield "out", float("inf")
    finally:
        yield "out", 2


@_case("raise when closed")
def _raise_when_closed(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    try:
        yield "out", float("inf")
    finally:
        raise ValueError("closed")


@_case("read what is typed")
def _read(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    yield "out", input("your name? ")


@_case("ask for too much memory")
def _ask_for_memory(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    yield "out", len(bytearray(1 << 60))


# --- what it yields ---------------------------------------------------------------------------------------------------


class _Shade(enum.Enum):
    DARK = 1


class _Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _knot() -> Any:
    knot: list[Any] = []
    knot.append(knot)
    return knot


CASES.update(
    {
        "behave": _yielding(lambda: ("out", 1)),
        "yield nothing": _yielding(),
        "yield nan": _yielding(lambda: ("out", float("nan"))),
        "yield nan deep inside": _yielding(lambda: ("out", {"a": [{"b": float("nan")}]})),
        "yield a set": _yielding(lambda: ("out", {1, 2})),
        "yield bytes": _yielding(lambda: ("out", b"raw")),
        "yield a tuple": _yielding(lambda: ("out", (1, 2))),
        "yield a time": _yielding(lambda: ("out", datetime(2026, 1, 1, tzinfo=UTC))),
        "yield an enum": _yielding(lambda: ("out", _Shade.DARK)),
        "yield an object": _yielding(lambda: ("out", object())),
        "yield keys that are no text": _yielding(lambda: ("out", {1: "one"})),
        "yield a key that is half a character": _yielding(lambda: ("out", {"\ud800": 1})),
        "yield half a character": _yielding(lambda: ("out", "\ud800")),
        "yield ten thousand levels": _yielding(lambda: ("out", _nested(10_000))),
        "yield ten thousand digits": _yielding(lambda: ("out", 10**10_000)),
        "yield itself": _yielding(lambda: ("out", _knot())),
        "yield no pair": _yielding(lambda: "out"),
        "yield three": _yielding(lambda: ("out", 1, 2)),
        "yield to nowhere": _yielding(lambda: ("nowhere", 1)),
        "yield to a list": _yielding(lambda: (["out"], 1)),
        "yield to none": _yielding(lambda: (None, 1)),
        "yield to a long name": _yielding(lambda: ("x" * 1_000_000, 1)),
        "yield to half a character": _yielding(lambda: ("\ud800", 1)),
        "yield to another name": _yielding(lambda: (_Name("out"), 1)),
        "yield too much": _yielding(lambda: ("out", "x" * 2_000_000)),
        "yield a hundred megabytes": _yielding(lambda: ("out", "x" * 100_000_000)),
        "yield error": _yielding(lambda: ("error", "no fuel")),
        "yield an error that is none": _yielding(lambda: ("error", float("nan"))),
        "yield a long error": _yielding(lambda: ("error", "x" * 10_000_000)),
    }
)


@_case("change what it yielded")
def _change_output(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    value = {"list": [1]}
    yield "out", value
    value["list"].append(2)
    yield "out", value


@_case("change its input")
def _change_input(given: Input, _ctx: BlockContext) -> Iterator[Any]:
    given.item.append("changed")
    yield "out", given.item


@_case("yield for ever")
def _yield_for_ever(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    while True:
        yield "out", "x" * 1000


# --- what it does to the process that it shares -----------------------------------------------------------------------


@_case("leave threads")
def _leave_threads(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    threading.Thread(target=time.sleep, args=[3600], daemon=False).start()
    yield "out", 1


@_case("leave many threads")
def _leave_many_threads(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    for _ in range(300):
        threading.Thread(target=time.sleep, args=[3600], daemon=False).start()
    yield "out", 1


@_case("leave threads that raise")
def _leave_raising_threads(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    yield "out", 1
    for fail in (_endless, sys.exit, lambda: bytearray(1 << 60)):
        threading.Timer(0.05, fail).start()


@_case("fork")
def _fork(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    if os.fork() == 0:
        return
    yield "out", 1


@_case("fork and stay")
def _fork_and_stay(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    if os.fork() == 0:
        while True:
            time.sleep(3600)
    yield "out", 1


@_case("set a signal handler")
def _set_signal_handler(_given: Input, _ctx: BlockContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@_case("print much")
def _print_much(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    for _ in range(20):
        sys.stdout.write("x" * 1_000_000)
        sys.stderr.write("y" * 1_000_000)
    yield "out", 1


@_case("close standard output")
def _close_streams(_given: Input, _ctx: BlockContext) -> None:
    sys.stdout.close()
    sys.stderr.close()
    raise ValueError("nobody hears it")


def _ignore(*_: object) -> None:
    pass


@_case("change the surroundings")
def _change_surroundings(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    nowhere = Path(f"gone-{os.getpid()}").absolute()
    nowhere.mkdir()
    os.chdir(nowhere)
    nowhere.rmdir()
    os.umask(0o777)
    os.environ.clear()
    locale.setlocale(locale.LC_ALL, "C")
    gc.disable()
    threading.excepthook = sys.excepthook = cast("Any", _ignore)
    yield "out", 1


@_case("kill the process")
def _die(_given: Input, _ctx: BlockContext) -> None:
    os._exit(1)


@_case("end the process in good order")
def _die_quietly(_given: Input, _ctx: BlockContext) -> None:
    os._exit(0)


def _signaling(number: int) -> Case:
    def perform(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
        os.kill(os.getpid(), number)
        yield "out", 1

    return perform


CASES.update(
    {
        "SIGKILL": _signaling(signal.SIGKILL),
        "SIGSEGV": _signaling(signal.SIGSEGV),
        "SIGTERM": _signaling(signal.SIGTERM),
        "SIGINT": _signaling(signal.SIGINT),
    }
)


@_case("close all files")
def _close_files(_given: Input, _ctx: BlockContext) -> Iterator[Any]:
    os.closerange(0, 1024)
    yield "out", 1


@_case("never return")
def _never_return(_given: Input, _ctx: BlockContext) -> None:
    while True:
        time.sleep(3600)


# --- what it takes from others ----------------------------------------------------------------------------------------


def _limit_memory() -> None:
    own = resource.getpagesize() * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (own + ROOM_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _take_memory(pieces: list[Any]) -> None:
    """Take what there is, to the last kilobytes."""
    for size in (10_000_000, 100_000):
        with contextlib.suppress(MemoryError, OSError):
            while True:
                pieces.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


@_case("take all memory")
def _take_all_memory(_given: Input, _ctx: BlockContext) -> None:
    """Grow until the system does what it does then: it kills the process."""
    _limit_memory()
    taken: list[Any] = []
    _take_memory(taken)
    time.sleep(0.05)  # meanwhile everybody else in this process finds none
    os.kill(os.getpid(), signal.SIGKILL)


@_case("hoard memory")
def _hoard_memory(given: Input, ctx: BlockContext) -> None:
    """Take all memory, let others find none, give it back, and be surprised."""
    _limit_memory()
    taken: list[Any] = []
    _take_memory(taken)
    _let_others_try(given, ctx)
    taken.clear()
    raise MemoryError("no more")


@_case("hoard threads")
def _hoard_threads(given: Input, ctx: BlockContext) -> None:
    """Start threads until there are no more; they stay."""
    _limit_memory()
    threading.stack_size(16 * 1024 * 1024)
    stay = threading.Event()
    try:
        while True:
            threading.Thread(target=stay.wait, daemon=True).start()
    finally:
        _let_others_try(given, ctx)


@_case("hoard files")
def _hoard_files(given: Input, ctx: BlockContext) -> None:
    """Open files until there are no more, and keep them."""
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + ROOM_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    _KEPT.append(os.open(os.devnull, os.O_RDONLY))
    try:
        while True:
            _KEPT.append(os.dup(_KEPT[0]))
    finally:
        _let_others_try(given, ctx)


_KEPT: Final[list[int]] = []
_TAKEN = threading.Event()


def _let_others_try(_given: Input, _ctx: BlockContext) -> None:
    _TAKEN.set()
    time.sleep(0.3)


def _needing(need: Callable[[], object]) -> Case:
    """Waits until somebody in its process has taken something, or the outside world lets it go on, and then needs a little of that."""

    def perform(given: Input, _ctx: BlockContext) -> Iterator[Any]:
        if given.url:
            asking = threading.Thread(target=lambda: (act(given.url, "need"), _TAKEN.set()), daemon=True)
            asking.start()
        _TAKEN.wait(60)
        need()
        yield "out", "fine"

    return perform


def _open_connection() -> None:
    try:
        with Path("/dev/null").open("rb"):
            pass
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise ConnectionError("cannot connect") from error  # as libraries put it
        raise


CASES.update(
    {
        "need memory": _needing(lambda: [bytearray(1_000_000) for _ in range(10)]),
        "need a thread": _needing(lambda: threading.Thread(target=int, daemon=True).start()),
        "need a file": _needing(_open_connection),
    }
)


# --- on the loop ------------------------------------------------------------------------------------------------------


@_async_case("behave")
async def _behave(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    yield "out", 1


@_async_case("raise base exception")
async def _async_raise(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    raise _Silent("base")
    yield


@_async_case("exit")
async def _async_exit(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    sys.exit(3)
    yield


@_async_case("raise keyboard interrupt")
async def _async_interrupt(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    raise KeyboardInterrupt
    yield


@_async_case("recurse")
async def _async_recurse(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    yield "out", _endless()


@_async_case("cancel itself")
async def _cancel_itself(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    yield "out", 1


@_async_case("raise canceled")
async def _raise_canceled(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    raise asyncio.CancelledError
    yield


@_async_case("raise at the end")
async def _async_raise_at_the_end(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    try:
        yield "out", 1
    finally:
        raise ValueError("at the end")


@_async_case("refuse to close")
async def _async_refuse_to_close(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    try:
        yield "out", float("inf")
    finally:
        yield "out", 2


@_async_case("close for ever")
async def _close_for_ever(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    try:
        yield "out", float("inf")
    finally:
        await asyncio.Event().wait()


@_async_case("stand still")
async def _stand_still(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    time.sleep(0.5)  # noqa: ASYNC251 - the point
    yield "out", 1


@_async_case("block the loop")
async def _block_the_loop(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    time.sleep(3600)  # noqa: ASYNC251 - the point
    yield "out", 1


@_async_case("swallow cancellation")
async def _swallow_cancellation(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            yield "out", "not with me"


@_async_case("never return")
async def _async_never_return(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


@_async_case("yield for ever")
async def _async_yield_for_ever(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    while True:
        yield "out", "x" * 1000


@_async_case("leave tasks that raise")
async def _leave_tasks(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    loop = asyncio.get_running_loop()

    async def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("later"), MemoryError("later")):
        loop.call_soon(asyncio.ensure_future, fail(error))
    loop.call_later(0.05, _endless)
    await asyncio.sleep(0)
    gc.collect()
    yield "out", 1


@_async_case("set a signal handler")
async def _async_set_signal_handler(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    yield "out", 1


@_async_case("cancel all tasks")
async def _cancel_all(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    for task in asyncio.all_tasks():
        task.cancel()
    yield "out", 1


@_async_case("stop the loop")
async def _stop_loop(_given: Input, _ctx: BlockContext) -> AsyncIterator[Any]:
    asyncio.get_running_loop().stop()
    yield "out", 1
