"""Shapes of requests and answers that belong to the API alone; those of the data are in `autogpt_server.data.models`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pydantic

from autogpt_server.data.models import ErrorInfo, Graph, NodeExecution, Run
from autogpt_server.data.status import RunStatus
from autogpt_server.server.problems import ProblemEntry

GRAPH_EXAMPLE: dict[str, Any] = {
    "name": "Greeting",
    "description": "Says hello to whoever it is given.",
    "nodes": [
        {
            "id": "who",
            "block_id": "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b",
            "input_default": {"name": "who", "value": "World"},
            "metadata": {},
        },
        {
            "id": "hello",
            "block_id": "db7d8f02-2f44-4c55-ab7a-eae0941f0c30",
            "input_default": {"format": "Hello, {{who}}!"},
            "metadata": {"timeout_s": 5},
        },
    ],
    "links": [
        {
            "source_id": "who",
            "source_name": "result",
            "sink_id": "hello",
            "sink_name": "values_#_who",
            "is_static": False,
        }
    ],
}


class BlockInfo(pydantic.BaseModel):
    """A block of the library."""

    id: str
    name: str
    description: str
    categories: list[str]
    inputSchema: dict[str, Any] = pydantic.Field(description="JSON schema of the input pins.")  # noqa: N815 - as clients know it
    outputSchema: dict[str, Any] = pydantic.Field(description="JSON schema of the output pins.")  # noqa: N815
    staticOutput: bool = pydantic.Field(description="Whether links from this block are static.")  # noqa: N815
    effects: str = pydantic.Field(description="What a call does to the world: `pure`, `idempotent` or `unsafe`.")


class GraphDocument(Graph):
    """A stored version of a graph."""

    created_at: datetime
    warnings: list[ProblemEntry] = pydantic.Field(
        default_factory=list[ProblemEntry], description="What is probably not meant, and what came to be wrong since."
    )


class ActiveVersion(pydantic.BaseModel):
    """Which version of a graph is the active one."""

    active_graph_version: pydantic.StrictInt = pydantic.Field(ge=1, examples=[2])


class StartedExecution(pydantic.BaseModel):
    """A first execution of a run."""

    id: str
    node_id: str


class StartedRunDocument(pydantic.BaseModel):
    """A run that has been committed: it will be performed, whatever happens to the server."""

    id: str = pydantic.Field(description="The run's id.")
    executions: list[StartedExecution] = pydantic.Field(description="The executions it begins with.")
    status: RunStatus | None = pydantic.Field(
        None, description="With `Prefer: wait` only: how the run is now, which may be that it has not ended in time."
    )
    outputs: dict[str, list[Any]] | None = pydantic.Field(
        None, description="With `Prefer: wait`, of a run that has ended: what its agent outputs gave, name -> values."
    )
    error: ErrorInfo | None = pydantic.Field(
        None, description="With `Prefer: wait`, of a run that has ended: why it FAILED; null if it did not."
    )


class Health(pydantic.BaseModel):
    """The process answers."""

    status: str = "ok"
    version: str


class Readiness(pydantic.BaseModel):
    """Whether the server can do its work, part by part."""

    status: str = pydantic.Field(description="`ready`, or `degraded` where requests are taken but will wait.")
    checks: dict[str, str]


class Snapshot(pydantic.BaseModel):
    """The first event of a stream: the run, and its node executions so far, oldest first."""

    run: Run
    nodes: list[NodeExecution]
