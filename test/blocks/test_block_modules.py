"""Blocks from modules that a setting names."""

import pytest

from autogpt_server.blocks import get_blocks
from autogpt_server.data.block import MalformedBlock
from support import runtime_blocks


def test_they_come_after_the_librarys_own() -> None:
    blocks = get_blocks((runtime_blocks.MODULE,))
    own = get_blocks()
    assert list(blocks)[: len(own)] == list(own)
    assert blocks[runtime_blocks.ScriptBlock.id].name == "ScriptBlock"
    assert runtime_blocks.ScriptBlock.id not in own
    assert get_blocks((runtime_blocks.MODULE,)) is blocks


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(
        MalformedBlock, match="'no_such_module' of BLOCK_MODULES cannot be imported: ModuleNotFoundError"
    ):
        get_blocks(("no_such_module",))


def test_a_block_that_is_there_already_is_refused() -> None:
    with pytest.raises(MalformedBlock, match="has the id"):
        get_blocks(("autogpt_server.blocks.basic",))
