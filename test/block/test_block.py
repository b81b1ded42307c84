"""Every block of the library, tested by the data it declares: one test per block and input, as `test_block[StoreValueBlock-0]`."""

import pytest

from autogpt_server.blocks import get_blocks
from autogpt_server.data.block import Block, Effects, block_test_cases, with_test_mock
from support.blocks import check_case, run_block


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
    case = block_test_cases(block)[index]
    await check_case(case)
    if block.effects is Effects.PURE:
        # It may run again after a crash, and must then yield the same (rule D4).
        double = with_test_mock(block)
        assert await run_block(double, case.input) == await run_block(double, case.input)
