"""The AgentServer: the process that serves the API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from autogpt_server.blocks import get_blocks
from autogpt_server.data.db import Database
from autogpt_server.execution.interfaces import LiveInterface, ManagerInterface, QueueReport, SchedulerInterface
from autogpt_server.server.app import create_app
from autogpt_server.server.context import OK, ServerContext
from autogpt_server.server.http_server import HttpServer, http_config
from autogpt_server.server.live import LiveRuns
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.instance import Instance
from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.process import ProcessContext
from autogpt_server.utils.service import AppService, close_service_client, get_service_client
from autogpt_server.utils.settings import Settings
from autogpt_server.utils.sockets import listen

log = get_logger(__name__)

_READY = "ready"
_RESERVE_S = 2.0
"""Of the time to stop in, what is kept for the database and for this process to end."""

_REPORT_LIMIT_S = 2.0
"""How long the manager may take to say where runs stand."""


class AgentServer(LiveInterface, AppService):
    """Serves REST, server-sent events and WebSocket on AGENT_SERVER_HOST and AGENT_SERVER_PORT."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._live: LiveRuns | None = None

    async def serve(self, context: ProcessContext) -> None:
        """Serve until drained: then take no more connections, end the streams, and finish what is being answered."""
        settings = self.settings
        peers = ServicePeers(settings)
        async with await Database.open(settings) as db:
            self._live = live = LiveRuns(db)
            server_context = ServerContext(settings, db, get_blocks(settings.block_modules), live, peers)
            listener = listen(
                settings.agent_server_host,
                settings.agent_server_port,
                port_setting="AGENT_SERVER_PORT",
                host_setting="AGENT_SERVER_HOST",
            )
            http = HttpServer(http_config(create_app(server_context), grace_s=settings.drain_limit_s - _RESERVE_S))
            await live.start()
            serving = asyncio.create_task(http.serve([listener]), name="http")
            draining = asyncio.create_task(context.drain_requested(), name="drain")
            sweeping = asyncio.create_task(server_context.hidden.sweep_forever(), name="hidden runs")
            try:
                await http.wait_started(serving)
                await context.ready(settings.api_url)
                await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                draining.cancel()
                sweeping.cancel()
                await live.stop()
                http.should_exit = True
                await serving
                server_context.caller.close()
                peers.close()
                listener.close()

    async def runs_reached(self, reached: list[tuple[str, str, int]]) -> None:
        """Workers have committed events."""
        if self._live is not None:
            self._live.reached(reached)


class ServicePeers:
    """The other services of this server, told without waiting for an answer."""

    def __init__(self, settings: Settings) -> None:
        self._instance = Instance(settings)
        self._manager = get_service_client(ManagerInterface, settings)
        self._scheduler = get_service_client(SchedulerInterface, settings)

    async def run_created(self, run_id: str, priority: int) -> None:
        """Tell the manager; nobody waits for the message to arrive."""
        await self._manager.run_created(run_id, priority)

    async def run_waits(self, run_id: str) -> None:
        """As `run_created`."""
        await self._manager.run_waits(run_id)

    async def schedules_changed(self) -> None:
        """Tell the scheduler."""
        await self._scheduler.schedules_changed()

    async def states(self) -> Mapping[str, str]:
        """What the supervisor has written down about the services."""
        status = await asyncio.to_thread(self._instance.status)
        if status is None:
            return {"services": "unknown: no supervisor has reported"}
        return {service.name: OK if service.state == _READY else service.state for service in status.services}

    async def queue_report(self, run_ids: list[str]) -> QueueReport | None:
        """Ask the manager."""
        try:
            return await asyncio.wait_for(self._manager.queue_report(run_ids), _REPORT_LIMIT_S)
        except (AutoGPTServerError, TimeoutError) as error:
            log.info("manager does not say how its queue is", error=str(error) or "no answer in time")
            return None

    def close(self) -> None:
        """Close all connections."""
        for client in (self._manager, self._scheduler):
            close_service_client(client)
