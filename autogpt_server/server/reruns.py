"""Running an ended run again from some of its nodes on."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self

import pydantic
from fastapi import APIRouter, Response

from autogpt_server.data.former import FormerRun, Outcomes, plan_from
from autogpt_server.data.run_rows import NewRun
from autogpt_server.data.runs import StartedRun, find_started_run, get_run
from autogpt_server.execution.rerun import Scope, choose_nodes, plan_rerun
from autogpt_server.execution.start import run_limits
from autogpt_server.execution.topology import Topology
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.responses import problems
from autogpt_server.server.runs import RunIdPath
from autogpt_server.server.shapes import StartedRunDocument
from autogpt_server.server.starting import IdempotencyKey, started_document
from autogpt_server.utils import faults, json
from autogpt_server.utils.ids import new_id

router = APIRouter(tags=["runs"], route_class=JsonRoute)

MAX_NODES = 1000
"""How many nodes a request may name."""
LARGE_RUN = 10_000
"""Runs with more node executions are taken over one at a time: with 100,000 it takes 150 MB and ten seconds."""

NodeId = Annotated[str, pydantic.Field(min_length=1, max_length=200)]


class RerunBody(pydantic.BaseModel):
    """Where an ended run is to begin again."""

    node_id: NodeId | None = pydantic.Field(
        None, description="The node, by its id in the run's version of the graph or in `graph_version`."
    )
    node_ids: list[NodeId] = pydantic.Field(
        default_factory=list[str], max_length=MAX_NODES, description="Several nodes, instead of one or beside it."
    )
    graph_version: pydantic.StrictInt | None = pydantic.Field(
        None, ge=1, description="A repaired version of the graph; the run's own, if left out."
    )

    @pydantic.model_validator(mode="after")
    def _names_a_node(self) -> Self:
        if not self.chosen:
            raise ValueError("name a node in node_id, or several in node_ids")
        return self

    @property
    def chosen(self) -> list[str]:
        """The nodes, each once."""
        return sorted({*self.node_ids, *([] if self.node_id is None else [self.node_id])})


@dataclass(frozen=True, slots=True)
class RerunRequest:
    """What a client asks to be run again."""

    run_id: str
    chosen: list[str]
    graph_version: int | None = None
    idempotency_key: str | None = None

    def hash(self) -> str:
        """Two requests are the same if they ask for the same, however it is written."""
        asked = {"rerun_of": self.run_id, "node_ids": self.chosen, "graph_version": self.graph_version}
        return hashlib.sha256(json.canonical(asked).encode()).hexdigest()


@router.post(
    "/executions/{run_id}/rerun",
    summary="Run an ended run again from some of its nodes on",
    response_model=StartedRunDocument,
    responses=problems(404, 409, 415, 422, 503),
)
async def rerun(
    context: Context,
    run_id: RunIdPath,
    body: RerunBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Starts a new run. The nodes, and all that they reach, run again; what came of the others is kept, and not done again.

    So is what the run left undone when it was ended, and what the graph has gained since. Answers once the new run is committed, with the
    executions that begin it.
    """
    run = await get_run(context.db, run_id)
    request = RerunRequest(run_id, body.chosen, body.graph_version, idempotency_key)
    if idempotency_key is not None:
        known = await find_started_run(context.db, run.graph_id, idempotency_key, request.hash())
        if known is not None:
            return _answer(known)
    topology = await context.topologies.get(run.graph_id, body.graph_version or run.graph_version)
    is_large = run.stats.executions > LARGE_RUN
    async with context.large_reruns if is_large else nullcontext():
        return await _start(context, request, topology, is_large=is_large)


async def _start(context: ServerContext, request: RerunRequest, topology: Topology, *, is_large: bool) -> Response:
    def plan(former: FormerRun, scope: Scope, outcomes: Outcomes) -> NewRun:
        with without_collector() if is_large else nullcontext():
            return _plan(context, request, scope, former, outcomes)

    planned = await plan_from(
        context.db,
        request.run_id,
        topology.version,
        lambda found, nodes: choose_nodes(topology, nodes, found, request.chosen),
        plan,
    )
    faults.reach("server.rerun.planned")
    started = await context.hidden.create(planned)
    faults.reach("server.rerun.committed")
    if started.is_new:
        context.metrics.runs_created.inc()
        await context.hints.run_created(started.id, planned.priority)
    return _answer(started)


def _plan(context: ServerContext, request: RerunRequest, scope: Scope, former: FormerRun, outcomes: Outcomes) -> NewRun:
    return plan_rerun(
        scope,
        former,
        outcomes,
        new_id(),
        new_id=new_id,
        limits=run_limits(context.settings),
        at=datetime.now(UTC),
        inline_value_bytes=context.settings.inline_value_bytes,
        idempotency_key=request.idempotency_key,
        request_hash=None if request.idempotency_key is None else request.hash(),
    )


@contextmanager
def without_collector() -> Generator[None]:
    """Look for no garbage meanwhile: among very many new objects each look finds nothing, and holds all threads up for 0.05 to 0.9 s. Not to be nested."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _answer(started: StartedRun) -> Response:
    return Response(json.dumps_bytes(started_document(started)), media_type="application/json")
