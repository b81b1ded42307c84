"""Every block of the library, tested by the data it declares: one test per block and input, as `test_block[StoreValueBlock-0]`."""

import pytest

from autogpt_server.blocks import get_blocks
from autogpt_server.data.block import Block, block_test_cases
from support.blocks import check_case


def _test_ids() -> list[object]:
    return [
        pytest.param(block, index, id=f"{block.name}-{index}")
        for block in get_blocks().values()
        for index in range(_number_of_inputs(block))
    ]


def _number_of_inputs(block: Block) -> int:
    # A block that declares no test gets one all the same: it fails, and says what to declare.
    given = getattr(block, "test_input", ())
    return 1 if hasattr(given, "keys") else max(len(given), 1)


@pytest.mark.parametrize(("block", "index"), _test_ids())
async def test_block(block: Block, index: int) -> None:
    await check_case(block_test_cases(block)[index])
