"""Child runs: a graph performed for one execution of another run (rule D11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from autogpt_server.data.block import Block, BlockKind, CallGraph, ChildResult
from autogpt_server.data.db import Database
from autogpt_server.data.graph import GraphNotFound, GraphVersionNotFound
from autogpt_server.data.problems import InvalidGraph, InvalidRunInput
from autogpt_server.data.run_rows import ParentLink
from autogpt_server.data.runs import run_outputs, run_status
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.events import Close, Ended, Event, Suspended
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start
from autogpt_server.execution.state import Execution, Failure, FailureKind, RunState
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import MissingBlock
from autogpt_server.utils.settings import Settings


async def prepare_child(
    topologies: Topologies,
    settings: Settings,
    parent: RunState,
    execution: Execution,
    call: CallGraph,
    *,
    new_id: Callable[[], str],
    limits: RunLimits,
    at: datetime,
) -> list[Event]:
    """The events that bring the child run into being, or that say why it cannot be."""
    if parent.depth + 1 > settings.max_run_depth:
        message = f"Runs may start runs {settings.max_run_depth} deep at most (setting MAX_RUN_DEPTH)."
        failure = Failure("limit_exceeded", message, FailureKind.PERMANENT)
        return [Close(at, RunStatus.FAILED, failure), Ended(execution.id, at, failure)]
    try:
        if call.graph_version is None:
            topology = await topologies.get_active(call.graph_id)
        else:
            topology = await topologies.get(call.graph_id, call.graph_version)
        state = plan_start(
            topology, new_id(), call.run_input, new_id=new_id, limits=limits, at=at, depth=parent.depth + 1
        )
    except (GraphNotFound, GraphVersionNotFound, MissingBlock, InvalidGraph, InvalidRunInput) as error:
        problems = "".join(f" {problem.message}" for problem in getattr(error, "problems", ()))
        return [Ended(execution.id, at, Failure(error.code, f"{error}{problems}", FailureKind.PERMANENT))]
    child = new_run(
        state,
        call.run_input,
        created_at=at,
        inline_value_bytes=settings.inline_value_bytes,
        parent=ParentLink(run_id=parent.id, execution_id=execution.id, attempt=execution.attempt),
        limits=limits,
    )
    return [Suspended(execution.id, at, child=child)]


async def read_child_result(db: Database, blocks: Mapping[str, Block], run_id: str) -> ChildResult:
    """How a child run ended. One that was deleted since has no outputs."""
    ended = await run_status(db, run_id)
    if ended is None:
        return ChildResult(run_id, "FAILED", "The child run was deleted.", {})
    output_blocks = [block.id for block in blocks.values() if block.kind is BlockKind.OUTPUT]
    outputs = await run_outputs(db, run_id, output_blocks, full=True)
    return ChildResult(run_id, ended.status, ended.error, outputs)
