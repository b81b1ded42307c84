"""Graphs: made, read, changed version by version, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Body, Header, Path, Response

from autogpt_server.data.graph import (
    GraphSummary,
    StoredGraph,
    add_version,
    archive_graph,
    create_graph,
    get_graph,
    graph_state,
    list_graphs,
    list_versions,
    set_active_version,
)
from autogpt_server.data.intake import AcceptedGraph, accept_graph, check_stored
from autogpt_server.data.models import Graph
from autogpt_server.data.problems import Problem
from autogpt_server.execution.editing import left_behind
from autogpt_server.execution.occurrences import GRAPH_UNAVAILABLE
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.paging import Paged
from autogpt_server.server.problems import ProblemEntry
from autogpt_server.server.responses import problems
from autogpt_server.server.shapes import GRAPH_EXAMPLE, ActiveVersion, GraphDocument
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.ids import new_id

router = APIRouter(tags=["graphs"], route_class=JsonRoute)

GraphIdPath = Annotated[str, Path(max_length=200, description="The graph's id.")]
VersionPath = Annotated[int, Path(ge=1, description="A version of the graph.")]
PostedGraph = Annotated[Graph, Body(openapi_examples={"greeting": {"summary": "Two nodes", "value": GRAPH_EXAMPLE}})]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="Go on only if the graph's `ETag` is still one of these; else 412."),
]

T = TypeVar("T")

_LARGE_GRAPH = 200
"""Graphs with more nodes are checked in a thread."""


@router.get("/graphs", summary="List the active versions of all graphs, newest graph first", responses=problems(422))
async def get_graphs(context: Context, page: Paged) -> list[GraphSummary]:
    """Each entry is the active version of a graph. `GET /graphs/{graph_id}` has the nodes and links."""
    return page.cut(await list_graphs(context.db, limit=page.fetch, before=page.start(str)), lambda graph: graph.id)


@router.post("/graphs", response_model=GraphDocument, summary="Store a new graph", responses=problems(413, 415, 422))
async def post_graph(context: Context, graph: PostedGraph) -> Response:
    """Checks the whole graph, stores it as version 1 of a new one and answers it with the ids it was given.

    Ids in the posted graph are local to it. Fields that the server does not know are kept. `metadata.key` names a node across versions: it is
    set where it is missing.
    """
    accepted = await _accept(context, graph)
    stored = await create_graph(context.db, accepted, context.blocks)
    return await _document(stored, accepted.warnings)


@router.get(
    "/graphs/{graph_id}",
    response_model=GraphDocument,
    summary="Read a graph's active version",
    responses=problems(404, 422),
)
async def get_active_graph(context: Context, graph_id: GraphIdPath) -> Response:
    """The `ETag` of the answer can be given as `If-Match` to a change."""
    return await _read(context, graph_id)


@router.put(
    "/graphs/{graph_id}",
    response_model=GraphDocument,
    summary="Store a new version of a graph",
    responses=problems(404, 412, 413, 415, 422),
)
async def put_graph(context: Context, graph_id: GraphIdPath, graph: PostedGraph, if_match: IfMatch = None) -> Response:
    """The new version is active unless the graph says `"is_active": false`. Runs go on with the version they began with."""
    state = await graph_state(context.db, graph_id)
    previous = await get_graph(context.db, graph_id, state.latest)
    accepted = await _accept(context, graph, previous.graph)
    stored = await add_version(context.db, graph_id, accepted, context.blocks, if_match=_tags(if_match))
    return await _document(stored, accepted.warnings)


@router.delete(
    "/graphs/{graph_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a graph",
    responses=problems(404, 409, 422),
)
async def delete_graph(context: Context, graph_id: GraphIdPath) -> None:
    """Takes the graph out of use and switches its schedules off; refused while runs of it are active. Its runs can still be read."""
    await archive_graph(context.db, graph_id, partial(left_behind, code=GRAPH_UNAVAILABLE, now=utc_now()))
    await context.hints.schedules_changed()


@router.get(
    "/graphs/{graph_id}/versions", summary="List a graph's versions, newest first", responses=problems(404, 422)
)
async def get_versions(context: Context, page: Paged, graph_id: GraphIdPath) -> list[GraphSummary]:
    """All versions that were ever stored, the inactive ones too."""
    found = await list_versions(context.db, graph_id, limit=page.fetch, before=page.start(int))
    return page.cut(found, lambda graph: graph.version)


@router.put(
    "/graphs/{graph_id}/versions/active",
    response_model=GraphDocument,
    summary="Choose the active version",
    responses=problems(404, 412, 415, 422),
)
async def put_active_version(
    context: Context, graph_id: GraphIdPath, active: ActiveVersion, if_match: IfMatch = None
) -> Response:
    """New runs, and schedules that follow the active version, use it from now on. Answers that version."""
    await set_active_version(context.db, graph_id, active.active_graph_version, if_match=_tags(if_match))
    await context.hints.schedules_changed()
    return await _read(context, graph_id, active.active_graph_version)


@router.get(
    "/graphs/{graph_id}/versions/{version:int}",
    response_model=GraphDocument,
    summary="Read a version of a graph",
    responses=problems(404, 422),
)
async def get_version(context: Context, graph_id: GraphIdPath, version: VersionPath) -> Response:
    """A version never changes; only whether it is the active one."""
    return await _read(context, graph_id, version)


async def _accept(context: ServerContext, graph: Graph, previous: Graph | None = None) -> AcceptedGraph:
    return await _maybe_in_thread(graph, lambda: accept_graph(graph, context.rules, new_id=new_id, previous=previous))


async def _read(context: ServerContext, graph_id: str, version: int | None = None) -> Response:
    stored = await get_graph(context.db, graph_id, version)
    graph = stored.graph
    warnings = await _maybe_in_thread(graph, lambda: check_stored(graph, context.rules))
    return await _document(stored, warnings)


async def _document(stored: StoredGraph, warnings: list[Problem]) -> Response:
    graph = stored.graph
    # It was checked when it was stored: it is written, not validated again.
    document = GraphDocument.model_construct(
        **{name: getattr(graph, name) for name in Graph.model_fields},
        created_at=stored.created_at,
        warnings=[ProblemEntry.of(warning) for warning in warnings],
    )
    document.__pydantic_extra__ = graph.unknown_fields
    content = await _maybe_in_thread(graph, document.model_dump_json)
    return Response(content, media_type="application/json", headers={"ETag": stored.state.etag})


async def _maybe_in_thread(graph: Graph, work: Callable[[], T]) -> T:
    """Do what takes as long as the graph is large, without holding up other requests."""
    return await asyncio.to_thread(work) if len(graph.nodes) > _LARGE_GRAPH else work()


def _tags(if_match: str | None) -> frozenset[str] | None:
    """The etags of an `If-Match` header; None if any will do. Quotes may be missing: people write the version's number."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = (tag.strip().removeprefix("W/") for tag in if_match.split(","))
    return frozenset(tag if tag.startswith('"') else f'"{tag}"' for tag in tags)
