"""Figures for Prometheus, in a registry of their own: several servers in one process, as in tests, do not mix."""

from __future__ import annotations

import time
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autogpt_server.utils.logging import get_logger

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})

log = get_logger(__name__)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "autogpt_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.duration = Histogram(
            "autogpt_http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.runs_created = Counter("autogpt_runs_created", "Runs started through the API.", registry=self.registry)
        self.active_runs = Gauge("autogpt_active_runs", "Runs that have not ended.", ["status"], registry=self.registry)
        self.watched_runs = Gauge("autogpt_watched_runs", "Runs that somebody watches.", registry=self.registry)
        self.streams = Gauge("autogpt_streams", "Open event streams.", ["kind"], registry=self.registry)

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware: counts, times and logs requests, by the route's pattern and never by the path, which has ids in it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, duration_s: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = "none"
        with suppress(KeyError, AttributeError):
            route = scope["route"].path
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.duration.labels(method, route).observe(duration_s)
        if scope["path"] not in _QUIET_PATHS:
            log.debug(
                "request", method=method, path=scope["path"], status=status, duration_ms=round(duration_s * 1000, 1)
            )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
