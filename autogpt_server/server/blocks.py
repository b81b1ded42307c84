"""The block library: listed, and each block callable by itself."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Body, Path, Response

from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context
from autogpt_server.server.problems import BlockNotFound
from autogpt_server.server.responses import json_response, problems
from autogpt_server.server.shapes import BlockInfo

router = APIRouter(tags=["blocks"], route_class=JsonRoute)

_OUTPUTS = pydantic.TypeAdapter(list[dict[str, Any]])


@router.get("/blocks", summary="List the block library", response_model=list[BlockInfo])
async def get_blocks(context: Context) -> Response:
    """Every block that a node can use, with the JSON schemas of its pins. Every block has an output pin `error`."""
    return Response(context.block_list, media_type="application/json")


@router.post(
    "/blocks/{block_id}/execute",
    summary="Call a block",
    response_model=list[dict[str, Any]],
    responses=problems(404, 413, 415, 422),
)
async def execute_block(
    context: Context,
    block_id: Annotated[str, Path(max_length=200, description="The block's id.")],
    block_input: Annotated[
        dict[str, Any],
        Body(
            description="Input pin -> value; dynamic pins and older names are understood.",
            openapi_examples={"any": {"summary": "For StoreValueBlock", "value": {"input": "Hello"}}},
        ),
    ],
) -> Response:
    """Calls the block once, here and now, and answers what it yields: `{pin: value}` in order. Nothing is stored."""
    block = context.blocks.get(block_id)
    if block is None:
        raise BlockNotFound(f"There is no block {block_id}; GET /blocks lists them.")
    return await json_response(_OUTPUTS, await context.caller.call(block, block_input))
