"""Answers that are written straight to JSON, and how routes are documented."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Any, TypeVar

import pydantic
from fastapi import Response

from autogpt_server.server.paging import Page
from autogpt_server.server.problems import MEDIA_TYPE

T = TypeVar("T")

_LARGE_LIST = 200
"""Longer lists are written in a thread, so that they do not hold up other requests."""

_PROBLEM_WORDS = {
    400: "The request cannot be read.",
    404: "There is no such thing.",
    409: "Not possible in the present state.",
    412: "Somebody else has changed it since it was read.",
    413: "Larger than this server takes.",
    415: "The body is no JSON.",
    422: "The content is wrong; `errors` says where.",
    503: "Not possible at the moment: the server is stopping, or the database cannot be written.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the problems that it may answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": _PROBLEM_WORDS[status], "content": content} for status in statuses}


async def json_response(adapter: pydantic.TypeAdapter[T], value: T, page: Page | None = None) -> Response:
    """`value` as JSON, with the headers of `page`. It comes from our own code: it is written, not validated again."""
    is_large = isinstance(value, Sized) and len(value) > _LARGE_LIST
    content = await asyncio.to_thread(adapter.dump_json, value) if is_large else adapter.dump_json(value)
    link = page.response.headers.get("link") if page else None
    return Response(content, media_type="application/json", headers={"Link": link} if link else None)
