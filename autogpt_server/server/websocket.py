"""`/ws`: what happens in the runs of chosen graphs, one message for each change of a node execution.

A client sends `{"method": "subscribe" | "unsubscribe", "data": {"graph_id": ...}}` and is answered `{method, success, error, data}`; from then on
`{"method": "execution_event", "data": <node execution>}` arrives for every change that is committed in any run of the graph.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Literal

import pydantic
from fastapi import APIRouter, WebSocket
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from autogpt_server.data.graph import graph_exists
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.runs import RunNotFound
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue
from autogpt_server.utils.logging import get_logger

router = APIRouter()

MAX_MESSAGE_BYTES = 64 * 1024
"""Of what clients send."""
MAX_SUBSCRIPTIONS = 100
_INTERNAL_ERROR = 1011
_SERVICE_RESTART = 1012

log = get_logger(__name__)


class GraphChoice(pydantic.BaseModel):
    """The graph that a subscription is about."""

    graph_id: str = pydantic.Field(min_length=1, max_length=200)


class ClientMessage(pydantic.BaseModel):
    """What a client may say."""

    method: Literal["subscribe", "unsubscribe", "heartbeat"]
    data: Any = None


@router.websocket("/ws")
async def watch_graphs(websocket: WebSocket, context: Context) -> None:
    """Serve one client until it leaves."""
    await websocket.accept()
    gauge = context.metrics.streams.labels("websocket")
    gauge.inc()
    session = _Session(websocket, context)
    try:
        await session.serve()
    finally:
        gauge.dec()
        await session.close()


class _Session:
    """One client and its subscriptions."""

    def __init__(self, websocket: WebSocket, context: ServerContext) -> None:
        self._websocket = websocket
        self._context = context
        self._sending = asyncio.Lock()
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer messages until the client leaves or the server stops."""
        with suppress(WebSocketDisconnect):
            while not self._context.live.is_stopping:
                await self._answer(await self._websocket.receive())

    async def close(self) -> None:
        """End all subscriptions."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _answer(self, received: Message) -> None:
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1000))
        method: str | None = None
        try:
            content = json.loads(received.get("text") or received.get("bytes") or "")
            if isinstance(content, dict) and isinstance(content.get("method"), str):
                method = str(content["method"])
            message = ClientMessage.model_validate(content)
            if message.method == "heartbeat":
                await self._send({"method": "heartbeat", "success": True, "error": None, "data": "pong"})
                return
            graph_id = GraphChoice.model_validate(message.data).graph_id
        except InvalidJSONValue as error:
            await self._refuse(method, str(error))
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            await self._refuse(method, f"{'.'.join(map(str, first['loc'])) or 'message'}: {first['msg']}")
        else:
            if message.method == "subscribe":
                await self._subscribe(graph_id)
            else:
                await self._unsubscribe(graph_id)

    async def _subscribe(self, graph_id: str) -> None:
        if graph_id not in self._watches:
            if len(self._watches) >= MAX_SUBSCRIPTIONS:
                await self._refuse(
                    "subscribe", f"One connection can watch {MAX_SUBSCRIPTIONS} graphs; open another one."
                )
                return
            if not await graph_exists(self._context.db, graph_id):
                await self._refuse("subscribe", f"There is no graph {graph_id}.")
                return
            watching = asyncio.Event()
            self._watches[graph_id] = asyncio.create_task(self._watch(graph_id, watching), name=f"watch {graph_id}")
            await watching.wait()
        await self._send({"method": "subscribe", "success": True, "error": None, "data": {"graph_id": graph_id}})

    async def _unsubscribe(self, graph_id: str) -> None:
        watch = self._watches.pop(graph_id, None)
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await self._send({"method": "unsubscribe", "success": True, "error": None, "data": {"graph_id": graph_id}})

    async def _watch(self, graph_id: str, watching: asyncio.Event) -> None:
        """Forward every change in the graph's runs. A defect ends the connection: the client must not wait for what will not come."""
        code = _SERVICE_RESTART
        try:
            async with self._context.live.watch_graph(graph_id) as runs, asyncio.TaskGroup() as forwarding:
                watching.set()
                async for run_id, after in runs:
                    forwarding.create_task(self._forward(run_id, after))
        except* (WebSocketDisconnect, RuntimeError):
            log.debug("websocket client is gone", graph_id=graph_id)
        except* Exception:
            log.exception("websocket subscription failed", graph_id=graph_id)
            code = _INTERNAL_ERROR
        finally:
            watching.set()
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._websocket.close(code)

    async def _forward(self, run_id: str, after: int) -> None:
        with suppress(RunNotFound):
            async for changes in self._context.live.follow(run_id, after):
                for node in changes.nodes:
                    await self._send_event(self._context.presenter.execution(node))

    async def _refuse(self, method: str | None, error: str) -> None:
        await self._send({"method": method, "success": False, "error": error, "data": None})

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_text(json.dumps(message))

    async def _send_event(self, node: NodeExecution) -> None:
        async with self._sending:
            await self._websocket.send_text(f'{{"method":"execution_event","data":{node.model_dump_json()}}}')
