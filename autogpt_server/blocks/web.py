"""Blocks that talk to web servers."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import unquote_to_bytes, urlsplit

from autogpt_server.blocks._lazy import load
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockError,
    BlockSchema,
    EffectNotStarted,
    Effects,
    EffectUnknown,
    JsonValue,
    OutputSchema,
    SchemaField,
)
from autogpt_server.utils import json
from autogpt_server.utils.addresses import AddressPolicy, ForbiddenAddress

if TYPE_CHECKING:
    import httpx2

    from autogpt_server.utils.http import Answer


class HttpMethod(StrEnum):
    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    PATCH = "PATCH"
    OPTIONS = "OPTIONS"
    HEAD = "HEAD"


SAFE_METHODS = frozenset({HttpMethod.GET, HttpMethod.HEAD, HttpMethod.OPTIONS})
"""Methods that only read (RFC 9110, section 9.2.1)."""


async def _sample_answer(input_data: "SendWebRequestBlock.Input", _ctx: BlockContext) -> "Answer":
    """What the block's own test gets instead of the network."""
    import httpx2  # noqa: PLC0415

    from autogpt_server.utils.http import Answer  # noqa: PLC0415

    found = not input_data.url.endswith("/missing")
    body = (
        {"method": input_data.method.value, "sent": input_data.body} if found else {"detail": "there is no such item"}
    )
    return Answer(
        200 if found else 404,
        httpx2.Headers({"Content-Type": "application/json; charset=utf-8"}),
        json.dumps_bytes(body),
        httpx2.URL(input_data.url),
    )


class SendWebRequestBlock(Block):
    id = "6595ae1f-b924-42cb-9a41-551a0611c4b4"
    description = "Sends a request to a web address and passes the answer on."
    categories = frozenset({BlockCategory.OUTPUT})
    effects = Effects.UNSAFE
    """A PUT or a DELETE that comes twice would do the same again, but perhaps over what someone else did in between."""

    class Input(BlockSchema):
        url: str = SchemaField(description="The web address.", placeholder="https://api.example.com/items")
        method: HttpMethod = SchemaField(HttpMethod.POST, description="What to do there.")
        headers: dict[str, str] = SchemaField(default_factory=dict, description="Headers to send along.")
        json_format: bool = SchemaField(True, description="Whether the body is sent as JSON; else as a form.")
        body: Any = SchemaField(None, description="What to send: an object, another JSON value, or text.")
        files_name: str = SchemaField("file", description="The name of the form's field for files.", advanced=True)
        files: list[str] = SchemaField(
            default_factory=list,
            description="Files to upload, as data: addresses; the request is then a multipart form.",
            advanced=True,
        )

    class Output(OutputSchema):
        response: Any = SchemaField(
            None, description="The body of the answer: JSON as a value, text, or a data: address."
        )
        client_error: Any = SchemaField(
            None, description="The body of the answer, if its status is 4xx: the request was wrong."
        )
        server_error: Any = SchemaField(
            None, description="The body of the answer, if its status is 5xx: the server failed."
        )

    input_schema = Input
    output_schema = Output
    test_input = (
        {"url": "https://api.example.com/items", "method": "POST", "body": {"name": "pen"}},
        {"url": "https://api.example.com/missing", "method": "GET"},
    )
    test_output = (
        [("response", {"method": "POST", "sent": {"name": "pen"}})],
        [("client_error", {"detail": "there is no such item"})],
    )
    test_mock: ClassVar = {"send": _sample_answer}

    async def run(self, input_data: Input, ctx: BlockContext) -> AsyncIterator[tuple[str, JsonValue]]:
        answer = await self.send(input_data, ctx)
        yield _pin(answer.status), _value(answer, input_data.method)

    def effects_for(self, input_data: Mapping[str, JsonValue]) -> Effects:
        method = str(input_data.get("method", HttpMethod.POST))
        return Effects.IDEMPOTENT if method in SAFE_METHODS else Effects.UNSAFE

    async def send(self, input_data: Input, ctx: BlockContext) -> "Answer":
        """The answer to the request; the one method that touches the network."""
        await load("autogpt_server.utils.http")
        import httpx2  # noqa: PLC0415

        from autogpt_server.utils.http import BrokenRedirect, ResponseTooLarge, fetch, open_client  # noqa: PLC0415

        settings = ctx.settings
        changes = input_data.method not in SAFE_METHODS
        host = urlsplit(input_data.url).hostname or input_data.url
        try:
            async with (
                open_client(AddressPolicy.of(settings), timeout_s=settings.outgoing_timeout_s) as client,
                asyncio.timeout(settings.outgoing_timeout_s),
            ):
                request = _request(client, input_data, ctx)
                return await fetch(client, request, max_bytes=settings.outgoing_max_bytes)
        except ForbiddenAddress as error:
            raise BlockError(str(error)) from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise BlockError(f"{input_data.url!r} is no web address: {error}") from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise EffectNotStarted(f"{host} cannot be reached: {error}") from error
        except (ResponseTooLarge, BrokenRedirect) as error:
            raise (EffectUnknown if changes else BlockError)(str(error)) from error
        except (httpx2.HTTPError, TimeoutError) as error:
            timed_out = isinstance(error, TimeoutError | httpx2.TimeoutException)
            problem = f"did not answer within {settings.outgoing_timeout_s:g} s" if timed_out else f"broke off: {error}"
            if changes:
                raise EffectUnknown(f"{host} {problem}; the request may have been carried out.") from error
            raise BlockError(f"{host} {problem}.") from error


def _pin(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "response"


def _request(
    client: "httpx2.AsyncClient", input_data: SendWebRequestBlock.Input, ctx: BlockContext
) -> "httpx2.Request":
    request_headers = client.headers.copy()
    request_headers.update(input_data.headers)
    if input_data.method not in SAFE_METHODS:
        # Services that know this header carry a request out once, however often it comes
        # (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
        request_headers.setdefault("Idempotency-Key", ctx.idempotency_key)
    body: dict[str, Any] = {}
    if input_data.files:
        body["files"] = [
            (input_data.files_name, _upload(file, number)) for number, file in enumerate(input_data.files, 1)
        ]
        body["data"] = _form(input_data.body)
    elif input_data.body is not None and input_data.json_format:
        body["content"] = _json(input_data.body)
        request_headers.setdefault("Content-Type", "application/json")
    elif isinstance(input_data.body, str):
        body["content"] = input_data.body
    elif input_data.body is not None:
        body["data"] = _form(input_data.body)
    return client.build_request(input_data.method.value, input_data.url, headers=request_headers, **body)


def _json(body: JsonValue) -> bytes:
    """The body as JSON; text that is JSON already stays as it is."""
    if isinstance(body, str):
        with suppress(json.InvalidJSONValue):
            json.loads(body)
            return body.encode()
    return json.dumps_bytes(body)


def _form(body: JsonValue) -> dict[str, str]:
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise BlockError("A form needs an object as its body: field name -> value.")
    fields = cast("dict[str, JsonValue]", body)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


def _upload(file: str, number: int) -> tuple[str, bytes, str]:
    """File name, content and media type of a data: address (RFC 2397)."""
    head, comma, data = file.partition(",")
    if not (head.startswith("data:") and comma):
        raise BlockError(f"File {number} is not a data: address (data:text/plain;base64,...); others are not uploaded.")
    media_type, _, encoding = head.removeprefix("data:").rpartition(";")
    if encoding != "base64":
        return f"file{number}", unquote_to_bytes(data), head.removeprefix("data:") or "text/plain"
    try:
        return f"file{number}", base64.b64decode(data, validate=True), media_type or "text/plain"
    except binascii.Error:
        raise BlockError(f"File {number} is a data: address whose base64 is broken.") from None


def _value(answer: "Answer", method: HttpMethod) -> JsonValue:
    """The answer's body as a JSON value; its headers where the method asks for nothing else."""
    if not answer.body:
        return dict(answer.headers) if method in {HttpMethod.HEAD, HttpMethod.OPTIONS} else None
    media_type = answer.media_type
    if media_type == "application/json" or media_type.endswith("+json"):
        with suppress(json.InvalidJSONValue):  # Where a server only says JSON, its text tells more than a complaint.
            return json.loads(answer.body)
    try:
        text = answer.body.decode(answer.charset or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return f"data:{media_type or 'application/octet-stream'};base64,{base64.b64encode(answer.body).decode()}"
    return text.removeprefix("\ufeff")
