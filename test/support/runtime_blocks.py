"""Blocks for tests of the runtime, loaded into the real worker processes by BLOCK_MODULES."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
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
