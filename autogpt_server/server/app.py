"""The FastAPI application, put together from its routers."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autogpt_server.server import (
    blocks,
    events,
    execute,
    explanations,
    graphs,
    openapi,
    operations,
    pages,
    problems,
    reruns,
    runs,
    schedules,
    system,
    websocket,
)
from autogpt_server.server.context import ServerContext
from autogpt_server.server.guard import Guard
from autogpt_server.server.metrics import Measured
from autogpt_server.server.problems import incident_response


def create_app(context: ServerContext) -> FastAPI:
    """The API over `context`, which the caller starts and stops."""
    app = FastAPI(
        title="autogpt_server",
        summary="Compose agents from typed blocks, run them durably, watch them live, schedule them.",
        description=openapi.DESCRIPTION,
        version=system.package_version(),
        openapi_tags=openapi.TAGS,
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Measured, metrics=context.metrics),
            Middleware(Guard, settings=context.settings),
            Middleware(_NoTracebacks),
        ],
        strict_content_type=False,
        redirect_slashes=False,
    )
    app.state.context = context
    problems.install(app)
    # Routes are tried in this order: what is asked for most comes first.
    for router in (
        execute,
        runs,
        graphs,
        blocks,
        schedules,
        events,
        operations,
        explanations,
        reruns,
        system,
        pages,
        websocket,
    ):
        app.include_router(router.router)
    openapi.install(app)
    return app


class _NoTracebacks:
    """ASGI middleware: what nobody foresaw becomes a problem with an incident id, and a traceback in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            response = incident_response(error, scope["path"])
            if has_begun:
                raise  # half an answer cannot be taken back: the connection breaks, and the client knows
            await response(scope, receive, send)
