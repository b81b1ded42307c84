"""The block library: everything a node can do.

To add a block, write a class that derives from `autogpt_server.data.block.Block` in a module of its family and name the module in `_FAMILIES`;
a broken or doubled block stops the import with a message that says what to fix. Blocks get what they need from the server as an argument
(`ctx`) and never import it.
"""

import functools
import importlib
from collections.abc import Mapping
from types import ModuleType

from autogpt_server.blocks import agent, ai, basic, data, io, logic, reddit, text, time, web
from autogpt_server.blocks._registry import collect
from autogpt_server.data.block import Block, MalformedBlock

__all__ = ["get_block", "get_blocks"]

_FAMILIES = (agent, ai, basic, data, io, logic, reddit, text, time, web)

_BLOCKS = collect(_FAMILIES)


@functools.lru_cache(maxsize=8)
def get_blocks(modules: tuple[str, ...] = ()) -> Mapping[str, Block]:
    """Block id -> the block, in a stable order. Read-only; a block holds no state and is shared by all executions.

    `modules` are the names of modules whose blocks come after the library's own (setting BLOCK_MODULES). Raises `MalformedBlock` for one that
    cannot be imported or whose blocks are not fit.
    """
    return collect((*_FAMILIES, *map(_import, modules))) if modules else _BLOCKS


def get_block(block_id: str) -> Block | None:
    """The block of this id, or None if the library has none."""
    return _BLOCKS.get(block_id)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise MalformedBlock(
            f"The module {name!r} of BLOCK_MODULES cannot be imported: {type(error).__name__}: {error}"
        ) from error
