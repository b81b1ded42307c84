"""How the server is: alive, ready, and in figures."""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Response

from autogpt_server.data.db import DatabaseUnavailable
from autogpt_server.data.health import active_runs, check_writable
from autogpt_server.server import metrics
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import OK, Context, ServerContext
from autogpt_server.server.shapes import Health, Readiness
from autogpt_server.utils.logging import get_logger

router = APIRouter(tags=["system"], route_class=JsonRoute)

_CHECK_LIMIT_S = 5.0

log = get_logger(__name__)


@router.get("/health", summary="Whether the process answers")
async def get_health() -> Health:
    """For a supervisor: no answer means that the process should be replaced."""
    return Health(version=package_version())


@router.get(
    "/ready",
    summary="Whether the server can do its work",
    responses={503: {"description": "It cannot; `checks` says why.", "model": Readiness}},
)
async def get_ready(context: Context, response: Response) -> Readiness:
    """For a load balancer. `degraded`: runs are taken and committed, and wait for a service that is not there at the moment."""
    checks = {"database": await database_state(context), **await context.hints.states()}
    if context.live.is_stopping:
        checks["server"] = "stopping"
    if checks["database"] != OK or context.live.is_stopping:
        response.status_code = 503
        return Readiness(status="unavailable", checks=checks)
    return Readiness(status="ready" if set(checks.values()) == {OK} else "degraded", checks=checks)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Figures in Prometheus' text format.",
            "content": {metrics.CONTENT_TYPE: {"schema": {"type": "string"}}},
        }
    },
)
async def get_metrics(context: Context) -> Response:
    """Counters and histograms of this process, and gauges read from the database."""
    figures = context.metrics
    figures.active_runs.clear()
    for status, count in (await active_runs(context.db)).items():
        figures.active_runs.labels(status).set(count)
    figures.watched_runs.set(context.live.watched_runs)
    return Response(figures.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def database_state(context: ServerContext) -> str:
    """`ok`, or what is wrong with the database."""
    try:
        await asyncio.wait_for(check_writable(context.db), _CHECK_LIMIT_S)
    except TimeoutError:
        return f"no write was possible within {_CHECK_LIMIT_S:g} s"
    except DatabaseUnavailable as error:
        log.warning("database not writable", error=str(error))
        return f"not writable: {error}"
    except Exception as error:
        log.exception("database not writable")
        return f"not writable ({type(error).__name__})"
    return OK


def package_version() -> str:
    """The version of this package, as installed."""
    try:
        return version("autogpt-server")
    except PackageNotFoundError:
        return "unknown"
