"""Runs: started, listed, read, deleted; and their node executions and values."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Body, Header, Path, Query, Response

from autogpt_server.data.block import BlockKind
from autogpt_server.data.graph import graph_exists, graph_state
from autogpt_server.data.models import NodeExecution, Run, RunWithOutputs
from autogpt_server.data.runs import (
    RunNotFound,
    StartedRun,
    create_run,
    delete_run,
    find_started_run,
    get_run,
    get_value,
    list_node_executions,
    list_runs,
    run_outputs,
)
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start, run_limits
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.graphs import GraphIdPath
from autogpt_server.server.paging import Paged, PagedExecutions
from autogpt_server.server.presenting import previewed
from autogpt_server.server.problems import InputTooLarge, ValueNotFound
from autogpt_server.server.responses import json_response, problems
from autogpt_server.server.shapes import StartedExecution, StartedRunDocument
from autogpt_server.utils import json
from autogpt_server.utils.ids import new_id

router = APIRouter(tags=["runs"], route_class=JsonRoute)

RunIdPath = Annotated[str, Path(max_length=200, description="The run's id.")]
Full = Annotated[bool, Query(description='Large values in full instead of as `{"$value", "size", "preview"}`.')]
RunInput = Annotated[
    dict[str, Any],
    Body(
        default_factory=dict,
        description="By the names of the graph's agent inputs; without such inputs, by the pins of its start nodes.",
        openapi_examples={"named": {"summary": "For an agent input called `who`", "value": {"who": "World"}}},
    ),
]

_RUNS = pydantic.TypeAdapter(list[Run])
_RUN = pydantic.TypeAdapter(RunWithOutputs)
_EXECUTIONS = pydantic.TypeAdapter(list[NodeExecution])


@router.post(
    "/graphs/{graph_id}/execute",
    summary="Start a run",
    responses=problems(404, 409, 413, 415, 422, 503),
)
async def execute_graph(
    context: Context,
    graph_id: GraphIdPath,
    run_input: RunInput,
    *,
    graph_version: Annotated[int | None, Query(ge=1, description="Instead of the active version.")] = None,
    priority: Annotated[int, Query(ge=-100, le=100, description="Runs with a higher one go first.")] = 0,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="The same key, with the same request, starts one run only, however often it is sent.",
        ),
    ] = None,
) -> StartedRunDocument:
    """Answers once the run is committed: from then on it is finished or explained, whatever dies."""
    request_hash = None
    if idempotency_key is not None:
        request_hash = _request_hash(run_input, graph_version, priority)
        known = await find_started_run(context.db, graph_id, idempotency_key, request_hash)
        if known is not None:
            return _started(known)
    topology = await context.topologies.get(
        graph_id, graph_version or (await graph_state(context.db, graph_id)).current
    )
    now = datetime.now(UTC)
    state = plan_start(topology, new_id(), run_input, new_id=new_id, limits=run_limits(context.settings), at=now)
    run = new_run(
        state,
        run_input,
        created_at=now,
        inline_value_bytes=context.settings.inline_value_bytes,
        priority=priority,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
    )
    if len(run.input) > context.settings.max_value_bytes:
        raise InputTooLarge(
            f"The input takes {len(run.input):,} characters as JSON; at most {context.settings.max_value_bytes:,} are allowed (MAX_VALUE_BYTES)."
        )
    started = await create_run(context.db, run)
    if started.is_new:
        context.metrics.runs_created.inc()
        await context.hints.run_waits(started.id, priority)
    return _started(started)


@router.get(
    "/graphs/{graph_id}/executions",
    summary="List the runs of a graph, newest first",
    response_model=list[Run],
    responses=problems(404, 422),
)
async def get_runs(
    context: Context,
    page: Paged,
    graph_id: GraphIdPath,
    status: Annotated[list[RunStatus] | None, Query(max_length=10, description="Only runs with one of these.")] = None,
) -> Response:
    """Runs of all versions of the graph, also of one that was deleted."""
    found = await list_runs(context.db, graph_id, limit=page.fetch, before_id=page.start(str), statuses=status or ())
    if not found and not await graph_exists(context.db, graph_id):
        await graph_state(context.db, graph_id)  # says which graph there is not
    runs = [shown_run(context, run) for run in page.cut(found, lambda run: run.id)]
    return await json_response(_RUNS, runs, page)


@router.get(
    "/graphs/{graph_id}/executions/{run_id}",
    summary="List the node executions of a run, oldest first",
    response_model=list[NodeExecution],
    responses=problems(404, 422),
)
async def get_node_executions(
    context: Context, page: PagedExecutions, graph_id: GraphIdPath, run_id: RunIdPath, *, full: Full = False
) -> Response:
    """Each with what entered it and, pin by pin, the values that it gave."""
    run = await get_run(context.db, run_id)
    if run.graph_id != graph_id:
        raise RunNotFound(f"The graph {graph_id} has no run {run_id}; it is a run of {run.graph_id}.")
    found = await list_node_executions(context.db, run_id, limit=page.fetch, after_id=page.start(str), full=full)
    executions = page.cut(found, lambda execution: execution.node_exec_id)
    return await json_response(_EXECUTIONS, [context.presenter.execution(entry) for entry in executions], page)


@router.get("/executions/{run_id}", summary="Read a run", response_model=RunWithOutputs, responses=problems(404, 422))
async def get_one_run(context: Context, run_id: RunIdPath, *, full: Full = False) -> Response:
    """The run, with what the graph's agent outputs gave so far: name -> values in order."""
    run = await get_run(context.db, run_id)
    output_blocks = [block.id for block in context.blocks.values() if block.kind is BlockKind.OUTPUT]
    outputs = await run_outputs(context.db, run_id, output_blocks, full=full)
    return await json_response(_RUN, RunWithOutputs.of(shown_run(context, run, full=full), outputs))


@router.delete(
    "/executions/{run_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a run",
    responses=problems(404, 409, 422),
)
async def delete_one_run(context: Context, run_id: RunIdPath) -> None:
    """Deletes an ended run with everything it left behind; refused while it is active."""
    await delete_run(context.db, run_id)


@router.get(
    "/values/{value_hash}",
    summary="Read a large value",
    response_class=Response,
    responses={
        200: {"description": "The value, as JSON.", "content": {"application/json": {"schema": {}}}},
        **problems(404, 422),
    },
)
async def get_large_value(
    context: Context,
    value_hash: Annotated[
        str, Path(pattern="^[0-9a-f]{64}$", description='The `"$value"` that is shown instead of it.')
    ],
) -> Response:
    """A value that is shown as a preview elsewhere, in full."""
    text = await get_value(context.db, value_hash)
    if text is None:
        raise ValueNotFound(f"There is no value {value_hash}; it may have been deleted with its runs.")
    return Response(text, media_type="application/json", headers={"Cache-Control": "private, immutable, max-age=86400"})


def _request_hash(run_input: dict[str, Any], graph_version: int | None, priority: int) -> str:
    """Two requests are the same if they ask for the same, however their JSON is written."""
    asked = {"input": run_input, "graph_version": graph_version, "priority": priority}
    return hashlib.sha256(json.dumps(_sorted(asked)).encode()).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, list):
        return [_sorted(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _started(started: StartedRun) -> StartedRunDocument:
    executions = [StartedExecution(id=execution_id, node_id=node_id) for execution_id, node_id in started.executions]
    return StartedRunDocument(id=started.id, executions=executions)


def shown_run(context: ServerContext, run: Run, *, full: bool = False) -> Run:
    """The run without the secrets in its input, and with previews of large values unless they are asked for in full."""
    shown = context.presenter.run_input(run.input)
    return run.model_copy(update={"input": shown if full else previewed(shown, context.settings.inline_value_bytes)})
