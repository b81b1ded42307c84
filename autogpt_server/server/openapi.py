"""The API's own description: what FastAPI derives from the routes, with problem documents instead of its own errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from autogpt_server.server.problems import MEDIA_TYPE, ProblemDocument

DESCRIPTION = """
An agent is a **graph** of **nodes**; each node uses a **block**; **links** carry values from output pins to input pins.
`POST /graphs` stores one, `POST /graphs/{graph_id}/execute` starts a run, `GET /executions/{run_id}/events` shows it as it happens.

Errors are problem documents (RFC 9457) with a stable `code`; `errors` lists everything that is wrong at once.
Lists take `limit` and `cursor`; the `Link` header leads to the next page. Keys, if the server asks for them, go in `X-API-Key`.
`WS /ws` takes `{"method": "subscribe", "data": {"graph_id"}}` and sends `{"method": "execution_event", "data"}`.
"""

TAGS: list[dict[str, Any]] = [
    {"name": "blocks", "description": "What nodes can do."},
    {"name": "graphs", "description": "Agents, version by version."},
    {"name": "runs", "description": "Executions of graphs, and of their nodes."},
    {"name": "events", "description": "Runs as they happen."},
    {"name": "schedules", "description": "Runs at times to come."},
    {"name": "system", "description": "How the server is."},
]

_KEY_SCHEME = "ApiKey"


def install(app: FastAPI) -> None:
    """Make `app.openapi()` complete."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = openapi


def _describe(app: FastAPI) -> dict[str, Any]:
    description = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components = description.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["ProblemDocument"] = problem
    components["securitySchemes"] = {_KEY_SCHEME: {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    description["security"] = [{}, {_KEY_SCHEME: []}]
    for operations in description["paths"].values():
        for operation in operations.values():
            _complete(operation["responses"])
    return description


def _complete(responses: dict[str, Any]) -> None:
    """What any request may be answered with, whatever it asks for."""
    if "application/json" in responses.get("422", {}).get("content", {}):
        responses["422"]["content"] = _PROBLEM  # FastAPI's own shape, which this server does not use
    for status, words in _ANYWHERE.items():
        responses.setdefault(status, {"description": words, "content": _PROBLEM})


_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}

_ANYWHERE = {
    "401": "The server asks for a key, and there is none or a wrong one.",
    "403": "The request comes from a web page that may not use this server.",
    "421": "The server does not answer under this host name.",
    "500": "Something went wrong that is not the client's doing; the log has more under the incident id.",
}
