"""Blocks for tests of the runtime, loaded into the real worker processes by BLOCK_MODULES."""

import asyncio
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from autogpt_server.data.block import (
    Block,
    BlockContext,
    BlockError,
    BlockSchema,
    CallGraph,
    ChildResult,
    EffectNotStarted,
    Effects,
    EffectUnknown,
    JsonValue,
    OutputSchema,
    SchemaField,
    Suspend,
)
from support.effects import act

MODULE = __name__


class _Script(Block):
    """Performs the steps it is given: `["yield", value]`, `["act", key]` (to the outside world), `["fail", message]`, `["sleep", seconds]`.

    `{key}` in a key is the idempotency key of the execution, `{attempt}` the number of the attempt. `["fail until", attempt]` fails up to that attempt, `["not started"]` and `["unknown"]`
    as a block that knows so much about its effect. `["wait", {"signal": name, "s": seconds}]` and `["call", graph id, input]` suspend the block; called again it
    goes on behind that step, and first yields what it is called again with.
    """

    class Input(BlockSchema):
        item: Any = SchemaField(None, description='Any value: what starts the block; `["yield"]` alone yields it.')
        steps: list[list[Any]] = SchemaField(description="What to do.")
        effects: Effects = SchemaField(Effects.PURE, description="The effects it says it has.")
        url: str = SchemaField("", description="Where the outside world is.")

    class Output(OutputSchema):
        out: Any = SchemaField(None, description="What it yields.")

    input_schema = Input
    output_schema = Output
    test_input = {"item": 1, "steps": [["yield"], ["yield", 2]]}
    test_output = [("out", 1), ("out", 2)]

    def effects_for(self, input_data: Mapping[str, JsonValue]) -> Effects:
        return Effects(input_data.get("effects", Effects.PURE))


def _remaining(steps: list[list[Any]], ctx: BlockContext) -> list[list[Any]]:
    """The steps that a call has to perform: all, or those behind the wait that is over."""
    if not ctx.is_resumed:
        return steps
    waits = next(index for index, step in enumerate(steps) if step[0] in ("wait", "call"))
    value = ctx.resumed_with
    return [["yield", asdict(value) if isinstance(value, ChildResult) else value], *steps[waits + 1 :]]


def _key(template: Any, ctx: BlockContext) -> str:
    return str(template).replace("{key}", ctx.idempotency_key).replace("{attempt}", str(ctx.attempt))


def _raise(step: str, arguments: list[Any], ctx: BlockContext) -> None:
    match step:
        case "fail until":
            if ctx.attempt < arguments[0]:
                raise BlockError(f"attempt {ctx.attempt}")
        case "not started":
            raise EffectNotStarted("no connection")
        case "unknown":
            raise EffectUnknown("no answer")
        case "wait":
            after_s = arguments[0].get("s")
            until = ctx.now() + timedelta(seconds=after_s) if after_s is not None else None
            raise Suspend(until=until, signal=arguments[0].get("signal"))
        case "call":
            raise CallGraph(arguments[0], arguments[1])
        case _:
            raise BlockError(arguments[0])


class ScriptBlock(_Script):
    id = "7c0a3c4e-0001-4f6a-9a43-111111111111"
    description = "Performs a script in a thread."

    def run(self, input_data: _Script.Input, ctx: BlockContext) -> Iterator[tuple[str, JsonValue]]:
        for step, *arguments in _remaining(input_data.steps, ctx):
            match step:
                case "yield":
                    yield "out", arguments[0] if arguments else input_data.item
                case "act":
                    act(input_data.url, _key(arguments[0], ctx))
                case "sleep":
                    time.sleep(arguments[0])
                case _:
                    _raise(step, arguments, ctx)


class AsyncScriptBlock(_Script):
    id = "7c0a3c4e-0002-4f6a-9a43-111111111111"
    description = "Performs a script on the loop."

    async def run(self, input_data: _Script.Input, ctx: BlockContext) -> AsyncIterator[tuple[str, JsonValue]]:
        for step, *arguments in _remaining(input_data.steps, ctx):
            match step:
                case "yield":
                    yield "out", arguments[0] if arguments else input_data.item
                case "act":
                    await asyncio.to_thread(act, input_data.url, _key(arguments[0], ctx))
                case "sleep":
                    await asyncio.sleep(arguments[0])
                case _:
                    _raise(step, arguments, ctx)


class JoinBlock(Block):
    id = "7c0a3c4e-0007-4f6a-9a43-111111111111"
    description = "Yields the two values it is given as a pair."
    effects = Effects.PURE

    class Input(BlockSchema):
        left: Any = SchemaField(description="One value.")
        right: Any = SchemaField(description="Another value.")

    class Output(OutputSchema):
        out: Any = SchemaField(None, description="Both.")

    input_schema = Input
    output_schema = Output
    test_input = {"left": 1, "right": 2}
    test_output = [("out", [1, 2])]

    def run(self, input_data: Input, ctx: BlockContext) -> Iterator[tuple[str, JsonValue]]:
        yield "out", [input_data.left, input_data.right]


class ManyBlock(Block):
    id = "7c0a3c4e-0003-4f6a-9a43-111111111111"
    description = "Yields many values."
    effects = Effects.PURE

    class Input(BlockSchema):
        count: int = SchemaField(description="How many.")
        size: int = SchemaField(1, description="Characters in each.")

    class Output(OutputSchema):
        out: Any = SchemaField(None, description="The values.")
        none: Any = SchemaField(None, description="Nothing.")

    input_schema = Input
    output_schema = Output
    test_input = {"count": 2, "size": 3}
    test_output = [("out", "xxx"), ("out", "xxx")]

    def run(self, input_data: Input, ctx: BlockContext) -> Iterator[tuple[str, JsonValue]]:
        for _ in range(input_data.count):
            yield "out", "x" * input_data.size


class _StrangeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class _Silent(BaseException):
    pass


class MisbehavingBlock(Block):
    id = "7c0a3c4e-0004-4f6a-9a43-111111111111"
    description = "Does what no block should, in a thread."
    effects = Effects.PURE

    class Input(BlockSchema):
        how: str = SchemaField(description="What to do.")
        item: Any = SchemaField(None, description="A value.")
        api_key: str = SchemaField("", description="A secret.", secret=True)

    class Output(OutputSchema):
        out: Any = SchemaField(None, description="A value.")

    input_schema = Input
    output_schema = Output
    test_input = {"how": "behave"}
    test_output = [("out", 1)]

    def run(self, input_data: Input, ctx: BlockContext) -> Iterator[Any]:  # noqa: C901, PLR0912 - a list of cases
        match input_data.how:
            case "behave":
                yield "out", 1
            case "raise":
                raise ValueError("the tank is empty")
            case "raise base exception":
                raise _Silent("base")
            case "raise without words":
                raise _StrangeError
            case "raise half a character":
                raise ValueError("\ud800")
            case "raise a long story":
                raise ValueError("x" * 10_000_000)
            case "exit":
                sys.exit(3)
            case "generator exit":
                raise GeneratorExit
            case "out of memory":
                raise MemoryError
            case "tell the secret":
                ctx.logger.warning("logging in with %s", input_data.api_key)
                raise ValueError(f"cannot log in with {input_data.api_key}")
            case "yield nan":
                yield "out", float("nan")
            case "yield set":
                yield "out", {1, 2}
            case "yield half a character":
                yield "out", "\ud800"
            case "yield itself":
                knot: list[Any] = []
                knot.append(knot)
                yield "out", knot
            case "yield no pair":
                yield "out"
            case "yield three":
                yield "out", 1, 2
            case "yield to nowhere":
                yield "nowhere", 1
            case "yield to a list":
                yield ["out"], 1
            case "yield too much":
                yield "out", "x" * 2_000_000
            case "yield error":
                yield "error", "no fuel"
            case "change what it yielded":
                value = {"list": [1]}
                yield "out", value
                value["list"].append(2)
                yield "out", value
            case "change its input":
                input_data.item.append("changed")
                yield "out", input_data.item
            case "raise at the end":
                try:
                    yield "out", 1
                finally:
                    raise ValueError("at the end")
            case "refuse to close":
                try:
                    yield "out", float("inf")
                finally:
                    yield "out", 2
            case "yield a hundred megabytes":
                yield "out", "x" * 100_000_000
            case "leave threads":
                threading.Thread(target=time.sleep, args=[3600], daemon=False).start()
                yield "out", 1
            case "leave many threads":
                for _ in range(300):
                    threading.Thread(target=time.sleep, args=[3600], daemon=False).start()
                yield "out", 1
            case "fork":
                if os.fork() == 0:
                    return
                yield "out", 1
            case "fork and stay":
                if os.fork() == 0:
                    while True:
                        time.sleep(3600)
                yield "out", 1
            case "kill the process":
                os._exit(1)
            case "take all memory":
                _take_all_memory()
            case "ask for too much memory":
                yield "out", len(bytearray(1 << 60))
            case "never return":
                while True:
                    time.sleep(3600)
            case other:
                raise AssertionError(other)


def _take_all_memory() -> None:
    """Grow until the system does what it does then, here at a limit that the machine can bear: it kills the process."""
    own = resource.getpagesize() * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (own + 200_000_000, resource.getrlimit(resource.RLIMIT_AS)[1]))
    taken: list[bytearray] = []
    try:
        while True:
            taken.append(bytearray(10_000_000))
    except MemoryError:
        time.sleep(0.05)  # meanwhile everybody else in this process finds none
        os.kill(os.getpid(), signal.SIGKILL)


class AsyncMisbehavingBlock(Block):
    id = "7c0a3c4e-0005-4f6a-9a43-111111111111"
    description = "Does what no block should, on the loop."
    effects = Effects.PURE
    input_schema = MisbehavingBlock.Input
    output_schema = MisbehavingBlock.Output
    test_input = {"how": "behave"}
    test_output = [("out", 1)]

    async def run(self, input_data: MisbehavingBlock.Input, ctx: BlockContext) -> AsyncIterator[Any]:  # noqa: C901, PLR0912
        match input_data.how:
            case "behave":
                yield "out", 1
            case "raise base exception":
                raise _Silent("base")
            case "exit":
                sys.exit(3)
            case "cancel itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
                yield "out", 1
            case "raise canceled":
                raise asyncio.CancelledError
            case "raise at the end":
                try:
                    yield "out", 1
                finally:
                    raise ValueError("at the end")
            case "refuse to close":
                try:
                    yield "out", float("inf")
                finally:
                    yield "out", 2
            case "block the loop":
                time.sleep(3600)  # noqa: ASYNC251 - the point
                yield "out", 1
            case "swallow cancellation":
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        yield "out", "not with me"
            case "never return":
                await asyncio.Event().wait()
            case other:
                raise AssertionError(other)


class BadEffectsBlock(Block):
    id = "7c0a3c4e-0006-4f6a-9a43-111111111111"
    description = "Cannot say what its effects are."

    class Input(BlockSchema):
        item: Any = SchemaField(None, description="A value.")

    class Output(OutputSchema):
        out: Any = SchemaField(None, description="The value.")

    input_schema = Input
    output_schema = Output
    test_input = {"item": 1}
    test_output = [("out", 1)]

    def effects_for(self, input_data: Mapping[str, JsonValue]) -> Effects:
        raise KeyError("method")

    def run(self, input_data: Input, ctx: BlockContext) -> Iterator[tuple[str, JsonValue]]:
        yield "out", input_data.item
