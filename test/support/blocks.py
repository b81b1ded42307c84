"""Running blocks in tests, without a server: the input is validated as the server does it, the outputs are checked as JSON."""

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from autogpt_server.data.block import BLOCK_TEST_TIME, Block, BlockContext, BlockKind, BlockTestCase, with_test_mock
from autogpt_server.utils import json
from autogpt_server.utils.settings import Settings


def context(settings: Settings | None = None, *, now: datetime = BLOCK_TEST_TIME) -> BlockContext:
    """A context as a worker would lend it."""
    return BlockContext(
        run_id="run",
        node_exec_id="node-exec",
        node_id="node",
        graph_id="graph",
        graph_version=1,
        attempt=1,
        idempotency_key="node-exec-1",
        settings=settings or Settings(),
        logger=logging.LoggerAdapter(logging.getLogger("test.block")),
        now=lambda: now,
    )


async def run_block(
    block: Block, input_data: Mapping[str, Any], ctx: BlockContext | None = None
) -> list[tuple[str, Any]]:
    """All outputs of one call, in order. Fails where a block yields on a pin it does not declare, or what is no JSON value."""
    outputs: list[tuple[str, Any]] = []
    pins = block.output_schema.pins()
    async for pin, value in _outputs(block, input_data, ctx or context()):
        assert pin in pins or block.kind is BlockKind.AGENT, (
            f"{block.name} yields on {pin!r}, which its output schema lacks"
        )
        json.check(value)
        outputs.append((pin, value))
    return outputs


async def _outputs(block: Block, input_data: Mapping[str, Any], ctx: BlockContext) -> AsyncIterator[tuple[str, Any]]:
    produced = block.run(block.input_schema.model_validate(dict(input_data)), ctx)
    if isinstance(produced, AsyncIterator):
        async for output in produced:
            yield output
    else:
        for output in produced:
            yield output


async def check_case(case: BlockTestCase) -> None:
    """Run one declared test: outputs must be those expected, in order, no more and no fewer."""
    outputs = await run_block(with_test_mock(case.block), case.input)
    assert [pin for pin, _ in outputs] == [pin for pin, _ in case.expected], f"{case.block.name}: {outputs!r}"
    for (pin, value), (_, expected) in zip(outputs, case.expected, strict=True):
        assert _meets(value, expected), f"{case.block.name}, pin {pin!r}: {value!r} is not {expected!r}"


def _meets(value: Any, expected: Any) -> bool:
    if isinstance(expected, type):
        return isinstance(value, expected)
    if callable(expected):
        return bool(expected(value))
    return type(value) is type(expected) and value == expected
