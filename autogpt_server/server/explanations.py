"""Why a run does not get on: gathers what is on record and what the manager says, and has it explained."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from fastapi import APIRouter, Response

from autogpt_server.data.graph import GraphNotFound, GraphVersionNotFound
from autogpt_server.data.progress import read_facts, read_family
from autogpt_server.data.runs import RunNotFound
from autogpt_server.execution.explain import Circumstances, Explainer, Explanation
from autogpt_server.execution.restore import static_pins
from autogpt_server.execution.topology import MissingBlock, Topology
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import OK, Context, ServerContext
from autogpt_server.server.responses import problems
from autogpt_server.server.runs import RunIdPath
from autogpt_server.server.system import database_state

router = APIRouter(tags=["runs"], route_class=JsonRoute)

MAX_DEPTH = 3
"""Child runs are explained so many levels deep; those below are named."""
MAX_RUNS = 20
"""How many runs one answer explains."""


@router.get(
    "/executions/{run_id}/explain",
    summary="Why a run does not get on",
    response_model=Explanation,
    responses=problems(404, 422),
)
async def explain_run(context: Context, run_id: RunIdPath) -> Response:
    """Everything that the run waits for or is doing, in words and in data; of the child runs that it waits for, too."""
    explanation = await _explain(context, run_id)
    return Response(explanation.model_dump_json(), media_type="application/json")


async def _explain(context: ServerContext, run_id: str) -> Explanation:
    family = await read_family(context.db, run_id, depth=MAX_DEPTH, limit=MAX_RUNS)
    topologies: dict[tuple[str, int], Topology] = {}
    for place in family:
        # A graph whose blocks are gone has runs all the same.
        with suppress(MissingBlock, GraphNotFound, GraphVersionNotFound):
            topologies[place.graph] = await context.topologies.get(*place.graph)
    is_active = bool(family) and not family[0].is_ended
    circumstances = Circumstances(
        queue=await context.hints.queue_report([place.run_id for place in family]) if is_active else None,
        database=state if is_active and (state := await database_state(context)) != OK else None,
    )
    pins = {place.run_id: static_pins(topologies[place.graph]) if place.graph in topologies else () for place in family}
    runs = await read_facts(context.db, pins)
    if run_id not in runs:
        raise RunNotFound(f"There is no run {run_id}.")
    return Explainer(runs, topologies, circumstances, datetime.now(UTC)).explain(run_id)
