"""A run as server-sent events: a snapshot, then every change as it is committed, until the run has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Annotated

import pydantic
from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from autogpt_server.data.live import Changes, RunState, run_state
from autogpt_server.data.models import NodeExecution, Run
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.problems import ServerDraining
from autogpt_server.server.responses import problems
from autogpt_server.server.runs import RunIdPath, shown_run
from autogpt_server.server.shapes import Snapshot
from autogpt_server.utils import faults

router = APIRouter(tags=["events"], route_class=JsonRoute)

HEARTBEAT_S = 15.0
"""Every so many seconds without an event a comment is sent, so that a connection that broke is noticed."""

_RETRY_MS = 1000
"""How long a client waits before it connects again."""

_EXAMPLE = (
    'id: 3\nevent: snapshot\ndata: {"run": {"id": "...", "status": "RUNNING"}, "nodes": []}\n\n'
    'id: 4\nevent: node\ndata: {"node_exec_id": "...", "status": "COMPLETED"}\n\n'
    'id: 4\nevent: run\ndata: {"id": "...", "status": "COMPLETED"}\n\n'
)


@router.get(
    "/executions/{run_id}/events",
    summary="Watch a run",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`snapshot` {run, nodes}, then `node` (a node execution) and `run` (the run) events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        204: {
            "description": "The run has ended, and `Last-Event-ID` is its last event: there is nothing more to come."
        },
        **problems(404, 422, 503),
    },
)
async def watch_run(
    context: Context,
    run_id: RunIdPath,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            max_length=100,
            description="The last id that was received: go on after it, without a snapshot.",
        ),
    ] = None,
) -> Response:
    """The `id` of an event is the run's `seq` up to which everything has been sent; to go on after it, nothing is missed.

    The stream ends after the `run` event of a run that has ended. Comments keep the connection alive.
    """
    if context.live.is_stopping:
        raise ServerDraining
    state = await run_state(context.db, run_id)
    after = _position(last_event_id, state)
    if after >= state.seq and state.is_ended:
        return Response(status_code=204)
    stream = EventStream(context, after)
    return StreamingResponse(
        _counted(context, with_heartbeat(stream.events(context.live.follow(run_id, after)), HEARTBEAT_S)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


class EventStream:
    """Turns batches of changes into the events of one client."""

    def __init__(self, context: ServerContext, after: int) -> None:
        self._context = context
        self._sent = after
        """The seq up to which everything has been sent."""
        self._run: Run | None = None

    async def events(self, batches: AsyncGenerator[Changes]) -> AsyncGenerator[bytes]:
        """The events as they go over the wire."""
        yield f"retry: {_RETRY_MS}\n\n".encode()
        try:
            async for changes in batches:
                faults.reach("server.stream.before")
                if self._sent == 0:
                    yield self._snapshot(changes)
                else:
                    for event in self._nodes(changes):
                        yield event
                self._sent = changes.seq
                if changes.is_last_page and (changes.ends_run or _differs(self._run, changes.run)):
                    self._run = changes.run
                    yield self._event("run", shown_run(self._context, changes.run), changes.seq)
        finally:
            await batches.aclose()

    def _snapshot(self, changes: Changes) -> bytes:
        """The run, and each node execution as it is; of a long run the first ones, and the others follow as `node` events."""
        latest = {node.node_exec_id: self._context.presenter.execution(node) for node in changes.nodes}
        self._run = changes.run
        nodes = [latest[node_exec_id] for node_exec_id in sorted(latest)]
        # Rows come from our own code: they are shown, not validated again.
        snapshot = Snapshot.model_construct(run=shown_run(self._context, changes.run), nodes=nodes)
        return self._event("snapshot", snapshot, changes.seq)

    def _nodes(self, changes: Changes) -> list[bytes]:
        events: list[bytes] = []
        done = self._sent
        for index, node in enumerate(changes.nodes):
            # Several executions may share a seq: only the last of them completes it.
            is_complete = index + 1 == len(changes.nodes) or changes.nodes[index + 1].seq > node.seq
            done = node.seq if is_complete else done
            events.append(self._event("node", self._context.presenter.execution(node), done))
        return events

    def _event(self, name: str, data: Run | NodeExecution | Snapshot, seq: int) -> bytes:
        return f"id: {seq}\nevent: {name}\ndata: {_dump(data)}\n\n".encode()


def _dump(data: pydantic.BaseModel) -> str:
    return data.model_dump_json()


def _differs(former: Run | None, run: Run) -> bool:
    """Whether the run itself has changed, apart from its counters, which each event of a node changes."""
    if former is None:
        return True
    ignored = {"seq", "stats"}
    return former.model_dump(exclude=ignored) != run.model_dump(exclude=ignored)


def _position(last_event_id: str | None, state: RunState) -> int:
    """The seq to go on after. An id that no event of this run can have had begins the stream anew."""
    if last_event_id is None or not (last_event_id.isascii() and last_event_id.isdigit()):
        return 0
    seq = int(last_event_id)
    return seq if seq <= state.seq else 0


async def with_heartbeat(events: AsyncGenerator[bytes], interval_s: float) -> AsyncIterator[bytes]:
    """The events, and a comment whenever there was none for so long."""
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=interval_s)
            if not done:
                yield b": still here\n\n"
                continue
            finished, pending = pending, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        await events.aclose()


async def _counted(context: ServerContext, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    gauge = context.metrics.streams.labels("sse")
    gauge.inc()
    try:
        async for event in events:
            yield event
    finally:
        gauge.dec()
