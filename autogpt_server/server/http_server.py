"""uvicorn on an event loop that belongs to somebody else."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from autogpt_server.server.websocket import MAX_MESSAGE_BYTES


def http_config(app: ASGIApp, *, grace_s: float) -> uvicorn.Config:
    """How the API is served. `grace_s`: how long requests under way may take once the server stops."""
    # Log lines of uvicorn go where all others go, and requests are logged with their route by the app itself.
    settings: dict[str, Any] = {
        "log_config": None,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="websockets-sansio",  # the one that waits for slow clients
        ws_max_size=MAX_MESSAGE_BYTES,
        timeout_graceful_shutdown=max(1, int(grace_s)),
        **settings,
    )


class HttpServer(uvicorn.Server):
    """A server whose signals are the process's business, and that says when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._has_started = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit` is set, then finish what is being answered."""
        await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._has_started.set()

    async def wait_started(self, serving: asyncio.Task[None]) -> None:
        """Wait until connections are taken; raise what ended `serving`, the task that runs `serve`, instead."""
        started = asyncio.create_task(self._has_started.wait())
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if serving.done():
            await serving
