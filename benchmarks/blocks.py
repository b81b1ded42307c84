"""The trivial blocks that benchmarks run (setting BLOCK_MODULES=benchmarks.blocks).

`BenchPass` and `BenchItems` are pure and plain generators, so they are called in a thread. The two that sleep are idempotent, so that the row which
says that they run is committed before they are called: once as a plain generator in a thread, once as an async one on the loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockOutput,
    BlockSchema,
    Effects,
    OutputSchema,
    SchemaField,
)


class BenchPassBlock(Block):
    id = "7c0f3f0e-5b07-4a35-9a3c-1d0d6f0b0001"
    description = "Passes a text on."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        text: str = SchemaField(description="The text.")

    class Output(OutputSchema):
        output: str = SchemaField("", description="The same text.")

    input_schema = Input
    output_schema = Output
    test_input = {"text": "x"}
    test_output = [("output", "x")]

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "output", input_data.text


class BenchItemsBlock(Block):
    id = "7c0f3f0e-5b07-4a35-9a3c-1d0d6f0b0002"
    description = "Sends so many texts on, one by one."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        count: int = SchemaField(description="How many.")

    class Output(OutputSchema):
        item: str = SchemaField("", description="A text.")

    input_schema = Input
    output_schema = Output
    test_input = {"count": 2}
    test_output = [("item", "item 0"), ("item", "item 1")]

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        for number in range(input_data.count):
            yield "item", f"item {number}"


class _Sleep(Block):
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.IDEMPOTENT

    class Input(BlockSchema):
        seconds: float = SchemaField(0.2, description="How long.")

    class Output(OutputSchema):
        output: float = SchemaField(0.0, description="How long it was asked to sleep.")

    input_schema = Input
    output_schema = Output
    test_input = {"seconds": 0.0}
    test_output = [("output", 0.0)]


class BenchSleepBlock(_Sleep):
    id = "7c0f3f0e-5b07-4a35-9a3c-1d0d6f0b0003"
    description = "Sleeps in a thread."

    def run(self, input_data: _Sleep.Input, ctx: BlockContext) -> BlockOutput:
        time.sleep(input_data.seconds)
        yield "output", input_data.seconds


class BenchSleepAsyncBlock(_Sleep):
    id = "7c0f3f0e-5b07-4a35-9a3c-1d0d6f0b0004"
    description = "Sleeps on the loop."

    async def run(self, input_data: _Sleep.Input, ctx: BlockContext) -> AsyncIterator[tuple[str, Any]]:
        await asyncio.sleep(input_data.seconds)
        yield "output", input_data.seconds
