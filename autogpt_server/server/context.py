"""What every request handler works with; made once per process, or per test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from autogpt_server.data.block import Block, BlockKind
from autogpt_server.data.db import Database
from autogpt_server.data.hidden import HiddenRuns
from autogpt_server.data.intake import IntakeRules
from autogpt_server.data.validation import GraphLimits
from autogpt_server.execution.interfaces import QueueReport
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import NodeSettings
from autogpt_server.server.block_call import BlockCaller
from autogpt_server.server.live import LiveRuns
from autogpt_server.server.metrics import Metrics
from autogpt_server.server.presenting import Presenter
from autogpt_server.utils import json
from autogpt_server.utils.settings import Settings

OK = "ok"
"""The state of a part that does its work."""


class Peers(Protocol):
    """The other services. Nothing depends on their hearing what they are told: it is committed, and they look for themselves."""

    async def run_created(self, run_id: str, priority: int) -> None:
        """A run has been committed. Never raises."""
        ...

    async def run_waits(self, run_id: str) -> None:
        """Something has been committed for a run: it may have to be taken up. Never raises."""
        ...

    async def schedules_changed(self) -> None:
        """A schedule was added, changed or removed. Never raises."""
        ...

    async def states(self) -> Mapping[str, str]:
        """Service -> `ok`, or what it is doing instead."""
        ...

    async def queue_report(self, run_ids: list[str]) -> QueueReport | None:
        """Where these runs stand with the manager; None if it does not answer in time. Never raises."""
        ...


class NoPeers:
    """For a server without the other services: whatever is committed waits for them."""

    async def run_created(self, run_id: str, priority: int) -> None:
        pass

    async def run_waits(self, run_id: str) -> None:
        pass

    async def schedules_changed(self) -> None:
        pass

    async def states(self) -> Mapping[str, str]:
        return {}

    async def queue_report(self, run_ids: list[str]) -> QueueReport | None:  # noqa: ARG002
        return None


@dataclass
class ServerContext:
    """The parts that the API is made of."""

    settings: Settings
    db: Database
    blocks: Mapping[str, Block]
    live: LiveRuns
    hints: Peers = field(default_factory=NoPeers)
    metrics: Metrics = field(default_factory=Metrics)
    topologies: Topologies = field(init=False)
    rules: IntakeRules = field(init=False)
    presenter: Presenter = field(init=False)
    caller: BlockCaller = field(init=False)
    hidden: HiddenRuns = field(init=False)
    large_reruns: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a large run is taken over by a re-run."""

    def __post_init__(self) -> None:
        self.topologies = Topologies(self.db, self.blocks)
        self.hidden = HiddenRuns(self.db)
        self.caller = BlockCaller(self.settings)
        self.presenter = Presenter(self.blocks)
        self.rules = IntakeRules(
            blocks=self.blocks,
            limits=GraphLimits.of(self.settings),
            max_bytes=self.settings.max_graph_bytes,
            node_settings=NodeSettings,
        )

    @cached_property
    def block_list(self) -> bytes:
        """The library as `GET /blocks` answers it; it does not change while the server runs."""
        return json.dumps_bytes([block.describe() for block in self.blocks.values()])

    @cached_property
    def output_block_ids(self) -> list[str]:
        """The blocks whose nodes are a graph's outputs."""
        return [block.id for block in self.blocks.values() if block.kind is BlockKind.OUTPUT]


def context_of(connection: HTTPConnection) -> ServerContext:
    """The context of the app that serves this connection."""
    context: ServerContext = connection.app.state.context
    return context


async def get_context(connection: HTTPConnection) -> ServerContext:
    """`context_of`, as a dependency: async, because FastAPI calls plain functions in a thread."""
    return context_of(connection)


Context = Annotated[ServerContext, Depends(get_context)]
