"""Request bodies: JSON and nothing else, read once, under the limits that the server promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from autogpt_server.server.context import context_of
from autogpt_server.server.problems import InvalidBody, RequestTooLarge, UnsupportedMediaType
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue

_LARGE_BODY_BYTES = 256 * 1024
"""Larger bodies are read in a thread, so that they do not hold up other requests."""


class _ParsedRequest(Request):
    """A request whose body has been read and parsed."""

    content: bytes = b""
    parsed: Any = None

    async def body(self) -> bytes:
        return self.content

    async def json(self) -> Any:
        return self.parsed


class JsonRoute(APIRoute):
    """A route whose body is checked JSON: no NaN, no half surrogates, no endless nesting; 413, 415 and 422 as problems."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_checked(request: Request) -> Response:
            parsed = _ParsedRequest(request.scope, request.receive)
            parsed.content = content = await _read(request, context_of(request).settings.max_request_bytes)
            if content:
                _check_media_type(request.headers.get("content-type"))
                try:
                    parsed.parsed = (
                        await asyncio.to_thread(json.loads, content)
                        if len(content) > _LARGE_BODY_BYTES
                        else json.loads(content)
                    )
                except InvalidJSONValue as error:
                    raise InvalidBody(f"The request's body cannot be taken: {error}.") from None
            return await handle(parsed)

        return handle_checked


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body. Raises `RequestTooLarge` as soon as that is known."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request's body is larger than {max_bytes:,} bytes, the most this server takes (MAX_REQUEST_BYTES)."
    )


def _check_media_type(content_type: str | None) -> None:
    if content_type is None:
        return
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    if message.get_content_maintype() != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise UnsupportedMediaType(
            f"The request's body must be JSON, not {message.get_content_type()}: send it with `Content-Type: application/json`."
        )
