"""Starting a run, and answering at once or at its end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response

from autogpt_server.data.block import BlockKind
from autogpt_server.data.graph import graph_state
from autogpt_server.data.runs import StartedRun, create_run, find_started_run
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start, run_limits
from autogpt_server.execution.topology import Topology
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.graphs import GraphIdPath
from autogpt_server.server.preferences import MAX_WAIT_S, preferred_wait_s
from autogpt_server.server.problems import InputTooLarge
from autogpt_server.server.responses import problems
from autogpt_server.server.runs import shown_outputs
from autogpt_server.server.shapes import StartedRunDocument
from autogpt_server.server.starting import IdempotencyKey, started_document
from autogpt_server.utils import faults, json
from autogpt_server.utils.ids import new_id

router = APIRouter(tags=["runs"], route_class=JsonRoute)

RunInput = Annotated[
    dict[str, Any],
    Body(
        default_factory=dict,
        description="By the names of the graph's agent inputs; without such inputs, by the pins of its start nodes.",
        openapi_examples={"named": {"summary": "For an agent input called `who`", "value": {"who": "World"}}},
    ),
]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a client asks to be run."""

    graph_id: str
    input: dict[str, Any]
    graph_version: int | None = None
    """None: the active one."""
    priority: int = 0
    idempotency_key: str | None = None

    def hash(self) -> str:
        """Two requests are the same if they ask for the same, however their JSON is written."""
        asked = {"input": self.input, "graph_version": self.graph_version, "priority": self.priority}
        return hashlib.sha256(json.canonical(asked).encode()).hexdigest()


@router.post(
    "/graphs/{graph_id}/execute",
    summary="Start a run",
    response_model=StartedRunDocument,
    responses={
        200: {
            "headers": {
                "Preference-Applied": {
                    "description": f"`wait=SECONDS`: how long the answer was held back at most (never more than {MAX_WAIT_S}).",
                    "schema": {"type": "string"},
                }
            }
        },
        **problems(404, 409, 413, 415, 422, 503),
    },
)
async def execute_graph(
    context: Context,
    graph_id: GraphIdPath,
    run_input: RunInput,
    *,
    graph_version: Annotated[int | None, Query(ge=1, description="Instead of the active version.")] = None,
    priority: Annotated[int, Query(ge=-100, le=100, description="Runs with a higher one go first.")] = 0,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[
        list[str] | None,
        Header(
            alias="Prefer",
            description="`wait=SECONDS` (RFC 7240): answer when the run has ended, or when that time is over, at most "
            f"{MAX_WAIT_S} s; the answer then has `status` too, and of an ended run `outputs` and `error`.",
        ),
    ] = None,
) -> Response:
    """Answers once the run is committed: from then on it is finished or explained, whatever dies. With `Prefer: wait=10` when it has ended."""
    request = RunRequest(graph_id, run_input, graph_version, priority, idempotency_key)
    wait_s = preferred_wait_s(prefer or ())
    if idempotency_key is not None:
        known = await find_started_run(context.db, graph_id, idempotency_key, request.hash())
        if known is not None:
            return await _answer(context, known, wait_s)
    topology = await context.topologies.get(
        graph_id, graph_version or (await graph_state(context.db, graph_id)).current
    )
    return await _start(context, topology, request, wait_s)


async def _start(context: ServerContext, topology: Topology, request: RunRequest, wait_s: int | None) -> Response:
    """Plan the run, commit it and tell the manager."""
    now = datetime.now(UTC)
    state = plan_start(topology, new_id(), request.input, new_id=new_id, limits=run_limits(context.settings), at=now)
    run = new_run(
        state,
        request.input,
        created_at=now,
        inline_value_bytes=context.settings.inline_value_bytes,
        priority=request.priority,
        idempotency_key=request.idempotency_key,
        request_hash=None if request.idempotency_key is None else request.hash(),
    )
    if len(run.input) > context.settings.max_value_bytes:
        raise InputTooLarge(
            f"The input takes {len(run.input):,} characters as JSON; at most {context.settings.max_value_bytes:,} are allowed (MAX_VALUE_BYTES)."
        )
    faults.reach("server.execute.planned")
    started = await create_run(context.db, run)
    faults.reach("server.execute.committed")
    if started.is_new:
        context.metrics.runs_created.inc()
        await context.hints.run_created(started.id, request.priority)
        faults.reach("server.execute.hinted")
    has_outputs = any(node.block.kind is BlockKind.OUTPUT for node in topology.nodes)
    return await _answer(context, started, wait_s, has_outputs=has_outputs)


async def _answer(
    context: ServerContext, started: StartedRun, wait_s: int | None, *, has_outputs: bool = True
) -> Response:
    """What the client is told: at once, or when the run has ended or `wait_s` seconds are over."""
    document = started_document(started)
    headers: dict[str, str] = {}
    if wait_s is not None:
        state = await context.live.ends.wait(started.id, wait_s, is_new=started.is_new)
        document["status"] = state.status.value
        if state.is_ended:
            document["outputs"] = await shown_outputs(context, started.id) if has_outputs else {}
            document["error"] = None if state.error is None else state.error.model_dump()
        headers["Preference-Applied"] = f"wait={wait_s}"
    return Response(json.dumps_bytes(document), media_type="application/json", headers=headers)
