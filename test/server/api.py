"""What the tests of the API hold: a client, the parts behind it, and short ways to say what they expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from autogpt_server.execution.interfaces import QueueReport
from autogpt_server.server.context import ServerContext
from server.performing import RunPerformer

BASE_URL = "http://127.0.0.1"


@dataclass(slots=True)
class Told:
    """Stands where the other services are, and notes what they are told."""

    runs: list[tuple[str, int | None]] = field(default_factory=list[tuple[str, int | None]])
    """Run -> its priority if it was said to be new."""
    schedules: int = 0
    queue: QueueReport | None = None
    peers: dict[str, str] = field(default_factory=lambda: {"ExecutionManager": "ok"})

    async def run_created(self, run_id: str, priority: int) -> None:
        self.runs.append((run_id, priority))

    async def run_waits(self, run_id: str) -> None:
        self.runs.append((run_id, None))

    async def schedules_changed(self) -> None:
        self.schedules += 1

    async def states(self) -> Mapping[str, str]:
        return self.peers

    async def queue_report(self, run_ids: list[str]) -> QueueReport | None:
        return self.queue


@dataclass(slots=True)
class Api:
    """A client, and the parts behind it."""

    client: httpx.AsyncClient
    context: ServerContext
    told: Told

    async def post_graph(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """Store a graph that must be good."""
        response = await self.client.post("/graphs", json=graph)
        assert response.status_code == 200, response.text
        return response.json()

    async def execute(self, graph_id: str, run_input: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Start a run that must start; its id."""
        response = await self.client.post(f"/graphs/{graph_id}/execute", json=run_input or {}, **options)
        assert response.status_code == 200, response.text
        return response.json()["id"]

    @property
    def performer(self) -> RunPerformer:
        """What performs runs, and hints after each commit."""
        return RunPerformer(
            self.context.db,
            self.context.blocks,
            self.context.settings,
            lambda run_id, graph_id, seq: self.context.live.reached([(run_id, graph_id, seq)]),
        )


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a response that must be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["code"] == code
    assert document["detail"]
    return document
