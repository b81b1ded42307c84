"""Blocks for tests of the API, each of which does one thing that a block may do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

from autogpt_server.blocks import get_blocks
from autogpt_server.data.block import Block, BlockContext, BlockError, BlockOutput, BlockSchema, Effects, SchemaField


class _Sample(Block):
    description = "A sample."
    effects = Effects.PURE


class Repeat(_Sample):
    id = "22222222-0000-4000-8000-000000000001"

    class Input(BlockSchema):
        value: Any = SchemaField()
        times: int = SchemaField(2)
        api_key: str = SchemaField("", secret=True)

    class Output(BlockSchema):
        item: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        for _ in range(input_data.times):
            yield "item", input_data.value


class Fail(_Sample):
    id = "22222222-0000-4000-8000-000000000002"

    class Input(BlockSchema):
        how: str = SchemaField()

    class Output(BlockSchema):
        item: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "item", "before"
        match input_data.how:
            case "error":
                raise BlockError("out of milk")
            case "crash":
                raise ZeroDivisionError("1/0")
            case "exit":
                raise SystemExit(3)
            case "nan":
                yield "item", float("nan")
            case "pin":
                yield "itme", 1
            case _:
                yield "error", "said on the error pin"


class Stuck(_Sample):
    """Never ends by itself, in a thread."""

    id = "22222222-0000-4000-8000-000000000003"
    timeout_s = 0.2
    freed = threading.Event()

    class Input(BlockSchema):
        pass

    class Output(BlockSchema):
        item: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        self.freed.wait(30)
        yield "item", 1


class StuckAsync(_Sample):
    """Never ends by itself, on the loop."""

    id = "22222222-0000-4000-8000-000000000004"
    timeout_s = 0.2

    class Input(BlockSchema):
        pass

    class Output(BlockSchema):
        item: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output

    async def run(self, input_data: Input, ctx: BlockContext) -> AsyncIterator[tuple[str, Any]]:
        yield "item", 1
        await asyncio.Event().wait()


class Flood(_Sample):
    """Yields without end."""

    id = "22222222-0000-4000-8000-000000000005"

    class Input(BlockSchema):
        pass

    class Output(BlockSchema):
        item: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        while True:
            yield "item", "x" * 1000


class Touch(_Sample):
    """Touches the outside, it says."""

    id = "22222222-0000-4000-8000-000000000006"
    effects = Effects.UNSAFE

    class Input(BlockSchema):
        pass

    class Output(BlockSchema):
        item: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "item", 1


SAMPLES = (Repeat(), Fail(), Stuck(), StuckAsync(), Flood(), Touch())
BLOCKS: Mapping[str, Block] = {**get_blocks(), **{block.id: block for block in SAMPLES}}
AGENT_INPUT = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
AGENT_OUTPUT = "363ae599-353e-4804-937e-b2ee3cef3da4"
STORE_VALUE = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"


def repeat_graph(**defaults: Any) -> dict[str, Any]:
    """A graph whose start node repeats `value`; its items go to an agent output called `out`."""
    return {
        "name": "repeat",
        "nodes": [
            {"id": "r", "block_id": Repeat.id, "input_default": defaults},
            {"id": "o", "block_id": AGENT_OUTPUT, "input_default": {"name": "out"}},
        ],
        "links": [{"source_id": "r", "source_name": "item", "sink_id": "o", "sink_name": "value"}],
    }


def touching_graph() -> dict[str, Any]:
    """A graph of one node that touches the outside."""
    return {"name": "touch", "nodes": [{"id": "t", "block_id": Touch.id}], "links": []}


def named_graph(default: Any = None) -> dict[str, Any]:
    """A graph with an agent input `topic` that leads straight to the agent output `out`."""
    return {
        "name": "named",
        "nodes": [
            {"id": "in", "block_id": AGENT_INPUT, "input_default": {"name": "topic", "value": default}},
            {"id": "out", "block_id": AGENT_OUTPUT, "input_default": {"name": "out"}},
        ],
        "links": [{"source_id": "in", "source_name": "result", "sink_id": "out", "sink_name": "value"}],
    }
