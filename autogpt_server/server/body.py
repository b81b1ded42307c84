"""Request bodies: JSON and nothing else, read once, under the limits that the server promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from autogpt_server.server.problems import InvalidBody, UnsupportedMediaType
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue

_LARGE_BODY_BYTES = 256 * 1024
"""Larger bodies are read in a thread, so that they do not hold up other requests."""


class _ParsedRequest(Request):
    """A request whose body has been parsed."""

    parsed: Any = None

    async def json(self) -> Any:
        return self.parsed


class JsonRoute(APIRoute):
    """A route whose body is checked JSON: no NaN, no half surrogates, no endless nesting; 415 and 422 as problems."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_checked(request: Request) -> Response:
            parsed = _ParsedRequest(request.scope, request.receive)
            body = await parsed.body()
            if body:
                _check_media_type(parsed.headers.get("content-type"))
                try:
                    parsed.parsed = (
                        await asyncio.to_thread(json.loads, body) if len(body) > _LARGE_BODY_BYTES else json.loads(body)
                    )
                except InvalidJSONValue as error:
                    raise InvalidBody(f"The request's body cannot be taken: {error}.") from None
            return await handle(parsed)

        return handle_checked


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
