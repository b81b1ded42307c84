"""What all requests that start a run have in common: the key under which they may be sent again, and the answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header

from autogpt_server.data.runs import StartedRun

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key, with the same request, starts one run only, however often it is sent.",
    ),
]


def started_document(started: StartedRun) -> dict[str, Any]:
    """The run, and the executions that begin it."""
    return {
        "id": started.id,
        "executions": [{"id": execution_id, "node_id": node_id} for execution_id, node_id in started.executions],
    }
