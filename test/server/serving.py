"""The API on a port of this machine, on the test's own event loop: for what has to go over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from autogpt_server.server.app import create_app
from autogpt_server.server.context import ServerContext
from autogpt_server.server.http_server import HttpServer, http_config
from autogpt_server.utils import json
from autogpt_server.utils.sockets import listen


@asynccontextmanager
async def serving(context: ServerContext) -> AsyncGenerator[str]:
    """Serve; yields `127.0.0.1:port`."""
    listener = listen("127.0.0.1", 0, port_setting="PORT", host_setting="HOST")
    server = HttpServer(http_config(create_app(context), grace_s=1))
    task = asyncio.create_task(server.serve([listener]))
    await server.wait_started(task)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await context.live.stop()
        server.should_exit = True
        await task
        listener.close()


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    id: int
    name: str
    data: dict[str, Any]


async def events(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a stream, comments left out."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            data = json.loads(fields["data"])
            assert isinstance(data, dict)
            yield Event(int(fields["id"]), fields["event"], data)
            fields = {}
