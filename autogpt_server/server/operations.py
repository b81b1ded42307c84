"""What people do to a run that is there: cancel it, decide about an execution, send it a signal.

Each is committed as an entry in the run's inbox before it is answered, and applied by the run's owner in its turn; the answer shows the rows as they are
at the moment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Path, Response

from autogpt_server.data.models import NodeExecution, RunWithOutputs
from autogpt_server.data.requests import request_cancel, resolve_execution, send_signal
from autogpt_server.data.runs import get_node_execution, get_run
from autogpt_server.execution.events import Resolution
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.problems import SignalTooLarge
from autogpt_server.server.responses import problems
from autogpt_server.server.runs import RunIdPath, shown_outputs, shown_run
from autogpt_server.utils import faults, json

router = APIRouter(tags=["runs"], route_class=JsonRoute)

MAX_SIGNAL_BYTES = 256 * 1024
"""A signal's value waits in the row of its execution; what is larger is better stored elsewhere and named."""

NodeExecIdPath = Annotated[str, Path(max_length=200, description="The node execution's id.")]


class Decision(pydantic.BaseModel):
    """What to do about an execution whose outcome is not known."""

    action: Resolution = pydantic.Field(
        description="`retry`: call the block again; `skip`: keep what came and go on without the rest; `fail`: take it for failed.",
        examples=["retry"],
    )
    attempt: pydantic.StrictInt | None = pydantic.Field(
        None,
        ge=1,
        description="The attempt that is meant, as the node execution shows it; if left out, the latest. With it, a decision that is sent again "
        "cannot be taken for one about the next attempt.",
        examples=[1],
    )


class SignalBody(pydantic.BaseModel):
    """A signal for a node execution."""

    name: str = pydantic.Field(
        min_length=1, max_length=200, description="What the block waits for.", examples=["approved"]
    )
    key: str = pydantic.Field(
        min_length=1,
        max_length=255,
        description="The same key, with the same content, is one signal, however often it is sent.",
        examples=["8f14e45f"],
    )
    value: Any = pydantic.Field(
        None, description="What the block is called again with; any JSON.", examples=[{"by": "Ada"}]
    )


@router.post(
    "/executions/{run_id}/cancel",
    status_code=202,
    summary="Cancel a run",
    response_model=RunWithOutputs,
    responses=problems(404, 409, 422, 503),
)
async def cancel_run(context: Context, run_id: RunIdPath) -> Response:
    """The request is on record; the run is CANCELED once everything in it has stopped, its child runs included. Asked twice, it is one request."""
    await request_cancel(context.db, run_id, at=datetime.now(UTC))
    await _hint(context, run_id)
    run = shown_run(context, await get_run(context.db, run_id))
    return _accepted(RunWithOutputs.of(run, await shown_outputs(context, run_id)))


@router.post(
    "/executions/{run_id}/nodes/{node_exec_id}/resolve",
    status_code=202,
    summary="Decide about an interrupted node execution",
    response_model=NodeExecution,
    responses=problems(404, 409, 415, 422, 503),
)
async def resolve(context: Context, run_id: RunIdPath, node_exec_id: NodeExecIdPath, decision: Decision) -> Response:
    """An execution is INTERRUPTED when it is not known what it has done outside; the server does not guess. A decision is about one attempt."""
    await resolve_execution(
        context.db, run_id, node_exec_id, decision.action.value, attempt=decision.attempt, at=datetime.now(UTC)
    )
    await _hint(context, run_id)
    return await _shown_execution(context, run_id, node_exec_id)


@router.post(
    "/executions/{run_id}/nodes/{node_exec_id}/signal",
    status_code=202,
    summary="Send a signal to a node execution",
    response_model=NodeExecution,
    responses=problems(404, 409, 413, 415, 422, 503),
)
async def signal(context: Context, run_id: RunIdPath, node_exec_id: NodeExecIdPath, sent: SignalBody) -> Response:
    """Calls a WAITING execution again that waits for a signal of this name. One that does not wait yet keeps the signal until it does."""
    size = len(json.dumps_bytes(sent.value))
    if size > MAX_SIGNAL_BYTES:
        raise SignalTooLarge(
            f"The signal's value takes {size:,} bytes as JSON; at most {MAX_SIGNAL_BYTES:,} are allowed. Store it elsewhere and send its name."
        )
    await send_signal(
        context.db, run_id, node_exec_id, name=sent.name, key=sent.key, value=sent.value, at=datetime.now(UTC)
    )
    await _hint(context, run_id)
    return await _shown_execution(context, run_id, node_exec_id)


async def _hint(context: ServerContext, run_id: str) -> None:
    """The request is committed: whether the manager hears of it or not, it will be applied."""
    faults.reach("operations.hint.before")
    await context.hints.run_waits(run_id)


async def _shown_execution(context: ServerContext, run_id: str, node_exec_id: str) -> Response:
    return _accepted(context.presenter.execution(await get_node_execution(context.db, run_id, node_exec_id)))


def _accepted(document: pydantic.BaseModel) -> Response:
    return Response(document.model_dump_json(), 202, media_type="application/json")
