"""Runs: started, listed, read, deleted; and their node executions and values."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import pydantic
from fastapi import APIRouter, Path, Query, Response

from autogpt_server.data.graph import graph_exists, graph_state
from autogpt_server.data.models import NodeExecution, Run, RunWithOutputs
from autogpt_server.data.runs import (
    delete_run,
    get_run_with_outputs,
    get_value,
    list_node_executions,
    list_runs,
    run_outputs,
)
from autogpt_server.data.status import RunStatus
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.graphs import GraphIdPath
from autogpt_server.server.paging import Paged, PagedExecutions
from autogpt_server.server.presenting import previewed
from autogpt_server.server.problems import ValueNotFound
from autogpt_server.server.responses import json_response, problems

router = APIRouter(tags=["runs"], route_class=JsonRoute)

RunIdPath = Annotated[str, Path(max_length=200, description="The run's id.")]
Full = Annotated[bool, Query(description='Large values in full instead of as `{"$value", "size", "preview"}`.')]

RunT = TypeVar("RunT", bound=Run)

_RUNS = pydantic.TypeAdapter(list[Run])
_RUN = pydantic.TypeAdapter(RunWithOutputs)
_EXECUTIONS = pydantic.TypeAdapter(list[NodeExecution])


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
    found = await list_node_executions(
        context.db, run_id, limit=page.fetch, graph_id=graph_id, after_id=page.start(str), full=full
    )
    executions = page.cut(found, lambda execution: execution.node_exec_id)
    return await json_response(_EXECUTIONS, [context.presenter.execution(entry) for entry in executions], page)


@router.get("/executions/{run_id}", summary="Read a run", response_model=RunWithOutputs, responses=problems(404, 422))
async def get_one_run(context: Context, run_id: RunIdPath, *, full: Full = False) -> Response:
    """The run, with what the graph's agent outputs gave so far: name -> values in order."""
    run = await get_run_with_outputs(context.db, run_id, context.output_block_ids, full=full)
    return await json_response(_RUN, shown_run(context, run, full=full))


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


async def shown_outputs(context: ServerContext, run_id: str, *, full: bool = False) -> dict[str, list[Any]]:
    """What the graph's agent outputs gave so far: name -> values in order."""
    return await run_outputs(context.db, run_id, context.output_block_ids, full=full)


def shown_run(context: ServerContext, run: RunT, *, full: bool = False) -> RunT:
    """The run without the secrets in its input, and with previews of large values unless they are asked for in full."""
    shown = context.presenter.run_input(run.input)
    return run.model_copy(update={"input": shown if full else previewed(shown, context.settings.inline_value_bytes)})
